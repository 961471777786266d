//! NaN and infinities in data, weights, activations, gradients and loss: counted, located, and dealt with as asked.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use taper_data::Batch;
use taper_hooks::{Activation, Pass, Recorder, Rng, Site};
use taper_kernels::activate;
use taper_nn::{Mlp, MlpConfig, Model, Params};
use taper_report::{EpochReport, NonFinite, Split, SplitReport, sink_fn};
use taper_train::{
    Error, Fit, OnNonFinite, Optimizer, OptimizerConfig, Place, Result, Rule, classify, evaluate, fit,
    save_weights, train_epoch,
};

const ALL: [OnNonFinite; 3] = [OnNonFinite::Stop, OnNonFinite::Skip, OnNonFinite::Continue];

fn net(activation: Activation) -> (Params, Mlp) {
    let params = Params::new(1, &Device::Cpu);
    let config = MlpConfig { inputs: 4, widths: vec![6, 5], classes: 3, activation, ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    (params, net)
}

fn optimizer(params: &Params, on_nonfinite: OnNonFinite) -> Optimizer {
    let config = OptimizerConfig { on_nonfinite, ..OptimizerConfig::new(Rule::SGD, 0.1) };
    Optimizer::new(params.vars(), config).unwrap()
}

/// Batches of three samples; `fault` takes the place of one value of the second sample of batch 2.
fn batches(n: usize, fault: f32) -> impl Iterator<Item = taper_data::Result<Batch>> + Send {
    (1..=n).map(move |i| {
        let mut values: Vec<f32> = (0..12).map(|k| ((i * 31 + k * 17) % 13) as f32 / 13.0).collect();
        if i == 2 {
            values[4 + 3] = fault;
        }
        Ok(Batch {
            images: Tensor::from_vec(values, (3, 4), &Device::Cpu)?,
            labels: Tensor::new(&[0_u32, 1, 2], &Device::Cpu)?,
        })
    })
}

fn bits(params: &Params) -> Vec<Vec<u32>> {
    let flat = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    params.vars().iter().map(|(_, var)| flat(var).iter().map(|x| x.to_bits()).collect()).collect()
}

fn all_finite(params: &Params) -> bool {
    bits(params).iter().flatten().all(|bits| f32::from_bits(*bits).is_finite())
}

/// An epoch of four batches, of which the second has `fault` among its data.
fn epoch(on: OnNonFinite, fault: f32, recorder: &mut Recorder) -> (Params, u64, Result<SplitReport>) {
    let (params, net) = net(Activation::Relu);
    let mut optimizer = optimizer(&params, on);
    let report = train_epoch(&classify(&net), &mut optimizer, batches(4, fault), recorder, 1);
    (params, optimizer.steps(), report)
}

#[track_caller]
fn place_of(error: Error) -> (f64, u64, Place) {
    match error {
        Error::NotFinite { fault, .. } => (fault.loss, fault.batch, fault.place),
        other => panic!("{other}"),
    }
}

#[test]
fn nan_and_infinity_in_the_data_are_located_by_batch_and_sample() {
    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (params, steps, report) = epoch(OnNonFinite::Stop, fault, &mut Recorder::new());
        let error = report.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("batch 2: the inputs of the batch hold NaN or infinity, first in sample 1"),
            "{text}"
        );
        assert_eq!(place_of(error).2, Place::Data { sample: 1 });
        assert!(steps == 1 && all_finite(&params), "the weights were left as the first batch made them");
    }
}

#[test]
fn a_skipped_batch_leaves_the_weights_as_if_it_had_not_been() {
    let (params, steps, report) = epoch(OnNonFinite::Skip, f32::NAN, &mut Recorder::new());
    let report = report.unwrap();
    let nonfinite = report.nonfinite.unwrap();
    assert_eq!((nonfinite.batches, nonfinite.skipped, steps), (1, 1, 3));
    assert!(
        nonfinite.first.to_string().starts_with("batch 2: loss is NaN, the inputs"),
        "{}",
        nonfinite.first
    );
    assert_eq!(report.score.samples, 12, "its samples were seen");
    assert!(report.score.loss.is_finite(), "its loss is left out of the mean");

    let (others, net) = net(Activation::Relu);
    let mut optimizer = optimizer(&others, OnNonFinite::Stop);
    let without = batches(4, 0.0).enumerate().filter(|(i, _)| *i != 1).map(|(_, batch)| batch);
    let report_without = train_epoch(&classify(&net), &mut optimizer, without, &mut (), 1).unwrap();
    assert_eq!(bits(&params), bits(&others));
    assert!((report.score.loss - report_without.score.loss).abs() < 1e-12);
}

