use super::one_line;
use taper::nn::Activation;

/// An activation's text: a round trip gives the same function, which makes no NaN from a number.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let activation: Activation = match text.parse() {
        Ok(activation) => activation,
        Err(error) => return one_line(&error),
    };
    assert_eq!(activation.to_string().parse::<Activation>().expect("printed by Display"), activation);
    for x in [-1e30, -90.0, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 90.0, 1e30] {
        let (y, slope) = (activation.value(x), activation.derivative(x));
        assert!(!y.is_nan() && !slope.is_nan(), "{activation} at {x}: {y}, slope {slope}");
    }
    assert!(activation.value(f32::NAN).is_nan());
}
