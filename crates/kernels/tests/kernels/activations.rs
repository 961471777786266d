//! Activation kernels against their twins on random and special values, for every function.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use taper_kernels::{Activation, activate, derivatives, simd, twin};

use crate::{assert_close, bits, cases, flat, gradients, random, scattered, var};

fn any_activation() -> impl Strategy<Value = Activation> {
    let parameter = 0.05..3.0_f64;
    prop_oneof![
        4 => prop::sample::select(Activation::ALL.to_vec()),
        1 => parameter.prop_map(|p| Activation::Elu { alpha: p }),
        1 => (0.05..3.0_f64).prop_map(|p| Activation::Celu { alpha: p }),
        1 => (-0.5..1.5_f64).prop_map(|p| Activation::LeakyRelu { slope: p }),
    ]
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn values_and_gradients_agree_with_the_twin(
        f in any_activation(), scale in prop_oneof![Just(0.01), Just(1.0), Just(10.0), Just(100.0), Just(1e4)],
        size in prop_oneof![6 => 1..300_usize, 1 => Just(40_001)], seed: u64,
    ) {
        let xs = (random(seed, &[size]) * scale).unwrap();
        let run = |op: fn(&Tensor, Activation) -> candle_core::Result<Tensor>, dtype: DType| {
            let xs = var(&xs.to_dtype(dtype).unwrap());
            let ys = op(&xs, f).unwrap();
            let grad_ys = random(seed ^ 1, &[size]).to_dtype(dtype).unwrap();
            let grads = gradients(&ys, &grad_ys, &[&xs]).remove(0);
            (ys, grads)
        };
        // The twin in f64 is the reference; in f32 it loses digits where it subtracts.
        let want = run(twin::activate, DType::F64);
        for (who, got) in [("kernel", run(activate, DType::F32)), ("twin", run(twin::activate, DType::F32))] {
            assert_close(&format!("{who} of {f}"), &got.0, &want.0, 1e-5, 1e-6);
            assert_close(&format!("{who} of {f}: gradient"), &got.1, &want.1, 1e-5, 2e-6);
        }
    }
}

#[test]
fn nan_passes_through_every_function_and_its_twin() {
    // In a vector register of its own kind, at every position of one, and in the loop's rest.
    for f in Activation::ALL {
        for size in [1, 7, 8, 19, 64] {
            for at in 0..size {
                let mut xs = vec![0.5_f32; size];
                xs[at] = if at % 2 == 0 { f32::NAN } else { -f32::NAN };
                let xs = Tensor::new(xs, &Device::Cpu).unwrap();
                for ys in [activate(&xs, f).unwrap(), twin::activate(&xs, f).unwrap()] {
                    let nans: Vec<usize> =
                        flat(&ys).iter().enumerate().filter(|(_, y)| y.is_nan()).map(|(i, _)| i).collect();
                    assert_eq!(nans, [at], "{f}");
                }
            }
        }
    }
}

#[test]
fn infinities_give_the_limits() {
    use Activation::*;
    let (inf, lambda) = (f64::INFINITY, taper_kernels::SELU_LAMBDA);
    let low = -lambda * taper_kernels::SELU_ALPHA;
    // Functions that multiply −∞ by a sigmoid that is 0 have no value there (PyTorch: NaN), nor has ∞/∞.
    for (f, left, right) in [
        (Identity, -inf, inf),
        (Relu, 0.0, inf),
        (LeakyRelu { slope: 0.01 }, -inf, inf),
        (Elu { alpha: 0.5 }, -0.5, inf),
        (Celu { alpha: 2.0 }, -2.0, inf),
        (Selu, low, inf),
        (Tanh, -1.0, 1.0),
        (Sigmoid, 0.0, 1.0),
        (Softplus, 0.0, inf),
        (Hardtanh, -1.0, 1.0),
        (Hardsigmoid, 0.0, 1.0),
        (Relu6, 0.0, 6.0),
        (Relu2, 0.0, inf),
    ] {
        let xs = Tensor::new(&[f32::NEG_INFINITY, f32::INFINITY], &Device::Cpu).unwrap();
        for (who, ys) in [("kernel", activate(&xs, f)), ("twin", twin::activate(&xs, f))] {
            let want = Tensor::new(&[left, right], &Device::Cpu).unwrap();
            assert_close(&format!("{who} of {f}"), &ys.unwrap(), &want, 1e-6, 1e-30);
        }
    }
}

#[test]
fn the_twin_has_the_same_values_at_the_ends_of_the_range() {
    let xs = Tensor::new(&[f32::NEG_INFINITY, f32::MIN, f32::MAX, f32::INFINITY], &Device::Cpu).unwrap();
    for f in [Activation::Sigmoid, Activation::Hardswish, Activation::GeluTanh, Activation::Silu] {
        let (own, by_candle) = (flat(&activate(&xs, f).unwrap()), flat(&twin::activate(&xs, f).unwrap()));
        for (own, by_candle) in own.iter().zip(&by_candle) {
            assert!(own == by_candle || own.is_nan() && by_candle.is_nan(), "{f}: {own}, twin {by_candle}");
        }
    }
}

#[test]
fn functions_through_zero_map_both_zeros_to_zero() {
    for f in
        Activation::ALL.into_iter().filter(|f| !matches!(f.name(), "sigmoid" | "softplus" | "hardsigmoid"))
    {
        let xs = Tensor::new(&[0.0_f32, -0.0], &Device::Cpu).unwrap();
        for ys in [activate(&xs, f).unwrap(), twin::activate(&xs, f).unwrap()] {
            assert_eq!(flat(&ys), [0.0, 0.0], "{f}");
        }
    }
}

#[test]
fn views_give_the_same_bits_and_gradients_in_their_own_order() {
    for f in Activation::ALL {
        let xs = var(&random(5, &[3, 4, 5]));
        let (plain, view) = (activate(&xs, f).unwrap(), activate(&scattered(&xs), f).unwrap());
        assert_eq!(bits(&plain), bits(&view), "{f}");
        let grad_ys = random(6, &[3, 4, 5]);
        let grads = [plain, view].map(|ys| bits(&gradients(&ys, &grad_ys, &[&xs])[0]));
        assert_eq!(grads[0], grads[1], "{f}");
    }
}

#[test]
fn vector_code_computes_the_bits_of_the_scalar_functions() {
    for f in Activation::ALL {
        let xs = (random(8, &[1003]) * 20.0).unwrap();
        let points = xs.to_vec1::<f32>().unwrap();
        let want: Vec<u32> = points.iter().map(|x| f.value(*x).to_bits()).collect();
        assert_eq!(bits(&activate(&xs, f).unwrap()), want, "{f}");
        let mut slopes = vec![0.0; points.len()];
        simd(
            #[inline(always)]
            || derivatives(f, &points, &mut slopes),
        );
        for (x, slope) in points.iter().zip(slopes) {
            assert_eq!(slope.to_bits(), f.derivative(*x).to_bits(), "{f}'({x})");
        }
    }
}
