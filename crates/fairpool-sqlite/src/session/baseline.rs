//! The state of a connection after its preparation, which a reset restores.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, Error};

use super::pragmas::SETTINGS;
use super::{ATTACHED, EVERYWHERE, SETTING, TEMPORARY};
use crate::busy::waiting_at_most;

/// Lists all temporary objects, in one order. Names are compared, not contents.
const TEMPORARY_OBJECTS: &str =
    "SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_temp_schema ORDER BY sql)";

/// The name of a database, and its file.
type Attached = (String, Option<String>);

const BUSY_TIMEOUT: &str = "busy_timeout";

/// How long the reading of a baseline waits for another connection's lock.
const BASELINE_WAIT: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq)]
pub(super) struct Baseline {
    /// In the order of [`SETTINGS`].
    settings: Vec<Option<Value>>,
    attached: Vec<Attached>,
    temporary: Option<String>,
}

impl Baseline {
    /// Reads everything that [`restore`](Self::restore) compares. Fails if another
    /// connection locks the database, for which it waits only a moment.
    pub(super) fn read(conn: &Connection) -> Result<Baseline, Error> {
        let wait = value(conn, BUSY_TIMEOUT)?;
        let mut baseline = waiting_at_most(conn, BASELINE_WAIT, || Self::read_at_once(conn))??;
        baseline.settings[index_of(BUSY_TIMEOUT)] = wait;
        Ok(baseline)
    }

    fn read_at_once(conn: &Connection) -> Result<Baseline, Error> {
        let settings = SETTINGS.iter().map(|pragma| value(conn, pragma));
        Ok(Baseline {
            settings: settings.collect::<Result<_, _>>()?,
            attached: attached(conn)?,
            temporary: temporary(conn)?,
        })
    }

    /// Whether a setting still has its value of the baseline.
    pub(super) fn holds(&self, conn: &Connection, pragma: &str) -> bool {
        value(conn, pragma).as_ref() == Ok(&self.settings[index_of(pragma)])
    }

    /// Sets the connection back to the baseline, as far as `kinds` says that it may differ.
    /// Returns what differed; `Err` is what still differs.
    ///
    /// Should another connection lock the file, it waits for that for `wait`.
    pub(super) fn restore(
        &self,
        conn: &Connection,
        kinds: u8,
        wait: Duration,
    ) -> Result<Vec<String>, String> {
        let mut undone = Vec::new();
        if kinds & SETTING != 0 && !self.holds(conn, BUSY_TIMEOUT) {
            undone.push(format!("PRAGMA {BUSY_TIMEOUT}"));
            set(conn, BUSY_TIMEOUT, &self.settings[index_of(BUSY_TIMEOUT)])?;
        }
        let rest = waiting_at_most(conn, wait, || self.restore_rest(conn, kinds, &mut undone));
        rest.map_err(|error| error.to_string())??;
        Ok(undone)
    }

    fn restore_rest(
        &self,
        conn: &Connection,
        kinds: u8,
        undone: &mut Vec<String>,
    ) -> Result<(), String> {
        if kinds & SETTING != 0 {
            for (pragma, before) in SETTINGS.iter().zip(&self.settings) {
                if *pragma != BUSY_TIMEOUT && value(conn, pragma).as_ref() != Ok(before) {
                    undone.push(format!("PRAGMA {pragma}"));
                    set(conn, pragma, before)?;
                }
            }
        }
        if kinds & ATTACHED != 0 && attached(conn).as_ref() != Ok(&self.attached) {
            return Err("an attached or detached database".to_owned());
        }
        if kinds & EVERYWHERE != 0 && !self.attached.is_empty() {
            return Err("a pragma of an attached database".to_owned());
        }
        if kinds & TEMPORARY != 0 && temporary(conn).as_ref() != Ok(&self.temporary) {
            return Err("temporary tables, views, triggers or indexes".to_owned());
        }
        Ok(())
    }
}

fn index_of(pragma: &str) -> usize {
    SETTINGS.binary_search(&pragma).expect("one of the settings")
}

/// `None` if this SQLite does not have the pragma.
fn value(conn: &Connection, pragma: &str) -> Result<Option<Value>, Error> {
    match conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)) {
        Err(Error::QueryReturnedNoRows) => Ok(None),
        other => other.map(Some),
    }
}

fn set(conn: &Connection, pragma: &str, before: &Option<Value>) -> Result<(), String> {
    let failed = || format!("PRAGMA {pragma}");
    let Some(Value::Integer(number)) = before else { return Err(failed()) };
    conn.execute_batch(&format!("PRAGMA {pragma} = {number}")).map_err(|_| failed())?;
    if value(conn, pragma).as_ref() == Ok(before) { Ok(()) } else { Err(failed()) }
}

/// All databases after `main` and `temp`, with their files. Usually there are none.
fn attached(conn: &Connection) -> Result<Vec<Attached>, Error> {
    let mut list = conn.prepare("PRAGMA database_list")?;
    let all = list.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    let all = all.collect::<Result<Vec<(i64, Attached)>, _>>()?;
    Ok(all.into_iter().filter(|(number, _)| *number >= 2).map(|(_, it)| it).collect())
}

fn temporary(conn: &Connection) -> Result<Option<String>, Error> {
    conn.query_row(TEMPORARY_OBJECTS, [], |row| row.get(0))
}
