//! Trains networks on MNIST (or digits, Fashion-MNIST, KMNIST) and shows what every layer's activations do,
//! for one or several activation functions, without dropout and with it.
//!
//!     cargo run --example mnist -- --act selu
//!     cargo run --example mnist -- --model cnn --act relu --dropout 0.25 --target 99
//!     cargo run --example mnist -- --act relu,selu,tanh,sigmoid --dropout 0,0.5 --seeds 3
//!
//!     cargo run --example mnist -- --resume runs/NAME
//!
//! Exit code: 0, 1 when something failed or `--target` was missed, 2 for wrong usage, 3 when an `--alert` fired, 130
//! after Ctrl-C, 143 after SIGTERM.

mod begin;
mod cells;
mod grid;
mod network;
mod options;
mod training;

use std::process::ExitCode;

use clap::Parser;
use taper_examples::{Stored, usage};

use crate::grid::run;
use crate::options::{Args, arguments};

/// Keeps the memory of a step for the next step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let now: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let stored = match Args::try_parse() {
        Err(error) => return usage(&error),
        Ok(Args { resume: None, .. }) => Ok(None),
        Ok(Args { resume: Some(dir), .. }) => Stored::find(&dir).map(Some),
    };
    let outcome = stored.and_then(|stored| {
        let command = stored.as_ref().map_or(now.clone(), |stored| stored.with(&now));
        match arguments(&command, &now, stored.is_some()) {
            Err(error) => Ok(usage(&error)),
            Ok((optimizer, args)) => run(&args, optimizer, &command, stored.as_ref()),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
