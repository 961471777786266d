//! Runs side by side.

use crate::sample;
use taper_report::{
    EpochReport, Metric, MetricKind, Result, Score, Sink, Split, SplitReport, Summary, comparison,
};

fn summary(activation: &str, dropout: f64, seed: u64) -> Result<Summary> {
    let mut summary = Summary::new(sample::run(activation, dropout, seed));
    for epoch in 1..=10 {
        summary.epoch(&sample::report(activation, dropout, seed, epoch))?;
    }
    Ok(summary)
}

/// A run without layers, of these test accuracies.
fn scored(seed: u64, accuracies: &[f64]) -> Result<Summary> {
    let mut summary = Summary::new(sample::run("relu", 0.5, seed));
    for (i, accuracy) in accuracies.iter().enumerate() {
        let score = sample::score(0.5, *accuracy, 1000);
        let train = SplitReport {
            seconds: 2.0,
            tracking_seconds: 0.5,
            ..SplitReport::new(Split::Train, score.clone())
        };
        let test = SplitReport { seconds: 0.5, ..SplitReport::new(Split::Test, score) };
        summary.epoch(&EpochReport { epoch: i as u32 + 1, splits: vec![train, test] })?;
    }
    Ok(summary)
}

/// Best and last.
fn accuracies(of: &Summary) -> (Option<f64>, Option<f64>) {
    (of.best.as_ref().map(|best| best.value), of.score.as_ref().and_then(|score| score.metric("accuracy")))
}

