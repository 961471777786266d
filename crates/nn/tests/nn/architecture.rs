use candle_core::{DType, Device, Result, Tensor};
use taper_hooks::{Pass, Recorder};
use taper_nn::{Activation, Architecture, Cnn, CnnConfig, Mlp, MlpConfig, Model, Params, own_names};

type Tensors = Vec<(String, Vec<usize>)>;

fn tensors(layers: &[(&str, &[usize])]) -> Tensors {
    let both = |(name, weight): &(&str, &[usize])| {
        [(format!("{name}.weight"), weight.to_vec()), (format!("{name}.bias"), vec![weight[0]])]
    };
    layers.iter().flat_map(both).collect()
}

const INPUT: (usize, usize, usize) = (1, 28, 28);

/// The only arrangement.
fn infer(layers: &[(&str, &[usize])]) -> Result<Architecture> {
    let mut found = Architecture::arrangements(tensors(layers), INPUT, Activation::Relu)?;
    assert_eq!(found.len(), 1, "{layers:?}");
    Ok(found.remove(0))
}

fn arrangements(layers: &[(&str, &[usize])]) -> Vec<String> {
    let found = Architecture::arrangements(tensors(layers), INPUT, Activation::Relu).unwrap();
    found.iter().map(|network| network.layers().to_string()).collect()
}

fn error(layers: &[(&str, &[usize])]) -> String {
    Architecture::arrangements(tensors(layers), INPUT, Activation::Relu).unwrap_err().to_string()
}

#[test]
fn a_model_is_found_from_its_layers_and_tensors() {
    for activation in [Activation::Relu, Activation::Prelu { slope: 0.25 }] {
        for (channels, kernel, pool, widths) in [
            (vec![], 3, 2, vec![]),
            (vec![], 3, 2, vec![30, 20]),
            (vec![8, 16], 3, 2, vec![32]),
            (vec![4], 5, 1, vec![]),
            (vec![4, 4, 4], 3, 11, vec![9; 11]),
        ] {
            let params = Params::new(1, &Device::Cpu);
            let (input, classes) = ((1, 28, 28), 10);
            match channels.is_empty() {
                true => {
                    let config = MlpConfig { widths, activation, ..Default::default() };
                    Mlp::new(&config, params.builder()).map(drop).unwrap();
                }
                false => {
                    let config = CnnConfig {
                        input,
                        channels: channels.clone(),
                        kernel,
                        pool,
                        widths,
                        classes,
                        activation,
                        ..Default::default()
                    };
                    Cnn::new(&config, params.builder()).map(drop).unwrap();
                }
            }
            let shapes = |params: &Params| -> Tensors {
                params.vars().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
            };
            let found = Architecture::arrangements(shapes(&params), input, activation).unwrap();
            let text = match (&channels[..], kernel, pool) {
                ([], ..) => "",
                ([8, 16], ..) => "cnn 8-16-pool-32-10",
                ([4], ..) => "cnn 4-pool1-10, kernels 5×5",
                _ => "cnn 4-4-4-pool11-9-9-9-9-9-9-9-9-9-9-9-10",
            };
            let is_it = |network: &&Architecture| text.is_empty() || network.to_string() == text;
            let network = found.iter().find(is_it).unwrap();
            let again = Params::new(2, &Device::Cpu);
            network.build(again.builder()).map(drop).unwrap();
            assert_eq!(shapes(&again), shapes(&params), "{network}");
        }
    }
}

#[test]
fn numbers_and_prefixes_are_names_too_and_ten_comes_after_nine() {
    let mut layers: Vec<(String, Vec<usize>)> = (1..=10).map(|i| (format!("net.{i}"), vec![5, 5])).collect();
    layers[0].1 = vec![5, 784];
    layers[9].1 = vec![10, 5];
    let layers: Vec<(&str, &[usize])> = layers.iter().map(|(n, s)| (&n[..], &s[..])).collect();
    let network = infer(&layers).unwrap();
    assert_eq!(network.to_string(), "mlp 784-5-5-5-5-5-5-5-5-5-10");
    let params = Params::new(1, &Device::Cpu);
    network.build(params.builder()).map(drop).unwrap();
    assert_eq!(params.names()[18], "net.10.weight");
    let cnn = infer(&[("0", &[8, 1, 5, 5]), ("4", &[32, 8 * 12 * 12]), ("6", &[10, 32])]).unwrap();
    assert_eq!(cnn.to_string(), "cnn 8-pool-32-10, kernels 5×5");
    assert_eq!(cnn.names()[1], ("fc1".to_string(), "4".to_string()));
}

