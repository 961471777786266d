//! The example `infer` as a program: trained networks of digits, its numbers, pictures, and its errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, at_home, example, one_line, run, succeed};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::tempdir;

fn infer(dir: &Path, args: &str) -> Ran {
    run(at_home(example("infer"), dir, args))
}

#[track_caller]
fn works(dir: &Path, args: &str) -> String {
    let ran = infer(dir, args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args}\n{}", ran.out);
    ran.out
}

fn train(dir: &Path, name: &str, args: &str) {
    succeed(dir, &format!("--dataset digits --epochs 3 --quiet --out {name} {args}"));
}

/// The number in front of a word.
#[track_caller]
fn number(text: &str, behind: &str) -> f64 {
    let at = text.find(behind).unwrap_or_else(|| panic!("'{behind}' in\n{text}"));
    text[at + behind.len()..].split_whitespace().next().unwrap().trim_end_matches(['×', ';']).parse().unwrap()
}

#[test]
fn networks_of_digits_answer_as_they_evaluate_themselves() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 96,64 --dropout 0.25");
    train(dir.path(), "cnn", "--model cnn --channels 8,16 --dropout 0");
    for (name, layers) in [("mlp", ["fc1", "fc2", "fc3"]), ("cnn", ["conv1", "conv2", "fc1"])] {
        let text = works(dir.path(), name);
        assert_eq!(number(&text, "accuracy "), number(&text, "as the model evaluates itself "), "{text}");
        assert!(text.contains("360 images of digits test, one thread"), "{text}");
        assert!(text.contains("; 0 answers differ, largest difference of a logit"), "{text}");
        assert!(number(&text, "largest difference of a logit ") < 1e-4);
        assert!(text.contains("the same bits with all multiplications as with zeros skipped"), "{text}");
        assert!(layers.iter().all(|layer| text.contains(&format!("\n{layer} "))), "{text}");
        assert!(text.contains("of the image") && text.contains(&format!("after {}", layers[0])), "{text}");
        assert!(text.contains("bytes as f32") && text.contains("by images a call: 1: "), "{text}");
        assert!(text.contains("\nthese zeros"), "{text}");
    }
}

/// The numbers in a row of a table of the page, and those in a row of `infer`'s table of multiplications.
#[track_caller]
fn rows(dir: &Path, run: &str, layer: &str, next: &str) -> (Vec<f64>, Vec<f64>) {
    let page = fs::read_to_string(dir.join(run).join("report.html")).unwrap();
    let row = page.split(&format!("<th scope=row>{layer} → {next}</th>")).nth(1).unwrap();
    let row = row.lines().next().unwrap();
    let predicted = row.split("data-v=").skip(1).map(|cell| cell.split('>').next().unwrap().parse().unwrap());
    let text = works(dir, run);
    let counted = text.lines().find(|line| line.starts_with(&format!("{next} "))).unwrap();
    let counted = counted.replace(',', "");
    let counted = counted.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (predicted.collect(), counted)
}

#[test]
fn the_page_of_the_training_predicts_the_multiplications_that_it_skips() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 96,64 --dropout 0.25");
    train(dir.path(), "cnn", "--model cnn --channels 8,16 --widths 64,32 --dropout 0");
    for (run, layer, next, most) in [
        ("mlp", "fc1", "fc2", 1e-3),
        ("mlp", "fc2", "fc3", 1e-3),
        ("cnn", "conv1", "conv2", 0.1),
        ("cnn", "fc1", "fc2", 1e-3),
    ] {
        let (predicted, counted) = rows(dir.path(), run, layer, next);
        let ([zeros, all, skipped, ..], [percent, counted_all, _, counted_skipped]) =
            (&predicted[..], &counted[..])
        else {
            panic!("{predicted:?}, {counted:?}")
        };
        assert_eq!(all, counted_all, "{next}");
        assert!((100.0 * zeros - percent).abs() <= 0.06, "{next}: {zeros}, {percent} %");
        assert!(*skipped > 0.0, "{next}");
        // infer rounds down.
        let difference = (skipped - counted_skipped).abs();
        assert!(difference <= 1.0 + most * skipped, "{next}: {skipped}, {counted_skipped}");
    }
    let page = fs::read_to_string(dir.path().join("cnn/report.html")).unwrap();
    assert!(!page.contains("<th scope=row>conv2 →"), "the values are pooled before fc1");
}

