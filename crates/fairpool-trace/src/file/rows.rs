//! The rows of a file: one JSON object per line.

use std::io::{self, Write};

use serde_json::Value;

/// What every row has.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// The kind of row, a letter.
    pub(super) ph: &'static str,
    pub(super) name: &'a str,
    /// Nanoseconds, on the clock of the trace.
    pub(super) at: i64,
    pub(super) pool: usize,
    pub(super) lane: u64,
}

/// A file that is being written.
pub(super) struct Rows<W: Write> {
    to: io::BufWriter<W>,
    any: bool,
    /// The time that is shown as zero.
    origin: i64,
}

impl<W: Write> Rows<W> {
    pub(super) fn begin(to: W, origin: i64) -> io::Result<Rows<W>> {
        let mut to = io::BufWriter::new(to);
        to.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Rows { to, any: false, origin })
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.to.write_all(b"\n]}\n")?;
        self.to.flush()
    }

    /// Writes a row with further fields.
    pub(super) fn write(&mut self, row: Row<'_>, more: &[(&str, Value)]) -> io::Result<()> {
        let Row { ph, name, at, pool, lane } = row;
        self.to.write_all(if self.any { b",\n" } else { b"\n" })?;
        self.any = true;
        let (micros, pid) = (micros(at.saturating_sub(self.origin).max(0)), pool + 1);
        write!(
            self.to,
            "{{\"ph\":\"{ph}\",\"ts\":{micros},\"pid\":{pid},\"tid\":{lane},\"name\":"
        )?;
        serde_json::to_writer(&mut self.to, name)?;
        for (key, value) in more {
            write!(self.to, ",\"{key}\":")?;
            serde_json::to_writer(&mut self.to, value)?;
        }
        self.to.write_all(b"}")
    }
}

/// The unit of time in the file.
pub(super) fn micros(nanos: i64) -> f64 {
    nanos as f64 / 1000.0
}
