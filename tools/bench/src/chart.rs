//! Charts as SVG.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{CellReport, Report};
use crate::table::tick;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

pub(crate) const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(90, 90, 90);
/// Colours that colour-blind readers can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
/// Grey, because these are not pools.
const GREYS: [(&str, RGBColor); 3] = [
    ("Mutex<Vec>", RGBColor(130, 130, 130)),
    ("ArrayQueue", RGBColor(190, 190, 190)),
    ("postgres::Client", RGBColor(160, 160, 160)),
];

/// The colour of a contestant, by its position in the list: the same in all charts.
pub(crate) fn colour(names: &[String], name: &str) -> RGBColor {
    let grey = |name: &str| GREYS.iter().find(|(pool, _)| *pool == name);
    if let Some(&(_, colour)) = grey(name) {
        return colour;
    }
    let mut pools = names.iter().filter(|name| grey(name).is_none());
    COLOURS[pools.position(|pool| pool == name).unwrap_or(0) % COLOURS.len()]
}

/// All contestants that were measured in any of these cells.
pub(crate) fn contestants<'a>(cells: impl IntoIterator<Item = &'a CellReport>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for one in cells.into_iter().flat_map(|cell| &cell.contestants) {
        if !one.rounds.is_empty() && !names.contains(&one.name) {
            names.push(one.name.clone());
        }
    }
    names
}

/// Draws squares and names in one line.
pub(crate) fn legend(area: &Area<'_>, names: &[String], left: i32, top: i32) -> Drawn {
    let mut x = left;
    for name in names {
        let square = [(x, top), (x + 12, top + 12)];
        area.draw(&Rectangle::new(square, colour(names, name).filled()))?;
        area.draw(&Text::new(name.clone(), (x + 18, top), (FONT, 14)))?;
        x += 42 + 7 * name.chars().count() as i32;
    }
    Ok(())
}

/// Draws the throughput of each contestant in each cell, as a multiple of `reference`'s.
pub fn throughput(report: &Report, reference: &str, file: &Path) -> Drawn {
    let names = contestants(&report.cells);
    let (width, bar) = (1100, 1.0 / (names.len() as f64 + 1.5));
    let area = SVGBackend::new(file, (width, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("Operations per second, × {reference} (threads / connections / hold)");
    area.draw(&Text::new(title, (20, 12), (FONT, 18)))?;
    legend(&area, &names, 20, 44)?;

    let bars = bars(report, reference, &names, bar);
    let values = || bars.iter().map(|&(_, _, value)| value);
    let lowest = values().fold(0.5, f64::min) * 0.9;
    let highest = values().fold(2.0, f64::max) * 1.5;
    let plot = area.margin(75, 10, 10, 20);
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(45)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..report.cells.len() as f64, (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(8)
        .y_label_formatter(&|value| format!("× {value}"))
        .label_style((FONT, 13))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(bars.iter().map(|&(left, place, value)| {
        let corners = [(left, 1.0), (left + bar, value)];
        Rectangle::new(corners, colour(&names, &names[place]).filled())
    }))?;
    let line = [(0.0, 1.0), (report.cells.len() as f64, 1.0)];
    chart.draw_series([PathElement::new(line, BLACK)])?;
    let upright = |size| (FONT, size).into_font().transform(FontTransform::Rotate270);
    chart.draw_series(bars.iter().map(|&(left, _, value)| {
        let style = upright(10).color(&GREY).pos(Pos::new(HPos::Left, VPos::Center));
        let label = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
        Text::new(label, (left + bar / 2.0, value.max(1.0) * 1.05), style)
    }))?;
    for (place, cell) in report.cells.iter().enumerate() {
        let (x, _) = chart.backend_coord(&(place as f64 + 0.5, lowest));
        below(&area, cell, x, 520 - 50)?;
    }
    area.present()?;
    Ok(())
}

/// Draws the name of a cell in two lines, centred below its bars.
pub(crate) fn below(area: &Area<'_>, cell: &CellReport, x: i32, y: i32) -> Drawn {
    let style = (FONT, 13).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
    let mut parts = cell.name.splitn(3, " / ");
    let size = [parts.next(), parts.next()].into_iter().flatten().collect::<Vec<_>>().join(" / ");
    area.draw(&Text::new(size, (x, y), style.clone()))?;
    area.draw(&Text::new(parts.next().unwrap_or("").to_string(), (x, y + 17), style))?;
    Ok(())
}

/// The left edge, the contestant's position and the multiple of the reference.
fn bars(report: &Report, reference: &str, names: &[String], bar: f64) -> Vec<(f64, usize, f64)> {
    let mut bars = Vec::new();
    for (number, cell) in report.cells.iter().enumerate() {
        let Some(reference) = cell.contestant(reference) else { continue };
        let mut left = number as f64 + 0.75 * bar;
        for (place, name) in names.iter().enumerate() {
            if let Some(one) = cell.contestant(name) {
                let value = one.ratio(reference, |figures| figures.operations_per_second);
                bars.push((left, place, value));
            }
            left += bar;
        }
    }
    bars
}

/// Draws the distribution of waits in each cell where they matter: percentiles as nines to the right, the
/// longest wait at the right end of each line.
pub fn waits(report: &Report, file: &Path) -> Drawn {
    let cells: Vec<&CellReport> = report.cells.iter().filter(|cell| cell.has_queue()).collect();
    let (rows, names) = (cells.len().div_ceil(2), contestants(cells.iter().copied()));
    let height = 90 + 300 * rows as u32;
    let area = SVGBackend::new(file, (1100, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "Waits for a connection by percentile (threads / connections / hold)";
    area.draw(&Text::new(title, (20, 12), (FONT, 18)))?;
    legend(&area, &names, 20, 44)?;
    let panels = area.margin(80, 10, 10, 20).split_evenly((rows, 2));
    for (cell, panel) in cells.into_iter().zip(&panels) {
        distribution(cell, &names, panel)?;
    }
    area.present()?;
    Ok(())
}

fn distribution(cell: &CellReport, names: &[String], panel: &Area<'_>) -> Drawn {
    let points = || cell.contestants.iter().flat_map(|one| &one.waits);
    let right = points().map(|&(nines, _)| nines).fold(1.0, f64::max);
    let longest = points().map(|&(_, wait)| wait as f64).fold(1e3, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(&cell.name, (FONT, 15))
        .margin_right(15)
        .x_label_area_size(28)
        .y_label_area_size(65)
        .build_cartesian_2d(0.0..right, (10.0..longest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(right as usize + 1)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_labels(8)
        .y_label_formatter(&|nanos| tick(*nanos))
        .label_style((FONT, 12))
        .light_line_style(WHITE)
        .draw()?;
    // The first is drawn last and wider, so that it is above the others.
    for (place, one) in cell.contestants.iter().enumerate().rev() {
        let line = one.waits.iter().map(|&(nines, wait)| (nines, wait.max(10) as f64));
        let style = colour(names, &one.name).stroke_width(if place == 0 { 3 } else { 2 });
        chart.draw_series(LineSeries::new(line, style))?;
    }
    Ok(())
}

/// The percentile of a number of nines: 0 is 0%, 1 is 90%, 2 is 99%, 3 is 99.9%.
fn percentile(nines: f64) -> String {
    let digits = (nines.round() as usize).saturating_sub(2);
    format!("{:.digits$}%", 100.0 - 100.0 * 10f64.powf(-nines))
}
