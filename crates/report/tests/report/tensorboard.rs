//! Event files, read back with a reader of the test's own: `.ci/tensorboard` reads them with the real one.

use std::{fs, path::Path};

use crate::sample;
use prost::Message;
use proto::{Datum, Event, HParam, HParams, Kind, Session, Status, Tensor, Value, What};
use taper_report::{
    EpochReport, Error, FiringRates, Histogram, LayerStats, MAGNITUDES, ParameterNorms, Result, Run, Score,
    Shown, Sink, SiteSteps, Split, SplitReport, Statistic, StepReport, TensorBoard,
};

#[path = "../../src/tensorboard/proto.rs"]
#[allow(dead_code)]
mod proto;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("the system has a directory for temporary files")
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into());
    let mut names: Vec<String> =
        fs::read_dir(dir).and_then(|entries| entries.map(name).collect()).map_err(Error::io(dir))?;
    names.sort();
    Ok(names)
}

/// The bytes of the only event file in a directory.
fn bytes(dir: &Path) -> Result<Vec<u8>> {
    let files: Vec<_> = names(dir)?.into_iter().filter(|name| name.contains("tfevents")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].starts_with("events.out.tfevents.") && files[0].ends_with(".taper"), "{files:?}");
    let path = dir.join(&files[0]);
    fs::read(&path).map_err(Error::io(path))
}

/// All whole records; both checksums of each must be right.
fn events(mut bytes: &[u8]) -> Vec<Event> {
    let crc = |data| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8);
    let u32 = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four of them"));
    let mut events = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(12) {
        assert_eq!(crc(&head[..8]), u32(&head[8..]), "checksum of the length");
        let length = u64::from_le_bytes(head[..8].try_into().expect("eight of them")) as usize;
        let Some((record, rest)) = rest.split_at_checked(length + 4) else { break };
        let (data, checksum) = record.split_at(length);
        assert_eq!(crc(data), u32(checksum), "checksum of the data");
        events.push(Event::decode(data).expect("an event"));
        bytes = rest;
    }
    let version = What::FileVersion("brain.Event:2".into());
    assert!(events.first().is_none_or(|first| first.what == Some(version)), "{:?}", events.first());
    events
}

/// Step and values of every event after the first.
fn summaries(dir: &Path) -> Result<Vec<(i64, Vec<Value>)>> {
    let summary = |event: Event| match event.what {
        Some(What::Summary(summary)) => (event.step, summary.value),
        what => panic!("no summary: {what:?}"),
    };
    Ok(events(&bytes(dir)?).into_iter().skip(1).map(summary).collect())
}

/// The scalars of one epoch; tags are unique.
fn scalars(values: &[Value]) -> Vec<(&str, f32)> {
    let scalars = values.iter().filter_map(|value| match &value.value {
        Some(Datum::Simple(x)) => Some((value.tag.as_str(), *x)),
        _ => None,
    });
    let scalars: Vec<_> = scalars.collect();
    let mut tags: Vec<_> = scalars.iter().map(|(tag, _)| *tag).collect();
    tags.sort();
    assert!(tags.windows(2).all(|pair| pair[0] != pair[1]), "{tags:?}");
    scalars
}

/// The rows of a histogram; limits meet.
fn rows(values: &[Value], tag: &str) -> Option<Vec<[f64; 3]>> {
    let value = values.iter().find(|value| value.tag == tag)?;
    let Some(Datum::Tensor(Tensor { dtype, tensor_shape, double_val })) = &value.value else {
        panic!("{tag} is no tensor");
    };
    let plugin = value.metadata.as_ref().and_then(|metadata| metadata.plugin_data.as_ref());
    assert_eq!(plugin.map(|plugin| plugin.plugin_name.as_str()), Some("histograms"));
    let rows: Vec<[f64; 3]> = double_val.chunks(3).map(|row| row.try_into().expect("three")).collect();
    let shape: Vec<_> = tensor_shape.iter().flat_map(|shape| &shape.dim).map(|dim| dim.size).collect();
    assert_eq!((*dtype, shape), (2, vec![rows.len() as i64, 3]));
    assert!(rows.windows(2).all(|pair| pair[0][1] == pair[1][0]), "{rows:?}");
    Some(rows)
}

