use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Instant, SystemTime};

use candle_core::Device;
use clap::{ArgMatches, Parser, parser::ValueSource};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use taper_data::Samples;
use taper_report::{ConsoleConfig, ConsoleSink, Sink, fresh_dir, sink_fn};
use taper_train::{BoxError, Shards, start_threads};
use taper_view::{HeldStderr, LivePage, restore_terminal};

use crate::cells::{Cell, cells, file_name, parse};
use crate::command_line::{self, failure, file_time, usage};
use crate::grid::Grid;
use crate::processes::{self, Processes};
use crate::screen::color_on;
use crate::signals::{INTERRUPTED, Stop, on_signal};
use crate::stage::Stage;
use crate::stored::{Stored, write_grid};
use crate::trial::Trial;
use crate::{Data, Error, Options, Result, Screen};

/// The arguments of the function that loads the data.
pub struct Setup<'a> {
    /// The device for tensors.
    pub device: &'a Device,
    pub(crate) screen: &'a Screen,
}

impl Setup<'_> {
    /// Prints a line on standard error.
    pub fn warn(&self, text: &str) {
        self.screen.warn(text);
    }
}

/// The state that all runs of a program share.
pub(crate) struct Shared<'a> {
    pub device: &'a Device,
    pub screen: &'a Screen,
    pub stop: Arc<Stop>,
    /// All processes.
    pub all: Shards,
    /// Whether each process trains runs of its own.
    pub sweep_ranks: bool,
    /// The command line, with the program first.
    pub command: &'a [String],
    /// Whether the runs are resumed.
    pub resumes: bool,
    /// Whether a run is resumed although its options changed.
    pub force: bool,
    /// The page of the running run or grid.
    pub page: OnceLock<Mutex<LivePage>>,
    started: Instant,
    first_batch: Once,
}

impl Shared<'_> {
    /// The shards of a run, and the processes that compute them.
    pub fn shards(&self, count: usize) -> Shards {
        match self.sweep_ranks {
            true => Shards { count, ..Shards::default() },
            false => Shards { count, group: self.all.group.clone() },
        }
    }

    /// The number of processes that compute each run.
    pub fn processes(&self) -> u64 {
        self.shards(1).group.size() as u64
    }

    /// Whether this process writes run directories: rank 0, and in a sweep every rank.
    pub fn writes(&self) -> bool {
        self.shards(1).is_first()
    }

    /// Whether the program was asked to stop. Collective if several processes compute each run: it is true in all of them if
    /// one of them has received a signal.
    pub fn stops(&self) -> bool {
        if self.processes() == 1 {
            return self.stop.is_asked();
        }
        // An error here, a lost process, occurs again in the next collective operation, which returns it.
        let code = self.all.max(self.stop.code().into()).unwrap_or(1);
        self.stop.ask(code as u8);
        code > 0
    }

    /// Logs the time from the start of the program to its first batch, once: `RUST_LOG=taper_experiment=debug` shows it.
    pub fn first_batch(&self) {
        self.first_batch.call_once(|| {
            let seconds = self.started.elapsed().as_secs_f64();
            tracing::debug!(seconds, "first batch");
        });
    }
}

