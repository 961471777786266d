//! Every number of a layer against its definition.

use candle_core::Tensor;
use serde_json::Value;
use taper_hooks::{Activation, Recorder, Site, Units};
use taper_kernels::activate;
use taper_report::LayerStats;

use crate::naive::Window;
use crate::{normal, see, stats, stats_of, tensor};

/// Every field: whole numbers and text equal, others to `1e-9` relative.
pub fn assert_same(got: &LayerStats, want: &LayerStats) {
    fn compare(path: &str, got: &Value, want: &Value) {
        match (got, want) {
            (Value::Object(a), Value::Object(b)) => {
                assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{path}");
                a.iter().for_each(|(key, value)| compare(&format!("{path}.{key}"), value, &b[key]));
            }
            (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                assert!((a - b).abs() <= 1e-9 * b.abs() + 1e-14, "{path}: {a}, by definition {b}");
            }
            _ => assert_eq!(got, want, "{path}"),
        }
    }
    let value = |stats| serde_json::to_value(stats).unwrap();
    compare(&want.site, &value(got), &value(want));
}

/// A batch whose units behave each in its own way: silent, always on, rare, faint, ordinary. `shift` moves who does
/// what by that many units, so that units die and revive from one window to the next.
pub fn batch((shape, axis): Shape<'_>, seed: u64, shift: usize) -> Vec<f32> {
    let (units, positions) = sizes((shape, axis));
    let mut rng = taper_hooks::rng(seed);
    (0..shape.iter().product())
        .map(|i| {
            let z = normal(&mut rng);
            let (unit, position) = match axis {
                Units::Second => (i / positions % units, i % positions),
                Units::Last => (i % units, i / units % positions),
            };
            match (unit + shift) % units {
                0 => -9.0 + z,
                1 => 0.0,
                2 => 9.0 + z,
                3 if i / positions / units == 3 && position == 0 => 0.7,
                3 => -1.0 - z.abs(),
                4 => 0.003 * z,
                5 => z * 0.08 + 0.02,
                _ if z.abs() < 0.2 => 0.0,
                _ => 1.5 * z - 0.3,
            }
        })
        .collect()
}

/// All that the naive oracle knows the slope of, and none.
pub const ACTIVATIONS: [Option<Activation>; 11] = [
    Some(Activation::Identity),
    Some(Activation::Relu),
    Some(Activation::Relu6),
    Some(Activation::Relu2),
    Some(Activation::LeakyRelu { slope: 0.01 }),
    Some(Activation::Selu),
    Some(Activation::Tanh),
    Some(Activation::Sigmoid),
    Some(Activation::Silu),
    Some(Activation::Hardtanh),
    None,
];

/// A shape, and which axis of it the units are.
pub type Shape<'a> = (&'a [usize], Units);

/// Neurons, feature maps, and a sequence of one dimension; then a sequence of tokens, and an image of patches.
const SHAPES: [Shape<'_>; 5] = [
    (&[301, 11], Units::Second),
    (&[23, 8, 5, 3], Units::Second),
    (&[19, 9, 12], Units::Second),
    (&[19, 7, 21], Units::Last),
    (&[13, 5, 4, 9], Units::Last),
];

/// Units, and positions in a sample.
fn sizes((shape, axis): Shape<'_>) -> (usize, usize) {
    let units = if axis == Units::Last { shape[shape.len() - 1] } else { shape[1] };
    (units, shape[1..].iter().product::<usize>() / units)
}

/// A place for such values.
pub fn site(activation: Option<Activation>, axis: Units) -> Site {
    activation.map_or(Site::new("conv2"), |f| Site::behind("conv2", f)).units(axis)
}

/// What the oracle knows of a batch.
pub fn window(activation: Option<Activation>, axis: Units, xs: &Tensor) -> Window {
    let ys = activation.map_or(xs.clone(), |f| activate(xs, f).unwrap());
    let values = |t: &Tensor| -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    let (units, positions) = sizes((xs.dims(), axis));
    Window { activation, units, last: axis == Units::Last, positions, xs: values(xs), ys: values(&ys) }
}

#[test]
fn every_number_agrees_with_its_definition_over_three_windows() {
    definitions_hold_for(Recorder::new);
}

#[test]
fn every_number_on_a_gpu_agrees_with_its_definition() {
    definitions_hold_for(|| Recorder::new().as_on_device());
}

fn definitions_hold_for(recorder: fn() -> Recorder) {
    for activation in ACTIVATIONS {
        for shape in SHAPES {
            let (site, mut recorder) = (site(activation, shape.1), recorder());
            let mut before: Option<Vec<bool>> = None;
            for shift in [0, 2, 3] {
                let xs = tensor(batch(shape, shift as u64, shift), shape.0);
                see(&mut recorder, &site, &xs);
                let window = window(activation, shape.1, &xs);
                let got = recorder.finish().remove(0);
                assert_same(&got, &window.stats("conv2", before.as_deref()));
                before = Some((0..window.units).map(|u| window.dead(u)).collect());
            }
        }
    }
}

