//! Line charts as SVG, by hand: a few lines and words need no library.

use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 360.0;
/// Room for the title, the legend and the labels.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 280.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b"];
/// Horizontal lines above the axis.
const STEPS: u32 = 5;

/// A chart: one value of each line at each place.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// What it was measured on.
    pub machine: String,
    /// What the places are, with their unit.
    pub x: String,
    /// What the values are, with their unit.
    pub y: String,
    /// The places, evenly spaced.
    pub places: Vec<String>,
    /// The lines with their names.
    pub lines: Vec<(String, Vec<f64>)>,
    /// The first place that is of another kind: no line leads there.
    pub apart: Option<usize>,
}

impl Chart {
    /// A chart without places, one line for each of `names`.
    #[must_use]
    pub fn of(title: &str, x: &str, y: &str, names: &[impl ToString]) -> Self {
        let lines = names.iter().map(|name| (name.to_string(), Vec::new())).collect();
        let (title, x, y) = (title.to_owned(), x.to_owned(), y.to_owned());
        Self { title, x, y, lines, ..Self::default() }
    }

    /// One more place, with the value of each line there.
    pub fn push(&mut self, place: impl Into<String>, values: &[f64]) {
        self.places.push(place.into());
        for ((_, line), value) in self.lines.iter_mut().zip(values) {
            line.push(*value);
        }
    }

    /// The same for a place that is not in a row with those before.
    pub fn push_apart(&mut self, place: impl Into<String>, values: &[f64]) {
        self.apart.get_or_insert(self.places.len());
        self.push(place, values);
    }

    /// The chart as an SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let top =
            nice(self.lines.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, WIDTH / 2.0, 20.0, "middle", &self.title);
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", &self.x);
        text(&mut svg, WIDTH - 8.0, HEIGHT - 10.0, "end", &self.machine);
        text(&mut svg, 8.0, TOP - 8.0, "start", &self.y);
        for step in 0..=STEPS {
            let value = top * f64::from(step) / f64::from(STEPS);
            let (y, right) = (height(value, top), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
            );
            text(&mut svg, LEFT - 6.0, y + 4.0, "end", &label(value));
        }
        for (place, name) in self.places.iter().enumerate() {
            text(&mut svg, self.across(place), HEIGHT - BOTTOM + 18.0, "middle", name);
        }
        self.draw_lines(&mut svg, top);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_lines(&self, svg: &mut String, top: f64) {
        for (number, (name, values)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = values.iter().enumerate();
            let points: Vec<_> =
                points.map(|(place, value)| (self.across(place), height(*value, top))).collect();
            for (x, y) in &points {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
            let joined = points[..self.apart.unwrap_or(points.len())].iter();
            let points: Vec<_> = joined.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let points = points.join(" ");
            let _ = writeln!(
                svg,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"2\"/>"
            );
            let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 18.0 * number as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
            );
            text(svg, x + 16.0, y + 10.0, "start", name);
        }
    }

    fn across(&self, place: usize) -> f64 {
        let steps = self.places.len().saturating_sub(1).max(1) as f64;
        LEFT + 12.0 + (WIDTH - RIGHT - LEFT - 24.0) * place as f64 / steps
    }
}

fn height(value: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top
}

/// The next round number: 1, 2 or 5 times a power of ten.
fn nice(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|top| *top >= most)
        .unwrap_or(most)
}

fn label(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_touches_its_round_number() {
        assert_eq!([0.3, 1.0, 7.0, 130.0].map(nice), [0.5, 1.0, 10.0, 200.0]);
        assert_eq!(height(0.0, 5.0), HEIGHT - BOTTOM);
        assert_eq!(height(5.0, 5.0), TOP);
    }

    #[test]
    fn every_line_and_place_is_drawn() {
        let mut chart = Chart::of("a < b", "", "", &["one", "two"]);
        chart.push("1", &[1.0, 2.0]);
        chart.push("2", &[2.0, 0.5]);
        chart.push_apart("another", &[1.0, 1.0]);
        let svg = chart.svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 6);
        let joined = svg.lines().filter(|line| line.starts_with("<polyline"));
        assert!(joined.clone().all(|line| line.matches(',').count() == 2), "two places in a row");
        assert!(svg.contains("a &lt; b") && svg.contains(">two</text>"));
    }
}
