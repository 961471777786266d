#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use taper_report::{
    EpochReport, Finding, Histogram, LayerStats, Metric, MetricKind, Run, Score, SiteSteps, Split,
    SplitReport, StepReport, Warning,
};

use super::draw::draw;
use super::state::State;

fn run(name: &str, epochs: u32) -> Run {
    Run {
        name: name.into(),
        dataset: "digits".into(),
        model: "mlp 64-8-6-10".into(),
        seed: 1,
        parameters: 1234,
        epochs,
        ..Run::default()
    }
}

fn layer(site: &str, zeros: usize, dead: u64) -> LayerStats {
    let mut histogram = Histogram::default();
    (0..zeros).for_each(|_| histogram.add(0.0));
    (zeros..100).for_each(|i| histogram.add(i as f32 / 30.0));
    LayerStats {
        site: site.into(),
        activation: Some("relu".into()),
        uses: 1,
        units: 8,
        values: 100,
        zero_fraction: zeros as f64 / 100.0,
        mean: Some(0.3),
        variance: Some(0.25),
        dead: Some(dead),
        histogram: Some(histogram),
        ..LayerStats::default()
    }
}

fn report(epoch: u32, sites: &[&str], zeros: usize, dead: u64) -> EpochReport {
    let split = |split, accuracy| {
        let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: accuracy };
        let score =
            Score { loss: 1.0 / f64::from(epoch), samples: 100, metrics: vec![accuracy], ..Score::default() };
        let layers = sites.iter().map(|site| layer(site, zeros, dead)).collect();
        SplitReport { layers, ..SplitReport::new(split, score) }
    };
    let grown = 0.9 + 0.01 * f64::from(epoch);
    EpochReport { epoch, splits: vec![split(Split::Train, grown), split(Split::Test, grown - 0.02)] }
}

/// In the middle of the fourth of five epochs, in the second of eight runs.
fn state(name: &str, sites: &[&str]) -> (State, Instant) {
    let start = Instant::now();
    let mut state = State { keys: true, ..State::default() };
    state.place(2, 8, 10_000);
    state.begin(&run(name, 5));
    for epoch in 1..=3 {
        state.epoch(&report(epoch, sites, 20 * epoch as usize, u64::from(epoch) - 1));
    }
    state.pass(4, Split::Train, 1000, start);
    state.advance(250);
    (state, start + Duration::from_secs(1))
}

fn drawn(state: &State, now: Instant, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(state, None, now, frame.area(), frame.buffer_mut())).unwrap();
    let cells = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| cells[(x, y)].symbol()).collect::<String>();
    (0..height).map(row).collect()
}

#[track_caller]
fn expect(rows: &[String], text: &str) {
    assert!(rows.iter().any(|row| row.contains(text)), "expected '{text}' in\n{}", rows.join("\n"));
}

#[test]
fn the_view_names_run_place_sites_scores_progress_and_time_left() {
    let (state, now) = state("relu-dropout0-seed1", &["conv1", "fc1"]);
    let rows = drawn(&state, now, 80, 24);
    for text in [
        "relu-dropout0-seed1 · mlp 64-8-6-10 on digits",
        "run 2 of 8",
        "epoch 4/5 train",
        "250/1,000  250 samples/s",
        "2%  1s gone, 39s left",
        "test 91.00%",
        "train 93.00%",
        "test 0.3333",
        "epoch 5",
        "conv1",
        "fc1",
        "zeros 60.0%",
        "dead  2/8",
        "mean 0.30  std 0.50",
        "q leaves",
    ] {
        expect(&rows, text);
    }
}

#[test]
fn the_bar_of_the_zeros_has_its_own_scale() {
    let (state, now) = state("relu", &["fc1"]);
    let rows = drawn(&state, now, 80, 24);
    // 60 % of the values: the lower part of the spike is full, its top is not there.
    let below = rows.iter().skip_while(|row| !row.starts_with("sites"));
    let spike: Vec<&String> = below.filter(|row| row.matches('│').count() == 2).collect();
    let between = |row: &str| row.split('│').nth(1).unwrap().to_string();
    assert_eq!(between(spike[spike.len() - 1]), "██", "{}", rows.join("\n"));
    assert_eq!(between(spike[0]), "  ", "{}", rows.join("\n"));
    // ReLU has nothing to the left of it.
    assert!(spike.iter().all(|row| row.split('│').next().unwrap().ends_with("        ")));
    assert!(spike.iter().any(|row| row.split('│').nth(2).unwrap().contains('█')));
    expect(&rows, "-8");
    expect(&rows, "=0");
}

#[test]
fn a_line_per_site_has_the_columns_of_the_console() {
    let sites: Vec<String> = (1..=5).map(|i| format!("fc{i}")).collect();
    let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
    let (state, now) = state("relu", &sites);
    let rows = drawn(&state, now, 80, 16);
    sites.iter().for_each(|site| expect(&rows, site));
    // 60 % zeros, the rest from 2 to 3.3: one octave.
    expect(&rows, "        │▅▅│     █  ");
    expect(&rows, "-8 -1    =0     1  8");
}

