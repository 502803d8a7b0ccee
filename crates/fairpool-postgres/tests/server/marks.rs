//! What is left on a session is always noticed, whatever the text of the statements looks like.
//!
//! Statements are drawn at random; `FAIRPOOL_STATEMENTS=40000` draws more.

use std::collections::BTreeSet;
use std::env;
use std::sync::OnceLock;

use fairpool::ManageConnection;
use fairpool_postgres::postgres::SimpleQueryMessage;
use fairpool_postgres::{Client, Reset};
use rand::prelude::*;

use crate::common::{Manager, OwnDatabase, manager, own_database, psql};

/// What is left on a session, in one row; empty if nothing is. `WORDS` stands for the names of
/// which `x` may be a parameter: the server lists only parameters that it knows.
const LEFT: &str = "SELECT pg_catalog.concat_ws(' ', \
     (SELECT 'settings ' || string_agg(name, ' ') FROM pg_settings WHERE source = 'session' \
          AND name <> 'standard_conforming_strings'), \
     (SELECT 'parameter ' || string_agg(word, ' ') FROM unnest('{WORDS}'::text[]) AS word \
          WHERE current_setting(word || '.x', true) <> ''), \
     CASE WHEN session_user <> 'postgres' OR current_user <> 'postgres' THEN 'role' END, \
     (SELECT 'listen' FROM pg_listening_channels() LIMIT 1), \
     (SELECT 'temporary' FROM pg_class WHERE relnamespace = pg_my_temp_schema() LIMIT 1), \
     (SELECT 'cursor' FROM pg_cursors WHERE is_holdable LIMIT 1), \
     (SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() LIMIT 1), \
     (SELECT 'prepared' FROM pg_prepared_statements WHERE from_sql LIMIT 1), \
     CASE WHEN statement_timestamp() <> transaction_timestamp() THEN 'open' END)";

/// What leaves something. `~` is a place for white space and comments.
const LEAVING: &[&str] = &[
    "BEGIN",
    "START~TRANSACTION~READ~ONLY",
    "BEGIN;~SELECT~1",
    "SET~work_mem~=~'1234kB'",
    "SET~SESSION~work_mem~TO~'1234kB'",
    "SET~ROLE~app",
    "SET~SESSION~AUTHORIZATION~app",
    "SET~SESSION~CHARACTERISTICS~AS~TRANSACTION~READ~ONLY",
    "SET~TIME~ZONE~'Asia/Tokyo'",
    "SET~NAMES~'UTF8'",
    "SET~local.x~=~'y'",
    "SET~transaction~.~x~TO~'y'",
    "SET~constraints.x~=~'y'",
    "SET~SESSION~local.x~=~'y'",
    "SET~session.x~=~'y'",
    "LISTEN~news",
    "LISTEN~\"odd;~'name\"",
    "CREATE~TEMP~TABLE~t~(n~int)",
    "CREATE~LOCAL~TEMPORARY~TABLE~IF~NOT~EXISTS~t~(n~int)",
    "CREATE~TABLE~pg_temp.t~(n~int)",
    "CREATE~TABLE~\"pg_temp\"~.~t~AS~SELECT~1~AS~n",
    "CREATE~OR~REPLACE~TEMP~VIEW~t~AS~SELECT~1~AS~n",
    "CREATE~TEMP~SEQUENCE~t",
    "SELECT~1~AS~n~INTO~TEMP~t",
    "SELECT~1~AS~n~INTO~TEMPORARY~TABLE~t",
    "SELECT~1~AS~n~INTO~pg_temp.t",
    "WITH~x(n)~AS~(SELECT~1)~SELECT~n~INTO~LOCAL~TEMP~t~FROM~x",
    "DECLARE~c~CURSOR~WITH~HOLD~FOR~SELECT~1",
    "PREPARE~p~AS~SELECT~1",
    "PREPARE~p~(int)~AS~SELECT~$1",
    "PREPARE~transaction~AS~SELECT~1",
    "PREPARE~transaction~(int)~AS~SELECT~$1",
    "DO~$x$~BEGIN~PERFORM~pg_advisory_lock(7);~END~$x$",
    "DO~'BEGIN~PERFORM~set_config(''work_mem'',~''1234kB'',~false);~END'",
    "CALL~takes_lock()",
    "INSERT~INTO~plain~(n)~SELECT~locks()",
    "UPDATE~plain~SET~n~=~locks()~WHERE~n~=~1",
    "DELETE~FROM~plain~WHERE~n~=~locks()~+~100",
    "CREATE~TABLE~IF~NOT~EXISTS~made~AS~SELECT~pg_advisory_lock(7)",
    "COPY~(SELECT~locks())~TO~PROGRAM~'cat~>/dev/null'",
    "EXPLAIN~(ANALYZE,~COSTS~off)~SELECT~locks()",
    "EXPLAIN~ANALYZE~VERBOSE~SELECT~pg_advisory_lock(7)",
    "SHOW~work_mem;~SELECT~pg_advisory_lock_shared(7)",
];

