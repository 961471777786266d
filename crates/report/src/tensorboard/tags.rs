use std::collections::BTreeMap;

/// The part of a tag that stands for a site: no two sites have the same.
#[derive(Debug, Default)]
pub(super) struct Tags {
    of_site: BTreeMap<String, String>,
}

impl Tags {
    /// Letters and digits of any script, `-`, `_`, `.` and `/` are kept, anything else becomes `_`.
    ///
    /// A site whose tag another one has taken gets `~2`, `~3`, … behind it, in the order of first use.
    pub(super) fn of(&mut self, site: &str) -> &str {
        if !self.of_site.contains_key(site) {
            let tag = self.free(sanitized(site));
            self.of_site.insert(site.into(), tag);
        }
        &self.of_site[site]
    }

    fn free(&self, tag: String) -> String {
        let taken = |tag: &String| self.of_site.values().any(|other| other == tag);
        // No site's own tag has a tilde.
        let numbered = (2_u32..).map(|n| format!("{tag}~{n}"));
        std::iter::once(tag.clone()).chain(numbered).find(|tag| !taken(tag)).unwrap_or(tag)
    }
}

/// The name with everything replaced that TensorBoard or a path could take amiss.
pub(super) fn sanitized(site: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    let tag: String = site.chars().map(|c| if kept(c) { c } else { '_' }).collect();
    // TensorBoard groups by what stands before the first slash.
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
