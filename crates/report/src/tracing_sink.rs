use crate::{EpochReport, Result, Run, Sink};

/// Emits [`tracing`] events at level `INFO` with target `taper`, carrying the numbers as fields.
///
/// `run` when a run begins: `name`, `dataset`, `model`, `activation`, `dropout`, `seed`, `parameters`, `epochs`.
/// `split` for every split of an epoch: `epoch`, `split`, `loss`, `accuracy`, `samples`, `learning_rate`,
/// `seconds`, `samples_per_second`, `tracking_fraction`, and `nonfinite`, the number of batches that were not finite.
/// `layer` for every site of a split: `epoch`, `split`, `site`, `activation`, `units`, `zero_fraction`,
/// `dead`, `dormant_0_025`, `mean`, `std`, `skewness`, `asymmetry`, `nan`, `infinite`.
/// A number that was not measured is left out of its event.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl Sink for TracingSink {
    fn begin(&mut self, run: &Run) -> Result<()> {
        tracing::info!(
            target: "taper",
            name = run.name,
            dataset = run.dataset,
            model = run.model,
            activation = run.activation,
            dropout = run.dropout,
            seed = run.seed,
            parameters = run.parameters,
            epochs = run.epochs,
            "run"
        );
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let epoch = report.epoch;
        for of in &report.splits {
            let split = of.split.name();
            tracing::info!(
                target: "taper",
                epoch,
                split,
                loss = of.score.loss,
                accuracy = of.score.accuracy,
                samples = of.score.samples,
                learning_rate = of.learning_rate,
                seconds = of.seconds,
                samples_per_second = of.samples_per_second(),
                tracking_fraction = of.tracking_fraction(),
                nonfinite = of.nonfinite.as_ref().map(|of| of.batches),
                "split"
            );
            for layer in &of.layers {
                tracing::info!(
                    target: "taper",
                    epoch,
                    split,
                    site = layer.site,
                    activation = layer.activation,
                    units = layer.units,
                    zero_fraction = layer.zero_fraction,
                    dead = layer.dead,
                    dormant_0_025 = layer.dormant_0_025,
                    mean = layer.mean,
                    std = layer.std(),
                    skewness = layer.skewness,
                    asymmetry = layer.asymmetry,
                    nan = layer.nan,
                    infinite = layer.infinite,
                    "layer"
                );
            }
        }
        Ok(())
    }
}
