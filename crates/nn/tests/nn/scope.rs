//! Models written for plain candle: their activations are watched within the scope of a pass.

use candle_core::{Result, Tensor};
use candle_nn::{Module, Sequential};
use taper_hooks::{Pass, Recorder};
use taper_nn::{Act, Activation, Dropout, Linear, Mode, Model, Params, Tap};

use crate::{CPU, bits, random};

/// The layers of a small network, with the same names and parameters in each struct.
struct Net {
    fc1: Linear,
    act1: Act,
    dropout: Dropout,
    fc2: Linear,
    out: Tap,
}

impl Net {
    fn new() -> Self {
        let params = Params::new(1, CPU);
        let (vb, init) = (params.builder(), taper_nn::Init::He);
        Self {
            fc1: Linear::new(6, 8, init, vb.pp("fc1")).unwrap(),
            act1: Act::new(Activation::Selu, vb.pp("fc1")).unwrap(),
            dropout: Dropout::new(0.4).unwrap(),
            fc2: Linear::new(8, 3, init, vb.pp("fc2")).unwrap(),
            out: Tap::at(vb.pp("fc2")).unwrap().output(),
        }
    }

    fn sequential(self) -> Sequential {
        candle_nn::seq().add(self.fc1).add(self.act1).add(self.dropout).add(self.fc2).add(self.out)
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = self.act1.forward(pass, &self.fc1.forward(xs)?)?;
        let xs = self.dropout.forward(pass, &xs)?;
        self.out.forward(pass, &self.fc2.forward(&xs)?)
    }
}

#[test]
fn a_sequential_in_a_scope_is_recorded_as_the_same_network_with_passes() {
    let (net, seq, xs) = (Net::new(), Net::new().sequential(), random(1, &[5, 6]));
    for mode in [Mode::Train, Mode::Eval] {
        let run = |forward: &dyn Fn(&mut Pass<'_>) -> Tensor| {
            let mut recorder = Recorder::new();
            let ys = match mode {
                Mode::Train => forward(&mut Pass::train(&mut recorder, 7, 3)),
                Mode::Eval => forward(&mut Pass::eval(&mut recorder)),
            };
            (bits(&ys), recorder.finish())
        };
        let with_passes = run(&|pass| net.forward(pass, &xs).unwrap());
        let in_scope = run(&|pass| pass.scope(|| seq.forward(&xs)).unwrap());
        assert_eq!(in_scope, with_passes);
        assert_eq!(in_scope.1.iter().map(|s| s.site.as_str()).collect::<Vec<_>>(), ["fc1", "fc2"]);
    }
}

#[test]
fn outside_a_scope_nothing_is_recorded_and_the_values_are_those_of_evaluation() {
    let (seq, xs) = (Net::new().sequential(), random(1, &[5, 6]));
    let mut recorder = Recorder::new();
    let mut pass = Pass::eval(&mut recorder);
    let plain = bits(&seq.forward(&xs).unwrap());
    let hidden = pass.scope(|| Pass::outside(|| bits(&seq.forward(&xs).unwrap())));
    drop(pass);
    assert!(recorder.finish().is_empty());
    assert_eq!((hidden, plain), {
        let eval = bits(&Net::new().forward(&mut Pass::eval(&mut ()), &xs).unwrap());
        (eval.clone(), eval)
    });
}

#[test]
fn of_nested_scopes_the_innermost_records() {
    let (seq, xs) = (Net::new().sequential(), random(1, &[5, 6]));
    let (mut outer, mut inner) = (Recorder::new(), Recorder::new());
    Pass::eval(&mut outer).scope(|| {
        seq.forward(&xs).unwrap();
        // A teacher within a student's pass, say.
        for _ in 0..2 {
            Pass::eval(&mut inner).scope(|| seq.forward(&xs)).unwrap();
        }
        seq.forward(&xs).unwrap();
    });
    let [outer, inner] = [outer, inner].map(|mut recorder| recorder.finish().remove(0));
    assert_eq!((outer.samples, outer.uses), (10, 2));
    assert_eq!((inner.samples, inner.uses), (10, 1));
}

#[test]
fn an_error_of_the_pass_comes_out_of_the_module() {
    let act = || Act::new(Activation::Relu, Params::new(1, CPU).builder().pp("fc1")).unwrap();
    let twice = candle_nn::seq().add(act()).add(act());
    let xs = random(1, &[2, 3]);
    let error = crate::message(Pass::eval(&mut ()).scope(|| twice.forward(&xs)));
    assert!(error.contains("two sites are called 'fc1'"), "{error}");
    // A gradient goes through it outside of any scope too.
    let xs = candle_core::Var::from_tensor(&xs).unwrap();
    let ys = twice.forward(&xs).unwrap();
    assert!(ys.sum_all().unwrap().backward().unwrap().get(&xs).is_some());
}
