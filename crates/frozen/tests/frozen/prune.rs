use std::path::Path;
use std::process::Command;

use taper_data::digits;
use taper_frozen::{Form, Frozen, Scaling, Sequential, Signals};

use crate::{Numbers, network};

const STANDARD: Scaling = Scaling { mean: 0.3, std: 0.4 };

fn run(network: &Sequential, form: Form, xs: &[f32], batch: usize) -> Vec<f32> {
    let frozen = Frozen::new(network).unwrap();
    let mut ys = vec![f32::NAN; xs.len() / frozen.inputs() * frozen.outputs()];
    frozen.run_as(form, xs, &mut ys, &mut frozen.scratch(batch)).unwrap();
    ys
}

fn bits(ys: &[f32]) -> Vec<u32> {
    ys.iter().map(|y| y.to_bits()).collect()
}

/// Pixels of all digits, in [0, 1].
fn digit_images() -> Vec<f32> {
    let data = digits().unwrap();
    let white = f32::from(data.train.white());
    let pixels = |split: &taper_data::ImageSet| {
        split.pixels().iter().map(|x| f32::from(*x) / white).collect::<Vec<_>>()
    };
    [pixels(&data.train), pixels(&data.test)].concat()
}

/// Makes every third unit of the hidden layers unlikely to fire, by the bias of the part `at`.
fn discourage(network: &mut Sequential, at: usize, by: f32) {
    let bias = network.parts[at].values.as_mut().unwrap().bias.as_mut().unwrap();
    bias.iter_mut().step_by(3).for_each(|b| *b -= by);
}

fn mlp() -> Sequential {
    let shapes: [(&str, &[usize]); 3] = [("fc1", &[40, 64]), ("fc2", &[30, 40]), ("fc3", &[10, 30])];
    let mut network = network("linear, relu, linear, relu, linear", &shapes, (1, 8, 8), STANDARD).1;
    discourage(&mut network, 0, 30.0);
    discourage(&mut network, 2, 90.0);
    network
}

fn cnn() -> Sequential {
    let shapes: [(&str, &[usize]); 6] = [
        ("conv1", &[9, 1, 3, 3]),
        ("norm1", &[9]),
        ("conv2", &[12, 9, 3, 3]),
        ("norm2", &[12 * 16]),
        ("fc1", &[20, 12 * 16]),
        ("fc2", &[10, 20]),
    ];
    let text = "conv 3 pad 1, batch_norm, relu, max_pool 2, conv 3 pad 1, relu, flatten, batch_norm, linear, relu, linear";
    let mut network = network(text, &shapes, (1, 8, 8), STANDARD).1;
    for (at, by) in [(1, 90.0), (4, 300.0), (8, 9e3)] {
        discourage(&mut network, at, by);
    }
    network
}

fn units(network: &Sequential) -> Vec<usize> {
    network.hidden().into_iter().map(|(_, units)| units).collect()
}

#[test]
fn without_units_that_are_dead_on_the_digits_every_digit_gives_the_same_bits() {
    let xs = digit_images();
    let mlp = mlp();
    let dead: Vec<_> = mlp.observe(&xs).unwrap().iter().map(|signals| signals.dead()).collect();
    let pruned = mlp.without(&dead).unwrap();
    let left: Vec<usize> = dead.iter().map(|dead| dead.iter().filter(|dead| !**dead).count()).collect();
    assert_eq!(units(&pruned), left);
    assert!(left[0] < 40 && left[1] < 30 && left[0] > 20 && left[1] > 12, "{left:?}");
    let expected = bits(&run(&mlp, Form::Dense, &xs, 1));
    for (form, batch) in
        [(Form::Dense, 1), (Form::Sparse, 1), (Form::Best, 1), (Form::Dense, 7), (Form::Sparse, 7)]
    {
        assert_eq!(bits(&run(&pruned, form, &xs, batch)), expected, "{form:?} in batches of {batch}");
    }
}