/// A histogram from its rows, bin by bin.
fn histogram(rows: &[[f64; 3]]) -> Histogram {
    let mut histogram = Histogram::default();
    for [left, right, count] in rows {
        let middle = ((left + right) / 2.0) as f32;
        let bin = Histogram::magnitude(middle);
        assert!(bin < MAGNITUDES && left.is_finite() && right.is_finite());
        let counts = if middle > 0.0 { &mut histogram.positive } else { &mut histogram.negative };
        let n = if left == right && *left == 0.0 { &mut histogram.zeros } else { &mut counts[bin] };
        assert_eq!(*n, 0, "two rows for one bin");
        *n = *count as u64;
    }
    histogram
}

fn number(value: f64) -> HParam {
    HParam { kind: Some(Kind::Number(value)) }
}

fn text(value: &str) -> HParam {
    HParam { kind: Some(Kind::String(value.into())) }
}

/// The value of one message to the hparams plugin.
fn session(value: &Value) -> Option<Session> {
    let plugin = value.metadata.as_ref()?.plugin_data.as_ref()?;
    assert_eq!(plugin.plugin_name, "hparams");
    HParams::decode(plugin.content.as_slice()).expect("a message of the plugin").data
}

#[test]
fn a_resumed_run_has_every_step_once_and_no_incomplete_record() -> Result<()> {
    let dir = temporary();
    let score = sample::score(0.5, 0.5, 10);
    let of = |epoch| EpochReport { epoch, splits: vec![SplitReport::new(Split::Test, score.clone())] };
    let mut board = TensorBoard::create(dir.path())?;
    (1..=3).try_for_each(|epoch| board.epoch(&of(epoch)))?;
    drop(board);
    let test = dir.path().join("test");
    let path = test.join(&names(&test)?[0]);
    let torn = bytes(&test)?;
    for cut in [0, 1, 20] {
        fs::write(&path, &torn[..torn.len() - cut]).map_err(Error::io(&path))?;
        let mut board = TensorBoard::resume(dir.path(), Some(1), 0)?;
        (2..=4).try_for_each(|epoch| board.epoch(&of(epoch)))?;
        let mut steps = Vec::new();
        for name in names(&test)? {
            let path = test.join(name);
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            steps.extend(events(&bytes).into_iter().skip(1).map(|event| event.step));
            if path != test.join(&names(&test)?[0]) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        steps.sort_unstable();
        assert_eq!(steps, [1, 2, 3, 4], "{cut} bytes are missing");
    }
    Ok(())
}

#[test]
fn windows_of_steps_are_curves_over_the_step_number_and_later_ones_are_cut_when_a_run_goes_on() -> Result<()>
{
    let dir = temporary();
    let site = |name: &str, dead| SiteSteps {
        site: name.into(),
        units: 4,
        zero_fraction: 0.5,
        dead,
        mean: Some(0.25),
        std: Some(2.0),
        octaves: None,
    };
    let weight = ParameterNorms {
        parameter: "fc1.weight".into(),
        gradient_norm: None,
        weight_norm: Some(8.0),
        update_norm: Some(0.0625),
    };
    let window = |step| StepReport {
        step,
        steps: 2,
        score: sample::score(0.5, 0.75, 64),
        learning_rate: 0.125,
        sites: vec![site("fc1", Some(1)), site("out", None)],
        parameters: vec![weight.clone()],
    };
    let mut board = TensorBoard::create(dir.path())?;
    [102, 104, 106].iter().try_for_each(|step| board.step(&window(*step)))?;
    drop(board);
    TensorBoard::resume(dir.path(), Some(1), 105)?;
    let written = summaries(&dir.path().join("steps"))?;
    assert_eq!(written.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [102, 104]);
    let expected = [
        ("loss", 0.5),
        ("accuracy", 0.75),
        ("learning_rate", 0.125),
        ("zero_fraction/fc1", 0.5),
        ("dead_fraction/fc1", 0.25),
        ("mean/fc1", 0.25),
        ("std/fc1", 2.0),
        ("zero_fraction/out", 0.5),
        ("mean/out", 0.25),
        ("std/out", 2.0),
        ("weight_norm/fc1.weight", 8.0),
        ("update_norm/fc1.weight", 0.0625),
    ];
    assert_eq!(scalars(&written[0].1), expected);
    Ok(())
}

#[test]
fn every_scalar_and_every_count_is_read_back() -> Result<()> {
    let dir = temporary();
    let mut board = TensorBoard::create(dir.path())?;
    let reports: Vec<_> = (1..=3).map(|epoch| sample::report("selu", 0.5, 1, epoch)).collect();
    for (i, report) in reports.iter().enumerate() {
        board.epoch(report)?;
        // At once, not when the sink goes away.
        assert_eq!(summaries(&dir.path().join("test"))?.len(), i + 1);
    }
    assert_eq!(names(dir.path())?, ["test", "train"]);
    for split in [Split::Train, Split::Test] {
        let read = summaries(&dir.path().join(split.name()))?;
        assert_eq!(read.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3]);
        for (report, (_, values)) in reports.iter().zip(&read) {
            let of = report.split(split).expect("both were reported");
            let mut expected = vec![
                ("loss".to_string(), Some(of.score.loss)),
                ("accuracy".into(), of.score.metric("accuracy")),
                ("samples_per_second".into(), Some(of.samples_per_second())),
                ("learning_rate".into(), of.learning_rate),
            ];
            for layer in &of.layers {
                let curves = Statistic::shown_in(Shown::Curve);
                expected.extend(curves.map(|s| (format!("{}/{}", s.id, layer.site), (s.value)(layer))));
                let site = &layer.site;
                let activation = rows(values, &format!("activation/{site}")).expect("it was reported");
                assert_eq!(Some(&histogram(&activation)), layer.histogram.as_ref());
                let (first, last) = (activation[0], activation[activation.len() - 1]);
                assert_eq!((Some(first[0]), Some(last[1])), (layer.min, layer.max));

                let FiringRates { never, between, always } = &layer.firing_rate;
                let rates = rows(values, &format!("firing_rate/{site}")).expect("it was reported");
                let counts: Vec<_> = rates.iter().map(|row| row[2] as u64).collect();
                assert_eq!(counts, [&[*never], &between[..], &[*always]].concat());
                assert_eq!((rates[0][..2].to_vec(), rates[21][..2].to_vec()), (vec![0.0; 2], vec![1.0; 2]));
            }
            let expected: Vec<_> =
                expected.iter().filter_map(|(tag, x)| x.map(|x| (tag.as_str(), x as f32))).collect();
            assert_eq!(scalars(values), expected);
        }
    }
    Ok(())
}

