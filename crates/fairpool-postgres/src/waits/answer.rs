//! What the server says of some sessions, and of those that they wait for.

use std::time::Duration;

use postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use crate::session::{self, NUMBER_OF_COLUMNS, ServerSession, span};

/// What the server says.
#[derive(Debug, Default)]
pub(super) struct Answer(pub(super) Vec<Row>);

/// A session, and what it waits for.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) session: ServerSession,
    pub(super) lock: Option<Lock>,
    /// The processes that it waits for.
    pub(super) blockers: Vec<i32>,
}

/// A lock that is waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Lock {
    pub(super) kind: String,
    pub(super) mode: String,
    pub(super) relation: Option<String>,
    pub(super) waited: Option<Duration>,
}

/// Follows the waits from the processes with these numbers on. A circle ends by itself, since
/// `UNION` keeps each process once. Who waits for a row waits for the end of a transaction; the
/// lock of the tuple, which it has meanwhile, says of which table. The servers before PostgreSQL 14
/// have no `waitstart`: a JSON value may lack it. `pg_blocking_pids` is called once for each
/// backend that waits, since it locks the server's lock tables.
fn sql(pids: &[u32], shows_statements: bool) -> String {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let (pids, session) = (pids.join(","), session::COLUMNS);
    let query = if shows_statements { "a.query" } else { "NULL" };
    format!(
        "\
WITH RECURSIVE locks AS MATERIALIZED (
    SELECT pid, locktype, mode, granted, database, relation, pg_catalog.to_jsonb(l) AS whole
    FROM pg_catalog.pg_locks AS l
    WHERE pid IS NOT NULL AND (NOT granted OR locktype = 'tuple')
), waits AS MATERIALIZED (
    SELECT DISTINCT ON (pid) pid, locktype, mode, database, relation,
        (whole OPERATOR(pg_catalog.->>) 'waitstart')::pg_catalog.timestamptz AS since,
        pg_catalog.pg_blocking_pids(pid) AS blockers
    FROM locks WHERE NOT granted
), asked AS (
    SELECT pg_catalog.unnest('{{{pids}}}'::pg_catalog.int4[]) AS pid
    UNION
    SELECT pg_catalog.unnest(waits.blockers) FROM asked JOIN waits ON waits.pid = asked.pid
)
SELECT {session}, {query}, asked.pid, waits.locktype, waits.mode,
    (SELECT pg_catalog.format('%s.%s', n.nspname, c.relname)
        FROM locks AS l
        JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
        JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE l.pid = waits.pid AND l.database IN (0, d.oid)
            AND (NOT l.granted OR waits.locktype = 'transactionid')
        ORDER BY l.granted LIMIT 1),
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - waits.since),
    pg_catalog.array_to_string(waits.blockers, ',')
FROM asked
LEFT JOIN waits ON waits.pid = asked.pid
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = asked.pid
ORDER BY asked.pid"
    )
}

/// Asks in one round trip, for this long at most as far as the server counts.
pub(super) fn fetch(
    client: &mut Client,
    pids: &[u32],
    limit: Duration,
    shows_statements: bool,
) -> Result<Answer, Error> {
    let limit = limit.as_millis().clamp(1, i32::MAX as u128);
    let sql = sql(pids, shows_statements);
    // Simple and in one transaction, as a pooler wants it.
    let messages = client.simple_query(&format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {limit}; {sql}; COMMIT"
    ))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(read(row)),
        _ => None,
    });
    Ok(Answer(rows.collect()))
}

fn read(row: &SimpleQueryRow) -> Row {
    let at = |column: usize| row.get(NUMBER_OF_COLUMNS + column);
    let pid = at(1).and_then(|pid| pid.parse().ok()).unwrap_or_default();
    let lock = at(2).map(|kind| Lock {
        kind: kind.to_owned(),
        mode: at(3).unwrap_or_default().to_owned(),
        relation: at(4).map(str::to_owned),
        waited: span(row, NUMBER_OF_COLUMNS + 5),
    });
    let blockers = at(6).unwrap_or_default().split(',').filter_map(|pid| pid.parse().ok());
    Row {
        session: ServerSession::read(pid, row, 0, NUMBER_OF_COLUMNS),
        lock,
        blockers: blockers.collect(),
    }
}
