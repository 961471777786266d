use std::{collections::BTreeMap, fmt::Write};

use taper_report::LayerStats;

use crate::{
    RunData,
    group::{Group, Groups},
    table,
    text::{self, html},
};

/// The largest number of rows of a strip; a collapsed layer has hundreds.
const ROWS: usize = 128;
/// Up to this many rows have their unit's number.
const NUMBERED: usize = 24;

/// The state of a unit in an epoch; alive if it is in no list.
#[derive(Clone, Copy, PartialEq)]
enum UnitState {
    Alive,
    Rare,
    Dead,
}

/// Units of a site that were dead or rare in any epoch, as rows over the epochs, for every run: pictures without a
/// script.
pub(crate) fn strips(groups: &Groups<'_>) -> String {
    let Some(window) = groups.windows.first() else { return String::new() };
    let mut out = String::new();
    for (number, site) in groups.sites.iter().enumerate() {
        let (mut drawn, mut quiet) = (String::new(), Vec::new());
        let mut unnamed = false;
        for (i, group) in groups.groups.iter().enumerate() {
            let mut healthy = 0;
            for run in &group.runs {
                let epochs: Vec<(u32, &LayerStats)> =
                    run.site(site, *window).filter(|(_, layer)| layer.dead.is_some()).collect();
                // Other programs, and older versions, count rare units without their indices.
                unnamed |=
                    epochs.iter().any(|(_, l)| l.rare.is_some_and(|n| n > 0) && l.rare_units.is_empty());
                match of_run(&epochs) {
                    _ if epochs.is_empty() => {}
                    Some(picture) => {
                        let caption = caption(group, run);
                        let _ = write!(
                            drawn,
                            "<figure data-group=g{i}><figcaption>{caption}</figcaption>{picture}</figure>"
                        );
                    }
                    None => healthy += 1,
                }
            }
            if healthy > 0 {
                let label = text::shorten(&group.label, text::LABEL);
                let seeds = if group.runs.len() > 1 {
                    format!(" ({healthy} of {} seeds)", group.runs.len())
                } else {
                    String::new()
                };
                quiet.push(format!("{label}{seeds}"));
            }
        }
        if drawn.is_empty() && quiet.is_empty() {
            continue;
        }
        let title = html(&text::shorten(&groups.title(site), 80));
        let _ = write!(out, "<div data-site={number}><h3>{title}</h3>");
        if !drawn.is_empty() {
            let _ = write!(out, "<div class=strips>{drawn}</div>");
        }
        if !quiet.is_empty() {
            let what = if unnamed { "dead" } else { "dead or rare" };
            let of = if groups.groups.len() > 1 { format!(": {}", quiet.join("; ")) } else { String::new() };
            let _ = write!(out, "<p class=lead>No unit was {what} in any epoch{}.</p>", html(&of));
        }
        out += "</div>\n";
    }
    let split = window.name();
    if out.is_empty() {
        return out;
    }
    if groups.groups.len() == 1 {
        out = format!("<div class=pairs>{out}</div>");
    }
    format!(
        "<p class=lead>A row for every unit that was dead or rare on {split} in any epoch, one column per epoch; units that \
         never were are left out. <i class=\"key dead\"></i> dead: no gradient reached it \
         <i class=\"key rare\"></i> rare: it fired on fewer than 1 % of the observations <i class=\"key alive\"></i> alive</p>\n{out}"
    )
}

fn caption(group: &Group<'_>, run: &RunData) -> String {
    let seed = if group.runs.len() > 1 { format!(", seed {}", run.run.seed) } else { String::new() };
    format!("{}{seed}", table::key(group))
}

