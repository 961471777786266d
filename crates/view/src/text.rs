//! Text for pages and pictures. Names come from users and may contain any characters.

pub(crate) use taper_report::{count_text as count, share_text as share};

/// The text for a missing number.
pub(crate) const NONE: &str = "–";

/// The length of a name in a label, in characters.
pub(crate) const LABEL: usize = 48;

/// Escaped for HTML, in text and in quoted attributes.
pub(crate) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A list in HTML of items with their tags, folded after the first few. Empty without items.
pub(crate) fn list(attributes: &str, items: &[String], few: usize) -> String {
    let (few, rest) = items.split_at(items.len().min(few));
    match (few, rest.len()) {
        ([], _) => String::new(),
        (_, 0) => format!("<ul {attributes}>{}</ul>\n", few.concat()),
        (_, more) => format!(
            "<ul {attributes}>{}<li><details><summary>and {more} more</summary><ul>{}</ul></details></li></ul>\n",
            few.concat(),
            rest.concat()
        ),
    }
}

/// Quoted for a shell, if needed.
pub(crate) fn shell(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Escaped for JSON in a script element, which it must not end.
pub(crate) fn script_json(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// At most this many characters, with an ellipsis in the middle; control characters become blanks.
pub(crate) fn shorten(text: &str, at_most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let n = text.chars().count();
    if n <= at_most {
        return text.chars().map(clean).collect();
    }
    let tail = at_most / 3;
    let head = text.chars().take(at_most - tail - 1);
    head.chain(['…']).chain(text.chars().skip(n - tail)).map(clean).collect()
}

/// [`taper_report::fixed_text`] with a minus sign instead of the hyphen.
pub(crate) fn fixed(x: f64, decimals: usize) -> String {
    taper_report::fixed_text(x, decimals).replace('-', "−")
}

/// A number with this many decimals; huge ones in powers of ten.
pub(crate) fn plain(x: f64, decimals: usize) -> String {
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        _ if x.abs() >= 1e5 => fixed(x, decimals),
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.to_string(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// Six significant digits: more than a picture shows, in a third of the bytes.
pub(crate) fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// Five significant digits, integers without a point; non-finite numbers are null.
pub(crate) fn brief(x: f64) -> serde_json::Value {
    let x: f64 = format!("{x:.4e}").parse().unwrap_or(x);
    if x.fract() == 0.0 && x.abs() < 1e15 { (x as i64).into() } else { x.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_an_attribute_an_element_or_a_script() {
        let name = r#"</script><b a="1" b='2'>&"#;
        assert!(!html(name).contains(['<', '>', '"', '\'']));
        let json = serde_json::to_string(name).expect("it is text");
        let escaped = script_json(&json);
        assert!(!escaped.contains(['<', '>', '&']));
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("still JSON"), name);
    }

    #[test]
    fn a_shell_reads_a_quoted_word_unchanged() {
        assert_eq!(["--lr=0.1", "a b", "it's", ""].map(shell), ["--lr=0.1", "'a b'", r"'it'\''s'", "''"]);
    }

    #[test]
    fn a_long_name_keeps_both_ends_and_counts_characters() {
        assert_eq!(shorten("äöü/αβγ", 7), "äöü/αβγ");
        assert_eq!(shorten("äöü/αβγδ", 7), "äöü/…γδ");
        assert_eq!(shorten("a\nb", 7), "a b");
    }

    #[test]
    fn a_nonzero_number_is_never_written_as_zero() {
        assert_eq!([0.0, 1e-9, 0.632, 0.9999, 1.0].map(share), ["0%", "<0.1%", "63.2%", ">99.9%", "100%"]);
        assert_eq!([0.0, -1.25, 4e-7, 1e9].map(|x| fixed(x, 2)), ["0.00", "−1.25", "4.0e−7", "1.0e9"]);
        assert_eq!([-0.001, -1.25, 1e9].map(|x| plain(x, 2)), ["0.00", "−1.25", "1.0e9"]);
        assert_eq!(rounded(0.123_456_789), 0.123457);
    }
}