#[test]
fn to_continue_is_to_step_and_to_count() {
    let (params, steps, report) = epoch(OnNonFinite::Continue, f32::NAN, &mut Recorder::new());
    let report = report.unwrap();
    let nonfinite = report.nonfinite.unwrap();
    // The weights become non-finite in batch 2, and so does every later batch.
    assert_eq!((nonfinite.batches, nonfinite.skipped, steps), (3, 0, 4));
    assert!(!all_finite(&params) && report.score.loss.is_nan());
}

#[test]
fn an_epoch_of_skipped_batches_has_no_loss_rather_than_one_of_zero() {
    let (params, net) = net(Activation::Relu);
    let mut optimizer = optimizer(&params, OnNonFinite::Skip);
    let only = batches(2, f32::NAN).skip(1);
    let report = train_epoch(&classify(&net), &mut optimizer, only, &mut (), 1).unwrap();
    assert!(report.score.loss.is_nan());
    assert_eq!((report.score.samples, report.learning_rate), (3, None));
}

#[test]
fn nan_in_the_data_is_never_shown_as_sparsity() {
    let mut with = Recorder::new();
    epoch(OnNonFinite::Skip, f32::NAN, &mut with).2.unwrap();
    for layer in with.finish() {
        assert_eq!(layer.nan, layer.units, "one sample of {} units", layer.site);
        assert_eq!(layer.zeros + layer.negatives + layer.positives + layer.nan, layer.values);
        assert_eq!(
            layer.active_per_sample.unwrap().min.min(1) + layer.samples_all_zero.unwrap(),
            1,
            "{layer:?}"
        );
    }
}

#[test]
fn weights_that_are_not_finite_are_named_with_their_unit() {
    for (index, name) in [(0, "fc1.weight"), (3, "fc2.bias"), (4, "fc3.weight")] {
        let (params, net) = net(Activation::Relu);
        let (found, var) = params.vars().swap_remove(index);
        assert_eq!(found, name);
        let mut values = vec![0.5_f32; var.elem_count()];
        let per_unit = values.len() / var.dims()[0];
        values[2 * per_unit] = f32::NAN;
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        let before = bits(&params);
        let mut optimizer = optimizer(&params, OnNonFinite::Stop);
        let error = train_epoch(&classify(&net), &mut optimizer, batches(2, 0.0), &mut (), 1).unwrap_err();
        let (loss, batch, place) = place_of(error);
        assert!(loss.is_nan() && batch == 1);
        assert_eq!(place, Place::Weights { parameter: name.to_string(), unit: 2 });
        assert_eq!(bits(&params), before);
        // Evaluation has no parameters to ask, but says which site is the first.
        let report = evaluate(&classify(&net), Split::Test, batches(1, 0.0), &mut ()).unwrap();
        let first = report.nonfinite.unwrap().first.to_string();
        let site = name.split('.').next().unwrap();
        let expected =
            if site == "fc3" { "the last layer".into() } else { format!("site '{site}', in unit 2") };
        assert!(first.contains(&expected), "{first}");
    }
}

/// A linear layer and an activation at a site, whose logits are computed by `end`.
struct Hidden {
    weight: Tensor,
    site: Site,
    end: fn(&Tensor) -> candle_core::Result<Tensor>,
}

impl Model for Hidden {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let xs = xs.matmul(&self.weight)?;
        let ys = activate(&xs, Activation::Identity)?;
        pass.see(&self.site, &xs, &ys)?;
        (self.end)(&ys)
    }
}

/// A weight of `(4, 3)`, and a model that ends in `end`.
fn hidden(scale: f64, end: fn(&Tensor) -> candle_core::Result<Tensor>) -> (Params, Hidden) {
    let params = Params::new(1, &Device::Cpu);
    let ones = candle_nn::Init::Const(scale);
    let weight = params.builder().get_with_hints((4, 3), "fc1.weight", ones).unwrap();
    let site = Site::behind("fc1", Activation::Identity);
    (params, Hidden { weight, site, end })
}

/// Sums of four positive values times this are infinite, which tanh hides.
const OVERFLOW: f64 = 3e38;

