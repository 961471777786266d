//! Windows of steps are computed as differences, and equal the statistics of a recorder of these steps only.

use serde_json::{Value, from_str, to_string};
use taper_hooks::{Activation, Observer, Parts, Recorder, Site};
use taper_report::{LayerStats, Octaves, SiteSteps};

use crate::{random, see, tensor};

/// A window must equal a recorder of its batches.
#[track_caller]
fn assert_same(window: &SiteSteps, alone: &LayerStats) {
    assert_eq!((&window.site, window.units), (&alone.site, alone.units));
    assert_eq!((window.zero_fraction, window.dead), (alone.zero_fraction, alone.dead));
    assert_eq!(window.octaves, alone.histogram.as_ref().map(Octaves::from));
    for (a, b) in [(window.mean, alone.mean), (window.std, alone.std())] {
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!((a - b).abs() <= 1e-10 * b.abs().max(1.0), "{a} against {b}");
    }
}

#[test]
fn a_window_has_the_numbers_of_its_steps_wherever_it_begins_and_across_epochs() {
    let sites = [
        (Site::behind("conv1", Activation::Relu), &[40, 6, 5, 5][..]),
        (Site::behind("fc1", Activation::Tanh), &[40, 300]),
        (Site::new("out"), &[40, 10]),
    ];
    let (mut recorder, mut alone) = (Recorder::new(), Recorder::new());
    assert!(recorder.end_window().unwrap().is_empty());
    for step in 0..24 {
        for (i, (site, shape)) in sites.iter().enumerate() {
            // The third site appears only in the first epoch.
            if i < 2 || step < 7 {
                let xs = (random(10 * step + i as u64, shape) + f64::from(step as u32 % 5)).unwrap();
                let xs = (xs - 2.5).unwrap();
                see(&mut recorder, site, &xs);
                see(&mut alone, site, &xs);
            }
        }
        // Epochs of 7 steps, windows of 1, 2, 3, …
        if step % 7 == 6 {
            recorder.finish();
        }
        // Written down at any moment.
        recorder = from_str(&to_string(&recorder).unwrap()).unwrap();
        if [0, 2, 5, 9, 14, 20, 21].contains(&step) {
            let (window, alone) = (recorder.end_window().unwrap(), alone.finish());
            assert_eq!(window.len(), alone.len(), "step {step}");
            window.iter().zip(&alone).for_each(|(window, alone)| assert_same(window, alone));
        }
    }
}

#[test]
fn a_unit_that_is_dead_in_a_window_need_not_be_dead_in_the_epoch() {
    let site = Site::behind("fc1", Activation::Relu);
    let mut recorder = Recorder::new();
    recorder.end_window().unwrap();
    let mut dead = Vec::new();
    for batch in [[1.0, -1.0, -1.0], [-1.0, -2.0, f32::NAN], [-3.0, 1.0, f32::NAN], [-1.0, -1.0, -1.0]] {
        see(&mut recorder, &site, &tensor(batch.to_vec(), &[1, 3]));
        let window = recorder.end_window().unwrap().remove(0);
        dead.push(window.dead.unwrap());
        assert_eq!(window.dead_fraction(), Some(window.dead.unwrap() as f64 / 3.0));
    }
    // Of a unit without a finite value nothing is known.
    assert_eq!(dead, [2, 2, 1, 3]);
    assert_eq!(recorder.finish()[0].dead_units, [2]);
}

#[test]
fn a_layer_of_zeros_has_no_spread_of_earlier_values() {
    let site = Site::behind("fc1", Activation::Relu);
    let mut recorder = Recorder::new();
    recorder.end_window().unwrap();
    see(&mut recorder, &site, &random(1, &[64, 100]));
    recorder.end_window().unwrap();
    see(&mut recorder, &site, &tensor(vec![-1.0; 6400], &[64, 100]));
    let window = recorder.end_window().unwrap().remove(0);
    assert_eq!((window.zero_fraction, window.mean, window.std), (1.0, Some(0.0), Some(0.0)));
    assert!(recorder.end_window().unwrap().is_empty(), "nothing was seen since");
}

#[test]
fn what_is_not_known_is_none() {
    let mut recorder = Recorder::of(Parts::COUNTS);
    see(&mut recorder, &Site::new("out"), &random(1, &[4, 3]));
    let window = recorder.end_window().unwrap().remove(0);
    assert_eq!((window.dead, window.mean, window.std, window.octaves), (None, None, None, None));
}

#[test]
fn recorders_that_saw_parts_of_a_window_merge() {
    let site = Site::behind("fc1", Activation::Relu);
    let mut recorders = [0, 1, 2].map(|_| Recorder::new());
    let show = |at: &mut [Recorder; 3], seed| {
        let xs = random(seed, &[32, 8]);
        see(&mut at[0], &site, &xs);
        see(&mut at[1 + seed as usize % 2], &site, &xs);
    };
    (0..2).for_each(|seed| show(&mut recorders, seed));
    recorders.iter_mut().for_each(|recorder| drop(recorder.end_window().unwrap()));
    (2..4).for_each(|seed| show(&mut recorders, seed));
    recorders.iter_mut().for_each(|recorder| drop(recorder.finish()));
    (4..8).for_each(|seed| show(&mut recorders, seed));
    let [mut whole, mut a, b] = recorders;
    a.merge(&b).unwrap();
    let (merged, whole) = (a.end_window().unwrap().remove(0), whole.end_window().unwrap().remove(0));
    assert_eq!((merged.zero_fraction, merged.dead), (whole.zero_fraction, whole.dead));
    assert_eq!(merged.octaves, whole.octaves);
    assert!((merged.mean.unwrap() - whole.mean.unwrap()).abs() < 1e-12);
    assert!((merged.std.unwrap() - whole.std.unwrap()).abs() < 1e-12);
}

#[test]
fn a_written_window_that_began_with_more_than_there_is_is_refused() {
    let site = Site::behind("fc1", Activation::Relu);
    let mut recorder = Recorder::new();
    see(&mut recorder, &site, &random(1, &[4, 3]));
    recorder.end_window().unwrap();
    let written: Value = from_str(&to_string(&recorder).unwrap()).unwrap();
    for change in ["values", "zeros"] {
        let mut other = written.clone();
        other["steps"][0]["begun"][change] = 1000.into();
        let error = from_str::<Recorder>(&other.to_string()).unwrap_err().to_string();
        assert!(error.contains("site 'fc1': expected a window of steps within the tallies"), "{error}");
    }
    let mut other = written.clone();
    other["steps"][0]["begun"]["octaves"]["positive"][3] = 1000.into();
    assert!(from_str::<Recorder>(&other.to_string()).is_err());
    let mut other = written;
    other["steps"][0]["begun"]["passed"] = vec![0, 0].into();
    assert!(from_str::<Recorder>(&other.to_string()).is_err());
}
