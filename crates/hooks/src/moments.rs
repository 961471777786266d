/// Mean and central moments of a set of values in f64, with their extremes. Sets merge exactly in real
/// arithmetic (Pébay 2008), so data may be split in any way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub count: u64,
    pub mean: f64,
    /// Sums of powers of the deviation from the mean.
    m2: f64,
    m3: f64,
    m4: f64,
    pub min: f32,
    pub max: f32,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, m2: 0.0, m3: 0.0, m4: 0.0, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Moments {
    /// Of finite values.
    pub fn of(ys: &[f32]) -> Self {
        let mut moments = Self::default();
        for ys in ys.chunks(CHUNK) {
            let wide = Wide::of(ys);
            moments.merge(&Self::of_chunk(ys, &wide, wide.sum()));
        }
        moments
    }

    /// Of up to [`CHUNK`] finite values and at least one, in two passes over them.
    #[inline(always)]
    pub fn of_chunk(ys: &[f32], wide: &Wide, sum: f64) -> Self {
        let count = ys.len() as f64;
        let mean = sum / count;
        let [m1, m2, m3, m4] = wide.central(mean);
        // `mean` is off by a rounding error: the first moment about it says by how much.
        let e = m1 / count;
        let (min, max) = extremes(ys);
        Self {
            count: ys.len() as u64,
            mean: mean + e,
            m2: m2 - e * m1,
            m3: m3 - 3.0 * e * m2 + 2.0 * e * e * m1,
            m4: m4 - 4.0 * e * m3 + 6.0 * e * e * m2 - 3.0 * e * e * e * m1,
            min,
            max,
        }
    }

    /// Of so many zeros.
    pub fn zeros(count: u64) -> Self {
        Self { count, min: 0.0, max: 0.0, ..Self::default() }
    }

    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (na, nb) = (self.count as f64, other.count as f64);
        let n = na + nb;
        let d = other.mean - self.mean;
        let (a, b) = (na / n, nb / n);
        let m2 = self.m2 + other.m2 + d * d * na * b;
        let m3 = self.m3 + other.m3 + d * d * d * na * b * (a - b) + 3.0 * d * (a * other.m2 - b * self.m2);
        let m4 = self.m4
            + other.m4
            + d * d * d * d * na * b * (a * a - a * b + b * b)
            + 6.0 * d * d * (a * a * other.m2 + b * b * self.m2)
            + 4.0 * d * (a * other.m3 - b * self.m3);
        *self = Self {
            count: self.count + other.count,
            mean: self.mean + d * b,
            m2,
            m3,
            m4,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        };
    }

    /// Population variance, or `None` without values.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.m2 / self.count as f64)
    }

    /// `m3 / m2^1.5`, or `None` where the variance is 0.
    pub fn skewness(&self) -> Option<f64> {
        let variance = self.variance().filter(|v| *v > 0.0)?;
        Some(self.m3 / self.count as f64 / variance.powf(1.5))
    }

    /// `m4 / m2² − 3`, or `None` where the variance is 0.
    pub fn excess_kurtosis(&self) -> Option<f64> {
        let variance = self.variance().filter(|v| *v > 0.0)?;
        Some(self.m4 / self.count as f64 / (variance * variance) - 3.0)
    }
}

/// Values that are measured together at most: with their f64 copies they stay in the first-level cache.
pub(crate) const CHUNK: usize = 1024;
/// Values that are summed up side by side.
const LANES: usize = 8;

/// Up to [`CHUNK`] values in f64, with their sums. Everything below is one simple loop after the other, because
/// only such loops become vector code without fail.
pub(crate) struct Wide {
    ys: [f64; CHUNK],
    len: usize,
}

impl Wide {
    #[inline(always)]
    pub fn of(ys: &[f32]) -> Self {
        let mut wide = Self { ys: [0.0; CHUNK], len: ys.len() };
        for (wide, y) in wide.ys.iter_mut().zip(ys) {
            *wide = *y as f64;
        }
        wide
    }

    #[inline(always)]
    pub fn sum(&self) -> f64 {
        lane_sum(&self.ys[..self.len])
    }

