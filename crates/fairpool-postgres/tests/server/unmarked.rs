//! Statements that mostly leave nothing, as those of real programs: here the reader says "nothing"
//! most of the time, and the session is asked whether that is true.

use rand::prelude::*;

use crate::common::manager;
use crate::marks::{
    Seen, Used, dress, known_words, make_functions_named_like_syntax, make_objects, number,
};

/// What leaves nothing, and is known for it.
const HARMLESS: &[&str] = &[
    "1",
    "n",
    "'a'",
    "NULL",
    "(n)",
    "lower('A')",
    "length~('abc')",
    "pg_catalog.abs(-1)",
    "now()",
    "coalesce(NULL,~1)",
    "nullif(n,~1)",
    "CAST(n~AS~numeric(5,~2))",
    "n::character~varying(3)",
    "extract(year~FROM~now())",
    "substring('abc'~FROM~1~FOR~2)",
    "trim(BOTH~'a'~FROM~'aba')",
    "(SELECT~max(n)~FROM~plain)",
    "EXISTS~(SELECT~FROM~plain)",
    "n~IN~(1,~2)",
    "n~=~ANY~(ARRAY[1,~2])",
    "CASE~WHEN~(n~=~1)~THEN~(2)~END",
    "$x$locks()$x$",
    "'pg_advisory_lock(7)'",
    "E'\\'set_config('",
    "set_config('app.x',~'y',~true)",
    "current_setting('work_mem')",
    "NOT~(n~>~1)",
    "ROW(n,~1)~IS~NULL",
    "jsonb_build_object('begin',~n)",
];

/// What leaves something. Drawn seldom, but into statements that look like all others.
const LEAVING: &[&str] = &[
    "locks()",
    "public.locks()",
    "pg_advisory_lock(7)",
    "set_config('work_mem',~'1234kB',~false)",
    "set_config('local.x',~'y',~(true))",
    "nextval('numbers')",
    "TREAT(7~AS~pg_advisory_lock)",
];

/// What opens, ends and names, without anything that lasts.
const OTHERS: &[&str] = &[
    "BEGIN;~INSERT~INTO~plain~VALUES~(1);~COMMIT",
    "BEGIN;~SAVEPOINT~a;~ROLLBACK~TO~a;~ROLLBACK",
    "BEGIN;~SET~LOCAL~work_mem~=~'2MB';~END;~COMMIT",
    "SHOW~work_mem",
    "NOTIFY~local,~'x'",
    "UNLISTEN~*",
    "DISCARD~TEMP",
    "DISCARD~SEQUENCES",
    "EXPLAIN~(COSTS~off)~UPDATE~plain~SET~n~=~2",
    "EXPLAIN~ANALYZE~VERBOSE~DELETE~FROM~plain~WHERE~n~=~77",
    "COPY~(SELECT~1)~TO~STDOUT",
    "CREATE~TABLE~IF~NOT~EXISTS~made~(n~int~PRIMARY~KEY,~CHECK~(n~>~0))",
    "CREATE~INDEX~IF~NOT~EXISTS~of_made~ON~made~USING~btree~(n)",
    "TRUNCATE~made",
    "ANALYZE~plain",
    "COMMENT~ON~TABLE~plain~IS~'set~x'",
];

struct Maker<'a> {
    rng: &'a mut StdRng,
    words: &'a [&'a str],
    functions: &'a [String],
}

