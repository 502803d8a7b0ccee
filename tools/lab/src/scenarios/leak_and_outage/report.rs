//! The report of leaks and an outage.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Answer, CALLERS, CONNECTIONS, FILE, LEAKS, Leaks, MOST_WAITERS, Outcome, Picture, SCENARIO,
};
use crate::chart::{Chart, Line};
use crate::load::{of, span};
use crate::report::{Finding, Report, figure};
use crate::server::Refusal;

impl Outcome {
    fn count(&self, is_one: impl Fn(&Answer) -> bool) -> usize {
        self.answered.iter().filter(|answered| is_one(&answered.answer)).count()
    }

    fn refusals(&self, is_one: impl Fn(&Refusal) -> bool) -> usize {
        self.count(|answer| matches!(answer, Answer::Refused(refusal) if is_one(refusal)))
    }

    fn timed_out(&self) -> usize {
        self.refusals(|refusal| refusal.text.contains("timed out"))
    }

    /// Errors that have the driver's error as their source.
    fn with_cause(&self) -> usize {
        self.refusals(|refusal| refusal.cause.is_some())
    }

    fn longest(&self) -> Duration {
        self.answered.iter().map(|answered| answered.waited).max().unwrap_or_default()
    }

    fn without_answer(&self) -> usize {
        self.came - self.answered.len()
    }

    /// Nothing is idle, there is no room, and more callers wait than at half of the outage.
    fn grows(&self) -> bool {
        let Picture { idle, active, waiting, .. } = self.at_end;
        let is_exhausted = idle == 0 && active == CONNECTIONS as usize;
        is_exhausted && waiting > MOST_WAITERS && waiting > self.at_half
    }

    fn data(&self) -> Value {
        let Picture { idle, active, waiting, unanswered } = self.at_end;
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
        json!({
            "callers": self.came,
            "without_answer": self.without_answer(),
            "served": self.count(|answer| matches!(answer, Answer::Served)),
            "timed_out": self.timed_out(),
            "with_connect_error": self.with_cause(),
            "waiting_at_half": self.at_half,
            "at_the_end_of_the_outage": {
                "idle": idle, "active": active, "waiting": waiting, "unanswered": unanswered,
            },
            "most_waiting": self.most_waiting,
            "outage_seconds": [self.outage.0, self.outage.1],
            "served_again_after_seconds": seconds(self.served_after),
            "no_waiters_after_seconds": seconds(self.drained_after),
            "in_use_at_the_end": self.in_use,
            "in_use_after_leaks_returned": self.in_use_later,
        })
    }
}

pub fn report(flawed: Outcome, fairpool: Outcome, leaks: &Leaks) -> Report {
    let line = format!("{FILE}:{}", fairpool.line);
    // A column follows.
    let prefix = format!("{line}:");
    let lines = leaks.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let found = lines.iter().filter(|found| found.starts_with(&prefix)).count();
    let ended = leaks.ended();
    let cause = fairpool.answered.iter().find_map(|answered| match &answered.answer {
        Answer::Refused(refusal) => refusal.cause.clone(),
        _ => None,
    });

    let both =
        |name: &str, of: &dyn Fn(&Outcome) -> String| figure(name, of(&flawed), of(&fairpool));
    let number =
        |name: &str, of: &dyn Fn(&Outcome) -> usize| both(name, &|pool| of(pool).to_string());
    let after = |of: fn(&Outcome) -> Option<Duration>| {
        move |pool: &Outcome| of(pool).map_or("never".to_string(), span)
    };
    let figures = vec![
        number("callers", &|pool| pool.came),
        number("served", &|pool| pool.count(|answer| matches!(answer, Answer::Served))),
        number("connection broke during use", &|pool| {
            pool.count(|answer| matches!(answer, Answer::Broke))
        }),
        number("refused at once", &|pool| {
            pool.refusals(|refusal| refusal.text.contains("too many"))
        }),
        number("timed out", &Outcome::timed_out),
        number("errors with the driver's error as source", &Outcome::with_cause),
        number("end of outage: idle", &|pool| pool.at_end.idle),
        number("end of outage: active", &|pool| pool.at_end.active),
        both("half and end of outage: waiting", &|pool| {
            format!("{}, {}", pool.at_half, pool.at_end.waiting)
        }),
        number("most callers that waited", &|pool| pool.most_waiting),
        both("longest wait", &|pool| span(pool.longest())),
        both("after the outage: first served", &after(|pool| pool.served_after)),
        both("after the outage: no waiters", &after(|pool| pool.drained_after)),
        figure("leaks reported", "none", format!("{found}, at {line}")),
        number("in use after the last caller", &|pool| pool.in_use),
        figure(
            "in use after the leaks returned",
            flawed.in_use_later,
            format!("{}, {ended} reported", fairpool.in_use_later),
        ),
    ];

    let wrong = [
        (fairpool.most_waiting > MOST_WAITERS, format!("{} waited", fairpool.most_waiting)),
        (
            fairpool.without_answer() > 0,
            format!("{} callers have no answer", of(fairpool.without_answer(), fairpool.came)),
        ),
        (fairpool.with_cause() == 0, "no error has the reason why connecting fails".to_string()),
        (found != LEAKS, format!("{found} of {LEAKS} leaks were reported")),
        (ended != LEAKS, format!("the end of {ended} of {LEAKS} leaks was reported")),
        (fairpool.served_after.is_none(), "no caller is served after the outage".to_string()),
        (
            (fairpool.in_use, fairpool.in_use_later) != (LEAKS, 0),
            format!("{} in use at the end, {} later", fairpool.in_use, fairpool.in_use_later),
        ),
    ];
    let wrong: Vec<String> =
        wrong.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
    let cause = cause.unwrap_or_default();
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "no limit on waiters, no deadline".to_string(),
        load: format!("{CALLERS} callers, {LEAKS} of {CONNECTIONS} connections leak, an outage"),
        figures,
        flawed: Finding {
            shows_the_flaw: flawed.grows(),
            because: format!(
                "{} waited at half of the outage, {} at its end",
                flawed.at_half, flawed.at_end.waiting
            ),
        },
        fairpool: Finding {
            shows_the_flaw: !wrong.is_empty(),
            because: match wrong.is_empty() {
                true => format!("at most {MOST_WAITERS} wait, and their errors say \"{cause}\""),
                false => wrong.join("; "),
            },
        },
        diagnosis: fairpool.diagnosis.clone(),
        data: json!({
            "line": line,
            "leaks_reported": found,
            "leaks_ended": ended,
            "flawed": flawed.data(),
            "fairpool": fairpool.data(),
        }),
        chart: Some(chart(flawed, fairpool)),
    }
}

fn chart(flawed: Outcome, fairpool: Outcome) -> Chart {
    let (from, to) = fairpool.outage;
    let line = |name: &str, points| Line { name: name.to_string(), points };
    Chart {
        title: format!("Waiting callers; outage from {from:.1} s to {to:.1} s"),
        x: "seconds".to_string(),
        y: "waiting".to_string(),
        lines: vec![line("flawed", flawed.waiting), line("fairpool", fairpool.waiting)],
        log_y: false,
    }
}
