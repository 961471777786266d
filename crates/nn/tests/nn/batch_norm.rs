//! Batch normalisation is PyTorch's, in values, running statistics and names.

use std::path::Path;

use candle_core::{DType, Module, Tensor};
use taper_hooks::{Pass, Recorder};
use taper_nn::{Act, Activation, BatchNorm1d, BatchNorm2d, BatchNormConfig, no_grad};

use crate::{CPU, bits, message, params, random, values};

#[track_caller]
fn assert_close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    for (got, want) in values(got).into_iter().zip(values(want)) {
        assert!((got - want).abs() <= 2e-6 * want.abs().max(1.0), "{what}: expected {want}, found {got}");
    }
}

#[test]
fn several_steps_and_an_evaluation_are_those_of_pytorch() {
    type Forward = Box<dyn Fn(&mut Pass<'_>, &Tensor) -> candle_core::Result<Tensor>>;
    for name in ["2d", "1d", "cumulative"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/goldens/batch_norm_{name}.safetensors"));
        let golden = candle_core::safetensors::load(path, CPU).unwrap();
        let params = params();
        let momentum = if name == "cumulative" { None } else { Some(0.1) };
        let (config, vb) = (BatchNormConfig { momentum, ..Default::default() }, params.builder());
        let norm: Forward = match name {
            "2d" => {
                let norm = BatchNorm2d::new(3, config, vb).unwrap();
                Box::new(move |pass, xs| norm.forward(pass, xs))
            }
            _ => {
                let norm = BatchNorm1d::new(3, config, vb).unwrap();
                Box::new(move |pass, xs| norm.forward(pass, xs))
            }
        };
        for (parameter, var) in params.vars() {
            var.set(&golden[&parameter]).unwrap();
        }
        for step in 0..4 {
            let (xs, ys) = (golden["xs"].get(step).unwrap(), golden["ys"].get(step).unwrap());
            assert_close(name, &norm(&mut Pass::train(&mut (), 1, step as u64), &xs).unwrap(), &ys);
        }
        for (buffer, var) in params.buffers() {
            let want = &golden[&buffer];
            assert_eq!(var.dtype(), want.dtype(), "{name}: {buffer}");
            let f32s = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            assert_close(&format!("{name}: {buffer}"), &f32s(&var), &f32s(want));
        }
        let before: Vec<_> =
            params.state().iter().map(|(_, v)| bits(&v.to_dtype(DType::F32).unwrap())).collect();
        let xs = golden["xs"].get(0).unwrap();
        assert_close(name, &norm(&mut Pass::eval(&mut ()), &xs).unwrap(), &golden["eval"]);
        let after: Vec<_> =
            params.state().iter().map(|(_, v)| bits(&v.to_dtype(DType::F32).unwrap())).collect();
        assert_eq!(before, after, "evaluation changes nothing");
    }
}

#[test]
fn names_and_kinds_are_those_of_pytorch() {
    let params = params();
    BatchNorm2d::new(3, BatchNormConfig::default(), params.builder().pp("bn1")).unwrap();
    assert_eq!(params.names(), ["bn1.weight", "bn1.bias"]);
    assert_eq!(params.count(), 6);
    let buffers: Vec<_> =
        params.buffers().into_iter().map(|(name, v)| (name, v.dims().to_vec(), v.dtype())).collect();
    let of = |name: &str, dims: &[usize], dtype| (format!("bn1.{name}"), dims.to_vec(), dtype);
    let expected = [
        of("running_mean", &[3], DType::F32),
        of("running_var", &[3], DType::F32),
        of("num_batches_tracked", &[], DType::I64),
    ];
    assert_eq!(buffers, expected);
}

#[test]
fn a_layer_that_applies_an_activation_gives_shows_and_learns_the_same() {
    let xs = random(1, &[5, 3, 4, 4]);
    for f in [Activation::Relu, Activation::Gelu] {
        let run = |fused: bool| {
            let (params, mut recorder) = (params(), Recorder::new());
            let norm = BatchNorm2d::new(3, BatchNormConfig::default(), params.builder().pp("bn1")).unwrap();
            let act = Act::new(f, params.builder().pp("bn1")).unwrap();
            let mut pass = Pass::train(&mut recorder, 1, 0);
            let ys = match fused {
                true => norm.forward_act(&mut pass, &xs, &act).unwrap(),
                false => {
                    let normal = norm.forward(&mut pass, &xs).unwrap();
                    act.forward(&mut pass, &normal).unwrap()
                }
            };
            let buffers: Vec<_> = params.buffers().iter().take(2).map(|(_, v)| bits(v)).collect();
            (bits(&ys), buffers, recorder.finish()[0].zeros)
        };
        assert_eq!(run(true), run(false), "{f}");
    }
}

#[test]
fn as_a_module_it_takes_the_mode_of_the_pass_around_it() {
    let params = params();
    let norm = BatchNorm1d::new(2, BatchNormConfig::default(), params.builder()).unwrap();
    let xs = Tensor::new(&[[1.0_f32, 5.0], [3.0, 9.0]], CPU).unwrap();
    let apply = |pass: Option<Pass<'_>>| match pass {
        Some(mut pass) => values(&pass.scope(|| Module::forward(&norm, &xs)).unwrap()),
        None => values(&Module::forward(&norm, &xs).unwrap()),
    };
    let (outside, evaluated) = (apply(None), apply(Some(Pass::eval(&mut ()))));
    assert_eq!(outside, evaluated);
    assert!((outside[3] - 9.0).abs() < 1e-3, "running statistics of 0 and 1: {outside:?}");
    let trained = apply(Some(Pass::train(&mut (), 1, 0)));
    assert!((trained[3] - 1.0).abs() < 1e-3, "{trained:?}");
}

