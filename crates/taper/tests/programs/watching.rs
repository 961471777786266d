//! Any tensor of any model as a site, also in models of plain candle.

use candle_core::{Device, Result, Tensor};
use candle_nn::{Activation as Plain, Module, Sequential, VarBuilder, linear, seq};
use taper::data::{Batch, digits};
use taper::hooks::{Activation, Recorder, Units};
use taper::nn::{Act, Init, Linear, Model, Params, Pass, Tap};
use taper::report::Split;
use taper::train::{Here, Step, classify, cross_entropy, evaluate, train_epoch};

use crate::adam;

/// Rows of an image as a sequence: `(N, 8, 8)` → embedding → residual block → mean over time → classes.
struct Watched {
    embed: candle_nn::Linear,
    embedded: Tap,
    up: Linear,
    act: Act,
    down: Linear,
    residual: Tap,
    head: candle_nn::Linear,
    logits: Tap,
}

impl Model for Watched {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = self.embed.forward(&xs.squeeze(1)?)?;
        let xs = self.embedded.forward(pass, &xs)?;
        let hidden = self.up.forward_act(pass, &xs, &self.act)?;
        let xs = self.residual.forward(pass, &(&xs + self.down.forward(&hidden)?)?)?;
        self.logits.forward(pass, &self.head.forward(&xs.mean(1)?)?)
    }
}

#[test]
fn anything_can_be_watched_and_units_are_units_not_time_steps() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let vb = params.builder();
    let gelu = Activation::Gelu;
    let net = Watched {
        embed: linear(8, 12, vb.pp("embed")).unwrap(),
        embedded: Tap::new("embed").units(Units::Last),
        up: Linear::new(12, 48, Init::of(gelu), vb.pp("up")).unwrap(),
        act: Act::new(gelu, vb.pp("up")).unwrap(),
        down: Linear::new(48, 12, Init::LeCun, vb.pp("down")).unwrap(),
        residual: Tap::new("residual").units(Units::Last),
        head: linear(12, 10, vb.pp("head")).unwrap(),
        logits: Tap::new("logits").output(),
    };
    let (mut optimizer, mut recorder) = (adam(&params), Recorder::new());
    let step = classify(&net);
    train_epoch(&step, &mut optimizer, data.train.batches(32), &mut (), 1).unwrap();
    evaluate(&step, Split::Test, data.test.batches(100), &mut recorder).unwrap();
    let layers = recorder.finish();
    let seen: Vec<_> = layers.iter().map(|l| (l.site.as_str(), l.units, l.samples, l.values)).collect();
    let expected = [
        ("embed", 12, 360, 360 * 96),
        ("up", 48, 360, 360 * 384),
        ("residual", 12, 360, 360 * 96),
        ("logits", 10, 360, 3600),
    ];
    assert_eq!(seen, expected);
    for layer in &layers {
        let has_function = layer.site == "up";
        assert_eq!(layer.activation.is_some(), has_function);
        assert_eq!([layer.dead.is_some(), layer.flat_low.is_some()], [has_function; 2], "{}", layer.site);
        assert_eq!(layer.dormant_0_025.is_some(), layer.site != "logits");
        assert!(layer.mean.is_some() && layer.trouble.is_none());
    }
}

/// A model as it was written for plain candle, but for its activations.
fn plain(vb: VarBuilder, act: impl Fn(&str) -> Result<Box<dyn Module>>) -> Result<Sequential> {
    struct Boxed(Box<dyn Module>);
    impl Module for Boxed {
        fn forward(&self, xs: &Tensor) -> Result<Tensor> {
            self.0.forward(xs)
        }
    }
    Ok(seq()
        .add_fn(|xs| xs.flatten_from(1))
        .add(linear(64, 32, vb.pp("fc1"))?)
        .add(Boxed(act("fc1")?))
        .add(linear(32, 16, vb.pp("fc2"))?)
        .add(Boxed(act("fc2")?))
        .add(linear(16, 10, vb.pp("fc3"))?))
}

#[test]
fn a_model_of_plain_candle_is_watched_by_replacing_its_activations() {
    let data = digits().unwrap();
    let train = |watched: bool| {
        let params = Params::new(1, &Device::Cpu);
        let vb = params.builder();
        let net = plain(vb.clone(), |name| {
            Ok(match watched {
                true => Box::new(Act::new(Activation::Relu, vb.pp(name))?),
                false => Box::new(Plain::Relu),
            })
        })
        .unwrap();
        let (mut optimizer, mut recorder) = (adam(&params), Recorder::new());
        let step = Here(|pass: &mut Pass<'_>, batch: &Batch| {
            let logits = pass.scope(|| net.forward(&batch.images))?;
            Ok(Step::new(cross_entropy(&logits, &batch.labels)?, batch.len()))
        });
        train_epoch(&step, &mut optimizer, data.train.batches(32), &mut recorder, 1).unwrap();
        let trained = recorder.finish();
        let test = evaluate(&step, Split::Test, data.test.batches(360), &mut recorder).unwrap();
        // What the values themselves say.
        let images = data.test.batches(360).next().unwrap().unwrap().images;
        let all = net.forward_all(&images).unwrap();
        let zeros = [2, 4].map(|i: usize| {
            let ys: Vec<f32> = all[i].flatten_all().unwrap().to_vec1().unwrap();
            ys.iter().filter(|y| **y == 0.0).count() as u64
        });
        (test.score.loss, trained, recorder.finish(), zeros)
    };
    let (loss, trained, tested, zeros) = train(true);
    let sites: Vec<_> = trained.iter().map(|l| (l.site.as_str(), l.units, l.samples)).collect();
    assert_eq!(sites, [("fc1", 32, 1437), ("fc2", 16, 1437)]);
    assert_eq!([tested[0].zeros, tested[1].zeros], zeros);
    let (other, nothing, ..) = train(false);
    assert!(nothing.is_empty());
    assert!((loss - other).abs() < 0.05, "candle's ReLU differs in its slope at 0 alone: {loss}, {other}");
}
