use std::fmt::Write;

use taper_report::{count_text, share_text};

use crate::{
    answer::cells,
    group::Groups,
    table::{self, Table},
    text::{self, html},
};

/// The first sentences of the section.
pub(crate) const LEAD: &str = "A prediction from the shares of zeros above; the program infer measures the same numbers with a trained network. Layers without a zero, such as those with a smooth activation, save nothing and are left out. There is no prediction for the zeros of the samples, nor where values are pooled or normalised before the next layer.";

/// The table of multiplications and bytes that zeros save in inference, with a row for each layer and group that has
/// zeros. Empty if no run states its [consumers](taper_report::Run::consumers), and without zeros.
pub(crate) fn savings(groups: &Groups<'_>) -> String {
    let Some(window) = groups.windows.first() else { return String::new() };
    let several = groups.groups.len() > 1;
    let mut table = Table::default();
    table.title("layer → next", "The layer's site, and the layer that multiplies its values.");
    if several {
        table.title("run", "The labels that tell runs apart.");
    }
    table.title("zeros", "Share of the values that are exactly 0. Over seeds: their mean.");
    table.title("multiplications", "Of the next layer for one sample, without skipping.");
    let what = "Multiplications with a zero: multiplications × zeros. Exact for a linear layer; an estimate for a convolution, which multiplies values at the edge of an image less often.";
    table.title("skipped", what);
    table.title("bytes as f32", "The layer's values for one sample, 4 bytes each.");
    table.title("bitmap and values", "Bytes of one bit for each value, and of the values that are not 0.");
    table.title("ratio", "Bytes as f32, divided by bytes as bitmap and values.");
    let mut is_empty = true;
    for cell in cells(groups, *window).iter().filter(|cell| cell.zeros > 0.0) {
        let group = &groups.groups[cell.group];
        let site = groups.sites.iter().position(|site| site == cell.site).unwrap_or(0);
        let (run, layer) = cell.of[0];
        let values = layer.values as f64 / layer.samples.max(1) as f64;
        let (plain, packed) = (4.0 * values, values / 8.0 + 4.0 * values * (1.0 - cell.zeros));
        for consumer in run.run.consumers.iter().filter(|consumer| consumer.site == cell.site) {
            let name = |name: &str| html(&text::shorten(name, text::LABEL));
            let mut row =
                format!("<th scope=row>{} → {}</th>", name(&groups.title(cell.site)), name(&consumer.layer));
            if several {
                let _ = write!(row, "<td class=name>{}</td>", table::key(group));
            }
            let zeros = cell.zeros;
            let _ = write!(row, "<td data-v={zeros}>{}</td>", share_text(zeros));
            let multiplications = consumer.multiplications as f64;
            for number in [multiplications, multiplications * zeros, plain, packed] {
                let _ = write!(row, "<td data-v={number}>{}</td>", count_text(number.round() as u64));
            }
            let ratio = plain / packed;
            let _ = write!(row, "<td data-v={ratio}>{ratio:.2}×</td>");
            table.row(&format!(" data-group=g{} data-site={site}", cell.group), &row);
            is_empty = false;
        }
    }
    match is_empty {
        true => String::new(),
        false => table.render(if several { "savings-of-runs" } else { "savings-of-run" }),
    }
}

#[cfg(test)]
mod tests {
    use taper_report::Consumer;

    use super::*;
    use crate::{RunData, sample::run};

    /// A run with `fc1`, 8 values of which 41 % are 0, in front of a layer of 6 units.
    fn stated(activation: &str, seed: u64) -> RunData {
        let mut stated = run(activation, 0.0, seed);
        stated.run.consumers =
            vec![Consumer { site: "fc1".into(), layer: "fc2".into(), multiplications: 48 }];
        stated
    }

    #[test]
    fn zeros_save_their_share_of_the_multiplications_and_of_the_values() {
        let text = savings(&Groups::of(&[stated("relu", 1)]));
        // 48 · 0.41 = 19.68; 8 / 8 + 4 · 8 · 0.59 = 19.88; 32 / 19.88 = 1.61.
        for cell in ["<th scope=row>fc1 → fc2</th>", ">41.0%<", ">48<", ">20<", ">32<", ">1.61×<"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        assert_eq!(text.matches("<tr data-group").count(), 1, "fc2 has no consumer: {text}");
    }

    #[test]
    fn seeds_share_a_row_and_an_activation_without_zeros_has_none() {
        let mut smooth = stated("tanh", 1);
        smooth.layers.iter_mut().for_each(|line| line.of.zero_fraction = 0.0);
        let text = savings(&Groups::of(&[stated("relu", 1), stated("relu", 2), smooth.clone()]));
        assert_eq!(text.matches("<tr data-group").count(), 1, "{text}");
        assert!(text.contains(">41.5%<"), "{text}");
        assert_eq!(savings(&Groups::of(&[smooth])), "");
    }

    #[test]
    fn a_run_that_states_no_consumers_has_no_such_section() {
        assert_eq!(savings(&Groups::of(&[run("relu", 0.0, 1)])), "");
        let page = crate::html_report(&[run("relu", 0.0, 1)]);
        assert!(!page.contains("<section id=savings>"));
        assert!(crate::html_report(&[stated("relu", 1)]).contains("<section id=savings>"));
    }
}
