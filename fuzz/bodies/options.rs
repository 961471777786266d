use super::one_line;
use taper::data::{Choice, Scale};
use taper::nn::Init;
use taper::train::{Optimizer, OptimizerConfig, Schedule, parse_rule};
use taper_experiment::{at_least_one, not_negative, percent, positive, rate, size};

/// A word of the command line, as every option that reads more than a plain text.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The user's own text is quoted: it needs no escaping, but must parse or give an error.
    macro_rules! same_again {
        ($kind:ty) => {
            if let Ok(value) = text.parse::<$kind>() {
                assert_eq!(value.to_string().parse::<$kind>().expect("printed by Display"), value);
            }
        };
    }
    same_again!(Choice);
    same_again!(Scale);
    same_again!(Init);
    for (epochs, steps) in [(1, 1), (10, 469), (u32::MAX, u64::MAX)] {
        let Ok(schedule) = Schedule::parse(text, epochs, steps) else { continue };
        for step in [0, 1, 468, 4690, u64::MAX - 1, u64::MAX] {
            assert!(schedule.factor(step) >= 0.0, "{text} at {step}");
        }
    }
    let decay = text.split_once(' ').and_then(|(_, decay)| decay.parse().ok());
    if let Ok((rule, rate)) = parse_rule(text.split(' ').next().unwrap_or_default(), decay)
        && let Err(error) = Optimizer::new(Vec::new(), OptimizerConfig::new(rule, rate))
    {
        one_line(&error);
    }
    assert!(size(text).is_ok_and(|n| (1..=65536).contains(&n)) || size(text).is_err());
    assert!(at_least_one::<u32>(text).map_or(true, |n| n > 0));
    assert!(rate(text).map_or(true, |x| (0.0..1.0).contains(&x)));
    assert!(not_negative(text).map_or(true, |x| x.is_finite() && x >= 0.0));
    assert!(positive(text).map_or(true, |x| x.is_finite() && x > 0.0));
    assert!(percent(text).map_or(true, |x| x > 1.0 && x <= 100.0));
}
