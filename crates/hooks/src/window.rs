//! Windows of steps within a recorder's own window, by differences: a step adds to the tallies alone, and what they hold
//! is looked at where a window of steps ends.

use serde::{Deserialize, Serialize};
use taper_report::{Octaves, SiteSteps};

use crate::bits;
use crate::tally::{Tally, add};

/// What one site did since the window of steps began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SiteWindow {
    pub name: String,
    has_slope: bool,
    /// What the tallies had come to when the window began.
    begun: Sums,
    /// What the window had come to when the recorder's own window was finished within it.
    carried: Sums,
}

/// What tallies have come to, as far as a window of steps needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    values: u64,
    zeros: u64,
    spread: Spread,
    /// Empty where a recorder has no histogram.
    octaves: Octaves,
    /// By unit: observations at which a gradient could pass.
    passed: Vec<u64>,
    /// By unit: observations that were not finite.
    faulty: Vec<u64>,
}

/// Number, mean and sum of squared deviations of values. Empty where a recorder has no moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spread {
    count: u64,
    #[serde(with = "bits")]
    mean: f64,
    #[serde(with = "bits")]
    m2: f64,
}

impl SiteWindow {
    /// That of a site, among all; one that was not seen before began when the window did.
    pub fn of<'a>(all: &'a mut Vec<Self>, name: &str, has_slope: bool) -> &'a mut Self {
        let index = all.iter().position(|own| own.name == name).unwrap_or(all.len());
        if index == all.len() {
            let (name, begun, carried) = (name.to_string(), Sums::default(), Sums::default());
            all.push(Self { name, has_slope, begun, carried });
        }
        &mut all[index]
    }

    /// The tallies are about to be emptied.
    pub fn carry(&mut self, tallies: &[Tally]) {
        self.carried = self.so_far(&Sums::of(tallies));
        self.begun = Sums::default();
    }

    /// Ends the window and begins the next; `None` if the site was not seen in it.
    pub fn end(&mut self, tallies: Option<&[Tally]>) -> Option<SiteSteps> {
        let now = tallies.map(Sums::of).unwrap_or_default();
        let sums = self.so_far(&now);
        (self.begun, self.carried) = (now, Sums::default());
        (sums.values > 0).then(|| sums.stats(self.name.clone(), self.has_slope))
    }

    fn so_far(&self, now: &Sums) -> Sums {
        now.since(&self.begun).plus(&self.carried)
    }

    /// Adds the window of another recorder, which saw other batches of it.
    pub fn merge(&mut self, other: &Self) {
        self.begun = std::mem::take(&mut self.begun).plus(&other.begun);
        self.carried = std::mem::take(&mut self.carried).plus(&other.carried);
    }

    /// Whether the window can have begun within these tallies, if it comes from a file.
    pub fn fits(&self, tallies: Option<&[Tally]>) -> bool {
        let now = tallies.map(Sums::of).unwrap_or_default();
        let units = |sums: &Sums| sums.passed.len() == sums.faulty.len();
        let within =
            |a: &[u64], b: &[u64]| a.is_empty() || a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a <= b);
        let Sums { values, zeros, spread, octaves, passed, faulty } = &self.begun;
        units(&self.begun)
            && units(&self.carried)
            && *values <= now.values
            && *zeros <= now.zeros
            && spread.count <= now.spread.count
            && octaves.since(&now.octaves) == Octaves::default()
            && within(passed, &now.passed)
            && within(faulty, &now.faulty)
    }
}

impl Sums {
    fn of(tallies: &[Tally]) -> Self {
        let (mut sums, mut moments) = (Self::default(), tallies[0].moments);
        sums.octaves = Octaves::from(&tallies[0].histogram);
        (sums.passed, sums.faulty) = (tallies[0].units.passed.clone(), tallies[0].units.faulty.clone());
        for tally in &tallies[1..] {
            moments.merge(&tally.moments);
            sums.octaves.merge(&Octaves::from(&tally.histogram));
            add(&mut sums.passed, &tally.units.passed);
            add(&mut sums.faulty, &tally.units.faulty);
        }
        sums.values = tallies.iter().map(|tally| tally.values).sum();
        sums.zeros = tallies.iter().map(|tally| tally.zeros).sum();
        sums.spread = Spread { count: moments.count, mean: moments.mean, m2: moments.m2 };
        sums
    }