/// The `main` of a training program: parses its options, loads its data, and trains one run, or a grid of them.
///
/// `load` loads the data once, for all runs, and may adjust options that do not go together. `train` is called for each run. In
/// its options every [`Sweep`](crate::Sweep) has one value.
///
/// With the feature `mpi`, the program can be started by `mpirun`. All processes then train each run together (data
/// parallelism). With `--sweep-ranks` each process trains some of the runs alone.
///
/// The exit code is 0; 1 for an error or a missed `--target`; 2 for wrong usage; 3 if an `--alert` fired; 128 plus the
/// number of the signal that ended it: 130 after Ctrl-C, 143 after SIGTERM.
pub fn run<A, S, E, F>(
    load: impl FnOnce(&mut A, &Setup<'_>) -> Result<Data<S>, E>,
    train: impl Fn(&A, &mut Trial<'_, S>) -> Result<(), F> + Sync,
) -> ExitCode
where
    A: Parser + Serialize + DeserializeOwned + Sync,
    S: Samples + Sync,
    E: Into<BoxError>,
    F: Into<BoxError>,
{
    let (args, matches) = match command_line::parse::<A>(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let told = |error: &Error| match error {
        Error::Usage(text) => {
            let _ = usage(&A::command().error(clap::error::ErrorKind::ValueValidation, text));
            2
        }
        error => {
            let _ = failure(error);
            1
        }
    };
    let processes = match Processes::start() {
        Ok(processes) => processes,
        Err(error) => return ExitCode::from(told(&error)),
    };
    match program(&processes, &args, &matches, load, train) {
        Ok(code) => processes.finish(code),
        Err(error) => processes.abort(told(&error)),
    }
}

/// Like [`run`], but takes the command line as an argument instead of reading it from the environment. The first element is the
/// name of the program.
///
/// # Errors
/// Instead of printing an error. A training that was interrupted is not an error: it has the exit code of [`run`].
pub fn run_from<A, S, E, F>(
    command: impl IntoIterator<Item = OsString>,
    load: impl FnOnce(&mut A, &Setup<'_>) -> Result<Data<S>, E>,
    train: impl Fn(&A, &mut Trial<'_, S>) -> Result<(), F> + Sync,
) -> Result<ExitCode>
where
    A: Parser + Serialize + DeserializeOwned + Sync,
    S: Samples + Sync,
    E: Into<BoxError>,
    F: Into<BoxError>,
{
    let (args, matches) =
        command_line::parse::<A>(command).map_err(|error| Error::Usage(error.to_string()))?;
    program(&Processes::alone()?, &args, &matches, load, train)
}

fn program<A, S, E, F>(
    processes: &Processes,
    args: &A,
    matches: &ArgMatches,
    load: impl FnOnce(&mut A, &Setup<'_>) -> Result<Data<S>, E>,
    train: impl Fn(&A, &mut Trial<'_, S>) -> Result<(), F> + Sync,
) -> Result<ExitCode>
where
    A: Parser + Serialize + DeserializeOwned + Sync,
    S: Samples + Sync,
    E: Into<BoxError>,
    F: Into<BoxError>,
{
    let started = Instant::now();
    let now = to_json(args)?;
    let mut options: Options = parse(&now)?;
    let resume: Option<&PathBuf> = matches.get_one("resume");
    let (all, first) = (&processes.all, processes.all.is_first());
    let stored = match resume {
        Some(dir) => Some(all.share(first.then(|| Stored::find(dir)).transpose()?)?),
        None => None,
    };
    let force = matches.get_flag("force");
    // The stored options are values; options on this command line replace them.
    let mut json = now;
    if let Some(stored) = &stored {
        let is_given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let given: Vec<&str> = matches.ids().map(|id| id.as_str()).filter(is_given).collect();
        json = stored.with(&json, &given);
        options = parse(&json)?;
    }
    let mut args: A = parse(&json)?;
    let sweep_ranks = options.running.sweep_ranks;
    options.check(all.group.size())?;
    if !sweep_ranks {
        let shards = Shards { count: options.training.shards, group: all.group.clone() };
        shards.check().map_err(Error::option("--shards"))?;
    }
    prepare(options.running.threads);
    let device = options.training.device.open()?;
    let mut screen = Screen::new(options.running.quiet || !first);
    screen.silent = !first && !sweep_ranks;

    let data = load(&mut args, &Setup { device: &device, screen: &screen }).map_err(other)?;
    let json = to_json(&args)?;
    let batch_size = options.training.batch_size;
    if data.train.count() < batch_size {
        let count = data.train.count();
        return Err(Error::option("--batch-size")(format!(
            "expected at most the {count} samples of the training split, found {batch_size}"
        )));
    }
    options.check_splits(&data.measured().map(|(split, _)| split).collect::<Vec<_>>())?;

    let program = A::command().get_name().to_string();
    let mut cells: Vec<Cell<A>> = cells(&json, &program)?;
    // A run of a grid can be resumed alone.
    if let Some(name) = stored.as_ref().and_then(|stored| stored.only.as_ref()).filter(|_| cells.len() > 1) {
        cells.retain(|cell| cell.about.name == *name);
        if cells.is_empty() {
            let why = format!("these options make no run called {name}: leave them out");
            return Err(Error::option("--resume")(why));
        }
    }
    // A single run is written into `out` itself, a grid into one subdirectory per run.
    let alone = stored.as_ref().map_or(cells.len() == 1, |stored| stored.only.is_some());
    let place =
        |out: &Path, cell: &Cell<A>| if alone { out.to_path_buf() } else { out.join(&cell.about.name) };
    let command: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if sweep_ranks && cells.len() == 1 {
        return Err(Error::Usage(
            "--sweep-ranks shares several runs among processes, and these options make one: leave it out"
                .into(),
        ));
    }
    let shared = Shared {
        all: all.clone(),
        sweep_ranks,
        device: &device,
        screen: &screen,
        stop: Arc::new(Stop::default()),
        command: &command,
        resumes: stored.is_some(),
        force,
        started,
        page: OnceLock::new(),
        first_batch: Once::new(),
    };
    // Rehearses all runs before the first is trained: the last must not fail after hours for a known reason.
    for cell in &cells {
        let resumed = stored.as_ref().filter(|_| shared.writes()).map(|stored| place(&stored.dir, cell));
        let stage = Stage::Rehearsal { resumed, run: None, begun: false };
        let mut trial = Trial::new(&data, &cell.about, &shared, stage)?;
        let rehearsed = train(&cell.args, &mut trial).map_err(other);
        if let Some(text) = trial.ended.misused.take() {
            return Err(Error::Usage(text));
        }
        rehearsed.and(trial.finish())?;
    }
    let seen = shared.stop.clone();
    let stop = move |code: u8| {
        if seen.signal(code) {
            restore_terminal();
            std::process::exit(code.into()); // a second signal
        }
    };
    on_signal(stop.clone()).map_err(Error::option("signals"))?;

    let default = || default_out(&cells, &program, &data.name);
    let wanted = options.running.out.clone().filter(|_| stored.is_none()).unwrap_or_else(default);
    let made = || -> Result<PathBuf> {
        let out = match &stored {
            Some(stored) => stored.dir.clone(),
            None if alone => wanted.clone(),
            None => fresh_dir(&wanted).map_err(Error::option("--out"))?,
        };
        if !alone && stored.as_ref().is_none_or(|stored| differs(&stored.options, &json)) {
            write_grid(&out, &json)?;
        }
        Ok(out)
    };
    let out = all.share(first.then(made).transpose()?)?;
    if options.running.live && first {
        screen.open_live(move || stop(INTERRUPTED));
    }
    let Screen { color, width, .. } = screen;
    let config = ConsoleConfig { color, width, verbose: options.running.verbose };
    let console: Box<dyn Sink + Send> = match options.running.quiet || !first {
        true => Box::new(sink_fn(|_| Ok(()))),
        false => Box::new(ConsoleSink::new(&screen, config)),
    };
    let wanted = (options.running.out.is_some() && stored.is_none() && first).then_some(wanted);
    let paths = cells.iter().map(|cell| place(&out, cell)).collect();
    let grid =
        Grid { shared: &shared, options: &options, data: &data, cells: &cells, paths, out, alone, wanted };
    grid.run(&train, console)
}

/// Sets up logging and threads.
///
/// The log goes to standard error: warnings, or what `RUST_LOG` selects. The number of threads is `threads`, or else
/// `RAYON_NUM_THREADS`, or else one for each core, of which processes on the same machine have equal parts.
pub(crate) fn prepare(threads: Option<usize>) {
    use tracing_subscriber::EnvFilter;
    let level = if processes::is_first() { "warn" } else { "error" };
    // A subscriber that the program has set is kept.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(|| HeldStderr)
        .with_ansi(std::io::stderr().is_terminal() && color_on(&std::io::stderr()))
        .with_target(false)
        .without_time()
        .try_init();
    let variable = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|n| *n > 0);
    start_threads(threads.or_else(variable).or_else(processes::threads));
}

/// Whether an option that changes the result was changed.
fn differs(was: &Value, is: &Value) -> bool {
    let values = |options: &Value| {
        let mut options = options.clone();
        options.as_object_mut().map(|fields| fields.remove("running"));
        options
    };
    values(was) != values(is)
}

fn to_json<A: Serialize>(args: &A) -> Result<Value> {
    serde_json::to_value(args).map_err(Error::option("options"))
}

pub(crate) fn other<E: Into<BoxError>>(error: E) -> Error {
    match error.into().downcast() {
        Ok(own) => *own,
        Err(error) => Error::Other(error),
    }
}

/// `runs/2026-08-01T120000-mnist-digits-relu-selu`
fn default_out<A>(cells: &[Cell<A>], program: &str, data: &str) -> PathBuf {
    let mut parts = vec![file_time(SystemTime::now()), program.to_string()];
    if data != program {
        parts.push(data.to_string());
    }
    for text in cells.iter().flat_map(|cell| cell.about.labels.values()).filter_map(Value::as_str) {
        if !parts.iter().any(|part| part == text) {
            parts.push(text.to_string());
        }
    }
    PathBuf::from("runs").join(file_name(&parts.join("-")))
}
