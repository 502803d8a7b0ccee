//! The file: JSON in Chrome's trace event format, which both viewers read.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use self::layout::{Drawn, Lanes, drawn};
use self::rows::{Row, Rows, micros};
use crate::piece::{Ended, Piece, What};
use crate::trace::Trace;
use crate::tracker::about;

mod layout;
mod rows;

impl Trace {
    /// Writes the file: JSON, about 250 bytes per slice.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use fairpool_testing::StubManager;
    /// # use std::time::Duration;
    /// # let pool = fairpool::Pool::new(StubManager)?;
    /// let trace = fairpool_trace::record(&[pool.downgrade()], Duration::from_secs(5))?;
    /// trace.write(std::fs::File::create("pool.trace.json")?)?;
    /// // Open the file at https://ui.perfetto.dev, or in chrome://tracing.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, to: impl io::Write) -> io::Result<()> {
        let drawn = drawn(self);
        let lanes = Lanes::of(&drawn);
        let origin = drawn.iter().map(|drawn| drawn.piece.begin).min().unwrap_or(0);
        let mut rows = Rows::begin(to, origin)?;
        self.write_names(&mut rows, &drawn, &lanes)?;
        for one in &drawn {
            write_piece(&mut rows, &one.piece, lanes.number(one))?;
        }
        self.write_arrows(&mut rows, &drawn, &lanes)?;
        for pool in 0..self.pools.len() {
            self.write_counter(&mut rows, "waiting", &drawn, pool, |what| {
                matches!(what, What::Wait { .. })
            })?;
            self.write_counter(&mut rows, "in use", &drawn, pool, |what| {
                matches!(what, What::Hold { .. })
            })?;
        }
        rows.end()
    }

    fn write_names<W: io::Write>(
        &self,
        rows: &mut Rows<W>,
        drawn: &[Drawn],
        lanes: &Lanes,
    ) -> io::Result<()> {
        let mut name = |name, pool, lane, args| {
            rows.write(Row { ph: "M", name, at: i64::MIN, pool, lane }, &[("args", args)])
        };
        for (pool, tracker) in self.pools.iter().enumerate() {
            name("process_name", pool, 0, json!({ "name": &**tracker.name() }))?;
            name("process_sort_index", pool, 0, json!({ "sort_index": pool }))?;
        }
        let mut names: BTreeMap<u64, (usize, String)> = BTreeMap::new();
        for one in drawn {
            let entry = names.entry(lanes.number(one));
            entry.or_insert_with(|| (one.piece.pool, one.lane_name()));
        }
        for (lane, (pool, lane_name)) in names {
            name("thread_name", pool, lane, json!({ "name": lane_name }))?;
            name("thread_sort_index", pool, lane, json!({ "sort_index": lane }))?;
        }
        Ok(())
    }

    /// Writes the arrows from the returns of connections to the callers that they woke.
    fn write_arrows<W: io::Write>(
        &self,
        rows: &mut Rows<W>,
        drawn: &[Drawn],
        lanes: &Lanes,
    ) -> io::Result<()> {
        let mut by_number: Vec<Option<&Drawn>> = vec![None; self.pieces.kept.len()];
        for one in drawn {
            if let Some(number) = one.number {
                by_number[(number - self.pieces.forgotten) as usize] = Some(one);
            }
        }
        let mut id: u64 = 0;
        for woken in drawn {
            let What::Hold { woken_by: Some(number), .. } = woken.piece.what else { continue };
            let kept = number.checked_sub(self.pieces.forgotten);
            let Some(giver) = kept.and_then(|at| by_number[at as usize]) else { continue };
            id += 1;
            // Inside its slice: where the slice ends, another may begin on the lane.
            let from = (giver.piece.end - 1).max(giver.piece.begin);
            let ends = [
                ("s", from, giver, None),
                ("f", woken.piece.begin, woken, Some(("bp", "e".into()))),
            ];
            for (ph, at, drawn, binding) in ends {
                let (pool, lane) = (drawn.piece.pool, lanes.number(drawn));
                let mut fields = vec![("cat", "hand over".into()), ("id", id.into())];
                // The arrow ends at the slice that begins here, not at the one before.
                fields.extend(binding);
                rows.write(Row { ph, name: "hand over", at, pool, lane }, &fields)?;
            }
        }
        Ok(())
    }

    /// Writes the curve of how many pieces of a pool last at the same time.
    fn write_counter<W: io::Write>(
        &self,
        rows: &mut Rows<W>,
        name: &'static str,
        drawn: &[Drawn],
        pool: usize,
        counts: impl Fn(&What) -> bool,
    ) -> io::Result<()> {
        let mut changes: Vec<(i64, i64)> = Vec::new();
        let pieces = drawn.iter().map(|drawn| &drawn.piece);
        for piece in pieces.filter(|piece| piece.pool == pool && counts(&piece.what)) {
            changes.push((piece.begin, 1));
            if piece.ended != Ended::Open {
                changes.push((piece.end, -1));
            }
        }
        changes.sort_unstable();
        let mut count = 0;
        for same in changes.chunk_by(|one, other| one.0 == other.0) {
            let at = same[0].0;
            count += same.iter().map(|change| change.1).sum::<i64>();
            // Before that, some pieces are missing.
            if at >= self.pieces.whole_from {
                let args = json!({ name: count });
                rows.write(Row { ph: "C", name, at, pool, lane: 0 }, &[("args", args)])?;
            }
        }
        Ok(())
    }
}

