use crate::{Histogram, Octaves};

/// The title of the pictures: the column of ±1 holds `[1, 2)`, the outermost 8 and more.
pub(crate) const PICTURE_TITLE: &str = "-8 -1    =0     1  8";

/// A distribution in one line of 20 characters: negative values, the exact zeros, positive values.
///
/// A column is an octave of magnitude: below ⅛ next to the middle, then `[⅛, ¼)` and so on to `[4, 8)`, and 8 and more
/// at the outer end. The tallest column has full height. The zeros between the bars have their own scale, the share of
/// all values, because next to a bar of 90 % the rest would be flat. A blank is no value at all; a single value is
/// already `▁`.
pub(crate) fn picture(histogram: &Histogram) -> String {
    let Octaves { zeros, negative, positive } = Octaves::from(histogram);
    let tallest = *negative.iter().chain(&positive).max().unwrap_or(&0);
    let spike = block(zeros, histogram.total());
    let left = negative.iter().rev().map(|n| block(*n, tallest));
    let right = positive.iter().map(|n| block(*n, tallest));
    left.chain(['│', spike, spike, '│']).chain(right).collect()
}

/// An eighth of a block for every eighth of the whole, rounded up.
fn block(n: u64, of: u64) -> char {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if n == 0 { ' ' } else { BLOCKS[((8 * n as u128).div_ceil(of as u128) as usize).min(8)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(f32, usize)]) -> String {
        let mut histogram = Histogram::default();
        for (x, n) in values {
            (0..*n).for_each(|_| histogram.add(*x));
        }
        picture(&histogram)
    }

    #[test]
    fn every_octave_has_its_column_and_zeros_stand_apart() {
        assert_eq!(of(&[]), "        │  │        ");
        assert_eq!(of(&[(0.0, 5)]), "        │██│        ");
        assert_eq!(of(&[(-1.0, 1), (0.0, 2), (1.9, 1)]), "   █    │▄▄│    █   ");
        assert_eq!(of(&[(1e-9, 8), (0.125, 4), (4.0, 2), (8.0, 1), (1e9, 1)]), "        │  │█▄    ▂▂");
        assert_eq!(of(&[(-1e9, 1), (-0.1, 100_000)]), "▁      █│  │        ");
        assert_eq!(PICTURE_TITLE.chars().count(), of(&[]).chars().count());
    }
}
