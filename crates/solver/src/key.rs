//! How keys are made.
//!
//! One function makes definition keys and content keys, over the same fields, so that they are
//! equal whenever they say the same. A version tag keeps results of other rules apart.

use cofferdam_digest::{Digest, Digester};

/// To be changed with the meaning of any field.
const VERSION: &str = "cofferdam.solver.key.v1";

/// How an input takes part in a key.
pub(crate) enum Part {
    /// As a whole or in a named part: whatever has this name.
    Named {
        /// Identity or definition key.
        name: Digest,
        /// Which output.
        output: usize,
        /// Which part of it.
        selector: Option<Digest>,
    },
    /// By what is in it, wherever it comes from.
    Content(Digest),
}

/// The key of an op over its inputs.
pub(crate) fn key(op: Digest, parts: impl IntoIterator<Item = Part>) -> Digest {
    let mut digester = Digester::new();
    digester.field(VERSION);
    digester.field(op.as_bytes());
    for part in parts {
        match part {
            Part::Named { name, output, selector } => {
                digester.field("named");
                digester.field(name.as_bytes());
                digester.field((output as u64).to_le_bytes());
                digester.field(selector.as_ref().map_or(&[][..], |selector| selector.as_bytes()));
            }
            Part::Content(digest) => {
                digester.field("content");
                digester.field(digest.as_bytes());
            }
        }
    }
    digester.finish()
}

/// The identity of a result that no other build may find.
pub(crate) fn volatile(op: Digest) -> Digest {
    let mut digester = Digester::new();
    digester.field(VERSION);
    digester.field("volatile");
    digester.field(op.as_bytes());
    digester.finish()
}

/// The name under which a vertex is shared between jobs. It tells apart not only whether the
/// vertex ignores the cache but whether anything below it does, as that decides what it yields.
pub(crate) fn shared(digest: Digest, ignore_cache: bool, inputs: &[(Digest, Digest)]) -> Digest {
    let plain = !ignore_cache && inputs.iter().all(|(digest, shared)| digest == shared);
    if plain {
        return digest;
    }
    let mut digester = Digester::new();
    digester.field("ignorecache");
    digester.field(digest.as_bytes());
    digester.field([u8::from(ignore_cache)]);
    for (_, shared) in inputs {
        digester.field(shared.as_bytes());
    }
    digester.finish()
}

/// What a job calls a vertex that it holds both with and without the cache.
pub(crate) fn display_twin(digest: Digest) -> Digest {
    Digest::of(format!("{digest}-ignorecache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, output: usize, selector: Option<&str>) -> Part {
        Part::Named { name: Digest::of(name), output, selector: selector.map(Digest::of) }
    }

    #[test]
    fn every_field_matters() {
        let op = Digest::of("op");
        let keys = [
            key(op, []),
            key(Digest::of("other"), []),
            key(op, [named("a", 0, None)]),
            key(op, [named("a", 1, None)]),
            key(op, [named("a", 0, Some("s"))]),
            key(op, [named("b", 0, None)]),
            key(op, [Part::Content(Digest::of("a"))]),
            key(op, [named("a", 0, None), named("b", 0, None)]),
            key(op, [named("b", 0, None), named("a", 0, None)]),
            volatile(op),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(index + 1).all(|other| other != one), "{index}");
        }
    }

    #[test]
    fn sharing_follows_the_cache_flags_below() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        assert_eq!(shared(a, false, &[(b, b)]), a);
        let forced = shared(b, true, &[]);
        assert_ne!(forced, b);
        let above = shared(a, false, &[(b, forced)]);
        assert_ne!(above, a);
        assert_ne!(above, shared(a, true, &[(b, forced)]));
    }
}
