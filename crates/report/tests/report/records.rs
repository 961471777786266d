//! What the readers of a run directory accept, and how they refuse the rest.

use std::path::Path;

use taper_report::{Histogram, LayerLine, MetricsLine, Result, read_config, read_lines};

use crate::run_dir::{read, temporary, write};

const METRICS: &str = r#"{"v":2,"run":"a","labels":{"act":"relu"},"seed":1,"epoch":1,"split":"test","loss":0.5,"samples":2,"metrics":{"accuracy":0.5},"kinds":{"accuracy":"share"},"learning_rate":null}"#;

#[test]
fn a_line_that_breaks_off_at_the_end_is_dropped_wherever_it_breaks() -> Result<()> {
    let dir = temporary();
    let path = dir.path().join("metrics.jsonl");
    for length in 0..METRICS.len() {
        write(&path, &format!("{METRICS}\n{}", &METRICS[..length]))?;
        assert_eq!(read_lines::<MetricsLine>(&path)?.len(), 1, "{length} bytes of the second line");
    }
    write(&path, &format!("{METRICS}\n{METRICS}"))?;
    assert_eq!(read_lines::<MetricsLine>(&path)?.len(), 2, "it lacks the newline alone");
    write(&path, "")?;
    assert!(read_lines::<MetricsLine>(&path)?.is_empty());
    Ok(())
}

#[test]
fn a_broken_line_before_the_last_is_an_error_that_names_it() -> Result<()> {
    let dir = temporary();
    let path = dir.path().join("metrics.jsonl");
    write(&path, &format!("{METRICS}\n{}\n{METRICS}\n", &METRICS[..30]))?;
    let error = read_lines::<MetricsLine>(&path).expect_err("the second line is broken").to_string();
    assert!(error.starts_with(&format!("{}:2: not a valid record", path.display())), "{error}");
    Ok(())
}

#[test]
fn unknown_fields_are_passed_over_and_other_versions_refused() -> Result<()> {
    let dir = temporary();
    let path = dir.path().join("metrics.jsonl");
    write(&path, &format!("{}\n", METRICS.replace("\"v\":2", "\"v\":2,\"perplexity\":[1]")))?;
    assert_eq!(read_lines::<MetricsLine>(&path)?.len(), 1);
    for (end, v, cure) in [
        ("\n", 1, "train it again, or read it with the taper that wrote it"),
        ("\n", 3, "read it with a newer taper"),
        ("", 3, "read it with a newer taper"),
    ] {
        write(&path, &(METRICS.replace("\"v\":2", &format!("\"v\":{v}")) + end))?;
        let error = read_lines::<MetricsLine>(&path).expect_err("another version").to_string();
        assert_eq!(error, format!("{}:1: expected format version 2, found {v}: {cure}", path.display()));
    }
    Ok(())
}

/// A line of `layers.jsonl` in which `from` was replaced.
fn layer_with(from: &str, to: &str) -> Result<Vec<LayerLine>> {
    let dir = temporary();
    let golden = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layers.jsonl"))?;
    assert!(golden.contains(from), "{from}");
    let path = dir.path().join("layers.jsonl");
    write(&path, &golden.replace(from, to))?;
    read_lines(path)
}

#[test]
fn lists_that_do_not_ascend_are_refused() -> Result<()> {
    for (from, to, why) in [
        (
            r#""dead_units":[3]"#,
            r#""dead_units":[3,3]"#,
            "dead_units or rare_units: expected ascending numbers",
        ),
        (r#""dead_units":[3]"#, r#""dead_units":[4294967296]"#, "expected u32"),
        (r#""negative":[["#, r#""negative":[[257,1],["#, "expected ascending bins"),
        (r#""negative":[[153,1]]"#, r#""negative":[[258,1]]"#, "expected bins below 258"),
    ] {
        let error = layer_with(from, to).expect_err(to).to_string();
        assert!(error.contains(":1: not a valid record: ") && error.contains(why), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    assert_eq!(layer_with(r#""dead_units":[3]"#, r#""dead_units":[0,3,4294967295]"#)?.len(), 2);
    Ok(())
}

#[test]
fn a_histogram_of_more_values_than_64_bits_is_refused() -> Result<()> {
    let error = layer_with(r#""histogram":{"zeros":4"#, r#""histogram":{"zeros":18446744073709551615"#);
    let error = error.expect_err("4 more are in the bins").to_string();
    assert!(error.contains("a histogram of 2^64 values or more"), "{error}");
    // Merged they stay at the end, and never wrap.
    let mut all = Histogram { zeros: u64::MAX - 1, ..Histogram::default() };
    let mut one = Histogram::default();
    [0.0, 0.0, 1.0].iter().for_each(|x| one.add(*x));
    all.merge(&one);
    assert_eq!((all.zeros, all.total(), all.quantile(0.5)), (u64::MAX, u64::MAX, Some(0.0)));
    Ok(())
}

#[test]
fn missing_and_duplicate_fields_of_a_record_are_named() {
    for (from, to, why) in [
        (r#""epoch":1,"#, "", "missing field `epoch`"),
        (r#""epoch":1,"#, r#""epoch":1,"epoch":1,"#, "duplicate field `epoch`"),
        (r#""units":4,"#, "", "missing field `units`"),
        (r#""split":"train""#, r#""split":"trial\u0007""#, "unknown variant `trial\\u{7}`"),
    ] {
        let error = layer_with(from, to).expect_err(to).to_string();
        assert!(error.contains(why) && !error.contains(char::is_control), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_not_opened() -> Result<()> {
    let dir = temporary();
    for (path, found) in [(Path::new("/dev/zero"), "a device or a pipe"), (dir.path(), "a directory")] {
        for error in [
            read_config(path).map(|_| ()).expect_err("no file").to_string(),
            read_lines::<MetricsLine>(path).map(|_| ()).expect_err("no file").to_string(),
        ] {
            assert_eq!(error, format!("{}: expected a file, found {found}", path.display()));
        }
    }
    Ok(())
}
