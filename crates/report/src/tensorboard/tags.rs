use std::collections::BTreeMap;

/// The part of a tag for a site; each site has a different one.
#[derive(Debug, Default)]
pub(super) struct Tags {
    of_site: BTreeMap<String, String>,
}

impl Tags {
    /// Letters and digits of any script, `-`, `_`, `.` and `/` are kept, anything else becomes `_`.
    ///
    /// If another site has the tag, `~2`, `~3`, … is appended, in the order of first use.
    pub(super) fn of(&mut self, site: &str) -> &str {
        if !self.of_site.contains_key(site) {
            let tag = self.free(sanitized(site));
            self.of_site.insert(site.into(), tag);
        }
        &self.of_site[site]
    }

    fn free(&self, tag: String) -> String {
        let taken = |tag: &String| self.of_site.values().any(|other| other == tag);
        // Tags of sites have no tilde otherwise.
        let numbered = (2_u32..).map(|n| format!("{tag}~{n}"));
        std::iter::once(tag.clone()).chain(numbered).find(|tag| !taken(tag)).unwrap_or(tag)
    }
}

/// Replaces every character of the name that TensorBoard or a path could misread.
pub(super) fn sanitized(site: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    let tag: String = site.chars().map(|c| if kept(c) { c } else { '_' }).collect();
    // TensorBoard groups by the text before the first slash.
    match tag.strip_prefix('/') {
        Some(rest) => format!("_{rest}"),
        None if tag.is_empty() => "_".into(),
        None => tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_stay_and_others_become_harmless_and_distinct() {
        let mut tags = Tags::default();
        for (site, tag) in [
            ("conv1", "conv1"),
            ("block.1/conv-2_b", "block.1/conv-2_b"),
            ("größe", "größe"),
            ("<script>", "_script_"),
            ("\"script'", "_script_~2"),
            ("_script_", "_script_~3"),
            ("_script_~2", "_script__2"),
            ("/etc", "_etc"),
            ("", "_"),
            ("\n", "_~2"),
            ("<script>", "_script_"),
        ] {
            assert_eq!(tags.of(site), tag, "{site:?}");
        }
    }
}
