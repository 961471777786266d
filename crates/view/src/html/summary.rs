use std::fmt::Write;

use taper_report::{STATISTICS, Shown, Statistic, StatisticKind};

use super::{FIRST, Page, block, caption, has, section};
use crate::{
    RunData, chart,
    group::Groups,
    measure, table,
    text::{self, html},
};

impl Page {
    pub(super) fn summary(&mut self, groups: &Groups<'_>) {
        let split = groups.runs().filter_map(RunData::headline).max();
        let on = split.map_or(String::new(), |split| format!(" Metrics and loss on {}.", split.name()));
        let seeds = groups.groups.iter().any(|group| group.runs.len() > 1);
        let over = if seeds { " Over seeds: mean ± sample standard deviation." } else { "" };
        self.body += &section("summary", "Metrics and loss", &format!("{on}{over}"));
        self.body += &table::runs(groups);
        let splits = groups.scored();
        let n = splits.len() * groups.panels.len();
        let _ = write!(self.body, "<div class=measures style=\"--n:{n}\">");
        let loss = ("loss", StatisticKind::Number, groups.losses());
        let metrics = groups.metrics().into_iter();
        let metrics =
            metrics.map(|(name, kind)| (name, measure::kind_of(kind), measure::meaning(kind).to_string()));
        for (name, kind, what) in metrics.chain([loss]) {
            let mut panels = String::new();
            for split in &splits {
                for panel in 0..groups.panels.len() {
                    let chart = chart::score(groups, panel, *split, kind, name);
                    let chart = self.chart(&chart, &format!("{name} on {} over epochs", split.name()));
                    let caption = html(&caption(groups, panel, split.name()));
                    let _ = write!(panels, "<figure><figcaption>{caption}</figcaption>{chart}</figure>");
                }
            }
            self.body += &block(&text::shorten(name, text::LABEL), &what, &panels);
        }
        self.body += "</div>";
        self.body += &table::counts(groups);
        self.body += "</section>\n";
    }

    /// Everything else, folded.
    pub(super) fn more(&mut self, groups: &Groups<'_>) {
        self.body += "<section id=more><h2>More</h2>\n";
        if !groups.sites.is_empty() {
            self.body += "<details><summary>Every statistic over the epochs</summary>";
            let n = groups.sites.len() * groups.panels.len();
            let _ = write!(self.body, "<div class=measures style=\"--n:{n}\">");
            let by_step = groups.runs().any(|run| !run.steps.is_empty());
            let shown = |of: &&Statistic| FIRST.contains(&of.id) && (!by_step || of.id == "dead_fraction");
            for of in Statistic::shown_in(Shown::Curve).filter(|of| has(groups, of) && !shown(of)) {
                self.statistic(groups, of);
            }
            self.per_site(groups, "Firing rates, last epoch", measure::FIRING, |panel, site| {
                chart::firing(groups, panel, site)
            });
            self.body += "</div></details>\n";
            let window = groups.windows[0];
            let lead = format!("Each run's last epoch, {} window.", window.name());
            let _ = write!(
                self.body,
                "<details id=table><summary>Every statistic in numbers</summary><p class=lead>{lead}</p>"
            );
            self.body += &table::layers(groups, window);
            self.body += "</details>\n";
        }
        self.body += "<details><summary>What the numbers mean</summary>";
        self.definitions(groups);
        self.body += "</details></section>\n";
    }

    fn definitions(&mut self, groups: &Groups<'_>) {
        self.body += "<dl>";
        let loss = groups.losses();
        let metrics = groups.metrics();
        let fixed = [
            ("loss", loss.as_str()),
            ("Window", measure::WINDOW),
            ("Distribution", measure::DISTRIBUTION),
            ("Firing rate", measure::FIRING),
        ];
        let metrics = metrics.iter().map(|(name, kind)| (*name, measure::meaning(*kind)));
        let shown =
            |of: &&Statistic| [Shown::Curve, Shown::Table].iter().any(|place| of.shown.contains(place));
        let statistics = STATISTICS.iter().filter(shown).map(|of| (of.title, of.what));
        for (title, what) in metrics.chain(fixed).chain(statistics) {
            let title = text::shorten(title, text::LABEL);
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}</dd></div>", html(&title), html(what));
        }
        self.body += "</dl>";
    }
}
