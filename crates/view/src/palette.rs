//! Colours and line styles, first from Okabe and Ito's palette, which the colour-blind can distinguish; without its
//! black and yellow, which are invisible on dark or light ground.

/// Blue, vermilion, green, purple, orange, sky blue, grey; then violet, brown, teal, olive, crimson.
const COLORS: [(u8, u8, u8); 12] = [
    (0x00, 0x80, 0xc6),
    (0xd5, 0x5e, 0x00),
    (0x00, 0x9e, 0x73),
    (0xcc, 0x79, 0xa7),
    (0xe6, 0x9f, 0x00),
    (0x56, 0xb4, 0xe9),
    (0x8a, 0x8a, 0x8a),
    (0x8e, 0x6b, 0xd8),
    (0xa8, 0x6a, 0x3d),
    (0x1f, 0xa8, 0xa8),
    (0x8f, 0x9a, 0x2e),
    (0xd0, 0x3a, 0x5a),
];

/// The colours of common activation functions; those that are often compared differ.
const NAMED: [(&str, usize); 20] = [
    ("relu", 0),
    ("selu", 1),
    ("tanh", 2),
    ("sigmoid", 3),
    ("gelu", 4),
    ("leaky_relu", 5),
    ("identity", 6),
    ("elu", 7),
    ("softplus", 8),
    ("prelu", 9),
    ("softsign", 10),
    ("silu", 11),
    ("mish", 7),
    ("celu", 11),
    ("relu6", 9),
    ("relu2", 10),
    ("hardtanh", 8),
    ("hardsigmoid", 5),
    ("hardswish", 1),
    ("gelu_tanh", 6),
];

/// Line, gap, and so on, in pixels; empty for a solid line.
const DASHES: [&[u32]; 5] = [&[], &[6, 4], &[2, 3], &[9, 3, 2, 3], &[12, 4]];

/// A colour for every name, the same in every report. If two names of one report want the same colour, the later one
/// gets the next free one.
pub(crate) fn colors(names: &[String]) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for name in names {
        let first = name.split(", ").next().unwrap_or(name);
        let wanted = match NAMED.iter().find(|(known, _)| *known == first) {
            Some((_, color)) => *color,
            // FNV-1a: the same on every machine and in every version.
            None => {
                let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
                name.bytes().fold(0x811c_9dc5, hash) as usize % COLORS.len()
            }
        };
        let free = (0..COLORS.len()).map(|i| (wanted + i) % COLORS.len()).find(|i| !taken.contains(i));
        taken.push(free.unwrap_or(wanted));
    }
    taken
}

pub(crate) fn rgb(color: usize) -> (u8, u8, u8) {
    COLORS[color % COLORS.len()]
}

pub(crate) fn hex(color: usize) -> String {
    let (r, g, b) = rgb(color);
    format!("#{r:02x}{g:02x}{b:02x}")
}

pub(crate) fn dash(dash: usize) -> &'static [u32] {
    DASHES[dash % DASHES.len()]
}

/// From early (sky blue) to late (vermilion), `t` in `[0, 1]`: legible on light and dark ground.
pub(crate) fn over_time(t: f64) -> String {
    let stops = [(0x56, 0xb4, 0xe9), (0xa0, 0x70, 0xb8), (0xd5, 0x5e, 0x00)];
    let at = t.clamp(0.0, 1.0) * 2.0;
    let (a, b) = if at < 1.0 { (stops[0], stops[1]) } else { (stops[1], stops[2]) };
    let mix = |a: i32, b: i32| (f64::from(a) + f64::from(b - a) * at.fract()).round() as u8;
    let (a, b) = if t >= 1.0 { (b, b) } else { (a, b) };
    format!("#{:02x}{:02x}{:02x}", mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<usize> {
        colors(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_has_the_same_colour_in_every_report() {
        let (all, some) =
            (of(&["gelu", "relu", "tanh", "selu", "sigmoid"]), of(&["selu", "relu, dropout 0.5"]));
        assert_eq!((all[1], all[3]), (some[1], some[0]));
        assert_eq!(of(&["dropout 0", "dropout 0.5"])[1], of(&["dropout 0.5"])[0]);
    }

    #[test]
    fn no_two_names_of_a_report_share_a_colour_and_five_rates_have_their_lines() {
        let names: Vec<String> = (0..12).map(|i| format!("lr {i}")).collect();
        let mut colors = colors(&names);
        colors.sort_unstable();
        assert_eq!(colors, (0..12).collect::<Vec<_>>());
        let mut hex: Vec<String> = colors.into_iter().map(hex).collect();
        hex.dedup();
        assert_eq!(hex.len(), 12);
        assert_eq!((dash(0), dash(5)), (dash(5), dash(0)));
        assert_eq!((over_time(0.0).as_str(), over_time(1.0).as_str()), ("#56b4e9", "#d55e00"));
    }
}
