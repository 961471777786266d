//! A custom observer next to the recorder: here, the share of each layer's activity in its busiest tenth of units. An
//! `Observer` receives every batch at every site.
//!
//!     cargo run --example custom_observer

use std::collections::BTreeMap;

use candle_core::{Device, Result};
use taper::hooks::{Activation, Observer, Recorder, Seen, rng};
use taper::nn::{Mlp, MlpConfig, Params};
use taper::report::Split;
use taper::train::{Optimizer, OptimizerConfig, Rule, classify, evaluate, train_epoch};

/// For every site, the sum of |activation| of each unit.
#[derive(Default)]
struct Activity(BTreeMap<String, Vec<f32>>);

impl Observer for Activity {
    fn observe(&mut self, seen: &Seen<'_>) -> Result<()> {
        // (N, units): sum over samples. Use `flatten_from(2)` and sum over positions too for feature maps.
        let batch = seen.ys.detach().abs()?.sum(0)?.to_vec1::<f32>()?;
        let sums = self.0.entry(seen.site.name().to_string()).or_insert_with(|| vec![0.0; batch.len()]);
        sums.iter_mut().zip(batch).for_each(|(sum, x)| *sum += x);
        Ok(())
    }
}

impl Activity {
    /// Ends the window: the share of activity, in `[0, 1]`, of the busiest tenth of units, by site.
    fn finish(&mut self) -> BTreeMap<String, f32> {
        let share = |mut sums: Vec<f32>| {
            sums.sort_by(|a, b| b.total_cmp(a));
            let busiest = sums.len().div_ceil(10);
            sums[..busiest].iter().sum::<f32>() / sums.iter().sum::<f32>().max(f32::MIN_POSITIVE)
        };
        std::mem::take(&mut self.0).into_iter().map(|(site, sums)| (site, share(sums))).collect()
    }
}

fn main() -> anyhow::Result<()> {
    let data = taper::data::digits()?;
    for activation in [Activation::Relu, Activation::Selu, Activation::Tanh] {
        let params = Params::new(1, &Device::Cpu);
        let config = MlpConfig { inputs: 64, widths: vec![128, 64], activation, ..Default::default() };
        let net = Mlp::new(&config, params.builder())?;
        let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.05))?;
        let (step, mut rng) = (classify(&net), rng(2));
        for _ in 0..10 {
            train_epoch(&step, &mut optimizer, data.train.shuffled(&mut rng, 32), &mut (), 2)?;
        }
        // A pair of observers: both observe the same pass.
        let mut both = (Recorder::new(), Activity::default());
        let test = evaluate(&step, Split::Test, data.test.batches(360), &mut both)?;
        println!("{activation}: test accuracy {:.1} %", 100.0 * test.score.primary().value);
        for (layer, (site, share)) in both.0.finish().iter().zip(both.1.finish()) {
            println!(
                "  {site}: the busiest tenth of units carries {:.0} % of the activity; {:.0} % zeros",
                100.0 * share,
                100.0 * layer.zero_fraction
            );
        }
    }
    Ok(())
}
