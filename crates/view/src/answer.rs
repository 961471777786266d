//! The first section of the page: zeros and dead units of every layer, and the effect of each label on the zeros.

use std::fmt::Write;

use taper_report::{LayerStats, Split, share_text};

use crate::{
    RunData,
    group::{Group, Groups},
    table::{self, Table},
    text::{self, NONE, html},
};

/// The share of dead units in a layer from which the table shows their number in red.
const MANY: f64 = 0.1;
/// The largest number of dead units that a table cell lists; its tooltip lists all.
const NAMED: usize = 12;
/// The largest number of layers that a sentence names.
const LAYERS: usize = 4;

/// One site in one group, averaged over its seeds, in the last epoch of each.
pub(crate) struct Cell<'a> {
    pub group: usize,
    pub site: &'a str,
    pub zeros: f64,
    /// `None` if there is no activation function.
    dead: Option<f64>,
    units: u64,
    pub of: Vec<(&'a RunData, &'a LayerStats)>,
}

impl Cell<'_> {
    fn dead_share(&self) -> f64 {
        if self.units > 0 { self.dead.unwrap_or(0.0) / self.units as f64 } else { 0.0 }
    }
}

/// The cells of a window, site by site.
pub(crate) fn cells<'a>(groups: &'a Groups<'a>, window: Split) -> Vec<Cell<'a>> {
    let mut cells = Vec::new();
    for site in &groups.sites {
        for (i, group) in groups.groups.iter().enumerate() {
            let of: Vec<_> = group.last(site, window).into_iter().filter(|(_, l)| l.values > 0).collect();
            if of.is_empty() {
                continue;
            }
            let n = of.len() as f64;
            let dead: Option<f64> = of.iter().map(|(_, l)| l.dead.map(|n| n as f64)).sum();
            let zeros = of.iter().map(|(_, l)| l.zero_fraction).sum::<f64>() / n;
            let units = of[0].1.units;
            cells.push(Cell { group: i, site, zeros, dead: dead.map(|dead| dead / n), units, of });
        }
    }
    cells
}

/// The first section of the page, without its frame.
pub(crate) fn answer(groups: &Groups<'_>) -> String {
    let Some(window) = groups.windows.first() else { return String::new() };
    let cells = cells(groups, *window);
    let mut out = text::list("class=alarms role=alert", &warnings(groups), 6);
    out += "<ul class=answer>";
    for text in [summary(groups, &cells)].into_iter().chain(effects(groups, &cells)) {
        let _ = write!(out, "<li>{}</li>", html(&text));
    }
    out += "</ul>\n";
    out + &layers(groups, &cells)
}

/// The warnings of each run, with their cures.
fn warnings(groups: &Groups<'_>) -> Vec<String> {
    let mut items = Vec::new();
    for group in &groups.groups {
        for run in &group.runs {
            let mut whose = String::new();
            if groups.groups.len() > 1 {
                whose += &format!("{}: ", text::shorten(&group.label, text::LABEL));
            }
            if group.runs.len() > 1 {
                whose += &format!("seed {}: ", run.run.seed);
            }
            items.extend(
                run.warnings()
                    .iter()
                    .map(|warning| format!("<li>{}</li>", html(&format!("{whose}{warning}")))),
            );
        }
    }
    items
}