/// Expressions that leave something.
const EXPRESSIONS: &[&str] = &[
    "pg_advisory_lock(7)",
    "pg_advisory_lock~(7)",
    "pg_catalog.pg_try_advisory_lock(7)",
    "\"pg_catalog\"~.~\"pg_try_advisory_lock_shared\"(7)",
    "set_config('work_mem',~'1234kB',~false)",
    "set_config('work_mem',~'1234kB',~1~=~2)",
    "set_config('work_mem',~'1234kB',~(select~false~as~true))",
    "locks()",
    "public.locks~()",
    "\"locks\"()",
    "\"odd \"\"(name\"()",
    "pg_temp.no_such()~is~null",
    "set~(1)",
    "by(1)",
    "over(1)",
    "conflict(1)",
    "materialized(1)",
    "ilike(1)",
    "json_value(1)",
    "TREAT(7~AS~pg_advisory_lock)~is~null",
    "join(1)",
];

/// What leaves nothing, but may look like it.
const DECOYS: &[&str] = &[
    "SELECT~1",
    "SELECT~'it''s;~--~/*'",
    "SELECT~E'\\\\'~||~'\\'",
    "SELECT~E'it\\'s;~BEGIN'",
    "SELECT~$a$~'~$$~\"~$a$",
    "SELECT~$$~/*~$$~AS~\"a\"\"--\"",
    "SELECT~U&'d\\0061t'~||~N'x'",
    "SELECT~X'1F'~::int",
    "SELECT~1/*~/*~'~*/~\"~*/+2",
    "SELECT~1--'\n+2",
    "VALUES~(1,~'BEGIN'),~(2,~'SET')",
    "SELECT~1e5,~.5,~5.",
    "SELECT~set_config('app.x',~'y',~true)",
    "SET~LOCAL~work_mem~=~'2MB'",
    "CREATE~TABLE~IF~NOT~EXISTS~made~(n~int)",
    "",
];

/// Pieces of nonsense, of which some sequences have a meaning.
const SOUP: &[&str] = &[
    "'",
    "''",
    "E'",
    "e'",
    "U&'",
    "N'",
    "B'0'",
    "\\",
    "\\'",
    "\\\\",
    "\"",
    "\"\"",
    "$$",
    "$a$",
    "$1",
    "/*",
    "*/",
    "--",
    "\n",
    "\r",
    ";",
    " ",
    "SELECT ",
    "1",
    ",",
    "(",
    ")",
    "||",
    "+",
    ".",
    "x",
    " pg_advisory_lock(7)",
    " set_config('work_mem','1234kB',false)",
    ", true)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    " END",
    "SET work_mem='1234kB'",
    "LISTEN a",
    "CASE WHEN true THEN ",
    " AS ",
    " INTO ",
    "TEMP ",
    "t",
    " FROM ",
    "WITH ",
    "SET LOCAL ",
    "é",
    "\u{a0}",
    "AND CHAIN",
];

/// The texts that one use sends, one after another.
fn made_up_use(rng: &mut StdRng) -> Vec<String> {
    let mut texts = vec![made_up(rng)];
    if rng.random_bool(0.2) {
        texts.insert(0, dress("BEGIN", rng));
    }
    if rng.random_bool(0.2) {
        texts.push(made_up(rng));
    }
    texts
}

fn made_up(rng: &mut StdRng) -> String {
    if rng.random_bool(0.4) {
        return (0..rng.random_range(2..14)).map(|_| *SOUP.choose(rng).unwrap()).collect();
    }
    let mut text = leaving(rng);
    for _ in 0..rng.random_range(0..3) {
        let decoy = *DECOYS.choose(rng).unwrap();
        text = match rng.random_range(0..5) {
            0 => format!("{decoy};~{text}"),
            1 => format!("{text};~{decoy}"),
            2 => format!("BEGIN;~{text};~COMMIT"),
            3 => format!("{decoy};~;;{text};~SELECT~1/0"),
            _ => format!("{text};~{}", leaving(rng)),
        };
    }
    dress(&text, rng)
}

