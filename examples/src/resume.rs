use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use taper::report::{self, EpochReport, Run, Sink, read_config};

/// What `--resume` found.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The directory of a run, or of a grid of them.
    pub dir: PathBuf,
    /// The run's name, if it is one.
    pub only: Option<String>,
    /// The options that it was started with.
    pub command: Vec<String>,
}

impl Stored {
    /// The run in this directory, or the runs below it.
    ///
    /// # Errors
    /// When there is none, or none that says how it was started.
    pub fn find(dir: &Path) -> Result<Self> {
        let own = dir.join("config.json");
        let (config, alone) = if own.exists() {
            (own, true)
        } else {
            let entries = fs::read_dir(dir).with_context(|| {
                format!("{}: expected the directory of a run to go on with: correct the path", dir.display())
            })?;
            let mut configs: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path().join("config.json")))
                .filter(|path| path.exists())
                .collect();
            configs.sort();
            match configs.into_iter().next() {
                Some(config) => (config, false),
                None => bail!(
                    "{}: expected a run to go on with, found no config.json: start it anew",
                    dir.display()
                ),
            }
        };
        let run = read_config(&config)?;
        let command = run.config["command"].as_array().map(|words| {
            words.iter().map(|word| word.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
        });
        let Some(Some(command)) = command else {
            bail!("{}: expected the command that the run was started with, found none", config.display());
        };
        Ok(Self { dir: dir.to_path_buf(), only: alone.then_some(run.name), command })
    }

    /// The stored options and behind them those of now, but for what is about going on itself. An option that is given
    /// now takes the place of what it was, also if it may come several times or has several values.
    pub fn with(&self, now: &[String]) -> Vec<String> {
        let now: Vec<_> =
            options(now).filter(|option| !["--resume", "--force"].contains(&name(option))).collect();
        let stored = options(&self.command).filter(|own| now.iter().all(|new| name(new) != name(own)));
        stored.chain(now.iter().copied()).flatten().cloned().collect()
    }
}

/// Every option of a command line, with its value behind it if that is a word of its own.
fn options(words: &[String]) -> impl Iterator<Item = &[String]> {
    // `-0.5` is a value, `-q` is none.
    let is_name = |word: &str| {
        word.starts_with("--")
            || word.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_alphabetic))
    };
    words.chunk_by(move |_, next| !is_name(next))
}

fn name(option: &[String]) -> &str {
    option[0].split('=').next().unwrap_or_default()
}

/// What of a run is another than it was, in words. How many threads there are is no change: the bits are the same.
pub fn changes(was: &Run, is: &Run) -> Vec<String> {
    let values = |run: &Run| {
        let mut run = run.clone();
        if let Some(config) = run.config.as_object_mut() {
            config.retain(|name, _| !["command", "threads", "forced"].contains(&name.as_str()));
        }
        serde_json::to_value(run).unwrap_or_default()
    };
    let mut found = Vec::new();
    compare(String::new(), &values(was), &values(is), &mut found);
    found
}

fn compare(name: String, was: &Value, is: &Value, found: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(missing) {
                let name = match (name.as_str(), key.as_str()) {
                    ("", "config" | "labels") => String::new(),
                    ("", key) => key.to_string(),
                    (name, key) => format!("{name}.{key}"),
                };
                compare(name, &was[key], &is[key], found);
            }
        }
        _ if was == is => {}
        _ => {
            let why = if name == "epochs" { ", on which the learning rate depends" } else { "" };
            found.push(format!("{name} was {was} and is {is}{why}"));
        }
    }
}

/// A sink that comes in when some epochs have been: it is told of them when the run begins.
pub struct CaughtUp<S> {
    sink: S,
    past: Vec<EpochReport>,
}

impl<S> CaughtUp<S> {
    /// Tells `sink` of `past` first.
    pub fn new(sink: S, past: Vec<EpochReport>) -> Self {
        Self { sink, past }
    }
}

impl<S: Sink> Sink for CaughtUp<S> {
    fn begin(&mut self, run: &Run) -> report::Result<()> {
        self.sink.begin(run)?;
        self.past.iter().try_for_each(|report| self.sink.epoch(report))
    }

    fn epoch(&mut self, report: &EpochReport) -> report::Result<()> {
        self.sink.epoch(report)
    }

    fn finish(&mut self) -> report::Result<()> {
        self.sink.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use serde_json::json;

    fn run(config: Value) -> Run {
        Run { name: "a".into(), seed: 1, parameters: 2, epochs: 3, config, ..Run::default() }
    }

    #[test]
    fn changes_are_named_with_both_values_and_threads_are_none() {
        let was =
            run(json!({ "lr": 0.1, "data": { "sha256": "a" }, "threads": 1, "command": ["a"], "gone": 1 }));
        assert_eq!(changes(&was, &was), [""; 0]);
        let mut is =
            run(json!({ "lr": 0.2, "data": { "sha256": "b" }, "threads": 2, "command": [], "new": true }));
        is.epochs = 4;
        let mut found = changes(&was, &is);
        found.sort();
        let expected = [
            "data.sha256 was \"a\" and is \"b\"",
            "epochs was 3 and is 4, on which the learning rate depends",
            "gone was 1 and is null",
            "lr was 0.1 and is 0.2",
            "new was null and is true",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn options_of_now_come_behind_those_of_then() {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        let stored = Stored { dir: "x".into(), only: None, command: words("--act relu --out x") };
        let with = |now: &str| stored.with(&words(now)).join(" ");
        assert_eq!(with("--resume x"), "--act relu --out x");
        assert_eq!(with("--lr 1 --resume=x --force -q"), "--act relu --out x --lr 1 -q");
    }

    #[test]
    fn what_is_given_now_takes_the_place_of_what_was_given_then() {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        let command = words("--widths 16,8 --lr -0.5 --live --alert a.dead>1 --alert=b.dead>2 --seed 3 -q");
        let stored = Stored { dir: "x".into(), only: None, command };
        let all = stored.with(&words("--alert c.dead>4 --widths=32 --live")).join(" ");
        assert_eq!(all, "--lr -0.5 --seed 3 -q --alert c.dead>4 --widths=32 --live");
    }
}