#[test]
fn channels_take_their_pixels_and_normalisations_along() {
    let xs = digit_images();
    let cnn = cnn();
    let seen = cnn.observe(&xs).unwrap();
    // After the normalisation of flattened maps no channel is 0, but those that are dead before it are constant.
    let dead: Vec<_> = seen.iter().map(|signals| signals.dead()).collect();
    assert!(dead[0].iter().filter(|dead| **dead).count() >= 3 && dead[2].iter().any(|dead| *dead));
    assert!(!dead[1].contains(&true));
    let pruned = cnn.without(&dead).unwrap();
    assert_eq!(bits(&run(&pruned, Form::Best, &xs, 3)), bits(&run(&cnn, Form::Dense, &xs, 1)));

    let folded = pruned.fold_constants(&pruned.observe(&xs).unwrap()).unwrap();
    let removed = folded.removed[1].iter().filter(|removed| **removed).count();
    assert!(removed >= 3, "{removed}");
    let values = |name: &str| {
        let values = folded.network.parts.iter().filter_map(|part| part.values.as_ref());
        values.into_iter().find(|values| values.name == name).unwrap().clone()
    };
    assert_eq!(values("norm2").statistics.unwrap()[1].len(), (12 - removed) * 16);
    assert_eq!((values("fc1").inputs, values("conv2").outputs), ((12 - removed) * 16, 12 - removed));
    close(&run(&folded.network, Form::Best, &xs, 1), &run(&cnn, Form::Best, &xs, 1));
}

#[track_caller]
fn close(ys: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0_f32, |max, y| max.max(y.abs()));
    for (y, expected) in ys.iter().zip(expected) {
        assert!((y - expected).abs() <= 1e-5 * largest, "expected {expected}, found {y} of up to {largest}");
    }
}

#[test]
fn a_unit_that_is_dead_for_every_image_is_dead_on_the_digits() {
    let xs = digit_images();
    for network in [mlp(), cnn()] {
        let (bounds, seen) = (network.bounds().unwrap(), network.observe(&xs).unwrap());
        let proven = bounds.iter().flat_map(|signals| signals.dead()).filter(|dead| *dead).count();
        assert!(proven > 0);
        for (bounds, seen) in bounds.iter().zip(&seen) {
            assert!(bounds.dead().iter().zip(seen.dead()).all(|(proven, dead)| dead || !proven));
        }
    }
}

#[test]
fn a_unit_that_is_read_by_weights_of_zero_only_is_removed_with_the_units_that_only_it_reads() {
    let (xs, mut network) = (digit_images(), mlp());
    let weight = &mut network.parts[2].values.as_mut().unwrap().weight;
    // Of the second layer, only unit 1 reads unit 4 of the first layer.
    weight.iter_mut().skip(4).step_by(40).enumerate().filter(|(o, _)| *o != 1).for_each(|(_, w)| *w = 0.0);
    let without_dead = |network: &Sequential| network.without_dead(&network.observe(&xs).unwrap()).unwrap();
    let before = units(&without_dead(&network));
    let weight = &mut network.parts[4].values.as_mut().unwrap().weight;
    weight.iter_mut().skip(1).step_by(30).for_each(|w| *w = 0.0);
    assert!(network.observe(&xs).unwrap().iter().zip([4, 1]).all(|(layer, unit)| !layer.dead()[unit]));
    let pruned = without_dead(&network);
    assert_eq!(units(&pruned), [before[0] - 1, before[1] - 1]);
    assert_eq!(bits(&run(&pruned, Form::Best, &xs, 1)), bits(&run(&network, Form::Dense, &xs, 1)));
    // Without bounds it could be infinite, and an infinity times 0 is NaN.
    let mut bounds = network.bounds().unwrap();
    let pruned = |bounds: &[Signals]| units(&network.without_dead(bounds).unwrap())[1];
    let finite = pruned(&bounds);
    bounds[1].ranges[1].high = f64::INFINITY;
    assert_eq!(pruned(&bounds), finite + 1);
}

