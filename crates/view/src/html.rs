use std::fmt::Write;

use plotly::Plot;
use serde_json::{Value, json};
use taper_report::Split;

use crate::{
    RunData,
    chart::{self, Common, Figure},
    group::Groups,
    measure::{self, CURVES, Kind, Measure},
    table,
    text::{self, html},
};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// A page that shows these runs, complete in itself: no network, light and dark, printable.
///
/// Runs that differ in nothing but the seed are drawn as their mean, with a band from the lowest to the highest;
/// colour is the activation, line style the dropout rate. Charts are drawn by plotly as they scroll into
/// view; `#all` behind the page's address draws all of them at once.
pub fn html_report(runs: &[RunData]) -> String {
    let groups = Groups::of(runs);
    let mut page = Page { figures: Vec::new(), bins: Vec::new(), body: String::new() };
    page.summary(&groups);
    page.scores(&groups);
    if groups.sites.is_empty() {
        page.body += "<section><p class=lead>No layers were observed in these runs.</p></section>\n";
    } else {
        page.layers(&groups);
        page.distributions(&groups);
    }
    page.body += &section("configuration", "Configuration", "What is needed to repeat the runs.");
    page.body += &table::configuration(&groups);
    page.body += "</section>\n";
    page.definitions();
    page.render(&groups)
}

struct Page {
    figures: Vec<Value>,
    /// Names of the bins, site by site.
    bins: Vec<Vec<String>>,
    body: String,
}

impl Page {
    /// A place for a chart, and the chart among the page's data.
    fn chart(&mut self, figure: &Figure, class: &str, label: &str) -> String {
        self.figures.push(figure.to_json());
        let number = self.figures.len() - 1;
        format!(
            "<div class=\"chart {class}\" data-figure={number} role=img aria-label=\"{}\"></div>",
            html(label)
        )
    }

    fn summary(&mut self, groups: &Groups<'_>) {
        let split = groups.runs().filter_map(RunData::headline).max();
        let on = split.map_or(String::new(), |split| format!(" Accuracy and loss on {}.", split.name()));
        let seeds = groups.groups.iter().any(|group| group.runs.len() > 1);
        let over = if seeds { " Over seeds: mean ± sample standard deviation." } else { "" };
        self.body += &section("summary", "Summary", &format!("{on}{over}"));
        self.body += &table::runs(groups);
        self.body += "</section>\n";
    }

    fn scores(&mut self, groups: &Groups<'_>) {
        let splits = groups.scored();
        self.body += &section("scores", "Accuracy and loss", "");
        let _ = write!(self.body, "<div class=measures style=\"--n:{}\">", splits.len());
        type Value = fn(&taper_report::MetricsLine) -> Option<f64>;
        let both: [(&str, &str, Kind, Value); 2] = [
            ("Accuracy", measure::ACCURACY, Kind::Share, |line| line.accuracy),
            ("Loss", measure::LOSS, Kind::Number, |line| line.loss),
        ];
        for (title, what, kind, value) in both {
            let mut panels = String::new();
            for split in &splits {
                let figure = chart::score(groups, *split, kind, value);
                let chart = self.chart(&figure, "", &format!("{title} on {} over epochs", split.name()));
                let _ = write!(panels, "<figure><figcaption>{}</figcaption>{chart}</figure>", split.name());
            }
            self.body += &block(title, what, &panels);
        }
        self.body += "</div></section>\n";
    }

    fn layers(&mut self, groups: &Groups<'_>) {
        self.body += &section("layers", "Layers over the epochs", "");
        let _ = write!(self.body, "<div class=measures style=\"--n:{}\">", groups.sites.len());
        let has = |measure: &Measure| {
            groups.runs().any(|run| run.layers.iter().any(|line| (measure.value)(&line.stats).is_some()))
        };
        for measure in CURVES.into_iter().filter(|measure| has(measure)) {
            self.per_site(groups, measure.title, measure.what, |site| chart::measure(groups, site, measure));
            if measure.id == measure::DEAD.id {
                self.per_site(groups, "Died ↑ and revived ↓", measure::DIED, |site| {
                    chart::died_and_revived(groups, site)
                });
            }
        }
        self.per_site(groups, "Firing rates, last epoch", measure::FIRING, |site| {
            chart::firing(groups, site)
        });
        self.body += "</div></section>\n";
        let window = groups.windows[0];
        let lead = format!("Each run's last epoch, {} window.", window.name());
        self.body += &section("table", "Layers in numbers", &lead);
        self.body += &table::layers(groups, window);
        self.body += "</section>\n";
    }

