//! What the peers written in Rust share: arguments, the MLP's shape, the process's own clock and memory, and output.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;

/// Train a network on MNIST, on the CPU, and say how fast that went.
#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Directory with the four IDX files of MNIST, gzipped
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// mlp: 784-512-256-10; mlp1000: 784-1000-1000-1000-10; cnn: 32-64-pool-128-10, kernels of 3×3
    #[arg(long, value_enum, default_value_t = Kind::Mlp)]
    pub model: Kind,
    /// Hidden widths of an MLP, in place of the model's
    #[arg(long, value_name = "W[,W...]", value_delimiter = ',')]
    pub widths: Option<Vec<usize>>,
    /// sgd, or adamw with a weight decay of 0.01
    #[arg(long, value_enum, default_value_t = Rule::Sgd)]
    pub optimizer: Rule,
    /// Learning rate; by default 0.05 for sgd and 0.001 for adamw
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Passes over the training samples
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub epochs: usize,
    /// Training samples of each, drawn again
    #[arg(long, value_name = "N", default_value_t = 60_000)]
    pub samples: usize,
    /// Test samples, to evaluate on after each of them
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub test_samples: usize,
    /// Samples per step; what is left of the last one is not trained on
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch_size: usize,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// Dropout rate
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub dropout: f64,
    /// Print JSON lines: one per epoch, and one at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Mlp,
    Mlp1000,
    Cnn,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Rule {
    Sgd,
    Adamw,
}

/// MNIST's mean and standard deviation, of pixels in [0, 1].
pub const MEAN_AND_STD: (f32, f32) = (0.1307, 0.3081);
/// Samples per step of an evaluation.
pub const TEST_BATCH: usize = 1000;

impl Args {
    /// The learning rate, if none is given that of the optimiser.
    pub fn learning_rate(&self) -> f64 {
        self.lr.unwrap_or(match self.optimizer {
            Rule::Sgd => 0.05,
            Rule::Adamw => 1e-3,
        })
    }

    /// Widths of the hidden fully connected layers.
    ///
    /// # Errors
    /// When the numbers on the command line do not go together.
    pub fn hidden(&self) -> Result<Vec<usize>> {
        if self.batch_size == 0 || self.batch_size > self.samples || self.samples > 60_000 {
            bail!("expected 1 <= --batch-size <= --samples <= 60000");
        }
        if !(1..=10_000).contains(&self.test_samples) {
            bail!("expected 1 <= --test-samples <= 10000");
        }
        match (self.model, &self.widths) {
            (Kind::Cnn, Some(_)) => bail!("--widths is for MLPs: leave out --model cnn"),
            (Kind::Cnn, None) => Ok(vec![128]),
            (_, Some(widths)) => Ok(widths.clone()),
            (Kind::Mlp, None) => Ok(vec![512, 256]),
            (Kind::Mlp1000, None) => Ok(vec![1000; 3]),
        }
    }

    /// Sees to it that the environment variables that libraries read their number of threads from say `--threads`:
    /// where one does not, the program starts again, as the same process, on systems that can do that.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn set_threads(&self, variables: &[&str]) -> Result<()> {
        let threads = self.threads.to_string();
        if variables.iter().all(|name| std::env::var(name).is_ok_and(|value| value == threads)) {
            return Ok(());
        }
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt as _;
            let mut again = std::process::Command::new(std::env::current_exe()?);
            again.args(std::env::args_os().skip(1)).envs(variables.iter().map(|name| (name, &threads)));
            Err(again.exec()).context("cannot start again with the number of threads in the environment")
        }
        #[cfg(not(unix))]
        bail!("set {} to {threads} in the environment", variables.join(" and "))
    }

    /// Reports an epoch.
    pub fn epoch(&self, epoch: usize, samples_per_second: f64, loss: f64, accuracy: f64) {
        if self.json {
            println!(
                "{}",
                json!({
                    "epoch": epoch,
                    "samples_per_second": samples_per_second,
                    "loss": loss,
                    "accuracy": accuracy,
                })
            );
        } else {
            let percent = 100.0 * accuracy;
            println!("epoch {epoch} {samples_per_second:.0} samples/s loss {loss:.4} test {percent:.2} %");
        }
    }

    /// Reports the usage of the whole process.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn end(&self, start_to_first_batch: f64) -> Result<()> {
        let peak = peak_mib()?;
        if self.json {
            println!("{}", json!({ "peak_rss_mib": peak, "start_to_first_batch_s": start_to_first_batch }));
        } else {
            println!("peak {peak:.0} MiB, first batch {start_to_first_batch:.2} s after the start");
        }
        Ok(())
    }
}

/// Seconds since the process was started, to a hundredth.
///
/// # Errors
/// Where there is no `/proc`.
pub fn since_start() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    // The program's name, in parentheses, may contain blanks; field 22, the start, is the 20th after it.
    let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    let uptime = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    let now = uptime.split_whitespace().next();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok());
    let (start, now) = number(ticks).zip(number(now)).context("/proc is not as expected")?;
    // Linux counts a hundred ticks a second here.
    Ok(now - start / 100.0)
}

/// What `main` returns: an error is one line.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn peak_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    Ok(kib.context("/proc is not as expected")? / 1024.0)
}