/// A sentence about the last epoch: zeros and dead units of the layers, of the sparsest group if there are several.
fn summary(groups: &Groups<'_>, cells: &[Cell<'_>]) -> String {
    let epochs: Vec<u32> = groups.runs().map(RunData::epoch).collect();
    let (first, last) =
        (epochs.iter().min().copied().unwrap_or(0), epochs.iter().max().copied().unwrap_or(0));
    if last == 0 {
        // Only the untrained network: the training so far is in the windows of steps.
        return match groups.runs().filter_map(|run| run.steps.last()).max_by_key(|line| line.of.step) {
            Some(line) => {
                let sites = line.of.sites.iter().take(LAYERS);
                let zeros = sites.map(|of| format!("{} {}", name(&of.site), share_text(of.zero_fraction)));
                format!(
                    "Step {}: zeros {}. The numbers below are of the untrained network.",
                    text::count(line.of.step),
                    zeros.collect::<Vec<_>>().join(", ")
                )
            }
            None => "Before training.".into(),
        };
    }
    let on = groups.windows[0].name();
    let when = if first == last {
        format!("After epoch {last}, on {on}")
    } else {
        format!("After each run's last epoch, on {on}")
    };
    let dead = |of: &[&Cell<'_>]| {
        let (dead, units): (f64, u64) = of
            .iter()
            .filter(|cell| cell.dead.is_some())
            .fold((0.0, 0), |(dead, units), cell| (dead + cell.dead.unwrap_or(0.0), units + cell.units));
        match (units, dead) {
            (0, _) => "units cannot die".into(),
            (_, 0.0) => "no unit is dead".into(),
            (units, dead) => {
                let average = if dead.fract() == 0.0 { "" } else { "on average " };
                let verb = if dead == 1.0 { "is" } else { "are" };
                format!("{average}{} of {} units {verb} dead", mean(dead), text::count(units))
            }
        }
    };
    let of_group = |i: usize| cells.iter().filter(move |cell| cell.group == i).collect::<Vec<_>>();
    if groups.groups.len() == 1 {
        let of = of_group(0);
        let mut each = of.clone();
        let mut between = "";
        if of.len() > LAYERS {
            each.sort_by(|a, b| a.zeros.total_cmp(&b.zeros));
            each = vec![each[0], each[each.len() - 1]];
            between = "between ";
        }
        let each: Vec<String> =
            each.iter().map(|c| format!("{} ({})", share_text(c.zeros), name(c.site))).collect();
        let zeros = format!("{between}{}", each.join(" and "));
        return format!("{when}: {zeros} of the activations are exactly 0, and {}.", dead(&of));
    }
    let mean_zeros = |i: usize| {
        let of = of_group(i);
        of.iter().map(|cell| cell.zeros).sum::<f64>() / of.len().max(1) as f64
    };
    let best = (0..groups.groups.len()).max_by(|a, b| mean_zeros(*a).total_cmp(&mean_zeros(*b))).unwrap_or(0);
    if mean_zeros(best) == 0.0 {
        return format!(
            "{when}: no activation is exactly 0 in any run, and {}.",
            dead(&cells.iter().collect::<Vec<_>>())
        );
    }
    let layers = of_group(best)
        .iter()
        .take(LAYERS)
        .map(|c| format!("{} {}", name(c.site), share_text(c.zeros)))
        .collect::<Vec<_>>()
        .join(", ");
    let label = text::shorten(&groups.groups[best].label, text::LABEL);
    format!("{when}: {label} is the sparsest (zeros: {layers}); there {}.", dead(&of_group(best)))
}

/// The index of a group's baseline: the group that differs from it in one label, where it has the first value.
///
/// The label is the line style. If the group already has the first line style, the label is the colour, and then the
/// panel. The group with the first value of every label has no baseline.
fn baseline(groups: &Groups<'_>, group: &Group<'_>) -> Option<usize> {
    let first = lowest_hue(groups);
    let place = match (group.dash, group.hue, group.panel) {
        (0, hue, 0) if hue == first => return None,
        (0, hue, _) if hue == first => (0, first, 0),
        (0, _, panel) => (0, first, panel),
        (_, hue, panel) => (0, hue, panel),
    };
    groups.groups.iter().position(|of| (of.dash, of.hue, of.panel) == place)
}

/// The colour with the smallest value if the values are numbers, otherwise the first colour.
fn lowest_hue(groups: &Groups<'_>) -> usize {
    let number = |name: &str| name.split(", ").next()?.rsplit(' ').next()?.parse::<f64>().ok();
    let numbers: Option<Vec<f64>> = groups.hues.iter().map(|name| number(name)).collect();
    let numbers = numbers.unwrap_or_default();
    (0..numbers.len()).min_by(|a, b| numbers[*a].total_cmp(&numbers[*b])).unwrap_or(0)
}

/// The name of a site, shortened for a sentence.
fn name(site: &str) -> String {
    text::shorten(site, 32)
}

/// A change of a share in percentage points: `+19.4`.
fn points(change: f64) -> String {
    let points = 100.0 * change;
    match points.abs() {
        size if size < 0.05 => "±0".into(),
        size => format!("{}{}", if points < 0.0 { '−' } else { '+' }, text::plain(size, 1)),
    }
}

/// A number of units, averaged over seeds: `3`, `2.7`.
fn mean(units: f64) -> String {
    if units.fract() == 0.0 { text::count(units as u64) } else { text::plain(units, 1) }
}

/// The difference in zeros between a cell and the same site of the baseline, and the index of the baseline.
fn change(groups: &Groups<'_>, cells: &[Cell<'_>], cell: &Cell<'_>) -> Option<(f64, usize)> {
    let base = baseline(groups, &groups.groups[cell.group])?;
    let of = cells.iter().find(|other| other.group == base && other.site == cell.site)?;
    Some((cell.zeros - of.zeros, base))
}

