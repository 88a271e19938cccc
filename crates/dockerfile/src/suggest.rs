//! Suggestions for misspelt names.

use std::fmt;

/// Edits at which two names no longer look alike.
const TOO_FAR: usize = 3;

/// The closest of `options` at an edit distance below three; `None` also when `value` itself
/// is among them, since then the spelling is not the problem.
#[must_use]
pub fn suggest<'a>(value: &str, options: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut best = None;
    let mut nearest = TOO_FAR;
    for option in options {
        if option == value {
            return None;
        }
        if let Some(distance) = distance_below(value, option, nearest) {
            nearest = distance;
            best = Some(option.to_owned());
        }
    }
    best
}

/// Like [`suggest`] for upper-case `options`, whatever the case of `value`; the suggestion is
/// in lower case when `value` is.
pub(crate) fn suggest_any_case<'a>(
    value: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let best = suggest(&value.to_uppercase(), options)?;
    let is_lower = value.chars().all(|character| !character.is_uppercase());
    Some(if is_lower { best.to_lowercase() } else { best })
}

/// The edit distance, when it is below `limit`. Two rows of the usual table; lengths that
/// differ by `limit` or more are never compared, so the cost is bounded by `options`.
fn distance_below(left: &str, right: &str, limit: usize) -> Option<usize> {
    if left.len().abs_diff(right.len()) >= limit * 4 {
        return None;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (position, left) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(row.first_mut()?, position + 1);
        let mut before = position + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(&right) {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = *cell;
            before = substituted.min(*cell + 1).min(before + 1);
            *cell = before;
        }
    }
    row.last().copied().filter(|distance| *distance < limit)
}

/// The end of an error message: ` (did you mean x?)` or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DidYouMean(pub Option<String>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(option) => write!(formatter, " (did you mean {option}?)"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_near_names() {
        let options = ["mount", "network", "security"];
        assert_eq!(suggest("mont", options).as_deref(), Some("mount"));
        assert_eq!(suggest("mount", options), None);
        assert_eq!(suggest("nothing", options), None);
        assert_eq!(suggest("tmp", ["bind", "tmpfs"]).as_deref(), Some("tmpfs"));
        assert_eq!(suggest_any_case("coppy", ["COPY"]).as_deref(), Some("copy"));
        assert_eq!(suggest_any_case("RUNN", ["RUN"]).as_deref(), Some("RUN"));
        assert_eq!(suggest(&"x".repeat(1 << 20), options), None);
    }
}
