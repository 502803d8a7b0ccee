//! The report of a long transaction.

use serde_json::json;

use super::{CONNECTIONS, Outcome, SCENARIO, THREADS};
use crate::chart::{Chart, Line};
use crate::load::{of, span};
use crate::report::{Finding, Report, figure};

pub fn report(flawed: Outcome, fairpool: Outcome) -> Report {
    let line = format!("{}:{}", super::FILE, fairpool.line);
    // A column follows.
    let prefix = format!("{line}:");
    let is_named = fairpool.diagnosis.contains(&prefix);
    let ended = |outcome: &Outcome| match outcome.ended_after {
        Some(after) => format!("after {}", span(after)),
        None => format!("not within {}", span(outcome.lasted)),
    };
    let longest = |outcome: &Outcome| {
        let open = if outcome.unanswered > 0 { " and counting" } else { "" };
        format!("{}{open}", span(outcome.longest()))
    };
    let both =
        |name: &str, of: &dyn Fn(&Outcome) -> String| figure(name, of(&flawed), of(&fairpool));
    let figures = vec![
        both("lock_timeout and idle_in_transaction_session_timeout", &|pool| pool.settings.clone()),
        both("threads without an answer", &|pool| of(pool.unanswered, THREADS).to_string()),
        both("threads served", &|pool| of(pool.served, THREADS).to_string()),
        both("at the worst: wait for the row", &|pool| pool.worst.behind_row.to_string()),
        both("at the worst: wait for the pool", &|pool| pool.worst.behind_pool.to_string()),
        both("errors: lock timeout", &|pool| pool.errors_with("lock timeout").to_string()),
        both("errors: timed out in the pool", &|pool| pool.errors_with("timed out").to_string()),
        both("of these, with the line of the open transaction", &|pool| {
            pool.errors_with(&prefix).to_string()
        }),
        both("the server ends the open transaction", &ended),
        both("its COMMIT at the end", &|pool| pool.commit.clone()),
        both("longest wait", &longest),
    ];
    let is_found = !fairpool.worst.blocker.is_empty();
    let is_over = fairpool.served == THREADS && fairpool.ended_after.is_some();
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "sessions without limits, which is the server's default".to_string(),
        load: format!("{THREADS} threads lock one row, {CONNECTIONS} connections"),
        flawed: Finding {
            shows_the_flaw: flawed.unanswered > 0,
            because: match flawed.unanswered {
                0 => "every thread got an answer".to_string(),
                some => format!("{} threads got no answer", of(some, THREADS)),
            },
        },
        fairpool: Finding {
            shows_the_flaw: !(is_over && is_named && is_found),
            because: match (is_over, is_named, is_found) {
                (true, true, true) => {
                    format!(
                        "the server ends the session, all threads are served, and {line} is named"
                    )
                }
                (false, ..) => format!("{} threads were served", of(fairpool.served, THREADS)),
                (_, false, _) => format!("the diagnosis does not name {line}"),
                _ => "the blocking backend was not found".to_string(),
            },
        },
        data: json!({
            "line": line,
            "served": [flawed.served, fairpool.served],
            "unanswered": [flawed.unanswered, fairpool.unanswered],
            "behind_row": [flawed.worst.behind_row, fairpool.worst.behind_row],
            "behind_pool": [flawed.worst.behind_pool, fairpool.worst.behind_pool],
            "blocker": [&flawed.worst.blocker, &fairpool.worst.blocker],
            "ended_after_seconds": fairpool.ended_after.map(|after| after.as_secs_f64()),
            "commit": [&flawed.commit, &fairpool.commit],
        }),
        diagnosis: format!(
            "{}and on the server, by a session outside the pool:\n{}",
            fairpool.diagnosis, fairpool.worst.blocker
        ),
        figures,
        chart: Some(chart(flawed, fairpool)),
    }
}

fn chart(flawed: Outcome, fairpool: Outcome) -> Chart {
    let line = |name: &str, points| Line { name: name.to_string(), points };
    Chart {
        title: "Waiting threads while a transaction stays open".to_string(),
        x: "seconds".to_string(),
        y: "waiting".to_string(),
        lines: vec![
            line("flawed: for the pool", flawed.for_pool),
            line("fairpool: for the pool", fairpool.for_pool),
            line("flawed: for the row", flawed.for_row),
            line("fairpool: for the row", fairpool.for_row),
        ],
        log_y: false,
    }
}
