//! Bar charts as SVG: groups of bars.

use std::path::Path;

use plotters::prelude::*;

use crate::chart::{COLOURS, Drawn, FONT};

pub struct Bars {
    pub title: String,
    pub y: String,
    /// The name below each group.
    pub groups: Vec<String>,
    /// The name of a series and its value for each group.
    pub series: Vec<(String, Vec<f64>)>,
}

/// The share of a group's width that its bars take.
const FILLED: f64 = 0.8;

impl Bars {
    pub fn draw(&self, file: &Path) -> Drawn {
        let area = SVGBackend::new(file, (900, 460)).into_drawing_area();
        area.fill(&WHITE)?;
        let values = self.series.iter().flat_map(|(_, values)| values.iter().copied());
        let top = values.fold(f64::MIN_POSITIVE, f64::max) * 1.4; // Room for the legend.
        let mut builder = ChartBuilder::on(&area);
        builder.caption(&self.title, (FONT, 20)).margin(14);
        builder.x_label_area_size(42).y_label_area_size(70);
        let right = self.groups.len() as f64 - 0.5;
        let mut chart = builder.build_cartesian_2d(-0.5..right, 0.0..top)?;
        let name = |x: &f64| {
            let is_middle = (x - x.round()).abs() < 1e-6;
            let group = is_middle.then(|| self.groups.get(x.round() as usize)).flatten();
            group.cloned().unwrap_or_default()
        };
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().x_labels(self.groups.len() * 2 + 1).x_label_formatter(&name);
        mesh.y_desc(&self.y)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15));
        mesh.light_line_style(WHITE).draw()?;
        let width = FILLED / self.series.len() as f64;
        for (number, (name, values)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let left = |group: usize| group as f64 - FILLED / 2.0 + number as f64 * width;
            let bars = values.iter().enumerate().map(|(group, &value)| {
                let corners = [(left(group), 0.0), (left(group) + width * 0.92, value)];
                Rectangle::new(corners, colour.filled())
            });
            let drawn = chart.draw_series(bars)?;
            drawn.label(name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
            });
            let figures = values.iter().enumerate().map(|(group, &value)| {
                let at = (left(group) + width * 0.15, value + top * 0.035);
                Text::new(format!("{value:.0}"), at, (FONT, 13))
            });
            chart.draw_series(figures)?;
        }
        let mut labels = chart.configure_series_labels();
        labels.border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.85));
        labels.label_font((FONT, 14)).position(SeriesLabelPosition::UpperMiddle).draw()?;
        area.present()?;
        Ok(())
    }
}
