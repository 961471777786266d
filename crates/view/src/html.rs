use std::fmt::Write;

use serde_json::{Value, json};
use taper_report::{SiteSteps, Statistic, StatisticKind};

use crate::{
    RunData, answer,
    chart::{self, Axes, Chart},
    configuration,
    group::Groups,
    measure, palette, savings, strip,
    text::{self, html},
};

mod distributions;
mod head;
mod summary;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const UPLOT: &str = include_str!("page/uplot/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("page/uplot/uPlot.min.css");
const UPLOT_LICENCE: &str = include_str!("page/uplot/LICENSE");

/// A page that shows these runs, complete in itself: no network, light and dark, printable.
///
/// It opens with the answer: zeros, dead units by number, and what each label changes. Curves by training step, units
/// over the epochs and distributions follow; every other statistic is folded under "more".
///
/// Runs that differ in nothing but the seed are drawn as their mean, with a band from the lowest to the highest;
/// colour is the first label that differs, line style the last; those between have charts of their own. A name has the
/// same colour on every page. Charts are drawn by uPlot as they scroll into view; `#all` at the end of the page's address draws
/// all of them at once.
pub fn html_report(runs: &[RunData]) -> String {
    page(runs, None)
}

/// The page; with `reload` it loads itself anew after so many seconds, for as long as runs are under way.
pub(crate) fn page(runs: &[RunData], reload: Option<u64>) -> String {
    let groups = Groups::of(runs);
    let mut page = Page { charts: Vec::new(), axes: Axes::default(), sites: Vec::new(), body: String::new() };
    if groups.sites.is_empty() {
        page.body += "<section><p class=lead>No layers were observed in these runs.</p></section>\n";
        page.summary(&groups);
    } else {
        page.body += &section("answer", "What the layers do", "");
        page.body += &answer::answer(&groups);
        page.body += "</section>\n";
        page.savings(&groups);
        page.curves(&groups);
        page.units(&groups);
        page.distributions(&groups);
        page.summary(&groups);
    }
    page.body += &section("configuration", "Configuration", "What is needed to repeat the runs.");
    page.body += &configuration::configuration(&groups);
    page.body += "</section>\n";
    page.more(&groups);
    page.render(&groups, reload)
}

/// What the curves show first, over steps where there are any.
const FIRST: [&str; 3] = ["zero_fraction", "dead_fraction", "mean"];

struct Page {
    charts: Vec<Value>,
    axes: Axes,
    /// Bins and axes of every site's distributions.
    sites: Vec<Value>,
    body: String,
}

impl Page {
    /// A place for a chart, and the chart among the page's data.
    fn place(&mut self, chart: Value, class: &str, label: &str) -> String {
        self.charts.push(chart);
        let number = self.charts.len() - 1;
        format!(
            "<div class=\"chart {class}\" data-chart={number} role=img aria-label=\"{}\"></div>",
            html(label)
        )
    }

    fn chart(&mut self, chart: &Chart, label: &str) -> String {
        let chart = chart.to_json(&mut self.axes);
        self.place(chart, "", label)
    }

    /// Curves from the untrained network on.
    fn curves(&mut self, groups: &Groups<'_>) {
        let by_step = groups.runs().any(|run| !run.steps.is_empty());
        let held_out = groups.windows[0].name();
        let lead = match by_step {
            true => format!(
                "Lines are windows of training steps, dots the {held_out} window at the ends of epochs; step 0 is the untrained network. Drag to zoom in, double click to zoom out."
            ),
            false => "Drag to zoom in, double click to zoom out.".into(),
        };
        self.body += &section("curves", "Curves", &lead);
        let n = groups.sites.len() * groups.panels.len();
        let _ = write!(self.body, "<div class=measures style=\"--n:{n}\">");
        for of in FIRST.into_iter().filter_map(Statistic::named).filter(|of| has(groups, of)) {
            let of_steps: Option<fn(&SiteSteps) -> Option<f64>> = match of.id {
                "zero_fraction" => Some(|of| Some(of.zero_fraction)),
                "mean" => Some(|of| of.mean),
                // A unit that no gradient reached in a few steps is seldom dead.
                _ => None,
            };
            match of_steps.filter(|_| by_step) {
                Some(of_steps) => self.per_site(groups, of.title, of.what, |panel, site| {
                    chart::statistic_by_step(groups, panel, site, of, of_steps)
                }),
                None => self.statistic(groups, of),
            }
        }
        if by_step {
            let primary = groups.metrics().into_iter().next();
            let primary = primary.map(|(name, kind)| (name, measure::kind_of(kind)));
            let loss = ("loss", StatisticKind::Number);
            let mut panels = String::new();
            for (name, kind) in primary.into_iter().chain([loss]) {
                for panel in 0..groups.panels.len() {
                    let chart = chart::score_by_step(groups, panel, kind, name);
                    let chart = self.chart(&chart, &format!("{name} over steps"));
                    let caption = html(&caption(groups, panel, &text::shorten(name, text::LABEL)));
                    let _ = write!(panels, "<figure><figcaption>{caption}</figcaption>{chart}</figure>");
                }
            }
            let what =
                format!("Lines: training batches, in train mode. Dots: {held_out}. {}", groups.losses());
            self.body += &block(if primary.is_some() { "Score and loss" } else { "Loss" }, &what, &panels);
        }
        self.body += "</div></section>\n";
    }

    fn savings(&mut self, groups: &Groups<'_>) {
        let savings = savings::savings(groups);
        if !savings.is_empty() {
            self.body += &section("savings", "What the zeros save", savings::LEAD);
            self.body += &savings;
            self.body += "</section>\n";
        }
    }

    fn units(&mut self, groups: &Groups<'_>) {
        let strips = strip::strips(groups);
        if !strips.is_empty() {
            self.body += &section("units", "Units over the epochs", "");
            self.body += &strips;
            self.body += "</section>\n";
        }
    }

    fn statistic(&mut self, groups: &Groups<'_>, of: &Statistic) {
        let what = if of.id == "mean" { format!("{} {}", of.what, measure::BAND) } else { of.what.into() };
        self.per_site(groups, of.title, &what, |panel, site| chart::statistic(groups, panel, site, of));
    }

    fn per_site(
        &mut self,
        groups: &Groups<'_>,
        title: &str,
        what: &str,
        chart: impl Fn(usize, &str) -> Chart,
    ) {
        let mut panels = String::new();
        for (number, site) in groups.sites.iter().enumerate() {
            for panel in 0..groups.panels.len() {
                let chart = self.chart(&chart(panel, site), &format!("{title} of {site}"));
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

    /// Links to the page's sections.
    fn contents(&self) -> String {
        let sections = self.body.split("<section id=").skip(1).filter_map(|section| {
            let (id, rest) = section.split_once("><h2>")?;
            Some(format!("<a href=\"#{id}\">{}</a>", rest.split_once("</h2>")?.0))
        });
        format!("<p class=contents>{}</p>\n", sections.collect::<String>())
    }

    fn render(&self, groups: &Groups<'_>, reload: Option<u64>) -> String {
        let title = head::title(groups);
        let windows: Vec<&str> = groups.windows.iter().map(|split| split.name()).collect();
        let group = |group: &crate::group::Group<'_>| {
            json!({
                "name": text::shorten(&group.label, text::LABEL),
                "color": palette::hex(group.color),
                "line": palette::dash(group.dash),
                "hue": group.hue,
                "dash": group.dash,
            })
        };
        let data = json!({
            "groups": groups.groups.iter().map(group).collect::<Vec<_>>(),
            "axes": self.axes.to_json(),
            "sites": self.sites,
            "charts": self.charts,
            "windows": windows,
            "reload": reload,
        });
        let data = text::script_json(&data.to_string());
        let (title, controls, notes) = (html(&title), head::controls(groups), head::notes(groups));
        let contents = self.contents();
        let live = if reload.is_some() { "<span class=live>running</span>" } else { "" };
        let body = &self.body;
        // Made in one piece: growing it step by step takes longer than writing it.
        let mut page = String::with_capacity(UPLOT.len() + data.len() + body.len() + (1 << 16));
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
{UPLOT_STYLE}
{STYLE}</style>
</head>
<body>
<header><h1>{title} {live}</h1>
{contents}{notes}</header>
{controls}
<main>
<noscript><p class=note>The charts need JavaScript; the tables and the units over the epochs do not.</p></noscript>
{body}</main>
<div id=tip role=tooltip hidden></div>
<script type="application/json" id="data">{data}</script>
<script>/*
{UPLOT_LICENCE}*/
{UPLOT}</script>
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

/// Whether any layer of any run has this statistic.
fn has(groups: &Groups<'_>, of: &Statistic) -> bool {
    groups.runs().any(|run| run.layers.iter().any(|line| (of.value)(&line.of).is_some()))
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

#[cfg(test)]
mod tests {
    use taper_report::{Fault, NonFinite, Place, Trouble};

    use super::*;
    use crate::sample::run;

    #[test]
    fn the_page_is_small_carries_a_licence_and_fetches_nothing() {
        let page = html_report(&[run("relu", 0.0, 1)]);
        assert!(page.len() < 200_000, "{} bytes", page.len());
        assert!(page.contains("The MIT License (MIT)") && page.contains("Leon Sorokin"));
        for attribute in ["src=", "href=\"http", "@import", "url("] {
            assert!(!page.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn the_page_opens_with_the_answer_and_folds_the_rest() {
        let page = html_report(&[run("relu", 0.0, 1), run("relu", 0.5, 1)]);
        let at = |id: &str| page.find(&format!("<section id={id}>")).expect("the section is there");
        let order = ["answer", "curves", "distributions", "summary", "configuration", "more"].map(at);
        assert!(order.is_sorted(), "{order:?}");
        assert!(page[order[5]..].contains("<details id=table>"));
    }

    #[test]
    fn only_a_page_of_a_run_under_way_loads_itself_anew() {
        let runs = [run("relu", 0.0, 1)];
        assert!(html_report(&runs).contains("\"reload\":null"));
        assert!(page(&runs, Some(10)).contains("\"reload\":10"));
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
