//! Gradients that go back along a tape are those of candle's own backward pass.

use candle_core::{Result, Tensor, Var};
use taper_kernels::{
    Activation, Conv2dGeometry, Gradients, Mask, activate, add, attention, avg_pool2d, batch_norm,
    binary_cross_entropy, conv2d, conv2d_act, cross_entropy, dropout, embedding, layer_norm, linear,
    log_softmax, max_pool2d, mean_of_steps, mse, no_grad, off_the_record, prelu, record, rms_norm,
    self_attention, soft_cross_entropy, softmax,
};

use crate::{assert_close_in_scale, bits, random, var};

fn gradient(gradients: &Gradients, of: &Var) -> Tensor {
    gradients.get(of).expect("a gradient for every variable").values().unwrap()
}

/// Asserts that both ways back from `loss` give the same gradients of all `vars`.
#[track_caller]
fn agree(vars: &[Var], loss: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (taped, tape) = record(|| loss(&tensors).unwrap());
    let plain = loss(&tensors).unwrap();
    assert_eq!(bits(&taped), bits(&plain), "loss");
    let (taped, plain) = (tape.backward(&taped).unwrap(), plain.backward().unwrap().into());
    for (i, var) in vars.iter().enumerate() {
        assert_close_in_scale(&format!("gradient {i}"), &gradient(&taped, var), &gradient(&plain, var), 1e-6);
    }
}

fn vars(shapes: &[&[usize]]) -> Vec<Var> {
    (0..).zip(shapes).map(|(seed, shape)| var(&random(seed, shape))).collect()
}

#[test]
fn through_a_network_of_kernels() {
    let targets = Tensor::new(&[1_u32, 0, 3], &candle_core::Device::Cpu).unwrap();
    agree(&vars(&[&[3, 5], &[8, 5], &[8], &[4, 8], &[1]]), |v| {
        let hidden = activate(&linear(&v[0], &v[1], Some(&v[2]))?, Activation::Tanh)?;
        let logits = prelu(&linear(&dropout(&hidden, 0.3, 7)?, &v[3], None)?, &v[4])?;
        cross_entropy(&logits, &targets)
    });
}

#[test]
fn through_operations_of_candle_between_them() {
    agree(&vars(&[&[3, 4], &[4, 4], &[4, 4]]), |v| {
        let first = activate(&linear(&v[0], &v[1], None)?, Activation::Silu)?;
        // A residual connection, a transposed weight, and a loss of candle's own.
        let second = (&first + activate(&linear(&first, &v[2].t()?, None)?, Activation::Relu)?)?;
        let third = linear(&(second * 0.5)?, &v[1], None)?;
        (third.sqr()? + &first)?.mean_all()
    });
}

#[test]
fn through_two_activations_in_front_of_pooling() {
    use Activation::{Hardtanh, LeakyRelu, Relu, Sigmoid, Softplus};
    // What pooling gives does not show the slope of the first function: the second has changed the values.
    for (first, second) in [(Relu, Softplus), (Relu, Sigmoid), (Hardtanh, LeakyRelu { slope: 0.5 })] {
        let pooled = |ys: Tensor| max_pool2d(&activate(&ys, second)?, (2, 2), (2, 2))?.sqr()?.sum_all();
        agree(&vars(&[&[2, 3, 6, 6]]), |v| pooled(activate(&v[0], first)?));
        for channels in [3, 20] {
            agree(&vars(&[&[2, channels, 6, 6], &[4, channels, 3, 3]]), |v| {
                pooled(conv2d_act(&v[0], &v[1], None, Conv2dGeometry::default(), first)?)
            });
        }
        agree(&vars(&[&[2, 3, 6, 6], &[3], &[3]]), |v| {
            pooled(batch_norm(&v[0], &v[1], &v[2], 1e-5, first)?.0)
        });
    }
}

