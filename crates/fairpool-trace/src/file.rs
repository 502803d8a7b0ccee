//! The file: the JSON of Chrome's trace events, which both viewers read.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::book::{about, name_of_reason, name_of_state};
use super::{How, Lane, Mark, Piece, Trace, What};

/// Lanes have numbers of their own, which are not those of any process.
const FIRST_LANE: u64 = 1000;

/// One line of the file. Times are microseconds.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    ph: &'a str,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: usize,
    tid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'a str>,
    /// Of an arrow: the same at both ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// Of an arrow's end: it ends at the slice that begins here.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'a str>,
    /// Of a mark: it is on its lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Value>,
}

impl<'a> Row<'a> {
    fn new(ph: &'a str, name: &'a str, ts: f64, pid: usize, tid: u64) -> Row<'a> {
        let (dur, cat, id, bp, s, args) = (None, None, None, None, None, None);
        Row { name, ph, ts, dur, pid, tid, cat, id, bp, s, args }
    }
}

/// A piece, and which of its thread's lanes it is on.
struct Drawn {
    piece: Piece,
    number: Option<u64>,
    row: usize,
}

impl Trace {
    /// Writes the file: JSON, some 250 bytes for each slice.
    ///
    /// # Errors
    ///
    /// Those of `to`.
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
        let drawn = self.drawn();
        let first = drawn.iter().map(|drawn| drawn.piece.begin).min().unwrap_or(0);
        let lanes = lanes(&drawn);
        let out = Rows { to: io::BufWriter::new(to), any: false, first };
        let mut out = out.begin()?;
        self.write_names(&mut out, &drawn, &lanes)?;
        for one in &drawn {
            out.piece(one, lanes[&one.lane()])?;
        }
        self.write_arrows(&mut out, &drawn, &lanes)?;
        for (pool, _) in self.books.iter().enumerate() {
            self.write_counters(&mut out, &drawn, pool)?;
        }
        out.end()
    }

    /// Everything, in the order of the lanes.
    fn drawn(&self) -> Vec<Drawn> {
        let numbers = self.pieces.forgotten..;
        let ended = self.pieces.kept.iter().zip(numbers);
        let ended = ended.map(|(piece, number)| Drawn {
            piece: piece.clone(),
            number: Some(number),
            row: 0,
        });
        let open = self.books.iter().flat_map(|book| book.open(self.end));
        let open = open.map(|piece| Drawn { piece, number: None, row: 0 });
        let mut all: Vec<Drawn> = ended.chain(open).collect();
        if self.forgotten() > 0 {
            all.extend((0..self.books.len()).map(|pool| self.mark_of_forgotten(pool)));
        }
        all.sort_by_key(|Drawn { piece, .. }| {
            (piece.pool, piece.lane, piece.begin, Reverse(piece.end))
        });
        for lane in all.chunk_by_mut(|one, other| one.lane() == other.lane()) {
            nest(lane);
        }
        all
    }

    fn mark_of_forgotten(&self, pool: usize) -> Drawn {
        let at = self.pieces.whole_from;
        let forgotten = self.forgotten();
        let mark = Mark {
            name: "earlier slices were forgotten".to_string(),
            call_site: None,
            args: json!({ "forgotten": forgotten }),
        };
        let (lane, how, what) = (Lane::Pool, How::Ended, What::Mark(Box::new(mark)));
        let piece = Piece { pool, lane, begin: at, end: at, before: Duration::ZERO, how, what };
        Drawn { piece, number: None, row: 0 }
    }

    fn write_names<W: io::Write>(
        &self,
        out: &mut Rows<W>,
        drawn: &[Drawn],
        lanes: &Lanes,
    ) -> io::Result<()> {
        for (pool, book) in self.books.iter().enumerate() {
            let name = Some(json!({ "name": &**book.name() }));
            out.name("process_name", pool, 0, name)?;
            out.name("process_sort_index", pool, 0, Some(json!({ "sort_index": pool })))?;
        }
        let mut names: BTreeMap<u64, (usize, String)> = BTreeMap::new();
        for one in drawn {
            let tid = lanes[&one.lane()];
            names.entry(tid).or_insert_with(|| (one.piece.pool, one.lane_name()));
        }
        for (tid, (pool, name)) in names {
            out.name("thread_name", pool, tid, Some(json!({ "name": name })))?;
            out.name("thread_sort_index", pool, tid, Some(json!({ "sort_index": tid })))?;
        }
        Ok(())
    }

    /// From the returns of connections to those who were woken.
    fn write_arrows<W: io::Write>(
        &self,
        out: &mut Rows<W>,
        drawn: &[Drawn],
        lanes: &Lanes,
    ) -> io::Result<()> {
        let mut by_number: Vec<Option<usize>> = vec![None; self.pieces.kept.len()];
        for (at, one) in drawn.iter().enumerate() {
            if let Some(number) = one.number {
                by_number[(number - self.pieces.forgotten) as usize] = Some(at);
            }
        }
        let mut id = 0;
        for woken in drawn {
            let What::Hold { woken_by: Some(number), .. } = woken.piece.what else { continue };
            let kept = number.checked_sub(self.pieces.forgotten);
            let Some(giver) = kept.and_then(|at| by_number[at as usize]) else { continue };
            let giver = &drawn[giver];
            id += 1;
            // Inside its slice: at the end, another may have begun on the lane.
            let from = (giver.piece.end - 1).max(giver.piece.begin);
            out.arrow("s", id, from, giver.piece.pool, lanes[&giver.lane()])?;
            out.arrow("f", id, woken.piece.begin, woken.piece.pool, lanes[&woken.lane()])?;
        }
        Ok(())
    }

    fn write_counters<W: io::Write>(
        &self,
        out: &mut Rows<W>,
        drawn: &[Drawn],
        pool: usize,
    ) -> io::Result<()> {
        let waits = |what: &What| matches!(what, What::Wait { .. });
        let holds = |what: &What| matches!(what, What::Hold { .. });
        self.write_counter(out, "waiting", drawn, |one| one.pool == pool && waits(&one.what))?;
        self.write_counter(out, "in use", drawn, |one| one.pool == pool && holds(&one.what))
    }

    fn write_counter<W: io::Write>(
        &self,
        out: &mut Rows<W>,
        name: &str,
        drawn: &[Drawn],
        mut counts: impl FnMut(&Piece) -> bool,
    ) -> io::Result<()> {
        let mut changes: Vec<(i64, i64, usize)> = Vec::new();
        for Drawn { piece, .. } in drawn.iter().filter(|drawn| counts(&drawn.piece)) {
            changes.push((piece.begin, 1, piece.pool));
            if piece.how != How::Open {
                changes.push((piece.end, -1, piece.pool));
            }
        }
        changes.sort_unstable();
        let mut count = 0;
        for same in changes.chunk_by(|one, other| one.0 == other.0) {
            let (at, _, pool) = same[0];
            count += same.iter().map(|change| change.1).sum::<i64>();
            // Before that, not all are known.
            if at >= self.pieces.whole_from {
                out.counter(name, at, pool, count)?;
            }
        }
        Ok(())
    }
}

