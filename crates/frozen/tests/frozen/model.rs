use candle_core::{Device, Tensor};
use taper_frozen::{Form, Frozen, Scaling};
use taper_nn::{Architecture, Cnn, CnnConfig, Mlp, MlpConfig, Model, Params, Pass};

use crate::{Numbers, layers, network};

/// What the model computes of scaled inputs, and the frozen network of inputs as they are.
#[track_caller]
fn compare(model: &dyn Model, frozen: &Frozen, (c, h, w): (usize, usize, usize), scaling: Scaling) {
    let n = 5;
    let mut xs = Numbers::new(9).some(n * c * h * w, 0.6);
    xs.iter_mut().for_each(|x| *x = x.abs());
    let scaled: Vec<f32> = xs.iter().map(|x| ((f64::from(*x) - scaling.mean) / scaling.std) as f32).collect();
    let scaled = Tensor::from_vec(scaled, (n, c, h, w), &Device::Cpu).unwrap();
    let expected = model.forward(&mut Pass::eval(&mut ()), &scaled).unwrap().flatten_all().unwrap();
    let expected = expected.to_vec1::<f32>().unwrap();
    let mut ys = vec![0.0; expected.len()];
    frozen.run(&xs, &mut ys, &mut frozen.scratch(2)).unwrap();
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (y, expected) in ys.iter().zip(&expected) {
        assert!((y - expected).abs() <= 1e-5 * largest, "expected {expected}, found {y} of up to {largest}");
    }
}

const STANDARD: Scaling = Scaling { mean: 0.1307, std: 0.3081 };

#[test]
fn an_mlp_and_a_cnn_answer_as_in_evaluation() {
    let params = Params::new(1, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![30, 20], dropout: 0.5, ..Default::default() };
    let mlp = Mlp::new(&config, params.builder()).unwrap();
    let network = taper_frozen::Sequential::new(&config.layers(), &params, (1, 8, 8), STANDARD).unwrap();
    compare(&mlp, &Frozen::new(&network).unwrap(), (1, 8, 8), STANDARD);

    let params = Params::new(1, &Device::Cpu);
    let config =
        CnnConfig { input: (3, 9, 10), channels: vec![5, 7], widths: vec![12], ..Default::default() };
    let cnn = Cnn::new(&config, params.builder()).unwrap();
    let network = taper_frozen::Sequential::new(&config.layers(), &params, (3, 9, 10), STANDARD).unwrap();
    compare(&cnn, &Frozen::new(&network).unwrap(), (3, 9, 10), STANDARD);
}

#[test]
fn every_kind_of_layer_answers_as_in_evaluation() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a [usize])], (usize, usize, usize));
    let cases: [Case<'_>; 9] = [
        ("conv 3 pad 1, relu, linear", &[("0", &[4, 1, 3, 3]), ("2", &[3, 4 * 36])], (1, 6, 6)),
        (
            "conv 5 pad 4 stride 2, selu, max_pool 3 stride 2, linear",
            &[("0", &[6, 2, 5, 5]), ("3", &[3, 24])],
            (2, 6, 6),
        ),
        (
            "conv 3 pad 1, batch_norm, relu, avg_pool 3 stride 2, flatten, linear",
            &[("0", &[4, 3, 3, 3]), ("1", &[4]), ("5", &[3, 16])],
            (3, 6, 6),
        ),
        (
            "conv 2, relu, batch_norm eps 1e-3, global_avg_pool, linear",
            &[("0", &[4, 1, 2, 2]), ("2", &[4]), ("4", &[3, 4])],
            (1, 6, 6),
        ),
        (
            "conv 2, relu, flatten, batch_norm, linear",
            &[("0", &[2, 2, 2, 2]), ("3", &[18]), ("4", &[3, 18])],
            (2, 4, 4),
        ),
        (
            "linear, batch_norm, prelu, dropout 0.5, linear",
            &[("0", &[9, 32]), ("1", &[9]), ("2", &[1]), ("4", &[3, 9])],
            (2, 4, 4),
        ),
        ("max_pool 2, conv 2 pad 1, sigmoid, linear", &[("1", &[5, 2, 2, 2]), ("3", &[4, 45])], (2, 4, 4)),
        (
            "batch_norm, conv 7 pad 3, gelu, conv 1, flatten",
            &[("0", &[2]), ("1", &[5, 2, 7, 7]), ("3", &[3, 5, 1, 1])],
            (2, 4, 4),
        ),
        ("tanh, flatten, linear", &[("2", &[3, 32])], (2, 4, 4)),
    ];
    for (text, shapes, input) in cases {
        println!("{text}");
        let (params, network) = network(text, shapes, input, STANDARD);
        let model =
            Architecture::new(&layers(text), params.shapes(), input).unwrap().build(params.frozen()).unwrap();
        compare(&model, &Frozen::new(&network).unwrap(), input, STANDARD);
    }
}

