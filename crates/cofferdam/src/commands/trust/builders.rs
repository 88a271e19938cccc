//! The builder images that this user trusts and denies. No server has a say in it.

use anyhow::Context;
use cofferdam_buildpacks::{KNOWN_BUILDERS, TrustEntry, TrustFile};
use serde::Serialize;

use crate::terminal::{Listing, note};
use crate::trusted;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    /// What it is known by: the entry itself.
    pub(super) id: String,
    /// What kind of trust it is.
    pub(super) provider: Provider,
}

/// Trust in a builder, in the shape of a trust policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Provider {
    kind: &'static str,
    trust: &'static str,
}

impl Line {
    fn new(id: String, trust: &'static str) -> Self {
        Self { id, provider: Provider { kind: "builder", trust } }
    }

    /// Cells of a table of policies.
    pub(super) fn row(&self) -> Vec<String> {
        vec![self.id.clone(), self.provider.kind.to_owned(), self.provider.trust.to_owned()]
    }
}

/// An entry as people write it.
pub(super) fn entry(image: &str) -> anyhow::Result<TrustEntry> {
    TrustEntry::parse(image).with_context(|| format!("{image:?} names no image"))
}

/// Trusts a builder.
pub(super) fn add(image: &str) -> anyhow::Result<()> {
    change(image, TrustFile::add, "is trusted", "is trusted already")
}

/// Denies a builder.
pub(super) fn deny(image: &str) -> anyhow::Result<()> {
    change(image, TrustFile::deny, "is denied", "is denied already")
}

fn change(
    image: &str,
    change: impl FnOnce(&mut TrustFile, TrustEntry) -> bool,
    done: &str,
    was: &str,
) -> anyhow::Result<()> {
    let entry = entry(image)?;
    let path = trusted::path()?;
    let mut file = trusted::load(&path)?;
    if change(&mut file, entry.clone()) {
        trusted::store(&path, &file)?;
        note(&format!("{entry} {done}."));
    } else {
        note(&format!("{entry} {was}."));
    }
    Ok(())
}

/// Forgets an entry; says whether there was one.
pub(super) fn remove(text: &str) -> anyhow::Result<bool> {
    // An id of a policy may look like an image, too: only what is in the file counts.
    let (Ok(entry), Ok(path)) = (TrustEntry::parse(text), trusted::path()) else {
        return Ok(false);
    };
    let mut file = trusted::load(&path)?;
    let removed = file.remove(&entry);
    if removed {
        trusted::store(&path, &file)?;
        note(&format!("{entry} is neither trusted nor denied by you any more."));
    }
    Ok(removed)
}

/// Everything in the file, and known builders when they are wanted.
pub(super) fn lines(file: &TrustFile, with_known: bool) -> Vec<Line> {
    let trusted = file.trusted.iter().map(|entry| Line::new(entry.to_string(), "trusted"));
    let denied = file.denied.iter().map(|entry| Line::new(entry.to_string(), "denied"));
    let known = KNOWN_BUILDERS.iter().filter(|_| with_known);
    let known = known.filter_map(|known| TrustEntry::parse(known).ok());
    let known = known.map(|entry| {
        let denied = file.denied.iter().any(|denied| covers(denied, &entry));
        Line::new(entry.to_string(), if denied { "known, denied" } else { "known" })
    });
    trusted.chain(denied).chain(known).collect()
}

/// Whether an entry is about everything that another one is about.
fn covers(wide: &TrustEntry, narrow: &TrustEntry) -> bool {
    let (wide, narrow) = (&wide.name, &narrow.name);
    wide.repository() == narrow.repository()
        && (wide.tag.is_none() || wide.tag == narrow.tag)
        && (wide.digest.is_none() || wide.digest == narrow.digest)
}

/// Lists builders alone.
pub(super) fn list(json: bool) -> anyhow::Result<()> {
    let lines = lines(&trusted::of_this_user()?, true);
    let mut listing = Listing::new(json, &["ID", "PROVIDER", "WHOM"]);
    listing.add(&lines, Line::row)?;
    listing.finish("No builder is trusted.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_have_everything_marked() {
        let mut file = TrustFile::default();
        file.add(entry("r.example/b").unwrap());
        file.deny(entry("heroku/builder:24").unwrap());
        let own = lines(&file, false);
        let rows: Vec<Vec<String>> = own.iter().map(Line::row).collect();
        assert_eq!(rows[0], ["r.example/b", "builder", "trusted"]);
        assert_eq!(rows[1], ["docker.io/heroku/builder:24", "builder", "denied"]);
        let all = lines(&file, true);
        assert_eq!(all.len(), own.len() + KNOWN_BUILDERS.len());
        let heroku = |line: &&Line| line.id == "docker.io/heroku/builder:24";
        assert_eq!(all.iter().rfind(heroku).unwrap().provider.trust, "known, denied");
        file.deny(entry("paketobuildpacks/builder-jammy-base").unwrap());
        file.deny(entry("heroku/builder").unwrap());
        let denied = lines(&file, true);
        let denied = denied.iter().filter(|line| line.provider.trust == "known, denied");
        assert_eq!(denied.count(), 5, "every tag of a repository");
        let json = serde_json::to_value(&own[0]).unwrap();
        assert_eq!(
            (&json["provider"]["kind"], &json["id"]),
            (&"builder".into(), &"r.example/b".into())
        );
        assert!(entry("no image").is_err());
    }
}