#[test]
fn an_activation_that_makes_no_zeros_leaves_those_of_the_image() {
    let dir = tempdir().unwrap();
    train(dir.path(), "tanh", "--widths 16 --act tanh --dropout 0");
    let text = works(dir.path(), "tanh");
    assert!(text.contains("fc2           0.0 %") && text.contains("after fc1"), "{text}");
}

#[test]
fn a_file_that_it_saved_needs_no_run_and_gives_the_same_numbers() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 32 --dropout 0");
    let first = works(dir.path(), "mlp --save net.safetensors");
    assert!(first.starts_with("written to net.safetensors\n"), "{first}");
    let again = works(dir.path(), "net.safetensors --dataset digits");
    assert_eq!(number(&first, "accuracy "), number(&again, "accuracy "));

    let path = dir.path().join("net.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|five| five == br#""v\":"#).unwrap();
    bytes[at + 5] = b'7';
    fs::write(&path, bytes).unwrap();
    one_line(&infer(dir.path(), "net.safetensors"), 1, &["expected version 1 of 'taper_frozen', found 7"]);
}

#[cfg(feature = "images")]
#[test]
fn an_image_is_classified_and_one_of_another_size_refused() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 32 --dropout 0");
    let picture = |name: &str, side: u32| {
        let path = dir.path().join(name);
        image::GrayImage::from_fn(side, side, |x, _| image::Luma([(x * 30) as u8])).save(path).unwrap();
    };
    picture("good.png", 8);
    picture("large.png", 28);
    fs::write(dir.path().join("no.png"), "text").unwrap();
    let text = works(dir.path(), "mlp good.png good.png");
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.starts_with("good.png: ")
            && text.contains(" ahead of ")
            && text.contains("% of multiplications skipped")
    );
    one_line(
        &infer(dir.path(), "mlp large.png"),
        1,
        &["large.png: expected 8 × 8 pixels", "found 28 × 28", "bring the image to that size"],
    );
    one_line(&infer(dir.path(), "mlp no.png"), 1, &["no.png: expected a PNG or JPEG image"]);
    one_line(&infer(dir.path(), "mlp none.png"), 1, &["none.png: cannot read"]);
}

#[test]
fn weights_that_cannot_be_used_are_refused_in_one_line() {
    let dir = tempdir().unwrap();
    train(dir.path(), "mlp", "--widths 16 --dropout 0");
    let path = dir.path().join("mlp/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let changed = |name: &str, change: &dyn Fn(&str, &mut Dtype, &mut Vec<u8>)| {
        let tensors: Vec<_> = file
            .iter()
            .map(|(name, of)| {
                let (mut dtype, mut data) = (of.dtype(), of.data().to_vec());
                change(name, &mut dtype, &mut data);
                (name.to_string(), dtype, of.shape().to_vec(), data)
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        fs::write(dir.path().join(name), safetensors::serialize(views, None).unwrap()).unwrap();
    };
    changed("nan", &|name, _, data| {
        if name == "fc2.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    let options = "--act relu --scale unit --dataset digits";
    let nan = infer(dir.path(), &format!("nan {options}"));
    assert_eq!(nan.code, Some(1));
    assert!(
        nan.err.lines().last().unwrap().contains("tensor 'fc2.weight': expected finite values, found NaN"),
        "{}",
        nan.err
    );
    changed("half", &|_, dtype, data| {
        *dtype = Dtype::F16;
        data.truncate(data.len() / 2);
    });
    one_line(&infer(dir.path(), &format!("half {options}")), 1, &["expected f32, found F16", "convert"]);
    one_line(&infer(dir.path(), "nan --dataset digits"), 1, &["--act", "--scale"]);
    one_line(&infer(dir.path(), "mlp --limit 0"), 2, &["expected a whole number of at least 1"]);
    one_line(&infer(dir.path(), "mlp --layers 'residual'"), 2, &["column 1: expected conv, linear"]);
    one_line(&infer(dir.path(), "missing"), 1, &["missing"]);
    one_line(&infer(dir.path(), ""), 2, &["WEIGHTS"]);
}
