//! Pages and SVG files of distributions and of layers.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::{Distribution, frame::Frame};

/// Blue, orange and grey that the colour-blind can distinguish, on white and on black.
pub(crate) const AFTER: &str = "#2b83c6";
const SPIKE: &str = "#d55e00";
const BEFORE: &str = "#8a8a8a";
/// Lines: the colours of Okabe and Ito that are visible on white and on black; from the seventh they are dashed.
const LINES: [&str; 6] = ["#2b83c6", "#d55e00", "#1b9e77", "#cc6fa6", "#b8860b", "#7f7f7f"];
const DASHES: [&str; 4] = ["", "7 4", "2 3", "12 4"];

/// A distribution with its title.
#[derive(Debug)]
pub struct Panel {
    /// Its name: plain text.
    pub title: String,
    /// A line of numbers: plain text.
    pub caption: String,
    /// The distribution.
    pub after: Distribution,
}

/// A number of every layer of some networks, one line for each network; or of every step of something else.
#[derive(Debug)]
pub struct Chart {
    /// The title: plain text.
    pub title: &'static str,
    /// The title of the horizontal axis, which counts from 1: plain text.
    pub axis: &'static str,
    /// Its explanation: plain text.
    pub meaning: &'static str,
    /// Whether the axis is logarithmic.
    pub log: bool,
    /// Name and values, from the first layer; a value that is not finite is left out.
    pub lines: Vec<(String, Vec<f64>)>,
}

/// The largest density in a picture, so that the rest next to a narrow peak stays visible.
fn top(before: &Distribution, after: &Distribution) -> f64 {
    let peak = |of: &Distribution| of.density().1.into_iter().fold(0.0, f64::max);
    1.05 * match peak(before) {
        0.0 => peak(after),
        before => peak(after).clamp(before, 4.2 * before),
    }
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// A page without network and script, light or dark as the reader's system; `body` is HTML.
pub fn page(title: &str, body: &str) -> String {
    let (title, style) = (escape(title), include_str!("page.css"));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
        <style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A table; the first column has names, and rows of `faint` are less important.
pub fn table(titles: &[(&str, &str)], rows: &[(bool, Vec<String>)]) -> String {
    let mut html = "<div class=\"wide\"><table>\n<tr>".to_string();
    for (title, meaning) in titles {
        html += &format!("<th title=\"{}\">{}</th>", escape(meaning), escape(title));
    }
    for (faint, cells) in rows {
        html += if *faint { "</tr>\n<tr class=\"faint\">" } else { "</tr>\n<tr>" };
        html.extend(cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))));
    }
    html + "</tr>\n</table></div>\n"
}

fn figure(title: &str, caption: &str, picture: Frame) -> String {
    let (title, caption) = (escape(title), escape(caption));
    format!("<figure><figcaption><b>{title}</b> {caption}</figcaption>{}</figure>\n", picture.render())
}

/// The legend and one figure for every panel, each on top of the distribution `before`.
pub fn panels_html(before: &Distribution, panels: &[Panel]) -> String {
    let mut html = format!(
        "<p class=\"legend\"><i style=\"background:{BEFORE}\"></i>before <i style=\"background:{AFTER}\"></i>after \
        <i style=\"background:{SPIKE}\"></i>exact zeros, on a scale of their own: as high as the picture is all values</p>\n\
        <div class=\"grid\">\n"
    );
    for panel in panels {
        let top = top(before, &panel.after);
        let (reach, half) = (before.reach, before.width() / 2.0);
        let mut frame = Frame::new((-reach, reach), (0.0, top), (320.0, 200.0));
        frame.axes("", 7, 4);
        for (of, name, color) in [(before, "before", BEFORE), (&panel.after, "after", AFTER)] {
            // A step for every bin: two points at the same height, one at each end.
            let (xs, ys) = of.density();
            let steps =
                xs.iter().zip(&ys).flat_map(|(x, y)| [(x - half, y.min(top)), (x + half, y.min(top))]);
            let steps: Vec<(f64, f64)> = steps.collect();
            let outline = [&[(-reach, 0.0)], &steps[..], &[(reach, 0.0)]].concat();
            frame.path(&outline, &format!("fill=\"{color}\" fill-opacity=\".35\""), name);
            frame.path(&steps, &format!("fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\""), name);
        }
        let zeros = panel.after.zero_fraction();
        if zeros > 0.0 {
            let name = format!("{:.2} % are exactly 0", 100.0 * zeros);
            frame.path(
                &[(0.0, 0.0), (0.0, zeros * top)],
                &format!("stroke=\"{SPIKE}\" stroke-width=\"6\""),
                &name,
            );
        }
        html += &figure(&panel.title, &panel.caption, frame);
    }
    html + "</div>\n"
}

