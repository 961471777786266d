use std::{
    error::Error as StdError,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use taper_report::{Split, Statistic, StatisticKind as Kind};

use crate::{
    Error, Result, RunData,
    group::{Group, Groups, Series},
    measure, palette,
    text::shorten,
};

/// Draws the four main curves for papers and READMEs: the primary metric, zeros, dead units and asymmetry over the
/// epochs.
///
/// Writes `score.svg`, and `zero_fraction.svg`, `dead_fraction.svg` and `asymmetry.svg` with a panel per layer, into
/// `dir`, which is created. Pictures of runs without layers or epochs are left out, and so are layers after the 64th.
/// Numbers are from the test split, else validation, else train. Colours, line styles and bands are those of
/// [`html_report`](crate::html_report). The viewer draws the text in its sans-serif font.
///
/// # Errors
///
/// There are no runs, or a file cannot be drawn or written.
pub fn static_plots(runs: &[RunData], dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let dir = dir.as_ref();
    if runs.is_empty() {
        return Err(Error::NoRuns);
    }
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let groups = Groups::of(runs);
    let mut written = Vec::new();
    for picture in pictures(&groups) {
        let path = dir.join(format!("{}.svg", picture.id));
        let cause = |cause: Box<dyn StdError>| Error::Draw { path: path.clone(), cause: cause.to_string() };
        let svg = picture.svg(&groups).map_err(cause)?;
        fs::write(&path, svg).map_err(Error::io(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// Curves of all groups, in one panel or in one per site.
struct Picture {
    id: &'static str,
    title: String,
    kind: Kind,
    panels: Vec<Panel>,
}

struct Panel {
    title: String,
    /// The curve of every group of the panel, with its index; empty if it does not have the site.
    curves: Vec<(usize, Series)>,
}

fn pictures(groups: &Groups<'_>) -> Vec<Picture> {
    let mut pictures = Vec::new();
    if let Some(split) = groups.scored().last() {
        let (name, kind) = groups
            .metrics()
            .iter()
            .find(|(name, _)| *name != taper_report::ADDED_LOSS)
            .map_or(("loss", Kind::Number), |(name, kind)| (*name, measure::kind_of(*kind)));
        let of = |group: &Group<'_>| {
            group.series(|run| {
                let value = |line: &taper_report::MetricsLine| drawable(kind, line.of.score.metric(name));
                run.scores(*split).filter_map(|line| Some((line.epoch.into(), value(line)?))).collect()
            })
        };
        let panel = |panel: usize| Panel {
            title: shorten(&groups.panels[panel], 32),
            curves: groups.in_panel(panel).map(|(i, group)| (i, of(group))).collect(),
        };
        let title = format!("{} ({})", shorten(name, 32), split.name());
        pictures.push(Picture {
            id: "score",
            title,
            kind,
            panels: (0..groups.panels.len()).map(panel).collect(),
        });
    }
    if let Some(window) = groups.windows.first() {
        let drawn = ["zero_fraction", "dead_fraction", "asymmetry"].into_iter().filter_map(Statistic::named);
        pictures.extend(drawn.map(|statistic| of_layers(groups, *window, statistic)));
    }
    pictures.retain(|picture| picture.values().next().is_some());
    pictures
}

/// A value from a file that an axis can show: drawing the full range of numbers would take forever.
fn drawable(kind: Kind, x: Option<f64>) -> Option<f64> {
    let range = if kind == Kind::Share { 0.0..=1.0 } else { -1e6..=1e6 };
    x.filter(|x| range.contains(x))
}

/// The largest number of panels of a picture, because a file can have any number of sites.
const PANELS: usize = 64;

fn of_layers(groups: &Groups<'_>, window: Split, of: &'static Statistic) -> Picture {
    let panel = |(site, panel): (&String, usize)| {
        let series = |group: &Group<'_>| group.layer(site, window, |l| drawable(Kind::Share, (of.value)(l)));
        let title = match groups.panels[panel].as_str() {
            "" => groups.title(site),
            name => format!("{}, {name}", groups.title(site)),
        };
        Panel {
            title: shorten(&title, 32),
            curves: groups.in_panel(panel).map(|(i, group)| (i, series(group))).collect(),
        }
    };
    let all = groups.sites.len();
    let part = if all > PANELS { format!(", {PANELS} of {all} layers") } else { String::new() };
    let title = format!("{} ({}{part})", of.title, window.name());
    let sites = groups.sites.iter().take(PANELS);
    let panels = sites.flat_map(|site| (0..groups.panels.len()).map(move |panel| (site, panel)));
    Picture { id: of.id, title, kind: of.kind, panels: panels.take(PANELS).map(panel).collect() }
}

/// Sizes below are in pixels. The drawing is larger by this factor, and the picture is shown smaller: plotters uses
/// integer coordinates, which would turn flat curves into stairs.
const FINE: i32 = 8;
const PANEL: (i32, i32) = (330 * FINE, 230 * FINE);
const WIDE_PANEL: (i32, i32) = (520 * FINE, 300 * FINE);
const TITLE: i32 = 34 * FINE;
const LEGEND_ROW: i32 = 20 * FINE;
const MARGIN: i32 = 14 * FINE;
const COLUMNS: usize = 4;
const INK: RGBColor = RGBColor(0x1d, 0x23, 0x29);
const QUIET: RGBColor = RGBColor(0x5b, 0x66, 0x70);
const GRID: RGBColor = RGBColor(0xdf, 0xe4, 0xe8);
const FONT: &str = "sans-serif";

type Drawn<T = ()> = std::result::Result<T, Box<dyn StdError>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Picture {
    fn values(&self) -> impl Iterator<Item = f64> {
        let curves = self.panels.iter().flat_map(|panel| &panel.curves);
        curves.flat_map(|(_, series)| series.low.iter().chain(&series.high)).copied()
    }

    /// The same for all panels, so that layers can be compared.
    fn range(&self) -> Range<f64> {
        let low = self.values().fold(f64::INFINITY, f64::min);
        let high = self.values().fold(f64::NEG_INFINITY, f64::max);
        let low = if self.id == "score" { low } else { low.min(0.0) };
        let high = high.max(low + 0.02);
        let air = 0.04 * (high - low);
        // No ticks outside the possible range.
        let high = if self.kind == Kind::Share { (high + air).min(1.0 + 0.2 * air) } else { high + air };
        low - air..high
    }

    fn svg(&self, groups: &Groups<'_>) -> Drawn<String> {
        let columns = self.panels.len().min(COLUMNS);
        let rows = self.panels.len().div_ceil(COLUMNS);
        // A single panel is wide, so its legend fits next to the title of a page.
        let panel = if columns == 1 { WIDE_PANEL } else { PANEL };
        let width = panel.0 * columns as i32;
        let legend = Legend::of(groups, width);
        let top = TITLE + legend.height() + 4 * FINE;
        let height = top + panel.1 * rows as i32;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
            root.fill(&WHITE)?;
            root.draw(&Text::new(
                self.title.clone(),
                (MARGIN, 11 * FINE),
                (FONT, 17 * FINE).into_font().color(&INK),
            ))?;
            legend.draw(&root)?;
            for (i, of) in self.panels.iter().enumerate() {
                let (x, y) = (panel.0 * (i % columns) as i32, top + panel.1 * (i / columns) as i32);
                let area = root.clone().shrink((x, y), (panel.0 as u32, panel.1 as u32));
                self.panel(groups, of, &area)?;
            }
            root.present()?;
        }
        let size =
            |n: i32| format!("width=\"{width}\" height=\"{height}\"", width = width / n, height = height / n);
        Ok(svg.replacen(&size(1), &size(FINE), 1))
    }

    fn panel(&self, groups: &Groups<'_>, panel: &Panel, area: &Area<'_>) -> Drawn {
        let epochs = groups.epochs();
        let (first, last) = (epochs.first().copied().unwrap_or(1), epochs.last().copied().unwrap_or(1));
        let mut builder = ChartBuilder::on(area);
        builder
            .margin(6 * FINE)
            .margin_right(MARGIN)
            .x_label_area_size(36 * FINE)
            .y_label_area_size(48 * FINE);
        if !panel.title.is_empty() {
            builder.caption(&panel.title, (FONT, 14 * FINE).into_font().color(&INK));
        }
        let air = 0.04 * f64::from(last - first).max(1.0);
        let mut chart =
            builder.build_cartesian_2d(f64::from(first) - air..f64::from(last) + air, self.range())?;
        let step = (last - first).div_ceil(7).max(1);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(FINE as u32))
            .axis_style(GRID.stroke_width(FINE as u32))
            .set_all_tick_mark_size(4 * FINE)
            .x_desc("epoch")
            .x_labels(((last - first) / step + 1) as usize)
            .y_labels(6)
            .x_label_formatter(&|x| {
                if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() }
            })
            .y_label_formatter(&|y| match self.kind {
                Kind::Share => format!("{}%", (y * 1000.0).round() / 10.0),
                _ => format!("{}", (y * 1000.0).round() / 1000.0),
            })
            .label_style((FONT, 12 * FINE).into_font().color(&QUIET))
            .axis_desc_style((FONT, 12 * FINE).into_font().color(&QUIET))
            .draw()?;
        for (i, series) in &panel.curves {
            let group = &groups.groups[*i];
            let (r, g, b) = palette::rgb(group.color);
            let color = RGBColor(r, g, b);
            let at = |ys: &[f64]| -> Vec<(f64, f64)> {
                series.xs.iter().map(|x| *x as f64).zip(ys.iter().copied()).collect()
            };
            if series.seeds > 1 {
                let mut outline = at(&series.high);
                outline.extend(at(&series.low).into_iter().rev());
                chart.draw_series([Polygon::new(outline, color.mix(0.15))])?;
            }
            if series.xs.len() == 1 {
                chart.draw_series(
                    at(&series.mean).into_iter().map(|at| Circle::new(at, 3 * FINE, color.filled())),
                )?;
            }
            let style = color.stroke_width(2 * FINE as u32);
            match palette::dash(group.dash) {
                [] => chart.draw_series(LineSeries::new(at(&series.mean), style))?,
                [on, off, ..] => chart.draw_series(DashedLineSeries::new(
                    at(&series.mean),
                    on * FINE as u32,
                    off * FINE as u32,
                    style,
                ))?,
                [_] => unreachable!("dashes come in pairs"),
            };
        }
        Ok(())
    }
}

/// The legend of colours and line styles, in as many rows as needed.
struct Legend {
    rows: Vec<Vec<Entry>>,
}

struct Entry {
    text: String,
    x: i32,
    color: RGBColor,
    dash: usize,
}

const SAMPLE: i32 = 26 * FINE;

impl Legend {
    fn of(groups: &Groups<'_>, width: i32) -> Self {
        let hues = groups.hues.iter().zip(&groups.colors).map(|(name, color)| {
            let (r, g, b) = palette::rgb(*color);
            (shorten(name, 40), RGBColor(r, g, b), 0)
        });
        let dashes = groups.dashes.iter().enumerate().map(|(i, name)| (name.clone(), QUIET, i));
        let mut rows = vec![Vec::new()];
        let mut x = MARGIN;
        for (text, color, dash) in hues.chain(dashes) {
            // Fonts differ between viewers: the estimate is wide, so that entries never overlap.
            let entry = SAMPLE + (6 + 14) * FINE + (7.6 * FINE as f64 * text.chars().count() as f64) as i32;
            if x + entry > width && x > MARGIN {
                rows.push(Vec::new());
                x = MARGIN;
            }
            if let Some(row) = rows.last_mut() {
                row.push(Entry { text, x, color, dash });
            }
            x += entry;
        }
        Self { rows }
    }

    fn height(&self) -> i32 {
        LEGEND_ROW * self.rows.len() as i32
    }

    fn draw(&self, root: &Area<'_>) -> Drawn {
        for (i, row) in self.rows.iter().enumerate() {
            let y = TITLE + LEGEND_ROW * i as i32 + LEGEND_ROW / 2;
            for Entry { text, x, color, dash } in row {
                let line = [(*x, y), (*x + SAMPLE, y)];
                let style = color.stroke_width(3 * FINE as u32);
                match palette::dash(*dash) {
                    [on, off, ..] => {
                        let (mut at, mut pieces) = (line[0].0, Vec::new());
                        let (on, off) = (*on as i32 * FINE, *off as i32 * FINE);
                        while at < line[1].0 {
                            pieces.push([(at, y), ((at + on).min(line[1].0), y)]);
                            at += on + off;
                        }
                        for piece in pieces {
                            root.draw(&PathElement::new(piece, style))?;
                        }
                    }
                    _ => root.draw(&PathElement::new(line, style))?,
                }
                let style = (FONT, 13 * FINE).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
                root.draw(&Text::new(text.clone(), (*x + SAMPLE + 6 * FINE, y), style))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::run;

    #[test]
    fn four_curves_are_drawn_with_a_panel_per_layer() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        let runs = [run("relu", 0.0, 1), run("relu", 0.0, 2), run("tanh", 0.5, 1)];
        let paths = static_plots(&runs, dir.path().join("figures"))?;
        let names: Vec<_> = paths.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["score.svg", "zero_fraction.svg", "dead_fraction.svg", "asymmetry.svg"]);
        let svg = fs::read_to_string(&paths[1]).map_err(Error::io(&paths[1]))?;
        for text in ["Zeros (test)", "fc1", "fc2", "relu", "tanh", "dropout 0.5", "epoch"] {
            assert!(svg.contains(text), "{text}");
        }
        Ok(())
    }

    #[test]
    fn names_do_no_harm() -> Drawn {
        let mut bad = run("<b>&\"relu\"</b>", 0.0, 1);
        bad.layers.iter_mut().for_each(|line| line.of.site = "</svg>/'ü".into());
        let runs = [bad];
        let groups = Groups::of(&runs);
        for picture in pictures(&groups) {
            let svg = picture.svg(&groups)?;
            assert!(!svg.contains("<b>") && svg.matches("</svg>").count() == 1);
        }
        Ok(())
    }
}
