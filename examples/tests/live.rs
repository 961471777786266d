//! `mnist --live` in a pseudo-terminal: what it does to the terminal, and that it gives it back.
//!
//! `script` of util-linux makes the pseudo-terminal; where there is none the tests say so and pass.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::program;
use tempfile::TempDir;

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const HIDE: &str = "\u{1b}[?25l";
const SHOW: &str = "\u{1b}[?25h";

/// Ends by itself, within a second or two.
const SHORT: &str = "--dataset digits --widths 16,8 --threads 1 --dropout 0 --epochs 400";
/// Does not end by itself.
const ENDLESS: &str = "--dataset digits --widths 16,8 --threads 1 --dropout 0 --epochs 1000000 --seeds 2";

/// The program in a terminal of 80×24, in a directory of its own; everything the terminal was sent is in `screen`.
struct Session {
    dir: TempDir,
    child: Child,
}

impl Session {
    /// `None` where there is no `script`; `before` is shell that runs ahead of the program, `after` ends its command.
    fn start(before: &str, args: &str, after: &str) -> Option<Self> {
        // Others have a `script` too, with other options.
        let version = Command::new("script").arg("--version").output();
        if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux")) {
            println!("skipped: needs script of util-linux");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let program = program().display().to_string();
        let line = format!(
            "stty rows 24 cols 80; {before} stty -g > before; \
             sh -c 'echo $$ > pid; exec {program} {args} --out run {after}'; code=$?; \
             stty -g > after; exit $code"
        );
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "screen"]).current_dir(dir.path()).env("TERM", "xterm-256color");
        for name in ["TAPER_DATA", "RUST_LOG", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("HOME", dir.path()).env("SHELL", "/bin/sh");
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { dir, child })
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("screen")).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.screen().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(60), "expected '{text}' in\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        assert!(Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap().success());
    }

    /// Waits for the end and expects this exit code and the terminal as it was; returns what was sent to it while
    /// the view was there, and behind it.
    #[track_caller]
    fn end(mut self, code: i32) -> (String, String) {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if start.elapsed() > Duration::from_secs(60) => {
                    self.signal("KILL");
                    panic!("it did not end:\n{}", self.screen());
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let screen = self.screen();
        assert_eq!(status.code(), Some(code), "{screen}");
        let only = |what: &str| {
            let found: Vec<usize> = screen.match_indices(what).map(|(at, _)| at).collect();
            assert_eq!(found.len(), 1, "{what:?} in\n{screen}");
            found[0]
        };
        let (entered, left) = (only(ENTER), only(LEAVE));
        assert!(entered < left, "{screen}");
        let (view, behind) = (&screen[entered..left], &screen[left + LEAVE.len()..]);
        assert!(view.contains(HIDE), "{screen}");
        assert!(!view.contains('\n'), "somebody else wrote across the view:\n{screen}");
        let (hidden, shown) = (screen.rfind(HIDE), screen.rfind(SHOW));
        assert!(hidden < shown, "the cursor stays hidden:\n{screen}");
        let file = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap();
        assert_eq!(file("before"), file("after"), "the terminal has other settings");
        (view.to_string(), behind.to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("KILL");
            let _ = self.child.wait();
        }
    }
}

#[test]
fn the_view_comes_and_goes_and_leaves_its_last_picture_and_the_comparison() {
    let Some(session) = Session::start("", &format!("--live {SHORT}"), "") else { return };
    let (view, behind) = session.end(0);
    for text in ["relu-dropout0-seed1", "accuracy", "loss", "fc1", "fc2", "│"] {
        assert!(view.contains(text), "expected '{text}' in\n{view}");
    }
    for text in ["relu-dropout0-seed1", "epoch 400/400", "-8", "best", "written to run"] {
        assert!(behind.contains(text), "expected '{text}' in\n{behind}");
    }
    assert!(!behind.contains("399/400") && !behind.contains(HIDE), "{behind}");
}

#[test]
fn signals_and_ctrl_c_end_it_in_order() {
    for (how, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("\u{3}", 130)] {
        let Some(mut session) = Session::start("", &format!("--live {ENDLESS}"), "") else { return };
        session.wait_for("fc1");
        match how {
            "\u{3}" => session.press(how),
            name => session.signal(name),
        }
        let (_, behind) = session.end(code);
        for text in ["epoch", "1 run", "stopped on request; the results so far are in run"] {
            assert!(behind.contains(text), "{how:?}: expected '{text}' in\n{behind}");
        }
    }
}

#[test]
fn asked_twice_it_ends_at_once_and_still_gives_the_terminal_back() {
    let Some(mut session) = Session::start("", &format!("--live {ENDLESS}"), "") else { return };
    session.wait_for("fc1");
    session.press("\u{3}\u{3}");
    session.end(130);
}

#[test]
fn q_closes_the_view_and_the_training_continues() {
    let Some(mut session) = Session::start("", &format!("--live {ENDLESS}"), "") else { return };
    session.wait_for("fc1");
    session.press("q");
    session.wait_for(LEAVE);
    session.wait_for("accuracy  zeros dead");
    session.signal("INT");
    session.end(130);
}

#[test]
fn what_is_written_to_standard_error_waits_for_the_end() {
    let args = "--live --target 100 --dataset digits --widths 16,8 --threads 1 --dropout 0 --epochs 100";
    let Some(session) = Session::start("NO_COLOR=1 RUST_LOG=info; export NO_COLOR RUST_LOG;", args, "")
    else {
        return;
    };
    let (_, behind) = session.end(1);
    assert!(behind.contains("epoch=1 ") && behind.contains("epoch=100 "), "{behind}");
    assert!(behind.contains("is below the target"), "{behind}");
}

#[test]
fn an_error_while_the_view_is_open_is_printed_after_it() {
    let args = format!("--live --lr 1e30 --optimizer sgd {SHORT}");
    let Some(session) = Session::start("", &args, "") else { return };
    let (_, behind) = session.end(1);
    assert!(behind.contains("error: relu-dropout0-seed1: "), "{behind}");
}

#[test]
fn a_tiny_terminal_and_input_from_elsewhere_do_no_harm() {
    for before in ["stty rows 0 cols 0;", "stty rows 3 cols 10;"] {
        let Some(session) = Session::start(before, &format!("--live {SHORT}"), "") else { return };
        session.end(0);
    }
    let Some(session) = Session::start("", &format!("--live {SHORT}"), "< /dev/null") else { return };
    session.end(0);
}

#[test]
fn no_color_is_respected() {
    for (before, colored) in [("", true), ("NO_COLOR=1; export NO_COLOR;", false)] {
        let Some(session) = Session::start(before, &format!("--live {SHORT}"), "") else { return };
        let (view, _) = session.end(0);
        assert_eq!(view.contains("[38;5;"), colored, "{view}");
    }
}

#[test]
fn where_there_is_no_terminal_it_says_so_once_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let mut command = Command::new(program());
        command.args(args.split_whitespace()).current_dir(dir.path()).env("HOME", dir.path());
        let output = command.env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&format!("--live {SHORT}"));
    assert_eq!(code, Some(0));
    assert_eq!(err, "--live: standard output is not a terminal; continuing without it\n");
    assert!(out.contains("399/400  ") && !out.contains('\u{1b}'), "{out}");
    assert!(!out.contains("fc1 zeros"), "the comparison repeats the layers: {out}");
    let (_, _, err) = run(SHORT);
    assert_eq!(err, "");
}
