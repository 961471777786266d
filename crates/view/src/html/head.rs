//! What stands above the page's sections.

use std::fmt::Write;

use taper_report::{Split, label_text};

use crate::{
    RunData,
    group::Groups,
    measure, palette, table,
    text::{self, html},
};

/// `8 runs on mnist, mlp 784-512-256-10`
pub(super) fn title(groups: &Groups<'_>) -> String {
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
pub(super) fn notes(groups: &Groups<'_>) -> String {
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
    let item = |(fault, note): &(bool, String)| {
        format!("<li{}>{}</li>", if *fault { " class=fault" } else { "" }, html(note))
    };
    text::list("class=notes", &notes.iter().map(item).collect::<Vec<_>>(), 5)
}

/// The bar above the charts: which runs, which layers, which window; also the legend.
pub(super) fn controls(groups: &Groups<'_>) -> String {
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
    key(&mut out, "hue", &groups.hues, &|i| table::swatch(groups.colors[i], 0));
    let plain = |i: usize| table::swatch(0, i).replace(&palette::hex(0), "currentColor");
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
    out + "<button id=theme title=\"Light or dark\" aria-label=\"Light or dark\">◐</button></nav>"
}
