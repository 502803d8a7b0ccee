//! The table of metrics in the documentation is that of the code.

use std::collections::BTreeSet;

use fairpool_metrics::{FAMILIES, HISTOGRAMS, Kind, Unit};

/// Name, kind and unit of each row of the README's table.
fn documented() -> Vec<(&'static str, &'static str)> {
    let rows = include_str!("../README.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.map(|row| {
        let (name, rest) = row.split_once("` | ").expect("a name");
        let (kind, _) = rest.split_once(" | ").expect("a kind");
        (name, kind)
    });
    rows.collect()
}

#[test]
fn every_metric_is_in_the_table_with_its_kind_and_unit() {
    let kind = |kind| if kind == Kind::Counter { "counter" } else { "gauge" };
    let of_values = FAMILIES.iter().map(|family| {
        let unit = if family.unit == Unit::Seconds { ", s" } else { "" };
        (family.name, format!("{}{unit}", kind(family.kind)))
    });
    let of_times = HISTOGRAMS.iter().map(|family| (family.name, "histogram, s".to_string()));
    let all: BTreeSet<(&str, String)> = of_values.chain(of_times).collect();
    let rows = documented();
    assert_eq!(rows.len(), all.len(), "a name is there twice");
    assert_eq!(all, rows.into_iter().map(|(name, kind)| (name, kind.to_string())).collect());
}
