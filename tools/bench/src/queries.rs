//! The chart of what a user of a database sees: for one kind of work, operations per second and
//! the p99 of whole operations, for each number of threads and connections.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::chart::{Area, Drawn, FONT, below, colour, contestants, legend};
use crate::report::{CellReport, ContestantReport, Report};
use crate::table::{count, span, tick};

const WIDTH: u32 = 1100;
const PANEL: u32 = 330;
const TOP: u32 = 70;

/// The cells of the work in this report; none in results from before it was measured.
pub fn cells<'a>(report: &'a Report, work: &str) -> Vec<&'a CellReport> {
    let is_of = |cell: &&CellReport| cell.name.splitn(3, " / ").nth(2) == Some(work);
    report.cells.iter().filter(is_of).collect()
}

/// Draws both panels, and only the first if whole operations were not timed.
pub fn draw(report: &Report, work: &str, file: &Path) -> Drawn {
    let cells = cells(report, work);
    let names = contestants(cells.iter().copied());
    let timed = cells.iter().flat_map(|cell| &cell.contestants).any(ContestantReport::has_wholes);
    let height = TOP + PANEL * if timed { 2 } else { 1 };
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "A query by primary key (threads / connections)";
    area.draw(&Text::new(title, (20, 12), (FONT, 18)))?;
    legend(&area, &names, 20, 44)?;
    let (_, panels) = area.split_vertically(TOP);
    let (first, second) = panels.split_vertically(PANEL);
    let rate = |one: &ContestantReport| one.medians.operations_per_second;
    let bars = Bars { cells: &cells, names: &names, figure: &rate, label: &count, tick: &count };
    let highest = bars.highest();
    bars.draw(&area, &first, "operations per second", 0.0, 0.0..highest * 1.3)?;
    if timed {
        let whole = |one: &ContestantReport| one.medians.whole_p99;
        let bars = Bars { cells: &cells, names: &names, figure: &whole, label: &span, tick: &tick };
        let (floor, highest) = (bars.lowest() / 2.0, bars.highest());
        let axis = (floor..highest * 6.0).log_scale();
        bars.draw(&area, &second, "get, query and return: p99 (logarithmic)", floor, axis)?;
    }
    area.present()?;
    Ok(())
}

/// One figure of all contestants in all cells.
struct Bars<'a> {
    cells: &'a [&'a CellReport],
    names: &'a [String],
    figure: &'a dyn Fn(&ContestantReport) -> f64,
    label: &'a dyn Fn(f64) -> String,
    /// Of the axis.
    tick: &'a dyn Fn(f64) -> String,
}

impl Bars<'_> {
    /// The left edge, the contestant and its figure.
    fn values(&self) -> Vec<(f64, &String, f64)> {
        let mut bars = Vec::new();
        for (number, cell) in self.cells.iter().enumerate() {
            for (place, name) in self.names.iter().enumerate() {
                if let Some(one) = cell.contestant(name) {
                    let left = number as f64 + (place as f64 + 0.75) * self.width();
                    bars.push((left, name, (self.figure)(one)));
                }
            }
        }
        bars
    }

    fn width(&self) -> f64 {
        1.0 / (self.names.len() as f64 + 1.5)
    }

    fn lowest(&self) -> f64 {
        self.values().iter().map(|&(.., value)| value).fold(f64::MAX, f64::min)
    }

    fn highest(&self) -> f64 {
        self.values().iter().map(|&(.., value)| value).fold(1.0, f64::max)
    }

    /// Draws them in a panel of `area`, from `floor` up.
    fn draw<Y>(&self, area: &Area<'_>, panel: &Area<'_>, title: &str, floor: f64, axis: Y) -> Drawn
    where
        Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
    {
        let mut chart = ChartBuilder::on(panel)
            .caption(title, (FONT, 15))
            .margin_left(10)
            .margin_right(20)
            .x_label_area_size(45)
            .y_label_area_size(75)
            .build_cartesian_2d(0.0..self.cells.len() as f64, axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_labels(6)
            .y_label_formatter(&|value| (self.tick)(*value))
            .label_style((FONT, 12))
            .light_line_style(WHITE)
            .draw()?;
        let (bars, width) = (self.values(), self.width());
        chart.draw_series(bars.iter().map(|&(left, name, value)| {
            let corners = [(left, floor), (left + width, value)];
            Rectangle::new(corners, colour(self.names, name).filled())
        }))?;
        let style = (FONT, 11).into_font().transform(FontTransform::Rotate270);
        let style = style.color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        for &(left, _, value) in &bars {
            let (x, y) = chart.backend_coord(&(left + width / 2.0, value));
            area.draw(&Text::new((self.label)(value), (x, y - 5), style.clone()))?;
        }
        for (place, cell) in self.cells.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(place as f64 + 0.5, floor));
            below(area, cell, x, y + 6)?;
        }
        Ok(())
    }
}