#[test]
fn names_of_other_programs_are_layers_in_order() {
    for (first, second) in [
        ("fc1", "fc2"),
        ("linear1", "linear2"),
        ("ln1", "ln2"),
        ("m.fc1", "m.fc"),
        ("fc1", "out"),
        ("0", "3"),
    ] {
        let network = infer(&[(second, &[10, 8]), (first, &[8, 784])]).unwrap();
        let names: Vec<_> = network.names().iter().map(|(_, theirs)| theirs.as_str()).collect();
        assert_eq!((network.to_string().as_str(), &names[..]), ("mlp 784-8-10", &[first, second][..]));
        let file = tensors(&[(second, &[10, 8]), (first, &[8, 784])]);
        let own = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(String::from);
        assert_eq!(own_names(&file, &own), ["fc2.weight", "fc2.bias", "fc1.weight", "fc1.bias"]);
    }
    // A wrapper around any model; where names fit as they are, they stay.
    let file = tensors(&[("module._orig_mod.encoder.up", &[4, 4])]);
    assert_eq!(own_names(&file, &["encoder.up.weight".into()])[0], "encoder.up.weight");
    let file = tensors(&[("0", &[4, 4]), ("2", &[4, 4])]);
    assert_eq!(own_names(&file, &["0.weight".into()])[0], "0.weight");
    assert!(error(&[("fc1", &[8, 784]), ("linear1", &[10, 8])]).contains("'fc1' there too"));
}

#[test]
fn a_network_with_k_winners_is_refused_by_the_name_of_its_buffer() {
    let file = [("fc1.weight", vec![8, 784]), ("fc1.duty_cycle", vec![8]), ("fc2.weight", vec![10, 8])];
    let error = Architecture::arrangements(file, INPUT, Activation::Relu).unwrap_err().to_string();
    assert!(error.contains("tensor 'fc1.duty_cycle': expected a network without k-winners"), "{error}");
}

#[test]
fn batch_normalisation_may_be_on_either_side_of_the_activation() {
    let tensors = [
        ("2.num_batches_tracked", vec![]),
        ("2.running_mean", vec![8]),
        ("2.running_var", vec![8]),
        ("2.weight", vec![8]),
        ("2.bias", vec![8]),
        ("1.weight", vec![8, 784]),
        ("4.weight", vec![10, 8]),
        ("4.bias", vec![10]),
    ];
    let found = Architecture::arrangements(tensors.clone(), INPUT, Activation::Relu).unwrap();
    let texts: Vec<String> = found.iter().map(|network| network.layers().to_string()).collect();
    assert_eq!(texts, ["linear, batch_norm, relu, linear", "linear, relu, batch_norm, linear"]);
    let params = Params::new(1, &Device::Cpu);
    found[0].build(params.builder()).map(drop).unwrap();
    // A layer without a bias in the file has none here.
    assert_eq!(params.names(), ["1.weight", "2.weight", "2.bias", "4.weight", "4.bias"]);
    let without = Architecture::new(&"linear, relu, linear".parse().unwrap(), tensors, INPUT);
    assert!(without.unwrap_err().to_string().contains("'2.weight' [8]: expected no more layers"));
}

