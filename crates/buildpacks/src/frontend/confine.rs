//! What a Dockerfile of an extension may make of a build.
//!
//! Extensions come from strangers, and the Dockerfile frontend serves whoever has a session: it mounts
//! secrets and agents, shares cache mounts with other builds, pulls images and clones repositories with
//! the client's credentials. None of that is an extension's to ask for. What counts is the graph and
//! not the text: a check of text and a parser may disagree.

use std::collections::HashSet;

use buffa::Message as _;
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op;

/// Why a graph is refused; `None` for one that only uses what it was given (`inputs`).
pub(super) fn refusal<'a>(
    graph: &pb::Definition,
    inputs: impl Iterator<Item = &'a pb::Definition>,
) -> Option<String> {
    let given: HashSet<&[u8]> = inputs.flat_map(|input| &input.def).map(Vec::as_slice).collect();
    let added = graph.def.iter().filter(|op| !given.contains(op.as_slice()));
    added.filter_map(|bytes| op(bytes)).next()
}

fn op(bytes: &[u8]) -> Option<String> {
    let Ok(op) = pb::Op::decode_from_slice(bytes) else {
        return Some("has an operation that cannot be read".to_owned());
    };
    match op.op {
        Some(Op::Exec(exec)) => self::exec(&exec),
        Some(Op::Source(source)) => self::source(&source),
        // The last of a definition has no operation: it names the target.
        None | Some(Op::File(_) | Op::Merge(_) | Op::Diff(_)) => None,
        Some(_) => Some("has an operation that extensions may not use".to_owned()),
    }
}

fn exec(exec: &pb::ExecOp) -> Option<String> {
    if !exec.secretenv.is_empty() {
        return Some("may not mount a secret".to_owned());
    }
    exec.mounts.iter().find_map(|mount| {
        let what = match mount.mountType.as_known() {
            Some(pb::MountType::BIND | pb::MountType::TMPFS) => return None,
            Some(pb::MountType::SECRET) => "a secret",
            Some(pb::MountType::SSH) => "an SSH agent",
            Some(pb::MountType::CACHE) => "a cache, which other builds share",
            None => "what is not known",
        };
        Some(format!("may not mount {what}"))
    })
}

/// Only what anybody can download: everything else is got with the client's credentials.
fn source(source: &pb::SourceOp) -> Option<String> {
    let address = source.identifier.as_str();
    let public = address.starts_with("https://") || address.starts_with("http://");
    let plain = |name: &String| !name.contains("auth") && !name.starts_with("http.header.");
    let allowed = public && source.attrs.keys().all(plain);
    (!allowed).then(|| {
        let shown: String = address.chars().take(200).collect();
        format!("may not use {shown:?}: only its base and public addresses")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(op: impl Into<Op>) -> Vec<u8> {
        pb::Op { op: Some(op.into()), ..Default::default() }.encode_to_vec()
    }

    fn of(def: Vec<Vec<u8>>) -> pb::Definition {
        pb::Definition { def, ..Default::default() }
    }

    fn from(identifier: &str) -> Vec<u8> {
        bytes(pb::SourceOp { identifier: identifier.to_owned(), ..Default::default() })
    }

    fn mounts(kind: pb::MountType) -> Vec<u8> {
        let mount = pb::Mount { mountType: kind.into(), ..Default::default() };
        bytes(pb::ExecOp { mounts: vec![mount], ..Default::default() })
    }

    #[test]
    fn only_what_was_given_and_public_addresses_are_used() {
        let base = from("docker-image://r.example/base@sha256:00");
        let given = of(vec![base.clone()]);
        let judge = |op: Vec<u8>| refusal(&of(vec![base.clone(), op]), [&given].into_iter());
        for fine in [
            mounts(pb::MountType::BIND),
            mounts(pb::MountType::TMPFS),
            from("https://example.com/file"),
            bytes(pb::FileOp::default()),
            pb::Op::default().encode_to_vec(),
        ] {
            assert_eq!(judge(fine), None);
        }
        let mut header = pb::SourceOp { identifier: "https://x/".to_owned(), ..Default::default() };
        header.attrs.insert("http.authheadersecret".to_owned(), "token".to_owned());
        let secret = pb::SecretEnv { ID: "x".to_owned(), ..Default::default() };
        for refused in [
            mounts(pb::MountType::SECRET),
            mounts(pb::MountType::SSH),
            mounts(pb::MountType::CACHE),
            from("docker-image://r.example/private"),
            from("git://example.com/private.git"),
            from("local://context"),
            from("oci-layout://x"),
            bytes(header),
            bytes(pb::ExecOp { secretenv: vec![secret], ..Default::default() }),
            vec![0xff; 3],
        ] {
            assert!(judge(refused).is_some());
        }
    }
}
