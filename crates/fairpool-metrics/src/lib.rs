#![doc = include_str!("../README.md")]

mod families;
mod family;
mod pools;

pub use self::families::{BUCKET_BOUNDS, FAMILIES, HISTOGRAMS, POOL_NAME};
pub use self::family::{Family, HistogramFamily, Kind, Sample, Unit, Value};
pub use self::pools::{PoolReading, Pools};