#[test]
fn black_pixels_are_skipped_though_their_standardised_value_is_not_zero() {
    let (_, network) = network("linear", &[("0", &[3, 16])], (1, 4, 4), STANDARD);
    let frozen = Frozen::new(&network).unwrap();
    let mut scratch = frozen.scratch(1);
    let mut xs = [0.0; 16];
    (xs[3], xs[9]) = (1.0, 0.5);
    frozen.run(&xs, &mut [0.0; 3], &mut scratch).unwrap();
    let work = &scratch.work()[0];
    assert_eq!((work.name.as_str(), work.inputs, work.zeros), ("0", 16, 14));
    assert_eq!((work.multiplications, work.done), (48, 6));
}

#[test]
fn the_share_of_zeros_of_a_site_predicts_what_its_consumer_skips() {
    let text = "conv 3 pad 1, relu, conv 2 stride 2 pad 1, relu, linear, relu, linear";
    let shapes: [(&str, &[usize]); 4] =
        [("conv1", &[5, 2, 3, 3]), ("conv2", &[4, 5, 2, 2]), ("fc1", &[7, 48]), ("fc2", &[3, 7])];
    let (params, network) = network(text, &shapes, (2, 5, 6), Scaling::default());
    let frozen = Frozen::new(&network).unwrap();
    let consumers = Architecture::new(&layers(text), params.shapes(), (2, 5, 6)).unwrap().consumers();
    let mut scratch = frozen.scratch(1);
    let (samples, xs) = (50, Numbers::new(1).some(50 * 60, 0.5));
    frozen.run_as(Form::Sparse, &xs, &mut [0.0; 50 * 3], &mut scratch).unwrap();
    let work = &scratch.work()[1..];
    assert_eq!(consumers.len(), work.len());
    for (consumer, work) in consumers.iter().zip(work) {
        assert_eq!(consumer.layer, work.name);
        assert_eq!(consumer.multiplications * samples, work.multiplications, "{}", work.name);
        let zeros = work.zeros as f64 / work.inputs as f64;
        let (predicted, skipped) =
            (zeros * work.multiplications as f64, (work.multiplications - work.done) as f64);
        // Exact for a linear layer. The values at the edge of a map have fewer products in a convolution.
        let most = if work.name.starts_with("fc") { 1e-9 } else { 0.1 };
        assert!((predicted / skipped - 1.0).abs() < most, "{}: {predicted}, {skipped}", work.name);
        assert!((0.2..0.8).contains(&zeros), "{}: {zeros}", work.name);
    }
}

#[test]
fn threads_share_a_network() {
    let (_, network) = network("linear", &[("0", &[3, 16])], (1, 4, 4), STANDARD);
    let frozen = Frozen::new(&network).unwrap();
    let answer = || {
        let mut ys = [0.0; 3];
        frozen.run(&[1.0; 16], &mut ys, &mut frozen.scratch(1)).unwrap();
        ys
    };
    let (one, other) = std::thread::scope(|scope| {
        (scope.spawn(answer).join().unwrap(), scope.spawn(answer).join().unwrap())
    });
    assert_eq!(one, other);
}