#[test]
fn every_size_is_drawn_without_panic_and_small_ones_show_what_matters() {
    let long = "ä".repeat(200);
    let wide = "層/名前<script>\u{1b}[2J\n".repeat(20);
    let sites: Vec<String> = (1..=40).map(|i| format!("encoder.block{i}.linear")).collect();
    let many: Vec<&str> = sites.iter().map(String::as_str).collect();
    for names in [&["fc1", "fc2"][..], &[], &[&long, &wide], &many] {
        for name in ["relu", &long, &wide] {
            let (state, now) = state(name, names);
            for (width, height) in [
                (0, 0),
                (1, 1),
                (3, 2),
                (10, 3),
                (20, 5),
                (40, 10),
                (59, 12),
                (60, 13),
                (80, 24),
                (81, 7),
                (300, 100),
            ] {
                drawn(&state, now, width, height);
            }
            for size in 1..=70 {
                drawn(&state, now, size, 70 - size);
                drawn(&state, now, 80, size);
            }
        }
    }
    let (state, now) = state("relu-dropout0-seed1", &["fc1", "fc2"]);
    let rows = drawn(&state, now, 40, 10);
    for text in ["relu-dropout0-seed1", "2/8", "4/5 train", "250/s", "39s left", "fc1", "fc2", "60.0%", "2/8"]
    {
        expect(&rows, text);
    }
}

#[test]
fn names_of_200_characters_of_any_script_are_cut_and_push_nothing_away() {
    for name in ["a".repeat(200), "層".repeat(200), "\u{1b}[2J".repeat(50)] {
        let (state, now) = state(&name, &[&name, "fc2"]);
        let rows = drawn(&state, now, 80, 24);
        assert!(rows.iter().all(|row| !row.contains('\u{1b}')));
        for text in ["…", "run 2 of 8", "zeros 60.0%", "dead  2/8", "fc2"] {
            expect(&rows, text);
        }
    }
}

#[test]
fn a_run_without_epochs_or_sites_says_so() {
    let now = Instant::now();
    expect(&drawn(&State::default(), now, 80, 24), "no run has begun");
    let mut state = State::default();
    state.begin(&run("relu", 5));
    expect(&drawn(&state, now, 80, 24), "after the first steps");
    expect(&drawn(&state, now, 40, 10), "after the first steps");
    state.epoch(&report(1, &[], 0, 0));
    expect(&drawn(&state, now, 80, 24), "nobody watches activations");
}

#[test]
fn what_is_not_finite_is_named_and_drawn_as_nothing() {
    let (mut state, now) = state("relu", &["fc1"]);
    let mut last = report(4, &["fc1"], 50, 0);
    last.splits[1].score.loss = f64::NAN;
    last.splits[1].layers[0].nan = 7;
    state.epoch(&last);
    let rows = drawn(&state, now, 80, 24);
    expect(&rows, "7 NaN of 100 values");
    expect(&rows, "test NaN");
}

#[test]
fn a_site_without_function_shows_no_dead_units_and_one_used_often_says_so() {
    let mut state = State::default();
    state.begin(&run("lm", 5));
    let mut report = report(0, &["stem"], 50, 0);
    report.splits.remove(0);
    let layer = &mut report.splits[0].layers[0];
    (layer.uses, layer.activation, layer.dead) = (7, None, None);
    report.splits[0].score.metrics.clear();
    state.epoch(&report);
    let rows = drawn(&state, Instant::now(), 80, 24);
    expect(&rows, "stem ×7");
    expect(&rows, "loss  ⣀ test inf");
    assert!(!rows.iter().any(|row| row.contains("dead")), "{}", rows.join("\n"));
}

#[test]
fn one_dead_unit_of_many_is_seen_in_its_sparkline() {
    let (mut state, now) = state("relu", &["fc1"]);
    let mut one = report(4, &["fc1"], 50, 1);
    one.splits.iter_mut().for_each(|of| of.layers[0].units = 1_000_000);
    (state.sites, state.scores) = (Vec::new(), Vec::new());
    state.epoch(&one);
    let rows = drawn(&state, now, 80, 24);
    let row = rows.iter().find(|row| row.contains("1/1000000")).unwrap();
    let block = rows.iter().skip_while(|r| *r != row).take(4);
    assert!(block.into_iter().any(|row| row.split('│').next().unwrap().contains('▁')), "{}", rows.join("\n"));
}

#[test]
fn an_epoch_that_was_cut_short_leaves_the_test_window() {
    let (mut state, _) = state("relu", &["fc1"]);
    let mut cut = report(4, &["fc1"], 99, 0);
    cut.splits.truncate(1);
    state.epoch(&cut);
    assert_eq!((state.window, state.sites[0].past.len()), (Some(Split::Test), 3));
    assert_eq!(state.sites[0].now.zeros, 0);
    assert_eq!(state.scores.len(), 4);
}