/// The effect of the labels on the zeros: a sentence for each group; groups with the same changes share one.
fn effects(groups: &Groups<'_>, cells: &[Cell<'_>]) -> Vec<String> {
    const MOST: usize = 6;
    let label = |group: usize| text::shorten(&groups.groups[group].label, text::LABEL);
    // Groups with the same baseline and changes.
    let mut effects: Vec<(Vec<String>, usize, String)> = Vec::new();
    let mut same: Vec<String> = Vec::new();
    for i in 0..groups.groups.len() {
        let of_group = cells.iter().filter(|cell| cell.group == i);
        let mut changes: Vec<(&str, f64, usize)> = of_group
            .filter_map(|cell| change(groups, cells, cell).map(|(change, base)| (cell.site, change, base)))
            .collect();
        let Some(&(_, _, base)) = changes.first() else { continue };
        if changes.iter().all(|(_, change, _)| change.abs() < 0.0005) {
            same.push(label(i));
            continue;
        }
        let all = changes.len();
        if all > LAYERS {
            changes.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
            changes.truncate(LAYERS);
        }
        let changes: Vec<String> =
            changes.iter().map(|(site, change, _)| format!("{} {}", name(site), points(*change))).collect();
        let largest = if all > LAYERS { ", the largest changes" } else { "" };
        let changes = format!("{} points of zeros{largest}", changes.join(", "));
        match effects.iter_mut().find(|of| (of.1, &of.2) == (base, &changes)) {
            Some((of, ..)) => of.push(label(i)),
            None => effects.push((vec![label(i)], base, changes)),
        }
    }
    let more = effects.len().saturating_sub(MOST);
    let shown = effects.into_iter().take(MOST);
    let mut sentences: Vec<String> = shown
        .map(|(of, base, changes)| format!("{}, against {}: {changes}.", of.join("; "), label(base)))
        .collect();
    if more > 0 {
        sentences.push(format!("{more} more changes are in the table."));
    }
    if !same.is_empty() {
        same.truncate(8);
        sentences.push(format!("No change of zeros: {}.", same.join("; ")));
    }
    sentences
}

/// The table of zeros, their change and the dead units, with a row for each layer and group.
fn layers(groups: &Groups<'_>, cells: &[Cell<'_>]) -> String {
    let has_changes = cells.iter().any(|cell| change(groups, cells, cell).is_some());
    let several = groups.groups.len() > 1;
    let mut table = Table::default();
    table.title("layer", "The site's name: that of the weights that feed it.");
    if several {
        table.title("run", "The labels that tell runs apart.");
    }
    table.title(
        "zeros",
        "Share of the values that are exactly 0, before any dropout. Over seeds: their mean.",
    );
    if has_changes {
        let what = "Change of zeros, in percentage points, against the run that differs in one label, which has its first value there.";
        table.title("change", what);
    }
    table.title("dead", "Units that no gradient reached in the whole window, of all units of the layer. Over seeds: their mean.");
    table.title("which units", "Numbers of the dead units, from 0: rows of the layer's weight.");
    for cell in cells {
        let group = &groups.groups[cell.group];
        let site = groups.sites.iter().position(|site| site == cell.site).unwrap_or(0);
        let title = html(&text::shorten(&groups.title(cell.site), text::LABEL));
        let mut row = if several {
            format!("<th scope=row>{title}</th><td class=name>{}</td>", table::key(group))
        } else {
            format!("<th scope=row>{title}</th>")
        };
        let _ = write!(
            row,
            "<td class=bar style=\"--v:{:.4}\" data-v={}>{}</td>",
            cell.zeros.clamp(0.0, 1.0),
            cell.zeros,
            share_text(cell.zeros)
        );
        if has_changes {
            match change(groups, cells, cell) {
                Some((change, base)) => {
                    let against = html(&text::shorten(&groups.groups[base].label, text::LABEL));
                    let _ = write!(
                        row,
                        "<td data-v={} data-tip=\"{} points against {against}\">{}</td>",
                        100.0 * change,
                        text::plain(100.0 * change, 4),
                        points(change)
                    );
                }
                None => row += &format!("<td>{NONE}</td>"),
            }
        }
        match cell.dead {
            Some(dead) => {
                let class = if cell.dead_share() >= MANY { " class=fault" } else { "" };
                let _ = write!(
                    row,
                    "<td data-v={dead}{class}>{} of {}</td>",
                    mean(dead),
                    text::count(cell.units)
                );
            }
            None => row += &format!("<td>{NONE}</td>"),
        }
        let (few, all) = named(cell);
        let tip = if few == all { String::new() } else { format!(" data-tip=\"{}\" tabindex=0", html(&all)) };
        let _ = write!(row, "<td class=name{tip}>{}</td>", html(&few));
        table.row(&format!(" data-group=g{} data-site={site}", cell.group), &row);
    }
    table.render(if several { "answer-of-runs" } else { "answer-of-run" })
}

