//! Sparseout: noise whose variance is a power of the activation.

use candle_core::{Tensor, Var};
use taper_hooks::Pass;
use taper_nn::{Dropout, Sparseout};

use crate::{CPU, message, random, values};

fn train<R>(f: impl FnOnce(&mut Pass<'_>) -> R) -> R {
    f(&mut Pass::train(&mut (), 7, 3))
}

#[test]
fn with_q_2_it_is_dropout() {
    let ys = random(1, &[16, 40]);
    let own = train(|pass| Sparseout::new(0.3, 2.0).unwrap().forward(pass, &ys)).unwrap();
    let dropped = train(|pass| Dropout::new(0.3).unwrap().forward(pass, &ys)).unwrap();
    for (a, b) in values(&own).iter().zip(values(&dropped)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn the_noise_has_mean_0_and_the_variance_of_the_penalty() {
    for (y, q) in [(4.0_f32, 1.0), (-4.0, 1.0), (0.25, 3.0)] {
        let ys = Tensor::full(y, (100, 1000), CPU).unwrap();
        let noisy = values(&train(|pass| Sparseout::new(0.2, q).unwrap().forward(pass, &ys)).unwrap());
        let n = noisy.len() as f64;
        let mean = noisy.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = noisy.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let want = f64::from(y.abs()).powf(q) * 0.2 / 0.8;
        assert!((mean - f64::from(y)).abs() < 0.02 * want.sqrt(), "{mean}");
        assert!((variance / want - 1.0).abs() < 0.02, "{variance} {want}");
    }
}

#[test]
fn values_and_gradients_are_multiplied_by_the_factor_of_the_authors_program() {
    let ys = Var::from_tensor(&Tensor::new(&[[4.0_f32, -9.0, 0.25, -0.01]], CPU).unwrap()).unwrap();
    for q in [0.5, 1.0, 3.0] {
        let noisy = train(|pass| Sparseout::new(0.5, q).unwrap().forward(pass, &ys)).unwrap();
        let scaled = train(|pass| Dropout::new(0.5).unwrap().forward(pass, &ys.ones_like()?)).unwrap();
        let gradient = values(noisy.sum_all().unwrap().backward().unwrap().get(&ys).unwrap());
        for (i, (y, scaled)) in values(&ys).into_iter().zip(values(&scaled)).enumerate() {
            let factor = 1.0 + (y.abs() + 1e-12).powf((q as f32 - 2.0) / 2.0) * (scaled - 1.0);
            assert!((gradient[i] / factor - 1.0).abs() < 1e-5, "{q} {y}: {} {factor}", gradient[i]);
            assert!((values(&noisy)[i] / (y * factor) - 1.0).abs() < 1e-5, "{q} {y}");
        }
    }
}

#[test]
fn a_value_of_0_and_its_gradient_do_not_change_and_nan_stays() {
    let ys = Var::from_tensor(&Tensor::new(&[[0.0_f32, -0.0, f32::NAN]], CPU).unwrap()).unwrap();
    let noisy = train(|pass| Sparseout::new(0.5, 1.0).unwrap().forward(pass, &ys)).unwrap();
    let gradient = values(noisy.sum_all().unwrap().backward().unwrap().get(&ys).unwrap());
    assert_eq!((&values(&noisy)[..2], &gradient[..2]), (&[0.0, 0.0][..], &[1.0, 1.0][..]));
    assert!(values(&noisy)[2].is_nan());
}

#[test]
fn in_evaluation_it_is_the_identity_and_invalid_options_are_refused() {
    let ys = random(1, &[2, 3]);
    let same = Sparseout::new(0.5, 1.0).unwrap().forward(&mut Pass::eval(&mut ()), &ys).unwrap();
    assert_eq!(values(&same), values(&ys));
    for (rate, q) in [(1.0, 1.0), (-0.1, 1.0), (f64::NAN, 1.0), (0.5, 0.0), (0.5, f64::NAN)] {
        assert!(message(Sparseout::new(rate, q)).starts_with("sparseout: expected"), "{rate} {q}");
    }
}
