//! Optimiser steps: PyTorch's, the twin's, and a defined answer when state and parameter do not fit.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use taper_kernels::{
    Activation, Rule, Slots, activate, all_finite, dropout, first_non_finite, linear, record, twin,
};

use crate::goldens::load;
use crate::{assert_close, assert_close_in_scale, bits, cases, random, var};

const SGD: Rule = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decoupled: false };

fn rules() -> [(&'static str, Rule, f64); 7] {
    let adamw = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, decoupled: true };
    [
        ("sgd", SGD, 0.1),
        ("sgd_momentum", Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }, 0.1),
        ("sgd_nesterov_wd", Rule::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.01 }, 0.1),
        ("adam", ADAM, 0.01),
        ("adamw", adamw, 0.01),
        ("rmsprop", Rule::RmsProp { alpha: 0.99, eps: 1e-8 }, 0.01),
        ("adadelta", Rule::Adadelta { rho: 0.9, eps: 1e-6 }, 1.0),
    ]
}

#[test]
fn every_one_of_twelve_steps_is_that_of_pytorch() {
    let golden = load("optimisers.safetensors");
    assert_eq!(golden.len(), 2 + rules().len(), "an optimiser in the file is not tested");
    for (name, rule, rate) in rules() {
        for dtype in [DType::F32, DType::F64] {
            let parameter = var(&golden["start"].to_dtype(dtype).unwrap());
            let mut slots = Slots::new(&rule, &parameter).unwrap();
            for step in 0..12 {
                let gradient = golden["grads"].get(step).unwrap().to_dtype(dtype).unwrap();
                slots.step(&rule, &parameter, &gradient.into(), rate, step as u64 + 1, false).unwrap();
                let want = golden[name].get(step).unwrap();
                assert_close(&format!("{name} in {dtype:?}, step {step}"), &parameter, &want, 1e-6, 1e-6);
            }
        }
        let mut parameter = golden["start"].clone();
        let mut slots: Vec<_> = rule.slots().iter().map(|_| parameter.zeros_like().unwrap()).collect();
        for step in 0..12 {
            let gradient = golden["grads"].get(step).unwrap();
            parameter = twin::step(&rule, &parameter, &gradient, &mut slots, rate, step as u64 + 1).unwrap();
            let want = golden[name].get(step).unwrap();
            assert_close(&format!("twin of {name}, step {step}"), &parameter, &want, 1e-6, 1e-6);
        }
    }
}

#[test]
fn steps_of_rows_equal_steps_of_single_rows_in_every_dtype() {
    for (name, rule, rate) in rules() {
        for dtype in [DType::F32, DType::F64] {
            let start = random(1, &[3, 5]).to_dtype(dtype).unwrap();
            let whole = var(&start);
            let mut slots = Slots::new(&rule, &whole).unwrap();
            let rows: Vec<Var> = (0..3).map(|row| var(&start.narrow(0, row, 1).unwrap())).collect();
            let mut of_rows: Vec<Slots> = rows.iter().map(|row| Slots::new(&rule, row).unwrap()).collect();
            for step in 1..=4_u64 {
                if step == 3 {
                    slots.reset(&whole, 0, &[1]).unwrap();
                    of_rows[1] = Slots::new(&rule, &rows[1]).unwrap();
                }
                let steps = [step, if step < 3 { step } else { step - 2 }, step];
                let gradient = random(step + 9, &[3, 5]).to_dtype(dtype).unwrap();
                slots
                    .step_parts(&rule, &whole, &gradient.clone().into(), rate, (&steps, &[]), false)
                    .unwrap();
                for (i, row) in rows.iter().enumerate() {
                    let gradient = gradient.narrow(0, i, 1).unwrap().into();
                    of_rows[i].step(&rule, row, &gradient, rate, steps[i], false).unwrap();
                }
            }
            let rows: Vec<&Tensor> = rows.iter().map(|row| row.as_tensor()).collect();
            let single = |tensor: &Tensor| bits(&tensor.to_dtype(DType::F32).unwrap());
            assert_eq!(single(&whole), single(&Tensor::cat(&rows, 0).unwrap()), "{name} in {dtype:?}");
            assert!(slots.step_parts(&rule, &whole, &start.into(), rate, (&[1, 1], &[]), false).is_err());
        }
    }
}

