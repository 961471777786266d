//! Options as text, and arguments that are refused.

use taper_hooks::rng;
use taper_nn::{Link, Model};
use taper_train::{Continual, ContinualConfig, InputMasks, L2Init, Redo, Revive, redo, restart_units};

use crate::{adam, images, net, outputs, recorder};

#[test]
fn options_are_read_as_they_are_written() {
    for (text, means) in [
        ("none", "none"),
        ("redo", "redo:0.025:1000"),
        ("redo:0", "redo:0:1000"),
        ("redo:0.1:50", "redo:0.1:50"),
        ("continual", "continual:0.0001:100"),
        ("continual:0.01:20", "continual:0.01:20"),
    ] {
        let revive: Revive = text.parse().unwrap();
        assert_eq!(revive.to_string(), means);
        assert_eq!(means.parse::<Revive>().unwrap(), revive);
    }
    for (text, says) in [
        ("redoo", "expected none, redo[:TAU[:PERIOD]] or continual[:RATE[:MATURITY]], found 'redoo'"),
        ("none:1", "expected none, redo"),
        ("redo:", "expected a number after the colon"),
        ("redo:-1", "expected τ of at least 0, found '-1'"),
        ("redo:nan", "expected τ of at least 0"),
        ("redo:0.1:0", "expected a period of at least 1 step, found '0'"),
        ("continual:2", "expected a rate from 0 to 1, found '2'"),
        ("continual:0.1:x", "expected a maturity in batches, found 'x'"),
    ] {
        let error = text.parse::<Revive>().unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn invalid_arguments_are_one_clear_line() {
    let (params, net) = net(1);
    let mut optimizer = adam(&params, 0.01);
    let (one, mut nothing) = (&net.links()[..1], recorder());
    let unknown = Link::new("fc9", 12, one[0].init, "fc2");
    let missing = Link { units: 11, ..one[0].clone() };
    let continual = |config| Continual::new(one, config, &params, 1).map(drop);
    let usual = ContinualConfig::default();
    let mut errors = vec![
        (
            redo(one, 0.0, &nothing, &params, &mut optimizer, 1).map(drop),
            "expected a site that was recorded, found 'fc1'",
        ),
        (
            redo(one, f64::NAN, &nothing, &params, &mut optimizer, 1).map(drop),
            "expected τ of at least 0, found NaN",
        ),
        (Redo::new(one, -1.0, 9, &params, 1).map(drop), "expected τ of at least 0, found -1"),
        (Redo::new(one, 0.0, 0, &params, 1).map(drop), "expected a period of at least 1 step"),
        (Redo::new(&[], 0.0, 9, &params, 1).map(drop), "expected units to restart, found none"),
        (
            Redo::new(&[unknown], 0.0, 9, &params, 1).map(drop),
            "expected a parameter of the model, found 'fc9.weight'",
        ),
        (Redo::new(&[missing], 0.0, 9, &params, 1).map(drop), "'fc1.weight': expected 11 in dimension 0"),
        (
            restart_units(&one[0], &[12], &params, &mut optimizer, &mut rng(1)),
            "expected units below 12, found 12",
        ),
        (continual(ContinualConfig { rate: f64::NAN, ..usual }), "expected a rate in [0, 1], found NaN"),
        (continual(ContinualConfig { decay: 1.0, ..usual }), "expected a decay in [0, 1), found 1"),
        (L2Init::new(&params, -0.5).map(drop), "expected λ of at least 0, found -0.5"),
        (
            InputMasks::new(&params, &["fc1.weight"], 0.0, 1).map(drop),
            "expected a density in (0, 1], found 0",
        ),
        (InputMasks::new(&params, &["fc1.bias"], 0.5, 1).map(drop), "expected a weight among"),
    ];
    outputs(&net, &images(), &mut nothing);
    let other = Link { units: 8, ..one[0].clone() };
    errors.push((
        redo(&[other], 0.0, &nothing, &params, &mut optimizer, 1).map(drop),
        "expected 8 units, found 12",
    ));
    for (result, says) in errors {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{says}: {error}");
    }
}