#[test]
fn through_pooling_over_the_channels_of_a_convolution() {
    // Maxout: the larger of two neighbouring channels, which pooling sees as one map.
    for f in [Activation::Identity, Activation::Relu] {
        agree(&vars(&[&[2, 3, 6, 6], &[4, 3, 3, 3]]), |v| {
            let ys = conv2d_act(&v[0], &v[1], None, Conv2dGeometry::default(), f)?;
            max_pool2d(&ys.reshape((2, 2, 2, 16))?, (2, 1), (2, 1))?.sqr()?.sum_all()
        });
    }
}

#[test]
fn sparse_gradients_pass_through_batch_normalisation() {
    // Windows that overlap, and more samples than one task takes.
    for (stride, n) in [(2, 3), (1, 3), (2, 300)] {
        agree(&vars(&[&[n, 4, 8, 6], &[4], &[4]]), |v| {
            let (ys, _) = batch_norm(&v[0], &v[1], &v[2], 1e-5, Activation::Relu)?;
            max_pool2d(&ys, (2, 2), (stride, stride))?.sqr()?.sum_all()
        });
    }
}

#[test]
fn nothing_holds_a_graph_within_no_grad() {
    for dtype in [candle_core::DType::F32, candle_core::DType::F64] {
        let var = |shape: &[usize]| var(&random(1, shape).to_dtype(dtype).unwrap());
        let (rows, images, weight, kernels) =
            (var(&[3, 4]), var(&[3, 4, 4, 4]), var(&[4, 4]), var(&[4, 4, 2, 2]));
        let (slope, channels, none) = (var(&[1]), var(&[4]), Activation::Identity);
        let targets = Tensor::zeros(3, candle_core::DType::U32, rows.device()).unwrap();
        let all = || -> Result<Vec<Tensor>> {
            Ok(vec![
                linear(&rows, &weight, None)?,
                activate(&rows, Activation::Tanh)?,
                prelu(&rows, &slope)?,
                conv2d(&images, &kernels, None, Conv2dGeometry::default())?,
                max_pool2d(&images, (2, 2), (2, 2))?,
                avg_pool2d(&images, (2, 2), (2, 2))?,
                mean_of_steps(&rows.reshape((1, 3, 4))?)?,
                batch_norm(&images, &channels, &channels, 1e-5, none)?.0,
                dropout(&rows, 0.5, 1)?,
                cross_entropy(&rows, &targets)?,
                mse(&rows, &rows.detach())?,
                binary_cross_entropy(&rows, &rows.zeros_like()?, 1.0)?,
                soft_cross_entropy(&rows, &rows.detach())?,
            ])
        };
        let (inside, outside) = (no_grad(all).unwrap(), all().unwrap());
        for (i, (inside, outside)) in inside.iter().zip(&outside).enumerate() {
            assert_eq!((i, inside.track_op(), outside.track_op()), (i, false, true), "{dtype:?}");
            assert_eq!(crate::flat(inside), crate::flat(outside));
        }
        // A tape within it is one, and it ends with its scope.
        let (taped, _) = no_grad(|| record(|| linear(&rows, &weight, None).unwrap()));
        assert!(taped.track_op());
    }
}

#[test]
fn through_reshaped_views() {
    agree(&vars(&[&[2, 3, 6, 6], &[5, 27]]), |v| {
        let pooled = max_pool2d(&activate(&v[0], Activation::Relu)?, (2, 2), (2, 2))?;
        linear(&pooled.flatten_from(1)?, &v[1], None)?.sqr()?.sum_all()
    });
}

#[test]
fn gradients_pass_through_views_that_share_an_address() {
    agree(&vars(&[&[1, 6, 4], &[5, 24], &[3, 4]]), |v| {
        let ys = activate(&v[0], Activation::Tanh)?;
        // All values in the same order, in another shape: with an axis of one moved, added or removed.
        let moved = ys.transpose(0, 1)?.unsqueeze(0)?.squeeze(2)?.squeeze(0)?;
        let all = linear(&moved.reshape((1, 24))?, &v[1], None)?.sum_all()?;
        // The first rows begin at the same address.
        let some = linear(&ys.squeeze(0)?.narrow(0, 0, 2)?, &v[2], None)?.sqr()?.sum_all()?;
        // In another order.
        let transposed = linear(&ys.transpose(1, 2)?.contiguous()?.reshape((1, 24))?, &v[1], None)?;
        (all + some)? + transposed.sqr()?.sum_all()?
    });
}

