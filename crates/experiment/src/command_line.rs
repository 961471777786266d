use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::{ArgMatches, error::ErrorKind};
use taper_train::BoxError;

use crate::processes;
use crate::program::prepare;

/// Parses a number. The error says what was expected.
pub fn number<T: FromStr>(text: &str, expected: &str, good: impl Fn(&T) -> bool) -> Result<T, String> {
    text.parse().ok().filter(good).ok_or_else(|| format!("expected {expected}"))
}

/// 1, 2, 3, …
pub fn at_least_one<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    number(text, "a whole number of at least 1", |n| *n >= T::from(1))
}

/// A size in a network, or a count: 1 to 65536. A larger number is probably a typing error. Making the parameters
/// checks whether the whole network fits into memory.
pub fn size(text: &str) -> Result<usize, String> {
    number(text, "a whole number from 1 to 65536", |n| (1..=65536).contains(n))
}

/// A dropout rate, in `[0, 1)`.
pub fn rate(text: &str) -> Result<f64, String> {
    number(text, "a rate of at least 0 and below 1", |x| (0.0..1.0).contains(x))
}

/// A finite number, 0 included.
pub fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a finite number of at least 0", |x: &f64| x.is_finite() && *x >= 0.0)
}

/// A finite number, 0 excluded.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, "a finite number above 0", |x: &f64| x.is_finite() && *x > 0.0)
}

/// Percent, above 1: 0.98 probably means 98.
pub fn percent(text: &str) -> Result<f64, String> {
    number(text, "percent, above 1 and at most 100", |x| *x > 1.0 && *x <= 100.0)
}

/// Prints clap's error as one line, `error: …`, and returns exit code 2; prints help unchanged.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_help {
        if !processes::is_first() {
            return ExitCode::SUCCESS;
        }
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    processes::wait_for_the_first_error();
    let text = error.render().to_string();
    let parts = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let parts = parts.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more info"));
    eprintln!("{} (see --help)", parts.collect::<Vec<_>>().join("; ").replace(":; ", ": "));
    ExitCode::from(2)
}

/// Parses a command line, the name of the program first. `-1` is a number, not an option, so the errors are about its value.
pub(crate) fn parse<A: clap::Parser>(
    command: impl IntoIterator<Item = OsString>,
) -> Result<(A, ArgMatches), clap::Error> {
    let matches = A::command().allow_negative_numbers(true).try_get_matches_from(command)?;
    Ok((A::from_arg_matches(&matches)?, matches))
}

/// The main function of a program that is not a training: parses the command line, sets up logging and threads, and calls
/// `run`. An error is printed as one line, with exit code 1, or 2 for wrong usage.
pub fn start<A: clap::Parser, E: Into<BoxError>>(run: impl FnOnce(&A) -> Result<(), E>) -> ExitCode {
    match parse(env::args_os()) {
        Ok((args, _)) => {
            prepare(None);
            run(&args).map_or_else(|error| failure(error.into().as_ref()), |()| ExitCode::SUCCESS)
        }
        Err(error) => usage(&error),
    }
}

/// Writes text to standard output. If standard output is closed, as by `| head`, the rest is dropped without an error.
///
/// # Errors
/// When writing fails for another reason.
pub fn print(text: &str) -> crate::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(crate::Error::Other(format!("standard output: {error}").into()))
        }
        _ => Ok(()),
    }
}

/// Prints an error as one line, `error: …`, and gives exit code 1.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> ExitCode {
    processes::wait_for_the_first_error();
    eprintln!("error: {}", with_sources(error));
    ExitCode::FAILURE
}

/// An error and its causes on one line, without causes that the text already contains.
pub(crate) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text.replace('\n', "; ")
}

/// A time as a part of a file name: `2026-08-01T120000`. Times before 1970 or after 9999 are clamped.
pub(crate) fn file_time(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799); // the end of the year 9999
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    humantime::format_rfc3339_seconds(time).to_string().trim_end_matches('Z').replace(':', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_out_of_order_still_gives_a_name() {
        let (epoch, long) = (SystemTime::UNIX_EPOCH, Duration::from_secs(1 << 40));
        assert_eq!(file_time(epoch + Duration::from_secs(1_785_585_600)), "2026-08-01T120000");
        assert_eq!(file_time(epoch - Duration::from_secs(5)), "1970-01-01T000000");
        assert_eq!(file_time(epoch - long), "1970-01-01T000000");
        assert_eq!(file_time(epoch + long), "9999-12-31T235959");
    }
}
