use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use taper_frozen::{Form, Frozen, Scaling, Sequential};

use crate::{Numbers, network};

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { cases: n, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Default::default() }
}

fn run(frozen: &Frozen, form: Form, xs: &[f32], batch: usize) -> Vec<u32> {
    let mut ys = vec![f32::NAN; xs.len() / frozen.inputs() * frozen.outputs()];
    let mut scratch = frozen.scratch(batch);
    frozen.run_as(form, xs, &mut ys, &mut scratch).unwrap();
    ys.into_iter().map(f32::to_bits).collect()
}

/// All forms, alone and in batches that the samples do not fill.
#[track_caller]
fn agree(network: &Sequential, xs: &[f32]) {
    let frozen = Frozen::new(network).unwrap();
    let dense = run(&frozen, Form::Dense, xs, 1);
    for form in [Form::Dense, Form::Sparse, Form::Best] {
        for batch in [1, 3, 4, 11] {
            assert_eq!(run(&frozen, form, xs, batch), dense, "{form:?} in batches of {batch}");
        }
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn linear_layers_give_the_same_bits_whatever_is_skipped(
        (i, h, o) in (1_usize..90, 1_usize..70, 1_usize..40),
        samples in 1_usize..10,
        zeros in 0_f32..1.0,
        relu in any::<bool>(),
    ) {
        let act = if relu { "relu" } else { "tanh" };
        let text = format!("linear, {act}, linear");
        let (_, network) = network(&text, &[("0", &[h, i]), ("2", &[o, h])], (i, 1, 1), Scaling::default());
        agree(&network, &Numbers::new(i as u64).some(samples * i, zeros));
    }

    #[test]
    fn convolutions_give_the_same_bits_whatever_is_skipped(
        (c, m, o) in (1_usize..20, 1_usize..70, 1_usize..20),
        (kh, kw) in (1_usize..6, 1_usize..6),
        (h, w) in (5_usize..10, 5_usize..12),
        (pad, stride) in (0_usize..4, 1_usize..4),
        zeros in 0_f32..1.0,
        mean in prop_oneof![Just(0.0), Just(0.25)],
    ) {
        let text = format!("conv {kh}x{kw} pad {pad} stride {stride}, relu, conv 1, relu, global_avg_pool, linear");
        let shapes: [(&str, &[usize]); 3] = [("0", &[m, c, kh, kw]), ("2", &[o, m, 1, 1]), ("5", &[3, o])];
        let scaling = Scaling { mean, std: 0.5 };
        let (_, network) = network(&text, &shapes, (c, h, w), scaling);
        agree(&network, &Numbers::new(c as u64).some(3 * c * h * w, zeros));
    }
}

#[test]
fn a_negative_zero_is_a_zero_and_the_sign_of_a_zero_result_is_plus() {
    let (_, mut network) = network("linear", &[("0", &[2, 3])], (3, 1, 1), Scaling::default());
    let values = network.parts[0].values.as_mut().unwrap();
    values.weight = vec![1.0, -1.0, 1.0, 1e-30, 1e-30, 1e-30];
    values.bias = Some(vec![-0.0, -0.0]);
    // All zeros; and a product that underflows to −0 before zeros of both signs.
    let xs = [-0.0, -0.0, -0.0, -1e-30, 0.0, -0.0, 0.0, -0.0, -1e-30];
    agree(&network, &xs);
    let frozen = Frozen::new(&network).unwrap();
    assert_eq!(run(&frozen, Form::Sparse, &[-0.0; 3], 1), [0, 0]);
    let mut scratch = frozen.scratch(1);
    frozen.run(&[-0.0; 3], &mut [0.0; 2], &mut scratch).unwrap();
    assert_eq!((scratch.work()[0].zeros, scratch.work()[0].done), (3, 0));
}

#[test]
fn nan_and_infinity_reach_the_results_with_the_same_bits() {
    let shapes: [(&str, &[usize]); 2] = [("0", &[5, 2, 3, 3]), ("3", &[4, 5 * 2 * 2])];
    let (_, network) =
        network("conv 3 pad 1, relu, max_pool 2, linear", &shapes, (2, 4, 4), Scaling::default());
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut xs = Numbers::new(1).some(3 * 32, 0.5);
        (xs[5], xs[40]) = (odd, odd);
        agree(&network, &xs);
        let frozen = Frozen::new(&network).unwrap();
        let ys = run(&frozen, Form::Best, &xs[..32], 1);
        let finite = ys.iter().all(|bits| f32::from_bits(*bits).is_finite());
        assert!(!finite || odd == f32::MAX, "{odd} was lost");
    }
}

#[test]
fn work_counts_the_multiplications_of_a_convolution_one_by_one() {
    let shapes: [(&str, &[usize]); 2] = [("0", &[5, 2, 3, 2]), ("3", &[4, 5])];
    let (_, network) = network(
        "conv 3x2 pad 1 stride 2, relu, global_avg_pool, linear",
        &shapes,
        (2, 5, 6),
        Scaling::default(),
    );
    let xs = Numbers::new(1).some(2 * 5 * 6, 0.6);
    let frozen = Frozen::new(&network).unwrap();
    let mut scratch = frozen.scratch(1);
    frozen.run_as(Form::Sparse, &xs, &mut [0.0; 4], &mut scratch).unwrap();
    let (mut all, mut done) = (0, 0);
    for (oy, ox) in (0..3).flat_map(|oy| (0..4).map(move |ox| (oy, ox))) {
        for (c, ky, kx) in (0..2).flat_map(|c| (0..6).map(move |k| (c, k / 2, k % 2))) {
            let (y, x) = (2 * oy + ky, 2 * ox + kx);
            if (1..6).contains(&y) && (1..7).contains(&x) {
                all += 5;
                done += 5 * u64::from(xs[c * 30 + (y - 1) * 6 + x - 1] != 0.0);
            }
        }
    }
    let work = &scratch.work()[0];
    assert_eq!((work.multiplications, work.done), (all, done));
    assert_eq!(work.zeros, xs.iter().filter(|x| **x == 0.0).count() as u64);
    frozen.run_as(Form::Dense, &xs, &mut [0.0; 4], &mut scratch).unwrap();
    assert_eq!(scratch.work()[0].done, all);
}
