//! Words that are syntax in one place may be names in another: what such a name does is noticed.

use fairpool::ManageConnection;

use crate::common::manager;
use crate::marks::{
    SYNTAX, Seen, Used, asked_for, known_words, make_functions_named_like_syntax, make_objects,
    what_is_left,
};

/// Where an expression may stand. `{e}` is a call that takes a lock.
const PLACES: &[&str] = &[
    "SELECT {e}",
    "SELECT 1, {e}",
    "SELECT ALL {e}",
    "SELECT (1) + {e}",
    "SELECT - {e}",
    "SELECT OPERATOR(pg_catalog.-) {e}",
    "SELECT 1 OPERATOR(pg_catalog.+) {e}",
    "SELECT DISTINCT {e}",
    "SELECT DISTINCT ON (n) {e} FROM plain",
    "SELECT DISTINCT ON ({e}) 1 FROM plain",
    "SELECT n FROM plain WHERE {e} = 1",
    "SELECT n FROM plain WHERE NOT {e} = 2",
    "SELECT n FROM plain WHERE n = 1 AND {e} = 1",
    "SELECT n FROM plain WHERE n = 2 OR {e} = 1",
    "SELECT n IS DISTINCT FROM {e} FROM plain",
    "SELECT n FROM plain WHERE n BETWEEN {e} AND 2",
    "SELECT n FROM plain WHERE n BETWEEN SYMMETRIC 2 AND {e}",
    "SELECT n FROM plain WHERE n IN ({e})",
    "SELECT n = ANY (ARRAY[{e}]) FROM plain",
    "SELECT 'a' LIKE {e}::text",
    "SELECT 'a' NOT ILIKE {e}::text",
    "SELECT 'a' LIKE 'b' ESCAPE {e}::text",
    "SELECT 'a' SIMILAR TO {e}::text",
    "SELECT substring('a' SIMILAR {e}::text ESCAPE '#')",
    "SELECT substring('abc' FROM {e} FOR 1)",
    "SELECT overlay('abc' PLACING 'x' FROM {e})",
    "SELECT trim(BOTH {e}::text FROM 'a')",
    "SELECT position({e}::text IN 'a')",
    "SELECT CAST({e} AS text)",
    "SELECT now() AT TIME ZONE {e}::text",
    "SELECT CASE {e} WHEN 2 THEN 1 END",
    "SELECT CASE WHEN true THEN {e} ELSE 1 END",
    "SELECT CASE WHEN false THEN 1 ELSE {e} END",
    "SELECT coalesce(NULL, {e}), nullif(1, 2)",
    "SELECT concat(VARIADIC ARRAY[{e}])",
    "SELECT n FROM plain ORDER BY {e}",
    "SELECT count(*) FROM plain GROUP BY {e}",
    "SELECT count(*) FROM plain GROUP BY GROUPING SETS (({e}))",
    "SELECT count(*) FROM plain HAVING {e} = 1",
    "SELECT count(*) FILTER (WHERE {e} = 1) FROM plain",
    "SELECT count(*) OVER (PARTITION BY {e}) FROM plain",
    "SELECT count(*) OVER (ORDER BY n ROWS {e} PRECEDING) FROM plain",
    "SELECT count(*) OVER w FROM plain WINDOW w AS (ORDER BY {e})",
    "SELECT array_agg(n ORDER BY {e}) FROM plain",
    "SELECT n FROM plain LIMIT {e}",
    "SELECT n FROM plain OFFSET {e}",
    "SELECT n FROM plain FETCH FIRST {e} ROWS ONLY",
    "SELECT * FROM {e} AS x",
    "SELECT * FROM plain, LATERAL {e} AS x",
    "SELECT * FROM ROWS FROM ({e}) AS x",
    "SELECT * FROM plain CROSS JOIN {e}",
    "SELECT * FROM plain TABLESAMPLE system ({e})",
    "SELECT 1 FROM plain a JOIN plain b ON {e} = 1",
    "INSERT INTO keyed SELECT 3 FROM plain a JOIN plain b ON {e} = 1 ON CONFLICT (n) DO NOTHING",
    "VALUES ({e})",
    "SELECT * FROM (VALUES (1), ({e})) AS x",
    "WITH x AS NOT MATERIALIZED (SELECT {e} AS y) SELECT y FROM x",
    "WITH x AS (DELETE FROM plain WHERE n = 1 + {e} RETURNING 1) SELECT 1",
    "INSERT INTO plain VALUES ({e})",
    "INSERT INTO plain VALUES (1) RETURNING {e}",
    "INSERT INTO keyed VALUES (1) ON CONFLICT (n) DO UPDATE SET m = {e}",
    "INSERT INTO keyed VALUES (1) ON CONFLICT (n) DO UPDATE SET (m) = ROW ({e})",
    "UPDATE plain SET n = {e}",
    "UPDATE plain SET (n) = (SELECT {e})",
    "UPDATE plain AS p SET n = 1 WHERE {e} = 1",
    "DELETE FROM plain WHERE n = 1 + {e}",
    "MERGE INTO plain p USING keyed k ON {e} = 1 WHEN MATCHED THEN UPDATE SET n = 1",
    "MERGE INTO plain p USING keyed k ON true WHEN MATCHED THEN UPDATE SET n = {e}",
    "EXPLAIN ANALYZE SELECT {e}",
    "EXPLAIN (ANALYZE) ((SELECT {e}))",
    "COPY (SELECT {e}) TO PROGRAM 'cat > /dev/null'",
    "BEGIN; CREATE TABLE made AS SELECT n FROM plain ORDER BY {e}; COMMIT; DROP TABLE made",
    "BEGIN; ALTER TABLE plain ADD COLUMN added int DEFAULT {e}; COMMIT; ALTER TABLE plain DROP added",
    "DECLARE c CURSOR WITH HOLD FOR SELECT {e}",
    "SELECT xmlparse(DOCUMENT '<a>' || {e} || '</a>')",
    "SELECT xmlpi(NAME a, {e}::text)",
    "SELECT xmlroot('<a/>', VERSION {e}::text)",
    "SELECT xmlserialize(CONTENT {e}::text::xml AS text)",
    "SELECT xmlexists('a' PASSING BY REF ('<a>' || {e} || '</a>')::xml)",
    "SELECT TREAT(7 AS pg_advisory_lock) IS NULL, {e}",
    "SELECT xmlelement(NAME a, xmlattributes({e} AS b))",
];