/// Two layers, of which channel 1 of the first is always `constant` after ReLU.
fn constant(text: &str, shapes: &[(&str, &[usize])], constant: f32) -> Sequential {
    let mut network = network(text, shapes, (2, 5, 5), STANDARD).1;
    let first = network.parts[0].values.as_mut().unwrap();
    let row = first.weight.len() / first.outputs;
    first.weight[row..2 * row].fill(0.0);
    first.bias.as_mut().unwrap()[1] = constant;
    network
}

#[test]
fn a_constant_channel_is_folded_into_the_next_bias_unless_padding_would_differ_from_it() {
    let xs: Vec<f32> = Numbers::new(4).some(50 * 100, 0.2).into_iter().map(f32::abs).collect();
    let xs = &xs[..50 * 50];
    let conv: [(&str, &[usize]); 3] = [("0", &[4, 2, 3, 3]), ("2", &[3, 4, 2, 2]), ("4", &[2, 3 * 4])];
    let padded: [(&str, &[usize]); 3] = [("0", &[4, 2, 3, 3]), ("2", &[3, 4, 2, 2]), ("4", &[2, 3 * 16])];
    let pooled: [(&str, &[usize]); 2] = [("0", &[4, 2, 3, 3]), ("3", &[2, 4])];
    let linear: [(&str, &[usize]); 2] = [("0", &[4, 2, 3, 3]), ("2", &[2, 36])];
    type Case<'a> = (&'a str, &'a [(&'a str, &'a [usize])], f32, bool);
    let cases: [Case<'_>; 6] = [
        ("conv 3, relu, linear", &linear, 0.7, true),
        ("conv 3, relu, conv 2, relu, linear", &conv, 0.7, true),
        ("conv 3, relu, conv 2 pad 1, relu, linear", &padded, 0.7, false),
        ("conv 3, relu, conv 2 pad 1, relu, linear", &padded, -0.7, true),
        ("conv 3, relu, global_avg_pool, linear", &pooled, 0.7, true),
        ("conv 3, relu, max_pool 3, linear", &pooled, 0.7, true),
    ];
    for (text, shapes, value, is_folded) in cases {
        println!("{text}: {value}");
        let network = constant(text, shapes, value);
        for signals in [network.bounds().unwrap(), network.observe(xs).unwrap()] {
            let folded = network.fold_constants(&signals).unwrap();
            assert_eq!(folded.removed[0][1], is_folded);
            assert_eq!(folded.kept, usize::from(!is_folded));
            close(&run(&folded.network, Form::Best, xs, 1), &run(&network, Form::Best, xs, 1));
        }
    }
    // Where the next layer has no bias, its file gets none.
    let mut network = constant("conv 3, relu, linear", &linear, 0.7);
    network.parts[2].values.as_mut().unwrap().bias = None;
    let folded = network.fold_constants(&network.bounds().unwrap()).unwrap();
    assert_eq!((folded.kept, folded.network), (1, network));
}

#[test]
fn a_constant_channel_whose_pixels_differ_stays_before_a_convolution() {
    // The second convolution sees a constant channel with fewer of its pixels at the border.
    let shapes: [(&str, &[usize]); 3] = [("0", &[2, 2, 3, 3]), ("2", &[3, 2, 3, 3]), ("4", &[2, 3, 2, 2])];
    let text = "conv 3 pad 1, relu, conv 3 pad 1, relu, conv 2, global_avg_pool, flatten, linear";
    let shapes = [&shapes[..], &[("7", &[2, 2])]].concat();
    let mut network = constant(text, &shapes, 0.7);
    let second = network.parts[2].values.as_mut().unwrap();
    second.weight[..9].fill(0.0);
    second.weight[9..18].fill(0.3);
    second.bias.as_mut().unwrap()[0] = 0.1;
    let bounds = network.bounds().unwrap();
    let ranges = bounds[1].of(0);
    assert!(ranges.iter().all(|range| range.is_fixed) && ranges[0].high < ranges[6].low);
    let folded = network.fold_constants(&bounds).unwrap();
    assert_eq!((folded.kept, &folded.removed[1][..1]), (2, &[false][..]));
}

