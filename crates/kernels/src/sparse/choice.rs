/// Whether an operation runs over all values of a matrix or over the listed ones alone, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// Over all: there is too little to compute for lists to pay.
    Small,
    /// Over all: one sample has products of its own.
    OneRow,
    /// Over all: there are too few channels to fill a vector.
    FewChannels,
    /// Over all: this share of the values differs from the background, which is above the limit.
    Dense { density: f64, limit: f64 },
    /// Over the values that differ from the background, which are this share.
    Sparse { density: f64, background: f32 },
}

impl Choice {
    /// [`Choice::Sparse`] with the first background from which at most `limit`, a share, of `values` differs, else
    /// [`Choice::Dense`]. Looks at some eight of the rows of `width`.
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

    /// Tells `tracing`, so that `RUST_LOG=taper_kernels=debug` shows it.
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