#[test]
fn a_call_of_a_function_named_like_syntax_is_noticed_wherever_it_stands() {
    let _database = make_objects("calls");
    let words = make_functions_named_like_syntax();
    for word in ["set", "by", "over", "filter", "conflict", "materialized", "join", "ilike"] {
        assert!(words.iter().any(|other| other == word), "{word} in {words:?}");
    }
    let mut used = Used::new(manager());
    let (mut tried, mut had_left, mut unnoticed) = (0, 0, Vec::new());
    for (n, word) in words.iter().enumerate() {
        let is_syntax = SYNTAX.split_whitespace().any(|syntax| syntax == word);
        for (m, place) in PLACES.iter().enumerate() {
            if !is_syntax && is_left_out(n + m) {
                continue;
            }
            tried += 1;
            let sql = place.replace("{e}", &format!("{word}(1)"));
            let (seen, left) = used.left_by(&[&sql]);
            if !left.is_empty() {
                unnoticed.push(sql);
            }
            had_left += usize::from(seen == Seen::Marked { had_left: Some(true) });
        }
    }
    println!(
        "figure: {} words in {} places, {tried} calls tried, {} not noticed",
        words.len(),
        PLACES.len(),
        unnoticed.len()
    );
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
    // Of every eighth.
    assert!(had_left * 16 > tried, "{had_left} of an eighth of {tried}: most calls are valid");
}

/// Most words are like each other: by default each is tried in every fourth place.
fn is_left_out(number: usize) -> bool {
    !number.is_multiple_of(4) && asked_for().is_none()
}

/// Words that may stand where a name starts, too.
const BEFORE_NAMES: [&str; 7] =
    ["all", "constraints", "local", "prepare", "session", "transaction", "work"];

