use crate::{EpochReport, LayerStats, Result, Run, Shown, Sink, Statistic, Warning, label_value};

/// Emits [`tracing`] events at level `INFO` with target `taper`, carrying the numbers as fields.
///
/// `run` when a run begins: `name`, `dataset`, `model`, `labels`, `seed`, `parameters`, `epochs`.
/// `split` for every split of an epoch: `epoch`, `split`, `loss`, `samples`, `metrics`, `learning_rate`,
/// `seconds`, `samples_per_second`, `tracking_fraction`, and `nonfinite`, the number of batches that were not finite.
/// `layer` for every site of a split: `epoch`, `split`, `site`, `activation`, `statistics`, `trouble`.
/// `warning` for every [`Warning`]: `epoch`, `step`, `site`, `text`. At level `INFO` too, because another sink prints
/// warnings.
///
/// `labels`, `metrics` and `statistics` are lists as text: `accuracy 97.71%, top5 99.90%`. Numbers that were not
/// measured are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl Sink for TracingSink {
    fn begin(&mut self, run: &Run) -> Result<()> {
        tracing::info!(
            target: "taper",
            name = run.name,
            dataset = run.dataset,
            model = run.model,
            labels = labels(run),
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
                samples = of.score.samples,
                metrics = list(of.score.metrics.iter().map(ToString::to_string)),
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
                    site = layer.title(),
                    activation = layer.activation,
                    statistics = statistics(layer),
                    trouble = layer.trouble.as_ref().map(tracing::field::display),
                    "layer"
                );
            }
        }
        Ok(())
    }

    fn warning(&mut self, warning: &Warning) -> Result<()> {
        tracing::info!(
            target: "taper",
            epoch = warning.epoch,
            step = warning.step,
            site = warning.finding.site(),
            text = tracing::field::display(warning),
            "warning"
        );
        Ok(())
    }
}

/// `act relu, dropout 0.5`
pub(crate) fn labels(run: &Run) -> String {
    list(run.labels.iter().map(|(name, value)| format!("{name} {}", label_value(value))))
}

/// `zeros 63.2%, dead 3, mean 0.340`
fn statistics(layer: &LayerStats) -> String {
    let text = |of: &Statistic| Some(format!("{} {}", of.column, of.text((of.value)(layer)?)));
    list(Statistic::shown_in(Shown::Console).filter_map(text))
}

fn list(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}
