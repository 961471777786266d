//! What is read from directories, whole, broken and strange.

use std::{fs, path::Path};

use taper_report::{
    EpochReport, LayerStats, Metric, MetricKind, Run, RunDir, Score, Sink, SiteSteps, Split, SplitReport,
    StepReport, TensorBoard, WarningLine, Watch, read_lines,
};
use taper_view::{RunData, html_report, load_runs, static_plots};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn write_run(dir: &Path, seed: u64, epochs: u32, site: &str) -> Result {
    let mut sink = RunDir::create(dir)?;
    sink.begin(&Run {
        name: format!("seed{seed}"),
        dataset: "digits".into(),
        model: "mlp".into(),
        labels: [("act".to_string(), "relu".into())].into(),
        loss: "hinge".into(),
        seed,
        parameters: 1,
        epochs: 3,
        config: serde_json::json!({}),
        ..Run::default()
    })?;
    let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.9 };
    for epoch in 1..=epochs {
        let score = Score { loss: 0.5, samples: 10, metrics: vec![accuracy.clone()], ..Score::default() };
        let layer = LayerStats {
            site: site.into(),
            uses: 1,
            dead: Some(0),
            units: 4,
            samples: 10,
            values: 40,
            ..Default::default()
        };
        let of = SplitReport { layers: vec![layer], ..SplitReport::new(Split::Test, score) };
        sink.epoch(&EpochReport { epoch, splits: vec![of] })?;
    }
    Ok(())
}

/// The runs, and the errors with the directory's name taken off.
fn load(dir: &Path, names: &[&str]) -> (Vec<RunData>, Vec<String>) {
    let paths: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
    let (runs, errors) = load_runs(&paths);
    let text = |error: &taper_view::Error| error.to_string().replace(&format!("{}/", dir.display()), "");
    (runs, errors.iter().map(text).collect())
}

#[test]
fn runs_and_grids_of_different_lengths_and_sites_make_one_page() -> Result {
    let dir = tempfile::tempdir()?;
    write_run(&dir.path().join("grid/a"), 1, 3, "fc1")?;
    write_run(&dir.path().join("grid/b"), 2, 1, "conv/1")?;
    write_run(&dir.path().join("single"), 3, 0, "fc1")?;
    fs::create_dir(dir.path().join("grid/other"))?;
    let (runs, errors) = load(dir.path(), &["single", "grid", "grid/a"]);
    assert_eq!(runs.iter().map(|run| run.run.seed).collect::<Vec<_>>(), [3, 1, 2]);
    assert!(errors.is_empty(), "{errors:?}");
    let page = html_report(&runs);
    for text in ["conv/1", "seed3: 0 of 3 epochs", "seed2: 1 of 3 epochs"] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(static_plots(&runs, dir.path().join("plots"))?.len(), 3);
    Ok(())
}

