use super::{Effect, Harmless, Left};

fn left(sql: &str) -> Left {
    Effect::of(sql, &Harmless::default()).leaves
}

#[track_caller]
fn leaves(expected: Left, statements: &[&str]) {
    for sql in statements {
        assert_eq!(left(sql), expected, "{sql}");
    }
}

#[test]
fn what_programs_usually_do_leaves_nothing() {
    leaves(
        Left::NOTHING,
        &[
            "",
            " ; -- nothing",
            "SELECT 1",
            "select count(*), max(a.b) from orders a where id in (1, 2) group by (x) having sum(y) > 1",
            "INSERT INTO public.orders (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE \
             SET (name, n) = (EXCLUDED.name, 2) RETURNING id",
            "insert into t as x (a) select lower(b) from u on conflict do nothing",
            "UPDATE counter SET value = value + 1 WHERE id = ANY($1)",
            "DELETE FROM t USING (SELECT 1) u WHERE EXISTS (SELECT FROM t)",
            "WITH RECURSIVE tree(id) AS (SELECT 1 UNION ALL (SELECT 2)) TABLE tree",
            "WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x AS y(a) JOIN (VALUES (1)) v ON (a = 1)",
            "SELECT row_number() OVER (PARTITION BY (a) ORDER BY b), sum(c) FILTER (WHERE d) FROM t",
            "SELECT string_agg(a, ',' ORDER BY b) WITHIN GROUP (ORDER BY c) FROM t",
            "SELECT CAST(a AS varchar(10)), b::numeric(5, 2), c::character varying(3) FROM t",
            "SELECT E'it\\'s; BEGIN', 'a''b', $$ BEGIN; $$, $x$ $$ LISTEN $x$ /* /* SET */ */",
            "SELECT temp, \"listen\", set, begin FROM weather WHERE temp > 1",
            "EXPLAIN (ANALYZE, COSTS off) SELECT 1",
            "explain analyze verbose (select 1)",
            "SHOW work_mem",
            "SET LOCAL work_mem = '1MB'",
            "SET TRANSACTION READ ONLY",
            "SELECT set_config('app.tenant', $1, true)",
            "SELECT pg_catalog.now(), pg_advisory_xact_lock(1), pg_notify('a', 'b')",
            "NOTIFY news, 'x'",
            "COPY t (a, b) FROM STDIN WITH (FORMAT csv)",
            "COPY (SELECT lower(a) FROM t) TO STDOUT",
            "CREATE TABLE IF NOT EXISTS a.t (id int PRIMARY KEY, n varchar(3) UNIQUE, \
             m int REFERENCES u (id), FOREIGN KEY (m) REFERENCES u (id), CHECK (n > 1))",
            "CREATE UNIQUE INDEX i ON t USING gin (a, lower(b))",
            "CREATE VIEW v (a) AS SELECT 1",
            "CREATE TYPE pair AS (a int)",
            "CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT set_config(1)'",
            "ALTER TABLE t ADD COLUMN b int; DROP TABLE t; TRUNCATE t; ANALYZE t; LOCK TABLE t",
            "SAVEPOINT s; RELEASE s; ROLLBACK TO s",
            "FETCH ALL FROM c; MOVE c; CLOSE c; UNLISTEN *; DISCARD TEMP; DEALLOCATE p",
        ],
    );
}