/// Where a name may stand, `{n}`. The texts of a use, one after another, are separated by `|`.
const NAMED: &[&str] = &[
    "SET {n}.x = 'y'",
    "SET SESSION {n}.x TO 'y'",
    "SET {n} . /* */ x = 'y'",
    "BEGIN|SET LOCAL {n}.x = 'y'|COMMIT",
    "BEGIN|SET {n}.x = 'y'|COMMIT",
    "SET {n}.x = 'y'|RESET {n}.x",
    "PREPARE {n} AS SELECT 1",
    "PREPARE {n} (int) AS SELECT $1",
    "BEGIN|PREPARE {n} AS SELECT 1",
    "BEGIN|PREPARE {n} (int) AS SELECT $1|INSERT INTO plain VALUES (1)",
    "PREPARE {n} AS SELECT locks()|EXECUTE {n}",
    "PREPARE {n} AS SELECT 1|DEALLOCATE {n}|SELECT locks()",
    "PREPARE {n} AS SELECT 1|DEALLOCATE PREPARE {n}|BEGIN",
    "PREPARE {n} AS SELECT locks()|EXPLAIN ANALYZE EXECUTE {n}",
    "LISTEN {n}",
    "BEGIN|SAVEPOINT {n}",
    "BEGIN|SAVEPOINT {n}|RELEASE {n}",
    "BEGIN|SAVEPOINT {n}|ROLLBACK TO {n}",
    "DECLARE {n} CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE {n} CURSOR WITH HOLD FOR SELECT 1|CLOSE {n}|LISTEN a",
    "CREATE TEMP TABLE {n} (n int)",
    "CREATE TABLE pg_temp.{n} (n int)",
    "CREATE TEMP VIEW {n} (n) AS SELECT 1",
    "CREATE FUNCTION pg_temp.{n}() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT 1 AS n INTO TEMP {n}",
    "SELECT locks() AS {n}",
    "SELECT 1 AS {n}, locks()",
    "SELECT n AS {n} FROM plain ORDER BY locks()",
    "SELECT {n}, locks() FROM (SELECT 1) AS x ({n})",
    "SELECT x.{n}, locks() FROM (SELECT 1) AS x ({n})",
    "SELECT {n} + locks() FROM (SELECT 1) AS x ({n})",
    "SELECT ({n}) - locks() FROM (SELECT 1) AS x ({n})",
    "SELECT 1 FROM (SELECT true) AS x ({n}) WHERE {n} AND locks() = 1",
    "SELECT 1 FROM (SELECT 'a') AS x ({n}) WHERE {n} LIKE locks()::text",
    "SELECT 1 FROM (SELECT 'a') AS x ({n}) WHERE {n} LIKE {n} ESCAPE locks()::text",
    "SELECT CASE {n} WHEN true THEN locks() END FROM (SELECT true) AS x ({n})",
    "SELECT CASE WHEN {n} THEN locks() END FROM (SELECT true) AS x ({n})",
    "SELECT {n} FROM (SELECT 1) AS x ({n}) ORDER BY {n} LIMIT locks()",
    "SELECT {n}.n FROM plain AS {n} WHERE locks() = 1",
    "SELECT {n}.n FROM plain {n} JOIN locks() ON true",
    "WITH {n} (n) AS (SELECT locks()) SELECT n FROM {n}",
    "WITH RECURSIVE {n} AS (SELECT locks() AS n) SELECT n FROM {n}",
    "UPDATE plain AS {n} SET n = locks()",
    "UPDATE plain {n} SET (n) = (SELECT locks())",
    "SELECT count(*) OVER {n} FROM plain WINDOW {n} AS (ORDER BY locks())",
    "SELECT count(*) OVER ({n} ROWS locks() PRECEDING) FROM plain WINDOW {n} AS (ORDER BY n)",
];

#[test]
fn what_a_statement_leaves_is_noticed_also_if_its_names_are_words_of_syntax() {
    let _database = make_objects("named_like_syntax");
    let mut used = Used::new(manager());
    let (mut tried, mut unnoticed) = (0, Vec::new());
    for (n, word) in known_words().into_iter().enumerate() {
        for (m, place) in NAMED.iter().enumerate() {
            if !BEFORE_NAMES.contains(&word) && is_left_out(n + m) {
                continue;
            }
            tried += 1;
            let place = place.replace("{n}", word);
            let texts: Vec<&str> = place.split('|').collect();
            let (_, left) = used.left_by(&texts);
            if !left.is_empty() {
                unnoticed.push(format!("{left}: {texts:?}"));
            }
        }
    }
    println!("figure: {tried} uses with such names, {} not noticed", unnoticed.len());
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
    let mut client = manager().connect().unwrap();
    client.batch_execute("SET local.x = 'y'; PREPARE transaction AS SELECT 1").unwrap();
    assert_eq!(what_is_left(&mut client), "parameter local prepared", "these are names");
}