    fn since(&self, begun: &Self) -> Self {
        let without = |now: &[u64], begun: &[u64]| match begun.is_empty() {
            true => now.to_vec(),
            false => now.iter().zip(begun).map(|(now, begun)| now - begun).collect(),
        };
        Self {
            values: self.values - begun.values,
            zeros: self.zeros - begun.zeros,
            spread: self.spread.since(begun.spread),
            octaves: self.octaves.since(&begun.octaves),
            passed: without(&self.passed, &begun.passed),
            faulty: without(&self.faulty, &begun.faulty),
        }
    }

    fn plus(mut self, other: &Self) -> Self {
        if self.values == 0 {
            return other.clone();
        }
        // A site whose units changed in number begins anew.
        if self.passed.len() == other.passed.len() {
            self.values = self.values.saturating_add(other.values);
            self.zeros = self.zeros.saturating_add(other.zeros);
            self.spread = other.spread.plus(self.spread);
            self.octaves.merge(&other.octaves);
            let more = |sums: &mut [u64], others: &[u64]| {
                sums.iter_mut().zip(others).for_each(|(sum, other)| *sum = sum.saturating_add(*other));
            };
            more(&mut self.passed, &other.passed);
            more(&mut self.faulty, &other.faulty);
        }
        self
    }

    fn stats(&self, site: String, has_slope: bool) -> SiteSteps {
        let observed = self.values / self.passed.len().max(1) as u64;
        let dead = self.passed.iter().zip(&self.faulty).filter(|(n, faulty)| **n == 0 && **faulty < observed);
        let Spread { count, mean, m2 } = match self.spread {
            // What is left of other values' digits is no spread.
            of if of.count == self.zeros => Spread { mean: 0.0, m2: 0.0, ..of },
            of => of,
        };
        SiteSteps {
            site,
            units: self.passed.len() as u64,
            zero_fraction: self.zeros as f64 / self.values as f64,
            dead: has_slope.then(|| dead.count() as u64),
            mean: (count > 0).then_some(mean),
            std: (count > 0).then(|| (m2.max(0.0) / count as f64).sqrt()),
            octaves: Some(self.octaves).filter(|of| of.total() > 0),
        }
    }
}

impl Spread {
    /// Of both together (Chan, Golub & LeVeque 1979).
    fn plus(self, other: Self) -> Self {
        let count = self.count.saturating_add(other.count);
        let (a, b, n) = (self.count as f64, other.count as f64, count.max(1) as f64);
        let d = other.mean - self.mean;
        Self { count, mean: self.mean + d * b / n, m2: self.m2 + other.m2 + d * d * a * b / n }
    }

    /// Of what is here and was not before: the inverse of [`Spread::plus`].
    fn since(self, before: Self) -> Self {
        let count = self.count - before.count;
        if count == 0 || before.count == 0 {
            return Self { count, ..self };
        }
        let (a, b, n) = (before.count as f64, count as f64, self.count as f64);
        let mean = self.mean + (self.mean - before.mean) * a / b;
        let d = mean - before.mean;
        Self { count, mean, m2: self.m2 - before.m2 - d * d * a * b / n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Spread {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        Spread { count: values.len() as u64, mean, m2: values.iter().map(|x| (x - mean).powi(2)).sum() }
    }

    #[test]
    fn what_is_added_and_taken_away_again_leaves_the_spread_of_the_rest() {
        let values: Vec<f64> = (0..500).map(|i| 3.0 + (i as f64 * 0.618).fract()).collect();
        for cut in [1, 10, 250, 495, 499] {
            let (before, after) = (of(&values[..cut]), of(&values[cut..]));
            let whole = before.plus(after);
            let again = whole.since(before);
            assert_eq!(again.count, after.count);
            assert!((again.mean - after.mean).abs() < 1e-12, "{again:?} {after:?}");
            assert!((again.m2 - after.m2).abs() < 1e-10, "{again:?} {after:?}");
            assert!((whole.m2 - of(&values).m2).abs() < 1e-10);
        }
    }
}
