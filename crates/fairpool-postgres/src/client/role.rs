//! The role of the server: what `target_session_attrs` asked for when the connection was opened,
//! and whether it still holds.

use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::{Client, Error, SimpleQueryMessage};

use crate::manager::from_server;

/// What the driver asks when it connects. True on a standby, and where the default of
/// transactions is to read only.
const IS_READ_ONLY: &str = "SHOW transaction_read_only";
/// The same without that default.
const IS_STANDBY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END";

/// What a connection asks of its server.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
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

impl Role {
    /// What `target_session_attrs` says. The driver asks before the manager's settings are
    /// applied; `is_read_only` says whether they make the session read-only.
    pub(crate) fn of(attributes: TargetSessionAttrs, is_read_only: bool) -> Role {
        match attributes {
            TargetSessionAttrs::ReadWrite if is_read_only => Role::NoStandby,
            TargetSessionAttrs::ReadWrite => Role::ReadWrite,
            TargetSessionAttrs::ReadOnly => Role::ReadOnly,
            _ => Role::Any,
        }
    }

    /// Whether this error of a statement may mean that the server has changed its role. A
    /// transaction that its user made read-only has the same error.
    pub(super) fn is_questioned_by(self, error: &Error) -> bool {
        matches!(self, Role::ReadWrite | Role::NoStandby)
            && error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Asks the server in one round trip, outside a transaction.
    pub(crate) fn check(self, client: &mut Client) -> Result<(), Error> {
        let (question, wrong, code, text) = match self {
            Role::Any => return Ok(()),
            Role::ReadWrite => (IS_READ_ONLY, "on", "25006", "the server no longer allows writes"),
            Role::NoStandby => (IS_STANDBY, "on", "25006", "the server has become a standby"),
            Role::ReadOnly => (IS_READ_ONLY, "off", "55000", "the server now allows writes"),
        };
        let answer = client.simple_query(question)?;
        let is_wrong = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(wrong));
        if answer.iter().any(is_wrong) {
            let asked = if self == Role::ReadOnly { "read-only" } else { "read-write" };
            let text = format!("{text}, and target_session_attrs asks for {asked}");
            return Err(from_server(&[(b'S', "ERROR"), (b'C', code), (b'M', &text)]));
        }
        Ok(())
    }
}