fn trimmed(text: &str) -> String {
    text.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

#[test]
fn a_summary_keeps_the_best_and_the_last_and_adds_up_the_time() -> Result<()> {
    let summary = scored(1, &[0.5, 0.75, 0.625])?;
    assert_eq!((summary.epoch, summary.split), (3, Some(Split::Test)));
    assert_eq!(accuracies(&summary), (Some(0.75), Some(0.625)));
    assert_eq!((summary.seconds, summary.samples_per_second()), (7.5, Some(500.0)));
    assert_eq!(summary.tracking_fraction(), Some(0.2));
    Ok(())
}

#[test]
fn an_epoch_cut_short_does_not_outbid_those_that_were_tested() -> Result<()> {
    let mut summary = scored(1, &[0.75, 0.5])?;
    let score = sample::score(0.0, 1.0, 128);
    let train = SplitReport { seconds: 1.0, ..SplitReport::new(Split::Train, score) };
    summary.epoch(&EpochReport { epoch: 3, splits: vec![train] })?;
    assert_eq!((summary.epoch, summary.split, summary.seconds), (2, Some(Split::Test), 6.0));
    assert_eq!(accuracies(&summary), (Some(0.75), Some(0.5)));
    Ok(())
}

#[test]
fn runs_are_compared_in_a_table_and_layer_by_layer_below() -> Result<()> {
    let runs = [summary("relu", 0.0, 1)?, summary("relu", 0.5, 1)?, summary("tanh", 0.0, 1)?];
    let expected = "\
3 runs on mnist, mlp 784-512-256-10, 10 epochs; accuracy and loss on test
act   dropout  seed    best   final    loss  seconds  samples/s  tracking
relu  0           1  97.53%  97.53%  0.0741     28.0     24,997      3.1%
relu  0.5         1  97.43%  97.43%  0.0771     28.0     24,997      3.1%
tanh  0           1  97.53%  97.53%  0.0741     28.0     24,997      3.1%

layer  act   dropout  seed  zeros    dead   skew  -8 -1    =0     1  8
conv1  relu  0           1  49.8%    0/64   2.09          │▄▄│▃▃▆█▇▂▁
conv1  relu  0.5         1  56.1%    0/64   2.37          │▅▅│▄▄▆█▇▂▁
conv1  tanh  0           1     0%    0/64  -0.01      █▄▂▂│  │▂▂▄█
fc1    relu  0           1  66.1%  19/512   2.94          │▆▆│▄▄▇█▆▂▁
fc1    relu  0.5         1  71.6%  19/512   3.33          │▆▆│▅▄▇█▆▂▁
fc1    tanh  0           1     0%   0/512   0.51      █▃▁▁│  │▁▁▂▄
fc2    relu  0           1  37.3%   0/256   1.61          │▃▃│▃▃▅██▃▁
fc2    relu  0.5         1  43.4%   0/256   1.83          │▄▄│▃▃▅██▂▁
fc2    tanh  0           1     0%   0/256  -0.39      ▄▂▁▁│  │▂▂▃█
";
    assert_eq!(trimmed(&comparison(&runs, 100)), expected);
    Ok(())
}

#[test]
fn all_rows_of_a_block_are_equally_wide_and_fit_a_terminal() -> Result<()> {
    let runs = [summary("relu", 0.5, 1)?, summary("relu", 0.5, 2)?, summary("selu", 0.0, 1)?];
    let text = comparison(&runs, 100);
    for block in text.split("\n\n") {
        let titled = block.lines().next().is_some_and(|line| line.contains(" runs"));
        let mut widths: Vec<_> = block.lines().skip(usize::from(titled)).map(|l| l.chars().count()).collect();
        widths.dedup();
        assert!(widths.len() == 1 && widths[0] <= 100, "{widths:?}\n{text}");
    }
    Ok(())
}

#[test]
fn where_a_row_is_too_long_times_are_left_out_first() -> Result<()> {
    let runs = [scored(1, &[0.90])?, scored(2, &[0.92])?];
    let text = comparison(&runs, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let titles: Vec<_> = text.lines().filter(|line| line.starts_with("act ")).collect();
    assert!(titles.len() == 2 && titles[0].contains("tracking") && titles[1].ends_with("seconds"), "{text}");
    Ok(())
}

#[test]
fn one_layer_fits_next_to_the_scores() -> Result<()> {
    let mut run = summary("relu", 0.0, 1)?;
    run.layers.truncate(1);
    let text = comparison(&[run], 100);
    let expected = "\
1 run on mnist, mlp 784-512-256-10, 10 epochs; accuracy and loss on test
act   dropout  seed    best   final    loss  seconds  samples/s  tracking  conv1 zeros  dead  skew
relu  0           1  97.53%  97.53%  0.0741     28.0     24,997      3.1%        49.8%  0/64  2.09
";
    assert_eq!(trimmed(&text), expected);
    Ok(())
}

#[test]
fn seeds_are_averaged_with_their_sample_standard_deviation() -> Result<()> {
    // Mean (0.90 + 0.92 + 0.97) / 3 = 0.93; deviations -3, -1, 4: √(26 / 2) = 3.61 points.
    let runs = [scored(1, &[0.90])?, scored(2, &[0.92])?, scored(3, &[0.97])?];
    let text = comparison(&runs, 100);
    assert!(text.contains("mean ± sample standard deviation of n runs\n"), "{text}");
    assert!(text.contains("relu  0.5      3  93.00 ± 3.61%  93.00 ± 3.61%  0.5000 ± 0.0000"), "{text}");
    Ok(())
}

#[test]
fn runs_with_the_same_seed_are_distinguished_by_name_and_not_averaged() -> Result<()> {
    let mut runs = [scored(1, &[0.90])?, scored(1, &[0.92])?];
    runs[1].run.name = "slow".into();
    let text = comparison(&runs, 100);
    assert!(text.contains("slow ") && !text.contains('±'), "{text}");
    Ok(())
}

#[test]
fn unfinished_runs_other_layers_and_other_data_sets_have_their_place() -> Result<()> {
    let mut other = summary("selu", 0.0, 1)?;
    other.run.dataset = "digits".into();
    other.layers.remove(0);
    other.layers[0].site = "block.fc".into();
    let never = Summary::new(sample::run("relu", 0.5, 2));
    let text = comparison(&[summary("relu", 0.5, 1)?, never, other], 100);
    assert!(text.starts_with("3 runs, mlp 784-512-256-10\ndata set  epochs  split  act "), "{text}");
    assert!(
        text.contains("\nmnist     0/10    –      relu  0.5         2       –       –       –"),
        "{text}"
    );
    assert!(text.contains("\nblock.fc  digits "), "{text}");
    assert!(!text.contains('±'), "one of the two seeds never ended an epoch: {text}");
    Ok(())
}

#[test]
fn no_runs_are_no_table() {
    assert_eq!(comparison(&[], 100), "no runs to compare\n");
    assert!(comparison(&[Summary::new(sample::run("relu", 0.0, 1))], 100).contains("0/10 epochs"));
}

#[test]
fn the_untrained_network_is_never_the_best() -> Result<()> {
    let mut summary = Summary::new(sample::run("relu", 0.5, 1));
    for (epoch, accuracy) in [(0, 0.99), (1, f64::NAN), (2, 0.5)] {
        let test = SplitReport::new(Split::Test, sample::score(0.5, accuracy, 10));
        summary.epoch(&EpochReport { epoch, splits: vec![test] })?;
    }
    assert_eq!((summary.epoch, accuracies(&summary)), (2, (Some(0.5), Some(0.5))));
    Ok(())
}

#[test]
fn a_regression_is_compared_by_its_own_metrics_and_labels() -> Result<()> {
    let run = |width: u64, losses: [f64; 2]| -> Result<Summary> {
        let mut run = sample::run("relu", 0.5, 1);
        run.labels = [("opt".to_string(), "adam".into()), ("width".into(), width.into())].into();
        let mut summary = Summary::new(run);
        for (epoch, loss) in (1..).zip(losses) {
            let metric = |name: &str, kind, value| Metric { name: name.into(), kind, value };
            let metrics = vec![
                metric("mae", MetricKind::Lower, loss / 2.0),
                metric("r2", MetricKind::Higher, 1.0 - loss),
            ];
            let score = Score { loss, samples: 10, metrics, ..Score::default() };
            let splits = vec![SplitReport::new(Split::Validation, score)];
            summary.epoch(&EpochReport { epoch, splits })?;
        }
        Ok(summary)
    };
    let expected = "\
2 runs on mnist, mlp 784-512-256-10; mae, r2 and loss on validation
epochs  opt   width  seed    best   final      r2    loss  seconds  samples/s  tracking
2/10    adam  32        1  0.1250  0.2500  0.5000  0.5000        –          –         –
2/10    adam  64        1  0.0625  0.0625  0.8750  0.1250        –          –         –
";
    let runs = [run(32, [0.25, 0.5])?, run(64, [0.5, 0.125])?];
    let expected = expected
        .replace("; mae", ", 2/10 epochs; mae")
        .replace("\nepochs  ", "\n")
        .replace("\n2/10    ", "\n");
    assert_eq!(trimmed(&comparison(&runs, 100)), expected);
    Ok(())
}
