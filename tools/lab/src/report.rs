//! The results of a scenario: a table with both pools, a verdict, and fairpool's diagnosis.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

use crate::chart::Chart;

#[derive(Serialize)]
pub struct Report {
    pub scenario: &'static str,
    /// The flaw, in one sentence.
    pub flawed_pool: String,
    /// The load, in one sentence.
    pub load: String,
    pub figures: Vec<Figure>,
    /// Whether the flawed pool showed its flaw, and by which figures.
    pub flawed: Finding,
    pub fairpool: Finding,
    /// fairpool's diagnosis under this load; empty if there is none.
    pub diagnosis: String,
    /// All other figures, for the JSON.
    pub data: Value,
    #[serde(skip)]
    pub chart: Option<Chart>,
}

#[derive(Serialize)]
pub struct Figure {
    pub name: String,
    pub flawed: String,
    pub fairpool: String,
}

#[derive(Serialize)]
pub struct Finding {
    pub shows_the_flaw: bool,
    pub because: String,
}

pub fn figure(name: impl Into<String>, flawed: impl ToString, fairpool: impl ToString) -> Figure {
    Figure { name: name.into(), flawed: flawed.to_string(), fairpool: fairpool.to_string() }
}

pub enum Verdict {
    AsExpected,
    Unexpected(&'static str),
}

impl Report {
    /// With the flaw fixed, neither pool may show it.
    pub fn verdict(&self, fixed: bool) -> Verdict {
        match (self.flawed.shows_the_flaw, fixed, self.fairpool.shows_the_flaw) {
            (_, _, true) => Verdict::Unexpected("fairpool shows the flaw"),
            (false, false, _) => Verdict::Unexpected("the flawed pool does not show its flaw"),
            (true, true, _) => Verdict::Unexpected("the fixed pool still shows the flaw"),
            _ => Verdict::AsExpected,
        }
    }

    fn verdict_text(&self, fixed: bool) -> String {
        match self.verdict(fixed) {
            Verdict::AsExpected if fixed => {
                "as expected: with the flaw fixed, neither pool shows it".into()
            }
            Verdict::AsExpected => {
                "as expected: the flawed pool shows the flaw, fairpool does not".into()
            }
            Verdict::Unexpected(what) => format!("NOT AS EXPECTED: {what}"),
        }
    }

    pub fn text(&self, fixed: bool) -> String {
        let name = if fixed { "flaw fixed" } else { "flawed" };
        let mut table = table();
        table.set_header([self.scenario, name, "fairpool"]);
        for Figure { name, flawed, fairpool } in &self.figures {
            table.add_row([name, flawed, fairpool]);
        }
        let mut text = format!(
            "{table}\n{name}: {}\nfairpool: {}\nverdict: {}\n",
            self.flawed.because,
            self.fairpool.because,
            self.verdict_text(fixed)
        );
        if !self.diagnosis.is_empty() {
            text += "fairpool's diagnosis under this load:\n";
            for line in self.diagnosis.trim_end().lines() {
                text += &format!("    {line}\n");
            }
        }
        text
    }
}

/// A table with one row for each scenario.
pub fn summary(reports: &[Report], fixed: bool) -> String {
    let mut table = table();
    let name = if fixed { "flaw fixed" } else { "flawed" };
    table.set_header(["scenario", name, "fairpool", "verdict"]);
    for report in reports {
        let verdict = report.verdict_text(fixed);
        let verdict = verdict.split(':').next().unwrap_or_default();
        table.add_row([report.scenario, &report.flawed.because, &report.fairpool.because, verdict]);
    }
    table.to_string()
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(120);
    }
    table
}
