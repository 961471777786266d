//! All runs, one after the other or side by side, and what is said and written when they have ended.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::CommandFactory;
use indicatif::HumanCount;
use taper::data::{self, Dataset};
use taper::hooks::observer_fn;
use taper::nn::Activation;
use taper::report::{ConsoleConfig, ConsoleSink, Sink, Split, comparison, fresh_dir, sink_fn, write_whole};
use taper::train::{self, OptimizerConfig, Schedule, classify, evaluate};
use taper_examples::{
    Bars, INTERRUPTED, InOrder, Screen, Stop, Stored, colors_wanted, file_time, on_signal, usage,
};
use taper_view::{HeldStderr, html_report, load_runs, restore_terminal, static_plots};

use crate::begin::{begin, same_run};
use crate::cells::{Cell, file_name, grid};
use crate::network::{Network, Shared, load_start, network};
use crate::options::{Args, DeviceKind, Kind, name_of};
use crate::training::{is_alert, is_closed, one};

/// Makes all runs, compares them and says how it went.
pub fn run(
    args: &Args,
    optimizer: OptimizerConfig,
    command: &[String],
    stored: Option<&Stored>,
) -> Result<ExitCode> {
    use tracing_subscriber::EnvFilter;
    let started = Instant::now();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(|| HeldStderr)
        .with_ansi(std::io::stderr().is_terminal() && colors_wanted())
        .with_target(false)
        .without_time()
        .init();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let device = match args.device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => Device::new_cuda(0),
        DeviceKind::Metal => Device::new_metal(0),
    };
    let name = name_of(args.device);
    let device = device
        .map_err(train::Error::from)
        .with_context(|| format!("--device {name} needs such a device and a build with --features {name}"))?;

    let screen = Screen::new(args.quiet);
    let mut data = load_data(args, &device, &screen)?;
    let held_back = match args.validation {
        Some(n) => {
            let rest;
            (data.train, rest) = data.train.split_last(n).context("--validation")?;
            Some(rest)
        }
        None => None,
    };
    data.train.check(args.batch_size)?;
    let steps = data.train.len().div_ceil(args.batch_size) as u64;
    let schedule = Schedule::parse(&args.schedule, args.epochs, steps)?;
    let optimizer = OptimizerConfig {
        schedule,
        clip_norm: args.clip_norm,
        max_norm: args.max_norm,
        on_nonfinite: args.on_nonfinite,
        ..optimizer
    };
    // The untrained network is measured too.
    let evaluated = (held_back.as_ref().map_or(0, |set| set.len()) + data.test.len()) as u64;
    let samples = (data.train.len() as u64 + evaluated).saturating_mul(args.epochs.into()) + evaluated;

    let mut cells = grid(args);
    // A run of a grid may be gone on with by itself.
    if let Some(name) = stored.and_then(|stored| stored.only.as_ref()).filter(|_| cells.len() > 1) {
        cells.retain(|cell| cell.name == *name);
        if cells.is_empty() {
            bail!("--resume: with these options no run is called {name}: leave them out");
        }
    }
    // A single run is written into `out` itself, a grid into a directory per run below it.
    let alone = stored.map_or(cells.len() == 1, |stored| stored.only.is_some());
    let stop = Arc::new(Stop::default());
    let shared = Shared {
        args,
        data: &data,
        held_back,
        optimizer,
        device: &device,
        checksum: data.checksum(),
        screen: &screen,
        stop,
        command,
        stored,
        started,
        first_batch: Once::new(),
    };
    let dropped = args.dropout.iter().any(|rate| *rate > 0.0) && args.dropout != [0.0, 0.25];
    let changed = args.widths.is_some() || args.act != [Activation::Relu] || dropped;
    if args.model == Kind::Linear && changed {
        screen.warn("softmax regression has no hidden layer: --act, --dropout and --widths do nothing");
    }
    // All of them once before the first is trained: the last must not fail after hours on what is known now.
    let place = |out: &Path, cell: &Cell| if alone { out.to_path_buf() } else { out.join(&cell.name) };
    for cell in &cells {
        let network = network(&shared, cell)?;
        if let Err(error) = check_alerts(args, &network, &data) {
            return Ok(usage(
                &Args::command().error(clap::error::ErrorKind::ValueValidation, error.to_string()),
            ));
        }
        match stored {
            Some(stored) => drop(same_run(&place(&stored.dir, cell), network.run, args.force)?),
            None => load_start(args, &network.params)?,
        }
    }
    let seen = shared.stop.clone();
    let stop = move |code: u8| {
        if seen.ask(code) {
            restore_terminal();
            std::process::exit(code.into()); // asked twice
        }
    };
    on_signal(stop.clone())?;

    let wanted = args.out.clone().unwrap_or_else(|| default_out(args, &cells, &data));
    let out = match stored {
        Some(stored) => stored.dir.clone(),
        None if alone => wanted.clone(),
        None => fresh_dir(&wanted).context("--out")?,
    };
    if args.live {
        screen.open_live(move || stop(INTERRUPTED));
    }
    let config = ConsoleConfig { color: screen.color, ..Default::default() };
    let console: Box<dyn Sink + Send> = match args.quiet {
        true => Box::new(sink_fn(|_| Ok(()))),
        false => Box::new(ConsoleSink::new(&screen, config)),
    };
    let order = InOrder::new(cells.len(), console);
    let jobs = args.jobs.min(cells.len());
    let bars = screen.bars(samples.saturating_mul(cells.len() as u64), jobs);
    let (next, ended) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // One run after the other, until there are none left or something is wrong with more than one of them.
    let work = |bars: &Bars| -> Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::SeqCst);
            let Some(cell) = cells.get(i) else {
                bars.rest();
                return Ok(());
            };
            let begun = begin(&shared, cell, &place(&out, cell))?;
            if i == 0 && args.out.is_some() && stored.is_none() {
                let written = if alone { begun.session.path() } else { &out };
                if written != wanted {
                    screen.warn(&format!("{} is taken: writing to {}", wanted.display(), written.display()));
                }
            }
            bars.run(i + 1, cells.len(), samples);
            let mut console = order.place(i);
            let run = one(&shared, begun, bars, &mut console)?;
            drop(console);
            bars.ended();
            match &run.result {
                // Whoever closed standard output has seen enough.
                Err(error) if is_closed(error) => {
                    shared.stop.ask(1);
                }
                Err(error) => screen.warn(&format!("error: {}: {error}", cell.name)),
                Ok(()) => {}
            }
            ended.lock().unwrap_or_else(PoisonError::into_inner).push((i, run));
            if shared.stop.is_asked() {
                return Ok(());
            }
        }
    };
    let began = Instant::now();
    let made = if jobs == 1 { work(&bars[0]) } else { side_by_side(&bars, &shared.stop, work) };
    let took = began.elapsed();
    bars.iter().for_each(Bars::clear);
    made?;
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(i, _)| *i);
    let written = if alone { ended[0].1.path.clone() } else { out };
    let on = match args.checkpoint_every {
        Some(0) if args.checkpoint_steps.is_none() => String::new(),
        _ => format!("; go on with --resume {}", written.display()),
    };
    if ended.iter().any(|(_, run)| run.result.as_ref().is_err_and(is_closed)) {
        eprintln!("standard output was closed; what was done is in {}{on}", written.display());
        return Ok(ExitCode::FAILURE);
    }
    let page = written.join("report.html");
    if ended.iter().all(|(_, run)| run.was_finished) && page.exists() {
        let text = format!("{0} is finished: {1} of {1} epochs\n", written.display(), args.epochs);
        (&screen).write_all(text.as_bytes()).context("standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = ended.iter().any(|(_, run)| run.result.is_err());
    let alerted = ended.iter().any(|(_, run)| run.result.as_ref().is_err_and(is_alert));
    let summaries: Vec<_> = ended.into_iter().map(|(_, run)| run.summary).collect();
    screen.close_live();

    let mut text = comparison(&summaries);
    if !alone {
        let trained: u64 = summaries.iter().map(|of| of.train_samples).sum();
        let (n, took) = (summaries.len(), took.as_secs_f64());
        let speed = HumanCount((trained as f64 / took) as u64);
        text +=
            &format!("\n{n} runs in {took:.1} s, {jobs} at a time: {speed} samples/s of training in all\n");
    }
    let (runs, _) = load_runs(std::slice::from_ref(&written));
    if !runs.is_empty() {
        let draw = || -> Result<()> {
            write_whole(&page, html_report(&runs).as_bytes()).with_context(|| page.display().to_string())?;
            if args.plots {
                static_plots(&runs, written.join("plots"))?;
            }
            Ok(())
        };
        // A full disk has been mentioned by then.
        draw().or_else(|error| if failed { Ok(()) } else { Err(error) })?;
    }
    if !args.quiet {
        text = format!("\n{text}\nwritten to {}; look at {}\n", written.display(), page.display());
    }
    (&screen).write_all(text.as_bytes()).and_then(|()| (&screen).flush()).context("standard output")?;
    if shared.stop.is_asked() {
        eprintln!("stopped on request; what was done is in {}{on}", written.display());
        return Ok(ExitCode::from(shared.stop.code()));
    }
    for summary in &summaries {
        let best = summary.best.as_ref().map_or(0.0, |best| best.value);
        let target = args.target.unwrap_or(0.0);
        // In percent, and not by the last bit.
        if 100.0 * best < target - 1e-9 {
            let (run, best) = (&summary.run, 100.0 * best);
            eprintln!(
                "error: {}: best {} accuracy {best:.2} % is below the target of {target} %",
                run.name, run.dataset
            );
            failed = true;
        }
    }
    Ok(match (alerted, failed) {
        (true, _) => ExitCode::from(3),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Whether every site and metric that an alert names is there, which one sample is enough to learn.
fn check_alerts(args: &Args, network: &Network, data: &Dataset) -> train::Result<()> {
    if !args.alert.is_empty() {
        let mut sites = Vec::new();
        let note = observer_fn(|seen| {
            sites.push(seen.site.name().to_string());
            Ok(())
        });
        let one = data.test.clone().take(1).batches(1);
        let report = evaluate(&classify(&*network.model), Split::Test, one, &mut { note })?;
        args.alert.iter().try_for_each(|alert| {
            alert.check_site(&sites)?;
            alert.check_metrics(&report.score)
        })?;
    }
    Ok(())
}

/// Does `work` on a thread for each of `bars`, which has no other to share its work with. What ends one of them ends
/// all.
fn side_by_side(bars: &[Bars], stop: &Stop, work: impl Fn(&Bars) -> Result<()> + Sync) -> Result<()> {
    let job = |bars: &Bars| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        pool.install(|| work(bars)).inspect_err(|_| {
            stop.ask(1);
        })
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = bars.iter().map(|bars| scope.spawn(|| job(bars))).collect();
        let join = |job: ScopedJoinHandle<'_, Result<()>>| {
            job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // All are waited for, whatever the first came to.
        let made: Vec<_> = jobs.into_iter().map(join).collect();
        made.into_iter().collect()
    })
}

fn load_data(args: &Args, device: &Device, screen: &Screen) -> Result<Dataset> {
    let options = data::Options {
        data_dir: args.data_dir.clone(),
        env_dir: std::env::var_os("TAPER_DATA").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        ..Default::default()
    };
    let bar = screen.download_bar();
    let loaded = data::load(args.dataset, &options, &mut |progress| {
        bar.set_length(progress.total.unwrap_or(progress.received));
        bar.set_position(progress.received);
        bar.set_message(progress.file.to_string());
    });
    bar.finish_and_clear();
    let mut data = loaded?.scaled(args.scale).on(device);
    if let Some(n) = args.limit {
        (data.train, data.test) = (data.train.take(n), data.test.take(n));
    }
    Ok(data)
}

/// `runs/2026-08-01T120000-mnist-mlp-relu-selu`
fn default_out(args: &Args, cells: &[Cell], data: &Dataset) -> PathBuf {
    let mut acts: Vec<String> = cells.iter().map(|cell| cell.activation.to_string()).collect();
    acts.dedup();
    let name = file_name(&format!("{}-{}-{}", data.name, name_of(args.model), acts.join("-")));
    PathBuf::from("runs").join(format!("{}-{name}", file_time(SystemTime::now())))
}