fn leaving(rng: &mut StdRng) -> String {
    if rng.random_bool(0.5) {
        return (*LEAVING.choose(rng).unwrap()).to_string();
    }
    let e = *EXPRESSIONS.choose(rng).unwrap();
    match rng.random_range(0..20) {
        0 => format!("SELECT~{e}"),
        1 => format!("SELECT~1~AS~a,~{e}~AS~b"),
        2 => format!("SELECT~*~FROM~(SELECT~{e})~AS~x(y)"),
        3 => format!("WITH~x~AS~MATERIALIZED~(SELECT~{e}~AS~y)~SELECT~y~FROM~x"),
        4 => format!("(SELECT~{e})~UNION~ALL~(SELECT~{e})"),
        5 => format!("SELECT~CASE~WHEN~(true)~THEN~({e})~END"),
        6 => format!("VALUES~(1,~2),~(3,~4);~SELECT~ARRAY[{e}]"),
        7 => format!("SELECT~DISTINCT~ON~(n)~{e}~FROM~plain"),
        8 => format!("SELECT~1~FROM~plain~ORDER~BY~{e}"),
        9 => format!("SELECT~count(*)~FILTER~(WHERE~({e})~IS~NULL)~FROM~plain"),
        10 => format!("SELECT~coalesce(NULL,~{e})"),
        11 => format!("SELECT~'{{}}'::text[]~IS~NULL~OR~({e})~IS~NULL"),
        12 => format!("SELECT~1~FROM~plain~AS~a~JOIN~plain~AS~b~ON~({e})~IS~NULL"),
        13 => format!("SELECT~1~FROM~plain~AS~a~JOIN~plain~AS~b~ON~{e}~IS~NULL"),
        14 => format!("SELECT~1~FROM~plain~WHERE~NOT~{e}~IS~NULL"),
        15 => format!("SELECT~1~WHERE~'a'~LIKE~{e}::text"),
        16 => format!("SELECT~n~FROM~plain~GROUP~BY~n,~{e}"),
        17 => format!("SELECT~DISTINCT~ON~(n)~{e}~FROM~plain"),
        18 => format!("SELECT~OPERATOR(pg_catalog.~-)~{e}"),
        _ => format!("SELECT~$a$'$a$,~E'\\'',~{e},~'\"'"),
    }
}

/// White space, comments and the case of words.
pub(crate) fn dress(text: &str, rng: &mut StdRng) -> String {
    const SPACES: [&str; 8] = [
        " ",
        "\n",
        " \t ",
        "/**/",
        " /* ; ' \" $$ /* -- */ */ ",
        " -- ' $$ /*\n",
        "--\r",
        " \u{c}",
    ];
    let plain = rng.random_bool(0.5);
    let mut dressed = String::new();
    for piece in text.split('~') {
        if !dressed.is_empty() {
            dressed += if plain { " " } else { SPACES.choose(rng).unwrap() };
        }
        let is_quoted = piece.bytes().any(|byte| b"'\"$".contains(&byte));
        if !is_quoted && rng.random_bool(0.3) {
            dressed += &piece.to_lowercase();
        } else {
            dressed += piece;
        }
    }
    dressed
}

/// Words that the reader of statements looks for, at their start or within them.
pub(crate) fn known_words() -> BTreeSet<&'static str> {
    let sources =
        [include_str!("../../src/left/scan.rs"), include_str!("../../src/left/statement.rs")];
    let quoted = sources.into_iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let is_word = |text: &&str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    quoted.filter(is_word).collect()
}

/// Words that are syntax in some places or in some versions of the server.
pub(crate) const SYNTAX: &str = "by conflict filter ilike join json_array json_value key materialized \
     merge_action over set sets treat varying";