/// The legend and one figure for every chart; the lines have the same names in all of them.
pub fn charts_html(charts: &[Chart]) -> String {
    let mut html = "<p class=\"legend\">".to_string();
    for (j, (name, _)) in charts.iter().take(1).flat_map(|chart| chart.lines.iter().enumerate()) {
        let (color, style) =
            (LINES[j % LINES.len()], ["solid", "dashed", "dotted", "dashed"][j / LINES.len() % 4]);
        html += &format!(
            "<span><i class=\"line\" style=\"border-top:3px {style} {color}\"></i>{}</span> ",
            escape(name)
        );
    }
    html += "</p>\n<div class=\"grid two\">\n";
    for chart in charts {
        let scaled = |y: f64| if chart.log { y.log10() } else { y };
        let (low, high) = chart.range();
        let room = 0.06 * (high - low).max(if chart.log { 1.0 } else { 0.1 });
        let depth = chart.lines.iter().map(|(_, values)| values.len()).max().unwrap_or(1) as f64;
        let mut frame = Frame::new((0.5, depth + 0.5), (low - room, high + room), (520.0, 300.0));
        frame.axes(chart.axis, 10, if chart.log { 0 } else { 6 });
        if chart.log {
            let label = |y: f64| if y < 1e-3 { format!("{y:e}") } else { y.to_string() };
            decades(chart).into_iter().for_each(|y| frame.y_tick(y.log10(), &label(y)));
        }
        for (j, (name, values)) in chart.lines.iter().enumerate() {
            let (color, dash) = (LINES[j % LINES.len()], DASHES[j / LINES.len() % 4]);
            // A logarithm has no 0.
            let shown = values.iter().enumerate().filter(|(_, y)| chart.shows(y));
            let points: Vec<(f64, f64)> = shown.map(|(i, y)| (i as f64 + 1.0, scaled(*y))).collect();
            frame.path(
                &points,
                &format!("fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\""),
                name,
            );
            for (x, y) in points {
                let value = if chart.log { 10_f64.powf(y) } else { y };
                frame.dot((x, y), color, &format!("{name}: {value:.4} in {} {x}", chart.axis));
            }
        }
        html += &figure(chart.title, chart.meaning, frame);
    }
    html + "</div>\n"
}

impl Chart {
    fn shows(&self, y: &f64) -> bool {
        y.is_finite() && (*y > 0.0 || !self.log)
    }

    /// Smallest and largest value, on the scale of the axis.
    fn range(&self) -> (f64, f64) {
        let shown = self.lines.iter().flat_map(|(_, values)| values).copied().filter(|y| self.shows(y));
        let scaled = shown.map(|y| if self.log { y.log10() } else { y });
        let (low, high) = scaled.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
        if low > high { (0.0, 1.0) } else { (low, high) }
    }
}

/// The ticks of a logarithmic axis: at 1, 2 and 5 times powers of ten, or fewer if there are many.
fn decades(chart: &Chart) -> Vec<f64> {
    let (low, high) = chart.range();
    let (low, high) = (low.floor() as i32, high.ceil() as i32);
    let within: &[i32] = if high - low <= 2 { &[1, 2, 5] } else { &[1] };
    let step = ((high - low) / 6).max(1) as usize;
    let powers = (low..=high).step_by(step);
    // Through text, so that 1e-2 is the nearest number.
    let tick = |power: i32, digit: &i32| format!("{digit}e{power}").parse().unwrap_or(f64::NAN);
    powers.flat_map(|power| within.iter().map(move |digit| tick(power, digit))).collect()
}

/// Few values to many: viridis at five points.
const VIRIDIS: [(f64, f64, f64); 5] =
    [(68.0, 1.0, 84.0), (59.0, 82.0, 139.0), (33.0, 145.0, 140.0), (94.0, 201.0, 98.0), (253.0, 231.0, 37.0)];

