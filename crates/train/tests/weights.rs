//! Files of weights that do not fit as they are: parts of a model, other types, other names, other formats; and PyTorch.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use taper_nn::{Cnn, CnnConfig, Mlp, MlpConfig, Params};
use taper_train::{LoadConfig, Misshapen, load_matching, load_weights, save_weights};

/// 64-6-10, from a seed.
fn net(seed: u64) -> Params {
    let params = Params::new(seed, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![6], ..Default::default() };
    Mlp::new(&config, params.builder()).map(drop).unwrap();
    params
}

fn bits(params: &Params) -> Vec<Vec<u32>> {
    let bits = |var: &Var| {
        var.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
    };
    params.vars().iter().map(|(_, var)| bits(var)).collect()
}

/// Writes tensors of these names, types, shapes and bytes.
fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let view = |(name, dtype, shape, bytes): &'_ (&str, Dtype, &[usize], Vec<u8>)| {
        (name.to_string(), *dtype, shape.to_vec(), bytes.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The tensors of `params` under other names, converted by `bytes`.
fn write_as(
    params: &Params,
    path: &Path,
    name: &dyn Fn(&str) -> String,
    dtype: Dtype,
    bytes: &dyn Fn(f32) -> Vec<u8>,
) {
    let vars = params.vars();
    let names: Vec<String> = vars.iter().map(|(own, _)| name(own)).collect();
    let of = |(i, (_, var)): (usize, &'_ (String, Var))| {
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (i, var.dims().to_vec(), values.into_iter().flat_map(bytes).collect::<Vec<u8>>())
    };
    let all: Vec<_> = vars.iter().enumerate().map(of).collect();
    let tensors: Vec<_> =
        all.iter().map(|(i, s, b)| (names[*i].as_str(), dtype, &s[..], b.clone())).collect();
    write(path, &tensors);
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    (dir, path)
}

#[test]
fn what_matches_is_loaded_and_everything_else_is_reported() {
    let (_dir, path) = temporary();
    let source = net(1);
    let names = |own: &str| own.replace("fc2.bias", "head.bias");
    write_as(&source, &path, &names, Dtype::F32, &|x| x.to_le_bytes().to_vec());
    let params = Params::new(2, &Device::Cpu);
    let config = MlpConfig { inputs: 64, widths: vec![6], classes: 5, ..Default::default() };
    Mlp::new(&config, params.builder()).map(drop).unwrap();
    let before = bits(&params);
    let loaded = load_matching(&params, &path).unwrap();
    assert_eq!(loaded.loaded, ["fc1.weight", "fc1.bias"]);
    assert_eq!(loaded.missing, ["fc2.bias"]);
    assert_eq!(loaded.unexpected, ["head.bias"]);
    let (expected, found) = (vec![5, 6], vec![10, 6]);
    assert_eq!(loaded.misshapen, [Misshapen { name: "fc2.weight".into(), expected, found }]);
    assert_eq!(bits(&params)[..2], bits(&source)[..2]);
    assert_eq!(bits(&params)[2..], before[2..]);
    // Of nothing that matches, nothing is loaded in silence.
    write(&path, &[("encoder", Dtype::F32, &[2], vec![0; 8])]);
    let error = load_matching(&params, &path).unwrap_err().to_string();
    assert!(error.contains("fc1.weight") && error.contains("found only encoder"), "{error}");
}

#[test]
fn other_types_are_converted_on_request_and_refused_with_the_name_of_the_option() {
    let (_dir, path) = temporary();
    let (params, own) = (net(1), |name: &str| name.to_string());
    // Rounded to bf16, so that every type can hold the values.
    for (_, var) in params.vars() {
        let rounded =
            var.to_dtype(candle_core::DType::BF16).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        var.set(&rounded).unwrap();
    }
    let bf16 = |x: f32| x.to_bits().to_le_bytes()[2..].to_vec();
    let f64 = |x: f32| f64::from(x).to_le_bytes().to_vec();
    for (dtype, bytes) in [(Dtype::BF16, &bf16 as &dyn Fn(f32) -> Vec<u8>), (Dtype::F64, &f64)] {
        write_as(&params, &path, &own, dtype, bytes);
        let other = net(2);
        let before = bits(&other);
        let error = load_weights(&other, &path).unwrap_err().to_string();
        assert!(error.contains(&format!("found {dtype:?}")) && error.contains("option convert"), "{error}");
        assert_eq!(bits(&other), before);
        LoadConfig { convert: true, ..Default::default() }.load(&other, &path).unwrap();
        assert_eq!(bits(&other), bits(&params), "{dtype:?}");
    }
    // Half floats: 1, 1.5 and the smallest positive number, 2^-24.
    write(
        &path,
        &[("fc1.bias", Dtype::F16, &[6], [0x3c00_u16, 0x3e00, 1, 0, 0, 0].map(u16::to_le_bytes).concat())],
    );
    let other = net(2);
    LoadConfig { convert: true, matching: true }.load(&other, &path).unwrap();
    let bias = other.vars()[1].1.to_vec1::<f32>().unwrap();
    assert_eq!(bias[..3], [1.0, 1.5, 2.0_f32.powi(-24)]);
    // Integers are no weights, with or without the option.
    write(&path, &[("fc1.bias", Dtype::I64, &[6], vec![0; 48])]);
    let error = LoadConfig { convert: true, matching: true }.load(&other, &path).unwrap_err().to_string();
    assert!(error.contains("expected f32, found I64") && !error.contains("convert"), "{error}");
}

#[test]
fn a_counter_of_batches_is_accepted_next_to_running_statistics() {
    let (_dir, path) = temporary();
    let params = Params::new(1, &Device::Cpu);
    candle_nn::batch_norm(2, 1e-5, params.builder().pp("bn")).map(drop).unwrap();
    let two = |x: f32| [x, x].map(f32::to_le_bytes).concat();
    let tensor = |name, x| (name, Dtype::F32, &[2_usize][..], two(x));
    let counter = ("bn.num_batches_tracked", Dtype::I64, &[][..], 7_i64.to_le_bytes().to_vec());
    let tensors = [
        tensor("bn.weight", 2.0),
        tensor("bn.bias", 3.0),
        tensor("bn.running_mean", 4.0),
        tensor("bn.running_var", 5.0),
    ];
    write(&path, &[&tensors[..], &[counter]].concat());
    load_weights(&params, &path).unwrap();
    for (name, var) in params.vars() {
        let expected = [("weight", 2.0), ("bias", 3.0), ("mean", 4.0), ("var", 5.0)];
        let (_, expected) = expected.into_iter().find(|(end, _)| name.ends_with(end)).unwrap();
        assert_eq!(var.to_vec1::<f32>().unwrap(), [expected; 2], "{name}");
    }
}

#[test]
fn names_of_other_programs_give_the_same_bits() {
    let (_dir, path) = temporary();
    let source = net(1);
    for (first, second) in [
        ("0", "2"),
        ("ln1", "ln2"),
        ("linear1", "linear2"),
        ("module.fc1", "module.fc2"),
        ("net.fc1", "net.out"),
    ] {
        let names = |own: &str| own.replace("fc1", first).replace("fc2", second);
        write_as(&source, &path, &names, Dtype::F32, &|x| x.to_le_bytes().to_vec());
        let other = net(2);
        load_weights(&other, &path).unwrap();
        assert_eq!(bits(&other), bits(&source), "{first}");
    }
}

#[test]
fn other_formats_are_recognised_by_their_first_bytes() {
    let (_dir, path) = temporary();
    for (start, says) in [
        (&b"PK\x03\x04\x00\x00\x08\x08"[..], "torch.save"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ] {
        std::fs::write(&path, [start, &[b'x'; 99]].concat()).unwrap();
        let error = load_weights(&net(1), &path).unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
    }
}

/// Without a subscriber for `tracing`, which no program of the manual sets.
#[test]
fn a_warning_reaches_the_console() {
    let (_dir, path) = temporary();
    if std::env::var_os("WARN_IN_CHILD").is_some() {
        let params = net(1);
        params.vars()[1].1.set(&candle_core::Tensor::full(f32::NAN, 6, &Device::Cpu).unwrap()).unwrap();
        save_weights(&params, &path).unwrap();
        return load_weights(&params, &path).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["a_warning_reaches", "--nocapture"]).env("WARN_IN_CHILD", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("warning: ") && text.contains("'fc1.bias': 6 of 6 values are NaN"), "{text}");
}

/// The network of `state_dict.py`.
fn of_pytorch(seed: u64) -> Params {
    let params = Params::new(seed, &Device::Cpu);
    let config = CnnConfig { input: (1, 8, 8), channels: vec![3, 4], widths: vec![6], ..Default::default() };
    Cnn::new(&config, params.builder()).map(drop).unwrap();
    params
}

#[test]
fn names_types_and_shapes_are_those_of_a_state_dict() {
    let (_dir, path) = temporary();
    save_weights(&of_pytorch(1), &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let golden: Value = serde_json::from_str(include_str!("state_dict.json")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), golden.as_object().unwrap().len());
    for (name, tensor) in file.iter() {
        assert_eq!(tensor.dtype(), Dtype::F32);
        assert_eq!(golden[name], serde_json::json!(["float32", tensor.shape()]), "{name}");
    }
}

/// With the Python of `TAPER_PYTHON`, or `python3`, if it has PyTorch.
#[test]
fn load_state_dict_is_strict_in_both_directions() {
    let python = std::env::var("TAPER_PYTHON").unwrap_or("python3".into());
    let can = Command::new(&python).args(["-c", "import torch, safetensors.torch"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: {python} has no torch and safetensors; TAPER_PYTHON may name another");
    }
    let (dir, path) = temporary();
    let (source, back) = (of_pytorch(1), dir.path().join("back.safetensors"));
    save_weights(&source, &path).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state_dict.py");
    let mut command = Command::new(&python);
    let output = command.arg(script).arg("through").args([&path, &back]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let other = of_pytorch(2);
    load_weights(&other, &back).unwrap();
    assert_eq!(bits(&other), bits(&source));
}