#[test]
fn an_activation_that_leaves_no_trace_in_the_loss_is_noticed_through_the_recorder() {
    for on in ALL {
        let (params, model) = hidden(OVERFLOW, |ys| ys.tanh());
        let mut optimizer = optimizer(&params, on);
        let mut recorder = (Recorder::new(), ());
        let many = batches(3, 0.0)
            .map(|batch| batch.map(|batch| Batch { images: batch.images.ones_like().unwrap(), ..batch }));
        let report = train_epoch(&classify(&model), &mut optimizer, many, &mut recorder, 1);
        let infinite = Place::Site { site: "fc1".to_string(), unit: 0 };
        match on {
            OnNonFinite::Stop => {
                let (loss, batch, place) = place_of(report.unwrap_err());
                assert!(loss.is_finite() && batch == 1 && place == infinite);
            }
            _ => {
                let nonfinite = report.unwrap().nonfinite.unwrap();
                assert_eq!(nonfinite.batches, 3);
                assert!(nonfinite.first.to_string().contains("site 'fc1', in unit 0"), "{}", nonfinite.first);
            }
        }
        let report = evaluate(&classify(&model), Split::Test, batches(1, 0.0), &mut Recorder::new()).unwrap();
        assert!(report.score.loss.is_finite() && report.nonfinite.is_some());
        // Whoever records nothing cannot know.
        assert_eq!(
            evaluate(&classify(&model), Split::Test, batches(1, 0.0), &mut ()).unwrap().nonfinite,
            None
        );
    }
}

#[test]
fn a_gradient_that_is_not_finite_under_a_finite_loss_is_noticed_before_the_step() {
    // √0 is 0 and its slope infinite; times 0 it is NaN.
    for on in ALL {
        let (params, model) = hidden(0.0, |ys| ys.sqrt());
        let before = bits(&params);
        let mut optimizer = optimizer(&params, on);
        let report = train_epoch(&classify(&model), &mut optimizer, batches(1, 0.0), &mut Recorder::new(), 1);
        match on {
            OnNonFinite::Stop => {
                let error = report.unwrap_err();
                let text = error.to_string();
                assert!(text.starts_with("loss is 1.0986"), "{text}");
                assert!(text.contains("yet not every number is finite in batch 1"), "{text}");
                let (_, _, place) = place_of(error);
                assert_eq!(place, Place::Gradient { parameter: "fc1.weight".to_string(), unit: 0 });
            }
            _ => {
                let NonFinite { batches, skipped, first } = report.unwrap().nonfinite.unwrap();
                assert_eq!((batches, skipped), (1, u64::from(on == OnNonFinite::Skip)));
                assert!(first.to_string().contains("the gradient of 'fc1.weight'"), "{first}");
            }
        }
        assert_eq!(bits(&params) == before, on != OnNonFinite::Continue);
    }
}

#[test]
fn a_loss_that_overflows_is_in_the_last_layer() {
    // The logits are finite, but further apart than f32 reaches.
    let (params, model) = hidden(1.0, |ys| {
        let apart = Tensor::new(&[[3.4e38_f32, -3.4e38, -3.4e38]], ys.device())?;
        (ys * 0.0)?.broadcast_add(&apart)
    });
    let mut optimizer = optimizer(&params, OnNonFinite::Stop);
    let error =
        train_epoch(&classify(&model), &mut optimizer, batches(1, 0.0), &mut Recorder::new(), 1).unwrap_err();
    let (loss, _, place) = place_of(error);
    assert_eq!((loss, place), (f64::INFINITY, Place::Loss));
}

#[test]
fn a_run_that_continues_reports_every_epoch_and_one_that_stops_reports_the_last() {
    let data = taper_data::digits().unwrap();
    let data = taper_data::Dataset { train: data.train.take(100), test: data.test.take(50), ..data };
    for on in ALL {
        let params = Params::new(1, &Device::Cpu);
        let config = MlpConfig { inputs: 64, widths: vec![6], ..Default::default() };
        let net = Mlp::new(&config, params.builder()).unwrap();
        // One batch an epoch: its step goes too far, and the test pass is the first to see that.
        let config = OptimizerConfig { on_nonfinite: on, ..OptimizerConfig::new(Rule::SGD, 1e38) };
        let mut optimizer = Optimizer::new(params.vars(), config).unwrap();
        let mut told: Vec<EpochReport> = Vec::new();
        let mut sink = sink_fn(|report: &EpochReport| {
            told.push(report.clone());
            Ok(())
        });
        let (train, test) = (|rng: &mut Rng| data.train.shuffled(rng, 100), || data.test.batches(100));
        let result = fit(&classify(&net), &mut optimizer, train, test, Fit { epochs: 3, seed: 1 }, &mut sink);
        assert!(told[0].splits[0].nonfinite.is_none(), "the untrained network");
        let test = told[1].split(Split::Test).unwrap();
        assert!(test.nonfinite.is_some());
        match on {
            OnNonFinite::Stop => {
                assert!(matches!(result, Err(Error::NotFinite { epoch: Some(1), .. })));
                assert_eq!(told.len(), 2);
            }
            _ => {
                result.unwrap();
                assert_eq!(told.len(), 4);
                let train = told[3].split(Split::Train).unwrap().nonfinite.clone().unwrap();
                assert_eq!((train.batches, train.skipped), (1, u64::from(on == OnNonFinite::Skip)));
            }
        }
    }
}

