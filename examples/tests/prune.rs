//! The example `prune` as a program: networks of digits with dead and constant units, its numbers, its file, and its errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, at_home, example, one_line, run, succeed};
use safetensors::tensor::{SafeTensors, TensorView};
use tempfile::tempdir;

fn prune(dir: &Path, args: &str) -> Ran {
    run(at_home(example("prune"), dir, args))
}

#[track_caller]
fn works(dir: &Path, args: &str) -> String {
    let ran = prune(dir, args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args}\n{}", ran.out);
    ran.out
}

fn train(dir: &Path, name: &str, args: &str) {
    succeed(dir, &format!("--dataset digits --epochs 2 --quiet --dropout 0 --out {name} {args}"));
}

/// Changes the values of one tensor in the weights of a run.
fn change(dir: &Path, name: &str, tensor: &str, change: impl Fn(&mut [f32])) {
    let path = dir.join(name).join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let mut data = view.data().to_vec();
        if name == tensor {
            let mut values: Vec<f32> =
                data.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
            change(&mut values);
            data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        (name.to_string(), view.dtype(), view.shape().to_vec(), data)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

/// The columns of a table row after the first one, which is `name`.
#[track_caller]
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("'{name}' in\n{text}")).split_whitespace().collect()
}

#[test]
fn dead_units_of_a_network_of_digits_go_without_changing_a_bit() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 40,30");
    // Two units that no image can wake, one of which is 1 all the time, and one that the digits do not wake.
    change(dir.path(), "mlp", "fc1.bias", |bias| (bias[3], bias[5]) = (-1000.0, -1000.0));
    change(dir.path(), "mlp", "fc2.weight", |weight| weight[7 * 40..8 * 40].fill(0.0));
    change(dir.path(), "mlp", "fc2.bias", |bias| bias[7] = 1.0);
    let text = works(dir.path(), "mlp --out small.safetensors");
    assert!(
        text.contains("1,437 images of digits train are given, 360 images of digits test are others"),
        "{text}"
    );
    let same = ["the", "same", "bits"];
    let dead = row(&text, "dead for every image in [0, 1]");
    assert_eq!((dead[0], &dead[1..4], &dead[4..]), ("-2", &same[..], &same[..]), "{text}");
    assert_eq!(row(&text, "dead on the given images")[1..4], same);
    let constant = row(&text, "constant for every image");
    assert_eq!((constant[0], constant[1]), ("-1", "0"), "{text}");
    assert_eq!(row(&text, "constant on the given images")[0], "-0");
    let units = row(&text, "units of fc2");
    assert_eq!(units[0], "30");
    assert!(units[1].parse::<usize>().unwrap() <= 29);
    let accuracy = row(&text, "accuracy on the given");
    assert_eq!(accuracy[0], accuracy[2], "{text}");
    assert!(text.ends_with("written to small.safetensors\n"));

    let bytes = fs::metadata(dir.path().join("small.safetensors")).unwrap().len();
    assert_eq!(row(&text, "bytes of the file")[1].replace(',', ""), bytes.to_string());
    let again = works(dir.path(), "small.safetensors --dataset digits");
    assert_eq!(row(&again, "parameters")[0], row(&text, "parameters")[1]);
    assert_eq!(row(&again, "parameters")[1], row(&text, "parameters")[1]);
    let infer = run(at_home(example("infer"), dir.path(), "small.safetensors --dataset digits"));
    assert_eq!(infer.code, Some(0), "{}", infer.err);
    assert!(
        infer.out.contains(&format!("accuracy {} %", row(&text, "accuracy on the others")[2])),
        "{}",
        infer.out
    );
}

#[test]
fn without_images_only_what_is_proven_goes() {
    let dir = tempdir().unwrap();
    train(dir.path(), "cnn", "--model cnn --channels 6,8");
    change(dir.path(), "cnn", "conv1.bias", |bias| bias[2] = -1000.0);
    let text = works(dir.path(), "cnn --images none");
    assert!(text.contains("no images are given, 360 images of digits test are others"), "{text}");
    assert_eq!(row(&text, "dead for every image in [0, 1]"), ["-1", "-", "the", "same", "bits"], "{text}");
    assert!(!text.contains("\ndead on the given"));
    assert_eq!(row(&text, "units of conv1"), ["6", "5"]);
    let all = works(dir.path(), "cnn --images all");
    assert!(
        all.contains("1,797 images of digits train and digits test are given, no images are others"),
        "{all}"
    );
}

#[test]
fn dormant_units_cost_accuracy_that_is_shown() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 40,30");
    let text = works(dir.path(), "mlp --dormant 0.9");
    let dormant = row(&text, "dormant at 0.9");
    assert!(dormant[0].starts_with('-') && dormant[0] != "-0" && dormant[2].starts_with("changed"), "{text}");
    let [before, after] = [0, 2].map(|at| row(&text, "accuracy on the given")[at].parse::<f64>().unwrap());
    assert!(after < before, "{text}");
    // An activation that is never 0 has no dead units, but some that do little.
    train(dir.path(), "selu", "--widths 40 --act selu");
    assert_ne!(row(&works(dir.path(), "selu --dormant 0.9"), "dormant at 0.9")[0], "-0");
}

#[test]
fn what_cannot_be_pruned_is_refused_in_one_line() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 16");
    for wrong in ["-1", "nan", "inf", "x"] {
        let ran = prune(dir.path(), &format!("mlp --dormant {wrong}"));
        one_line(&ran, 2, &["--dormant", "expected a finite number of at least 0"]);
    }
    one_line(&prune(dir.path(), "mlp --images some"), 2, &["train, test, all, none"]);
    one_line(
        &prune(dir.path(), "mlp --dormant 100"),
        1,
        &["--dormant 100: layer 'fc1': expected at least one unit to stay, found all 16"],
    );
    one_line(&prune(dir.path(), "mlp --out none/small.safetensors"), 1, &["--out: none/small.safetensors"]);
    let before = fs::read(dir.path().join("mlp/model.safetensors")).unwrap();
    let own = prune(dir.path(), "mlp --out mlp/../mlp/model.safetensors");
    one_line(&own, 1, &["--out: mlp/../mlp/model.safetensors: expected another file"]);
    assert_eq!(fs::read(dir.path().join("mlp/model.safetensors")).unwrap(), before);
    train(dir.path(), "selu", "--widths 16 --act selu");
    one_line(
        &prune(dir.path(), "selu"),
        1,
        &[
            "selu/model.safetensors: expected an activation that is 0 for some inputs, such as relu, found selu",
        ],
    );
    change(dir.path(), "mlp", "fc1.bias", |bias| bias.fill(-1000.0));
    one_line(
        &prune(dir.path(), "mlp"),
        1,
        &[
            "mlp/model.safetensors: layer 'fc1': expected at least one unit to stay",
            "every image the same answer",
        ],
    );
}