impl Maker<'_> {
    fn pick(&mut self, from: &[&str]) -> String {
        (*from.choose(self.rng).unwrap()).to_string()
    }

    fn expression(&mut self) -> String {
        match self.rng.random_range(0..150) {
            0 => self.pick(LEAVING),
            1..3 => format!("{}(1)", self.functions.choose(self.rng).unwrap()),
            3..40 => {
                let (a, b) = (self.expression(), self.expression());
                match self.rng.random_range(0..4) {
                    0 => format!("concat({a},~{b})"),
                    1 => format!("(({a})~IS~NULL~OR~({b})~IS~NULL)"),
                    2 => format!("({a})::text~LIKE~({b})::text"),
                    _ => format!("row_to_json(ROW({a},~{b}))"),
                }
            }
            _ => self.pick(HARMLESS),
        }
    }

    /// A name without quotes. It may be a word of syntax.
    fn name(&mut self) -> String {
        let words = self.words;
        if self.rng.random_bool(0.5) { self.pick(words) } else { "x".to_string() }
    }

    fn statement(&mut self) -> String {
        let (e, f, name) = (self.expression(), self.expression(), self.name());
        match self.rng.random_range(0..22) {
            0 => format!("SELECT~{e}~AS~{name}~FROM~plain"),
            1 => format!("SELECT~{name}.n,~{e}~FROM~plain~AS~{name}"),
            2 => format!("SELECT~{name}~FROM~(SELECT~1)~AS~y~({name})~WHERE~({f})~IS~NULL"),
            3 => format!("SELECT~DISTINCT~ON~(n)~{e}~FROM~plain"),
            4 => format!("SELECT~{e}~FROM~plain~ORDER~BY~{f}"),
            5 => format!("SELECT~count(*)~OVER~(PARTITION~BY~{e}~ORDER~BY~n)~FROM~plain"),
            6 => format!("SELECT~sum(n)~FILTER~(WHERE~({e})~IS~NULL)~OVER~()~FROM~plain"),
            7 => format!("SELECT~count(*)~FROM~plain~GROUP~BY~{e}~HAVING~({f})~IS~NULL"),
            8 => format!("SELECT~1~FROM~plain~a~JOIN~plain~b~ON~({e})~IS~NULL"),
            9 => format!("WITH~{name}~(a)~AS~MATERIALIZED~(SELECT~{e})~SELECT~a~FROM~{name}"),
            10 => format!(
                "INSERT~INTO~keyed~(n,~m)~SELECT~1,~2~FROM~plain~{name}~ON~CONFLICT~(n)~DO~NOTHING"
            ),
            11 => format!(
                "INSERT~INTO~keyed~AS~{name}~(n)~VALUES~(1)~ON~CONFLICT~(n)~DO~UPDATE~\
                 SET~(n,~m)~=~(1,~2)~WHERE~({e})~IS~NULL"
            ),
            12 => format!("UPDATE~plain~{name}~SET~n~=~1~WHERE~({e})~IS~NULL"),
            13 => {
                format!("UPDATE~keyed~AS~{name}~SET~(n,~m)~=~(1,~2)~WHERE~n~=~9~AND~({e})~IS~NULL")
            }
            14 => format!("DELETE~FROM~plain~{name}~WHERE~n~=~7~AND~({e})~IS~NULL"),
            15 => format!("VALUES~({e}),~({f})"),
            16 => format!("EXPLAIN~(ANALYZE,~COSTS~off)~SELECT~{e}~FROM~plain"),
            17 => format!("SELECT~{e}~LIMIT~1~OFFSET~0"),
            18 => format!("SELECT~concat({e},~{f})"),
            19 => format!("{};~{}", self.statement(), self.statement()),
            20 => self.pick(OTHERS),
            _ => format!("SELECT~{e}~UNION~ALL~(SELECT~{f})"),
        }
    }
}

#[test]
fn of_statements_that_are_said_to_leave_nothing_none_leaves_anything() {
    let _database = make_objects("unmarked");
    crate::common::psql("CREATE SEQUENCE numbers");
    let functions = make_functions_named_like_syntax();
    let words: Vec<&str> = known_words().into_iter().collect();
    let mut rng = StdRng::seed_from_u64(3);
    let mut used = Used::new(manager());
    let (mut unmarked, mut had_left) = (0, 0);
    let number = number();
    for _ in 0..number {
        let mut maker = Maker { rng: &mut rng, words: &words, functions: &functions };
        let statement = maker.statement();
        match used.once(&[dress(&statement, &mut rng)], "seed 3") {
            Seen::Nothing => unmarked += 1,
            Seen::Marked { had_left: Some(true) } => had_left += 1,
            Seen::Marked { .. } | Seen::Closed => {}
        }
    }
    println!(
        "figure: {number} usual statements, {} executed, {unmarked} not marked; of a sample of the \
         others {had_left} had left something",
        used.executed
    );
    assert!(used.executed * 2 > number, "{} of {number} executed", used.executed);
    assert!(unmarked * 2 > number, "{unmarked} of {number}: most leave nothing");
    assert!(had_left > 0, "some leave something");
}
