//! Managers of r2d2 on real servers, which the tests start.

mod postgres;
mod redis;
