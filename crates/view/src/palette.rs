//! Colours and line styles. Okabe and Ito's palette, distinguishable to the colour-blind, in an order that
//! puts colours that are farthest apart first, less its black and yellow, which vanish on one ground each.

use plotly::common::DashType;

/// Blue, vermilion, green, purple, orange, sky blue, grey.
const COLORS: [(u8, u8, u8); 7] = [
    (0x00, 0x80, 0xc6),
    (0xd5, 0x5e, 0x00),
    (0x00, 0x9e, 0x73),
    (0xcc, 0x79, 0xa7),
    (0xe6, 0x9f, 0x00),
    (0x56, 0xb4, 0xe9),
    (0x8a, 0x8a, 0x8a),
];

/// Line, then gap, and so on, in pixels; nothing is a solid line.
const DASHES: [&[u32]; 5] = [&[], &[6, 4], &[2, 3], &[9, 3, 2, 3], &[12, 4]];

pub(crate) fn rgb(hue: usize) -> (u8, u8, u8) {
    COLORS[hue % COLORS.len()]
}

pub(crate) fn hex(hue: usize) -> String {
    let (r, g, b) = rgb(hue);
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The same colour, for a band.
pub(crate) fn faint(hue: usize) -> String {
    let (r, g, b) = rgb(hue);
    format!("rgba({r},{g},{b},0.16)")
}

pub(crate) fn dash(dash: usize) -> &'static [u32] {
    DASHES[dash % DASHES.len()]
}

pub(crate) fn dash_type(dash: usize) -> DashType {
    use DashType::{Dash, DashDot, Dot, LongDash, Solid};
    [Solid, Dash, Dot, DashDot, LongDash][dash % DASHES.len()].clone()
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

    #[test]
    fn seven_activations_have_colours_of_their_own_and_five_rates_their_lines() {
        let mut colors: Vec<String> = (0..7).map(hex).collect();
        colors.sort();
        colors.dedup();
        assert_eq!(colors.len(), 7);
        assert_eq!((dash(0), dash(5)), (dash(5), dash(0)));
        assert_eq!((over_time(0.0).as_str(), over_time(1.0).as_str()), ("#56b4e9", "#d55e00"));
    }
}