/// The numbers of lanes: pool, lane, and row within it.
type Lanes = BTreeMap<(usize, Lane, usize), u64>;

fn lanes(drawn: &[Drawn]) -> Lanes {
    let mut lanes: Lanes = drawn.iter().map(|one| (one.lane(), 0)).collect();
    lanes.values_mut().zip(FIRST_LANE..).for_each(|(tid, number)| *tid = number);
    lanes
}

/// Finds a row for each slice of a lane, so that two on one row never overlap unless
/// one lies inside the other. They are sorted by their beginning, the longer first.
fn nest(lane: &mut [Drawn]) {
    let mut rows: Vec<Vec<i64>> = Vec::new();
    for Drawn { piece, row, .. } in lane {
        if matches!(piece.what, What::Mark(_)) {
            continue;
        }
        let fits = rows.iter_mut().position(|ends| {
            while ends.last().is_some_and(|&end| end <= piece.begin) {
                ends.pop();
            }
            ends.last().is_none_or(|&end| piece.end <= end)
        });
        *row = fits.unwrap_or(rows.len());
        if fits.is_none() {
            rows.push(Vec::new());
        }
        rows[*row].push(piece.end);
    }
}

impl Drawn {
    fn lane(&self) -> (usize, Lane, usize) {
        (self.piece.pool, self.piece.lane, self.row)
    }

