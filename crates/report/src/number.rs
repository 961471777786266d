//! Numbers in a table: few digits, and different values look different.

/// The text for a missing number.
pub(crate) const NONE: &str = "–";

/// A share with one digit: `63.2%`. `0%` is exactly none, `100%` is exactly all.
pub fn share(fraction: f64) -> String {
    match fraction * 100.0 {
        p if p == 0.0 || p == 100.0 => format!("{p:.0}%"),
        p if p > 0.0 && p < 0.05 => "<0.1%".into(),
        p if (99.95..100.0).contains(&p) => ">99.9%".into(),
        p => format!("{p:.1}%"),
    }
}

/// A number with this many decimals, or in powers of ten if they are too few.
pub fn fixed(x: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", if x == 0.0 { 0.0 } else { x });
    let lost = x != 0.0 && text.bytes().all(|b| matches!(b, b'0' | b'.' | b'-'));
    if lost || x.is_finite() && x.abs() >= 1e5 { format!("{x:.1e}") } else { text }
}

/// A number without a unit, such as skewness: two decimals.
pub(crate) fn rounded(x: f64) -> String {
    let text = format!("{x:.2}");
    if text == "-0.00" { "0.00".into() } else { text }
}

/// A count in groups of three digits: `25,310`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonzero_share_is_never_written_as_zero() {
        let shown = [0.0, 1e-9, 0.0004, 0.0005, 0.632, 0.9994, 0.9996, 1.0, f64::NAN].map(share);
        assert_eq!(shown, ["0%", "<0.1%", "<0.1%", "0.1%", "63.2%", "99.9%", ">99.9%", "100%", "NaN%"]);
    }

    #[test]
    fn numbers_that_do_not_fit_their_decimals_are_written_in_powers_of_ten() {
        let shown = [0.0, 0.3125, -0.0004, 4e-7, -12.5, 123456.0, f64::NAN].map(|x| fixed(x, 3));
        assert_eq!(shown, ["0.000", "0.312", "-4.0e-4", "4.0e-7", "-12.500", "1.2e5", "NaN"]);
    }

    #[test]
    fn a_skewness_of_nearly_nothing_has_no_sign() {
        assert_eq!([-5e-16, -1.934].map(rounded), ["0.00", "-1.93"]);
    }

    #[test]
    fn counts_are_grouped_from_the_right() {
        assert_eq!([0, 999, 1000, 25310, 1234567].map(count), ["0", "999", "1,000", "25,310", "1,234,567"]);
    }
}
