//! What the console shows, to the character.

use std::io::{self, Write};

use crate::sample;
use taper_report::{
    ConsoleConfig, ConsoleSink, EpochReport, Fault, NonFinite, Place, Result, Sink, Split, SplitReport,
    Trouble,
};

fn printed(config: ConsoleConfig, reports: &[EpochReport]) -> Result<String> {
    let mut sink = ConsoleSink::new(Vec::new(), config);
    sink.begin(&sample::run("relu", 0.5, 1))?;
    for report in reports {
        sink.epoch(report)?;
    }
    sink.finish()?;
    Ok(String::from_utf8(sink.into_inner()).expect("text is UTF-8"))
}

/// Editors like to remove the blanks at the ends of lines.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

/// What is below the legend and its last line.
fn table(text: &str) -> &str {
    text.split_once("docs/statistics.md\n").map_or("", |(_, table)| table)
}

#[test]
fn an_epoch_is_a_line_and_the_last_one_a_table() -> Result<()> {
    let mut untrained = sample::report("relu", 0.5, 1, 1);
    (untrained.epoch, untrained.splits) = (0, untrained.splits.split_off(1));
    let reports = [untrained, sample::report("relu", 0.5, 1, 2), sample::report("relu", 0.5, 1, 3)];
    let text = printed(ConsoleConfig { width: 100, ..ConsoleConfig::default() }, &reports)?;
    let rows = "\
relu-dropout0.5-seed1: mlp 784-512-256-10 on mnist, 535,818 parameters, act relu, dropout 0.5,
  seed 1
       train            test             conv1       fc1         fc2
epoch    loss accuracy    loss accuracy  zeros dead  zeros dead  zeros dead
 0/10       –        –  0.2121   92.93%  56.1%    0  71.6%   10  43.4%    0
 2/10  0.1671   94.43%  0.1371   95.43%  56.1%    0  71.6%   11  43.4%    0
 3/10  0.1421   95.26%  0.1121   96.26%  56.1%    0  71.6%   12  43.4%    0

  zeros    share of values that are exactly 0; train: in training
  dead     units that no gradient reached; +n -n: died, revived since the last epoch
  dormant  units with a mean |y| of at most 2.5% of their layer's
  asym     0 for a symmetric distribution, 1 for a one-sided one
  -8 .. 8  histogram by octave, =0: the zeros; definitions: docs/statistics.md
";
    assert!(trimmed(&text).starts_with(rows), "{text}");
    let expected = "\x20 test   act   zeros  train  dead          dormant   mean    std  skew  asym  -8 -1    =0     1  8
  conv1  relu  56.1%  55.7%    0/64              2  0.340  0.588  2.37  0.44          │▅▅│▄▄▆█▇▂▁
  fc1    relu  71.6%  71.2%  12/512 +2 -1       14  0.196  0.460  3.33  0.28          │▆▆│▅▄▇█▆▂▁
  fc2    relu  43.4%  43.0%   0/256              2  0.491  0.684  1.83  0.57          │▄▄│▃▃▅██▂▁
  dead units: fc1 17, 48, 79, 110, 141, 172, 203, 234 and 4 more
";
    assert_eq!(trimmed(table(&text)), expected);
    Ok(())
}

#[test]
fn no_line_is_wider_than_the_terminal_and_what_does_not_fit_is_left_out() -> Result<()> {
    let mut report = sample::report("relu", 0.5, 1, 3);
    let mut validation = report.splits[1].clone();
    validation.split = Split::Validation;
    report.splits.insert(1, validation);
    for width in [80, 100, 120] {
        let text = printed(ConsoleConfig { width, ..ConsoleConfig::default() }, &[report.clone()])?;
        assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
        let (all, skew) = (text.contains("  fc2  ") && text.contains("  mean  "), text.contains("  skew  "));
        assert_eq!((all, skew), (width >= 100, true), "{text}");
    }
    let text = printed(ConsoleConfig::default(), &[report])?;
    let row = " 3/10  0.1421   95.26%  0.1121   96.26%  0.1121   96.26%  56.1%    0  57.5%   12\n";
    assert!(text.contains("  conv1       2 more\n") && text.contains(row), "{text}");
    Ok(())
}

#[test]
fn titles_are_repeated_as_often_as_a_terminal_scrolls_them_away() -> Result<()> {
    let reports: Vec<_> = (1..=41).map(|epoch| sample::report("relu", 0.5, 1, epoch)).collect();
    let text = printed(ConsoleConfig::default(), &reports)?;
    let titles = text.lines().enumerate().filter(|(_, line)| line.starts_with("epoch"));
    assert_eq!(titles.map(|(i, _)| i).collect::<Vec<_>>(), [3, 35]);
    Ok(())
}