#[test]
fn a_tag_is_described_once_in_a_file_by_the_sentence_of_its_statistic() -> Result<()> {
    let dir = temporary();
    let mut board = TensorBoard::create(dir.path())?;
    board.begin(&sample::run("relu", 0.0, 1))?;
    (1..=2).try_for_each(|epoch| board.epoch(&sample::report("relu", 0.0, 1, epoch)))?;
    let read = summaries(&dir.path().join("test"))?;
    let described = |values: &[Value], tag: &str| {
        let value = values.iter().find(|value| value.tag == tag).expect("it was reported");
        value.metadata.as_ref().map_or(String::new(), |of| of.summary_description.clone())
    };
    let report = sample::report("relu", 0.0, 1, 1);
    let conv1 = &report.split(Split::Test).expect("it was reported").layers[0];
    for of in Statistic::shown_in(Shown::Curve).filter(|of| (of.value)(conv1).is_some()) {
        assert_eq!(described(&read[0].1, &format!("{}/conv1", of.id)), of.what);
    }
    assert_eq!(described(&read[0].1, "loss"), sample::run("relu", 0.0, 1).loss);
    assert!(read[1].1.iter().all(|value| described(&read[1].1, &value.tag).is_empty()));
    Ok(())
}

#[test]
fn counts_beyond_single_precision_are_exact() -> Result<()> {
    let dir = temporary();
    let mut report = sample::report("relu", 0.0, 1, 1);
    let counted = report.splits[0].layers[0].histogram.get_or_insert_default();
    counted.zeros = (1 << 53) - 1;
    counted.positive[100] = (1 << 24) + 1;
    let counted = counted.clone();
    TensorBoard::create(dir.path())?.epoch(&report)?;
    let read = summaries(&dir.path().join("train"))?;
    assert_eq!(rows(&read[0].1, "activation/conv1").map(|rows| histogram(&rows)), Some(counted));
    Ok(())
}

