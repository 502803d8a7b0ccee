//! The waits by pool size, as SVG.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

use crate::plan::Plan;
use crate::trial::Waits;

const ORANGE: RGBColor = RGBColor(213, 94, 0);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const GREY: RGBColor = RGBColor(90, 90, 90);
const FONT: &str = "sans-serif";

/// Shorter waits are drawn here, because a logarithmic scale has no zero.
const LEAST: f64 = 0.01;

pub fn draw(plan: &Plan, goal: Duration, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let millis = |span: Duration| (span.as_secs_f64() * 1e3).max(LEAST);
    let first = f64::from(plan.curve.first().map_or(1, |point| point.0));
    let last = f64::from(plan.curve.last().map_or(1, |point| point.0));
    let top = plan.curve.iter().map(|point| millis(point.1.p99)).fold(millis(goal), f64::max);
    let area = SVGBackend::new(file, (900, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption("Waits for a connection by pool size of an instance", (FONT, 20));
    builder.margin(14).x_label_area_size(42).y_label_area_size(70);
    let (x, y) = (first - 0.5..last + 0.5, (LEAST / 1.5..top * 2.0).log_scale());
    let mut chart = builder.build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    let whole = |x: &f64| if x.fract() == 0.0 { format!("{x}") } else { String::new() };
    mesh.x_desc("connections").y_desc("milliseconds").x_label_formatter(&whole);
    mesh.disable_x_mesh().x_labels(2 * plan.curve.len() + 2);
    mesh.label_style((FONT, 14)).axis_desc_style((FONT, 15)).light_line_style(WHITE).draw()?;

    let mut line = |name: String, points: Vec<(f64, f64)>, colour: RGBColor, dots: bool| {
        let size = if dots { 4 } else { 0 };
        let drawn = chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        drawn
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(points.into_iter().map(|at| Circle::new(at, size, colour.filled())))?;
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let by_size = |of: fn(&Waits) -> Duration| {
        let points = plan.curve.iter().map(|(size, waits)| (f64::from(*size), millis(of(waits))));
        points.collect()
    };
    line("p99".to_string(), by_size(|waits| waits.p99), ORANGE, true)?;
    line("p50".to_string(), by_size(|waits| waits.p50), BLUE, true)?;
    let goal = millis(goal);
    line(format!("goal {goal} ms"), vec![(first - 0.5, goal), (last + 0.5, goal)], GREY, false)?;
    let upright = |size: u32| vec![(f64::from(size), LEAST), (f64::from(size), top)];
    let both = if plan.knee == Some(plan.size) { " and the knee" } else { "" };
    line(format!("the plan{both}: {}", plan.size), upright(plan.size), GREEN, false)?;
    if let Some(knee) = plan.knee.filter(|knee| *knee != plan.size) {
        line(format!("the knee: {knee}"), upright(knee), BLACK, false)?;
    }
    let mut labels = chart.configure_series_labels();
    labels.border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.85)).label_font((FONT, 14));
    labels.position(SeriesLabelPosition::UpperRight).draw()?;
    area.present()?;
    Ok(())
}