fn write_piece<W: io::Write>(rows: &mut Rows<W>, piece: &Piece, lane: u64) -> io::Result<()> {
    let Piece { pool, begin, end, .. } = *piece;
    let (name, category, args) = describe(piece);
    let mark = matches!(piece.what, What::Mark(_));
    let row = Row { ph: if mark { "i" } else { "X" }, name: &name, at: begin, pool, lane };
    let extent = match mark {
        // A mark is drawn on its own lane only.
        true => ("s", Value::from("t")),
        false => ("dur", Value::from(micros(end - begin))),
    };
    rows.write(row, &[("cat", category.into()), extent, ("args", args)])
}

/// The name and category of a piece, and everything else that is known about it.
fn describe(piece: &Piece) -> (String, &'static str, Value) {
    let (name, category, mut args) = match &piece.what {
        What::Wait { get_id, call_site, result } => {
            let mut args = about(call_site);
            args["get"] = (*get_id).into();
            args["result"] = match result {
                None => "unknown".into(),
                Some(Ok(())) => "checked_out".into(),
                Some(Err(kind)) => kind.to_string().into(),
            };
            ("wait".to_string(), "wait", args)
        }
        What::Hold { connection_id, backend_id, call_site, waited, .. } => {
            let mut args = about(call_site);
            args["backend"] = (*backend_id).into();
            args["waited"] = format!("{waited:.1?}").into();
            (format!("hold connection {connection_id}"), "hold", args)
        }
        What::State { state, connection_id, backend_id, reason } => {
            let reason = reason.map(|reason| reason.to_string());
            let name = match &reason {
                Some(reason) => format!("{state}: {reason}"),
                None => state.to_string(),
            };
            let args =
                json!({ "connection": connection_id, "backend": backend_id, "reason": reason });
            (name, "connection", args)
        }
        What::Mark(mark) => (mark.name.clone(), "mark", mark.args.clone()),
    };
    match piece.ended {
        Ended::Seen => {}
        Ended::Open => args["end"] = "after the end of the trace".into(),
        Ended::Lost => args["end"] = "unknown: events were lost".into(),
    }
    if !piece.before.is_zero() {
        args["before the trace"] = format!("{:.1?}", piece.before).into();
    }
    (name, category, args)
}