#[test]
fn scores_have_mean_one_and_a_unit_that_is_never_active_has_zero() {
    let shapes: [(&str, &[usize]); 2] = [("0", &[3, 2]), ("2", &[1, 3])];
    let (_, mut network) = network("linear, relu, linear", &shapes, (2, 1, 1), Scaling::default());
    let first = network.parts[0].values.as_mut().unwrap();
    first.weight = vec![1.0, 0.0, 0.0, 3.0, -1.0, -1.0];
    first.bias = Some(vec![0.0; 3]);
    // Means 0.5, 1.5 and 0; their mean is 2/3.
    let scores = network.scores(&[1.0, 0.0, 0.0, 1.0]).unwrap();
    for (score, expected) in scores[0].iter().zip([0.75, 2.25, 0.0]) {
        assert!((score - expected).abs() < 1e-7, "{scores:?}");
    }
    assert_eq!(network.scores(&[0.0, 0.0]).unwrap(), [[0.0; 3]]);
}

#[test]
fn the_number_of_images_in_a_block_does_not_matter() {
    let xs = digit_images();
    let network = mlp();
    let halves = xs.chunks(64 * 900).map(|xs| network.observe(xs).unwrap()).collect::<Vec<_>>();
    for (layer, all) in network.observe(&xs).unwrap().iter().enumerate() {
        for (i, range) in all.ranges.iter().enumerate() {
            let [a, b] = [&halves[0], &halves[1]].map(|half| half[layer].ranges[i]);
            assert_eq!((range.low, range.high), (a.low.min(b.low), a.high.max(b.high)));
        }
    }
}

#[test]
fn a_layer_without_units_and_images_that_are_none_are_refused() {
    let network = mlp();
    let error = |result: taper_frozen::Result<Sequential>| result.unwrap_err().to_string();
    let none = error(network.without(&[vec![false; 40], vec![true; 30]]));
    assert!(
        none.starts_with("layer 'fc2': expected at least one unit to stay, found all 30 to be removed: "),
        "{none}"
    );
    let other = error(network.without(&[vec![false; 40]]));
    assert_eq!(other, "expected hidden layers of [40, 30] units, found [40]");
    for n in [0, 65] {
        let error = network.observe(&vec![0.0; n]).unwrap_err().to_string();
        assert_eq!(error, format!("expected one or more images of 64 values each, found {n} values"));
    }
    let nan = network.observe(&[f32::NAN; 64]).unwrap_err().to_string();
    assert!(nan.starts_with("layer 'fc1': expected outputs that are numbers, found NaN"), "{nan}");
}

/// With the Python of `TAPER_PYTHON`, or `python3`, if it has PyTorch.
#[test]
fn pytorch_loads_the_smaller_file_by_its_metadata_and_gives_the_same_answers() {
    let python = std::env::var("TAPER_PYTHON").unwrap_or("python3".into());
    let can = Command::new(&python).args(["-c", "import torch, safetensors.torch"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: {python} has no torch and safetensors; TAPER_PYTHON may name another");
    }
    let (xs, network) = (digit_images(), cnn());
    let network = network
        .without(&network.observe(&xs).unwrap().iter().map(|of| of.dead()).collect::<Vec<_>>())
        .unwrap();
    let network = network.fold_constants(&network.observe(&xs).unwrap()).unwrap().network;
    let dir = tempfile::tempdir().unwrap();
    let paths = ["net.safetensors", "xs", "ys"].map(|name| dir.path().join(name));
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    network.save(&paths[0]).unwrap();
    std::fs::write(&paths[1], bytes(&xs)).unwrap();
    std::fs::write(&paths[2], bytes(&run(&network, Form::Best, &xs, 1))).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pruned.py");
    let output = Command::new(&python).arg(script).args(&paths).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1797 images, 0 answers differ\n");
}