/// A density between 0.001 and 10 as a colour, by its logarithm.
fn shade(density: f64) -> String {
    let at = ((density.log10() + 3.0) / 4.0).clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let i = (at as usize).min(VIRIDIS.len() - 2);
    let (a, b, t) = (VIRIDIS[i], VIRIDIS[i + 1], at - i as f64);
    let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// A heat map for every network: layers against values, the density on a logarithmic scale.
pub fn heat_maps_html(networks: &[(String, Vec<Distribution>)]) -> String {
    let stops: Vec<String> = (0..9).map(|i| shade(10_f64.powf(-3.0 + 0.5 * f64::from(i)))).collect();
    let mut html = format!(
        "<p class=\"legend\">density: 0.001 <i class=\"ramp\" style=\"background:linear-gradient(90deg,{})\"></i> 10, on a logarithmic \
        scale; nothing is empty</p>\n<div class=\"grid\">\n",
        stops.join(",")
    );
    for (name, layers) in networks {
        let Some(first) = layers.first() else { continue };
        let half = first.width() / 2.0;
        let mut frame =
            Frame::new((0.5, layers.len() as f64 + 0.5), (-first.reach, first.reach), (320.0, 200.0));
        for (i, layer) in layers.iter().enumerate() {
            let (xs, ys) = layer.density();
            for (x, density) in xs.into_iter().zip(ys).filter(|(_, density)| *density > 0.0) {
                let layer = i as f64 + 1.0;
                frame.cell((layer - 0.5, x - half), (layer + 0.5, x + half), &shade(density));
            }
        }
        frame.axes("layer", 10, 7);
        html += &figure(name, "", frame);
    }
    html + "</div>\n"
}

pub(crate) const TEXT: RGBColor = RGBColor(40, 40, 40);

pub(crate) fn color(hex: &str) -> RGBColor {
    let part = |i: usize| hex.get(i..i + 2).and_then(|h| u8::from_str_radix(h, 16).ok()).unwrap_or(0);
    RGBColor(part(1), part(3), part(5))
}

/// For `map_err`: plotters' errors are not `Send`.
pub(crate) fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|e| anyhow!("drawing: {e}"))
}

/// An SVG file with a panel for every distribution, each on top of `before`.
pub fn panels_svg(title: &str, before: &Distribution, panels: &[Panel]) -> Result<String> {
    let columns = panels.len().clamp(1, 4);
    let rows = panels.len().div_ceil(columns).max(1);
    let size = (columns as u32 * 290, rows as u32 * 190 + 70);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        drawn(root.fill(&WHITE))?;
        let root = drawn(root.titled(title, ("sans-serif", 20).into_font().color(&TEXT)))?;
        let names = ["before", "after", "exact zeros: full height is all"].map(str::to_string);
        let root = legend(&root, names.iter().zip([BEFORE, AFTER, SPIKE]))?;
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            let (top, reach, width) = (top(before, &panel.after), before.reach, before.width());
            let (caption, area) = area.split_vertically(38);
            drawn(caption.draw(&Text::new(
                panel.title.clone(),
                (36, 4),
                ("sans-serif", 16).into_font().color(&TEXT),
            )))?;
            drawn(caption.draw(&Text::new(
                panel.caption.clone(),
                (36, 22),
                ("sans-serif", 12).into_font().color(&TEXT),
            )))?;
            let mut chart = ChartBuilder::on(&area);
            chart.margin_right(10).x_label_area_size(22).y_label_area_size(34);
            let mut chart = drawn(chart.build_cartesian_2d(-reach..reach, 0.0..top))?;
            let labels = ("sans-serif", 11).into_font().color(&TEXT);
            let mut mesh = chart.configure_mesh();
            mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(RGBColor(225, 225, 225));
            mesh.axis_style(RGBColor(140, 140, 140)).x_labels(7).y_labels(3).label_style(labels);
            drawn(
                mesh.x_label_formatter(&|x| format!("{x:.0}"))
                    .y_label_formatter(&|y| format!("{y:.1}"))
                    .draw(),
            )?;
            for (of, hex) in [(before, BEFORE), (&panel.after, AFTER)] {
                // A step for every bin: two points at the same height, one at each end.
                let (xs, ys) = of.density();
                let step =
                    |(x, y): (f64, f64)| [(x - width / 2.0, y.min(top)), (x + width / 2.0, y.min(top))];
                let steps: Vec<(f64, f64)> = xs.into_iter().zip(ys).flat_map(step).collect();
                let corners = [vec![(-reach, 0.0)], steps.clone(), vec![(reach, 0.0)]].concat();
                drawn(chart.draw_series([Polygon::new(corners, color(hex).mix(0.35))]))?;
                drawn(chart.draw_series([PathElement::new(steps, color(hex))]))?;
            }
            let zeros = panel.after.zero_fraction() * top;
            if zeros > 0.0 {
                let spike =
                    Rectangle::new([(-reach / 80.0, 0.0), (reach / 80.0, zeros)], color(SPIKE).filled());
                drawn(chart.draw_series([spike]))?;
            }
        }
        drawn(root.present())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws names and colours at the top and returns the area below.
