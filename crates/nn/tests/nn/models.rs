//! The models: PyTorch's names and shapes, sites in order, one line for every size that makes no sense.

use candle_core::Tensor;
use taper_hooks::{Observer, Pass, Recorder};
use taper_nn::{
    Activation, Cnn, CnnConfig, Conv2d, Conv2dConfig, Init, Linear, Mlp, MlpConfig, Model, Params,
};

use crate::{CPU, bits, eval, message, named, params, random, shapes};

fn mlp(config: &MlpConfig) -> (Mlp, Params) {
    let params = params();
    (Mlp::new(config, params.builder()).unwrap(), params)
}

fn cnn(config: &CnnConfig) -> (Cnn, Params) {
    let params = params();
    (Cnn::new(config, params.builder()).unwrap(), params)
}

/// Names of the sites of one pass, with the shapes of their values.
fn sites(model: &dyn Model, xs: &Tensor) -> Vec<(String, Vec<usize>)> {
    let mut sites = Vec::new();
    let mut observer = taper_hooks::observer_fn(|seen: &taper_hooks::Seen<'_>| {
        sites.push((seen.site.name().to_string(), seen.ys.dims().to_vec()));
        Ok(())
    });
    eval(model, &mut observer, xs);
    sites
}

#[test]
fn an_mlp_has_the_names_and_shapes_of_pytorch() {
    let (model, params) = mlp(&MlpConfig::default());
    let expected = named(&[
        ("fc1.weight", &[512, 784]),
        ("fc1.bias", &[512]),
        ("fc2.weight", &[256, 512]),
        ("fc2.bias", &[256]),
        ("fc3.weight", &[10, 256]),
        ("fc3.bias", &[10]),
    ]);
    assert_eq!(shapes(&params), expected);
    assert_eq!(params.count(), 535_818); // sum(p.numel() for p in model.parameters())
    let xs = random(1, &[3, 1, 28, 28]);
    assert_eq!(eval(&model, &mut (), &xs).dims(), [3, 10]);
    // The logits are no site: nothing is said about the output layer.
    assert_eq!(sites(&model, &xs), named(&[("fc1", &[3, 512]), ("fc2", &[3, 256])]));
}

#[test]
fn a_cnn_has_the_names_and_shapes_of_pytorch() {
    let (model, params) = cnn(&CnnConfig::default());
    let expected = named(&[
        ("conv1.weight", &[32, 1, 3, 3]),
        ("conv1.bias", &[32]),
        ("conv2.weight", &[64, 32, 3, 3]),
        ("conv2.bias", &[64]),
        ("fc1.weight", &[128, 9216]),
        ("fc1.bias", &[128]),
        ("fc2.weight", &[10, 128]),
        ("fc2.bias", &[10]),
    ]);
    assert_eq!(shapes(&params), expected);
    assert_eq!(params.count(), 1_199_882); // as PyTorch's MNIST example
    let xs = random(1, &[2, 1, 28, 28]);
    assert_eq!(eval(&model, &mut (), &xs).dims(), [2, 10]);
    let expected = named(&[("conv1", &[2, 32, 26, 26]), ("conv2", &[2, 64, 24, 24]), ("fc1", &[2, 128])]);
    assert_eq!(sites(&model, &xs), expected);
}

#[test]
fn softmax_regression_is_one_layer_without_a_site() {
    let (model, params) = mlp(&MlpConfig { inputs: 64, widths: vec![], ..MlpConfig::default() });
    assert_eq!(shapes(&params), named(&[("fc1.weight", &[10, 64]), ("fc1.bias", &[10])]));
    let xs = random(1, &[5, 1, 8, 8]);
    assert!(sites(&model, &xs).is_empty());
    let layer = Linear::new(64, 10, Init::LeCun, crate::params().builder().pp("fc1")).unwrap();
    let want = layer.forward(&xs.flatten_from(1).unwrap()).unwrap();
    assert_eq!(bits(&eval(&model, &mut (), &xs)), bits(&want));
}

#[test]
fn models_below_a_prefix_carry_it_in_parameters_and_sites() {
    let params = params();
    let config = CnnConfig { input: (1, 8, 8), channels: vec![2], widths: vec![3], ..CnnConfig::default() };
    let model = Cnn::new(&config, params.builder().pp("net")).unwrap();
    let names = [
        "net.conv1.weight",
        "net.conv1.bias",
        "net.fc1.weight",
        "net.fc1.bias",
        "net.fc2.weight",
        "net.fc2.bias",
    ];
    assert_eq!(params.names(), names);
    let sites = sites(&model, &random(1, &[1, 1, 8, 8]));
    assert_eq!(sites.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["net.conv1", "net.fc1"]);
}

