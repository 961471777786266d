//! Prints what the console sink and the comparison look like, from made-up runs:
//! `cargo run -p taper-report --example tables [-- --color] [--all-splits]`.

use taper_report::{ConsoleConfig, ConsoleSink, Result, Sink, Summary, comparison};

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<()> {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    let config =
        ConsoleConfig { color: has("--color"), all_splits: has("--all-splits"), ..ConsoleConfig::default() };
    let mut console = ConsoleSink::stdout(config);
    let mut summaries = Vec::new();
    for (activation, dropout, seed) in
        [("relu", 0.0, 1), ("relu", 0.5, 1), ("relu", 0.5, 2), ("selu", 0.5, 1), ("tanh", 0.0, 1)]
    {
        let run = sample::run(activation, dropout, seed);
        let mut summary = Summary::new(run.clone());
        console.begin(&run)?;
        for epoch in 1..=10 {
            let report = sample::report(activation, dropout, seed, epoch);
            summary.epoch(&report)?;
            if epoch > 8 {
                console.epoch(&report)?;
            }
        }
        summaries.push(summary);
    }
    println!("\n{}", comparison(&summaries));
    Ok(())
}
