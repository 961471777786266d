/// Whether an operation runs over all values of a matrix or only over the listed ones, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// All values: the product is too small for lists to be worth it.
    Small,
    /// All values: one sample has its own products.
    OneRow,
    /// All values: there are too few channels to fill a vector.
    FewChannels,
    /// All values: the share that differs from the background is this, above the limit.
    Dense { density: f64, limit: f64 },
    /// Only the values that differ from the background, which are this share.
    Sparse { density: f64, background: f32 },
}

impl Choice {
    /// [`Choice::Sparse`] with the first background from which at most a share `limit` of `values` differs, else
    /// [`Choice::Dense`]. Samples about eight of the rows of `width`.
    pub fn by_density(values: &[f32], width: usize, backgrounds: &[f32], limit: f64) -> Self {
        let mut least = f64::INFINITY;
        for &background in backgrounds.iter().filter(|b| b.is_finite()) {
            let density = density(values, width, background);
            if density <= limit {
                return Self::Sparse { density, background };
            }
            least = least.min(density);
        }
        Self::Dense { density: least, limit }
    }

    /// Logs the choice: `RUST_LOG=taper_kernels=debug` shows it.
    pub fn log(self, what: std::fmt::Arguments<'_>) -> Self {
        tracing::debug!(choice = ?self, "{what}");
        self
    }
}

/// The share of values that differ from the background, in some of the rows of `width`.
fn density(values: &[f32], width: usize, background: f32) -> f64 {
    const ROWS: usize = 8;
    let rows = values.chunks_exact(width.max(1));
    let some = rows.step_by((values.len() / width.max(1) / ROWS).max(1));
    let (found, all) = some.fold((0, 0), |(found, all), row| {
        (found + row.iter().filter(|x| **x != background).count(), all + row.len())
    });
    found as f64 / all.max(1) as f64
}
