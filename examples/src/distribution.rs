use candle_core::{Result, Tensor};
use taper::hooks::{Observer, Seen};
use taper::kernels::with_values;

/// A distribution in bins of equal width, for pictures. The bins of `taper::report::Histogram`, which grow with
/// magnitude, are for measuring.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Half of the range of the bins.
    pub reach: f64,
    /// Counts on each side of zero, nearest to zero first, without values outside the range.
    pub negative: Vec<u64>,
    /// See `negative`.
    pub positive: Vec<u64>,
    /// Values that are exactly zero, which are in no bin.
    pub zeros: u64,
    /// Finite values below and above the range.
    pub beyond: [u64; 2],
}

/// Columns of a picture on each side of zero.
const SIDE: usize = 9;

impl Distribution {
    /// An empty distribution with bins between `±reach`: a multiple of nine on each side.
    pub fn new(reach: f64, nines: usize) -> Self {
        let side = vec![0; SIDE * nines];
        Self { reach, negative: side.clone(), positive: side, zeros: 0, beyond: [0; 2] }
    }

    /// Counts every finite value of a tensor.
    pub fn add(&mut self, values: &Tensor) -> Result<()> {
        with_values(values, |values| {
            for &x in values.iter().filter(|x| x.is_finite()) {
                let bin = (f64::from(x.abs()) / self.width()) as usize;
                if x == 0.0 {
                    self.zeros += 1;
                    continue;
                }
                let side = if x > 0.0 { &mut self.positive } else { &mut self.negative };
                match side.get_mut(bin) {
                    Some(count) => *count += 1,
                    None => self.beyond[usize::from(x > 0.0)] += 1,
                }
            }
        })
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        self.reach / self.positive.len() as f64
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.bins().map(|(_, n)| n).sum::<u64>() + self.zeros + self.beyond.iter().sum::<u64>()
    }

    /// Share of exact zeros, in `[0, 1]`.
    pub fn zero_fraction(&self) -> f64 {
        self.zeros as f64 / self.total().max(1) as f64
    }

    /// Middle and count of every bin, from left to right.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> {
        let middle = |i: usize| (i as f64 + 0.5) * self.width();
        let left = self.negative.iter().enumerate().rev().map(move |(i, n)| (-middle(i), *n));
        left.chain(self.positive.iter().enumerate().map(move |(i, n)| (middle(i), *n)))
    }

    /// Middle and probability density of every bin, from left to right.
    pub fn density(&self) -> (Vec<f64>, Vec<f64>) {
        let whole = self.total().max(1) as f64 * self.width();
        self.bins().map(|(x, n)| (x, n as f64 / whole)).unzip()
    }

    /// One line of 22 characters: negative values, the exact zeros, positive values.
    ///
    /// The tallest column has full height; the outermost columns include values outside the range. The zeros between
    /// the bars have their own scale: their share of all values.
    pub fn picture(&self) -> String {
        let columns = |side: &[u64], beyond: u64| {
            let mut columns: Vec<u64> =
                side.chunks(side.len() / SIDE).map(|bins| bins.iter().sum()).collect();
            columns[SIDE - 1] += beyond;
            columns
        };
        let (left, right) =
            (columns(&self.negative, self.beyond[0]), columns(&self.positive, self.beyond[1]));
        let tallest = left.iter().chain(&right).copied().max().unwrap_or(0);
        let spike = block(self.zeros, self.total());
        let left = left.iter().rev().map(|n| block(*n, tallest));
        left.chain(['│', spike, spike, '│']).chain(right.iter().map(|n| block(*n, tallest))).collect()
    }

    /// The title of the pictures.
    pub fn picture_title(&self) -> String {
        let end = (self.reach * 10.0).round() / 10.0;
        format!("{:<10}{:^2}{:>10}", -end, "=0", end)
    }
}

/// An eighth of a block for every eighth of the whole, rounded up: a single value is already `▁`.
fn block(n: u64, of: u64) -> char {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if n == 0 { ' ' } else { BLOCKS[((8 * u128::from(n)).div_ceil(u128::from(of)) as usize).min(8)] }
}

/// An observer that counts the outputs of every site.
#[derive(Debug)]
pub struct Distributions {
    empty: Distribution,
    /// By site, in the order of first use.
    pub sites: Vec<(String, Distribution)>,
}

impl Distributions {
    /// All distributions have the bins of this one.
    pub fn like(empty: Distribution) -> Self {
        Self { empty, sites: Vec::new() }
    }
}

impl Observer for Distributions {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        let name = seen.site.name();
        if self.sites.iter().all(|(site, _)| site != name) {
            self.sites.push((name.to_string(), self.empty.clone()));
        }
        match self.sites.iter_mut().find(|(site, _)| site == name) {
            Some((_, distribution)) => distribution.add(seen.ys),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn every_finite_value_is_counted_once_and_zeros_are_in_no_bin() {
        let mut of = Distribution::new(4.5, 1);
        let values = [0.0_f32, -0.0, 1e-30, -1e-30, 0.5, 4.4, -4.4, 4.5, -9.0, 1e30, f32::NAN, f32::INFINITY];
        of.add(&Tensor::new(&values, &Device::Cpu).unwrap()).unwrap();
        assert_eq!((of.total(), of.zeros, of.beyond), (10, 2, [1, 2]));
        assert_eq!((of.positive[0], of.negative[0], of.positive[1], of.positive[8]), (1, 1, 1, 1));
        assert_eq!(of.picture(), "▆       ▃│▂▂│▃▃      █");
        assert_eq!(of.picture_title().chars().count(), of.picture().chars().count());
    }
}