#[test]
fn each_kind_of_state_is_marked() {
    leaves(Left::TRANSACTION, &["BEGIN", "/* x */ start transaction", "COMMIT AND CHAIN"]);
    leaves(
        Left::SETTINGS,
        &[
            "SET work_mem = '1MB'",
            "set session authorization app",
            "SET ROLE app",
            "RESET ALL",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SELECT set_config('a.b', 'c', false)",
            "SELECT set_config('a.b', 'c', $1), true",
            "SELECT \"set_config\"('a.b', set_config('c.d', 'e', false), true)",
            "SELECT set_config('a.b', (SELECT set_config('c.d', 'e', (true))), true)",
        ],
    );
    leaves(Left::LISTEN, &["LISTEN news", "SELECT 1; listen news"]);
    leaves(
        Left::TEMPORARY,
        &[
            "CREATE TEMP TABLE t (a int)",
            "create local temporary table t (a int)",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "SELECT 1 INTO TEMP t",
            "SELECT 1 AS a INTO LOCAL TEMPORARY TABLE t",
            "CREATE TABLE pg_temp.t (a int)",
            "INSERT INTO \"pg_temp_3\".t VALUES (1)",
        ],
    );
    leaves(Left::CURSOR, &["DECLARE c CURSOR WITH HOLD FOR SELECT 1"]);
    leaves(
        Left::LOCKS,
        &["SELECT pg_advisory_lock(1)", "select pg_catalog . \"pg_try_advisory_lock\" /* */ (1)"],
    );
    leaves(Left::PREPARED, &["PREPARE p AS SELECT 1", "PREPARE p (int) AS SELECT $1"]);
    leaves(Left::SEQUENCES, &["SELECT nextval('s')", "INSERT INTO t VALUES (nextval('s'))"]);
    leaves(
        Left::BEYOND_RESET,
        &["LOAD 'auto_explain'", "DEALLOCATE s12", "DEALLOCATE PREPARE \"s0\"; deallocate S1"],
    );
    leaves(Left::SETTINGS, &["SELECT setseed(0.5)", "SET seed = 1"]);
    assert!(left("DISCARD ALL").intersects(Left::BEYOND_RESET));
    assert!(left("DEALLOCATE PREPARE ALL").intersects(Left::BEYOND_RESET));
    leaves(
        Left::UNKNOWN,
        &[
            "DO $$ BEGIN END $$",
            "CALL p()",
            "EXECUTE p",
            "EXPLAIN ANALYZE EXECUTE p",
            "CREATE TABLE t AS EXECUTE p",
            "CREATE EXTENSION x",
            "SELECT mine(1)",
            "SELECT a FROM t WHERE b AND mine (1)",
            "SELECT \"COUNT\"(1)",
            "SELECT mine.count(1)",
            "SELECT DISTINCT ON (a) mine(1)",
            "SELECT \"PG_CATALOG\".count(1)",
            "SELECT set(1), by(2), key(3)",
            "CREATE TABLE t AS SELECT index FROM a JOIN b ON mine(1)",
            "COPY t FROM PROGRAM 'cat'",
            "COPY (SELECT mine(1)) TO STDOUT",
            "PREPARE TRANSACTION 'x'; SELECT mine(1)",
            "EXPLAIN (SELECT mine(1))",
        ],
    );
}

#[test]
fn a_word_of_syntax_may_be_the_name_of_a_parameter_or_of_a_statement() {
    leaves(
        Left::SETTINGS,
        &[
            "SET local.x = 'y'",
            "set LOCAL . x to 'y'",
            "SET session.x = 'y'",
            "SET SESSION local.x = 'y'",
            "SET SESSION session.x = 'y'",
            "SET transaction.x = 'y'",
            "SET constraints/**/.x = 'y'",
            "SET \"local\".x = 'y'",
            "RESET local.x",
        ],
    );
    leaves(
        Left::NOTHING,
        &[
            "SET LOCAL local.x = 'y'",
            "SET LOCAL session.x = 'y'",
            "SET LOCAL transaction.x = 'y'",
            "SET LOCAL \"local\".x = 'y'",
            "SET SESSION TRANSACTION READ ONLY",
            "SET CONSTRAINTS ALL DEFERRED",
            "SET CONSTRAINTS \"all\" DEFERRED",
            "DEALLOCATE prepare",
            "DEALLOCATE s; DEALLOCATE s1a; DEALLOCATE \"all\"",
        ],
    );
    for sql in ["PREPARE transaction AS SELECT 1", "PREPARE transaction (int) AS SELECT $1"] {
        let effect = Effect::of(sql, &Harmless::default());
        assert_eq!(effect, Effect { leaves: Left::PREPARED, ..Effect::default() }, "{sql}");
    }
}

#[test]
fn a_word_of_syntax_may_be_the_name_of_a_function() {
    leaves(
        Left::UNKNOWN,
        &[
            "SELECT 1 FROM t ORDER BY set(1)",
            "SELECT 1 FROM t GROUP BY by(1)",
            "SELECT 'a' LIKE set(1)",
            "UPDATE t SET a = set(1)",
            "UPDATE set SET a = set(1)",
            "SELECT 1 WHERE NOT materialized(1)",
            "SELECT DISTINCT ON (a) over(1) FROM t",
            "SELECT DISTINCT ON (a) filter(1) FROM t",
            "SELECT 1 FROM a JOIN b ON conflict(1)",
            "MERGE INTO a USING b ON conflict(1) WHEN MATCHED THEN DO NOTHING",
            "SELECT a ILIKE ilike(1)",
            "SELECT join(1), join(values), join()",
            "SELECT 1 FROM a JOIN b ON join(1)",
            "SELECT json_value(1)",
            "SELECT json_array(1)",
            "SELECT merge_action(1)",
            "SELECT TREAT(7 AS pg_advisory_lock)",
        ],
    );
    leaves(
        Left::NOTHING,
        &[
            "UPDATE t SET (a, b) = (1, 2)",
            "UPDATE ONLY s.t * AS x SET (a, b) = (1, 2)",
            "UPDATE set AS set SET (a, b) = (1, 2)",
            "EXPLAIN UPDATE t SET (a) = ROW (1)",
            "MERGE INTO a USING b ON (a.n = b.n) WHEN MATCHED THEN UPDATE SET (a, b) = (1, 2)",
            "SELECT DISTINCT ON (a) rank() OVER (ORDER BY a), count(a) FILTER (WHERE b) OVER (w) FROM t",
            "SELECT ((((rank() over (order by a)))))",
            "SELECT mode() WITHIN GROUP (ORDER BY a) FILTER (WHERE b) FROM t",
            "WITH x AS NOT MATERIALIZED (SELECT 1) TABLE x",
            "SELECT FROM a JOIN (SELECT 1) x ON (true) JOIN (VALUES (1)) y ON (true)",
            "SELECT FROM a LEFT JOIN (b CROSS JOIN (c INNER JOIN d USING (n))) ON (true)",
        ],
    );
}