#[test]
fn a_whole_epoch_of_finite_batches_counts_nothing_and_changes_nothing() {
    let mut all = Vec::new();
    for on in ALL {
        let (params, steps, report) = epoch(on, 0.25, &mut Recorder::new());
        assert_eq!((report.unwrap().nonfinite, steps), (None, 4));
        all.push(bits(&params));
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn what_to_do_is_read_as_it_is_written() {
    for on in ALL {
        assert_eq!(on.to_string().parse::<OnNonFinite>().unwrap(), on);
    }
    let error = "ignore".parse::<OnNonFinite>().unwrap_err().to_string();
    assert_eq!(error, "expected stop, skip or continue, found 'ignore'");
}

#[test]
fn weights_that_are_loaded_with_nan_are_as_the_file_has_them_and_found_at_the_first_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let (params, _) = net(Activation::Relu);
    let (_, var) = params.vars().swap_remove(2);
    let mut values = vec![0.5_f32; 30];
    values[17] = f32::INFINITY;
    var.set(&Tensor::from_vec(values, (5, 6), &Device::Cpu).unwrap()).unwrap();
    save_weights(&params, &path).unwrap();
    let (loaded, net) = net(Activation::Relu);
    taper_train::load_weights(&loaded, &path).unwrap();
    assert_eq!(bits(&loaded), bits(&params));
    let mut optimizer = optimizer(&loaded, OnNonFinite::Stop);
    let error = train_epoch(&classify(&net), &mut optimizer, batches(1, 0.0), &mut (), 1).unwrap_err();
    assert_eq!(place_of(error).2, Place::Weights { parameter: "fc2.weight".to_string(), unit: 2 });
}

#[test]
fn an_evaluation_finds_the_first_site_or_the_last_layer() {
    let (params, net) = net(Activation::Relu);
    let place = || {
        let report = evaluate(&classify(&net), Split::Test, batches(1, 0.0), &mut ()).unwrap();
        report.nonfinite.unwrap().first.place
    };
    let (_, var) = params.vars().swap_remove(5);
    var.set(&Tensor::full(f32::NAN, 3, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
    assert_eq!(place(), Place::Loss);
    let (_, var) = params.vars().swap_remove(1);
    var.set(&Tensor::full(f32::NAN, 6, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
    assert_eq!(place(), Place::Site { site: "fc1".to_string(), unit: 0 });
}

#[test]
fn a_metric_that_is_not_finite_is_named_and_handled_like_a_loss() {
    for on in ALL {
        let (params, net) = net(Activation::Relu);
        let mut optimizer = optimizer(&params, on);
        let step = |pass: &mut Pass<'_>, batch: &Batch| {
            let step = classify(&net)(pass, batch)?;
            // Of the second batch only.
            let first = batch.images.flatten_all()?.to_vec1::<f32>()?[7];
            Ok(step.lower("odd", f64::from(if first == 0.5 { f32::NAN } else { first })))
        };
        let report = train_epoch(&step, &mut optimizer, batches(4, 0.5), &mut (), 1);
        let place = Place::Metric { name: "odd".to_string() };
        match on {
            OnNonFinite::Stop => {
                let error = report.unwrap_err();
                let text = error.to_string();
                assert!(text.ends_with("in batch 2: metric 'odd' is not finite"), "{text}");
                assert_eq!(place_of(error).2, place);
                assert_eq!(optimizer.steps(), 1);
            }
            _ => {
                let report = report.unwrap();
                let (of, skips) = (report.nonfinite.clone().unwrap(), on == OnNonFinite::Skip);
                assert_eq!((of.batches, of.skipped, of.first.place), (1, u64::from(skips), place));
                assert_eq!(report.score.metric("odd").unwrap().is_finite(), skips, "{:?}", report.score);
                assert_eq!(optimizer.steps(), 4 - u64::from(skips));
            }
        }
    }
}
