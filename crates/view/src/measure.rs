use taper_report::LayerStats;

use crate::text;

/// One number of a layer that pages and pictures show, with what it means.
pub(crate) struct Measure {
    /// In element ids and file names, and the field's name where it is one.
    pub id: &'static str,
    pub title: &'static str,
    /// What the number means, for people.
    pub what: &'static str,
    pub value: fn(&LayerStats) -> Option<f64>,
    pub kind: Kind,
}

/// How a number is written, and which range its axis has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In `[0, 1]`, as percent.
    Share,
    /// A count per sample, of no common size in different layers.
    Count,
    /// Any number, its axis shared by all layers.
    Number,
}

impl Kind {
    pub fn show(self, x: f64) -> String {
        match self {
            Self::Share => text::share(x),
            Self::Count => text::fixed(x, 1),
            Self::Number => text::fixed(x, 2),
        }
    }

    /// In the notation of d3-format.
    pub fn axis_format(self) -> &'static str {
        match self {
            Self::Share => ".0~%",
            Self::Count | Self::Number => "~g",
        }
    }

    pub fn hover_format(self) -> &'static str {
        match self {
            Self::Share => ".2~%",
            Self::Count => ",.1f",
            Self::Number => ".3~f",
        }
    }
}

pub(crate) const ACCURACY: &str = "Fraction of samples classified correctly.";
pub(crate) const LOSS: &str = "Mean cross-entropy per sample, in nats.";
pub(crate) const WINDOW: &str = "test: one pass in evaluation mode over the whole split, with the weights fixed: it \
    describes one network. train: all training batches of the epoch, in train mode, while the weights move.";
pub(crate) const DISTRIBUTION: &str = "How the values are spread, over bins that widen with magnitude (signed \
    logarithmic scale, the same edges for every layer and run). Exact zeros are counted apart, in the strip =0. \
    Seeds are added up.";
pub(crate) const FIRING: &str = "A unit's firing rate is the fraction of observations with y > 0. The curve says how \
    the units are spread over the rates in the last epoch; units that never (= 0) or always (= 1) fire stand apart, on the axis at the right.";
pub(crate) const DIED: &str = "Units that crossed since the window before: above zero those that died, below zero \
    those that revived.";

pub(crate) const ZEROS: Measure = Measure {
    id: "zero_fraction",
    title: "Zeros",
    what: "Share of activations that are exactly zero, over all samples, units and positions, before any dropout. \
        Not the share of dead units: a layer can be 90 % zeros with no unit dead.",
    value: |l| Some(l.zero_fraction),
    kind: Kind::Share,
};
pub(crate) const DEAD: Measure = Measure {
    id: "dead",
    title: "Dead units",
    what: "Share of units that no gradient reached: f′(x) was 0 at every observation of the window. For ReLU: \
        units that never fired.",
    value: |l| Some(l.dead_fraction()),
    kind: Kind::Share,
};
pub(crate) const DORMANT: Measure = Measure {
    id: "dormant_0_025",
    title: "Dormant units",
    what: "Share of units whose mean |y| is at most 2.5 % of their layer's mean (Sokar et al. 2023); includes dead \
        ReLU units.",
    value: |l| Some(l.dormant_fraction()),
    kind: Kind::Share,
};
pub(crate) const MEAN: Measure = Measure {
    id: "mean",
    title: "Mean",
    what: "Mean of all finite activations of the layer. With one or two lines, the shaded band is mean ± one \
        standard deviation of the activations.",
    value: |l| l.mean,
    kind: Kind::Number,
};
pub(crate) const STD: Measure = Measure {
    id: "std",
    title: "Standard deviation",
    what: "Standard deviation of all finite activations of the layer.",
    value: LayerStats::std,
    kind: Kind::Number,
};
pub(crate) const SKEWNESS: Measure = Measure {
    id: "skewness",
    title: "Skewness",
    what: "m₃ / m₂^1.5 of the activations: 0 for a symmetric distribution, positive with a long tail to the right.",
    value: |l| l.skewness,
    kind: Kind::Number,
};
pub(crate) const ASYMMETRY: Measure = Measure {
    id: "asymmetry",
    title: "Asymmetry",
    what: "Distance between the distribution and its mirror image at zero: 0 symmetric, 0.5 ReLU of a symmetric \
        input, 1 one-sided without zeros.",
    value: |l| l.asymmetry,
    kind: Kind::Number,
};
pub(crate) const FLAT: Measure = Measure {
    id: "flat",
    title: "Flat",
    what: "Share of values at which the activation's slope |f′(x)| is below 0.01, at either end: saturation. For \
        ReLU this is the share of zeros.",
    value: |l| Some(l.flat_low? + l.flat_high?),
    kind: Kind::Share,
};
pub(crate) const ACTIVE: Measure = Measure {
    id: "active_per_sample",
    title: "Active per sample",
    what: "Number of non-zero activations of one sample, over units and positions: the mean over samples. The \
        axis differs from layer to layer, as their sizes do.",
    value: |l| l.active_per_sample.map(|active| active.mean),
    kind: Kind::Count,
};
pub(crate) const SPARSENESS: Measure = Measure {
    id: "population_sparseness",
    title: "Population sparseness",
    what: "Mean over samples of the Treves–Rolls / Vinje–Gallant sparseness: 0 when all units answer alike, 1 when \
        a single one does.",
    value: |l| l.population_sparseness,
    kind: Kind::Number,
};

/// The curves of a page, in reading order.
pub(crate) const CURVES: [&Measure; 10] =
    [&ZEROS, &DEAD, &DORMANT, &MEAN, &STD, &SKEWNESS, &ASYMMETRY, &FLAT, &ACTIVE, &SPARSENESS];
