//! Rules that end a run: their form, when they fire, and their errors.

use taper_report::{
    Alert, EpochReport, Error, Fault, LayerStats, Metric, MetricKind, NonFinite, Place, Result, Run, RunDir,
    Score, Sink, Split, SplitReport,
};

fn score(loss: f64, accuracy: f64, samples: u64) -> Score {
    let metric = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: accuracy };
    Score { loss, samples, metrics: vec![metric], ..Score::default() }
}

fn layer(site: &str, dead: u64) -> LayerStats {
    LayerStats {
        site: site.into(),
        units: 8,
        dead: Some(dead),
        values: 80,
        zero_fraction: 0.5,
        ..LayerStats::default()
    }
}

/// fc1 and fc2 on train and test; half of fc2 is dead on test only.
fn report(epoch: u32) -> EpochReport {
    let score = score(0.5, 0.875, 128);
    let of = |split, dead| SplitReport {
        layers: vec![layer("fc1", 0), layer("fc2", dead)],
        seconds: 2.0,
        ..SplitReport::new(split, score.clone())
    };
    EpochReport { epoch, splits: vec![of(Split::Train, 1), of(Split::Test, 4)] }
}

fn alert(text: &str) -> Alert {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// What fires, without the rule and the epoch.
fn fired(text: &str, report: &EpochReport) -> Option<String> {
    match alert(text).epoch(report) {
        Ok(()) => None,
        Err(Error::Alert(message)) => {
            let start = format!("alert '{text}' in epoch {}: ", report.epoch);
            Some(message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}")).to_string())
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_rule_fires_on_the_right_side_of_its_bound() {
    let report = report(3);
    for (text, value) in [
        ("fc2.dead_fraction>0.49", Some("test:fc2.dead_fraction is 0.5")),
        ("fc2.dead_fraction>0.5", None),
        ("fc2.dead_fraction>=0.5", Some("test:fc2.dead_fraction is 0.5")),
        ("fc2.dead_fraction<0.5", None),
        ("fc2.dead_fraction<=0.5", Some("test:fc2.dead_fraction is 0.5")),
        ("fc1.dead_fraction < 1e-3", Some("test:fc1.dead_fraction is 0")),
        ("train:fc2.dead>=1", Some("train:fc2.dead is 1")),
        ("train:fc2.dead>1", None),
        ("test:fc2.dead>1", Some("test:fc2.dead is 4")),
        ("*.zero_fraction>0.4", Some("test:fc1.zero_fraction is 0.5, test:fc2.zero_fraction is 0.5")),
        ("test.loss > 0.4", Some("test.loss is 0.5")),
        ("train.accuracy<0.9", Some("train.accuracy is 0.875")),
        ("train.samples_per_second<100", Some("train.samples_per_second is 64")),
        ("validation.loss>0", None),
        ("train.nonfinite>0", None),
    ] {
        assert_eq!(fired(text, &report).as_deref(), value, "{text}");
    }
}

#[test]
fn what_is_not_a_number_fires_and_what_was_not_measured_does_not() {
    let mut report = report(1);
    report.splits[1].score.loss = f64::NAN;
    report.splits[0].score.loss = f64::INFINITY;
    for text in ["test.loss>2", "test.loss<2", "train.loss>2"] {
        assert!(fired(text, &report).is_some(), "{text}");
    }
    assert_eq!(fired("train.loss<2", &report), None);
    // The skewness of a constant layer.
    assert_eq!(fired("fc1.skewness>-9", &report), None);
    assert_eq!(fired("test.learning_rate<1", &report), None);
    report.splits[0].nonfinite =
        Some(NonFinite { batches: 2, skipped: 2, first: Fault { batch: 1, loss: 1.0, place: Place::Loss } });
    assert_eq!(fired("train.nonfinite>0", &report).as_deref(), Some("train.nonfinite is 2"));
}

#[test]
fn an_unknown_site_is_an_error_that_lists_the_sites() {
    let error = alert("fc9.dead>0").epoch(&report(1)).expect_err("there is no fc9");
    assert!(matches!(error, Error::Rule(_)));
    assert_eq!(error.to_string(), "alert 'fc9.dead>0': unknown site 'fc9': the sites are fc1, fc2");
    assert!(alert("*.dead>0").check_site(&["fc1"]).is_ok());
    let error = alert("*.dead>0").check_site::<&str>(&[]).expect_err("there is none");
    assert_eq!(error.to_string(), "alert '*.dead>0': there is no site");
    assert!(alert("net.fc1.dead>0").check_site(&["fc1", "net.fc1"]).is_ok());
    // An epoch that was cut short has no layers, and says nothing about sites.
    let mut short = report(1);
    short.splits.truncate(1);
    short.splits[0].layers.clear();
    assert!(alert("fc9.dead>0").epoch(&short).is_ok());
}

#[test]
fn an_invalid_rule_is_an_error_that_shows_the_form() {
    for (text, why) in [
        ("", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("fc2.dead", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("dead>1", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        (".dead>1", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("train:.dead>1", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("fc2.dead=1", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("fc2.dead>", "expected a finite number after >, found ''"),
        ("fc2.dead>half", "expected a finite number after >, found 'half'"),
        ("fc2.dead>inf", "expected a finite number after >"),
        ("fc2.dead>>1", "unknown statistic 'dead>'"),
        ("fc2.ded>1", "unknown statistic 'ded': the statistics are zero_fraction, dead, dead_fraction"),
        ("test. > 1", "expected [SPLIT:]SITE.STATISTIC OP NUMBER"),
        ("fc2.loss>1", "unknown statistic 'loss'"),
    ] {
        let error = text.parse::<Alert>().map(|_| ()).expect_err(text);
        assert!(matches!(error, Error::Rule(_)));
        let message = error.to_string();
        assert!(message.starts_with(&format!("alert '{text}': ")) && message.contains(why), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn the_epoch_that_fires_is_written_down() -> Result<()> {
    let dir = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
    let written = RunDir::create(dir.path())?;
    let path = written.path().join("metrics.jsonl");
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(written), Box::new(alert("fc2.dead>3"))];
    sinks.begin(&Run::default())?;
    assert!(sinks.epoch(&report(1)).is_err());
    let lines: Vec<taper_report::MetricsLine> = taper_report::read_lines(path)?;
    assert_eq!(lines.len(), 2);
    Ok(())
}

#[test]
fn the_names_in_an_alert_are_checked_before_training() {
    assert!(alert("fc1.dead>1").asks_layers() && !alert("fc1.dead>1").asks_more_than_counts());
    assert!(alert("fc1.skewness>1").asks_more_than_counts() && !alert("test.loss>1").asks_layers());
    assert_eq!((alert("train:fc1.dead>1").split(), alert("fc1.dead>1").split()), (Some(Split::Train), None));
    assert_eq!(alert("test.loss>1").to_string(), "test.loss>1");
}

#[test]
fn an_unknown_metric_is_an_error_that_lists_the_metrics() {
    let error = alert("test.top5<0.5").epoch(&report(1)).expect_err("there is no top5");
    assert!(matches!(error, Error::Rule(_)));
    let message = error.to_string();
    let known =
        "alert 'test.top5<0.5': unknown metric 'top5' of a split: the metrics are accuracy, loss, samples, ";
    assert!(message.starts_with(known), "{message}");
    let score = score(0.5, 0.9, 10);
    assert_eq!(alert("test.top5<0.5").check_metrics(&score).expect_err("known before").to_string(), message);
    for text in ["test.accuracy<0.5", "train.nonfinite>0", "fc1.dead>1"] {
        assert!(alert(text).check_metrics(&score).is_ok(), "{text}");
    }
    // A split that the epoch has not is not asked.
    assert!(alert("validation.top5<0.5").epoch(&report(1)).is_ok());
}

#[test]
fn the_untrained_network_fires_nothing_but_its_names_are_checked() {
    let untrained = report(0);
    for text in ["test.loss>0.1", "fc2.dead>1", "*.zero_fraction>0.4"] {
        assert!(fired(text, &untrained).is_none() && fired(text, &report(1)).is_some(), "{text}");
    }
    for text in ["test.top5<1", "fc9.dead>0"] {
        assert!(alert(text).epoch(&untrained).is_err(), "{text}");
    }
}