#[test]
fn through_strided_views_of_results() {
    agree(&vars(&[&[2, 5, 12], &[12, 12], &[5, 12]]), |v| {
        let qkv = add(&linear(&v[0], &v[1], None)?, &v[2])?;
        // Heads as views of one tensor, and back from the layout in which attention writes.
        let parts = qkv.reshape((2, 5, 3, 2, 2))?.permute((2, 0, 3, 1, 4))?;
        let (q, k, v) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
        let ys = attention(&q, &k, &v, Mask::Causal)?.transpose(1, 2)?.flatten_from(2)?;
        // Every other view: one element apart, repeated, overlapping, and used by candle as well.
        let transposed = softmax(&qkv.transpose(1, 2)?, 2)?;
        let repeated = activate(&ys.unsqueeze(1)?.broadcast_as((2, 3, 5, 4))?, Activation::Tanh)?;
        let last = activate(&qkv.narrow(1, 3, 2)?, Activation::Silu)?;
        let sums = [transposed.sqr()?, repeated, last, qkv.narrow(2, 1, 7)?.sqr()?].map(|t| t.sum_all());
        let [a, b, c, d] = sums;
        ((a? + b?)? + (c? + d?)?)? + ys.sqr()?.sum_all()?
    });
}

#[test]
fn through_a_transformer_block() {
    let targets = Tensor::new(&[1_u32, 0, 3], &candle_core::Device::Cpu).unwrap();
    let ids = Tensor::new(&[[0_u32, 5, 5], [2, 1, 0], [5, 3, 2]], &candle_core::Device::Cpu).unwrap();
    agree(&vars(&[&[6, 8], &[3, 8], &[8], &[8], &[24, 8], &[8, 8], &[4, 8]]), |v| {
        let xs = add(&embedding(&ids, &v[0])?, &v[1])?;
        let ys = self_attention(&linear(&layer_norm(&xs, &v[2], &v[3], 1e-5)?, &v[4], None)?, 2, Mask::None)?;
        // Once as an operation of candle's, and once as one of ours.
        let xs = (xs + linear(&ys, &v[5], None)?)?;
        let xs = add(&xs, &activate(&linear(&rms_norm(&xs, &v[2], 1e-5)?, &v[5], None)?, Activation::Gelu)?)?;
        cross_entropy(&log_softmax(&linear(&xs.mean(1)?, &v[6], None)?, 1)?, &targets)
    });
}

#[test]
fn a_new_tensor_at_a_freed_address_is_not_a_view() {
    let [a, b] = [var(&random(1, &[64, 64])), var(&random(2, &[64, 64]))];
    let (loss, tape) = record(|| {
        let first = activate(&a, Activation::Relu).unwrap();
        drop(first);
        let second = (b.as_tensor() * 2.0).unwrap();
        activate(&second, Activation::Relu).unwrap().sum_all().unwrap()
    });
    let gradients = tape.backward(&loss).unwrap();
    assert!(gradients.get(&b).is_some());
    assert!(gradients.get(&a).is_none());
}

#[test]
fn of_a_result_that_is_used_more_than_once() {
    agree(&vars(&[&[3, 4], &[4, 4]]), |v| {
        let ys = linear(&v[0], &v[1], None)?;
        let both = (activate(&ys, Activation::Relu)? + activate(&ys, Activation::Tanh)?)?;
        // The weight is used again, too.
        linear(&both, &v[1], None)?.sum_all()
    });
}

