use anyhow::Result;
use plotters::prelude::*;

use crate::pictures::{AFTER, TEXT, color, drawn};

/// Points with names, in one panel of a picture.
#[derive(Debug)]
pub struct Scatter {
    /// The title: plain text.
    pub title: String,
    /// The title of the horizontal axis: plain text.
    pub axis: &'static str,
    /// The points.
    pub points: Vec<Point>,
}

/// A point with its name.
#[derive(Debug)]
pub struct Point {
    /// Its name, written next to it: plain text.
    pub name: String,
    /// The horizontal position.
    pub x: f64,
    /// The vertical position.
    pub y: f64,
    /// The standard deviation of `y`, drawn as a bar in both directions.
    pub sd: f64,
}

/// Width of the picture and height of a panel, in pixels.
const SIZE: (u32, u32) = (1000, 430);
/// Width of a letter and height of a line of a name, in pixels.
const LETTER: (i32, i32) = (7, 13);

/// An SVG file with the panels below each other; `up` is the title of the vertical axis.
pub fn scatter_svg(title: &str, up: &str, panels: &[Scatter]) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (SIZE.0, SIZE.1 * panels.len() as u32 + 34);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        drawn(root.fill(&WHITE))?;
        let root = drawn(root.titled(title, ("sans-serif", 20).into_font().color(&TEXT)))?;
        for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
            let points: Vec<&Point> =
                panel.points.iter().filter(|at| at.x.is_finite() && at.y.is_finite()).collect();
            let bar = |at: &Point| if at.sd.is_finite() { at.sd } else { 0.0 };
            let xs = range(points.iter().map(|at| at.x));
            let ys = range(points.iter().flat_map(|at| [at.y - bar(at), at.y + bar(at)]));
            let mut builder = ChartBuilder::on(area);
            builder.margin(12).caption(&panel.title, ("sans-serif", 16).into_font().color(&TEXT));
            builder.x_label_area_size(36).y_label_area_size(54);
            let mut drawing = drawn(builder.build_cartesian_2d(xs.0..xs.1, ys.0..ys.1))?;
            let mut mesh = drawing.configure_mesh();
            mesh.light_line_style(TRANSPARENT).bold_line_style(RGBColor(225, 225, 225));
            mesh.axis_style(RGBColor(140, 140, 140)).x_desc(panel.axis).y_desc(up).x_labels(11).y_labels(7);
            drawn(mesh.label_style(("sans-serif", 12).into_font().color(&TEXT)).draw())?;
            let blue = color(AFTER);
            for at in &points {
                let ends = vec![(at.x, at.y - bar(at)), (at.x, at.y + bar(at))];
                drawn(drawing.draw_series([PathElement::new(ends, blue.mix(0.5))]))?;
                drawn(drawing.draw_series([Circle::new((at.x, at.y), 4, blue.filled())]))?;
            }
            let pixels: Vec<(i32, i32)> =
                points.iter().map(|at| drawing.backend_coord(&(at.x, at.y))).collect();
            let widths: Vec<i32> =
                points.iter().map(|at| at.name.chars().count() as i32 * LETTER.0).collect();
            let right = pixels.iter().map(|(x, _)| *x).max().unwrap_or(0);
            for ((at, offset), width) in points.iter().zip(offsets(&pixels, &widths, right + 8)).zip(&widths)
            {
                let name = Text::new(at.name.clone(), offset, ("sans-serif", 12).into_font().color(&TEXT));
                let reach = (if offset.0 < 0 { offset.0 + width } else { offset.0 }, offset.1 + LETTER.1 / 2);
                let line = PathElement::new(vec![(0, 0), reach], RGBColor(170, 170, 170));
                drawn(drawing.draw_series([EmptyElement::at((at.x, at.y)) + line + name]))?;
            }
        }
        drawn(root.present())?;
    }
    Ok(svg)
}

/// Pictures below each other, as one SVG file. Each is an SVG file that gives its size in pixels, as those of this crate.
pub fn stack_svg(pictures: &[String]) -> String {
    let size = |svg: &str, of: &str| -> f64 {
        let text = svg.split_once(&format!("{of}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        text.and_then(|(number, _)| number.parse().ok()).unwrap_or(0.0)
    };
    let width = pictures.iter().map(|svg| size(svg, "width")).fold(0.0, f64::max);
    let (mut body, mut y) = (String::new(), 0.0);
    for svg in pictures {
        body += &svg.replacen("<svg ", &format!("<svg y=\"{y}\" "), 1);
        y += size(svg, "height");
    }
    format!(
        "<svg width=\"{width}\" height=\"{y}\" viewBox=\"0 0 {width} {y}\" \
        xmlns=\"http://www.w3.org/2000/svg\">\n{body}</svg>\n"
    )
}

/// Smallest and largest value with room for the names.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = 0.08 * (high - low).max(1e-9 + 0.01 * high.abs());
    (low - room, high + room)
}

/// Where the name of each point begins, from the point, so that no name covers another name or a point; in pixels. Names
/// of points at or behind `right` are on the left.
fn offsets(points: &[(i32, i32)], widths: &[i32], right: i32) -> Vec<(i32, i32)> {
    type Rectangle = [i32; 4];
    let apart = |a: &Rectangle, b: &Rectangle| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
    let mut taken: Vec<Rectangle> = points.iter().map(|(x, y)| [x - 4, y - 4, x + 4, y + 4]).collect();
    let half = LETTER.1 / 2;
    let place = |(&(x, y), &width): (&(i32, i32), &i32)| {
        let shifts = (0..20).flat_map(|i| [i * LETTER.1, -i * LETTER.1]);
        let sides = |dy: i32| [(9, dy - half), (-9 - width, dy - half)];
        let mut candidates = shifts.flat_map(sides).filter(|(dx, _)| *dx < 0 || x + dx + width <= right + 60);
        let at = |(dx, dy): (i32, i32)| [x + dx, y + dy, x + dx + width, y + dy + LETTER.1];
        let free = |offset: &(i32, i32)| taken.iter().all(|other| apart(&at(*offset), other));
        let offset = candidates.find(free).unwrap_or((9, -half));
        taken.push(at(offset));
        offset
    };
    points.iter().zip(widths).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_points_at_one_place_do_not_overlap() {
        let found = offsets(&[(50, 50); 4], &[40; 4], 500);
        let rows: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(rows.len(), 4, "{found:?}");
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.0 - b.0).abs() < 40 && (a.1 - b.1).abs() < LETTER.1;
        let pairs = found.iter().enumerate().flat_map(|(i, a)| found[..i].iter().map(move |b| (a, b)));
        assert!(pairs.into_iter().all(|(a, b)| !overlap(a, b)), "{found:?}");
    }

    #[test]
    fn a_point_that_is_not_finite_is_left_out() {
        let point = |x, sd| Point { name: "a<b".into(), x, y: 1.0, sd };
        let points = vec![point(0.5, f64::NAN), point(f64::NAN, 0.1)];
        let svg =
            scatter_svg("t", "y", &[Scatter { title: "p".into(), axis: "x", points }]).unwrap_or_default();
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        assert!(svg.contains("a&lt;b"), "{svg}");
        let twice = stack_svg(&[svg.clone(), svg]);
        assert!(
            twice.starts_with("<svg width=\"1000\" height=\"928\"") && twice.contains("y=\"464\""),
            "{twice}"
        );
    }
}
