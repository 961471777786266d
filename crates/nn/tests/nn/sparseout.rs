//! Noise that penalises a power of the activations.

use candle_core::{Tensor, Var};
use taper_hooks::Pass;
use taper_nn::{Dropout, Sparseout};

use crate::{CPU, message, random, values};

fn train<R>(f: impl FnOnce(&mut Pass<'_>) -> R) -> R {
    f(&mut Pass::train(&mut (), 7, 3))
}

#[test]
fn with_q_2_it_is_dropout_of_values_that_are_not_negative() {
    let ys = random(1, &[16, 40]).relu().unwrap();
    let own = train(|pass| Sparseout::new(0.3, 2.0).unwrap().forward(pass, &ys)).unwrap();
    let dropped = train(|pass| Dropout::new(0.3).unwrap().forward(pass, &ys)).unwrap();
    for (a, b) in values(&own).iter().zip(values(&dropped)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn the_noise_has_mean_0_and_the_variance_of_the_paper() {
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
fn a_value_of_0_stays_0_and_its_gradient_is_finite() {
    let ys = Var::from_tensor(&Tensor::new(&[[0.0_f32, -0.0, 4.0, -9.0]], CPU).unwrap()).unwrap();
    let noisy = train(|pass| Sparseout::new(0.5, 1.0).unwrap().forward(pass, &ys)).unwrap();
    let found = values(&noisy);
    assert_eq!(found[..2], [0.0, 0.0]);
    let gradient = values(noisy.sum_all().unwrap().backward().unwrap().get(&ys).unwrap());
    assert_eq!(gradient[..2], [1.0, 1.0]);
    for i in 2..4 {
        // y + √|y| · n, so that the slope is 1 + n · sign(y) / (2√|y|).
        let y = [0.0, 0.0, 4.0_f32, -9.0][i];
        let noise = (found[i] - y) / y.abs().sqrt();
        assert!((gradient[i] - (1.0 + noise * y.signum() / (2.0 * y.abs().sqrt()))).abs() < 1e-5);
    }
}

#[test]
fn in_evaluation_it_does_nothing_and_nonsense_is_refused() {
    let ys = random(1, &[2, 3]);
    let same = Sparseout::new(0.5, 1.0).unwrap().forward(&mut Pass::eval(&mut ()), &ys).unwrap();
    assert_eq!(values(&same), values(&ys));
    for (rate, q) in [(1.0, 1.0), (-0.1, 1.0), (f64::NAN, 1.0), (0.5, 0.0), (0.5, f64::NAN)] {
        assert!(message(Sparseout::new(rate, q)).starts_with("sparseout: expected"), "{rate} {q}");
    }
}