#[test]
fn of_losses_of_two_tensors_also_where_targets_were_computed() {
    let targets = random(9, &[3, 4]).clamp(0.0, 1.0).unwrap();
    for loss in
        [mse as fn(&Tensor, &Tensor) -> _, soft_cross_entropy, |xs, ts| binary_cross_entropy(xs, ts, 2.0)]
    {
        agree(&vars(&[&[3, 5], &[4, 5]]), |v| loss(&linear(&v[0], &v[1], None)?, &targets));
        agree(&vars(&[&[3, 5], &[4, 5]]), |v| {
            let both = linear(&v[0], &v[1], None)?;
            loss(&both, &activate(&both, Activation::Sigmoid)?)
        });
    }
}

#[test]
fn of_a_loss_without_kernels() {
    agree(&vars(&[&[3, 4]]), |v| v[0].sqr()?.sum_all());
}

#[test]
fn gradients_of_outputs_are_exact_and_change_nothing() {
    let v = vars(&[&[2, 3, 6, 6], &[5, 27], &[4, 5]]);
    let behind = |pooled: &Tensor| {
        let hidden = linear(&pooled.flatten_from(1)?, &v[1], None)?;
        let twice = (activate(&hidden, Activation::Tanh)? + &hidden)?;
        linear(&twice, &v[2], None)?.sqr()?.sum_all()
    };
    let run = || {
        record(|| {
            let ys = activate(&v[0], Activation::Relu).unwrap();
            let pooled = max_pool2d(&ys, (2, 2), (2, 2)).unwrap();
            (behind(&pooled).unwrap(), ys, pooled)
        })
    };
    let ((loss, ys, pooled), tape) = run();
    // A view, one that a candle operation made, and one that nothing was computed from.
    let view = pooled.flatten_from(1).unwrap();
    let foreign = (&ys * 2.0).unwrap();
    let outputs = [&ys, &pooled, &view, &foreign];
    let (gradients, through) = tape.backward_through(&loss, &[], &outputs).unwrap();
    let at = var(&pooled);
    let expected = behind(&at).unwrap().backward().unwrap().get(&at).unwrap().clone();
    assert_close_in_scale("pooled", through[1].as_ref().unwrap(), &expected, 1e-6);
    assert_eq!(through[2].as_ref().unwrap().dims(), [2, 27]);
    // After max-pooling a gradient is scattered.
    let of_ys = through[0].as_ref().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((of_ys - expected.sum_all().unwrap().to_scalar::<f32>().unwrap()).abs() < 1e-3);
    assert!(through[3].is_none());
    let ((loss, ..), tape) = run();
    let plain = tape.backward(&loss).unwrap();
    for var in &v {
        assert_eq!(bits(&gradient(&gradients, var)), bits(&gradient(&plain, var)));
    }
}

#[test]
fn no_gradient_passes_a_detached_tensor() {
    let xs = var(&random(1, &[3, 4]));
    let (loss, tape) = record(|| {
        let ys = activate(&xs, Activation::Relu).unwrap();
        let cut = ys.detach().reshape((4, 3)).unwrap();
        activate(&cut, Activation::Relu).unwrap().sum_all().unwrap()
    });
    assert!(tape.backward(&loss).unwrap().get(&xs).is_none());
}

#[test]
fn outside_of_a_recording_candle_keeps_the_graph() {
    let xs = var(&random(1, &[3, 4]));
    let ((), tape) = record(|| {
        off_the_record(|| {
            let loss = activate(&xs, Activation::Relu).unwrap().sum_all().unwrap();
            assert!(loss.backward().unwrap().get(&xs).is_some());
        });
        let (inner, tape) = record(|| activate(&xs, Activation::Relu).unwrap().sum_all().unwrap());
        assert!(tape.backward(&inner).unwrap().get(&xs).is_some());
    });
    drop(tape);
    let after = activate(&xs, Activation::Relu).unwrap().sum_all().unwrap();
    assert!(after.backward().unwrap().get(&xs).is_some());
}

