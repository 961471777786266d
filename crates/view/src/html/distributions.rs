use std::fmt::Write;

use serde_json::{Value, json};

use super::{Page, caption, section};
use crate::{
    distribution::{self, Common},
    group::Groups,
    heat::{self, Rows},
    measure, table,
    text::{self, html},
};

impl Page {
    /// The last epoch of all runs over each other, and every run over its epochs.
    pub(super) fn distributions(&mut self, groups: &Groups<'_>) {
        self.body += &section("distributions", "Distributions", measure::DISTRIBUTION);
        let several = groups.groups.len() > 1;
        let chosen = distribution::chosen_epochs(groups);
        let mut legend = String::from("<p class=\"lead epochs\">");
        for (epoch, color) in &chosen {
            let _ = write!(legend, "<span><i style=\"background:{color}\"></i> epoch {epoch}</span>");
        }
        let by_step = if groups.sites.iter().any(|site| Rows::of(groups, site).is_some()) {
            ", by training step"
        } else {
            ""
        };
        let _ = write!(
            legend,
            "</p><p class=\"lead ramp\">heat maps: share of the values per octave{by_step} <span><i></i><b></b><b></b><b></b><b></b><b></b></span></p>"
        );
        let (mut last, mut over_epochs) = (String::new(), String::new());
        for (number, site) in groups.sites.iter().enumerate() {
            let common = Common::of(groups, site);
            let rows = Rows::of(groups, site);
            let mut axes = common.to_json();
            axes["steps"] = rows.as_ref().map_or(Value::Null, Rows::to_json);
            self.sites.push(axes);
            if common.is_empty() {
                continue;
            }
            let name = html(&text::shorten(&groups.title(site), 80));
            let mut of_groups = Vec::new();
            let mut cells = String::new();
            for (i, group) in groups.groups.iter().enumerate() {
                if groups.windows.iter().all(|split| group.last(site, *split).is_empty()) {
                    continue;
                }
                let of = distribution::over_epochs(groups, i, site, &common);
                let steps = rows.as_ref().map(|rows| heat::over_steps(group, site, rows));
                let heat = self.place(
                    json!({ "x": "heat", "site": number, "g": i, "data": of, "steps": steps }),
                    "heat",
                    &format!("distribution of {site} over the training, {}", group.label),
                );
                let source = self.charts.len() - 1;
                of_groups.push(source);
                let overlay = self.place(
                    json!({ "x": "density", "site": number, "of": [source], "epochs": chosen }),
                    "",
                    &format!("distribution of {site} in chosen epochs, {}", group.label),
                );
                let caption = table::key(group);
                let _ = write!(
                    cells,
                    "<figure data-group=g{i} class=pair><figcaption title=\"{}\">{caption}</figcaption><div>{overlay}{heat}</div></figure>",
                    html(&group.label)
                );
            }
            let _ = writeln!(
                over_epochs,
                "<div data-site={number}><h3>{name}</h3><div class=pairs>{cells}</div></div>"
            );
            if several {
                for panel in 0..groups.panels.len() {
                    let of: Vec<usize> = of_groups
                        .iter()
                        .copied()
                        .filter(|i| {
                            let group = self.charts[*i]["g"].as_u64().unwrap_or(0) as usize;
                            groups.groups[group].panel == panel
                        })
                        .collect();
                    let chart = self.place(
                        json!({ "x": "density", "site": number, "of": of }),
                        "tall",
                        &format!("distribution of {site} in the last epoch"),
                    );
                    let caption =
                        html(&text::shorten(&caption(groups, panel, &groups.title(site)), text::LABEL));
                    let _ = write!(
                        last,
                        "<figure data-site={number}><figcaption>{caption}, last epoch</figcaption>{chart}</figure>"
                    );
                }
            }
        }
        if several {
            let _ = write!(self.body, "<div class=panels>{last}</div>");
            let _ = write!(
                self.body,
                "<details><summary>Over the training, run by run</summary>{legend}{over_epochs}</details>"
            );
        } else {
            let _ = write!(self.body, "{legend}<div class=pairs>{over_epochs}</div>");
        }
        self.body += "</section>\n";
    }
}