    fn lane_name(&self) -> String {
        let call_site = match &self.piece.what {
            What::Wait { call_site, .. } | What::Hold { call_site, .. } => Some(call_site),
            What::Mark(mark) => mark.call_site.as_ref(),
            What::State { .. } => None,
        };
        let name = match (self.piece.lane, call_site) {
            (Lane::Pool, _) => "pool".to_string(),
            (Lane::Place(place), _) => format!("connection place {place}"),
            (Lane::Thread(_), Some(call_site)) => call_site.thread().to_string(),
            (Lane::Thread(number), None) => format!("thread {number}"),
        };
        if self.row == 0 { name } else { format!("{name} ({})", self.row + 1) }
    }
}

/// A file that is being written.
struct Rows<W: io::Write> {
    to: io::BufWriter<W>,
    any: bool,
    /// What is shown as zero.
    first: i64,
}

impl<W: io::Write> Rows<W> {
    fn begin(mut self) -> io::Result<Rows<W>> {
        use io::Write;
        self.to.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(self)
    }

    fn end(mut self) -> io::Result<()> {
        use io::Write;
        self.to.write_all(b"\n]}\n")?;
        self.to.flush()
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        use io::Write;
        self.to.write_all(if self.any { b",\n" } else { b"\n" })?;
        self.any = true;
        serde_json::to_writer(&mut self.to, row).map_err(io::Error::from)
    }

    fn micros(&self, at: i64) -> f64 {
        (at - self.first).max(0) as f64 / 1000.0
    }

    fn name(&mut self, what: &str, pool: usize, tid: u64, args: Option<Value>) -> io::Result<()> {
        self.row(&Row { args, ..Row::new("M", what, 0.0, pool + 1, tid) })
    }

    fn piece(&mut self, drawn: &Drawn, tid: u64) -> io::Result<()> {
        let Piece { pool, begin, end, .. } = drawn.piece;
        let (name, cat, args) = describe(&drawn.piece);
        let mark = matches!(drawn.piece.what, What::Mark(_));
        let ph = if mark { "i" } else { "X" };
        let row = Row::new(ph, &name, self.micros(begin), pool + 1, tid);
        let dur = (!mark).then(|| (end - begin) as f64 / 1000.0);
        let (cat, s) = (Some(cat), mark.then_some("t"));
        self.row(&Row { dur, cat, s, args: Some(args), ..row })
    }

    fn arrow(&mut self, ph: &str, id: u64, at: i64, pool: usize, tid: u64) -> io::Result<()> {
        let bp = (ph == "f").then_some("e");
        let row = Row::new(ph, "hand over", self.micros(at), pool + 1, tid);
        self.row(&Row { cat: Some("hand over"), id: Some(id), bp, ..row })
    }

    fn counter(&mut self, name: &str, at: i64, pool: usize, count: i64) -> io::Result<()> {
        let args = Some(json!({ name: count }));
        self.row(&Row { args, ..Row::new("C", name, self.micros(at), pool + 1, 0) })
    }
}

/// Its name, its kind, and what else is known.
fn describe(piece: &Piece) -> (String, &'static str, Value) {
    let (name, cat, mut args) = match &piece.what {
        What::Wait { get, call_site, result } => {
            let mut args = about(call_site);
            args["get"] = (*get).into();
            args["result"] = (*result).into();
            ("wait".to_string(), "wait", args)
        }
        What::Hold { connection, call_site, waited, .. } => {
            let mut args = about(call_site);
            args["waited"] = format!("{waited:.1?}").into();
            (format!("hold connection {connection}"), "hold", args)
        }
        What::State { state, connection, reason } => {
            let args = json!({ "connection": connection, "reason": reason.map(name_of_reason) });
            let name = match reason {
                Some(reason) => format!("{}: {}", name_of_state(*state), name_of_reason(*reason)),
                None => name_of_state(*state).to_string(),
            };
            (name, "connection", args)
        }
        What::Mark(mark) => (mark.name.clone(), "mark", mark.args.clone()),
    };
    match piece.how {
        How::Ended => {}
        How::Open => args["end"] = "after the end of the trace".into(),
        How::Unseen => args["end"] = "not seen: events were lost".into(),
    }
    if !piece.before.is_zero() {
        args["before the trace"] = format!("{:.1?}", piece.before).into();
    }
    (name, cat, args)
}
