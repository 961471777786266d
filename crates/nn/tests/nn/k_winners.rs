//! k-winners-take-all: how many stay, who wins, and what duty cycles are.

use candle_core::{Tensor, Var};
use taper_hooks::{Pass, Units};
use taper_nn::{KWinners, KWinnersConfig, Params};

use crate::{CPU, message, params, random, values};

fn winners(units: usize, config: KWinnersConfig, params: &Params) -> KWinners {
    KWinners::new(units, config, params.builder().pp("fc1")).unwrap()
}

fn plain(k: usize) -> KWinnersConfig {
    KWinnersConfig { k, k_eval: k, boost: 0.0, ..Default::default() }
}

fn train(of: &KWinners, ys: &Tensor) -> Tensor {
    of.forward(&mut Pass::train(&mut (), 1, 0), ys).unwrap()
}

#[test]
fn exactly_k_values_of_each_sample_stay_also_where_all_are_equal() {
    for ys in [random(1, &[8, 20]), Tensor::ones((8, 20), candle_core::DType::F32, CPU).unwrap()] {
        let found = values(&train(&winners(20, plain(6), &params()), &ys));
        for (found, ys) in found.chunks(20).zip(values(&ys).chunks(20)) {
            assert_eq!(found.iter().filter(|y| **y != 0.0).count(), 6);
            let mut sorted = ys.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            assert!(found.iter().zip(ys).all(|(y, was)| *y == 0.0 || y == was && *y >= sorted[5]));
        }
    }
}

#[test]
fn duty_cycles_are_the_running_share_of_wins_above_0() {
    let config = KWinnersConfig { period: 5, ..plain(1) };
    let own = winners(3, config, &params());
    let batch = |rows: &[[f32; 3]; 3]| Tensor::new(rows, CPU).unwrap();
    train(&own, &batch(&[[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]));
    // Of 3 samples seen: unit 0 won two, unit 1 one.
    assert_eq!(own.duty_cycle().unwrap(), [2.0 / 3.0, 1.0 / 3.0, 0.0]);
    // The next three are averaged over the period of 5; a win below 0 is none.
    train(&own, &batch(&[[-1.0, -2.0, -3.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]));
    let want = [2.0 / 3.0 * 2.0 / 5.0, 1.0 / 3.0 * 2.0 / 5.0, 2.0 / 5.0];
    assert!(own.duty_cycle().unwrap().iter().zip(want).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
}

#[test]
fn a_batch_larger_than_the_period_leaves_duty_cycles_between_0_and_1() {
    let own = winners(4, KWinnersConfig { period: 3, ..plain(2) }, &params());
    for seed in 1..5 {
        train(&own, &random(seed, &[16, 4]));
        assert!(own.duty_cycle().unwrap().iter().all(|d| (0.0..=1.0).contains(d)), "{own:?}");
    }
}

#[test]
fn boosting_lets_a_unit_win_that_seldom_did() {
    for (boost, winner) in [(0.0, 0), (1.5, 1)] {
        let own = winners(2, KWinnersConfig { boost, ..plain(1) }, &params());
        let ys = Tensor::new(&[[1.0_f32, 0.5]], CPU).unwrap();
        train(&own, &ys); // unit 0 wins: duty cycles 1 and 0; e^-1.5 < 0.5
        let found = values(&train(&own, &ys));
        assert_eq!(found.iter().position(|y| *y != 0.0), Some(winner), "{boost}");
        assert_eq!(found[winner], [1.0, 0.5][winner], "winners keep their own values");
    }
}

#[test]
fn units_of_maps_compete_over_all_positions_and_of_sequences_too() {
    let maps = Tensor::new(&[[[[4.0_f32, 3.0]], [[2.0, 1.0]]]], CPU).unwrap();
    let own = winners(2, plain(3), &params());
    assert_eq!(values(&train(&own, &maps)), [4.0, 3.0, 2.0, 0.0]);
    assert_eq!(own.duty_cycle().unwrap(), [1.0, 0.5]);
    let own = winners(2, KWinnersConfig { units: Units::Last, ..plain(3) }, &params());
    let steps = Tensor::new(&[[[4.0_f32, 2.0], [3.0, 1.0]]], CPU).unwrap();
    assert_eq!(values(&train(&own, &steps)), [4.0, 2.0, 3.0, 0.0]);
    assert_eq!(own.duty_cycle().unwrap(), [1.0, 0.5]);
}

#[test]
fn in_evaluation_more_win_and_duty_cycles_stay() {
    let own = winners(20, KWinnersConfig { k_eval: 9, ..plain(6) }, &params());
    let ys = (random(1, &[4, 20]).abs().unwrap() + 0.1).unwrap();
    let found = values(&own.forward(&mut Pass::eval(&mut ()), &ys).unwrap());
    assert!(found.chunks(20).all(|ys| ys.iter().filter(|y| **y != 0.0).count() == 9));
    assert_eq!(own.duty_cycle().unwrap(), [0.0; 20]);
}

#[test]
fn only_winners_pass_a_gradient_on_and_a_nan_is_handed_on() {
    let ys = Var::from_tensor(&Tensor::new(&[[3.0_f32, -1.0, 2.0]], CPU).unwrap()).unwrap();
    let own = winners(3, plain(2), &params());
    let gradients = train(&own, &ys).sum_all().unwrap().backward().unwrap();
    assert_eq!(values(gradients.get(&ys).unwrap()), [1.0, 0.0, 1.0]);
    let found = values(&train(&own, &Tensor::new(&[[3.0_f32, 2.0, -f32::NAN]], CPU).unwrap()));
    assert!(found[2].is_nan() && found[0] == 3.0);
}

#[test]
fn duty_cycles_are_buffers_that_are_not_trained() {
    let params = params();
    winners(3, plain(2), &params);
    let names: Vec<String> = params.buffers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["fc1.duty_cycle", "fc1.samples_tracked"]);
    assert!(params.vars().is_empty());
}

#[test]
fn more_winners_than_values_and_other_nonsense_are_refused() {
    let own = winners(3, plain(4), &params());
    let fault = |ys: &[usize]| message(own.forward(&mut Pass::train(&mut (), 1, 0), &random(1, ys)));
    assert_eq!(fault(&[2, 3]), "k_winners: expected k of at most 3, the values of a sample, found 4");
    assert!(fault(&[2, 5]).contains("expected values of 3 units, found shape [2, 5]"));
    for config in
        [plain(0), KWinnersConfig { period: 0, ..plain(1) }, KWinnersConfig { boost: -1.0, ..plain(1) }]
    {
        assert!(message(KWinners::new(3, config, params().builder().pp("a"))).starts_with("k_winners"));
    }
    assert!(message(own.set_boost(f64::NAN)).contains("expected boosting of at least 0"));
}
