//! Programs for r2d2 that run on fairpool: see the tests. `src/bin/throughput.rs` runs on either.