#[test]
fn the_warnings_of_a_run_are_those_that_it_wrote_down() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("run");
    let (mut sink, mut watch) = (RunDir::create(&path)?, Watch::default());
    sink.begin(&Run { name: "run".into(), ..Run::default() })?;
    for step in 1..=20 {
        let dead = Some(if step > 1 { 9 } else { 0 });
        let site = SiteSteps {
            site: "fc1".into(),
            units: 10,
            zero_fraction: 0.5,
            dead,
            mean: None,
            std: None,
            octaves: None,
        };
        let (score, learning_rate) = (Score { loss: 1.0, samples: 10, ..Score::default() }, 0.1);
        let report =
            StepReport { step, steps: 1, score, learning_rate, sites: vec![site], parameters: Vec::new() };
        sink.step(&report)?;
        watch.step(&report).iter().try_for_each(|warning| sink.warning(warning))?;
    }
    for epoch in 0..=3 {
        // Only the headline window counts.
        let splits = [(Split::Train, 10), (Split::Test, 10 * u64::from(epoch > 1))].map(|(split, dead)| {
            let layer =
                LayerStats { site: "fc1".into(), units: 10, dead: Some(dead), ..LayerStats::default() };
            SplitReport { layers: vec![layer], ..SplitReport::new(split, Score::default()) }
        });
        let report = EpochReport { epoch, splits: splits.into() };
        sink.epoch(&report)?;
        watch.epoch(&report).iter().try_for_each(|warning| sink.warning(warning))?;
    }
    let written: Vec<WarningLine> = read_lines(path.join("warnings.jsonl"))?;
    let at: Vec<_> = written.iter().map(|line| (line.of.step, line.of.epoch)).collect();
    assert_eq!(at, [(Some(20), None), (None, Some(2))]);
    let (runs, _) = load_runs(&[path]);
    assert_eq!(runs[0].warnings(), written.into_iter().map(|line| line.of).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn an_incomplete_last_line_is_dropped_and_a_damaged_one_loses_the_lines_after_it() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("run/layers.jsonl");
    write_run(&dir.path().join("run"), 1, 3, "fc1")?;
    let whole = fs::read_to_string(&file)?;
    fs::write(&file, &whole[..whole.len() - 40])?;
    let (runs, errors) = load(dir.path(), &["run"]);
    assert_eq!((runs[0].layers.len(), errors.len()), (2, 0));

    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&file, format!("{}\n{}\n{}\n", lines[0], &lines[1][..50], lines[2]))?;
    let (runs, errors) = load(dir.path(), &["run"]);
    assert_eq!(runs[0].layers.len(), 1);
    assert!(errors[0].starts_with("run/layers.jsonl:2: not a valid record: "), "{errors:?}");
    assert!(!errors[0].contains('\n'));
    assert!(html_report(&runs).contains("layers.jsonl:2: not a valid record"));
    Ok(())
}