/// Creates functions named by those of the words, and of the ones that the reader knows, that may
/// be called without quotes. Each takes a lock. Returns their names.
pub(crate) fn make_functions_named_like_syntax() -> Vec<String> {
    let known: Vec<&str> = known_words().into_iter().chain(SYNTAX.split_whitespace()).collect();
    // A function by the name of one of PostgreSQL's cannot be told from it.
    let words = psql(&format!(
        "SELECT word FROM unnest('{{{}}}'::text[]) AS word \
         WHERE word NOT IN (SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')) \
         AND word NOT IN (SELECT proname FROM pg_proc) GROUP BY 1 ORDER BY 1",
        known.join(",")
    ));
    let words: Vec<String> = words.split_whitespace().map(str::to_string).collect();
    let create = words.iter().map(|word| {
        format!(
            "CREATE FUNCTION \"{word}\"(int) RETURNS int LANGUAGE plpgsql AS \
                 'BEGIN PERFORM pg_advisory_lock(7); RETURN 1; END';"
        )
    });
    psql(&create.collect::<String>());
    words
}

pub(crate) fn make_objects(name: &'static str) -> OwnDatabase {
    let database = own_database(name);
    psql(
        "CREATE TABLE plain (n int); INSERT INTO plain VALUES (1); \
         CREATE FUNCTION locks() RETURNS int LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_lock(7); RETURN 1; END'; \
         CREATE FUNCTION \"odd \"\"(name\"() RETURNS int LANGUAGE sql AS 'SELECT locks()'; \
         CREATE PROCEDURE takes_lock() LANGUAGE sql AS 'SELECT locks()'; \
         CREATE TABLE keyed (n int PRIMARY KEY, m int); INSERT INTO keyed VALUES (1, 1); \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
    );
    database
}

/// What is left, asked on the session itself, or why it cannot be asked.
pub(crate) fn what_is_left(client: &mut Client) -> String {
    static SQL: OnceLock<String> = OnceLock::new();
    let sql = SQL.get_or_init(|| {
        let words = known_words().into_iter().collect::<Vec<_>>().join(",");
        LEFT.replace("WORDS", &words)
    });
    match client.simple_query(sql) {
        Ok(messages) => messages
            .iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
                _ => None,
            })
            .unwrap_or_default(),
        Err(error) => format!("cannot be asked: {error:?}"),
    }
}

/// How a use looked to the driver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    /// What it left was removed. Whether it had left something is asked only at times.
    Marked {
        had_left: Option<bool>,
    },
    Closed,
}

/// A connection that is used again and again, as a pool would.
pub(crate) struct Used {
    manager: Manager,
    client: Client,
    uses: usize,
    /// Of the texts, how many the server has executed.
    pub(crate) executed: usize,
}

impl Used {
    pub(crate) fn new(manager: Manager) -> Self {
        let client = manager.connect().unwrap();
        Self { manager, client, uses: 0, executed: 0 }
    }

    /// Sends texts, and checks that they leave nothing to the next use.
    #[track_caller]
    pub(crate) fn once(&mut self, texts: &[impl AsRef<str>], what: &str) -> Seen {
        let (seen, left) = self.left_by(texts);
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        assert_eq!(left, "", "{what}, after {texts:?}");
        seen
    }

    /// Sends texts. Returns what they leave to the next use, which then has a new connection.
    pub(crate) fn left_by(&mut self, texts: &[impl AsRef<str>]) -> (Seen, String) {
        let Self { manager, client, .. } = self;
        for text in texts {
            self.executed += usize::from(client.batch_execute(text.as_ref()).is_ok());
        }
        self.uses += 1;
        if manager.has_broken(client) {
            self.client = manager.connect().unwrap();
            return (Seen::Closed, String::new());
        }
        let mut seen = Seen::Nothing;
        if manager.needs_reset(client) {
            let had_left = self.uses.is_multiple_of(8).then(|| !what_is_left(client).is_empty());
            seen = Seen::Marked { had_left };
            manager.reset(client).unwrap();
        }
        let left = what_is_left(client);
        if !left.is_empty() {
            self.client = manager.connect().unwrap();
        }
        (seen, left)
    }
}

#[derive(Default)]
struct Tally {
    left: usize,
    noticed: usize,
    reset_for_nothing: usize,
}

fn try_statements(manager: Manager, seed: u64, number: usize, tally: &mut Tally) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut used = Used::new(manager);
    for _ in 0..number {
        match used.once(&made_up_use(&mut rng), &format!("seed {seed}")) {
            Seen::Nothing => continue,
            Seen::Marked { had_left: Some(true) } => tally.left += 1,
            Seen::Marked { had_left: Some(false) } => tally.reset_for_nothing += 1,
            Seen::Marked { had_left: None } | Seen::Closed => {}
        }
        tally.noticed += 1;
    }
}

