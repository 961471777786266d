//! Warnings: what is found in records, when, and how often it is said.

use taper_report::{
    EpochReport, Finding, LayerStats, Result, Run, RunDir, Score, Sink, SiteSteps, Split, SplitReport,
    StepReport, Warning, WarningLine, Watch, read_lines, warnings,
};

fn layer(activation: &str, dead: u64, zeros: f64, flat: [f64; 2]) -> LayerStats {
    LayerStats {
        site: "fc1".into(),
        activation: Some(activation.into()),
        units: 100,
        values: 1000,
        dead: Some(dead),
        zero_fraction: zeros,
        flat_low: Some(flat[0]),
        flat_high: Some(flat[1]),
        ..LayerStats::default()
    }
}

fn epoch(epoch: u32, layer: LayerStats) -> EpochReport {
    let of = SplitReport { layers: vec![layer], ..SplitReport::new(Split::Test, Score::default()) };
    EpochReport { epoch, splits: vec![of] }
}

fn window(step: u64, loss: f64, learning_rate: f64, dead: u64) -> StepReport {
    let site = SiteSteps {
        site: "fc1".into(),
        units: 100,
        zero_fraction: 0.5,
        dead: Some(dead),
        mean: None,
        std: None,
        octaves: None,
    };
    StepReport {
        step,
        steps: 1,
        score: Score { loss, samples: 32, ..Score::default() },
        learning_rate,
        sites: vec![site],
        parameters: Vec::new(),
    }
}

fn of_epoch(layer: LayerStats) -> Option<Finding> {
    warnings(&[], &[epoch(3, layer)]).pop().map(|warning| warning.finding)
}

/// What is said about a run whose loss and learning rate are these functions of the step.
fn of_losses(steps: u64, loss: impl Fn(u64) -> f64, rate: impl Fn(u64) -> f64) -> Vec<Warning> {
    let windows: Vec<_> = (1..=steps).map(|step| window(step, loss(step), rate(step), 0)).collect();
    warnings(&windows, &[])
}

#[test]
fn a_layer_above_90_percent_dead_is_warned_of_and_one_of_many_zeros_is_not() {
    assert_eq!(of_epoch(layer("relu", 90, 0.99, [0.99, 0.0])), None);
    let relu = Some("relu".into());
    let dead = Finding::DeadLayer { site: "fc1".into(), activation: relu, dead: 91, units: 100 };
    assert_eq!(of_epoch(layer("relu", 91, 0.99, [0.99, 0.0])), Some(dead));
    let unknown = LayerStats { dead: None, ..layer("relu", 0, 1.0, [1.0, 0.0]) };
    assert_eq!(of_epoch(unknown), None);
}

#[test]
fn what_helps_against_dead_units_depends_on_the_activation_function() {
    let help = |f: &str| of_epoch(layer(f, 100, 0.0, [0.0; 2])).map(|found| found.help().into_owned());
    let says = |f: &str, end: &str| help(f).is_some_and(|help| help.ends_with(end));
    assert!(says("relu", "leaky_relu instead of relu") && says("relu6", "leaky_relu instead of relu6"));
    assert!(says("sigmoid", "inputs of variance 1") && says("hardtanh", "inputs of variance 1"));
    assert!(says("hardswish", "a normalisation before the layer"));
}

#[test]
fn saturation_counts_both_ends_and_the_zeros_of_a_relu_are_none() {
    assert_eq!(of_epoch(layer("tanh", 0, 0.0, [0.25, 0.25])), None);
    let Some(Finding::Saturated { activation, share, .. }) = of_epoch(layer("tanh", 0, 0.0, [0.3, 0.3]))
    else {
        panic!("expected saturation");
    };
    assert_eq!((activation.as_str(), share), ("tanh", 0.6));
    assert_eq!(of_epoch(layer("relu", 0, 0.9, [0.9, 0.0])), None);
    // The upper end of a ReLU6 counts, its zeros do not.
    assert_eq!(of_epoch(layer("relu6", 0, 0.4, [0.4, 0.3])), None);
    assert!(of_epoch(layer("relu6", 0, 0.1, [0.1, 0.6])).is_some());
}

#[test]
fn units_that_fall_silent_in_the_first_steps_are_warned_of_once_with_the_step_that_did_it() {
    let dead = |step: u64| if step < 3 { 2 } else { 60 };
    let windows: Vec<_> = (1..=50).map(|step| window(step, 1.0 / step as f64, 0.1, dead(step))).collect();
    let found = warnings(&windows, &[]);
    // The forward pass of step 3 shows what the update of step 2 did.
    let finding = Finding::KilledUnits { site: "fc1".into(), before: 2, after: 60, units: 100, worst: 2 };
    assert_eq!(found, [Warning { epoch: None, step: Some(20), finding }]);
    assert_eq!(
        found[0].to_string(),
        "step 20: fc1: step 2 was too large: 2 of 100 units were silent before, 60 are now (what usually helps: a lower \
         learning rate, a warm-up, or a normalisation before the layer)"
    );
}

