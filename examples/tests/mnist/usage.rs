//! Wrong options, options that do not fit together, weights that do not fit: one line each.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::{fail, succeed, temp};

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let dir = temp();
    for (args, says) in [
        ("--epochs 0", "--epochs"),
        ("--epochs 99999999999", "--epochs"),
        ("--batch-size 0", "--batch-size"),
        ("--lr NaN", "--lr"),
        ("--lr -1", "--lr"),
        ("--lr inf", "--lr"),
        ("--weight-decay nan", "--weight-decay"),
        ("--clip-norm 0", "--clip-norm"),
        ("--max-norm -1", "--max-norm"),
        ("--widths 0", "--widths"),
        ("--widths 16,0", "--widths"),
        ("--widths 999999999999", "from 1 to 65536"),
        ("--channels 0", "--channels"),
        ("--seeds 0", "--seeds"),
        ("--seeds 18446744073709551615", "--seeds"),
        ("--limit 0", "--limit"),
        ("--validation 0", "--validation"),
        ("--jobs 0", "--jobs"),
        ("--jobs 2 --threads 2", "leave out --threads"),
        ("--jobs 2 --live", "leave out --jobs"),
        ("--threads 0", "--threads"),
        ("--threads 1000000", "from 1 to 1024"),
        ("--dropout 1", "below 1"),
        ("--dropout=-0.1", "at least 0"),
        ("--dropout nan", "--dropout"),
        ("--dataset digits --target 0.98", "percent"),
        ("--act rleu", "did you mean relu?"),
        ("--act celu:0", "above 0"),
        ("--act relu,", "expected one of identity, relu"),
        ("--dataset cifar", "auto, mnist, fashion-mnist, kmnist, digits"),
        ("--model rnn", "mlp, cnn, linear"),
        ("--optimizer lion", "expected sgd"),
        ("--optimizer rmsprop --weight-decay 0.1", "rmsprop has no weight decay"),
        ("--schedule cosin", "expected constant"),
        ("--schedule cosine:2 --epochs 2", "fewer than the 2 of the run"),
        ("--init zeros", "he, lecun, glorot or pytorch"),
        ("--l1 -1", "--l1"),
        ("--l1 0,nan", "--l1"),
        ("--revive redo:-1", "expected τ of at least 0, found '-1'"),
        ("--revive redo:0.1:0", "expected a period of at least 1 step"),
        ("--revive rdo", "expected none, redo[:TAU[:PERIOD]]"),
        ("--scale log", "raw, unit, standard"),
        ("--device tpu", "cpu, cuda, metal"),
        ("--track some", "full, counts, off"),
        ("--epoch 3", "--epochs"),
        ("mnist", "unexpected argument"),
    ] {
        fail(dir.path(), args, 2, &[says]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn what_does_not_fit_together_is_one_line_and_exit_code_1() {
    let dir = temp();
    for (args, says) in [
        ("--dataset digits --batch-size 1438", "1438"),
        ("--dataset digits --limit 50 --batch-size 64", "50"),
        ("--dataset digits --validation 1437", "--validation"),
        ("--dataset digits --validation 1400 --batch-size 64", "37"),
        ("--dataset digits --model cnn --channels 1,1,1,1,1", "conv4"),
        ("--data-dir nowhere", "nowhere"),
        ("--dataset mnist --data-dir nowhere", "nowhere"),
        ("--dataset digits --data-dir nowhere", "no directory for digits"),
        ("--dataset emnist-letters --data-dir .", "found an empty directory"),
        ("--dataset digits --load nowhere", "nowhere"),
    ] {
        fail(dir.path(), args, 1, &[says]);
    }
    #[cfg(not(feature = "cuda"))]
    fail(
        dir.path(),
        "--dataset digits --device cuda",
        1,
        &["error: --device: cuda: expected", "--features cuda"],
    );
    #[cfg(not(feature = "metal"))]
    fail(dir.path(), "--dataset digits --device metal", 1, &["--device metal", "--features metal"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn weights_that_do_not_fit_are_one_line_with_their_path() {
    let dir = temp();
    let dir = dir.path();
    let args = "--dataset digits --limit 64 --batch-size 32 --widths 4 --epochs 1 --dropout 0";
    succeed(dir, &format!("{args} --out good"));
    let good = fs::read(dir.join("good/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&good).unwrap();
    let own = || file.iter().map(|(name, view)| (name.to_string(), view)).collect::<Vec<_>>();
    let zeros = [0_u8; 8 * 64 * 4];
    let view =
        |dtype, shape: &[usize], n: usize| TensorView::new(dtype, shape.to_vec(), &zeros[..n]).unwrap();
    let save = |name: &str, tensors: Vec<(String, TensorView<'_>)>| {
        fs::write(dir.join(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    let mut tensors = own();
    tensors.push(("fc9.weight".into(), view(Dtype::F32, &[2], 8)));
    save("extra", tensors);
    save("missing", own().into_iter().filter(|(name, _)| name != "fc2.bias").collect());
    let with = |new: TensorView<'_>| {
        let mut tensors: Vec<_> = own().into_iter().filter(|(name, _)| name != "fc1.weight").collect();
        tensors.push(("fc1.weight".into(), new));
        safetensors::serialize(tensors, None).unwrap()
    };
    fs::write(dir.join("turned"), with(view(Dtype::F32, &[64, 4], 1024))).unwrap();
    fs::write(dir.join("double"), with(view(Dtype::F64, &[4, 64], 2048))).unwrap();
    fs::write(dir.join("cut"), &good[..good.len() - 1]).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("text"), "fc1.weight = 3\n".repeat(20)).unwrap();
    fs::write(dir.join("vast"), [&(1_u64 << 42).to_le_bytes()[..], b"{}"].concat()).unwrap();
    let before = fs::read_dir(dir).unwrap().count();
    for (name, says) in [
        ("extra", "fc9.weight"),
        ("missing", "fc2.bias"),
        ("turned", "expected shape [4, 64], found [64, 4]"),
        ("double", "expected f32, found F64"),
        ("cut", "an incomplete file"),
        ("empty", "expected a safetensors file"),
        ("text", "expected a safetensors file"),
        ("vast", "expected a safetensors file"),
        ("nowhere", "cannot read"),
        ("good", "cannot read"),
    ] {
        fail(dir, &format!("{args} --load {name} --out run"), 1, &[name, says]);
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "a run that cannot start leaves nothing behind");
}