#[test]
fn the_columns_are_explained_once() -> Result<()> {
    let reports = [sample::report("relu", 0.5, 1, 1), sample::report("relu", 0.5, 1, 2)];
    let text = printed(ConsoleConfig::default(), &reports)?;
    assert_eq!(text.matches("values that are exactly 0").count(), 1);
    assert_eq!(text.matches("  test   act ").count(), 1);
    let legend = text
        .lines()
        .skip_while(|line| !line.starts_with("  zeros "))
        .take_while(|line| !line.contains("  act "));
    assert_eq!(legend.count(), 5, "of 80 columns each: {text}");
    Ok(())
}

#[test]
fn with_verbose_every_epoch_has_its_table() -> Result<()> {
    let reports = [sample::report("relu", 0.5, 1, 1), sample::report("relu", 0.5, 1, 2)];
    let text = printed(ConsoleConfig { verbose: true, ..ConsoleConfig::default() }, &reports)?;
    assert_eq!(text.matches("values that are exactly 0").count(), 1);
    assert_eq!((text.matches("  test   act ").count(), text.matches("epoch ").count()), (2, 2));
    Ok(())
}

#[test]
fn without_color_there_are_no_escapes_and_with_it_only_escapes_are_added() -> Result<()> {
    let reports = [sample::report("relu", 0.5, 1, 2)];
    let plain = printed(ConsoleConfig::default(), &reports)?;
    assert!(!plain.contains(['\x1b', '\r']));
    let mut colored = printed(ConsoleConfig { color: true, ..ConsoleConfig::default() }, &reports)?;
    assert!(
        colored.contains("\x1b[33m 11/512 +2 -1\x1b[0m") || colored.contains("\x1b[33m11/512 +2 -1\x1b[0m")
    );
    for code in [0, 1, 2, 31, 33] {
        colored = colored.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(colored, plain);
    Ok(())
}

#[test]
fn a_fault_in_any_window_has_its_own_line() -> Result<()> {
    let mut report = sample::report("relu", 0.5, 1, 2);
    report.splits[0].layers[1].nan = 1200;
    report.splits[0].layers[1].infinite = 1;
    report.splits[0].nonfinite =
        Some(NonFinite { batches: 2, skipped: 1, first: Fault { batch: 3, loss: 0.5, place: Place::Loss } });
    report.splits[1].layers[2].trouble = Some(Trouble::ModesMixed);
    let text = printed(ConsoleConfig { color: true, ..ConsoleConfig::default() }, &[report])?;
    for line in [
        "train: batches not finite: 2, 1 steps left out; batch 3: loss is 0.5, every site is finite, so it is in the \
         last layer or the loss",
        "fc1: 1,200 NaN and 1 infinite of 4,000 values (train)",
        "fc2: not all recorded (test): training and evaluation in one window: call finish between them, or use a \
         recorder for each",
    ] {
        assert!(text.contains(&format!("  \x1b[31m{line}\x1b[0m\n")), "{line}\n{text}");
    }
    Ok(())
}

#[test]
fn dead_units_are_named_in_lines_that_fit() -> Result<()> {
    let mut report = sample::report("relu", 0.5, 1, 2);
    for layer in &mut report.splits[1].layers {
        layer.dead_units = (1000..1100).collect();
    }
    let text = printed(ConsoleConfig::default(), &[report])?;
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("  dead units: ")).collect();
    assert_eq!(lines.len(), 3);
    let first = "  dead units: conv1 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007 and 92 more";
    assert_eq!(lines[0], first);
    Ok(())
}

#[test]
fn without_layers_or_timing_an_epoch_is_its_scores() -> Result<()> {
    let score = sample::score(f64::NAN, 1.0, 10);
    let report = EpochReport { epoch: 1, splits: vec![SplitReport::new(Split::Validation, score)] };
    let text = printed(ConsoleConfig::default(), &[report])?;
    let lines: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(lines, ["       validation", "epoch    loss accuracy", " 1/10     NaN  100.00%"]);
    Ok(())
}

#[test]
fn a_console_that_has_gone_away_is_an_error_and_no_panic() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = ConsoleSink::new(Closed, ConsoleConfig::default());
    let error = sink.epoch(&sample::report("relu", 0.5, 1, 1)).expect_err("the pipe is closed");
    assert_eq!(error.to_string(), "console: broken pipe");
}

#[test]
fn a_site_that_stands_for_several_places_and_one_without_function_have_their_row() -> Result<()> {
    let mut report = sample::report("relu", 0.5, 1, 2);
    let layers = &mut report.splits[1].layers;
    layers[0].uses = 7;
    (layers[1].activation, layers[1].dead, layers[1].dormant_0_025) = (None, None, None);
    let text = printed(ConsoleConfig::default(), &[report])?;
    for row in ["  conv1 ×7  relu  56.1%", "  fc1       –     71.6%"] {
        assert!(text.contains(row), "{text}");
    }
    Ok(())
}
