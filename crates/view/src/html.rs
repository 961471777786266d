use std::fmt::Write;

use plotly::Plot;
use serde_json::{Value, json};
use taper_report::{STATISTICS, Shown, Split, Statistic, StatisticKind, label_text};

use crate::{
    RunData,
    chart::{self, Common, Figure},
    group::Groups,
    measure, table,
    text::{self, html},
};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// A page that shows these runs, complete in itself: no network, light and dark, printable.
///
/// Runs that differ in nothing but the seed are drawn as their mean, with a band from the lowest to the highest;
/// colour is the first label that differs, line style the last; those between have charts of their own. Charts are
/// drawn by plotly as they scroll into view; `#all` behind the page's address draws all of them at once.
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
    page.definitions(&groups);
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
        let on = split.map_or(String::new(), |split| format!(" Metrics and loss on {}.", split.name()));
        let seeds = groups.groups.iter().any(|group| group.runs.len() > 1);
        let over = if seeds { " Over seeds: mean ± sample standard deviation." } else { "" };
        self.body += &section("summary", "Summary", &format!("{on}{over}"));
        self.body += &table::runs(groups);
        self.body += &table::counts(groups);
        self.body += "</section>\n";
    }

    fn scores(&mut self, groups: &Groups<'_>) {
        let splits = groups.scored();
        self.body += &section("scores", "Metrics and loss", "");
        let _ =
            write!(self.body, "<div class=measures style=\"--n:{}\">", splits.len() * groups.panels.len());
        let loss = ("loss", StatisticKind::Number, groups.losses());
        let metrics = groups.metrics().into_iter();
        let metrics =
            metrics.map(|(name, kind)| (name, measure::kind_of(kind), measure::meaning(kind).to_string()));
        for (name, kind, what) in metrics.chain([loss]) {
            let mut panels = String::new();
            for split in &splits {
                for panel in 0..groups.panels.len() {
                    let figure = chart::score(groups, panel, *split, kind, name);
                    let chart = self.chart(&figure, "", &format!("{name} on {} over epochs", split.name()));
                    let caption = html(&caption(groups, panel, split.name()));
                    let _ = write!(panels, "<figure><figcaption>{caption}</figcaption>{chart}</figure>");
                }
            }
            self.body += &block(&text::shorten(name, text::LABEL), &what, &panels);
        }
        self.body += "</div></section>\n";
    }

    fn layers(&mut self, groups: &Groups<'_>) {
        self.body += &section("layers", "Layers over the epochs", "");
        let n = groups.sites.len() * groups.panels.len();
        let _ = write!(self.body, "<div class=measures style=\"--n:{n}\">");
        let has = |of: &&Statistic| {
            groups.runs().any(|run| run.layers.iter().any(|line| (of.value)(&line.of).is_some()))
        };
        for of in Statistic::shown_in(Shown::Curve).filter(has) {
            let what =
                if of.id == "mean" { format!("{} {}", of.what, measure::BAND) } else { of.what.into() };
            self.per_site(groups, of.title, &what, |panel, site| chart::statistic(groups, panel, site, of));
            if of.id == "dead_fraction" {
                self.per_site(groups, "Died ↑ and revived ↓", measure::DIED, |panel, site| {
                    chart::died_and_revived(groups, panel, site)
                });
            }
        }
        self.per_site(groups, "Firing rates, last epoch", measure::FIRING, |panel, site| {
            chart::firing(groups, panel, site)
        });
        self.body += "</div></section>\n";
        let window = groups.windows[0];
        let lead = format!("Each run's last epoch, {} window.", window.name());
        self.body += &section("table", "Layers in numbers", &lead);
        self.body += &table::layers(groups, window);
        self.body += "</section>\n";
    }

    fn per_site(
        &mut self,
        groups: &Groups<'_>,
        title: &str,
        what: &str,
        figure: impl Fn(usize, &str) -> Figure,
    ) {
        let mut panels = String::new();
        for (number, site) in groups.sites.iter().enumerate() {
            for panel in 0..groups.panels.len() {
                let chart = self.chart(&figure(panel, site), "", &format!("{title} of {site}"));
                let name = caption(groups, panel, &groups.title(site));
                let _ = write!(
                    panels,
                    "<figure data-site={number}><figcaption title=\"{}\">{}</figcaption>{chart}</figure>",
                    html(&name),
                    html(&text::shorten(&name, text::LABEL))
                );
            }
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
            let name = html(&text::shorten(&groups.title(site), 80));
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

    fn definitions(&mut self, groups: &Groups<'_>) {
        self.body += &section("definitions", "What the numbers mean", "");
        self.body += "<dl>";
        let loss = groups.losses();
        let metrics = groups.metrics();
        let fixed = [
            ("loss", loss.as_str()),
            ("Window", measure::WINDOW),
            ("Distribution", measure::DISTRIBUTION),
            ("Firing rate", measure::FIRING),
            ("Died and revived", measure::DIED),
        ];
        let metrics = metrics.iter().map(|(name, kind)| (*name, measure::meaning(*kind)));
        let shown =
            |of: &&Statistic| [Shown::Curve, Shown::Table].iter().any(|place| of.shown.contains(place));
        let statistics = STATISTICS.iter().filter(shown).map(|of| (of.title, of.what));
        for (title, what) in metrics.chain(fixed).chain(statistics) {
            let title = text::shorten(title, text::LABEL);
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}</dd></div>", html(&title), html(what));
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

/// What a chart is about, and which panel it is where there are several.
fn caption(groups: &Groups<'_>, panel: usize, name: &str) -> String {
    match groups.panels.len() {
        1 => name.to_string(),
        _ => format!("{name}, {}", groups.panels[panel]),
    }
}

/// `8 runs on mnist, mlp 784-512-256-10`
fn title(groups: &Groups<'_>) -> String {
    let runs: Vec<&RunData> = groups.runs().collect();
    let same = |of: fn(&RunData) -> &str| {
        runs.first().map(|run| of(run)).filter(|first| runs.iter().all(|run| of(run) == *first))
    };
    let mut title = match &runs[..] {
        [run] if run.run.labels.is_empty() => text::shorten(&run.run.name, 60),
        [run] => {
            let labels: Vec<String> =
                run.run.labels.iter().map(|(key, value)| label_text(key, value)).collect();
            text::shorten(&labels.join(", "), 60)
        }
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
        if let Some((line, of)) = run.metrics.iter().find_map(|l| Some((l, l.of.nonfinite.as_ref()?))) {
            let (epoch, split, first) =
                (line.epoch, line.split.name(), text::shorten(&of.first.to_string(), 200));
            let n = text::count(of.batches);
            notes
                .push((true, format!("{name}: batches not finite in epoch {epoch} ({split}): {n}; {first}")));
        }
        let faulty = |line: &&taper_report::LayerLine| line.of.nan > 0 || line.of.infinite > 0;
        if let Some(line) = run.layers.iter().find(faulty) {
            let (site, epoch, split) = (text::shorten(&line.of.site, 80), line.epoch, line.split.name());
            let (nan, infinite) = (text::count(line.of.nan), text::count(line.of.infinite));
            let what = format!("{nan} NaN and {infinite} infinite activations in epoch {epoch} ({split})");
            notes.push((true, format!("{name}: {site} has {what}")));
        }
        if let Some((line, trouble)) = run.layers.iter().find_map(|l| Some((l, l.of.trouble.as_ref()?))) {
            let (site, epoch, split) = (text::shorten(&line.of.site, 80), line.epoch, line.split.name());
            notes.push((
                true,
                format!("{name}: {site} was not all recorded in epoch {epoch} ({split}): {trouble}"),
            ));
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
    if !groups.dashes.is_empty() {
        key(&mut out, "dash", &groups.dashes, &plain);
    }
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
    use taper_report::{Fault, NonFinite, Place, Trouble};

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
            line.of.site = evil.clone();
        }
        let page = html_report(&[bad, run("relu", 0.5, 1)]);
        assert!(!page.contains("<script>alert"));
        assert_eq!(page.matches("</script>").count(), 3);
    }

    #[test]
    fn what_a_reader_must_know_stands_on_top() {
        let mut short = run("relu", 0.0, 1);
        short.run.epochs = 10;
        short.layers[3].of.nan = 1234;
        short.layers[4].of.trouble = Some(Trouble::SiteTwice);
        let first = Fault { batch: 7, loss: f64::NAN, place: Place::Loss };
        short.metrics[2].of.nonfinite = Some(NonFinite { batches: 1300, skipped: 0, first });
        let (epoch, split) = (short.metrics[2].epoch, short.metrics[2].split.name());
        let page = html_report(&[short]);
        assert!(page.contains("relu-dropout0-seed1: 3 of 10 epochs"));
        assert!(
            page.contains(&format!("not finite in epoch {epoch} ({split}): 1,300; batch 7: loss is NaN"))
        );
        assert!(page.contains("was not all recorded in epoch 2 (train): another site of this name came"));
        assert!(page.contains("1,234 NaN and 0 infinite activations in epoch 1 (test)"));
    }

    #[test]
    fn a_single_run_shows_its_counts_and_how_often_a_site_is_used() {
        let mut single = run("relu", 0.5, 1);
        let counts = [("confusion".to_string(), vec![vec![1200, 3], vec![4, 5]])];
        single.metrics.iter_mut().for_each(|line| line.of.score.counts = counts.clone().into());
        single.layers.iter_mut().filter(|line| line.of.site == "fc1").for_each(|line| line.of.uses = 7);
        let page = html_report(&[single.clone()]);
        for text in
            ["confusion on test, epoch 3", "<td>1,200</td>", "fc1 ×7", "<h1>relu, dropout 0.5 on digits"]
        {
            assert!(page.contains(text), "{text}");
        }
        assert!(!html_report(&[single, run("relu", 0.0, 1)]).contains("confusion on test"));
    }

    #[test]
    fn every_panel_has_charts_of_its_own() {
        let mut runs = [run("relu", 0.0, 1), run("relu", 0.5, 1), run("tanh", 0.5, 1)];
        for (run, width) in runs.iter_mut().zip([64, 128, 64]) {
            run.run.labels.insert("width".into(), width.into());
        }
        let page = html_report(&runs);
        for text in ["fc1, dropout 0.5", "fc2, dropout 0<", "test, dropout 0.5"] {
            assert!(page.contains(text), "{text}");
        }
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
