//! The numbers as `tracing` events.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use crate::sample;
use taper_report::{Result, Sink, TracingSink};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of all events of target `taper`.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Fields>>>);

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "taper"
    }
    fn event(&self, event: &Event<'_>) {
        let mut visitor = Visitor(Fields::new());
        event.record(&mut visitor);
        self.0.lock().expect("no thread has panicked").push(visitor.0);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn events_carry_the_numbers_of_every_split_and_layer() -> Result<()> {
    let kept = Kept::default();
    let mut report = sample::report("relu", 0.5, 1, 2);
    report.splits[1].layers[1].skewness = None;
    tracing::subscriber::with_default(kept.clone(), || {
        TracingSink.begin(&sample::run("relu", 0.5, 1))?;
        TracingSink.epoch(&report)
    })?;
    let events = kept.0.lock().expect("no thread has panicked");
    let messages: Vec<_> = events.iter().map(|event| event["message"].as_str()).collect();
    assert_eq!(messages, ["run", "split", "layer", "layer", "layer", "split", "layer", "layer", "layer"]);
    assert_eq!(events[0]["dataset"], "\"mnist\"");

    let test = &report.splits[1];
    assert_eq!(events[0]["labels"], "\"act relu, dropout 0.5\"");
    assert_eq!(events[5]["epoch"], "2");
    assert_eq!(events[5]["split"], "\"test\"");
    assert_eq!(events[5]["loss"], format!("{:?}", test.score.loss));
    assert_eq!(events[5]["samples_per_second"], format!("{:?}", test.samples_per_second()));
    assert!(!events[5].contains_key("learning_rate"), "none outside training");
    assert_eq!(events[5]["metrics"], format!("\"{}\"", test.score.metrics[0]));
    assert_eq!((events[7]["site"].as_str(), events[7]["activation"].as_str()), ("\"fc1\"", "\"relu\""));
    let statistics = &events[7]["statistics"];
    assert!(
        statistics.starts_with("\"zeros 71.6%, dead 11, dormant 13, mean 0.196, std 0.460, asym "),
        "{statistics}"
    );
    assert!(!statistics.contains("skew"), "it was not measured");
    Ok(())
}
