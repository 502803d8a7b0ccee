#![doc = include_str!("../README.md")]

mod collector;

pub use self::collector::{PrometheusCollector, TEXT_CONTENT_TYPE};