fn legend<'a, 'b>(area: &Area<'a>, names: impl Iterator<Item = (&'b String, &'b str)>) -> Result<Area<'a>> {
    let (width, _) = area.dim_in_pixel();
    let names: Vec<_> = names.collect();
    let longest = names.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) as i32;
    let each = 40 + 8 * longest;
    let columns = (width as i32 / each).max(1);
    let rows = (names.len() as i32 + columns - 1) / columns;
    let (legend, rest) = area.split_vertically(22 * rows + 6);
    for (i, (name, hex)) in names.into_iter().enumerate() {
        let (x, y) = (12 + i as i32 % columns * each, 4 + i as i32 / columns * 22);
        // Lines with rings in the charts have a hollow sample here.
        let style = if i < LINES.len() { color(hex).filled() } else { color(hex).stroke_width(2) };
        drawn(legend.draw(&Rectangle::new([(x, y), (x + 14, y + 14)], style)))?;
        drawn(legend.draw(&Text::new(
            name.clone(),
            (x + 20, y + 1),
            ("sans-serif", 14).into_font().color(&TEXT),
        )))?;
    }
    Ok(rest)
}

/// An SVG file with all charts.
pub fn charts_svg(title: &str, charts: &[Chart]) -> Result<String> {
    let columns = charts.len().clamp(1, 2);
    let rows = charts.len().div_ceil(columns).max(1);
    let lines = charts.first().map_or(0, |chart| chart.lines.len());
    let mut svg = String::new();
    {
        let size = (1000, rows as u32 * 280 + 46 + 22 * lines.div_ceil(3) as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        drawn(root.fill(&WHITE))?;
        let root = drawn(root.titled(title, ("sans-serif", 20).into_font().color(&TEXT)))?;
        let names = charts.iter().take(1).flat_map(|chart| &chart.lines).map(|(name, _)| name);
        let root = legend(&root, names.zip(LINES.iter().copied().cycle()))?;
        for (area, chart) in root.split_evenly((rows, columns)).iter().zip(charts) {
            let scaled = |y: f64| if chart.log { y.log10() } else { y };
            let (low, high) = chart.range();
            let room = 0.06 * (high - low).max(if chart.log { 1.0 } else { 0.1 });
            let depth = chart.lines.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
            let mut builder = ChartBuilder::on(area);
            builder.margin(12).caption(chart.title, ("sans-serif", 16).into_font().color(&TEXT));
            builder.x_label_area_size(36).y_label_area_size(54);
            let mut drawing =
                drawn(builder.build_cartesian_2d(0.5..depth as f64 + 0.5, low - room..high + room))?;
            let mut mesh = drawing.configure_mesh();
            mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(RGBColor(225, 225, 225));
            let font = ("sans-serif", 12).into_font().color(&TEXT);
            mesh.axis_style(RGBColor(140, 140, 140)).label_style(font).x_desc(chart.axis).y_labels(6);
            let number = |y: &f64| match if chart.log { 10_f64.powf(*y) } else { *y } {
                y if y != 0.0 && y.abs() < 0.01 && chart.log => format!("{y:.1e}"),
                y => format!("{y:.2}"),
            };
            // The axis counts: a tick between two numbers has no label.
            let count =
                |x: &f64| match (x - x.round()).abs() < 1e-9 && (1.0..=depth as f64).contains(&x.round()) {
                    true => format!("{x:.0}"),
                    false => String::new(),
                };
            drawn(mesh.x_label_formatter(&count).y_label_formatter(&number).draw())?;
            for (j, (_, values)) in chart.lines.iter().enumerate() {
                let (color, dashed) = (color(LINES[j % LINES.len()]), j >= LINES.len());
                let points = values.iter().enumerate().filter(|(_, y)| chart.shows(y));
                let points: Vec<(f64, f64)> = points.map(|(i, y)| (i as f64 + 1.0, scaled(*y))).collect();
                // Lines that are dashed on the page have rings here.
                let style = if dashed { color.stroke_width(1) } else { color.filled() };
                drawn(drawing.draw_series(points.iter().map(|at| Circle::new(*at, 3, style))))?;
                drawn(drawing.draw_series(LineSeries::new(points, color.stroke_width(2))))?;
            }
        }
        drawn(root.present())?;
    }
    Ok(svg)
}