#[test]
fn a_value_has_taken_as_many_steps_as_the_younger_of_its_row_and_column() {
    for (name, rule, rate) in rules() {
        for dtype in [DType::F32, DType::F64] {
            // Two columns of two values each, as kernels of a convolution have.
            let start = random(1, &[3, 2, 2]).to_dtype(dtype).unwrap();
            let whole = var(&start);
            let mut slots = Slots::new(&rule, &whole).unwrap();
            let at = |tensor: &Tensor, (row, column): (usize, usize)| {
                tensor.narrow(0, row, 1).unwrap().narrow(1, column, 1).unwrap()
            };
            let places: Vec<(usize, usize)> = (0..3).flat_map(|row| (0..2).map(move |c| (row, c))).collect();
            let mut alone: Vec<(Var, Slots)> = Vec::new();
            for place in &places {
                let own = var(&at(&start, *place));
                alone.push((own.clone(), Slots::new(&rule, &own).unwrap()));
            }
            let (mut rows, mut columns) = ([0_u64; 3], [0_u64; 2]);
            for step in 1..=5 {
                if step == 3 {
                    slots.reset(&whole, 1, &[1]).unwrap();
                    columns[1] = 0;
                }
                if step == 4 {
                    slots.reset(&whole, 0, &[2]).unwrap();
                    rows[2] = 0;
                }
                rows.iter_mut().chain(&mut columns).for_each(|steps| *steps += 1);
                let gradient = random(step + 9, &[3, 2, 2]).to_dtype(dtype).unwrap();
                let norms = slots
                    .step_parts(&rule, &whole, &gradient.clone().into(), rate, (&rows, &columns), step == 5)
                    .unwrap();
                for ((own, slots), place) in alone.iter_mut().zip(&places) {
                    let steps = rows[place.0].min(columns[place.1]);
                    if steps == 1 && step > 1 {
                        *slots = Slots::new(&rule, own).unwrap();
                    }
                    let gradient = at(&gradient, *place).into();
                    slots.step(&rule, own, &gradient, rate, steps, false).unwrap();
                }
                if let Some(norms) = norms {
                    let squares = crate::flat(&gradient).iter().map(|g| g.powi(2)).sum::<f64>();
                    assert!((norms.gradient - squares.sqrt()).abs() < 1e-6, "{norms:?}");
                    assert!(norms.update > 0.0 && norms.weight > 0.0);
                }
            }
            for ((own, _), place) in alone.iter().zip(&places) {
                let single = |tensor: &Tensor| bits(&tensor.to_dtype(DType::F32).unwrap());
                let found = at(whole.as_tensor(), *place).contiguous().unwrap();
                assert_eq!(single(&found), single(own), "{name} in {dtype:?} at {place:?}");
            }
            assert!(slots.reset(&whole, 1, &[2]).is_err());
            let steps = (&rows[..], &[1, 1, 1][..]);
            assert!(slots.step_parts(&rule, &whole, &start.into(), rate, steps, false).is_err());
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let decay = prop_oneof![Just(0.0), 0.001..0.3_f64];
    prop_oneof![
        (prop_oneof![Just(0.0), 0.1..0.99_f64], any::<bool>(), decay.clone())
            .prop_map(|(momentum, nesterov, weight_decay)| Rule::Sgd { momentum, nesterov, weight_decay }),
        (0.5..0.99_f64, 0.9..0.9999_f64, decay, any::<bool>()).prop_map(
            |(beta1, beta2, weight_decay, decoupled)| {
                Rule::Adam { beta1, beta2, eps: 1e-8, weight_decay, decoupled }
            }
        ),
        (0.5..0.999_f64).prop_map(|alpha| Rule::RmsProp { alpha, eps: 1e-8 }),
        (0.5..0.999_f64).prop_map(|rho| Rule::Adadelta { rho, eps: 1e-6 }),
    ]
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn several_steps_of_any_rule_are_those_of_the_twin(
        rule in rule(), rate in 1e-4..0.5_f64, size in prop_oneof![4 => 1..200_usize, 1 => Just(70_001)], seed in 0..1000_u64,
    ) {
        let parameter = var(&random(seed, &[size]));
        let mut slots = Slots::new(&rule, &parameter).unwrap();
        let mut want = parameter.as_tensor().copy().unwrap();
        let mut twins: Vec<_> = rule.slots().iter().map(|_| want.zeros_like().unwrap()).collect();
        for step in 1..=5 {
            let gradient = random(seed + 1000 * step, &[size]);
            slots.step(&rule, &parameter, &gradient.clone().into(), rate, step, false).unwrap();
            want = twin::step(&rule, &want, &gradient, &mut twins, rate, step).unwrap();
            assert_close_in_scale("parameter", &parameter, &want, 2e-6);
            for (slot, twin) in slots.tensors(&parameter).unwrap().iter().zip(&twins) {
                assert_close_in_scale("slot", slot, twin, 2e-6);
            }
        }
    }
}

#[test]
fn a_saved_and_restored_run_continues_to_the_same_bits() {
    for (name, rule, rate) in rules() {
        let through = var(&random(1, &[37]));
        let mut slots = Slots::new(&rule, &through).unwrap();
        let mut other: Option<(Var, Slots)> = None;
        for step in 1..=6 {
            if step == 4 {
                let resumed = Var::from_tensor(&through.as_tensor().copy().unwrap()).unwrap();
                let tensors = slots.tensors(&through).unwrap();
                assert_eq!(tensors.len(), rule.slots().len());
                let state = Slots::from_tensors(&resumed, &tensors).unwrap();
                other = Some((resumed, state));
            }
            let gradient = random(10 + step, &[37]);
            slots.step(&rule, &through, &gradient.clone().into(), rate, step, false).unwrap();
            if let Some((parameter, slots)) = &mut other {
                slots.step(&rule, parameter, &gradient.clone().into(), rate, step, false).unwrap();
            }
        }
        let (resumed, _) = other.unwrap();
        assert_eq!(crate::bits(&through), crate::bits(&resumed), "{name}");
    }
}

#[test]
fn a_gradient_or_state_that_does_not_fit_the_parameter_is_an_error() {
    let parameter = var(&random(1, &[4, 6]));
    let before = crate::bits(&parameter);
    let error = |slots: &mut Slots, gradient: Tensor| {
        let error =
            crate::message(slots.step(&ADAM, &parameter, &gradient.into(), 0.1, 1, false).unwrap_err());
        assert!(!error.contains('\n') && !error.contains("panicked"), "{error}");
        error
    };
    let mut slots = Slots::new(&ADAM, &parameter).unwrap();
    assert!(error(&mut slots, random(2, &[4, 5])).contains("[4, 5]"));
    assert!(error(&mut slots, random(2, &[24])).contains("[24]"));
    let mut of_another_rule = Slots::new(&SGD, &parameter).unwrap();
    assert!(error(&mut of_another_rule, random(2, &[4, 6])).contains("expected 2 slots, found 0"));
    assert!(Slots::from_tensors(&parameter, &[random(3, &[6, 4])]).is_err());
    assert_eq!(crate::bits(&parameter), before);
}

#[test]
fn a_step_0_is_an_error_and_moves_nothing_in_every_dtype() {
    for dtype in [DType::F32, DType::F64] {
        let start = random(1, &[2, 3]).to_dtype(dtype).unwrap();
        let (parameter, gradient) = (var(&start), start.clone().into());
        let mut slots = Slots::new(&ADAM, &parameter).unwrap();
        let whole = slots.step(&ADAM, &parameter, &gradient, 0.1, 0, false);
        let rows = slots.step_parts(&ADAM, &parameter, &gradient, 0.1, (&[1, 0], &[]), true);
        for moved in [whole, rows] {
            let error = crate::message(moved.unwrap_err());
            assert!(error.contains("expected steps that count from 1"), "{error}");
        }
        assert_eq!(crate::flat(&parameter), crate::flat(&start), "{dtype:?}");
    }
}

#[test]
fn a_gradient_that_is_a_view_moves_the_same_elements() {
    let gradient = random(2, &[5, 3]);
    let moved = |gradient: &Tensor| {
        let parameter = var(&Tensor::zeros((5, 3), DType::F32, &Device::Cpu).unwrap());
        Slots::new(&SGD, &parameter)
            .unwrap()
            .step(&SGD, &parameter, &gradient.clone().into(), 1.0, 1, false)
            .unwrap();
        crate::bits(&parameter)
    };
    assert_eq!(moved(&gradient), moved(&crate::scattered(&gradient)));
}

/// Inputs of 64 samples whose values all differ, and most of which are background; and of one sample.
fn kinds_of_input(i: usize) -> [Tensor; 3] {
    let all = random(5, &[64, i]);
    let values = all.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let tensor = |keep: &dyn Fn(usize) -> bool| {
        let kept = values.iter().enumerate().map(|(k, x)| if keep(k) { *x } else { -0.4 });
        Tensor::from_vec(kept.collect(), (64, i), &Device::Cpu).unwrap()
    };
    let few_values = tensor(&|k| k > 0 && k * 7919 % 10 < 2);
    [all.clone(), few_values, all.narrow(0, 5, 1).unwrap()]
}

#[test]
fn a_step_along_a_product_is_the_step_along_its_values_to_the_bit() {
    // After dropout the gradient is sparse.
    let shapes = [(520, 300), (130, 200), (300, 520), (1300, 130)].map(|(i, o)| (i, o, 0.0));
    let behind_dropout = [(520, 300), (300, 520), (64, 1100)].map(|(i, o)| (i, o, 0.7));
    for (i, o, dropped) in shapes.into_iter().chain(behind_dropout) {
        for (kind, input) in kinds_of_input(i).into_iter().enumerate() {
            for (name, rule, rate) in rules() {
                let weights = [0, 1].map(|_| var(&random(7, &[o, i])));
                let [along_product, along_values] = &weights;
                // After an operation of the tape, so that the gradient of the weights is pending.
                let (loss, tape) = record(|| {
                    let xs = activate(&var(&input), Activation::LeakyRelu { slope: 0.5 }).unwrap();
                    let ys = dropout(&linear(&xs, along_product, None).unwrap(), dropped, 1).unwrap();
                    activate(&ys, Activation::Tanh).unwrap().sum_all().unwrap()
                });
                let gradients = tape.backward(&loss).unwrap();
                let gradient = gradients.get(along_product).unwrap();
                let values = gradient.values().unwrap();
                assert!(all_finite([gradient]).unwrap());
                for (weight, gradient) in [(along_product, gradient), (along_values, &values.into())] {
                    let mut slots = Slots::new(&rule, weight).unwrap();
                    for step in 1..3 {
                        slots.step(&rule, weight, gradient, rate, step, false).unwrap();
                    }
                }
                assert_eq!(
                    bits(along_product),
                    bits(along_values),
                    "{name}, {i} to {o}, input {kind}, {dropped}"
                );
            }
        }
    }
}

#[test]
fn a_measured_step_makes_the_same_update_and_returns_its_norms() {
    let norm = |t: Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F64).unwrap();
    // After dropout the gradient is sparse, and one sample's is an outer product.
    for (i, o, dropped) in [(520, 300, 0.0), (70, 130, 0.7)] {
        for (kind, input) in kinds_of_input(i).into_iter().enumerate() {
            for (name, rule, rate) in rules() {
                let weights = [0, 1, 2].map(|_| var(&random(7, &[o, i])));
                let [plain, product, dense] = &weights;
                let (loss, tape) = record(|| {
                    let xs = activate(&var(&input), Activation::LeakyRelu { slope: 0.5 }).unwrap();
                    let ys = dropout(&linear(&xs, plain, None).unwrap(), dropped, 1).unwrap();
                    activate(&ys, Activation::Relu).unwrap().sum_all().unwrap()
                });
                let gradients = tape.backward(&loss).unwrap();
                let gradient = gradients.get(plain).unwrap();
                let values = gradient.values().unwrap();
                let before = wide(plain);
                Slots::new(&rule, plain).unwrap().step(&rule, plain, gradient, rate, 1, false).unwrap();
                let update = norm((wide(plain) - before).unwrap());
                let what = format!("{name}, {i} to {o}, input {kind}, {dropped}");
                for (weight, gradient) in [(product, gradient), (dense, &values.clone().into())] {
                    let mut slots = Slots::new(&rule, weight).unwrap();
                    let norms = slots.step(&rule, weight, gradient, rate, 1, true).unwrap().unwrap();
                    assert_eq!(bits(weight), bits(plain), "{what}");
                    for (found, expected) in [
                        (norms.gradient, norm(wide(&values))),
                        (norms.weight, norm(wide(plain))),
                        (norms.update, update),
                    ] {
                        assert!((found - expected).abs() <= 2e-6 * expected, "{what}: {found}, {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn norms_are_those_of_the_twin_also_where_squares_leave_the_range_of_f32() {
    for scale in [0.0, 1e-30, 1e-20, 1.0, 1e25] {
        let gradient = (random(3, &[70, 50]) * scale).unwrap();
        let norms = [DType::F32, DType::F64].map(|dtype| {
            let weight = var(&random(4, &[70, 50]).to_dtype(dtype).unwrap());
            let gradient = gradient.to_dtype(dtype).unwrap().into();
            Slots::new(&SGD, &weight).unwrap().step(&SGD, &weight, &gradient, 0.5, 1, true).unwrap().unwrap()
        });
        let [cpu, twin] = norms;
        for (a, b) in [(cpu.gradient, twin.gradient), (cpu.weight, twin.weight)] {
            assert!((a - b).abs() <= 1e-6 * b, "{scale}: {a} against {b}");
        }
        // A small update is lost in the digits of the parameter, in f32.
        assert!(cpu.update.is_infinite() == (scale > 1e10), "{scale}: {norms:?}");
        assert!(
            scale > 1e10 || (cpu.update - twin.update).abs() <= 1e-6 * twin.update.max(1e-1),
            "{scale}: {norms:?}"
        );
    }
}

#[test]
fn norms_do_not_depend_on_the_number_of_threads() {
    let norms = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let weight = var(&random(7, &[300, 520]));
            let input = random(5, &[64, 520]);
            let (loss, tape) = record(|| {
                let xs = activate(&var(&input), Activation::Relu).unwrap();
                activate(&linear(&xs, &weight, None).unwrap(), Activation::Relu).unwrap().sum_all().unwrap()
            });
            let gradients = tape.backward(&loss).unwrap();
            let gradient = gradients.get(&weight).unwrap();
            Slots::new(&SGD, &weight).unwrap().step(&SGD, &weight, gradient, 0.1, 1, true).unwrap().unwrap()
        })
    };
    assert_eq!(norms(1), norms(3));
}

#[test]
fn a_product_that_may_not_be_finite_is_looked_at_value_by_value() {
    for (largest, finite) in
        [(1e10_f32, true), (1e30, true), (3e38, false), (f32::INFINITY, false), (f32::NAN, false)]
    {
        for (kind, input) in kinds_of_input(300).into_iter().enumerate() {
            let mut values = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let last = values.len() - 1;
            values[last] = largest;
            let input = Tensor::from_vec(values, input.dims(), &Device::Cpu).unwrap();
            let weight = var(&random(7, &[200, 300]));
            let (loss, tape) = record(|| {
                let xs = activate(&var(&input), Activation::LeakyRelu { slope: 1.0 }).unwrap();
                (linear(&xs, &weight, None).unwrap() * 1e6).unwrap().sum_all().unwrap()
            });
            let gradients = tape.backward(&loss).unwrap();
            let gradient = gradients.get(&weight).unwrap();
            assert_eq!(all_finite([gradient]).unwrap(), finite, "{largest}, input {kind}");
            let values = gradient.values().unwrap();
            assert_eq!(first_non_finite(&values).unwrap().is_none(), finite, "{largest}, input {kind}");
        }
    }
}