#[test]
fn a_forward_pass_that_panics_restores_the_tape() {
    let xs = var(&random(1, &[3, 4]));
    let caught = std::panic::catch_unwind(|| record(|| panic!("on purpose")));
    assert!(caught.is_err());
    let after = activate(&xs, Activation::Relu).unwrap().sum_all().unwrap();
    assert!(after.backward().unwrap().get(&xs).is_some());
}

#[test]
fn a_gradient_does_not_change_with_the_variables() {
    let [a, b] = [var(&random(1, &[64, 96])), var(&random(2, &[80, 96]))];
    // Each is read where the other's gradient is multiplied out: one is a variable itself, the other a view of one.
    let (loss, tape) = record(|| {
        let ys = linear(&a, &b, None).unwrap();
        let zs = linear(&b.reshape((160, 48)).unwrap(), &a.reshape((128, 48)).unwrap(), None).unwrap();
        (activate(&ys, Activation::Tanh).unwrap().sum_all().unwrap() + zs.sum_all().unwrap()).unwrap()
    });
    let gradients = tape.backward(&loss).unwrap();
    let before = [&a, &b].map(|var| bits(&gradient(&gradients, var)));
    for var in [&a, &b] {
        var.set(&var.zeros_like().unwrap()).unwrap();
    }
    assert_eq!([&a, &b].map(|var| bits(&gradient(&gradients, var))), before);
}

#[test]
fn what_is_frozen_has_no_gradient_and_the_others_have_the_same_bits() {
    let all = vars(&[&[8, 5], &[8], &[6, 8], &[6], &[4, 6]]);
    let xs = random(9, &[7, 5]);
    let loss = || {
        let hidden = activate(&linear(&xs, &all[0], Some(&all[1])).unwrap(), Activation::Tanh).unwrap();
        // A view in between.
        let hidden = hidden.reshape((1, 7, 8)).unwrap().squeeze(0).unwrap();
        let hidden = activate(&linear(&hidden, &all[2], Some(&all[3])).unwrap(), Activation::Relu).unwrap();
        linear(&hidden, &all[4], None).unwrap().sqr().unwrap().sum_all().unwrap()
    };
    let (whole, tape) = record(loss);
    let whole = tape.backward(&whole).unwrap();
    for frozen in [vec![], vec![0, 1], vec![0], vec![2, 3], vec![0, 1, 2, 3], vec![4]] {
        let ids: Vec<_> = frozen.iter().map(|i| all[*i].id()).collect();
        let (part, tape) = record(loss);
        let part = tape.backward_except(&part, &ids).unwrap();
        for (i, var) in all.iter().enumerate() {
            match frozen.contains(&i) {
                true => assert!(part.get(var).is_none(), "{i} of {frozen:?}"),
                false => assert_eq!(bits(&gradient(&part, var)), bits(&gradient(&whole, var)), "{i}"),
            }
        }
    }
}

#[test]
fn gradients_are_added_and_scaled_variable_by_variable() {
    let all = vars(&[&[3, 4], &[2, 4], &[2, 4]]);
    let of = |weight: &Var| {
        let (loss, tape) =
            record(|| linear(&all[0], weight, None).unwrap().sqr().unwrap().sum_all().unwrap());
        tape.backward(&loss).unwrap()
    };
    let (first, second) = (of(&all[1]), of(&all[2]));
    let mut sum = Gradients::default();
    sum.add_scaled(&first, 1.0).unwrap();
    sum.add_scaled(&second, 0.5).unwrap();
    sum.scale(2.0).unwrap();
    let twice = |xs: Tensor| (xs * 2.0).unwrap();
    let shared = (twice(gradient(&first, &all[0])) + gradient(&second, &all[0])).unwrap();
    assert_close_in_scale("of both", &gradient(&sum, &all[0]), &shared, 1e-6);
    assert_eq!(bits(&gradient(&sum, &all[1])), bits(&twice(gradient(&first, &all[1]))));
    assert_eq!(bits(&gradient(&sum, &all[2])), bits(&gradient(&second, &all[2])));
    assert_eq!(sum.iter().count(), 3);
    assert!(sum.add(&all[1], random(1, &[4, 2])).is_err());
}
