use std::collections::HashMap;
use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use taper_frozen::{Frozen, Scaling, Sequential};

use crate::{Numbers, network};

fn example() -> Sequential {
    let shapes: [(&str, &[usize]); 4] =
        [("conv1", &[3, 2, 3, 3]), ("norm", &[3]), ("slope", &[1]), ("fc1", &[4, 48])];
    network(
        "conv 3 pad 1, batch_norm eps 1e-3, prelu, linear",
        &shapes,
        (2, 4, 4),
        Scaling { mean: 0.1, std: 0.3 },
    )
    .1
}

#[test]
fn a_file_gives_the_same_network_and_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.safetensors");
    let network = example();
    network.save(&path).unwrap();
    assert_eq!(Sequential::load(&path).unwrap(), network);
    let xs = Numbers::new(2).some(32, 0.5);
    let [before, after] = [Frozen::new(&network).unwrap(), Frozen::load(&path).unwrap()].map(|frozen| {
        let mut ys = [0.0; 4];
        frozen.run(&xs, &mut ys, &mut frozen.scratch(1)).unwrap();
        ys.map(f32::to_bits)
    });
    assert_eq!(before, after);
    let bytes = fs::read(&path).unwrap();
    let names =
        SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_string).collect::<Vec<_>>();
    assert!(names.contains(&"norm.running_var".to_string()) && names.contains(&"conv1.weight".to_string()));
}

/// The message for a file that was changed.
fn error(
    change: impl Fn(&mut HashMap<String, String>, &mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>),
) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.safetensors");
    example().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, of)| (name.to_string(), of.dtype(), of.shape().to_vec(), of.data().to_vec()))
        .collect();
    change(&mut metadata, &mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    let error = Sequential::load(&path).unwrap_err().to_string();
    assert!(!error.contains('\n'));
    error.split_once("net.safetensors: ").unwrap().1.to_string()
}

#[test]
fn a_file_of_another_kind_version_or_type_is_refused_in_one_line() {
    let header = |text: &str| {
        let text = text.to_string();
        error(move |metadata, _| _ = metadata.insert("taper_frozen".to_string(), text.clone()))
    };
    assert_eq!(
        header(r#"{"v": 2, "new": true}"#),
        "expected version 1 of 'taper_frozen', found 2: read it with the version of Taper that wrote it"
    );
    assert!(header("{").starts_with("metadata 'taper_frozen': EOF"));
    assert!(
        header(r#"{"v":1,"layers":"conv 3 pod","input":[2,4,4],"mean":0,"std":1}"#)
            .contains("column 8: expected pad")
    );
    assert!(header(r#"{"v":1,"layers":"linear","input":[2,4,4],"mean":0,"std":1}"#).contains("tensor"));
    let layers = r#"{"v":1,"layers":"conv 3 pad 1, batch_norm eps 1e-3, prelu, linear","input":[2,4,4],"mean":0,"std":0}"#;
    assert!(header(layers).starts_with("scaling: expected a finite mean and a standard deviation above 0"));
    assert!(error(|metadata, _| metadata.clear()).contains("found no metadata 'taper_frozen'"));
    let half = error(|_, tensors| {
        let (.., dtype, _, data) = &mut tensors[0];
        *dtype = Dtype::F16;
        data.truncate(data.len() / 2);
    });
    assert!(half.contains("expected F32, found F16: convert it in PyTorch with .float()"), "{half}");
    let nan = error(|_, tensors| tensors[0].3[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(nan.contains("expected finite values, found NaN"), "{nan}");
}

#[test]
fn a_file_that_is_no_safetensors_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    assert!(Sequential::load(&path).unwrap_err().to_string().contains("cannot read the network"));
    for bytes in [&b""[..], b"PK\x03\x04", &[0xff; 100]] {
        fs::write(&path, bytes).unwrap();
        let error = Sequential::load(&path).unwrap_err().to_string();
        assert!(error.contains("found no safetensors file"), "{error}");
    }
}