#[test]
fn a_frozen_model_shares_the_parameters_and_builds_no_graph() {
    let params = params();
    let norm = |vb| BatchNorm1d::new(2, BatchNormConfig::default(), vb).unwrap();
    let (trained, frozen) = (norm(params.builder()), norm(params.frozen()));
    let xs = random(1, &[6, 2]);
    trained.forward(&mut Pass::train(&mut (), 1, 0), &xs).unwrap();
    let eval = |norm: &BatchNorm1d| norm.forward(&mut Pass::eval(&mut ()), &xs).unwrap();
    assert_eq!(bits(&eval(&trained)), bits(&eval(&frozen)));
    assert_eq!((eval(&trained).track_op(), eval(&frozen).track_op()), (true, false));
    assert!(!no_grad(|| eval(&trained)).track_op());
    assert!(
        params.frozen().get(3, "weight").unwrap_err().to_string().contains("expected shape [3], found [2]")
    );
    assert!(params.frozen().get(2, "other").unwrap_err().to_string().contains("does not exist yet"));
}

#[test]
fn what_has_no_variance_or_other_axes_is_refused() {
    let norm = BatchNorm1d::new(2, BatchNormConfig::default(), params().builder()).unwrap();
    let one = random(1, &[1, 2]);
    let error = message(norm.forward(&mut Pass::train(&mut (), 1, 0), &one));
    assert!(
        error.contains("expected more than one value per channel in training, found shape [1, 2]"),
        "{error}"
    );
    assert!(norm.forward(&mut Pass::eval(&mut ()), &one).is_ok());
    let error = message(norm.forward(&mut Pass::eval(&mut ()), &random(1, &[1, 2, 3, 4])));
    assert_eq!(error, "BatchNorm1d: expected inputs (N, C) or (N, C, T), found shape [1, 2, 3, 4]");
    let error = message(norm.forward(&mut Pass::eval(&mut ()), &random(1, &[1, 3])));
    assert_eq!(error, "batch_norm: expected a value for each of 3 channels, found shape [2]");
    let config = BatchNormConfig { momentum: Some(1.5), ..Default::default() };
    assert!(message(BatchNorm1d::new(2, config, params().builder().pp("bn1"))).contains("layer 'bn1'"));
}