#[test]
fn what_is_no_run_is_named_with_its_cause() -> Result {
    let dir = tempfile::tempdir()?;
    fs::create_dir_all(dir.path().join("empty"))?;
    fs::create_dir_all(dir.path().join("photos/2026"))?;
    fs::write(dir.path().join("notes.txt"), "hello")?;
    for (name, file, text) in [
        ("half", "metrics.jsonl", ""),
        ("torn", "config.json", "{\"v\": 2, \"name\": "),
        ("newer", "config.json", "{\"v\": 99}"),
        ("bytes", "config.json", "\u{0}\u{1}"),
    ] {
        fs::create_dir(dir.path().join(name))?;
        fs::write(dir.path().join(name).join(file), text)?;
    }
    let names = ["empty", "photos", "notes.txt", "missing", "half", "torn", "newer", "bytes"];
    let (runs, errors) = load(dir.path(), &names);
    assert!(runs.is_empty());
    let expected = [
        "empty: an empty directory, expected a run's config.json or directories that have one",
        "photos: no run in this directory, expected a run's config.json or directories that have one",
        "notes.txt: Not a directory",
        "missing: No such file or directory",
        "half/config.json: No such file or directory",
        "torn/config.json:1: not a valid record",
        "newer/config.json:1: expected format version 2, found 99: read it with a newer taper",
        "bytes/config.json:1: not a valid record",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    Ok(())
}

#[test]
fn a_newer_file_next_to_older_ones_loses_only_itself() -> Result {
    let dir = tempfile::tempdir()?;
    write_run(&dir.path().join("run"), 1, 2, "fc1")?;
    fs::write(dir.path().join("run/timing.jsonl"), "{\"v\":3}\n")?;
    let (runs, errors) = load(dir.path(), &["run"]);
    assert_eq!((runs[0].metrics.len(), runs[0].timing.len()), (2, 0));
    assert!(errors[0].contains("timing.jsonl:1: expected format version"), "{errors:?}");
    Ok(())
}

#[test]
fn no_runs_make_no_pictures() {
    let error = static_plots(&[], "nowhere").expect_err("there is nothing to draw");
    assert_eq!(error.to_string(), "no run to draw");
}

/// Every file and directory below `dir`, and next to it.
fn everything(dir: &Path) -> Vec<String> {
    let (mut dirs, mut found) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            found.push(entry.path().strip_prefix(dir).unwrap_or(dir).display().to_string());
            if entry.path().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn names_in_files_are_never_paths() -> Result {
    let above = tempfile::tempdir()?;
    let dir = above.path().join("a/b/c");
    for evil in ["../../evil", "/tmp/evil", "evil\0/x", "..", "C:\\evil"] {
        write_run(&dir, 1, 2, evil)?;
        // The run's name, its data set and its model are of the file too.
        let config = dir.join("config.json");
        let text = fs::read_to_string(&config)?;
        for (from, to) in
            [("seed1", evil), ("digits", evil), ("mlp", evil), ("relu", evil), ("act", evil), ("hinge", evil)]
        {
            let (from, to) = (serde_json::to_string(from)?, serde_json::to_string(to)?);
            assert!(text.contains(&from));
            fs::write(&config, fs::read_to_string(&config)?.replace(&from, &to))?;
        }
        // So are those of its metrics.
        let metrics = dir.join("metrics.jsonl");
        fs::write(
            &metrics,
            fs::read_to_string(&metrics)?.replace("\"accuracy\"", &serde_json::to_string(evil)?),
        )?;
        let (runs, errors) = load(above.path(), &["a/b/c"]);
        assert!(errors.is_empty() && runs[0].run.name == evil, "{errors:?}");
        html_report(&runs);
        static_plots(&runs, dir.join("plots"))?;
        let mut board = TensorBoard::create(dir.join("board"))?;
        board.begin(&runs[0].run)?;
        let layers = runs[0].layers.iter().take(1).map(|line| line.of.clone()).collect();
        let of = SplitReport { layers, ..SplitReport::new(Split::Test, Score::default()) };
        board.epoch(&EpochReport { epoch: 1, splits: vec![of] })?;

        let found = everything(above.path());
        let expected =
            |path: &String| ["a", "a/b", "a/b/c"].contains(&path.as_str()) || path.starts_with("a/b/c/");
        assert!(found.iter().all(expected), "{found:?}");
        let names =
            ["plots/score.svg", "plots/dead_fraction.svg", "board/test", "layers.jsonl", "config.json"];
        assert!(names.iter().all(|name| found.contains(&format!("a/b/c/{name}"))), "{found:?}");
        assert!(!found.iter().any(|path| path.contains("evil")), "{found:?}");
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

#[test]
fn numbers_that_no_run_has_make_a_page_and_plots_all_the_same() -> Result {
    let above = tempfile::tempdir()?;
    let dir = above.path().join("run");
    write_run(&dir, 1, 2, "fc1")?;
    let layers = dir.join("layers.jsonl");
    let text = fs::read_to_string(&layers)?;
    for number in ["1e308", "-1e308", "1e-320", "-0.0"] {
        for key in ["zero_fraction", "asymmetry", "mean", "variance", "skewness"] {
            let changed: String = text
                .lines()
                .zip([number, "1e308"])
                .map(|(line, number)| {
                    let mut fields: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                    fields[key] = number.parse::<f64>().unwrap_or_default().into();
                    format!("{fields}\n")
                })
                .collect();
            fs::write(&layers, changed)?;
            let (runs, errors) = load(above.path(), &["run"]);
            assert!(errors.is_empty() && runs[0].layers.len() == 2, "{errors:?}");
            html_report(&runs);
            static_plots(&runs, dir.join("plots"))?;
        }
    }
    let far = text
        .replace(r#""epoch":2"#, r#""epoch":4294967295"#)
        .replace(r#""dead":0"#, r#""dead":18446744073709551615"#);
    fs::write(&layers, far)?;
    let (runs, _) = load(above.path(), &["run"]);
    html_report(&runs);
    static_plots(&runs, dir.join("plots"))?;
    Ok(())
}
