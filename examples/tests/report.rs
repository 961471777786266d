//! The `report` program as a stranger runs it.

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use taper::report::{EpochReport, LayerStats, Run, RunDir, Score, Sink, Split, SplitReport};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn report(args: &[&str], dir: &Path) -> Result<Output> {
    Ok(Command::new(common::example("report")).args(args).current_dir(dir).output()?)
}

fn write_run(dir: &Path) -> Result {
    let mut sink = RunDir::create(dir)?;
    sink.begin(&Run {
        name: "relu".into(),
        dataset: "digits".into(),
        model: "mlp".into(),
        labels: [("act".to_string(), "relu".into()), ("dropout".into(), 0.25.into())].into(),
        loss: String::new(),
        seed: 1,
        parameters: 1,
        epochs: 2,
        config: serde_json::json!({}),
        ..Run::default()
    })?;
    for epoch in 1..=2 {
        let score = Score { loss: 0.5, samples: 10, ..Score::default() };
        let layer = LayerStats { site: "fc1".into(), uses: 1, units: 4, values: 40, ..Default::default() };
        let of = SplitReport { layers: vec![layer], ..SplitReport::new(Split::Test, score) };
        sink.epoch(&EpochReport { epoch, splits: vec![of] })?;
    }
    Ok(())
}

#[test]
fn a_page_and_pictures_are_written_and_their_paths_printed() -> Result {
    let dir = tempfile::tempdir()?;
    write_run(&dir.path().join("run"))?;
    let output = report(&["run", "missing", "-o", "new/page.html", "--plots", "figures"], dir.path())?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stderr)?,
        "warning: missing: No such file or directory (os error 2)\n"
    );
    let printed = String::from_utf8(output.stdout)?;
    assert_eq!(printed.lines().next(), Some("new/page.html"));
    for line in printed.lines() {
        assert!(fs::metadata(dir.path().join(line))?.len() > 500, "{line}");
    }
    assert!(printed.contains("figures/score.svg\nfigures/zero_fraction.svg\n"));
    Ok(())
}

#[test]
fn a_single_directory_keeps_its_page() -> Result {
    let dir = tempfile::tempdir()?;
    write_run(&dir.path().join("grid/one"))?;
    write_run(&dir.path().join("grid/two"))?;
    assert_eq!(report(&["grid"], dir.path())?.stdout, b"grid/report.html\n");
    Ok(())
}

#[test]
fn errors_are_one_line_and_wrong_usage_exits_with_2() -> Result {
    let dir = tempfile::tempdir()?;
    let output = report(&["."], dir.path())?;
    assert_eq!(output.status.code(), Some(1));
    let expected = "warning: .: an empty directory, expected a run's config.json or directories that have one\n\
                    error: no run to show\n";
    assert_eq!(String::from_utf8(output.stderr)?, expected);

    write_run(&dir.path().join("run"))?;
    let output = report(&["run", "-o", "run/config.json/page.html"], dir.path())?;
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stderr)?;
    assert!(printed.starts_with("error: run/config.json: ") && printed.lines().count() == 1, "{printed}");

    assert_eq!(report(&[], dir.path())?.status.code(), Some(2));
    let help = report(&["--help"], dir.path())?;
    assert!(String::from_utf8(help.stdout)?.contains("Examples:"));
    Ok(())
}

#[test]
fn a_table_has_a_row_per_run_epoch_split_and_site_and_any_name_in_quotes() -> Result {
    let dir = tempfile::tempdir()?;
    write_run(&dir.path().join("run"))?;
    let mut odd = RunDir::create(dir.path().join("odd"))?;
    odd.begin(&Run {
        name: "a \"b\", c\nd".into(),
        labels: [("epoch".to_string(), 3.into())].into(),
        config: serde_json::json!({}),
        ..Run::default()
    })?;
    let score = Score { loss: f64::NAN, samples: 7, ..Score::default() };
    odd.epoch(&EpochReport { epoch: 1, splits: vec![SplitReport::new(Split::Train, score)] })?;

    let output = report(&["run", "odd", "--csv", "-"], dir.path())?;
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout)?;
    let rest = table
        .strip_prefix(
            "run,seed,act,dropout,label_epoch,epoch,split,samples,loss,learning_rate,site,units,values,",
        )
        .ok_or(table.clone())?;
    assert!(rest.starts_with("zero_fraction,dead,"), "{rest}");
    let rows: Vec<&str> = table.split('\n').skip(1).collect();
    assert!(rows[0].starts_with("relu,1,relu,0.25,,1,test,10,0.5,,fc1,4,40,0,"), "{}", rows[0]);
    assert!(rows[1].starts_with("relu,1,relu,0.25,,2,test,10,0.5,,fc1,4,40,0,"), "{}", rows[1]);
    assert_eq!(rows[2], "\"a \"\"b\"\", c");
    assert!(rows[3].starts_with("d\",0,,,3,1,train,7,,,,,,"), "{}", rows[3]);
    let columns = |row: &str| row.matches(',').count();
    assert_eq!(columns(rows[0]), columns(table.lines().next().ok_or("no head")?));
    assert!(!dir.path().join("report.html").exists(), "a page that nobody asked for");

    let output = report(&["run", "--csv", "all.csv", "-o", "page.html"], dir.path())?;
    assert_eq!(String::from_utf8(output.stdout)?, "page.html\nall.csv\n");
    assert!(fs::read_to_string(dir.path().join("all.csv"))?.starts_with("run,seed,act,"));
    Ok(())
}
