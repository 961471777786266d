use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use taper::report::read_config;

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
