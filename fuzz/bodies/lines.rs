use super::{one_line, with_file};
use serde_json::to_vec;
use taper::report::{Histogram, LayerLine, MetricsLine, StepLine, TimingLine, read_lines_before_damage};

/// A JSON-lines file of each of the four kinds: a round trip gives the same records.
pub fn check(bytes: &[u8]) {
    with_file(bytes, |path| {
        macro_rules! again {
            ($kind:ty) => {{
                let (records, error) = read_lines_before_damage::<$kind>(path);
                error.iter().for_each(one_line);
                for record in &records {
                    let text = to_vec(record).expect("a record is JSON");
                    let again = serde_json::from_slice::<$kind>(&text).expect("its own text");
                    // The texts, as NaN is not equal to itself.
                    assert_eq!(to_vec(&again).expect("a record is JSON"), text);
                }
                records
            }};
        }
        again!(MetricsLine);
        again!(TimingLine);
        again!(StepLine);
        let mut sum = Histogram::default();
        for histogram in again!(LayerLine).iter().filter_map(|line| line.of.histogram.as_ref()) {
            // Any counts give numbers.
            let _ = (histogram.asymmetry(), histogram.quantile(0.5));
            sum.merge(histogram);
        }
        let _ = (sum.total(), sum.asymmetry(), sum.quantile(1.0));
    });
}