/// `None` if every unit was alive in all epochs.
fn of_run(epochs: &[(u32, &LayerStats)]) -> Option<String> {
    let mut units: BTreeMap<u32, Vec<UnitState>> = BTreeMap::new();
    for (column, (_, layer)) in epochs.iter().enumerate() {
        for (list, state) in [(&layer.rare_units, UnitState::Rare), (&layer.dead_units, UnitState::Dead)] {
            for unit in list {
                units.entry(*unit).or_insert_with(|| vec![UnitState::Alive; epochs.len()])[column] = state;
            }
        }
    }
    if units.is_empty() {
        return None;
    }
    // Units that are dead at the end, and for longest, come first.
    let mut rows: Vec<(u32, Vec<UnitState>)> = units.into_iter().collect();
    let rank = |states: &[UnitState]| {
        let dead = states.iter().filter(|state| **state == UnitState::Dead).count();
        let last = states.last().map_or(0, |state| *state as usize);
        std::cmp::Reverse((last, dead))
    };
    rows.sort_by_key(|(unit, states)| (rank(states), *unit));
    let (all, of) = (rows.len(), epochs.last().map_or(0, |(_, layer)| layer.units));
    rows.truncate(ROWS);
    let (columns, n) = (epochs.len(), rows.len());
    let height = if n <= NUMBERED { 15 * n } else { (4 * n).min(200) };
    let mut out = String::from("<div class=strip>");
    if n <= NUMBERED {
        out += "<ol>";
        rows.iter().for_each(|(unit, _)| out += &format!("<li>{unit}</li>"));
        out += "</ol>";
    }
    let list = |xs: Vec<String>| xs.join(",");
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {columns} {n}\" height={height} preserveAspectRatio=none role=img aria-label=\"units over epochs\" \
         data-units=\"{}\" data-epochs=\"{}\"><rect class=alive width={columns} height={n} />",
        list(rows.iter().map(|(unit, _)| unit.to_string()).collect()),
        list(epochs.iter().map(|(epoch, _)| epoch.to_string()).collect()),
    );
    for (state, class) in [(UnitState::Rare, "rare"), (UnitState::Dead, "dead")] {
        let mut path = String::new();
        for (y, (_, states)) in rows.iter().enumerate() {
            let mut x = 0;
            for run in states.chunk_by(|a, b| a == b) {
                if run[0] == state {
                    let _ = write!(path, "M{x} {y}h{w}v1h-{w}z", w = run.len());
                }
                x += run.len();
            }
        }
        let _ = write!(out, "<path class={class} d=\"{path}\" />");
    }
    let (first, last) = (epochs[0].0, epochs[columns - 1].0);
    let more = if all > n { format!(", {n} of them drawn") } else { String::new() };
    let span = if first == last { format!("epoch {first}") } else { format!("epochs {first} to {last}") };
    let _ = write!(
        out,
        "</svg></div><p class=under>{span}; {} of {} units{more}</p>",
        text::count(all as u64),
        text::count(of)
    );
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::run;

    #[test]
    fn a_strip_has_a_row_for_every_unit_that_was_ever_dead_or_rare_those_dead_in_the_end_first() {
        let mut run = run("relu", 0.0, 1);
        for line in &mut run.layers {
            (line.of.dead_units, line.of.rare_units) = match line.epoch {
                1 => (vec![1, 4], vec![]),
                2 => (vec![4], vec![1]),
                _ => (vec![4, 6], vec![]),
            };
        }
        let text = strips(&Groups::of(&[run]));
        assert!(text.contains("<ol><li>4</li><li>6</li><li>1</li></ol>"), "{text}");
        assert!(text.contains("<path class=rare d=\"M1 2h1v1h-1z\" /><path class=dead d=\"M0 0h3v1h-3zM2 1h1v1h-1zM0 2h1v1h-1z\" />"), "{text}");
        assert!(text.contains("epochs 1 to 3; 3 of 8 units"), "{text}");
    }

    #[test]
    fn a_layer_without_dead_units_is_reported_as_such() {
        let text = strips(&Groups::of(&[run("relu", 0.0, 1)]));
        assert!(text.contains("No unit was dead or rare") && !text.contains("<svg viewBox"), "{text}");
    }
}
