use std::fmt::Write;

use crate::pictures::escape;

/// A chart as SVG within a page, in the page's colours.
#[derive(Debug)]
pub(crate) struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    /// Width and height, in pixels.
    size: (f64, f64),
    body: String,
}

/// Margins for the labels, in pixels: left, right, top, bottom.
const ROOM: [f64; 4] = [46.0, 8.0, 8.0, 34.0];

impl Frame {
    pub fn new(x: (f64, f64), y: (f64, f64), size: (f64, f64)) -> Self {
        Self { x, y, size, body: String::new() }
    }

    /// The position of a point, in pixels.
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, right, top, bottom] = ROOM;
        let part = |at: f64, (low, high): (f64, f64)| (at - low) / (high - low);
        let across = left + part(x, self.x) * (self.size.0 - left - right);
        (across, top + (1.0 - part(y, self.y)) * (self.size.1 - top - bottom))
    }

    /// Both axes with about this many ticks each, and the title of the horizontal one.
    pub fn axes(&mut self, title: &str, across: usize, up: usize) {
        let (width, height) = self.size;
        let whole = !title.is_empty();
        for (x, text) in ticks(self.x, across).into_iter().filter(|(x, _)| !whole || x.fract() == 0.0) {
            let (x, _) = self.at((x, 0.0));
            let y = height - ROOM[3] + 14.0;
            let _ = write!(self.body, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
        }
        for (y, text) in ticks(self.y, up) {
            self.y_tick(y, &text);
        }
        let (x, y) = (0.5 * (width + ROOM[0]), height - 6.0);
        let _ =
            write!(self.body, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(title));
    }

    /// A line across the chart, and its label.
    pub fn y_tick(&mut self, y: f64, text: &str) {
        if !(self.y.0..=self.y.1).contains(&y) {
            return;
        }
        let (_, at) = self.at((0.0, y));
        let (left, right) = (ROOM[0], self.size.0 - ROOM[1]);
        let _ = write!(
            self.body,
            "<path class=\"rule\" d=\"M{left} {at:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            left - 5.0,
            at + 4.0
        );
    }

    /// A line through points, with SVG attributes and a tooltip.
    pub fn path(&mut self, points: &[(f64, f64)], style: &str, name: &str) {
        let mut path = String::new();
        for (i, point) in points.iter().enumerate() {
            let (x, y) = self.at(*point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        let _ = write!(self.body, "<path d=\"{path}\" {style}><title>{}</title></path>", escape(name));
    }

    pub fn dot(&mut self, point: (f64, f64), color: &str, name: &str) {
        let (x, y) = self.at(point);
        let _ = write!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"><title>{}</title></circle>",
            escape(name)
        );
    }

    /// A filled rectangle between two corners.
    pub fn cell(&mut self, low: (f64, f64), high: (f64, f64), color: &str) {
        let ((x, bottom), (right, y)) = (self.at(low), self.at(high));
        let (width, height) = (right - x + 0.3, bottom - y + 0.3);
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
        );
    }

    pub fn render(self) -> String {
        let (width, height) = self.size;
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">{}</svg>", self.body)
    }
}

/// About this many round numbers within the range, at most twice as many.
fn ticks((low, high): (f64, f64), about: usize) -> Vec<(f64, String)> {
    if about == 0 || high <= low || !(high - low).is_finite() {
        return Vec::new();
    }
    let rough = (high - low) / about as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    // Adding 0 turns -0 into 0.
    (first..=last).map(|i| i as f64 * step + 0.0).map(|x| (x, format!("{x:.decimals$}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let names = |range, about| ticks(range, about).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names((-3.0, 3.0), 7), ["-3", "-2", "-1", "0", "1", "2", "3"]);
        assert_eq!(names((0.0, 0.52), 4), ["0.0", "0.2", "0.4"]);
        assert!(names((1.0, 1.0), 4).is_empty());
    }
}