#[test]
fn of_several_arrangements_that_fit_none_is_left_out() {
    let between: [(&str, &[usize]); 3] =
        [("conv1", &[4, 1, 5, 5]), ("conv2", &[6, 4, 5, 5]), ("fc1", &[10, 96])];
    assert_eq!(
        arrangements(&between),
        [
            "conv 5, relu, conv 5, relu, max_pool 5, linear",
            "conv 5 pad 2, relu, conv 5 pad 2, relu, max_pool 6, linear",
            "conv 5 pad 2, relu, conv 5 pad 2, relu, max_pool 7, linear",
            "conv 5, relu, max_pool 2, conv 5, relu, max_pool 2, linear",
        ]
    );
    let behind: [(&str, &[usize]); 3] =
        [("conv1", &[3, 1, 3, 3]), ("conv2", &[4, 3, 3, 3]), ("fc1", &[10, 576])];
    assert_eq!(arrangements(&behind), ["conv 3, relu, conv 3, relu, max_pool 2, linear"]);
}

#[test]
fn layers_that_are_given_take_the_files_tensors_in_order() {
    let layers = "conv 5 pad 2, relu, max_pool 2, conv 3x5 stride 2, relu, global_avg_pool, dropout 0.5, linear, relu, linear";
    let file = tensors(&[
        ("features.10", &[6, 4, 3, 5]),
        ("features.2", &[4, 1, 5, 5]),
        ("classifier.1", &[10, 7]),
        ("classifier.0", &[7, 6]),
    ]);
    let network = Architecture::new(&layers.parse().unwrap(), file, INPUT).unwrap();
    assert_eq!((network.to_string().as_str(), network.classes()), (layers, 10));
    let names: Vec<&str> = network.names().iter().map(|(_, theirs)| theirs.as_str()).collect();
    assert_eq!(names, ["features.2", "features.10", "classifier.0", "classifier.1"]);
    let params = Params::new(1, &Device::Cpu);
    let model = network.build(params.builder()).unwrap();
    let mut recorder = Recorder::new();
    let xs = Tensor::ones((2, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
    let ys = model.forward(&mut Pass::eval(&mut recorder), &xs).unwrap();
    let sites: Vec<String> = recorder.finish().iter().map(|layer| layer.site.clone()).collect();
    assert_eq!((ys.dims(), sites), (&[2, 10][..], ["conv1", "conv2", "fc1"].map(String::from).to_vec()));
}

#[test]
fn a_consumer_reads_the_values_of_a_site_unchanged() {
    let layers = "relu, conv 3 stride 2, relu, dropout 0.5, conv 3 pad 1, relu, tanh, max_pool 2, linear, relu, linear, \
                  relu, batch_norm, linear";
    let mut file = tensors(&[
        ("conv1", &[4, 1, 3, 3]),
        ("conv2", &[6, 4, 3, 3]),
        ("fc1", &[7, 6 * 6 * 6]),
        ("fc2", &[5, 7]),
        ("fc3", &[10, 5]),
    ]);
    file.extend(
        ["weight", "bias", "running_mean", "running_var"].map(|part| (format!("norm.{part}"), vec![5])),
    );
    let network = Architecture::new(&layers.parse().unwrap(), file, INPUT).unwrap();
    let found = network.consumers();
    let found: Vec<_> =
        found.iter().map(|of| (of.site.as_str(), of.layer.as_str(), of.multiplications)).collect();
    // conv1: 13 × 13 windows of 9 pixels. conv2: 13 × 13 windows, of 3 pixels in each direction, of 2 at an edge.
    let expected =
        [("input", "conv1", 13 * 13 * 9 * 4), ("conv1", "conv2", 37 * 37 * 4 * 6), ("fc1", "fc2", 7 * 5)];
    assert_eq!(found, expected);
}

#[test]
fn layers_that_do_not_fit_are_answered_with_the_tensor_or_the_layer() {
    let file = || tensors(&[("conv1", &[4, 1, 5, 5]), ("fc1", &[10, 4 * 14 * 14])]);
    for (layers, says) in [
        ("conv 3, relu, linear", "'conv1.weight': expected kernels of 3×3"),
        (
            "conv 5, relu, max_pool 2, linear",
            "'fc1.weight': expected 4×12×12 = 576 inputs, found shape [10, 784]",
        ),
        ("conv 5 pad 2, relu, max_pool 29, linear", "max_pool 29: expected at least 29×29 pixels"),
        ("linear, conv 5", "conv 5: expected maps before it"),
        ("conv 5 pad 2, relu, max_pool 2", "expected no more layers"),
        ("conv 5 pad 2, relu, max_pool 2, linear, relu, linear", "layer 6, linear: expected its tensors"),
        ("conv 5 pad 2, flatten, max_pool 2, linear", "max_pool 2: expected maps before it"),
        ("conv 5 pad 2, prelu, max_pool 2, linear", "no slopes"),
    ] {
        let error = Architecture::new(&layers.parse().unwrap(), file(), INPUT).unwrap_err().to_string();
        assert!(error.contains(says), "{layers}: {error}");
    }
    let slopes: Tensors =
        [tensors(&[("0", &[8, 784]), ("2", &[10, 8])]), vec![("1.weight".into(), vec![1])]].concat();
    let prelu = Architecture::new(&"linear, prelu, linear".parse().unwrap(), slopes.clone(), INPUT).unwrap();
    let params = Params::new(1, &Device::Cpu);
    prelu.build(params.builder()).map(drop).unwrap();
    assert_eq!(params.names()[2], "1.weight");
    let error =
        Architecture::new(&"linear, relu, linear".parse().unwrap(), slopes.clone(), INPUT).unwrap_err();
    assert!(error.to_string().contains("'1': the file has slopes"), "{error}");
    assert_eq!(Architecture::activation(slopes).unwrap(), Some(Activation::Prelu { slope: 0.25 }));
    assert_eq!(Architecture::activation(file()).unwrap(), None);
    assert_eq!(Architecture::activation(tensors(&[("fc", &[10, 784])])).unwrap(), Some(Activation::Identity));
}

#[test]
fn what_is_no_such_network_is_answered_with_the_tensor_that_does_not_fit() {
    assert!(error(&[]).contains("found none"));
    assert!(error(&[("encoder", &[8, 784]), ("fc2", &[10, 8])]).contains("'encoder' there too"));
    assert!(error(&[("fc1", &[8, 100])]).contains("expected 1×28×28 = 784 inputs, found shape [8, 100]"));
    assert!(error(&[("fc1", &[8, 784]), ("fc2", &[10, 9])]).contains("expected 8 inputs"));
    assert!(error(&[("fc1", &[8, 784]), ("fc3", &[10, 8])]).contains("'fc3.weight': expected 'fc2' to come"));
    assert!(error(&[("fc2", &[8, 784])]).contains("'fc1' to come next"));
    assert!(error(&[("conv1", &[8, 3, 3, 3]), ("fc1", &[10, 8])]).contains("1 input channels"));
    assert!(error(&[("conv1", &[8, 1, 30, 30]), ("fc1", &[10, 8])]).contains("at least 30×30 pixels"));
    assert!(error(&[("conv1", &[8, 1, 3, 3])]).contains("fully connected layer at the end"));
    assert!(error(&[("0", &[8, 784]), ("1", &[8])]).contains("'1.weight'"));
    assert!(error(&[("fc1", &[0, 784])]).contains("at least 1"));
    assert!(error(&[("a.fc1", &[8, 784]), ("b.fc2", &[10, 8])]).contains("in order"));
    assert!(error(&[("fc", &[8, 784]), ("out", &[10, 8])]).contains("in order"));
    let infer = |tensors: &[(&str, Vec<usize>)]| {
        Architecture::arrangements(tensors.to_vec(), INPUT, Activation::Relu).map_err(|e| e.to_string())
    };
    assert!(infer(&[("fc1.bias", vec![8])]).unwrap_err().contains("'fc1.weight', found none"));
    assert!(
        infer(&[("fc1.weight", vec![8, 784]), ("fc1.bias", vec![7])]).unwrap_err().contains("[8], found [7]")
    );
    assert!(infer(&[("fc1.weight", vec![]), ("fc1.bias", vec![])]).is_err());
    assert!(infer(&[("fc1", vec![8, 784])]).is_err());
}