#[test]
fn what_was_not_measured_is_not_written_and_a_loss_that_is_not_a_number_is() -> Result<()> {
    let dir = temporary();
    let mut board = TensorBoard::create(dir.path())?;
    let score = sample::score(f64::NAN, 0.5, 2);
    let bare = LayerStats { site: "fc1".into(), mean: Some(f64::INFINITY), ..LayerStats::default() };
    let empty = LayerStats { site: "fc2".into(), histogram: Some(Histogram::default()), ..bare.clone() };
    let split = SplitReport { layers: vec![bare, empty], ..SplitReport::new(Split::Validation, score) };
    board.epoch(&EpochReport { epoch: 7, splits: vec![split] })?;
    let read = summaries(&dir.path().join("validation"))?;
    let (step, values) = &read[0];
    assert_eq!((*step, values.len()), (7, 2));
    let scalars = scalars(values);
    assert!(scalars[0].0 == "loss" && scalars[0].1.is_nan());
    assert_eq!(scalars[1], ("accuracy", 0.5));
    Ok(())
}

#[test]
fn hyper_parameters_are_the_labels_and_the_end_has_the_outcome() -> Result<()> {
    for (loss, status) in [(0.5, Status::Success), (f64::NAN, Status::Failure)] {
        let dir = temporary();
        let mut board = TensorBoard::create(dir.path().join("new/parents"))?;
        let config = serde_json::json!({
            "lr": 0.1, "optimizer": "Adam { beta: 0.9 }", "tracked": true, "clip": null, "seed": 9,
            "command": ["--act", "selu"], "data": { "mean": 0.5 },
        });
        board.begin(&Run { config, seed: u64::MAX, ..sample::run("selu", 0.5, 1) })?;
        let score = sample::score(loss, 0.5, 2);
        board.epoch(&EpochReport { epoch: 1, splits: vec![SplitReport::new(Split::Train, score)] })?;
        board.finish()?;
        board.finish()?;
        let read = summaries(&dir.path().join("new/parents"))?;
        let [(0, start), (0, end)] = &read[..] else { panic!("one start and one end: {read:?}") };
        assert_eq!(start[0].tag, "_hparams_/session_start_info");
        assert_eq!(end[0].tag, "_hparams_/session_end_info");
        let Some(Session::Start(start)) = session(&start[0]) else { panic!("no start") };
        let expected = [
            ("act", text("selu")),
            ("dropout", number(0.5)),
            ("seed", text("18446744073709551615")), // no double is this number
        ];
        assert_eq!(start.hparams.into_iter().collect::<Vec<_>>(), expected.map(|(k, v)| (k.to_string(), v)));
        let Some(Session::End(end)) = session(&end[0]) else { panic!("no end") };
        assert_eq!(end.status(), status);
        assert!(start.start_time_secs > 1.7e9 && end.end_time_secs >= start.start_time_secs);
    }
    Ok(())
}

