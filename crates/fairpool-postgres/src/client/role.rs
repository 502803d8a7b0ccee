//! The role of the server: what `target_session_attrs` asked for when the connection was opened,
//! and whether the server still has it.

use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::{Client, Error, GenericClient, SimpleQueryMessage};

use crate::manager::from_server;

/// What the driver asks when it connects. True on a standby, and where the default of
/// transactions is to read only.
const IS_READ_ONLY: &str = "SHOW transaction_read_only";
/// The same without that default.
const IS_STANDBY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END";

/// The same whatever its user has set the session or its transaction to: asks what the parameter
/// would be reset to.
const IS_READ_ONLY_BY_ITSELF: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() OR EXISTS \
     (SELECT FROM pg_catalog.pg_settings \
      WHERE name OPERATOR(pg_catalog.=) 'default_transaction_read_only' \
      AND reset_val OPERATOR(pg_catalog.=) 'on') THEN 'on' ELSE 'off' END";

/// The role that a connection asks of its server.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServerRole {
    /// Nothing.
    #[default]
    Any,
    /// That the session may write.
    ReadWrite,
    /// That the server is no standby, for sessions that the manager itself makes read-only.
    NoStandby,
    /// That the session may not write.
    ReadOnly,
}

impl ServerRole {
    /// What `target_session_attrs` says. The driver asks before the manager's settings are
    /// applied; `is_read_only` says whether they make the session read-only.
    pub(crate) fn of(attributes: TargetSessionAttrs, is_read_only: bool) -> ServerRole {
        match attributes {
            TargetSessionAttrs::ReadWrite if is_read_only => ServerRole::NoStandby,
            TargetSessionAttrs::ReadWrite => ServerRole::ReadWrite,
            TargetSessionAttrs::ReadOnly => ServerRole::ReadOnly,
            _ => ServerRole::Any,
        }
    }

    /// Whether this error of a statement may mean that the server has changed its role. A
    /// transaction that its user made read-only has the same error.
    pub(super) fn is_questioned_by(self, error: &Error) -> bool {
        matches!(self, ServerRole::ReadWrite | ServerRole::NoStandby)
            && error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Asks the server in one round trip, of a session that is as it was opened.
    ///
    /// # Errors
    ///
    /// If it does not answer, or has another role.
    pub(crate) fn check(self, client: &mut Client) -> Result<(), Error> {
        let question = match self {
            ServerRole::Any => return Ok(()),
            ServerRole::NoStandby => IS_STANDBY,
            ServerRole::ReadWrite | ServerRole::ReadOnly => IS_READ_ONLY,
        };
        if self.ask(client, question)? { Ok(()) } else { Err(self.error()) }
    }

    /// The same after a use, of a session whose parameters its user may have set.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub(super) fn check_used(self, client: &mut Client) -> Result<(), Error> {
        if self == ServerRole::Any || self.holds(client)? { Ok(()) } else { Err(self.error()) }
    }

    /// Asks after a refused write, in one round trip, whatever the session was set to. Fails in a
    /// transaction that has failed.
    pub(super) fn holds<C: GenericClient>(self, client: &mut C) -> Result<bool, Error> {
        self.ask(client, self.question_after_use())
    }

    /// The same at the end of a transaction or a use. If a transaction has failed, rolls it back,
    /// asks, and begins another one, for what comes next to end: the driver's own transaction
    /// object, or the reset, which then reports it.
    pub(super) fn holds_at_end<C: GenericClient>(self, client: &mut C) -> Result<bool, Error> {
        match self.holds(client) {
            Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                self.ask(client, &format!("ROLLBACK; {}; BEGIN", self.question_after_use()))
            }
            result => result,
        }
    }

    fn ask<C: GenericClient>(self, client: &mut C, sql: &str) -> Result<bool, Error> {
        let wrong = if self == ServerRole::ReadOnly { "off" } else { "on" };
        let is_wrong = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some(wrong),
            _ => false,
        };
        Ok(!client.simple_query(sql)?.iter().any(is_wrong))
    }

    fn question_after_use(self) -> &'static str {
        if self == ServerRole::NoStandby { IS_STANDBY } else { IS_READ_ONLY_BY_ITSELF }
    }

    fn error(self) -> Error {
        let code = if self == ServerRole::ReadOnly { "55000" } else { "25006" };
        from_server(&[(b'S', "ERROR"), (b'C', code), (b'M', &self.fault())])
    }

    /// What to tell if the server no longer has the role.
    pub(super) fn fault(self) -> String {
        let (what, asked) = match self {
            ServerRole::ReadOnly => ("now allows writes", "read-only"),
            ServerRole::NoStandby => ("has become a standby", "read-write"),
            ServerRole::ReadWrite | ServerRole::Any => ("no longer allows writes", "read-write"),
        };
        format!("the server {what}, and target_session_attrs asks for {asked}")
    }
}
