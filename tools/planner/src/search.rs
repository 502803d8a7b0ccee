//! The smallest pool that keeps the goal, the curve around it, and the room for growth.

use std::time::Duration;

use fairpool::Error;

use crate::load::Load;
use crate::trial::{Waits, try_size, try_well};

/// The most sizes in the chart.
const POINTS: u32 = 14;

pub struct Found {
    pub size: u32,
    pub waits: Waits,
}

/// With fewer connections the queue grows without end.
pub fn least(load: &Load, service: Duration) -> u32 {
    (load.rate * service.as_secs_f64()).floor() as u32 + 1
}

/// `None` if even `most` does not keep the goal.
pub fn smallest(
    load: &Load,
    service: Duration,
    goal: Duration,
    most: u32,
) -> Result<Option<Found>, Error> {
    let least = least(load, service);
    // Doubles the distance from the least until the goal is kept.
    let (mut too_small, mut room) = (least - 1, 0);
    let mut found = loop {
        let size = least.saturating_add(room).min(most);
        let waits = if size < least { None } else { Some(try_size(size, load, goal)?) };
        match waits {
            Some(waits) if waits.p99 <= goal => break Found { size, waits },
            _ if size >= most => return Ok(None),
            _ => too_small = size,
        }
        room = room * 2 + 1;
    };
    while found.size - too_small > 1 {
        let size = too_small + (found.size - too_small) / 2;
        let waits = try_size(size, load, goal)?;
        if waits.p99 <= goal {
            found = Found { size, waits };
        } else {
            too_small = size;
        }
    }
    // The queue of a large pool that is almost always busy takes long to settle, so a short
    // simulation may see a shorter queue.
    loop {
        found.waits = try_well(found.size, load)?;
        match found.size {
            _ if found.waits.p99 <= goal => return Ok(Some(found)),
            size if size >= most => return Ok(None),
            _ => found.size += 1,
        }
    }
}

/// Waits by size, from the least to where waits are negligible.
pub fn curve(
    load: &Load,
    service: Duration,
    goal: Duration,
    size: u32,
) -> Result<Vec<(u32, Waits)>, Error> {
    let least = least(load, service);
    let step = (size - least) * 2 / POINTS + 1;
    let mut points: Vec<(u32, Waits)> = Vec::new();
    for number in 0..POINTS {
        let size = least + number * step;
        let waits = try_size(size, load, goal)?;
        points.push((size, waits));
        if waits.p99 < goal / 50 {
            break;
        }
    }
    Ok(points)
}

/// The size beyond which more connections gain little: the point of the curve that is
/// farthest below the straight line between its ends (kneedle; Satopää et al., 2011).
pub fn knee(curve: &[(u32, Waits)]) -> Option<u32> {
    let (first, last) = (curve.first()?, curve.last()?);
    let x = |size: u32| f64::from(size - first.0) / f64::from((last.0 - first.0).max(1));
    let highest = (first.1.p99.saturating_sub(last.1.p99)).as_secs_f64().max(1e-9);
    let y = |waits: &Waits| waits.p99.saturating_sub(last.1.p99).as_secs_f64() / highest;
    let below = |point: &&(u32, Waits)| 1.0 - x(point.0) - y(&point.1);
    let deepest = curve.iter().max_by(|a, b| below(a).total_cmp(&below(b)))?;
    Some(deepest.0)
}

/// The factor by which the load may grow until this size no longer keeps the goal.
pub fn room(load: &Load, service: Duration, goal: Duration, size: u32) -> Result<f64, Error> {
    let offered = load.rate * service.as_secs_f64();
    let (mut kept, mut broken) = (1.0, f64::from(size) / offered);
    for _ in 0..6 {
        let factor = (kept + broken) / 2.0;
        let more = Load { rate: load.rate * factor, ..*load };
        if try_size(size, &more, goal)?.p99 <= goal {
            kept = factor;
        } else {
            broken = factor;
        }
    }
    Ok(kept)
}