#[test]
fn images_of_other_sizes_and_channels_fit() {
    for (input, last) in [((1, 8, 8), 64 * 2 * 2), ((3, 32, 32), 64 * 14 * 14), ((3, 9, 14), 64 * 2 * 5)] {
        let (model, params) = cnn(&CnnConfig { input, ..CnnConfig::default() });
        let fc1 = shapes(&params).into_iter().find(|(name, _)| name == "fc1.weight").unwrap();
        assert_eq!(fc1.1, [128, last], "{input:?}");
        let (c, h, w) = input;
        assert_eq!(eval(&model, &mut (), &random(1, &[2, c, h, w])).dims(), [2, 10]);
    }
}

#[test]
fn any_number_of_layers_will_do() {
    for (channels, widths, pool) in
        [(vec![], vec![], 1), (vec![], vec![5], 2), (vec![2, 3, 4], vec![], 2), (vec![2], vec![3, 4], 6)]
    {
        let config = CnnConfig { input: (1, 8, 8), channels, widths, pool, ..CnnConfig::default() };
        let (model, _) = cnn(&config);
        assert_eq!(eval(&model, &mut (), &random(1, &[2, 1, 8, 8])).dims(), [2, 10], "{config:?}");
        assert_eq!(eval(&model, &mut (), &random(1, &[0, 1, 8, 8])).dims(), [0, 10], "{config:?}");
    }
}

#[test]
fn widths_of_0_are_one_line_errors() {
    let base = MlpConfig { inputs: 4, widths: vec![3], ..MlpConfig::default() };
    for (config, what) in [
        (MlpConfig { inputs: 0, ..base.clone() }, "layer 'fc1': expected widths of at least 1, found 0→3"),
        (
            MlpConfig { widths: vec![3, 0], ..base.clone() },
            "layer 'fc2': expected widths of at least 1, found 3→0",
        ),
        (MlpConfig { classes: 0, ..base.clone() }, "layer 'fc2': expected widths of at least 1, found 3→0"),
        (MlpConfig { dropout: 1.0, ..base.clone() }, "dropout: expected a rate in [0, 1), found 1"),
        (MlpConfig { dropout: f64::NAN, ..base.clone() }, "dropout: expected a rate in [0, 1), found NaN"),
    ] {
        assert_eq!(message(Mlp::new(&config, params().builder())), what);
    }
}

#[test]
fn sizes_that_do_not_fit_the_image_are_one_line_errors() {
    let base = CnnConfig { input: (1, 8, 8), channels: vec![2, 3], widths: vec![4], ..CnnConfig::default() };
    let refused = |config: CnnConfig| message(Cnn::new(&config, params().builder()));
    let channels = "expected channels and kernel of at least 1";
    for (config, what) in [
        (CnnConfig { input: (0, 8, 8), ..base.clone() }, channels),
        (CnnConfig { channels: vec![2, 0], ..base.clone() }, channels),
        (CnnConfig { kernel: 0, ..base.clone() }, channels),
        (CnnConfig { input: (1, 0, 8), ..base.clone() }, "conv1: kernels of 3×3 do not fit an input of 0×8"),
        (CnnConfig { kernel: 9, ..base.clone() }, "conv1: kernels of 9×9 do not fit an input of 8×8"),
        (CnnConfig { kernel: 5, ..base.clone() }, "conv2: kernels of 5×5 do not fit an input of 4×4"),
        // Weights for this one would fill any memory.
        (CnnConfig { kernel: 1 << 31, ..base.clone() }, "conv1: kernels of"),
        (CnnConfig { pool: 0, ..base.clone() }, "pooling: expected a window of at least 1×1"),
        (CnnConfig { pool: 5, ..base.clone() }, "pooling: a window of 5×5 does not fit an input of 4×4"),
        (CnnConfig { widths: vec![0], ..base.clone() }, "layer 'fc1': expected widths of at least 1"),
        (CnnConfig { classes: 0, ..base.clone() }, "layer 'fc2': expected widths of at least 1"),
        (CnnConfig { dropout: -0.5, ..base.clone() }, "dropout: expected a rate in [0, 1), found -0.5"),
    ] {
        let error = refused(config);
        assert!(error.contains(what), "{error}");
    }
    let none = Conv2dConfig { kernel: (0, 3), ..Conv2dConfig::default() };
    assert!(message(Conv2d::new(1, 2, none, params().builder().pp("c"))).contains("layer 'c'"));
}

