use taper_frozen::{Frozen, Scaling, Sequential};

use crate::network;

fn mlp() -> Sequential {
    network("linear, relu, linear", &[("0", &[4, 6]), ("2", &[3, 4])], (6, 1, 1), Scaling::default()).1
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    for odd in [f32::NAN, f32::INFINITY] {
        let mut network = mlp();
        network.parts[2].values.as_mut().unwrap().weight[5] = odd;
        let error = Frozen::new(&network).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("tensor '2.weight': expected finite values, found {odd}")),
            "{error}"
        );
    }
    let mut network = mlp();
    network.scaling.std = 1e-30;
    network.parts[0].values.as_mut().unwrap().weight[0] = 1e30;
    let error = Frozen::new(&network).unwrap_err().to_string();
    let expected =
        "layer '0' with scaling and batch normalisation folded in: weight: expected finite values, found inf";
    assert_eq!(error, expected);
}

#[test]
fn values_that_do_not_fit_their_layer_are_refused_by_name() {
    let mut network = mlp();
    network.parts[0].values.as_mut().unwrap().outputs = 5;
    let error = Frozen::new(&network).unwrap_err().to_string();
    assert_eq!(error, "tensor '0.weight': expected the values of shape [5, 6], found 24");
    let mut network = mlp();
    network.parts.remove(0);
    assert!(
        Frozen::new(&network)
            .unwrap_err()
            .to_string()
            .contains("tensor '2.weight': expected 6×1×1 = 6 inputs")
    );
    let mut network = mlp();
    network.parts[2].values = None;
    assert!(Frozen::new(&network).unwrap_err().to_string().contains("linear: expected its tensors"));
}

#[test]
fn samples_and_memory_that_do_not_fit_are_refused() {
    let frozen = Frozen::new(&mlp()).unwrap();
    let mut scratch = frozen.scratch(2);
    let error = frozen.run(&[0.0; 7], &mut [0.0; 3], &mut scratch).unwrap_err().to_string();
    assert_eq!(error, "expected samples of 6 inputs with 3 outputs each, found 7 inputs and 3 outputs");
    assert!(frozen.run(&[0.0; 12], &mut [0.0; 3], &mut scratch).is_err());
    frozen.run(&[], &mut [], &mut scratch).unwrap();
    let other = Frozen::new(&network("linear", &[("a", &[2, 6])], (6, 1, 1), Scaling::default()).1).unwrap();
    let error = frozen.run(&[0.0; 6], &mut [0.0; 3], &mut other.scratch(1)).unwrap_err().to_string();
    assert_eq!(error, "scratch: expected the scratch of this network, found another: call Frozen::scratch");
}

#[test]
fn the_scratch_of_a_network_with_fewer_units_is_refused() {
    let with = |channels: usize| {
        let shapes: [(&str, &[usize]); 2] = [("0", &[channels, 1, 3, 3]), ("2", &[3, channels * 36])];
        let text = "conv 3 pad 1, relu, linear";
        Frozen::new(&network(text, &shapes, (1, 6, 6), Scaling::default()).1).unwrap()
    };
    let (large, small) = (with(40), with(2));
    let (image, mut ys) = ([1.0; 36], [0.0; 3]);
    small.run(&image, &mut ys, &mut large.scratch(1)).unwrap();
    let error = large.run(&image, &mut ys, &mut small.scratch(1)).unwrap_err().to_string();
    assert_eq!(error, "scratch: expected the scratch of this network, found another: call Frozen::scratch");
}
