//! Statistics of networks that PyTorch trained, loaded from its files, against PyTorch's own numbers.

use candle_core::Device;
use serde_json::Value;
use taper::data::{ImageSet, Scale};
use taper::hooks::{Activation, Recorder};
use taper::nn::{Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};
use taper::train::{classify, evaluate, load_weights};

use crate::support::{close, golden, json, mlp_sizes, mnist, tensors};

fn check(name: &str, activation: Activation, test: &ImageSet) {
    let weights = format!("{name}.safetensors");
    let params = Params::new(0, &Device::Cpu);
    let shapes = tensors(&weights);
    let model: Box<dyn Model + Send + Sync> = match shapes.get("conv1.weight") {
        Some(conv1) => {
            let maps = |name: &str| shapes[name].dims()[0];
            let channels = vec![conv1.dims()[0], maps("conv2.weight")];
            let config =
                CnnConfig { channels, widths: vec![maps("fc1.weight")], activation, ..Default::default() };
            Box::new(Cnn::new(&config, params.builder()).unwrap())
        }
        None => {
            let (inputs, widths) = mlp_sizes(&shapes, "");
            let config = MlpConfig { inputs, widths, activation, ..Default::default() };
            Box::new(Mlp::new(&config, params.builder()).unwrap())
        }
    };
    load_weights(&params, &golden(&weights)).unwrap();

    let want = json(&format!("{name}.json"));
    let mut recorder = Recorder::new();
    let report =
        evaluate(&classify(&*model), taper::report::Split::Test, test.batches(512), &mut recorder).unwrap();
    let n = want["samples"].as_f64().unwrap();
    assert_eq!(report.score.samples as f64, n);
    let correct = report.score.primary().value * n;
    assert!(
        (correct - want["correct"].as_f64().unwrap()).abs() <= 2.0 * (n / 10_000.0).max(0.5),
        "{correct} correct"
    );
    close("loss", report.score.loss, want["loss"].as_f64().unwrap(), 1e-4);

    let sites = want["sites"].as_object().unwrap();
    let fired: Vec<Vec<u64>> = sites
        .keys()
        .map(|site| recorder.units(site).unwrap().iter().map(|unit| unit.fired).collect())
        .collect();
    let layers = recorder.finish();
    assert_eq!(layers.len(), sites.len());
    for (((site, want), fired), got) in sites.iter().zip(&fired).zip(&layers) {
        let what = |key: &str| format!("{name}, {site}, {key}");
        let number = |key: &str| want[key].as_f64().unwrap_or_else(|| panic!("{} is missing", what(key)));
        assert_eq!(&got.site, site);
        for (key, count) in [
            ("values", got.values),
            ("units", got.units),
            ("always_on", got.always_on),
            ("dormant_0_025", got.dormant_0_025.unwrap()),
            ("dormant_0_1", got.dormant_0_1.unwrap()),
            ("samples_all_zero", got.samples_all_zero.unwrap()),
        ] {
            assert_eq!(count as f64, number(key), "{}", what(key));
        }
        if activation == Activation::Relu {
            assert_eq!(got.dead.unwrap() as f64, number("dead"), "{}", what("dead"));
            assert_eq!(got.rare.unwrap() as f64, number("rare_1pct"), "{}", what("rare"));
        } else {
            // In the tanh file `dead` counts units that are never above zero; here a gradient passes every unit.
            assert_eq!((got.dead, got.rare), (Some(0), None));
        }
        close(&what("zeros"), got.zeros as f64, number("zeros"), 1e-5);
        close(&what("negatives"), got.negatives as f64, number("negatives"), 1e-5);
        close(&what("near zeros"), got.near_zeros as f64, number("near_zeros_1e_2"), 1e-5);
        for (key, value) in [
            ("mean", got.mean),
            ("variance", got.variance),
            ("skewness", got.skewness),
            ("excess_kurtosis", got.excess_kurtosis),
            ("min", got.min),
            ("max", got.max),
            ("population_sparseness", got.population_sparseness),
        ] {
            close(&what(key), value.unwrap(), number(key), 1e-4);
        }
        let active = got.active_per_sample.unwrap();
        let want_active = &want["active_per_sample"];
        close(&what("active mean"), active.mean, want_active["mean"].as_f64().unwrap(), 1e-5);
        assert!(
            (active.min as f64 - want_active["min"].as_f64().unwrap()).abs() <= 1.0,
            "{}",
            what("fewest active")
        );
        assert!(
            (active.max as f64 - want_active["max"].as_f64().unwrap()).abs() <= 1.0,
            "{}",
            what("most active")
        );
        // A pre-activation within rounding of zero can fall on either side.
        let want_fired: Vec<u64> =
            want["fired"].as_array().unwrap().iter().map(|v: &Value| v.as_u64().unwrap()).collect();
        assert_eq!(fired.len(), want_fired.len());
        for (unit, (got, want)) in fired.iter().zip(&want_fired).enumerate() {
            assert!(
                got.abs_diff(*want) <= 1 + want / 100_000,
                "{} of unit {unit}: {got}, expected {want}",
                what("fired")
            );
        }
    }
}

#[test]
fn the_digits_network_has_pytorchs_numbers() {
    let data = taper::data::digits().unwrap().scaled(Scale::Unit);
    check("digits_mlp_relu_trained", Activation::Relu, &data.test);
}

#[test]
fn the_relu_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_relu_trained") else { return };
    check("mlp_relu_trained", Activation::Relu, &data.test);
}

#[test]
fn the_tanh_mlp_has_pytorchs_numbers() {
    let Some(data) = mnist("mlp_tanh_trained") else { return };
    check("mlp_tanh_trained", Activation::Tanh, &data.test);
}

#[test]
fn the_cnn_has_pytorchs_numbers() {
    let Some(data) = mnist("cnn_relu_trained") else { return };
    check("cnn_relu_trained", Activation::Relu, &data.test);
}