/// Reads this many copies of a piece and an end, on a stack as small as a thread's may be.
fn read_many(piece: &str, number: usize, end: &str) -> Effect {
    let sql = piece.repeat(number) + end;
    let read = move || Effect::of(&sql, &Harmless::default());
    std::thread::Builder::new().stack_size(64 * 1024).spawn(read).unwrap().join().unwrap()
}

#[test]
fn a_text_of_any_size_and_depth_is_read_without_recursion_in_linear_time() {
    let pieces = [
        "EXPLAIN ",
        "EXPLAIN(ANALYZE)",
        "(",
        "EXPLAIN (",
        ")",
        "[",
        "/*",
        "/**/",
        "/*/",
        "*/",
        "--\n",
        ";",
        "'",
        "''",
        "'a' ",
        "\"",
        "\"a\"",
        "$",
        "$a",
        "$$",
        "$a$ ",
        "$a$b$",
        "E'",
        "E'\\\\' ",
        "\\",
        "a",
        "a.",
        "a(",
        "set_config(",
        "é",
        "CASE ",
        "WITH a AS (",
        "SELECT ",
        "AS ",
        "SET ",
        "PREPARE ",
        "DEALLOCATE ",
        "COMMIT AND ",
        "BEGIN;",
        "count(1) OVER (",
        "U&",
        "\u{0}",
    ];
    for piece in pieces {
        // If the time were quadratic, this would take minutes.
        let _ = read_many(piece, 200_000, "");
    }
    assert_eq!(read_many("EXPLAIN ", 100_000, "SELECT mine(1)").leaves, Left::UNKNOWN);
    assert_eq!(read_many("(", 100_000, "SELECT mine(1)").leaves, Left::UNKNOWN);
    let comments = "/*".repeat(100_000) + &"*/".repeat(100_000) + "LISTEN a";
    assert_eq!(left(&comments), Left::LISTEN);
    // Deeper than is kept account of: what follows a parenthesis may be a call.
    let deep = "(".repeat(100) + "rank() over(1)";
    assert_eq!(left(&format!("SELECT {deep}")), Left::UNKNOWN);
}

#[test]
fn no_text_makes_the_reader_panic() {
    use rand::prelude::*;
    let pieces = [
        "é",
        "\u{2028}",
        "'",
        "\"",
        "$",
        "$é$",
        "\\",
        "E'",
        "U&\"",
        "/*",
        "*/",
        "--",
        "\n",
        ".",
        "(",
        ")",
        ",",
        ";",
        "1",
        "SELECT ",
        "set_config",
        "EXPLAIN ",
        "PREPARE ",
        "transaction",
        "COPY ",
        "SET ",
        "local",
        "UPDATE ",
        "as ",
        " ",
    ];
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..50_000 {
        let number = rng.random_range(0..12);
        let sql: String = (0..number).map(|_| *pieces.choose(&mut rng).unwrap()).collect();
        let _ = Effect::of(&sql, &Harmless::default());
    }
}

#[test]
fn what_cannot_be_read_may_leave_anything() {
    leaves(
        Left::ANYTHING,
        &[
            "frobnicate",
            "SELECT 'a\\'",
            "SELECT 'open",
            "SELECT $x$ $y$",
            "SELECT /* /* */",
            "SELECT U&\"d\\0061ta\"(1)",
            "SELECT E'a\\",
            "\"BEGIN\"",
        ],
    );
}

#[test]
fn the_end_of_a_transaction_is_seen_where_it_is_sure() {
    let ends = |sql| Effect::of(sql, &Harmless::default()).ends_transaction;
    for sql in ["COMMIT", "end;", "ROLLBACK WORK", "abort transaction", "COMMIT AND NO CHAIN"] {
        assert!(ends(sql), "{sql}");
    }
    assert!(ends("BEGIN; SELECT 1; COMMIT"));
    assert!(ends("PREPARE TRANSACTION 'x'"));
    for sql in [
        "SELECT 1",
        "COMMIT AND CHAIN",
        "ROLLBACK TO s",
        "ROLLBACK TRANSACTION TO SAVEPOINT s",
        "COMMIT PREPARED 'x'",
        "COMMIT; BEGIN",
        "COMMIT; frobnicate",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
    ] {
        assert!(!ends(sql), "{sql}");
    }
}

