//! Which runs are made.

use taper::nn::Activation;

use crate::options::{Args, Kind};

/// One run of the grid.
pub struct Cell {
    pub name: String,
    pub activation: Activation,
    pub dropout: f64,
    pub seed: u64,
}

/// Every activation at every dropout rate with every seed.
pub fn grid(args: &Args) -> Vec<Cell> {
    // Softmax regression has no hidden layer that either could act on.
    let (acts, rates) = match args.model {
        Kind::Linear => (&[Activation::Identity][..], &[0.0][..]),
        _ => (&args.act[..], &args.dropout[..]),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for &activation in acts {
        for &dropout in rates {
            for i in 0..args.seeds as u64 {
                let seed = args.seed.wrapping_add(i);
                let name = file_name(&format!("{activation}-dropout{dropout}-seed{seed}"));
                if cells.iter().all(|cell| cell.name != name) {
                    cells.push(Cell { name, activation, dropout, seed });
                }
            }
        }
    }
    cells
}

/// Letters, digits and a few signs: a name that every file system takes.
pub fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
