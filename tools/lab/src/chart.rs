//! Line charts as SVG.

use std::path::Path;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    pub lines: Vec<Line>,
    /// A logarithmic scale, for figures that differ by large factors.
    pub log_y: bool,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Colours that colour-blind readers can tell apart: the flawed pool first, then fairpool.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
];
pub const FONT: &str = "sans-serif";

pub type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Chart {
    pub fn draw(&self, file: &Path) -> Drawn {
        let area = SVGBackend::new(file, (900, 460)).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
        let (right, top) = (most(|point| point.0), most(|point| point.1));
        let lowest = points().map(|point| point.1).filter(|&y| y > 0.0).fold(top, f64::min);
        let mut builder = ChartBuilder::on(&area);
        builder.caption(&self.title, (FONT, 20)).margin(14).margin_right(40);
        builder.x_label_area_size(42).y_label_area_size(86);
        // Room for the legend above the lines.
        let room = 1.15 + 0.07 * self.lines.len() as f64;
        if self.log_y {
            let lowest = lowest / 1.5;
            let range = (lowest..lowest * (top / lowest).powf(room)).log_scale();
            self.fill(&mut builder.build_cartesian_2d(0.0..right, range)?)?;
        } else {
            self.fill(&mut builder.build_cartesian_2d(0.0..right, 0.0..top * room)?)?;
        }
        area.present()?;
        Ok(())
    }

    fn fill<'a, Y>(
        &self,
        chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Drawn
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(&self.x).y_desc(&self.y).label_style((FONT, 14)).axis_desc_style((FONT, 15));
        mesh.x_label_formatter(&|x| number(*x)).y_label_formatter(&|y| number(*y));
        mesh.light_line_style(WHITE).draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.into_iter().cycle()) {
            let drawn = chart.draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour.stroke_width(2),
            ))?;
            drawn.label(&line.name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3))
            });
        }
        let mut labels = chart.configure_series_labels();
        labels
            .border_style(BLACK.mix(0.3))
            .background_style(WHITE.mix(0.85))
            .label_font((FONT, 14));
        labels.position(SeriesLabelPosition::UpperLeft).draw()?;
        Ok(())
    }
}

/// A number without needless digits, with commas between the thousands.
fn number(value: f64) -> String {
    if value < 1000.0 {
        return format!("{}", (value * 1e6).round() / 1e6);
    }
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
