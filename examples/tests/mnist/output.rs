//! Standard output and standard error, in a pipe and on a terminal.

use std::process::{Command, Stdio};

use crate::common::{self, Ran, program};
use crate::{SMALL, succeed, temp};

#[test]
fn piped_output_is_plain_text_and_quiet_prints_only_the_comparison() {
    let dir = temp();
    let out = succeed(dir.path(), &format!("{SMALL} --out one"));
    assert!(
        !out.contains(['\x1b', '\r']) && out.contains("\n  2/2  ") && out.contains("written to one"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let tables = |out: &str| out.matches("  test  act   zeros  train").count();
    // One for each run, or for each epoch after epoch 0.
    assert_eq!((tables(&out), tables(&succeed(dir.path(), &format!("{SMALL} --verbose")))), (2, 4));
    let quiet = succeed(dir.path(), &format!("{SMALL} --quiet"));
    assert!(quiet.starts_with("2 runs on digits") && !quiet.contains("written"), "{quiet}");
}

#[test]
fn at_debug_level_the_first_batch_says_when_it_came() {
    let dir = temp();
    let args = format!("{SMALL} --dropout 0,0.5 --quiet");
    let ran: Ran =
        common::mnist(dir.path(), &args).env("RUST_LOG", "taper_experiment=debug").output().unwrap().into();
    let seconds = ran.err.trim().strip_prefix("DEBUG first batch seconds=");
    let seconds: Option<f64> = seconds.and_then(|text| text.parse().ok());
    assert!(seconds.is_some_and(|x| x > 0.0 && x < 10.0), "one line for all runs, not\n{}", ran.err);
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_bars_and_no_colours_where_they_are_unwanted() {
    let dir = temp();
    let on_a_terminal = |no_color: &str| {
        let line = format!("{} {SMALL}", program().display());
        let mut script = common::mnist(dir.path(), "");
        let mut on = Command::new("script");
        on.args(["-qec", &line, "/dev/null"]).current_dir(dir.path()).stdin(Stdio::null());
        script.get_envs().for_each(|(name, value)| {
            value.map(|value| on.env(name, value));
        });
        script.env_clear();
        on.env("NO_COLOR", no_color).env("TERM", "xterm").output().ok().map(Ran::from)
    };
    let (Some(coloured), Some(plain)) = (on_a_terminal(""), on_a_terminal("1")) else {
        println!("skipped: no program `script` to make a terminal");
        return;
    };
    assert_eq!((coloured.code, plain.code), (Some(0), Some(0)));
    assert!(coloured.out.contains("\x1b[1m"), "titles are bold on a terminal");
    assert!(!plain.out.contains("\x1b[1m") && !plain.out.contains("\x1b[2m"), "NO_COLOR is set");
    assert!(plain.out.contains("samples") && plain.out.contains("left"), "bars are shown");
}

#[test]
fn help_fits_a_terminal_and_names_every_activation() {
    let dir = temp();
    let out = succeed(dir.path(), "--help");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    for word in ["relu6", "gelu_tanh", "alpha-dropout", "--track", "Examples:", "cosine"] {
        assert!(out.contains(word), "{word}");
    }
}
