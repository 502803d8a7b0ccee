//! A diagnosis as text for a terminal.

use std::fmt;

use super::{Diagnosis, Finding, FindingKind, Memory, Severity};
use crate::types::text::{Plain, count, wrapped};

impl fmt::Display for Diagnosis {
    /// A report, most severe findings first; one line if there are none. For the dump of
    /// the state, print [`snapshot`](Diagnosis::snapshot).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, span) = (Plain(&self.pool), self.span);
        if self.findings.is_empty() {
            let health = &self.snapshot.health;
            wrapped(f, "", &format!("pool '{pool}': nothing found within {span:.1?} ({health})"))?;
        } else {
            let findings = count(self.findings.len() as u64, "finding", "findings");
            wrapped(f, "", &format!("pool '{pool}': {findings} within {span:.1?}"))?;
        }
        self.findings.iter().try_for_each(|finding| write!(f, "{finding}"))?;
        self.memory.map_or(Ok(()), |memory| writeln!(f, "memory of the process: {memory}"))
    }
}

impl fmt::Display for Finding {
    /// The summary, the evidence and the advice, on a few lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        wrapped(f, &format!("{:<9} ", self.severity.to_string().to_uppercase()), &self.summary)?;
        self.evidence.iter().try_for_each(|line| wrapped(f, "            - ", line))?;
        wrapped(f, "          > ", &self.advice)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        })
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FindingKind::Closed => "closed with connections out",
            FindingKind::Paused => "paused",
            FindingKind::SelfDeadlock => "self-deadlock",
            FindingKind::Leak => "leak",
            FindingKind::ConnectFails => "connect fails",
            FindingKind::ConnectHangs => "connect hangs",
            FindingKind::CheckHangs => "check hangs",
            FindingKind::CloseHangs => "close hangs",
            FindingKind::AbandonedCalls => "abandoned calls",
            FindingKind::Saturated => "saturated",
            FindingKind::Refused => "callers refused",
            FindingKind::Queue => "queue",
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} MiB resident, {:.1} MiB at its peak", mib(self.resident), mib(self.peak))
    }
}
