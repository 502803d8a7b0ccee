//! Two charts of the effect of the fairness bound, side by side. The contestants of the
//! report are bounds, from the smallest to the largest.

use std::path::Path;

use plotters::prelude::*;

use crate::chart::{Area, Drawn, FONT, colour, legend};
use crate::report::{ContestantReport, Report};
use crate::table::{count, tick};

pub fn draw(report: &Report, file: &Path) -> Drawn {
    let area = SVGBackend::new(file, (1100, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "By fairness bound (threads / connections / hold)";
    area.draw(&Text::new(title, (20, 12), (FONT, 18)))?;
    let names: Vec<String> = report.cells.iter().map(|cell| cell.name.clone()).collect();
    legend(&area, &names, 20, 44)?;
    let (left, right) = area.margin(75, 10, 10, 20).split_horizontally(535);
    let rate = |one: &ContestantReport| one.medians.operations_per_second;
    let wait = |one: &ContestantReport| one.medians.wait_p999;
    panel(report, &names, &left, "operations per second", &rate, &count)?;
    panel(report, &names, &right, "wait, 99.9 %", &wait, &tick)?;
    area.present()?;
    Ok(())
}

fn panel(
    report: &Report,
    names: &[String],
    area: &Area<'_>,
    title: &str,
    figure: &dyn Fn(&ContestantReport) -> f64,
    label: &dyn Fn(f64) -> String,
) -> Drawn {
    let bounds: Vec<&String> = report.cells[0].contestants.iter().map(|one| &one.name).collect();
    let values = || report.cells.iter().flat_map(|cell| &cell.contestants).map(figure);
    let (lowest, highest) = (values().fold(f64::MAX, f64::min), values().fold(1.0, f64::max));
    let last = bounds.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 15))
        .margin_right(25)
        .x_label_area_size(30)
        .y_label_area_size(75)
        .build_cartesian_2d(-0.2..last + 0.2, (lowest / 1.5..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(bounds.len())
        .x_label_formatter(&|x| bounds.get(x.round() as usize).map_or("", |name| name).to_string())
        .y_labels(8)
        .y_label_formatter(&|value| label(*value))
        .label_style((FONT, 12))
        .light_line_style(WHITE)
        .draw()?;
    for cell in &report.cells {
        let style = colour(names, &cell.name);
        let points = || cell.contestants.iter().enumerate().map(|(x, one)| (x as f64, figure(one)));
        chart.draw_series(LineSeries::new(points(), style.stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 3, style.filled())))?;
    }
    Ok(())
}
