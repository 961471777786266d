//! Makes one offline page of any set of runs, and pictures for papers and READMEs.
//!
//!     cargo run --example report -- runs/2026-01-31-mnist
//!     cargo run --example report -- runs/relu runs/selu -o compare.html --plots figures
//!     cargo run --example report -- runs/* --csv all.csv
//!
//! Exit code: 0, 1 when nothing could be shown or written, 2 for wrong usage.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use taper_experiment::{print, start};
use taper_view::{csv, html_report, load_runs, static_plots};

/// Make one page of training runs: curves, distributions, tables, all in a single file that needs no network.
///
/// Runs that differ only in the seed are averaged; colour is the first label that differs, line style the last.
/// Unfinished runs, and runs of different lengths or models, can be mixed.
#[derive(Parser, Debug)]
#[command(after_help = "\
Examples:
  report runs/2026-01-31-mnist                   every run of a grid, to report.html inside it
  report runs/relu runs/selu -o compare.html     two runs side by side
  report runs/* -o all.html --plots figures      and the main curves as SVG
  report runs/* --csv all.csv                    all numbers as one table, for pandas and its like")]
struct Args {
    /// Directories of runs, as `mnist --out` writes them, or of grids: directories of runs
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// The page; an existing file is replaced [default: report.html in the only RUN_DIR, else here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also draw the primary metric, zeros, dead units and asymmetry into this directory, as SVG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write all numbers as one table, a row per run, epoch, split and layer; - is standard output. Then a page is made
    /// only with --output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

fn main() -> ExitCode {
    start(run)
}

fn run(args: &Args) -> Result<()> {
    let (runs, errors) = load_runs(&args.runs);
    for error in &errors {
        eprintln!("warning: {error}");
    }
    if runs.is_empty() {
        bail!("no run to show");
    }
    let page = args.output.clone().unwrap_or_else(|| match &args.runs[..] {
        [only] => only.join("report.html"),
        _ => "report.html".into(),
    });
    let mut written = Vec::new();
    if args.output.is_some() || args.csv.is_none() {
        write(&page, &html_report(&runs))?;
        written.push(page);
    }
    if let Some(dir) = &args.plots {
        written.extend(static_plots(&runs, dir)?);
    }
    let mut text = String::new();
    match &args.csv {
        Some(path) if path.as_os_str() == "-" => {
            // Only the table, for the next program in a pipe.
            written.clear();
            text = csv(&runs);
        }
        Some(path) => {
            write(path, &csv(&runs))?;
            written.push(path.clone());
        }
        None => {}
    }
    text.extend(written.iter().map(|path| format!("{}\n", path.display())));
    Ok(print(&text)?)
}

/// Creates the file and the directories above it.
fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
