//! Parameters of a session by which the server neither reads nor plans statements.

/// Sorted. Those of extensions and applications, with a dot in the name, are none either.
const HARMLESS: &[&str] = &[
    "application_name",
    "client_min_messages",
    "deadlock_timeout",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "log_statement",
    "maintenance_work_mem",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
];

/// Whether a statement means the same, and is planned alike, whatever this parameter is. `TimeZone`
/// is not one: the server reads `'2024-01-01'::timestamptz` when it prepares a statement.
pub(super) fn is_harmless(name: &str) -> bool {
    name.contains('.') || HARMLESS.iter().any(|harmless| name.eq_ignore_ascii_case(harmless))
}

/// Whether all calls of `set_config` in a text set such parameters, by name.
pub(super) fn sets_harmless(sql: &str) -> bool {
    let call = b"set_config";
    let is_call = |window: &[u8]| window.eq_ignore_ascii_case(call);
    let calls = sql.as_bytes().windows(call.len()).enumerate().filter(|(_, w)| is_call(w));
    calls.map(|(at, _)| &sql[at + call.len()..]).all(|rest| {
        let name = rest.trim_start_matches('"').trim_start().strip_prefix('(');
        let name = name.and_then(|name| name.trim_start().strip_prefix('\''));
        name.and_then(|name| name.split('\'').next()).is_some_and(is_harmless)
    })
}
