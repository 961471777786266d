//! Claims of papers, measured again: the published number, the measured one, and whether they agree.
//!
//!     cargo run --example papers -- list
//!     cargo run --example papers -- born-dead --check
//!     cargo run --example papers -- all --quick
//!
//! Exit code: 0, 1 when something failed or, with `--check`, when a measured number is outside of its band, 2 for
//! wrong usage.

mod adam_l2;
mod born_dead;
mod changing_regression;
mod correlation;
mod denser;
mod dropout;
mod glorot;
mod k_winners;
mod mlp;
mod paper;
mod permuted_mnist;
mod runs;
mod selu;
mod stream;
mod symmetry;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use paper::{Outcome, Paper, Row, Setting, Verdict};
use taper_experiment::{print, size, start};

/// Keeps freed memory for the next step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// All papers, in the order of `all`.
const PAPERS: [&Paper; 10] = [
    &born_dead::PAPER,
    &changing_regression::PAPER,
    &permuted_mnist::PAPER,
    &k_winners::PAPER,
    &adam_l2::PAPER,
    &selu::PAPER,
    &dropout::PAPER,
    &glorot::PAPER,
    &denser::PAPER,
    &symmetry::PAPER,
];

/// Run the protocol of a paper again, and compare the measured numbers with the published ones.
///
/// A protocol that was interrupted goes on where it was when the same command is given again; one that is finished is
/// only compared.
#[derive(Parser)]
#[command(name = "papers")]
struct Args {
    /// list, all, or the name of a paper
    #[arg(value_name = "NAME", value_parser = name)]
    paper: String,
    /// Exit with code 1 if a measured number is outside of its band
    #[arg(long)]
    check: bool,
    /// Number of networks of each kind, each with its own seed [default: fixed by the protocol]
    #[arg(long, value_name = "N", value_parser = size)]
    seeds: Option<usize>,
    /// A short form that takes at most 15 s for each paper: fewer networks and steps, wider bands
    #[arg(long)]
    quick: bool,
    /// Directory for the files of all papers
    #[arg(long, value_name = "DIR", default_value = "runs/papers")]
    out: PathBuf,
}

impl Args {
    /// The directory of a paper. Protocols of another length have directories of their own.
    fn dir(&self, paper: &Paper) -> PathBuf {
        let seeds = self.seeds.map(|seeds| format!("-{seeds}")).unwrap_or_default();
        self.out.join(format!("{}{seeds}{}", paper.name, if self.quick { "-quick" } else { "" }))
    }
}

fn name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = ["list", "all"].into_iter().chain(PAPERS.iter().map(|paper| paper.name)).collect();
    match names.contains(&text) {
        true => Ok(text.to_string()),
        false => Err(format!("expected {}", names.join(", "))),
    }
}

fn list() -> String {
    let entry = |paper: &&Paper| {
        let Paper { name, claim, source, minutes, asserted, .. } = paper;
        format!(
            "{name}  ({minutes} min)\n    claim     {claim}\n    source    {source}\n    asserted  {asserted}\n"
        )
    };
    PAPERS.iter().map(entry).collect::<Vec<_>>().join("\n")
}

/// Runs one paper, and writes its rows and its picture.
fn measure(args: &Args, paper: &Paper) -> Result<Vec<Row>> {
    let setting = Setting { seeds: args.seeds, quick: args.quick, out: args.dir(paper) };
    let Outcome { rows, picture } = (paper.run)(&setting)?;
    write(&setting.out, "rows.json", &serde_json::to_string_pretty(&rows)?)?;
    write(&setting.out, "picture.svg", &picture)?;
    Ok(rows)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    fs::write(&path, text).with_context(|| path.display().to_string())
}

/// The papers whose protocols are run, and their rows.
fn papers(args: &Args) -> Result<Vec<(&'static str, Vec<Row>)>> {
    if let Some(paper) = PAPERS.iter().find(|paper| paper.name == args.paper) {
        return Ok(vec![(paper.name, measure(args, paper)?)]);
    }
    // Each in a process of its own, which has its own threads and takes its own signals.
    let measure = |paper: &&'static Paper| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(paper.name).arg("--out").arg(&args.out);
        command.args(args.quick.then_some("--quick"));
        command.args(args.seeds.map(|seeds| format!("--seeds={seeds}")));
        if !command.status()?.success() {
            bail!("{}: not finished; the same command continues it", paper.name);
        }
        let path = args.dir(paper).join("rows.json");
        let rows = serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?)?;
        Ok((paper.name, rows))
    };
    PAPERS.iter().map(measure).collect()
}

fn run(args: &Args) -> Result<()> {
    if args.paper == "list" {
        return Ok(print(&list())?);
    }
    let papers = papers(args)?;
    let rows: Vec<(&str, &Row)> =
        papers.iter().flat_map(|(name, rows)| rows.iter().map(|row| (*name, row))).collect();
    print(&format!("\n{}\nwritten to {}\n", paper::table(&rows), args.out.display()))?;
    let missed = rows.iter().filter(|(_, row)| row.verdict() == Verdict::Misses).count();
    if args.check && missed > 0 {
        bail!("{missed} of {} measured numbers are outside of their bands: see verdict above", rows.len());
    }
    Ok(())
}

fn main() -> ExitCode {
    start(run)
}