#[test]
fn known_functions_are_the_users_to_name() {
    let mut harmless = Harmless::default();
    harmless.add(["Mine".to_string(), "app.x".to_string(), "st_*".to_string()]);
    let left = |sql| Effect::of(sql, &harmless).leaves;
    for sql in ["SELECT mine(1), any_schema.mine(2)", "SELECT app.x()", "SELECT ST_Within(a, b)"] {
        assert_eq!(left(sql), Left::NOTHING, "{sql}");
    }
    for sql in ["SELECT x()", "SELECT other.x()", "SELECT st(1)", "SELECT mine2()"] {
        assert_eq!(left(sql), Left::UNKNOWN, "{sql}");
    }
}

#[test]
fn the_lists_are_sorted() {
    use super::functions::{HARMLESS, NEVER_FUNCTIONS};
    assert!(HARMLESS.is_sorted() && NEVER_FUNCTIONS.is_sorted());
}

#[test]
fn what_changes_the_meaning_of_names_is_noted() {
    let changes_meaning = |sql: &str| Effect::of(sql, &Harmless::default()).changes_meaning;
    let all = [
        "CREATE TABLE t (a int)",
        "SELECT 1; ALTER TABLE t ADD b int",
        "drop type mood",
        "CREATE TEMP TABLE t (a int)",
        "SELECT 1 AS a INTO TEMP t",
        "SET search_path TO a",
        "SET LOCAL Search_Path TO a",
        "SET LOCAL \"search_path\" TO a",
        "SET SCHEMA 'a'",
        "SET LOCAL SCHEMA 'a'",
        "SET SESSION SCHEMA 'a'",
        "SELECT set_config('search_path', $1, true)",
        "RESET ALL",
        "DISCARD TEMP",
        "DISCARD ALL",
        "nonsense",
        "SELECT 'not closed",
        "SET TimeZone TO 'UTC'",
        "SET LOCAL \"timezone\" TO 'UTC'",
        "SET TIME ZONE 'UTC'",
        "SET LOCAL ROLE a",
        "SET ROLE a",
        "SET SESSION AUTHORIZATION a",
        "SET work_mem TO '1GB'",
        "SELECT set_config('timezone', $1, true)",
        "SELECT SET_CONFIG ( $1, $2, true)",
        "SELECT set_config('app.tenant', $1, true), pg_catalog.set_config('jit', $1, true)",
    ];
    all.into_iter().for_each(|sql| assert!(changes_meaning(sql), "{sql}"));
    let others = [
        "SELECT schema FROM t",
        "SET app.tenant TO 'a'",
        "SET LOCAL \"app\".\"tenant\" TO 'a'",
        "SET local.tenant TO 'a'",
        "SET LOCAL statement_timeout TO 1",
        "SET SESSION Lock_Timeout TO 1",
        "SET TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT set_config('app.tenant', $1, false)",
        "SELECT \"set_config\" ( 'app.tenant', $1, false)",
        "UPDATE t SET schema = 1",
        "BEGIN; INSERT INTO t VALUES (1); COMMIT",
        "TRUNCATE t",
    ];
    others.into_iter().for_each(|sql| assert!(!changes_meaning(sql), "{sql}"));
}

#[test]
fn what_means_something_else_each_time_is_noted() {
    let is_fleeting = |sql: &str| Effect::of(sql, &Harmless::default()).is_fleeting;
    let all = [
        "FETCH ALL FROM c",
        "EXECUTE q (1)",
        "INSERT INTO t VALUES ('now')",
        "SELECT 1 WHERE a > 'Today' AND b",
        "SELECT E'yesterday'::date",
        "SELECT '[today,tomorrow)'::daterange",
        "SELECT $$now$$::timestamp, 1",
        "SELECT $a$now$a$::timestamp",
        "SELECT 'mood'::regtype, 1",
    ];
    all.into_iter().for_each(|sql| assert!(is_fleeting(sql), "{sql}"));
    let others = [
        "SELECT now() AS now, \"now\" FROM today -- now",
        "SELECT 'unknown', 'nowhere', 'it''s', 'ü'",
        "SELECT 't'::regclass, regexp_replace(a, 'b', 'c'), reg FROM región",
        "MOVE 1 FROM c",
        "DECLARE c CURSOR FOR SELECT 1",
        "CALL p()",
    ];
    others.into_iter().for_each(|sql| assert!(!is_fleeting(sql), "{sql}"));
}