#[test]
fn a_new_run_starts_over_and_remembers_the_best_before() {
    let (mut state, now) = state("first", &["fc1"]);
    state.begin(&run("second", 5));
    assert!(state.sites.is_empty() && state.scores.is_empty());
    expect(&drawn(&state, now, 80, 19), "best before: accuracy 91.00% first");
    let rows = drawn(&state, now, 80, 24);
    expect(&rows, "earlier runs (1), best first");
    expect(&rows, "first  accuracy 91.00%  fc1 60.0% dead 2/8");
}

#[test]
fn without_colour_no_cell_has_one() {
    for color in [false, true] {
        let (mut state, now) = state("relu", &["fc1"]);
        state.color = color;
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(&state, Some("!"), now, frame.area(), frame.buffer_mut())).unwrap();
        let colored = |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        assert_eq!(terminal.backend().buffer().content().iter().any(colored), color);
    }
}

/// A window that ends with `step`, of steps of 10 samples.
fn window(step: u64, loss: f64, dead: u64) -> StepReport {
    let site = SiteSteps {
        site: "fc1".into(),
        units: 8,
        zero_fraction: 0.25,
        dead: Some(dead),
        mean: Some(0.5),
        std: Some(2.0),
        octaves: None,
    };
    StepReport {
        step,
        steps: 1,
        score: Score { loss, samples: 10, ..Score::default() },
        learning_rate: 0.1,
        sites: vec![site],
        parameters: Vec::new(),
    }
}

#[test]
fn curves_and_sites_are_drawn_from_the_first_steps_on() {
    let (mut state, start) = (State::default(), Instant::now());
    state.begin(&run("relu", 4));
    state.pass(1, Split::Train, 1000, start);
    (1..=10).for_each(|step| state.step(&window(step, 2.5 - 0.1 * step as f64, 4)));
    // Ten of the hundred steps of an epoch, of four: the axis ends at a quarter of an epoch.
    assert_eq!((state.at(), state.end()), (0.1, 0.25));
    for (width, height) in [(80, 24), (40, 10)] {
        let rows = drawn(&state, start, width, height);
        expect(&rows, "1.5");
        expect(&rows, "25.0%");
        expect(&rows, "4/8");
    }
    let rows = drawn(&state, start, 80, 24);
    ["train 1.5000", "epoch 0.25", "mean 0.50  std 2.00"].iter().for_each(|text| expect(&rows, text));
    // The end of an epoch has the last word until the next steps.
    state.epoch(&report(1, &["fc1"], 60, 2));
    expect(&drawn(&state, start, 80, 24), "dead  2/8");
    state.step(&window(101, 1.0, 3));
    let rows = drawn(&state, start, 80, 24);
    ["dead  3/8", "train, step 101", "distribution: test"].iter().for_each(|text| expect(&rows, text));
}

#[test]
fn dead_units_are_drawn_on_the_scale_of_all_units() {
    let (mut state, start) = (State::default(), Instant::now());
    state.begin(&run("relu", 1));
    state.pass(1, Split::Train, 100, start);
    (1..=10).for_each(|step| state.step(&window(step, 1.0, 2)));
    let rows = drawn(&state, start, 80, 24);
    let row = rows.iter().position(|row| row.contains("dead  2/8")).unwrap();
    // Four rows are all units, so a quarter of them fills the lowest.
    let filled = [0, 1, 2, 3].map(|below| rows[row + below].contains("████"));
    assert_eq!(filled, [false, false, false, true], "{}", rows.join("\n"));
}

#[test]
fn a_warning_stays_in_the_last_row() {
    let (mut state, now) = state("relu", &["fc1"]);
    let finding = Finding::DeadLayer { site: "fc1".into(), activation: None, dead: 8, units: 8 };
    state.warning(&Warning { epoch: Some(3), step: None, finding });
    let rows = drawn(&state, now, 80, 24);
    assert!(rows[23].starts_with("warning: relu: epoch 3: fc1: 8 of 8 units are dead"), "{}", rows[23]);
}

#[test]
fn the_last_picture_is_text_with_colours_and_without_trailing_blanks() {
    for color in [false, true] {
        let (mut state, now) = state("層", &["fc1"]);
        state.color = color;
        let area = ratatui::layout::Rect::new(0, 0, 80, 16);
        let mut picture = ratatui::buffer::Buffer::empty(area);
        draw(&state, None, now, area, &mut picture);
        let text = super::terminal::printed(&picture);
        assert_eq!((text.lines().count(), text.contains("38;5;")), (16, color));
        assert!(text.starts_with("\u{1b}[0;1m層\u{1b}[0;2m · mlp"), "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    }
}
