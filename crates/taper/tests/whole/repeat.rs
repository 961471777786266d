//! The same seed gives the same bits, and watching changes none of them.

use candle_core::Device;
use taper::data::{Dataset, digits};
use taper::hooks::{Observer, Recorder, rng};
use taper::nn::{Mlp, MlpConfig, Params};
use taper::report::LayerStats;
use taper::train::{Optimizer, OptimizerConfig, Progress, classify, parse_rule, train_batches, train_epoch};

use crate::support::{RULES, bits, small_net};

/// Two epochs with dropout; what came of them.
fn train(data: &Dataset, cnn: bool, rule: &str, observer: &mut dyn Observer) -> Vec<u32> {
    let (params, model) = small_net(cnn, 7);
    let (rule, rate) = parse_rule(rule, None).unwrap();
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(rule, rate)).unwrap();
    let mut rng = rng(9);
    let mut progress = Progress::default();
    for _ in 0..2 {
        let batches = data.train.shuffled(&mut rng, 100);
        train_batches(&classify(&*model), &mut optimizer, batches, observer, 9, &mut progress).unwrap();
    }
    bits(&params)
}

#[test]
fn observing_changes_no_weight_and_the_same_seed_gives_the_same_bits() {
    let data = digits().unwrap();
    for cnn in [false, true] {
        for rule in RULES {
            let (mut first, mut second) = (Recorder::new(), Recorder::new());
            let watched = train(&data, cnn, rule, &mut first);
            assert_eq!(watched, train(&data, cnn, rule, &mut ()), "{rule}, cnn: {cnn}, watched or not");
            assert_eq!(watched, train(&data, cnn, rule, &mut second), "{rule}, cnn: {cnn}, again");
            let json = |layers: Vec<LayerStats>| serde_json::to_string(&layers).unwrap();
            assert_eq!(json(first.finish()), json(second.finish()));
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Layers and batches large enough that every kernel shares its work.
    let data = digits().unwrap();
    for cnn in [false, true] {
        for rule in RULES {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut recorder = Recorder::new();
                    let bits = train(&data, cnn, rule, &mut recorder);
                    (bits, serde_json::to_string(&recorder.finish()).unwrap())
                })
            };
            let one = on(1);
            for threads in [2, 3, 8] {
                assert!(on(threads) == one, "{rule}, cnn: {cnn}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_names_batch_and_origin_and_leaves_the_weights() {
    let data = digits().unwrap();
    let params = Params::new(1, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![16, 8], ..Default::default() };
    let net = Mlp::new(&config, params.builder()).unwrap();
    // fc2 gets one infinite weight: fc1 stays finite.
    let (_, fc2) = &params.vars()[2];
    let mut weights = fc2.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights[0] = f32::INFINITY;
    fc2.set(&candle_core::Tensor::from_vec(weights, fc2.shape(), &Device::Cpu).unwrap()).unwrap();
    let before = bits(&params);
    let (rule, _) = parse_rule("sgd", None).unwrap();
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(rule, 0.1)).unwrap();
    let error = train_epoch(&classify(&net), &mut optimizer, data.train.batches(32), &mut (), 1).unwrap_err();
    let text = error.in_epoch(3).to_string();
    assert!(text.contains("epoch 3, batch 1") && text.contains("'fc2.weight'"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(bits(&params), before);
}
