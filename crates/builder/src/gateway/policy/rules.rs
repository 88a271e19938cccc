//! The rules of a build about sources, and the one name of each source that they are asked about.
//!
//! A source can be written in many ways. Here it gets the one that rules are written for, together with what makes that be fetched
//! and nothing else. What has two readings is refused. Must never look anything up, and never show the user and password of a URL.

use cofferdam_image::Reference as ImageReference;
use cofferdam_sourcepolicy::{Policies, PolicyError};
use cofferdam_wire::moby::buildkit::v1::sourcepolicy as policy;
use cofferdam_wire::pb;

use crate::blocking::blocking;
use crate::failure::Failure;
use crate::source::git_address::{self, FULL_URL};

/// Scheme of images in registries.
pub(super) const IMAGE: &str = "docker-image://";
/// Scheme of single blobs in registries.
const BLOB: &str = "docker-image+blob://";
/// How often a source that the rules converted is judged again under its new name.
const MAX_ROUNDS: usize = 10;
/// Policies that one request of a frontend may bring.
const MAX_POLICIES: usize = 100;

/// The rules of a build, or of one request within it.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    compiled: Policies,
    /// The session whose client decides, as it is called in this builder.
    pub(super) session: Option<String>,
}

impl Rules {
    /// Rules that come with a build.
    pub(crate) async fn new(
        given: Option<policy::Policy>,
        session: Option<String>,
    ) -> Result<Self, Failure> {
        Self { session, ..Self::default() }.and(given.into_iter().collect()).await
    }

    /// The same rules and then others.
    pub(super) async fn and(mut self, more: Vec<policy::Policy>) -> Result<Self, Failure> {
        if more.is_empty() {
            return Ok(self);
        }
        if more.len() > MAX_POLICIES {
            return Err(Failure::invalid(format!("more than {MAX_POLICIES} source policies")));
        }
        let known = self.compiled.clone();
        let compiled = blocking(move || known.and(&more)).await?;
        self.compiled = compiled.map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(self)
    }

    /// Whether every source may be used.
    pub(super) fn is_empty(&self) -> bool {
        self.compiled.is_empty() && self.session.is_none()
    }

    /// Applies the rules until they have nothing more to say about the source under the one name that it has. Returns the URL to
    /// use, where that has a user or password in it which the name has not.
    pub(super) async fn judge(&self, source: &mut pb::SourceOp) -> Result<Option<String>, Failure> {
        let mut private = normalize(source)?;
        if self.compiled.is_empty() {
            return Ok(private);
        }
        for _ in 0..MAX_ROUNDS {
            let before = source.clone();
            if !self.apply(source).await? {
                return Ok(private);
            }
            forget_moved(&before, source);
            let found = normalize(source)?;
            // A user and password are for the place that they came with.
            if found.is_some() || source.identifier != before.identifier {
                private = found;
            }
            if is_same(source, &before) {
                return Ok(private);
            }
        }
        Err(Failure::unknown("too many mutations on a single source: too many operations"))
    }

    /// Applies the rules off the async threads: there may be many, and the name may be long.
    async fn apply(&self, source: &mut pb::SourceOp) -> Result<bool, Failure> {
        let (compiled, mut asked) = (self.compiled.clone(), source.clone());
        let (changed, asked) = blocking(move || {
            let changed = ask(&compiled, &mut asked);
            (changed, asked)
        })
        .await?;
        *source = asked;
        changed.map_err(|error| Failure::unknown(error.to_string()))
    }
}

/// Asks about a source by its name, and about the repository of one user also by the name with that user: nobody who lets a path be
/// used means everybody's own. What is refused by either name is refused.
fn ask(compiled: &Policies, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
    if compiled.apply(source)? {
        return Ok(true);
    }
    let Some(own) = own_name(source) else { return Ok(false) };
    let common = std::mem::replace(&mut source.identifier, own.clone());
    let changed = compiled.apply(source)?;
    if source.identifier == own {
        source.identifier = common;
    }
    Ok(changed)
}

/// The name with its user of a repository that may be theirs alone.
fn own_name(source: &pb::SourceOp) -> Option<String> {
    let rest = source.identifier.strip_prefix("git://")?;
    let user = git_address::address(source, rest).ok()?.user?;
    Some(format!("git://{user}@{rest}"))
}

/// Whether both name the same in the same way.
pub(super) fn is_same(one: &pb::SourceOp, other: &pb::SourceOp) -> bool {
    one.identifier == other.identifier && one.attrs == other.attrs
}

/// Removes the address of a repository that is not wanted any more.
pub(super) fn forget_moved(before: &pb::SourceOp, source: &mut pb::SourceOp) {
    let kept = source.attrs.get(FULL_URL) == before.attrs.get(FULL_URL);
    if kept && source.identifier != before.identifier {
        source.attrs.remove(FULL_URL);
    }
}