#[test]
fn a_file_that_breaks_off_has_all_its_whole_epochs() -> Result<()> {
    let dir = temporary();
    let mut board = TensorBoard::create(dir.path())?;
    let score = sample::score(0.5, 0.5, 2);
    let (mut bytes_at, mut all) = (Vec::new(), Vec::new());
    for epoch in 1..=3 {
        board.epoch(&EpochReport { epoch, splits: vec![SplitReport::new(Split::Test, score.clone())] })?;
        all = bytes(&dir.path().join("test"))?;
        bytes_at.push(all.len());
    }
    for length in 0..all.len() {
        let whole = bytes_at.iter().filter(|at| **at <= length).count();
        let read = events(&all[..length]).len().saturating_sub(1);
        assert_eq!(read, whole, "{length} of {} bytes", all.len());
    }
    Ok(())
}

#[test]
fn hostile_names_end_up_in_no_path_and_keep_their_numbers_apart() -> Result<()> {
    let dir = temporary();
    let long = "é".repeat(200);
    let sites = [
        "../../up",
        "/etc/passwd",
        "<script>alert(\"1\")</script>",
        "a b",
        "a\tb",
        "a_b",
        "",
        "train",
        &long,
    ];
    let tags = [
        "../../up",
        "_etc/passwd",
        "_script_alert__1___/script_",
        "a_b",
        "a_b~2",
        "a_b~3",
        "_",
        "train",
        &long,
    ];
    let layers = sites.iter().zip(1..).map(|(site, i)| LayerStats {
        site: (*site).into(),
        mean: Some(i.into()),
        ..LayerStats::default()
    });
    let split = SplitReport { layers: layers.collect(), ..SplitReport::new(Split::Train, Score::default()) };
    let mut board = TensorBoard::create(dir.path().join("run"))?;
    board.begin(&Run { name: "../../elsewhere/<script>".into(), ..sample::run("\"relu'", 0.0, 1) })?;
    for epoch in 1..=2 {
        board.epoch(&EpochReport { epoch, splits: vec![split.clone()] })?;
    }
    assert_eq!(names(dir.path())?, ["run"]);
    assert_eq!(names(&dir.path().join("run"))?.len(), 2, "its own file and `train`");
    for (_, values) in summaries(&dir.path().join("run/train"))? {
        let expected: Vec<_> =
            tags.iter().zip(1..).map(|(tag, i)| (format!("mean/{tag}"), i as f32)).collect();
        let read: Vec<_> = scalars(&values)[1..].iter().map(|(tag, x)| (tag.to_string(), *x)).collect();
        assert_eq!(read, expected);
    }
    Ok(())
}

#[test]
fn a_second_sink_in_the_same_second_overwrites_nothing() -> Result<()> {
    let dir = temporary();
    let report = sample::report("relu", 0.0, 1, 1);
    for _ in 0..3 {
        TensorBoard::create(dir.path())?.epoch(&report)?;
    }
    let train = dir.path().join("train");
    let files = names(&train)?;
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let path = train.join(file);
        assert_eq!(events(&fs::read(&path).map_err(Error::io(&path))?).len(), 2);
    }
    Ok(())
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_with_its_path() -> Result<()> {
    let dir = temporary();
    let file = dir.path().join("file");
    fs::write(&file, "").map_err(Error::io(&file))?;
    for path in [file.clone(), file.join("run")] {
        let error = TensorBoard::create(&path).expect_err("nothing fits below a file").to_string();
        let expected = format!("{}: not a directory", path.display());
        assert!(error.to_lowercase().starts_with(&expected.to_lowercase()), "{error}");
    }
    // A file where a split's directory should be.
    let mut board = TensorBoard::create(dir.path().join("run"))?;
    let train = dir.path().join("run/train");
    fs::write(&train, "").map_err(Error::io(&train))?;
    let report = sample::report("relu", 0.0, 1, 1);
    let error = board.epoch(&report).expect_err("a file is in the way").to_string();
    assert!(error.starts_with(&train.display().to_string()), "{error}");
    Ok(())
}