/// The indices of the dead units as text: the first few, and all.
fn named(cell: &Cell<'_>) -> (String, String) {
    let list = |most: usize| {
        let of_run = |(run, layer): &(&RunData, &LayerStats)| {
            let numbers: Vec<String> = layer.dead_units.iter().take(most).map(u32::to_string).collect();
            let more = layer.dead_units.len() - numbers.len();
            let more =
                if more > 0 { format!(" and {} more", text::count(more as u64)) } else { String::new() };
            let seed = if cell.of.len() > 1 { format!("seed {}: ", run.run.seed) } else { String::new() };
            format!("{seed}{}{more}", numbers.join(", "))
        };
        let some = cell.of.iter().filter(|(_, layer)| !layer.dead_units.is_empty());
        some.map(of_run).collect::<Vec<_>>().join("; ")
    };
    (list(NAMED / cell.of.len().clamp(1, 4)), list(2000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::run;

    #[test]
    fn dead_units_are_named_and_the_effect_of_a_label_is_given_in_points() {
        let (mut plain, mut dropout) = (run("relu", 0.0, 1), run("relu", 0.5, 1));
        plain.layers.iter_mut().for_each(|line| line.of.dead_units = vec![3, 5]);
        dropout
            .layers
            .iter_mut()
            .filter(|line| line.of.site == "fc1")
            .for_each(|line| line.of.zero_fraction += 0.194);
        let runs = [plain, dropout, run("tanh", 0.0, 1), run("tanh", 0.5, 1)];
        let text = answer(&Groups::of(&runs));
        assert!(
            text.contains("relu, dropout 0.5, against relu, dropout 0: fc1 +19.4, fc2 ±0 points of zeros."),
            "{text}"
        );
        assert!(text.contains("No change of zeros: tanh, dropout 0; tanh, dropout 0.5."), "{text}");
        assert!(text.contains("<td data-v=2 class=fault>2 of 8</td><td class=name>3, 5</td>"), "{text}");
    }

    #[test]
    fn one_run_is_one_plain_sentence() {
        let text = answer(&Groups::of(&[run("relu", 0.0, 1)]));
        let sentence = "After epoch 3, on test: 41.0% (fc1) and 41.0% (fc2) of the activations are exactly 0, and 4 of 14 units are dead.";
        assert!(text.contains(sentence), "{text}");
    }

    #[test]
    fn a_layer_that_has_collapsed_is_what_the_page_says_first() {
        let mut collapsed = run("relu", 0.0, 1);
        collapsed.layers.iter_mut().filter(|line| line.epoch > 1).for_each(|line| line.of.dead = Some(6));
        let text = answer(&Groups::of(&[collapsed, run("relu", 0.5, 1)]));
        let first = "<ul class=alarms role=alert><li>dropout 0: epoch 2: fc2: 6 of 6 units are dead (what usually helps: a lower";
        assert!(text.starts_with(first) && text.matches("<li>dropout").count() == 1, "{text}");
    }

    #[test]
    fn every_label_has_its_effect_and_groups_of_one_effect_share_a_sentence() {
        let runs =
            ["relu", "selu", "tanh"].map(|act| [0.0, 0.5].map(|dropout| run(act, dropout, 1))).concat();
        let runs: Vec<RunData> = (runs.into_iter())
            .map(|mut run| {
                let is_relu = run.run.labels["act"] == "relu";
                run.layers.iter_mut().filter(|_| !is_relu).for_each(|line| line.of.zero_fraction = 0.0);
                run
            })
            .collect();
        let text = answer(&Groups::of(&runs));
        let effect = "<li>selu, dropout 0; tanh, dropout 0, against relu, dropout 0: fc1 −41.0, fc2 −41.0 points of zeros.</li>";
        assert!(text.contains(effect), "{text}");
        assert!(
            text.contains("No change of zeros: relu, dropout 0.5; selu, dropout 0.5; tanh, dropout 0.5."),
            "{text}"
        );
    }

    #[test]
    fn of_many_dead_units_the_cell_names_a_dozen_and_its_explanation_all() {
        let mut run = run("relu", 0.0, 1);
        run.layers.iter_mut().for_each(|line| line.of.dead_units = (0..40).collect());
        let text = answer(&Groups::of(&[run]));
        assert!(text.contains("10, 11 and 28 more</td>") && text.contains("38, 39\" tabindex=0>"), "{text}");
    }
}
