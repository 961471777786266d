//! Layers of transformers: names, initial values, and errors.

use candle_core::Tensor;
use taper_nn::{Embedding, LayerNorm, RmsNorm};

use crate::{CPU, message, named, params, random, shapes, values};

#[test]
fn parameters_have_pytorchs_names_and_start_as_its() {
    let params = params();
    let vb = params.builder();
    let norm = LayerNorm::new(6, vb.pp("norm")).unwrap();
    RmsNorm::new(6, 1e-6, vb.pp("rms")).unwrap();
    let table = Embedding::new(400, 50, vb.pp("table")).unwrap();
    let expected: [(&str, &[usize]); 4] =
        [("norm.weight", &[6]), ("norm.bias", &[6]), ("rms.weight", &[6]), ("table.weight", &[400, 50])];
    assert_eq!(shapes(&params), named(&expected));
    assert_eq!(norm.eps, 1e-5);
    assert_eq!((values(&norm.weight), values(&norm.bias)), (vec![1.0; 6], vec![0.0; 6]));
    let drawn = values(&table.weight);
    let mean = drawn.iter().sum::<f32>() / 20_000.0;
    let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 20_000.0;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean}, {variance}");
}

#[test]
fn a_normalised_row_has_mean_0_and_variance_1() {
    let params = params();
    let vb = params.builder();
    let xs = ((random(1, &[2, 3, 64]) * 5.0).unwrap() + 7.0).unwrap();
    for ys in [
        LayerNorm::new(64, vb.pp("norm")).unwrap().forward(&xs).unwrap(),
        RmsNorm::new(64, 1e-6, vb.pp("rms")).unwrap().forward(&(&xs - 7.0).unwrap()).unwrap(),
    ] {
        for row in values(&ys).chunks(64) {
            let square = row.iter().map(|y| y * y).sum::<f32>() / 64.0;
            assert!((square - 1.0).abs() < 1e-4, "{square}");
        }
    }
    let ys = LayerNorm::new(64, vb.pp("again")).unwrap().forward(&xs).unwrap();
    assert!(values(&ys.mean(2).unwrap()).iter().all(|mean| mean.abs() < 1e-5));
}

#[test]
fn an_embedding_gives_the_rows_that_ids_name() {
    let table = Embedding::new(3, 2, params().builder().pp("table")).unwrap();
    let ids = Tensor::new(&[[2_u32, 0], [0, 1]], CPU).unwrap();
    let ys = table.forward(&ids).unwrap();
    let rows = table.weight.to_vec2::<f32>().unwrap();
    let wanted = [2, 0, 0, 1].map(|id: usize| rows[id].clone()).concat();
    assert_eq!((ys.dims(), values(&ys)), (&[2, 2, 2][..], wanted));
}

#[test]
fn sizes_of_0_are_refused_in_one_line() {
    let params = params();
    let vb = |name: &str| params.builder().pp(name);
    let features = "expected at least one feature, found 0";
    assert_eq!(message(LayerNorm::new(0, vb("a"))), format!("layer 'a': {features}"));
    assert_eq!(message(RmsNorm::new(0, 1e-6, vb("b"))), format!("layer 'b': {features}"));
    let text = message(Embedding::new(4, 0, vb("c")));
    assert_eq!(text, "layer 'c': expected at least one id and feature, found 4×0");
}
