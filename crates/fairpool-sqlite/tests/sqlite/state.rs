//! Everything of a connection's session that its next holder could find.

use std::collections::BTreeMap;

use fairpool_sqlite::rusqlite::Connection;
use fairpool_sqlite::rusqlite::config::DbConfig;
use fairpool_sqlite::rusqlite::limits::Limit;
use fairpool_sqlite::rusqlite::types::Value;

const FLAGS: &[DbConfig] = &[
    DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
    DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
    DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
    DbConfig::SQLITE_DBCONFIG_DEFENSIVE,
    DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
    DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE,
    DbConfig::SQLITE_DBCONFIG_DQS_DML,
    DbConfig::SQLITE_DBCONFIG_DQS_DDL,
    DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
    DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
];

const LIMITS: &[Limit] =
    &[Limit::SQLITE_LIMIT_LENGTH, Limit::SQLITE_LIMIT_ATTACHED, Limit::SQLITE_LIMIT_COLUMN];

/// Pragmas that do something, or that say something about the database or the process.
const NOT_OF_THE_SESSION: &[&str] = &[
    "data_version",
    "freelist_count",
    "incremental_vacuum",
    // Grows when a pragma is read as a table, as this file does.
    "module_list",
    "optimize",
    "page_count",
    "schema_version",
    "shrink_memory",
    "stats",
    "wal_checkpoint",
    "foreign_key_check",
    "integrity_check",
    "quick_check",
];

/// Name and value of everything.
pub type State = BTreeMap<String, String>;

pub fn state(conn: &Connection) -> State {
    // Opens the temporary database, which is then listed.
    rows(conn, "SELECT count(*) FROM sqlite_temp_schema");
    let mut state = State::new();
    state.insert("autocommit".to_owned(), conn.is_autocommit().to_string());
    for flag in FLAGS {
        state.insert(format!("{flag:?}"), format!("{:?}", conn.db_config(*flag)));
    }
    for limit in LIMITS {
        state.insert(format!("{limit:?}"), format!("{:?}", conn.limit(*limit)));
    }
    for pragma in rows(conn, "PRAGMA pragma_list") {
        if !NOT_OF_THE_SESSION.contains(&&*pragma) {
            let value = rows(conn, &format!("PRAGMA {pragma}")).join("; ");
            state.insert(format!("PRAGMA {pragma}"), value);
        }
    }
    for (name, sql) in [
        ("temporary objects", "SELECT type, name, sql FROM sqlite_temp_schema ORDER BY 1, 2"),
        ("like", "SELECT 'a' LIKE 'A'"),
        ("functions", "SELECT name, narg, builtin FROM pragma_function_list ORDER BY 1, 2"),
    ] {
        state.insert(name.to_owned(), rows(conn, sql).join("; "));
    }
    state
}

/// The rows of a query, each as one text.
pub fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).expect(sql);
    let columns = statement.column_count();
    let row = |row: &fairpool_sqlite::rusqlite::Row<'_>| {
        let values = (0..columns).map(|column| row.get::<_, Value>(column));
        let texts = values.map(|value| value.map(|value| format!("{value:?}")));
        Ok(texts.collect::<Result<Vec<_>, _>>()?.join(" "))
    };
    let all = statement.query_map([], row).unwrap();
    let all = all.collect::<Result<Vec<_>, _>>().expect(sql);
    // A list of names is used as one.
    all.into_iter().map(|text| text.replace("Text(\"", "").replace("\")", "")).collect()
}

/// What differs.
pub fn difference(one: &State, other: &State) -> Vec<String> {
    let names = one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>();
    names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}: {:?}, {:?}", one.get(name), other.get(name)))
        .collect()
}