#[test]
fn the_batches_of_the_test_above_contain_every_case() {
    let relu = stats(Activation::Relu, &tensor(batch(SHAPES[0], 0, 0), SHAPES[0].0));
    assert_eq!((relu.dead_units.as_slice(), relu.rare, relu.always_on), (&[0, 1][..], Some(1), 1));
    assert_eq!((relu.dormant_0, relu.dormant_0_025, relu.dormant_0_1), (Some(2), Some(4), Some(5)));
    assert_eq!((relu.firing_rate.never, relu.firing_rate.always), (2, 1));
    let tanh = stats(Activation::Tanh, &tensor(batch(SHAPES[0], 0, 0), SHAPES[0].0));
    assert!(tanh.flat_low.unwrap() > 0.05 && tanh.flat_high.unwrap() > 0.05 && tanh.dead == Some(0));
    assert_eq!(tanh.rare, None);
}

#[test]
fn every_number_leaves_nan_and_infinities_out() {
    for activation in [Some(Activation::Relu), Some(Activation::Tanh), None] {
        for (shape, axis) in SHAPES {
            let mut xs = batch((shape, axis), 5, 0);
            let (units, positions) = sizes((shape, axis));
            let size = units * positions;
            for i in (0..xs.len()).step_by(17) {
                xs[i] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
            }
            xs[size..2 * size].fill(f32::NAN); // a sample without a finite value
            let unit = |i| if axis == Units::Last { i % units } else { i / positions % units };
            for i in (0..xs.len()).filter(|i| unit(*i) == 7) {
                xs[i] = f32::NAN; // a unit without one
            }
            let xs = tensor(xs, shape);
            for mut recorder in [Recorder::new(), Recorder::new().as_on_device()] {
                see(&mut recorder, &site(activation, axis), &xs);
                let got = recorder.finish().remove(0);
                assert!(got.nan > 0 && (got.infinite > 0) == (activation != Some(Activation::Tanh)));
                assert_same(&got, &window(activation, axis, &xs).stats("conv2", None));
            }
        }
    }
}

#[test]
fn moments_keep_six_digits_where_the_mean_is_a_thousand_standard_deviations() {
    // Exponential values of standard deviation 1, so that no moment is 0.
    let mut rng = taper_hooks::rng(1);
    let uniform = |rng: &mut taper_hooks::Rng| rand::RngExt::random::<f64>(rng);
    let xs: Vec<f32> = (0..200_000).map(|_| (1000.0 - (1.0 - uniform(&mut rng)).ln()) as f32).collect();
    let n = xs.len() as f64;
    let mean = xs.iter().map(|x| *x as f64).sum::<f64>() / n;
    let moment = |k| xs.iter().map(|x| (*x as f64 - mean).powi(k)).sum::<f64>() / n;
    let want = [mean, moment(2), moment(3) / moment(2).powf(1.5), moment(4) / moment(2).powi(2) - 3.0];
    assert!((want[1].sqrt() - 1.0).abs() < 0.01 && (want[2] - 2.0).abs() < 0.1, "{want:?}");
    for sign in [1.0, -1.0] {
        let ys: Vec<f32> = xs.iter().map(|x| sign * x).collect();
        for shape in [[20_000, 10].as_slice(), &[200, 10, 10, 10]] {
            let s = stats_of(&ys, shape);
            let got = [s.mean, s.variance, s.skewness, s.excess_kurtosis].map(Option::unwrap);
            for (k, (got, want)) in got.into_iter().zip(want).enumerate() {
                let want = if k % 2 == 0 { sign as f64 * want } else { want };
                assert!((got / want - 1.0).abs() < 1e-6, "moment {}: {got} against {want}", k + 1);
            }
        }
    }
}

/// From `measure_test_vectors` of the shared goldens, computed with numpy in f64 by the formulas
/// `a = mean(abs(v))**2 / mean(v**2)`, `S = (1 - a) / (1 - 1/n)`,
/// `hoyer = (sqrt(n) - norm(v, 1) / norm(v, 2)) / (sqrt(n) - 1)`:
/// `(v, hoyer, vinje_gallant_S, zero_fraction)`.
const VECTORS: [(&[f32], f64, f64, f64); 9] = [
    (&[1., 1., 1., 1.], 0.0, 0.0, 0.0),
    (&[0., 0., 0., 1.], 1.0, 1.0, 0.75),
    (&[1., 2., 3., 4.], 0.17425814164944628, 0.2222222222222222, 0.0),
    (&[1., 2.], 0.17520617977219363, 0.2, 0.0),
    (&[1., 2., 1., 2.], 0.1026334038989724, 0.13333333333333333, 0.0),
    (&[0., 1., 2., 3., 4.], 0.33196080362765146, 0.4166666666666667, 0.2),
    (&[0., 0., 1., 1.], 0.585786437626905, 0.6666666666666666, 0.5),
    (&[-1., 2., -3., 4.], 0.17425814164944628, 0.2222222222222222, 0.0),
    (&[0., 0., 0., 0., 0., 0., 0., 10., 1., 1.], 0.9129727624539414, 0.954248366013072, 0.7),
];

#[test]
fn sparseness_agrees_with_the_golden_vectors() {
    let close = |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 1e-12, "{got:?}, {want}");
    for (v, hoyer, vinje_gallant, zero_fraction) in VECTORS {
        let n = v.len();
        for shape in [vec![1, n], vec![1, 1, n], vec![1, n, 1, 1]] {
            let s = stats_of(v, &shape);
            close(s.hoyer, hoyer);
            close(s.population_sparseness, vinje_gallant);
            close(Some(s.zero_fraction), zero_fraction);
        }
        // The observations of one unit as the population: over samples, and over positions.
        close(stats_of(v, &[n, 1]).lifetime_sparseness, vinje_gallant);
        close(stats_of(v, &[1, 1, n]).lifetime_sparseness, vinje_gallant);
    }
}