    fn per_site(&mut self, groups: &Groups<'_>, title: &str, what: &str, figure: impl Fn(&str) -> Figure) {
        let mut panels = String::new();
        for (number, site) in groups.sites.iter().enumerate() {
            let chart = self.chart(&figure(site), "", &format!("{title} of {site}"));
            let name = html(&text::shorten(site, text::LABEL));
            let _ = write!(
                panels,
                "<figure data-site={number}><figcaption title=\"{}\">{name}</figcaption>{chart}</figure>",
                html(site)
            );
        }
        self.body += &block(title, what, &panels);
    }

    fn distributions(&mut self, groups: &Groups<'_>) {
        let lead = "Colour is the share of values in a bin, on a log scale; all charts of a layer have the same axes.";
        let mut heats = section("distributions", "Distributions over the epochs", lead);
        heats += "<p class=ramp>one in a million <i></i> a third of all values</p>";
        let mut overlays = section("histograms", "Histograms of chosen epochs", "");
        let epochs = chart::chosen_epochs(groups);
        overlays += "<div class=\"controls epochs\" role=group aria-label=Epochs><span>epochs</span>";
        for (i, epoch) in epochs.iter().enumerate() {
            let chosen = i == 0 || i == epochs.len() / 2 || i == epochs.len() - 1;
            let color = crate::palette::over_time(i as f64 / (epochs.len().max(2) - 1) as f64);
            let _ = write!(
                overlays,
                "<button data-epoch=e{epoch} aria-pressed={chosen} style=\"--c:{color}\">{epoch}</button>"
            );
        }
        overlays += "</div>";
        let grid = format!("<div class=measures style=\"--n:{}\">", groups.groups.len());
        heats += &grid;
        overlays += &grid;
        for (number, site) in groups.sites.iter().enumerate() {
            let common = Common::of(groups, site);
            self.bins.push(chart::bin_labels(&common));
            if common.is_empty() {
                continue;
            }
            let name = html(&text::shorten(site, 80));
            let what = html(measure::DISTRIBUTION);
            let head = format!(
                "<div data-site={number}><h3 data-tip=\"{what}\" tabindex=0>{name}</h3><div class=cells>"
            );
            heats += &head;
            overlays += &head;
            for (i, group) in groups.groups.iter().enumerate() {
                if groups.windows.iter().all(|split| group.last(site, *split).is_empty()) {
                    continue;
                }
                let (mut heat, mut overlay) = chart::distribution(groups, i, site, &common);
                heat.add("bins", json!(number));
                overlay.add("counts", json!(self.figures.len()));
                let label = html(&text::shorten(&group.label, text::LABEL));
                let caption = format!("{}{label}", table::swatch(group.hue, group.dash));
                for (out, figure, kind) in [(&mut heats, heat, "heat"), (&mut overlays, overlay, "overlay")] {
                    let chart =
                        self.chart(&figure, kind, &format!("distribution of {site}, {}", group.label));
                    let _ = write!(
                        out,
                        "<figure data-group=g{i}><figcaption title=\"{}\">{caption}</figcaption>{chart}</figure>",
                        html(&group.label)
                    );
                }
            }
            heats += "</div></div>\n";
            overlays += "</div></div>\n";
        }
        self.body += &heats;
        self.body += "</div></section>\n";
        self.body += &overlays;
        self.body += "</div></section>\n";
    }

    fn definitions(&mut self) {
        self.body += &section("definitions", "What the numbers mean", "");
        self.body += "<dl>";
        let fixed = [
            ("Accuracy", measure::ACCURACY),
            ("Loss", measure::LOSS),
            ("Window", measure::WINDOW),
            ("Distribution", measure::DISTRIBUTION),
            ("Firing rate", measure::FIRING),
            ("Died and revived", measure::DIED),
        ];
        for (title, what) in fixed.into_iter().chain(CURVES.iter().map(|m| (m.title, m.what))) {
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}</dd></div>", html(title), html(what));
        }
        self.body += "</dl></section>\n";
    }

    /// Links to the page's sections.
    fn contents(&self) -> String {
        let sections = self.body.split("<section id=").skip(1).filter_map(|section| {
            let (id, rest) = section.split_once("><h2>")?;
            Some(format!("<a href=\"#{id}\">{}</a>", rest.split_once("</h2>")?.0))
        });
        format!("<p class=contents>{}</p>\n", sections.collect::<String>())
    }

    fn render(&self, groups: &Groups<'_>) -> String {
        let title = title(groups);
        let windows: Vec<&str> = groups.windows.iter().map(|split| split.name()).collect();
        let data = json!({ "figures": self.figures, "bins": self.bins, "windows": windows });
        let data = text::script_json(&data.to_string());
        let (title, controls, notes) = (html(&title), controls(groups), notes(groups));
        let contents = self.contents();
        let scripts = Plot::offline_js_sources();
        let plotly = plotly_js(&scripts);
        let body = &self.body;
        // Made in one piece: to grow megabyte by megabyte takes longer than to write it.
        let mut page = String::with_capacity(plotly.len() + data.len() + body.len() + (1 << 16));
        // No part of the page may be fetched, whatever a name contains: the browser enforces it.
        let _ = write!(
            page,
            r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="taper {version}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1>
{contents}{notes}</header>
{controls}
<main>
<noscript><p class=note>The charts need JavaScript; the tables do not.</p></noscript>
{body}</main>
<div id=tip role=tooltip hidden></div>
<script type="application/json" id="data">{data}</script>
<script>{plotly}</script>
<script>
{SCRIPT}</script>
</body>
</html>
"##,
            version = env!("CARGO_PKG_VERSION"),
        );
        page
    }
}