    #[inline(always)]
    pub fn sum_abs(&self) -> f64 {
        let (mut lanes, (eights, rest)) = ([0.0; LANES], self.ys[..self.len].as_chunks::<LANES>());
        for ys in eights {
            for (lane, y) in lanes.iter_mut().zip(ys) {
                *lane += y.abs();
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|y| y.abs()).sum::<f64>()
    }

    #[inline(always)]
    pub fn sum_squares(&self) -> f64 {
        lane_dot(&self.ys[..self.len], &self.ys[..self.len])
    }

    /// Sums of the first four powers of `y − mean`.
    #[inline(always)]
    fn central(&self, mean: f64) -> [f64; 4] {
        let (mut ds, mut squares) = ([0.0; CHUNK], [0.0; CHUNK]);
        for (d, y) in ds.iter_mut().zip(&self.ys[..self.len]) {
            *d = y - mean;
        }
        let ds = &ds[..self.len];
        for (square, d) in squares.iter_mut().zip(ds) {
            *square = d * d;
        }
        let squares = &squares[..self.len];
        [lane_sum(ds), lane_sum(squares), lane_dot(squares, ds), lane_dot(squares, squares)]
    }
}

#[inline(always)]
fn lane_sum(xs: &[f64]) -> f64 {
    let (mut lanes, (eights, rest)) = ([0.0; LANES], xs.as_chunks::<LANES>());
    for xs in eights {
        for (lane, x) in lanes.iter_mut().zip(xs) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

#[inline(always)]
fn lane_dot(xs: &[f64], ys: &[f64]) -> f64 {
    let (mut lanes, (x_eights, x_rest), (y_eights, y_rest)) =
        ([0.0; LANES], xs.as_chunks::<LANES>(), ys.as_chunks::<LANES>());
    for (xs, ys) in x_eights.iter().zip(y_eights) {
        for ((lane, x), y) in lanes.iter_mut().zip(xs).zip(ys) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// The smallest and the largest value.
#[inline(always)]
fn extremes(ys: &[f32]) -> (f32, f32) {
    const WIDE: usize = 16;
    let (mut low, mut high) = ([f32::INFINITY; WIDE], [f32::NEG_INFINITY; WIDE]);
    let (chunks, rest) = ys.as_chunks::<WIDE>();
    for ys in chunks {
        for (low, &y) in low.iter_mut().zip(ys) {
            *low = if y < *low { y } else { *low };
        }
    }
    for ys in chunks {
        for (high, &y) in high.iter_mut().zip(ys) {
            *high = if y > *high { y } else { *high };
        }
    }
    let (min, max) = (|a: f32, b: &f32| a.min(*b), |a: f32, b: &f32| a.max(*b));
    (rest.iter().chain(&low).fold(f32::INFINITY, min), rest.iter().chain(&high).fold(f32::NEG_INFINITY, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random: the fractional parts of multiples of the golden ratio.
    fn values(n: usize, mean: f32) -> Vec<f32> {
        (0..n).map(|i| mean + ((i as f64 * 0.618_033_988_749_894_9) % 1.0).powi(2) as f32).collect()
    }

    fn close(a: Option<f64>, b: Option<f64>, relative: f64) {
        let (a, b) = (a.expect("has a value"), b.expect("has a value"));
        assert!((a - b).abs() <= relative * b.abs(), "{a} against {b}");
    }

    #[test]
    fn moments_agree_with_two_passes_in_f64_also_far_from_zero() {
        for mean in [0.0, 300.0, -5000.0] {
            let ys = values(100_000, mean);
            let mut got = Moments::default();
            ys.chunks(1024).for_each(|chunk| got.merge(&Moments::of(chunk)));
            let n = ys.len() as f64;
            let exact = ys.iter().map(|y| *y as f64).sum::<f64>() / n;
            let moment = |k| ys.iter().map(|y| (*y as f64 - exact).powi(k)).sum::<f64>() / n;
            close(Some(got.mean), Some(exact), 1e-9);
            close(got.variance(), Some(moment(2)), 1e-6);
            close(got.skewness(), Some(moment(3) / moment(2).powf(1.5)), 1e-6);
            close(got.excess_kurtosis(), Some(moment(4) / moment(2).powi(2) - 3.0), 1e-6);
        }
    }

    #[test]
    fn merging_in_any_order_and_split_changes_nothing() {
        let ys = values(5000, 2.0);
        let whole = Moments::of(&ys);
        for size in [1, 7, 640, 4999] {
            let parts: Vec<Moments> = ys.chunks(size).map(Moments::of).collect();
            let (mut forward, mut backward) = (Moments::default(), Moments::default());
            parts.iter().for_each(|p| forward.merge(p));
            parts.iter().rev().for_each(|p| backward.merge(p));
            for merged in [forward, backward] {
                assert_eq!((merged.count, merged.min, merged.max), (whole.count, whole.min, whole.max));
                close(merged.variance(), whole.variance(), 1e-12);
                close(merged.skewness(), whole.skewness(), 1e-11);
                close(merged.excess_kurtosis(), whole.excess_kurtosis(), 1e-11);
            }
        }
    }

    #[test]
    fn a_constant_has_no_skewness_and_nothing_has_no_variance() {
        let constant = Moments::of(&[0.1; 100]);
        assert_eq!(
            (constant.variance(), constant.skewness(), constant.excess_kurtosis()),
            (Some(0.0), None, None)
        );
        assert_eq!(Moments::of(&[]).variance(), None);
    }
}
