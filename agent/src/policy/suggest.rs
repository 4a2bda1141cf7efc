//! What was probably meant.

/// The candidate most like `word`, if one is like it at all: a letter in three may be wrong, and letters may be swapped.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_alike_is_suggested() {
        let keys = ["read", "write", "exec", "deny"];
        assert_eq!(closest("raed", keys), Some("read"));
        assert_eq!(closest("wirte", keys), Some("write"));
        assert_eq!(closest("sockets", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
