use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use prost::Message;

use crate::{
    EpochReport, ParameterNorms, Result, Run, Score, Shown, Sink, SiteSteps, Split, SplitReport, Statistic,
    StepReport,
};
use buckets::Bucket;
use event_file::{EventFile, create_dir, now};
use proto::{
    DataClass, DataType, Datum, Dim, HParam, HParams, Kind, Metadata, PluginData, Session, SessionEnd,
    SessionStart, Shape, Status, Tensor, Value,
};
use tags::{Tags, sanitized};

mod buckets;
mod event_file;
mod proto;
mod tags;

/// A sink that writes event files for [TensorBoard](https://www.tensorflow.org/tensorboard).
///
/// Show one run with `tensorboard --logdir RUN_DIR`, and a grid of runs with the directory above them. An epoch is
/// written in one piece when [`Sink::epoch`] returns, so a running training can be watched.
///
/// # Files
///
/// TensorBoard makes a run of every directory. Splits are runs: the run's directory has the subdirectories `train`,
/// `validation` and `test` with one file each, made when the split is first reported, and `steps` with the windows of
/// training steps. A file in the run's directory has the hyper-parameters. Files have the name
/// `events.out.tfevents.SECONDS.taper`, with `SECONDS` since 1970, and the suffix `.2`, `.3`, … if it exists; nothing
/// is overwritten. No site or run name becomes part of a path.
///
/// A file is a sequence of records: length (`u64`), masked CRC-32C of these eight bytes (`u32`), data, masked CRC-32C
/// of the data (`u32`), all little-endian. The data are an `Event` message. The first one of a file is `brain.Event:2`,
/// and each other one has everything of one epoch or window. Step is the epoch, in `steps` the last step of the window;
/// wall time is the time of writing.
///
/// # Scalars
///
/// In single precision, as `simple_value`. Missing numbers are not written.
///
/// | tag | meaning |
/// |---|---|
/// | `loss`, and each metric under its name | of the split; also where they are not finite, which TensorBoard marks |
/// | `samples_per_second` | wall clock, tracking included |
/// | `learning_rate` | at the end of the epoch; training only |
/// | `ID/SITE` | each of [`STATISTICS`](crate::STATISTICS) that is shown as a [curve](Shown::Curve) |
///
/// In `steps` these are `loss`, the metrics, `learning_rate`, and of [`StepReport`] `zero_fraction/SITE`,
/// `dead_fraction/SITE`, `mean/SITE`, `std/SITE`, `gradient_norm/PARAMETER`, `weight_norm/PARAMETER` and
/// `update_norm/PARAMETER`.
///
/// A tag begins with the statistic, so TensorBoard shows one statistic of all layers side by side. The description of a
/// tag is that of the [`Statistic`]; the description of `loss` is [`Run::loss`].
///
/// `SITE` is the site's name in which `_` replaces everything except letters, digits, `-`, `_`, `.` and `/` (not
/// first). If two sites become equal, the later ones get `~2`, `~3`, ….
///
/// # Histograms
///
/// Tags `activation/SITE` (see [`Histogram`](crate::Histogram)) and `firing_rate/SITE` (units by firing rate), in the
/// tensor form of the histograms plugin: a `DT_DOUBLE` tensor of shape `(k, 3)`, rows `[left, right, count]`, with
/// shared edges. The older `HistogramProto` is not used: TensorBoard converts its counts to single precision, which is
/// exact only up to 2^24, and it has no bucket of width 0.
///
/// - Rows are the bins from left to right, from the first to the last non-empty one. Counts are exact up to 2^53.
/// - **Exact zeros** are the row `[0, 0, n]`, the only one of width 0 there; the underflow bins `[-2^-20, 0]` and `[0,
///   2^-20]` are next to it.
/// - The outer edges are `min` and `max` of the [`LayerStats`](crate::LayerStats), between which TensorBoard draws 30
///   equal bars. So the overflow bin has a finite edge, or ±8192 if `min` and `max` are unknown.
/// - `firing_rate` always has 22 rows: `[0, 0, never]`, twenty of width 0.05, `[1, 1, always]`.
/// - An empty histogram is not written.
///
/// # Hyper-parameters
///
/// [`Sink::begin`] starts a session of the hparams plugin with the labels and `seed`, which distinguish runs; other
/// options are in `config.json`. [`Sink::finish`] ends it: as failed if a loss of the last epoch was not finite,
/// otherwise as successful. A session without an end was killed, or still runs. The metrics of the HParams tab are all
/// scalars of the splits; it needs the directory *above* the runs to find them.
///
/// ```no_run
/// use taper_report::{RunDir, Sink, TensorBoard};
///
/// let mut dir = RunDir::create("runs/relu")?;
/// let mut board = TensorBoard::create(dir.path())?;
/// let sinks: Vec<Box<dyn Sink + '_>> = vec![Box::new(&mut dir), Box::new(&mut board)];
/// # Ok::<(), taper_report::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    session: Option<EventFile>,
    splits: BTreeMap<Split, EventFile>,
    steps: Option<EventFile>,
    tags: Tags,
    /// What the loss is.
    loss: String,
    status: Status,
}

