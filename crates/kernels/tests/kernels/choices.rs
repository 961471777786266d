//! What kernels leave out is measured by call, and said.

use std::io::Write;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use taper_kernels::{Conv2dGeometry, conv2d, linear};
use tracing_subscriber::fmt::MakeWriter;

use crate::{gradients, random, var};

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Said {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn said(run: impl FnOnce()) -> String {
    let said = Said::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    let subscriber = subscriber.with_target(false).without_time().with_writer(said.clone()).finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = said.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

/// Random values, of which about this share is not 0; the first is.
fn sparse(shape: &[usize], density: f64) -> Tensor {
    let chosen = random(7, shape).lt(4.0 * density - 2.0).unwrap().to_dtype(DType::F32).unwrap();
    let values = (random(1, shape) * &chosen).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let values = [&[0.0], &values[1..]].concat();
    Tensor::from_vec(values, shape, chosen.device()).unwrap()
}

#[test]
fn a_linear_layer_says_which_part_of_its_input_it_multiplies() {
    let weight = random(2, &[128, 400]);
    let run = |xs: &Tensor| said(|| drop(linear(xs, &weight, None).unwrap()));
    assert_eq!(run(&random(1, &[64, 400])), "DEBUG linear 400→128: matrix products of all columns\n");
    let constant = Tensor::full(0.5_f32, (64, 300), weight.device()).unwrap();
    let xs = Tensor::cat(&[random(1, &[64, 100]), constant], 1).unwrap();
    let text = run(&xs);
    assert_eq!(text, "DEBUG linear 400→128: matrix products of the columns that vary varying=100\n");
    let text = run(&sparse(&[64, 400], 0.1));
    let density = text.strip_prefix("DEBUG linear 400→128: sums over what is not background density=");
    let density: f64 = density.unwrap().trim().parse().unwrap();
    assert!((density - 0.1).abs() < 0.01, "{density}");
}

#[test]
fn a_linear_layer_says_how_dense_its_gradient_is_and_how_it_is_computed() {
    let weight = var(&random(2, &[128, 400]));
    for (wanted, way) in [(0.2, "sums over what is not 0"), (1.0, "matrix products")] {
        let ys = linear(&random(1, &[64, 400]), &weight, None).unwrap();
        let grad_ys = sparse(ys.dims(), wanted);
        let text = said(|| drop(gradients(&ys, &grad_ys, &[&weight])));
        let density =
            text.strip_prefix(&format!("DEBUG linear 400→128: gradient by {way} density=")).unwrap();
        let density: f64 = density.trim().parse().unwrap();
        assert!((density - wanted).abs() < 0.05, "{density}");
    }
}

#[test]
fn a_convolution_says_how_dense_its_gradient_is_and_how_it_is_computed() {
    let weight = var(&random(2, &[8, 32, 3, 3]));
    let run = |density: f64| {
        let ys = conv2d(&random(1, &[16, 32, 12, 12]), &weight, None, Conv2dGeometry::default()).unwrap();
        let grad_ys = sparse(ys.dims(), density);
        said(|| drop(gradients(&ys, &grad_ys, &[&weight])))
    };
    for (wanted, way) in [(0.1, "sums over what is not 0"), (1.0, "matrix products")] {
        let text = run(wanted);
        let density = text.strip_prefix(&format!("DEBUG conv2d 32→8: gradient by {way} density=")).unwrap();
        let density: f64 = density.trim().parse().unwrap();
        assert!((density - wanted).abs() < 0.03, "{density}");
    }
    let (xs, weight) = (random(1, &[2, 1, 6, 6]), var(&random(2, &[3, 1, 3, 3])));
    let ys = conv2d(&xs, &weight, None, Conv2dGeometry::default()).unwrap();
    let text = said(|| drop(gradients(&ys, &ys.ones_like().unwrap(), &[&weight])));
    assert_eq!(text, "DEBUG conv2d 1→3: gradient by matrix products, as there are few input channels\n");
}
