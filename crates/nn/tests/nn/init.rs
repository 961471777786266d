//! How weights start: each distribution has the moments that its name promises.

use candle_core::Tensor;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use taper_nn::{Conv2d, Conv2dConfig, Init, Linear};

use crate::{params, values};

/// Mean 0 and this variance, both within 5 standard errors; returns the largest magnitude.
fn assert_moments(tensor: &Tensor, variance: f64, normal: bool) -> f64 {
    let xs: Vec<f64> = values(tensor).into_iter().map(f64::from).collect();
    let n = xs.len() as f64;
    let mean = xs.iter().sum::<f64>() / n;
    let found = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    assert!(mean.abs() < 5.0 * (variance / n).sqrt(), "mean {mean}");
    // The standard error of a variance is σ² √((kurtosis − 1) / n).
    let kurtosis = if normal { 3.0 } else { 1.8 };
    let error = variance * ((kurtosis - 1.0_f64) / n).sqrt();
    assert!((found - variance).abs() < 5.0 * error, "variance {found}, expected {variance} ± {error}");
    // The fourth moment tells the two distributions apart.
    let fourth = xs.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / n / found.powi(2);
    assert!((fourth - kurtosis).abs() < 0.3, "kurtosis {fourth}");
    xs.iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// Weight and bias of a fully connected layer from 300 to 500 and of a 3×3 convolution from 32 to 64 channels.
fn layers(init: Init) -> [(Tensor, Tensor, f64, f64); 2] {
    let params = params();
    let vb = params.builder();
    let fc = Linear::new(300, 500, init, vb.pp("fc1")).unwrap();
    let conv = Conv2d::new(32, 64, Conv2dConfig { init, ..Default::default() }, vb.pp("conv1")).unwrap();
    [(fc.weight, fc.bias.unwrap(), 300.0, 500.0), (conv.weight, conv.bias.unwrap(), 288.0, 576.0)]
}

#[test]
fn he_is_normal_with_two_over_fan_in() {
    for (weight, bias, fan_in, _) in layers(Init::He) {
        assert_moments(&weight, 2.0 / fan_in, true);
        assert!(values(&bias).iter().all(|b| *b == 0.0));
    }
}

#[test]
fn lecun_is_normal_with_one_over_fan_in() {
    for (weight, bias, fan_in, _) in layers(Init::LeCun) {
        assert_moments(&weight, 1.0 / fan_in, true);
        assert!(values(&bias).iter().all(|b| *b == 0.0));
    }
}

#[test]
fn glorot_is_uniform_with_two_over_the_sum_of_fans() {
    for (weight, bias, fan_in, fan_out) in layers(Init::Glorot) {
        let variance = 2.0 / (fan_in + fan_out);
        assert!(assert_moments(&weight, variance, false) <= (3.0 * variance).sqrt() * (1.0 + 1e-6));
        assert!(values(&bias).iter().all(|b| *b == 0.0));
    }
}

#[test]
fn pytorch_is_uniform_up_to_one_over_the_root_of_fan_in_for_weights_and_biases() {
    for (weight, bias, fan_in, _) in layers(Init::PyTorch) {
        let bound = fan_in.powf(-0.5);
        assert!(assert_moments(&weight, bound * bound / 3.0, false) <= bound * (1.0 + 1e-6));
        let bias = values(&bias);
        assert!(bias.iter().all(|b| (*b as f64).abs() <= bound * (1.0 + 1e-6)));
        assert!(
            bias.iter().any(|b| *b > 0.5 * bound as f32) && bias.iter().any(|b| *b < -0.5 * bound as f32)
        );
    }
}

#[test]
fn candles_own_kaiming_has_candles_moments() {
    let (vb, shape) = (params().builder(), (500, 300));
    for (dist, normal) in [(NormalOrUniform::Normal, true), (NormalOrUniform::Uniform, false)] {
        let init = candle_nn::Init::Kaiming { dist, fan: FanInOut::FanIn, non_linearity: NonLinearity::ReLU };
        let weight = vb.get_with_hints(shape, if normal { "normal" } else { "uniform" }, init).unwrap();
        assert_moments(&weight, 2.0 / 300.0, normal);
    }
}

#[test]
fn an_initialisation_reads_back_what_it_prints_and_refuses_the_rest() {
    for init in [Init::He, Init::LeCun, Init::Glorot, Init::PyTorch] {
        assert_eq!(init.to_string().parse::<Init>().unwrap(), init);
    }
    let error = "xavier".parse::<Init>().unwrap_err().to_string();
    assert_eq!(error, "unknown initialisation 'xavier': expected he, lecun, glorot or pytorch");
}
