use super::{one_line, with_file};
use candle_core::Device;
use taper::nn::{Activation, Architecture, Mlp, MlpConfig, Params};
use taper::train::{Error, load_weights, save_weights, weight_shapes};

/// A file of weights: the network that it is of, if any, and the values, into that network and into a fixed one.
pub fn check(bytes: &[u8]) {
    with_file(bytes, |path| {
        let params = Params::new(1, &Device::Cpu);
        let config = MlpConfig { inputs: 4, widths: vec![3], classes: 2, ..Default::default() };
        let _net = Mlp::new(&config, params.builder()).expect("a small network");
        let before = bits(&params);
        if let Err(error) = load_weights(&params, path) {
            one_line(&error);
            assert_eq!(bits(&params), before, "a file that does not fit changes nothing");
        }

        let shapes = match weight_shapes(path) {
            Ok(shapes) => shapes,
            Err(error) => return one_line(&error),
        };
        let values: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        // The smallest type has four bits.
        assert!(values <= 2 * bytes.len(), "{values} values in {} bytes", bytes.len());
        let activation = Architecture::activation(shapes.clone()).ok().flatten().unwrap_or(Activation::Relu);
        let network = match Architecture::arrangements(shapes, (1, 2, 2), activation) {
            Ok(found) => found.into_iter().next().expect("no error means that one fits"),
            // An error of candle may contain a backtrace, which `Error` removes.
            Err(error) => return one_line(&Error::from(error)),
        };
        let params = Params::new(1, &Device::Cpu);
        let built = network.build(params.builder());
        if built.is_ok() && load_weights(&params, path).is_ok() {
            // A round trip keeps every bit.
            let (first, again) = (bits(&params), path.with_extension("again"));
            save_weights(&params, &again).expect("a temporary file");
            load_weights(&params, &again).expect("its own file");
            assert_eq!(bits(&params), first);
        }
    });
}

fn bits(params: &Params) -> Vec<Vec<u32>> {
    let values = |var: &candle_core::Var| var.flatten_all().and_then(|t| t.to_vec1::<f32>());
    let all = params.vars().into_iter().map(|(_, var)| values(&var).expect("f32 on the CPU"));
    all.map(|values| values.iter().map(|x| x.to_bits()).collect()).collect()
}