fn section(id: &str, title: &str, lead: &str) -> String {
    let lead =
        if lead.is_empty() { String::new() } else { format!("<p class=lead>{}</p>", html(lead.trim())) };
    format!("<section id={id}><h2>{}</h2>{lead}\n", html(title))
}

fn block(title: &str, what: &str, panels: &str) -> String {
    // Charts with an axis on either side need the room.
    let class = if what == measure::FIRING { "panels wide" } else { "panels" };
    let (title, what) = (html(title), html(what));
    format!(
        "<div class=measure><h3 data-tip=\"{what}\" tabindex=0>{title}</h3><div class=\"{class}\">{panels}</div></div>\n"
    )
}

/// `8 runs on mnist, mlp 784-512-256-10`
fn title(groups: &Groups<'_>) -> String {
    let runs: Vec<&RunData> = groups.runs().collect();
    let same = |of: fn(&RunData) -> &str| {
        runs.first().map(|run| of(run)).filter(|first| runs.iter().all(|run| of(run) == *first))
    };
    let mut title = match &runs[..] {
        [run] => format!("{}, dropout {}", text::shorten(&run.run.activation, 40), run.run.dropout),
        runs => format!("{} runs", runs.len()),
    };
    if let Some(dataset) = same(|run| &run.run.dataset) {
        title.extend([" on ", &text::shorten(dataset, 60)]);
    }
    if let Some(model) = same(|run| &run.run.model) {
        title.extend([", ", &text::shorten(model, 60)]);
    }
    title
}

/// What a reader must know before trusting the pictures: runs that stopped early, NaN, files that are damaged.
fn notes(groups: &Groups<'_>) -> String {
    let mut notes = Vec::new();
    for run in groups.runs() {
        let name = text::shorten(&run.run.name, 80);
        if run.epoch() < run.run.epochs {
            notes.push((false, format!("{name}: {} of {} epochs", run.epoch(), run.run.epochs)));
        }
        for problem in &run.problems {
            notes.push((true, problem.clone()));
        }
        let faulty = |line: &&taper_report::MetricsLine| line.nonfinite.is_some();
        if let Some((line, of)) =
            run.metrics.iter().find(faulty).and_then(|l| Some((l, l.nonfinite.as_ref()?)))
        {
            let (epoch, split, first) = (line.epoch, line.split.name(), text::shorten(&of.first, 200));
            let n = text::count(of.batches);
            notes
                .push((true, format!("{name}: batches not finite in epoch {epoch} ({split}): {n}; {first}")));
        }
        let faulty = |line: &&taper_report::LayerLine| line.stats.nan > 0 || line.stats.infinite > 0;
        if let Some(line) = run.layers.iter().find(faulty) {
            let (site, epoch, split) = (text::shorten(&line.stats.site, 80), line.epoch, line.split.name());
            let (nan, infinite) = (text::count(line.stats.nan), text::count(line.stats.infinite));
            let what = format!("{nan} NaN and {infinite} infinite activations in epoch {epoch} ({split})");
            notes.push((true, format!("{name}: {site} has {what}")));
        }
    }
    if notes.is_empty() {
        return String::new();
    }
    let item = |(fault, note): &(bool, String)| {
        format!("<li{}>{}</li>", if *fault { " class=fault" } else { "" }, html(note))
    };
    let (few, rest) = notes.split_at(notes.len().min(5));
    let mut out: String = few.iter().map(item).collect();
    if !rest.is_empty() {
        let _ = write!(
            out,
            "<li><details><summary>and {} more</summary><ul>{}</ul></details></li>",
            rest.len(),
            rest.iter().map(item).collect::<String>()
        );
    }
    format!("<ul class=notes>{out}</ul>\n")
}