/// Gives a source the name that rules are written for. Returns the URL to use, where that has a user or password in it.
fn normalize(source: &mut pb::SourceOp) -> Result<Option<String>, Failure> {
    if source.identifier.chars().any(char::is_control) {
        return Err(Failure::invalid("invalid source identifier: a control character"));
    }
    if let Some(name) = source.identifier.strip_prefix(IMAGE) {
        if let Ok(reference) = ImageReference::parse(name) {
            source.identifier = format!("{IMAGE}{reference}");
        }
    } else if let Some(name) = source.identifier.strip_prefix(BLOB) {
        if let Ok(reference) = ImageReference::parse_name(name) {
            source.identifier = format!("{BLOB}{reference}");
        }
    } else if let Some(rest) = source.identifier.strip_prefix("git://") {
        let address = git_address::address(source, rest)?;
        let fragment = rest.split_once('#').map_or("", |(_, fragment)| fragment);
        let (commit, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let directory = crate::rooted::clean(directory);
        let directory = directory.trim_start_matches('/');
        let mut name = format!("git://{}", address.place);
        if !commit.is_empty() || !directory.is_empty() {
            name.push_str(&format!("#{commit}"));
        }
        if !directory.is_empty() {
            name.push_str(&format!(":{directory}"));
        }
        source.identifier = name;
        source.attrs.insert(FULL_URL.to_owned(), address.url);
    } else if ["http://", "https://"].iter().any(|scheme| source.identifier.starts_with(scheme)) {
        let mut url = download(&source.identifier)?;
        let whole = url.to_string();
        // Neither fails for what has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        source.identifier = url.into();
        return Ok(Some(whole).filter(|whole| *whole != source.identifier));
    }
    Ok(None)
}

/// The address of a download in its one spelling.
fn download(identifier: &str) -> Result<url::Url, Failure> {
    let invalid = |reason: &str| Failure::invalid(format!("invalid URL: {reason}"));
    let url = url::Url::parse(identifier);
    let mut url = url.map_err(|error| invalid(&error.to_string()))?;
    // No server gets to see it.
    url.set_fragment(None);
    let path = git_address::canonical(url.path());
    url.set_path(&path.ok_or_else(|| invalid("a % that encodes nothing"))?);
    // The second name that every host has in the DNS.
    if url.host_str().is_none_or(|host| host.is_empty() || host.ends_with('.')) {
        return Err(invalid("a host that is none"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn source(identifier: &str) -> pb::SourceOp {
        pb::SourceOp { identifier: identifier.to_owned(), ..Default::default() }
    }

    fn normal(identifier: &str) -> String {
        let mut source = source(identifier);
        normalize(&mut source).unwrap();
        source.identifier
    }

    #[test]
    fn sources_have_one_name_each() {
        let busybox = "docker-image://docker.io/library/busybox:latest";
        for name in ["docker-image://busybox", "docker-image://docker.io/busybox:latest", busybox] {
            assert_eq!(normal(name), busybox);
        }
        let digest = cofferdam_digest::Digest::of("blob");
        let blob = format!("docker-image+blob://docker.io/library/busybox@{digest}");
        assert_eq!(normal(&format!("docker-image+blob://busybox@{digest}")), blob);
        assert_eq!(normal("git://host/r.git#main:../a/./b"), "git://host/r.git#main:a/b");
        assert_eq!(normal("git://HOST:443/r.git#main:/"), "git://host/r.git#main");
        for address in ["https://user@real/r.git", "ssh://git@REAL:22/r.git", "git@real:r.git"] {
            let mut source = source("git://nice/r.git#v1");
            source.attrs.insert(FULL_URL.to_owned(), address.to_owned());
            normalize(&mut source).unwrap();
            assert_eq!(source.identifier, "git://real/r.git#v1");
        }
        for url in [
            "https://host/x",
            "https://HOST:443/a/../x",
            "https://host\\x#fragment",
            "https://host/%78",
            "https://user:password@host/x",
        ] {
            assert_eq!(normal(url), "https://host/x", "{url}");
        }
    }

    #[test]
    fn what_was_judged_is_what_is_fetched() {
        let mut repository = source("git://nice/r.git");
        repository.attrs.insert(FULL_URL.to_owned(), "https://u:p@REAL/%72".to_owned());
        assert_eq!(normalize(&mut repository).unwrap(), None);
        assert_eq!(repository.attrs[FULL_URL], "https://u:p@real/r");
        let before = repository.clone();
        assert_eq!(normalize(&mut repository).unwrap(), None);
        assert!(is_same(&repository, &before), "it has that name for good");
        let mut plain = source("git://HOST/my%20r");
        normalize(&mut plain).unwrap();
        assert_eq!(plain.attrs[FULL_URL], "https://host/my%20r");
        let whole = normalize(&mut source("https://u:p@HOST/x")).unwrap();
        assert_eq!(whole.as_deref(), Some("https://u:p@host/x"));
    }

    #[test]
    fn names_with_two_readings_are_refused() {
        for identifier in [
            "https://host/a\nb",
            "https://host./x",
            "https://host/%zz",
            "https://",
            "git://good@evil@good/r",
            "git://good?@evil/r",
            "docker-image://a\u{7f}",
        ] {
            assert!(normalize(&mut source(identifier)).is_err(), "{identifier:?} was accepted");
        }
    }

    fn rules(selector: &str, kind: policy::MatchType, into: Option<&str>) -> policy::Policy {
        let update = |identifier: &str| policy::Update {
            identifier: identifier.to_owned(),
            ..Default::default()
        };
        let rule = policy::Rule {
            action: match into {
                Some(_) => policy::PolicyAction::CONVERT.into(),
                None => policy::PolicyAction::DENY.into(),
            },
            selector: buffa::MessageField::some(policy::Selector {
                identifier: selector.to_owned(),
                match_type: kind.into(),
                ..Default::default()
            }),
            updates: into.map(update).map_or_else(Default::default, buffa::MessageField::some),
            ..Default::default()
        };
        policy::Policy { rules: vec![rule], ..Default::default() }
    }

    #[tokio::test]
    async fn what_a_rule_puts_in_place_is_judged_by_its_own_name() {
        use policy::MatchType::{EXACT, WILDCARD};
        let given = rules("https://a/*", WILDCARD, Some("https://BAD/x"));
        let deny = rules("https://bad/*", WILDCARD, None);
        let both = Rules::new(Some(given), None).await.unwrap().and(vec![deny]).await.unwrap();
        let failure = both.judge(&mut source("https://a/x")).await.unwrap_err();
        assert!(failure.message().contains("denied by policy"), "{failure}");

        // A password is not sent to the place that a rule names, and stays with its own.
        let pin = rules("https://a/x", EXACT, Some("https://b/x"));
        let pinned = Rules::new(Some(pin), None).await.unwrap();
        let mut moved = source("https://u:p@a/x");
        assert_eq!(pinned.judge(&mut moved).await.unwrap(), None);
        assert_eq!(moved.identifier, "https://b/x");
        let mut other = source("https://u:p@a/y");
        assert_eq!(pinned.judge(&mut other).await.unwrap().as_deref(), Some("https://u:p@a/y"));
        // A repository is then fetched from where the rule says.
        let moving = rules("git://a/r", EXACT, Some("git://b/r"));
        let moving = Rules::new(Some(moving), None).await.unwrap();
        let mut repository = source("git://x/r");
        repository.attrs.insert(FULL_URL.to_owned(), "git@a:r".to_owned());
        moving.judge(&mut repository).await.unwrap();
        assert_eq!(repository.attrs[FULL_URL], "https://b/r");
    }

    #[tokio::test]
    async fn repositories_of_two_users_are_told_apart() {
        use policy::MatchType::{EXACT, WILDCARD};
        let repository = |url: &str| {
            let mut repository = source("git://x/r");
            repository.attrs.insert(FULL_URL.to_owned(), url.to_owned());
            repository
        };
        let only = |identifier: &str| {
            let mut all = rules("*", WILDCARD, None);
            let mut one = rules(identifier, EXACT, None).rules;
            one[0].action = policy::PolicyAction::ALLOW.into();
            all.rules.append(&mut one);
            all
        };
        let common = Rules::new(Some(only("git://a/r")), None).await.unwrap();
        for url in ["git@a:r", "ssh://a/r", "https://alice@a/r"] {
            assert!(common.judge(&mut repository(url)).await.is_ok(), "{url}");
        }
        let failure = common.judge(&mut repository("ssh://alice:secret@a/r")).await.unwrap_err();
        assert!(failure.message().contains("git://alice@a/r"), "{failure}");
        assert!(!failure.message().contains("secret"), "{failure}");

        let mut both = only("git://a/r");
        both.rules.append(&mut only("git://alice@a/r").rules.split_off(1));
        let both = Rules::new(Some(both), None).await.unwrap();
        let mut judged = repository("alice@a:r");
        assert!(both.judge(&mut judged).await.is_ok());
        assert_eq!(
            (judged.identifier.as_str(), &*judged.attrs[FULL_URL]),
            ("git://a/r", "alice@a:r")
        );
        assert!(both.judge(&mut repository("bob@a:r")).await.is_err());

        // No user is a way around a rule about the path, and one user's may be replaced.
        let none = Rules::new(Some(rules("git://a/*", WILDCARD, None)), None).await.unwrap();
        assert!(none.judge(&mut repository("alice@a:r")).await.is_err());
        let moving = rules("git://alice@a/r", EXACT, Some("git://b/r"));
        let moving = Rules::new(Some(moving), None).await.unwrap();
        let mut moved = repository("alice@a:r");
        moving.judge(&mut moved).await.unwrap();
        assert_eq!(moved.attrs[FULL_URL], "https://b/r");
        let mut stays = repository("bob@a:r");
        moving.judge(&mut stays).await.unwrap();
        assert_eq!(stays.attrs[FULL_URL], "bob@a:r");
    }
}
