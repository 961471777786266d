use crate::paper::Row;

/// Spearman's rank correlation and its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct Correlation {
    rho: f64,
    interval: (f64, f64),
}

impl Correlation {
    /// The interval is Fisher's, tanh(artanh ρ ± 1.96 σ), with σ² = (1 + ρ²/2) / (n − 3) of Bonett & Wright (2000).
    pub fn new(xs: &[f64], ys: &[f64]) -> Self {
        let (xs, ys) = (ranks(xs), ranks(ys));
        let mean = (xs.len() as f64 + 1.0) / 2.0;
        let product =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
        let rho = product(&xs, &ys) / (product(&xs, &xs) * product(&ys, &ys)).sqrt();
        let sigma = ((1.0 + rho * rho / 2.0) / (xs.len() as f64 - 3.0)).sqrt();
        let end = |sign: f64| (rho.atanh() + sign * 1.96 * sigma).tanh();
        Self { rho, interval: (end(-1.0), end(1.0)) }
    }

    /// The correlation of these quantities as a row that is only reported.
    pub fn row(self, what: &str) -> Row {
        let (low, high) = self.interval;
        let what = format!("{what}: Spearman's ρ, 95 % interval {low:.2} to {high:.2}");
        Row::new(what, (self.rho, (high - low) / (2.0 * 1.96)))
    }

    /// ρ of accuracy and another quantity, its interval, and what they say.
    pub fn text(self) -> String {
        let (low, high) = self.interval;
        let answer = match (low > 0.0, high < 0.0) {
            (true, _) => "accuracy rises with it",
            (_, true) => "accuracy falls with it",
            _ => "no evidence that it matters",
        };
        format!("{:.2} (95 % interval {low:.2} to {high:.2}: {answer})", self.rho)
    }
}

/// Ranks from 1; equal values have the mean of their ranks.
fn ranks(xs: &[f64]) -> Vec<f64> {
    let count = |good: &dyn Fn(&f64) -> bool| xs.iter().filter(|x| good(x)).count() as f64;
    xs.iter().map(|x| count(&|other| other < x) + (count(&|other| other == x) + 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }

    #[test]
    fn a_correlation_has_the_interval_of_bonett_and_wright() {
        let xs: Vec<f64> = (0..19).map(f64::from).collect();
        let squares: Vec<f64> = xs.iter().map(|x| x * x).collect();
        assert!((Correlation::new(&xs, &squares).rho - 1.0).abs() < 1e-12);
        let swapped = [2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0];
        let of = Correlation::new(&xs[..8], &swapped);
        // 1 − 6 · 8 / (8 · 63)
        assert!((of.rho - 0.904_761_904_8).abs() < 1e-9);
        let (low, high) = (of.interval.0, of.interval.1);
        assert!((low - 0.427_876).abs() < 1e-5 && (high - 0.987_599).abs() < 1e-5, "{low} {high}");
    }
}