#[test]
fn images_that_do_not_fit_the_model_are_one_line_errors() {
    let forward = |model: &dyn Model, shape: &[usize]| {
        message(model.forward(&mut Pass::eval(&mut ()), &random(1, shape)))
    };
    let (mlp, _) = mlp(&MlpConfig::default());
    assert_eq!(forward(&mlp, &[2, 1, 8, 8]), "linear: expected inputs of 784 features, found shape [2, 64]");
    let (cnn, _) = cnn(&CnnConfig::default());
    assert_eq!(forward(&cnn, &[2, 3, 28, 28]), "conv2d: expected inputs of 1 channels, found 3");
}

#[test]
fn references_and_boxes_of_models_are_models() {
    let (model, _) = mlp(&MlpConfig { inputs: 4, widths: vec![3], ..MlpConfig::default() });
    let xs = random(1, &[2, 4]);
    let want = bits(&eval(&model, &mut (), &xs));
    assert_eq!(bits(&eval(&&model, &mut (), &xs)), want);
    assert_eq!(bits(&eval(&(Box::new(model) as Box<dyn Model>), &mut (), &xs)), want);
}

/// Makes a model of these parameters.
type Build<'a> = &'a dyn Fn(&Params) -> Box<dyn Model>;

/// Trains a few steps by hand; the bits of all logits on the way and of the weights at the end.
fn steps(build: Build<'_>, observer: &mut dyn Observer) -> Vec<Vec<u32>> {
    let params = params();
    let model = build(&params);
    let (xs, labels) = (random(2, &[6, 1, 8, 8]), Tensor::new(&[0_u32, 1, 2, 3, 4, 5], CPU).unwrap());
    let mut all = Vec::new();
    for step in 0..4 {
        let logits = model.forward(&mut Pass::train(observer, 5, step), &xs).unwrap();
        all.push(bits(&logits));
        let gradients = candle_nn::loss::cross_entropy(&logits, &labels).unwrap().backward().unwrap();
        for (name, var) in params.vars() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
            var.set(&(var.as_tensor() - (gradient * 0.1).unwrap()).unwrap().detach()).unwrap();
        }
    }
    all.extend(params.vars().iter().map(|(_, var)| bits(var)));
    all
}

#[test]
fn observing_changes_no_output_and_no_weight() {
    for activation in
        [Activation::Relu, Activation::Selu, Activation::Prelu { slope: 0.25 }, Activation::Identity]
    {
        let mlp = |params: &Params| -> Box<dyn Model> {
            let config = MlpConfig {
                inputs: 64,
                widths: vec![20, 10],
                activation,
                dropout: 0.3,
                ..Default::default()
            };
            Box::new(Mlp::new(&config, params.builder()).unwrap())
        };
        let cnn = |params: &Params| -> Box<dyn Model> {
            let config = CnnConfig {
                input: (1, 8, 8),
                channels: vec![4, 5],
                widths: vec![6],
                activation,
                dropout: 0.3,
                ..Default::default()
            };
            Box::new(Cnn::new(&config, params.builder()).unwrap())
        };
        for build in [&mlp as Build, &cnn] {
            let mut recorder = Recorder::new();
            let watched = steps(build, &mut recorder);
            assert_eq!(recorder.finish()[0].samples, 24);
            assert_eq!(watched, steps(build, &mut ()), "{activation}");
            assert_ne!(watched[0], watched[1], "the weights must move for this to say anything");
        }
    }
}

#[test]
fn dropout_in_a_model_does_not_change_its_sites() {
    // After an identity there are no zeros but those that dropout makes.
    let config = MlpConfig {
        inputs: 64,
        widths: vec![50, 40],
        activation: Activation::Identity,
        dropout: 0.5,
        ..Default::default()
    };
    let (model, _) = mlp(&config);
    let mut recorder = Recorder::new();
    model.forward(&mut Pass::train(&mut recorder, 1, 0), &random(1, &[30, 64])).unwrap();
    assert!(recorder.finish().iter().all(|site| site.zeros == 0));
}