#[test]
fn units_that_were_silent_from_the_start_or_fall_silent_later_are_not_the_first_steps_fault() {
    for dead in
        [|_| 60, |step: u64| if step <= 20 { 2 } else { 60 }, |step: u64| if step < 20 { 60 } else { 20 }]
    {
        let windows: Vec<_> = (1..=50).map(|step| window(step, 1.0 / step as f64, 0.1, dead(step))).collect();
        assert_eq!(warnings(&windows, &[]), []);
    }
    // A run that is resumed begins later: its first window is no beginning.
    let late: Vec<_> = (10..=50).map(|step| window(step, 1.0 / step as f64, 0.1, step)).collect();
    assert_eq!(warnings(&late, &[]), []);
}

#[test]
fn a_loss_that_stands_still_where_it_began_is_warned_of_from_step_400_on() {
    let still = |step: u64| if step < 20 { 3.0 } else { 2.3 };
    let constant = |_| 0.1;
    assert_eq!(of_losses(399, still, constant), []);
    let found = of_losses(1000, still, constant);
    let [Warning { step: Some(400), finding: Finding::LossStandsStill { loss, first: 3.0 }, .. }] = found[..]
    else {
        panic!("{found:?}");
    };
    assert!((loss - 2.3).abs() < 1e-12);
    assert_eq!(
        of_losses(1000, |step| 3.0 + step as f64, constant).len(),
        1,
        "a loss that rises does not fall"
    );
}

#[test]
fn a_loss_that_falls_has_fallen_or_is_left_to_rest_by_the_schedule_is_no_reason_to_warn() {
    let constant = |_| 0.1;
    assert_eq!(of_losses(1000, |step| 3.0 * (-(step as f64) / 3000.0).exp(), constant), [], "falls slowly");
    assert_eq!(of_losses(1000, |step| if step < 20 { 3.0 } else { 1.4 }, constant), [], "has fallen");
    let lowered = |step| if step < 300 { 0.1 } else { 0.04 };
    assert_eq!(of_losses(1000, |_| 2.3, lowered), []);
    assert_eq!(of_losses(1000, |_| f64::NAN, constant), [], "NaN is reported as a fault");
}

#[test]
fn each_kind_is_reported_once_for_each_layer() {
    let mut watch = Watch::default();
    let dead = |epoch_: u32, site: &str| {
        epoch(epoch_, LayerStats { site: site.into(), ..layer("relu", 100, 1.0, [1.0, 0.0]) })
    };
    let counts = [dead(1, "fc1"), dead(2, "fc1"), dead(3, "fc2")].map(|report| watch.epoch(&report).len());
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn a_warning_is_a_line_of_its_file_that_can_be_used_alone() -> Result<()> {
    let dir = tempfile::tempdir().expect("the system has a directory for temporary files");
    let mut run = RunDir::create(dir.path().join("run"))?;
    run.begin(&Run { name: "relu".into(), seed: 7, ..Run::default() })?;
    let findings = [
        Finding::DeadLayer { site: "fc1".into(), activation: Some("relu".into()), dead: 91, units: 100 },
        Finding::KilledUnits { site: "fc1".into(), before: 2, after: 60, units: 100, worst: 2 },
        Finding::LossStandsStill { loss: 2.3, first: 3.0 },
        Finding::Saturated { site: "fc1".into(), activation: "tanh".into(), share: 0.6 },
    ];
    let told: Vec<_> =
        findings.into_iter().map(|finding| Warning { epoch: Some(1), step: None, finding }).collect();
    told.iter().try_for_each(|warning| run.warning(warning))?;
    let path = run.path().join("warnings.jsonl");
    let lines: Vec<WarningLine> = read_lines(&path)?;
    assert_eq!(lines.iter().map(|line| line.of.clone()).collect::<Vec<_>>(), told);
    let text = std::fs::read_to_string(&path).expect("it was written");
    let first = r#"{"v":2,"run":"relu","labels":{},"seed":7,"text":"epoch 1: fc1: 91 of 100 units are dead (what usually helps: a lower learning rate, a warm-up, or leaky_relu instead of relu)","epoch":1,"step":null,"kind":"dead_layer","site":"fc1","activation":"relu","dead":91,"units":100}"#;
    assert_eq!(text.lines().next(), Some(first));
    Ok(())
}
