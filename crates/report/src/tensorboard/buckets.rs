use crate::{FiringRates, Histogram, MAGNITUDES};

/// `[left, right, count]`
pub(super) type Bucket = [f64; 3];

/// A histogram's bins from left to right, without empty ones at the ends; none if nothing was counted.
///
/// The outer edges are the smallest and largest value, if these are in the outermost bins.
pub(super) fn of_values(histogram: &Histogram, min: Option<f64>, max: Option<f64>) -> Vec<Bucket> {
    let bin = |bin: usize, count: u64| {
        let (low, high) = Histogram::edges(bin);
        [low, high, count as f64]
    };
    let positive = (0..MAGNITUDES).map(|b| bin(b, histogram.positive[b]));
    let negative = (0..MAGNITUDES).rev().map(|b| {
        let [low, high, count] = bin(b, histogram.negative[b]);
        [0.0 - high, 0.0 - low, count] // 0 - 0 is 0, and -0 is not
    });
    let zeros = [0.0, 0.0, histogram.zeros as f64];
    let all: Vec<Bucket> = negative.chain([zeros]).chain(positive).collect();

    let holds = |bucket: &Bucket| bucket[2] > 0.0;
    let (Some(first), Some(last)) = (all.iter().position(holds), all.iter().rposition(holds)) else {
        return Vec::new();
    };
    let mut buckets = all[first..=last].to_vec();
    if let (Some(min), Some([left, right, _])) = (min, buckets.first_mut()) {
        *left = if (*left..=*right).contains(&min) { min } else { *left };
    }
    if let (Some(max), Some([left, right, _])) = (max, buckets.last_mut()) {
        *right = if (*left..=*right).contains(&max) { max } else { *right };
    }
    // Only if the smallest or largest value is unknown.
    for [left, right, _] in &mut buckets {
        *left = if left.is_infinite() { 2.0 * *right } else { *left };
        *right = if right.is_infinite() { 2.0 * *left } else { *right };
    }
    buckets
}

/// All 22 bins of the units' firing rates, never first and always last; none without units.
pub(super) fn of_rates(rates: &FiringRates) -> Vec<Bucket> {
    let between = rates.between.iter().enumerate().map(|(k, n)| {
        let k = k as f64;
        [k / 20.0, (k + 1.0) / 20.0, *n as f64]
    });
    let never = [0.0, 0.0, rates.never as f64];
    let always = [1.0, 1.0, rates.always as f64];
    let all: Vec<Bucket> = [never].into_iter().chain(between).chain([always]).collect();
    if all.iter().any(|[_, _, count]| *count > 0.0) { all } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(xs: &[f32], min: Option<f64>, max: Option<f64>) -> Vec<Bucket> {
        let mut histogram = Histogram::default();
        xs.iter().for_each(|x| histogram.add(*x));
        of_values(&histogram, min, max)
    }

    #[test]
    fn limits_meet_and_exact_zeros_have_a_bucket_without_width() {
        let buckets = of(&[-0.3, -1e-9, 0.0, -0.0, 1e-9, 2.0], Some(-0.3), Some(2.0));
        assert_eq!((buckets[0][0], buckets[buckets.len() - 1][1]), (-0.3, 2.0));
        assert!(buckets.windows(2).all(|pair| pair[0][1] == pair[1][0]));
        assert_eq!(buckets.iter().map(|bucket| bucket[2]).sum::<f64>(), 6.0);
        let tiny = 2_f64.powi(-20);
        let at = buckets.iter().position(|bucket| bucket[0] == bucket[1]).expect("zeros");
        assert_eq!(buckets[at - 1..=at + 1], [[-tiny, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, tiny, 1.0]]);
    }

    #[test]
    fn what_is_empty_at_the_ends_is_left_away() {
        assert!(of(&[], None, None).is_empty());
        assert_eq!(of(&[0.0; 3], Some(0.0), Some(0.0)), [[0.0, 0.0, 3.0]]);
        assert_eq!(of(&[1.0; 3], Some(1.0), Some(1.0)), [[1.0, 1.0, 3.0]]);
        assert_eq!(of(&[1.0; 3], None, None), [[1.0, 1.125, 3.0]]);
    }

    #[test]
    fn limits_are_finite_without_known_extremes() {
        let xs = [-1e30, 1e9];
        let ends = |buckets: Vec<Bucket>| (buckets[0][0], buckets[buckets.len() - 1][1]);
        assert_eq!(ends(of(&xs, Some(-1e30), Some(1e9))), (-1e30, 1e9));
        assert_eq!(ends(of(&xs, None, None)), (-8192.0, 8192.0));
        assert_eq!(ends(of(&xs, Some(f64::NAN), Some(0.5))), (-8192.0, 8192.0));
    }
}