/// The bar above the charts: which runs, which layers, which window; also the legend.
fn controls(groups: &Groups<'_>) -> String {
    let mut out = String::from("<nav class=controls aria-label=\"What the charts show\">");
    let key = |out: &mut String, kind: &str, names: &[String], swatch: &dyn Fn(usize) -> String| {
        let _ = write!(out, "<div role=group aria-label={kind}>");
        for (i, name) in names.iter().enumerate() {
            let short = html(&text::shorten(name, 32));
            let _ = write!(
                out,
                "<button data-{kind}={i} aria-pressed=true title=\"{}: click to hide or show\">{}{short}</button>",
                html(name),
                swatch(i)
            );
        }
        *out += "</div>";
    };
    key(&mut out, "hue", &groups.hues, &|i| table::swatch(i, 0));
    let plain = |i: usize| table::swatch(0, i).replace(&crate::palette::hex(0), "currentColor");
    key(&mut out, "dash", &groups.dashes, &plain);
    if groups.sites.len() > 1 {
        out += "<label>layer <select id=site><option value=all>all</option>";
        for (i, site) in groups.sites.iter().enumerate() {
            let _ = write!(out, "<option value={i}>{}</option>", html(&text::shorten(site, 40)));
        }
        out += "</select></label>";
    }
    if groups.windows.len() > 1 {
        let _ = write!(out, "<div role=group class=window data-tip=\"{}\">", html(measure::WINDOW));
        for (i, split) in groups.windows.iter().enumerate() {
            let name = Split::name(*split);
            let _ = write!(out, "<button data-window={name} aria-pressed={}>{name}</button>", i == 0);
        }
        out += "</div>";
    }
    out += "<button id=theme title=\"Light or dark\" aria-label=\"Light or dark\">◐</button></nav>";
    let map: Vec<[usize; 2]> = groups.groups.iter().map(|group| [group.hue, group.dash]).collect();
    out.replacen("<nav ", &format!("<nav data-groups=\"{}\" ", html(&json!(map).to_string())), 1)
}

/// Plotly's library without MathJax, which the crate puts behind it: half the size, and no TeX here.
fn plotly_js(scripts: &str) -> &str {
    let start = scripts.find('>').map_or(0, |at| at + 1);
    let end = scripts.find("</script>").unwrap_or(scripts.len());
    &scripts[start..end]
}

#[cfg(test)]
mod tests {
    use taper_report::NonFinite;

    use super::*;
    use crate::sample::run;

    #[test]
    fn the_page_holds_plotly_once_and_fetches_nothing() {
        let page = html_report(&[run("relu", 0.0, 1)]);
        assert_eq!(page.matches("* plotly.js v").count(), 1);
        assert!(!page.contains("MathJax.js"));
        let own = page.replace(plotly_js(&Plot::offline_js_sources()), "");
        assert!(own.len() < 400_000, "{} bytes", own.len());
        for attribute in ["src=", "href=\"http", "@import", "url("] {
            assert!(!own.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn names_do_no_harm() {
        let evil = "</script><script>alert(1)</script>\"'& ü/../".repeat(6);
        let mut bad = run(&evil, 0.0, 1);
        bad.run.name = evil.clone();
        bad.run.dataset = evil.clone();
        bad.run.config = json!({ evil.as_str(): evil });
        bad.problems.push(evil.clone());
        for line in &mut bad.layers {
            line.stats.site = evil.clone();
        }
        let page = html_report(&[bad, run("relu", 0.5, 1)]);
        assert!(!page.contains("<script>alert"));
        assert_eq!(page.matches("</script>").count(), 3);
    }

    #[test]
    fn what_a_reader_must_know_stands_on_top() {
        let mut short = run("relu", 0.0, 1);
        short.run.epochs = 10;
        short.layers[3].stats.nan = 1234;
        let first = "batch 7: loss is NaN".to_string();
        short.metrics[2].nonfinite = Some(Box::new(NonFinite { batches: 1300, skipped: 0, first }));
        let (epoch, split) = (short.metrics[2].epoch, short.metrics[2].split.name());
        let page = html_report(&[short]);
        assert!(page.contains("relu-dropout0-seed1: 3 of 10 epochs"));
        assert!(
            page.contains(&format!("not finite in epoch {epoch} ({split}): 1,300; batch 7: loss is NaN"))
        );
        assert!(page.contains("1,234 NaN and 0 infinite activations in epoch 1 (test)"));
    }

    #[test]
    fn runs_without_layers_or_epochs_make_a_page() {
        let mut bare = run("relu", 0.0, 1);
        bare.layers.clear();
        assert!(html_report(&[bare.clone()]).contains("No layers were observed"));
        bare.metrics.clear();
        assert!(html_report(&[bare]).contains("0 of 3 epochs"));
        assert!(html_report(&[]).contains("0 runs"));
    }
}
