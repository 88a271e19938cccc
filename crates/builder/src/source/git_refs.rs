//! Which object a reference of a repository names, decided from what `git ls-remote` lists, and what
//! a build may demand of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cofferdam_digest::Digest;

use crate::failure::Failure;

/// References that one build remembers; more are asked for each time.
const MAX_NAMES: usize = 10_000;

/// What references named when a build first asked, by digests of the questions.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<Digest, Named>>);

impl Names {
    /// What was answered before.
    pub(super) fn get(&self, question: &Digest) -> Option<Named> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned()
    }

    /// Remembers an answer, unless there is one.
    pub(super) fn keep(&self, question: Digest, named: &Named) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_NAMES || known.contains_key(&question) {
            known.entry(question).or_insert_with(|| named.clone());
        }
    }
}

/// What a reference names now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The whole name of the reference; the commit where only that is known.
    pub(crate) reference: String,
    /// What it points to: a commit or an annotated tag.
    pub(crate) object: String,
    /// The commit that an annotated tag stands for.
    pub(crate) tagged: Option<String>,
}

impl Named {
    /// A commit that is known by itself.
    pub(super) fn commit_of(reference: &str, commit: &str) -> Self {
        let commit = commit.to_ascii_lowercase();
        let reference = if reference.is_empty() { commit.clone() } else { reference.to_owned() };
        Self { reference, object: commit, tagged: None }
    }

    /// The commit.
    pub(crate) fn commit(&self) -> &str {
        self.tagged.as_deref().unwrap_or(&self.object)
    }

    /// Refuses what does not begin with the digits that a build expects.
    pub(super) fn check(&self, expected: &str) -> Result<(), Failure> {
        let fits = |found: &str| found.starts_with(expected);
        if fits(&self.object) || self.tagged.as_deref().is_some_and(fits) {
            return Ok(());
        }
        let or = self.tagged.as_ref().map(|tagged| format!(" or {tagged}")).unwrap_or_default();
        let found = &self.object;
        Err(Failure::unknown(format!("expected checksum to match {expected}, got {found}{or}")))
    }
}

/// Whether `text` is a whole commit hash, of either kind.
pub(super) fn is_commit(text: &str) -> bool {
    (text.len() == 40 || text.len() == 64) && is_hex(text)
}

/// Whether `text` could begin a commit hash.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What `wanted` names in a listing. As for `git checkout`, a branch wins over a tag of the same name;
/// the empty name is the default branch.
pub(super) fn choose(listing: &str, wanted: &str) -> Option<Named> {
    let lines: Vec<(&str, &str)> =
        listing.lines().filter_map(|line| line.split_once('\t')).collect();
    let find = |name: &str| {
        let found = lines.iter().find(|(object, listed)| *listed == name && is_commit(object));
        found.map(|(object, _)| (*object).to_owned())
    };
    if wanted.is_empty() || wanted == "HEAD" {
        let target = lines.iter().find_map(|(target, listed)| {
            target.strip_prefix("ref: ").filter(|_| *listed == "HEAD")
        });
        let reference = target.unwrap_or("HEAD").to_owned();
        return Some(Named { reference, object: find("HEAD")?, tagged: None });
    }
    let short = wanted.strip_prefix("refs/").unwrap_or(wanted);
    let branch = short.strip_prefix("heads/").unwrap_or(short);
    let tag = format!("refs/tags/{}", short.strip_prefix("tags/").unwrap_or(short));
    let others = [format!("refs/{short}"), format!("refs/heads/{branch}")];
    let other = others.into_iter().filter(|name| *name != tag);
    for reference in other {
        if let Some(object) = find(&reference) {
            return Some(Named { reference, object, tagged: None });
        }
    }
    let object = find(&tag)?;
    let tagged = find(&format!("{tag}^{{}}"));
    Some(Named { reference: tag, object, tagged })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hash(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn branches_win_over_tags_and_tags_are_followed() {
        let listing = format!(
            "{}\trefs/heads/both\n{}\trefs/tags/both\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n",
            hash('a'),
            hash('b'),
            hash('c'),
            hash('d'),
        );
        let both = choose(&listing, "both").unwrap();
        assert_eq!((both.reference.as_str(), both.commit()), ("refs/heads/both", &*hash('a')));
        for name in ["v1", "tags/v1", "refs/tags/v1"] {
            let tag = choose(&listing, name).unwrap();
            assert_eq!(tag.reference, "refs/tags/v1");
            assert_eq!((&tag.object, tag.commit()), (&hash('c'), &*hash('d')));
            assert!(tag.check(&hash('c')).is_ok() && tag.check("dddd").is_ok());
            assert!(tag.check("ab").unwrap_err().message().contains("expected checksum to match"));
        }
        assert_eq!(choose(&listing, "gone"), None);
    }

    #[test]
    fn the_first_answer_of_a_build_stays() {
        let (names, question) = (Names::default(), Digest::of("question"));
        assert_eq!(names.get(&question), None);
        let first = Named::commit_of("refs/heads/main", &hash('a'));
        names.keep(question, &first);
        names.keep(question, &Named::commit_of("refs/heads/main", &hash('b')));
        assert_eq!(names.get(&question), Some(first));
        assert_eq!(names.get(&Digest::of("another")), None);
    }

    #[test]
    fn the_default_branch_is_told_by_name() {
        let listing = format!("ref: refs/heads/trunk\tHEAD\n{}\tHEAD\n", hash('e'));
        let found = choose(&listing, "").unwrap();
        assert_eq!((found.reference.as_str(), found.commit()), ("refs/heads/trunk", &*hash('e')));
    }

    #[test]
    fn what_is_listed_is_only_believed_when_it_is_a_hash() {
        assert_eq!(choose("--upload-pack=x\trefs/heads/main\n", "main"), None);
        assert_eq!(choose("", ""), None);
    }
}
