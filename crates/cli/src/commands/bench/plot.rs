//! `--plot FILE`: latency over time as a picture, with the moment of a fault marked.
//!
//! The axis of latencies is logarithmic: a failover is a thousand times the usual latency.

use std::path::Path;

use plotters::prelude::*;

use crate::commands::bench::record::{Point, Timeline};
use crate::exit::Exit;
use crate::failure::Failure;

const SIZE: (u32, u32) = (960, 480);
const P50: RGBColor = RGBColor(31, 119, 180);
const P99: RGBColor = RGBColor(214, 95, 20);
const FAULT: RGBColor = RGBColor(190, 20, 40);

/// Something to mark: the second, and what happened.
pub type Mark = (f64, String);

/// Tells at once, not after minutes of measuring, that a picture cannot be written.
pub fn check(path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, "").map_err(|error| {
        Failure::usage(format!("--plot {}: {error}", path.display()))
            .cure("a file in a directory that can be written")
    })
}

/// Writes the picture.
pub fn write(
    path: &Path,
    title: &str,
    timeline: &Timeline,
    mark: Option<Mark>,
) -> Result<(), Failure> {
    let svg = draw(title, &timeline.points(), mark.as_ref());
    let failed = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("write {}: {why}", path.display()))
    };
    let svg = svg.map_err(|error| failed(&error))?;
    std::fs::write(path, svg).map_err(|error| failed(&error))
}

fn draw(
    title: &str,
    points: &[Point],
    mark: Option<&Mark>,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (lowest, highest) = bounds(points);
    let last = points.last().map_or(1.0, |point| point.second) + 0.1;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(238, 238, 238))
        .x_desc("seconds")
        .y_desc("latency, ms")
        .y_label_formatter(&|ms| format!("{ms}"))
        .draw()?;
    if let Some((second, what)) = mark {
        let line = [(*second, lowest), (*second, highest)];
        let series = chart.draw_series(LineSeries::new(line, FAULT.stroke_width(1)))?;
        series.label(what).legend(|(x, y)| swatch(x, y, FAULT));
    }
    let p99 = points.iter().map(|point| (point.second, point.p99_ms));
    let series = chart.draw_series(LineSeries::new(p99, P99.stroke_width(2)))?;
    series.label("p99").legend(|(x, y)| swatch(x, y, P99));
    let p50 = points.iter().map(|point| (point.second, point.p50_ms));
    let series = chart.draw_series(LineSeries::new(p50, P50.stroke_width(2)))?;
    series.label("p50").legend(|(x, y)| swatch(x, y, P50));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}

fn swatch(x: i32, y: i32, colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
}

/// Powers of ten around all points.
fn bounds(points: &[Point]) -> (f64, f64) {
    let lowest = points.iter().map(|point| point.p50_ms).fold(f64::INFINITY, f64::min);
    let highest = points.iter().map(|point| point.p99_ms).fold(0.0, f64::max);
    if points.is_empty() {
        return (0.1, 10.0);
    }
    let power = |exponent: f64| 10_f64.powf(exponent);
    let low = power(lowest.max(0.001).log10().floor());
    (low, power(highest.max(0.001).log10().ceil()).max(low * 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: f64, p50_ms: f64, p99_ms: f64) -> Point {
        Point { second, p50_ms, p99_ms }
    }

    #[test]
    fn the_axis_reaches_from_power_to_power_around_all_points() {
        assert_eq!(bounds(&[]), (0.1, 10.0));
        let (low, high) = bounds(&[point(0.0, 1.5, 3.0), point(1.0, 2.0, 930.0)]);
        assert!((low - 1.0).abs() < 1e-9 && (high - 1000.0).abs() < 1e-9, "{low} {high}");
        let (low, high) = bounds(&[point(0.0, 1.0, 1.0)]);
        assert!(low < high, "{low} {high}");
    }

    #[test]
    fn the_picture_has_both_lines_and_the_mark() {
        let points = [point(0.05, 1.0, 2.0), point(0.15, 1.2, 40.0), point(0.25, 1.1, 2.5)];
        let svg = draw("latency", &points, Some(&(0.1, "kill -9".to_owned()))).expect("draw");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.matches("<polyline").count() >= 3, "{svg}");
        for word in ["p50", "p99", "kill -9", "seconds"] {
            assert!(svg.contains(word), "{word} is missing in {svg}");
        }
    }

    #[test]
    fn nothing_measured_is_an_empty_picture_not_a_panic() {
        assert!(draw("nothing", &[], None).expect("draw").starts_with("<svg"));
    }
}
