#![doc = include_str!("../README.md")]

mod instruments;
mod thinning;

pub use self::instruments::OpenTelemetryMetrics;