/// How many statements a test tries.
pub(crate) fn number() -> usize {
    asked_for().unwrap_or(2400)
}

/// What the environment says. Then tests that try all of something leave nothing out.
pub(crate) fn asked_for() -> Option<usize> {
    env::var("FAIRPOOL_STATEMENTS").ok().and_then(|number| number.parse().ok())
}

#[test]
fn what_generated_statements_leave_is_always_noticed() {
    let _database = make_objects("generated");
    make_functions_named_like_syntax();
    let number = number() / 4;
    let mut tally = Tally::default();
    for seed in 0..2 {
        try_statements(manager(), seed, number, &mut tally);
        // There a backslash is an escape in every string.
        let odd = manager().session_setting("standard_conforming_strings", "off");
        try_statements(odd, 100 + seed, number, &mut tally);
    }
    let Tally { left, noticed, reset_for_nothing } = tally;
    println!(
        "figure: {} uses, {noticed} marked; of a sample of these {left} had left something, \
         {reset_for_nothing} not",
        number * 4
    );
    assert!(left > 10 && noticed > number, "the statements do leave something");
}

#[test]
fn an_open_transaction_is_always_noticed_on_the_level_rollback() {
    let _database = make_objects("generated_rollback");
    let manager = manager().reset_on_return(Reset::Rollback);
    let mut rng = StdRng::seed_from_u64(7);
    let mut client = manager.connect().unwrap();
    let mut open = 0;
    for _ in 0..500 {
        let texts = made_up_use(&mut rng);
        for text in &texts {
            let _ = client.batch_execute(text);
        }
        if manager.needs_reset(&mut client) {
            manager.reset(&mut client).unwrap();
            open += usize::from(manager.left_behind(&mut client).is_some());
        }
        let left = what_is_left(&mut client);
        let is_open = left.split(' ').any(|what| what == "open");
        assert!(!is_open && !left.starts_with("cannot"), "{left}: {texts:?}");
        // Roles and parameters would pile up.
        client = if left.is_empty() { client } else { manager.connect().unwrap() };
    }
    assert!(open > 20, "{open} were open");
}

#[test]
fn the_functions_that_are_taken_for_harmless_are_the_servers_and_hardly_one_is_volatile() {
    let listed = include_str!("../../src/left/functions.rs");
    let listed = listed.split("HARMLESS: &[&str] = &[").nth(1).unwrap().split("];").next().unwrap();
    let names: Vec<&str> = listed.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 300);
    let sql = "SELECT DISTINCT proname::text FROM pg_proc \
         WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v' \
         AND proname = ANY($1) ORDER BY 1";
    let mut client = manager().connect().unwrap();
    let rows = client.query(sql, &[&names]).unwrap();
    let volatile: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // Each of these was looked at: it reads, waits, signals, or lasts as long as a transaction.
    let known = "clock_timestamp currval gen_random_uuid lastval pg_advisory_unlock \
         pg_advisory_unlock_all pg_advisory_unlock_shared pg_advisory_xact_lock \
         pg_advisory_xact_lock_shared pg_blocking_pids pg_cancel_backend pg_current_wal_lsn \
         pg_database_size pg_indexes_size pg_is_in_recovery pg_last_wal_receive_lsn \
         pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_notify pg_relation_size \
         pg_sleep pg_sleep_for pg_sleep_until pg_table_size pg_tablespace_size \
         pg_terminate_backend pg_total_relation_size pg_try_advisory_xact_lock \
         pg_try_advisory_xact_lock_shared random timeofday pg_get_wal_replay_pause_state \
         random_normal";
    for name in volatile {
        assert!(known.split_whitespace().any(|known| known == name), "{name} is volatile");
    }
}

#[test]
fn no_word_that_is_taken_for_syntax_can_be_the_name_of_a_function() {
    let listed = include_str!("../../src/left/functions.rs");
    let listed = listed.split("NEVER_FUNCTIONS: &[&str] = &[").nth(1).unwrap();
    let names: Vec<&str> =
        listed.split("];").next().unwrap().split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 100);
    let sql = "SELECT name FROM unnest($1::text[]) AS name WHERE name NOT IN \
         (SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C'))";
    let rows = manager().connect().unwrap().query(sql, &[&names]).unwrap();
    let possible: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(possible, Vec::<String>::new());
}