impl TensorBoard {
    /// Writes below `dir`, the directory of one run, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) with the path that could not be created.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().to_path_buf();
        create_dir(&path)?;
        Ok(Self {
            path,
            session: None,
            splits: BTreeMap::new(),
            steps: None,
            tags: Tags::default(),
            loss: String::new(),
            status: Status::Success,
        })
    }

    /// For a run that is resumed after epoch `done` (or its beginning) and after this many `steps`: truncates later
    /// records and incomplete ones in the existing files, so no step appears twice. New events go into new files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) with the path that could not be created, read or cut.
    pub fn resume(dir: impl AsRef<Path>, done: Option<u32>, steps: u64) -> Result<Self> {
        let last = done.map_or(-1, i64::from);
        let board = Self::create(dir)?;
        for split in [Split::Train, Split::Validation, Split::Test] {
            event_file::cut(&board.path.join(split.name()), last)?;
        }
        event_file::cut(&board.path.join(STEPS), i64::try_from(steps).unwrap_or(i64::MAX))?;
        event_file::cut(&board.path, last)?;
        Ok(board)
    }
}

impl Sink for TensorBoard {
    fn begin(&mut self, run: &Run) -> Result<()> {
        let start = SessionStart { hparams: hparams(run), start_time_secs: now() };
        let value = session("_hparams_/session_start_info", Session::Start(start));
        let mut file = EventFile::create(&self.path)?;
        file.summary(0, vec![value])?;
        self.session = Some(file);
        self.loss.clone_from(&run.loss);
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let finite = report.splits.iter().all(|of| of.score.loss.is_finite());
        self.status = if finite { Status::Success } else { Status::Failure };
        for of in &report.splits {
            if !self.splits.contains_key(&of.split) {
                let file = EventFile::create(&self.path.join(of.split.name()))?;
                self.splits.insert(of.split, file);
            }
            if let Some(file) = self.splits.get_mut(&of.split) {
                file.summary(report.epoch.into(), values(of, &self.loss, &mut self.tags))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, report: &StepReport) -> Result<()> {
        let file = match &mut self.steps {
            Some(file) => file,
            none => none.insert(EventFile::create(&self.path.join(STEPS))?),
        };
        let step = i64::try_from(report.step).unwrap_or(i64::MAX);
        file.summary(step, window(report, &self.loss, &mut self.tags))
    }

    fn finish(&mut self) -> Result<()> {
        let Some(mut file) = self.session.take() else { return Ok(()) };
        let end = SessionEnd { status: self.status.into(), end_time_secs: now() };
        file.summary(0, vec![session("_hparams_/session_end_info", Session::End(end))])
    }
}

/// The directory for windows of steps, below the run's directory.
const STEPS: &str = "steps";

/// A function from a part of a report to a number.
type Getter<T> = fn(&T) -> Option<f64>;

/// The norms of a window of steps.
const NORMS: [(&str, &str, Getter<ParameterNorms>); 3] = [
    ("gradient_norm", "L2 norm of the gradient in the window's last step, after clipping.", |of| {
        of.gradient_norm
    }),
    ("weight_norm", "L2 norm of the parameter after the window's last step.", |of| of.weight_norm),
    ("update_norm", "L2 norm of what the window's last step changed.", |of| of.update_norm),
];

/// The statistics of [`LayerStats`](crate::LayerStats) in windows of steps.
const OF_STEPS: [(&str, Getter<SiteSteps>); 4] = [
    ("zero_fraction", |of| Some(of.zero_fraction)),
    ("dead_fraction", SiteSteps::dead_fraction),
    ("mean", |of| of.mean),
    ("std", |of| of.std),
];

/// All scalars of a window of steps.
fn window(of: &StepReport, loss: &str, tags: &mut Tags) -> Vec<Value> {
    let mut values = scores(&of.score, loss);
    values.push(scalar("learning_rate", of.learning_rate, "Learning rate of the window's last step."));
    for site in &of.sites {
        let name = tags.of(&site.site);
        let add = |(id, value): &(&str, fn(&SiteSteps) -> Option<f64>)| {
            let what = Statistic::named(id).map_or("", |of| of.what);
            Some(scalar(format!("{id}/{name}"), value(site)?, what))
        };
        values.extend(OF_STEPS.iter().filter_map(add));
    }
    for of in &of.parameters {
        let name = tags.of(&of.parameter);
        let norms = NORMS.iter();
        values.extend(
            norms.filter_map(|(id, what, value)| Some(scalar(format!("{id}/{name}"), value(of)?, what))),
        );
    }
    values
}

/// All scalars and histograms of one split in one epoch.
fn values(of: &SplitReport, loss: &str, tags: &mut Tags) -> Vec<Value> {
    let mut values = scores(&of.score, loss);
    let timed = (of.seconds > 0.0).then(|| of.samples_per_second());
    values
        .extend(timed.map(|x| {
            scalar("samples_per_second", x, "Samples per second of wall clock, tracking included.")
        }));
    values.extend(
        of.learning_rate.map(|x| scalar("learning_rate", x, "Learning rate at the end of the epoch.")),
    );
    for layer in &of.layers {
        let site = tags.of(&layer.site);
        let finite = |of: &Statistic| {
            let x = (of.value)(layer).filter(|x| x.is_finite())?;
            Some(scalar(format!("{}/{site}", of.id), x, of.what))
        };
        values.extend(Statistic::shown_in(Shown::Curve).filter_map(finite));
        let activation = layer.histogram.iter().map(|h| buckets::of_values(h, layer.min, layer.max));
        let what = "The layer's values; the bucket without width is the exact zeros.";
        values.extend(activation.filter_map(|rows| histogram(format!("activation/{site}"), &rows, what)));
        let what = "Units by the share of observations at which they fire; the outermost buckets are never and always.";
        values.extend(histogram(format!("firing_rate/{site}"), &buckets::of_rates(&layer.firing_rate), what));
    }
    values
}

/// The loss and the metrics.
fn scores(score: &Score, loss: &str) -> Vec<Value> {
    let metrics = score.metrics.iter().map(|metric| scalar(sanitized(&metric.name), metric.value, ""));
    std::iter::once(scalar("loss", score.loss, loss)).chain(metrics).collect()
}

fn scalar(tag: impl Into<String>, x: f64, what: &str) -> Value {
    let described = Metadata { summary_description: what.into(), ..Metadata::default() };
    let metadata = (!what.is_empty()).then_some(described);
    Value { tag: tag.into(), metadata, value: Some(Datum::Simple(x as f32)) }
}

fn histogram(tag: String, rows: &[Bucket], what: &str) -> Option<Value> {
    let dim = vec![Dim { size: rows.len() as i64 }, Dim { size: 3 }];
    let tensor = Tensor {
        dtype: DataType::Double.into(),
        tensor_shape: Some(Shape { dim }),
        double_val: rows.concat(),
    };
    let metadata = Metadata {
        // No content: a message of version 0 without fields.
        plugin_data: Some(PluginData { plugin_name: "histograms".into(), content: Vec::new() }),
        summary_description: what.into(),
        data_class: DataClass::Tensor.into(),
    };
    let value = Some(Datum::Tensor(tensor));
    (!rows.is_empty()).then_some(Value { tag, metadata: Some(metadata), value })
}

/// The hparams plugin has all its data in the metadata; its tensor is empty.
fn session(tag: &str, data: Session) -> Value {
    let content = HParams { data: Some(data) }.encode_to_vec();
    let metadata = Metadata {
        plugin_data: Some(PluginData { plugin_name: "hparams".into(), content }),
        data_class: DataClass::Tensor.into(),
        ..Metadata::default()
    };
    let empty = Tensor {
        dtype: DataType::Float.into(),
        tensor_shape: Some(Shape { dim: vec![Dim { size: 0 }] }),
        double_val: Vec::new(),
    };
    Value { tag: tag.into(), metadata: Some(metadata), value: Some(Datum::Tensor(empty)) }
}

/// The hyper-parameters of a run: labels, which are numbers, texts or truth values, and the seed.
fn hparams(run: &Run) -> BTreeMap<String, HParam> {
    let kind = |value: &serde_json::Value| match value {
        serde_json::Value::Number(x) => x.as_f64().map(Kind::Number),
        serde_json::Value::String(text) => Some(Kind::String(text.clone())),
        serde_json::Value::Bool(is) => Some(Kind::Bool(*is)),
        _ => None,
    };
    // A double has no larger exact integers, and two seeds must not become equal.
    let seed = match run.seed {
        seed if seed <= 1 << 53 => Kind::Number(seed as f64),
        seed => Kind::String(seed.to_string()),
    };
    let labels = run.labels.iter().filter_map(|(name, value)| Some((name.clone(), kind(value)?)));
    labels
        .chain([("seed".to_string(), seed)])
        .map(|(name, kind)| (name, HParam { kind: Some(kind) }))
        .collect()
}
