//! What the gateway announces to clients in `Ping`.

use cofferdam_wire::moby::buildkit::v1::apicaps::APICap;

/// Capabilities of the gateway itself; LLB's own are [`cofferdam_graph::CAPABILITIES`].
const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.exec.filesystem",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
    "source.metaresolver.image.attestations",
];

/// Capabilities LLB knows and this builder does not have (yet); announcing them would make
/// clients rely on them.
const ABSENT: &[&str] = &[
    "cache.gha",
    "cache.azblob",
    "exec.meta.network.proxy",
    "source.git.signatureverify",
    "source.http.signatureverify",
];

fn capability(id: &str) -> APICap {
    APICap { ID: id.to_owned(), Enabled: true, ..APICap::default() }
}

/// The gateway's capabilities.
pub(super) fn gateway() -> Vec<APICap> {
    GATEWAY.iter().map(|id| capability(id)).collect()
}

/// LLB's capabilities.
pub(super) fn llb() -> Vec<APICap> {
    cofferdam_graph::CAPABILITIES
        .iter()
        .filter(|id| !ABSENT.contains(id))
        .map(|id| capability(id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_gets_announced_and_nothing_else() {
        let announced: Vec<String> = llb().into_iter().map(|cap| cap.ID).collect();
        for there in ["cache.s3", "exec.meta.cdi", "history.filter", "source.imageblob"] {
            assert!(announced.iter().any(|id| id == there), "{there}");
        }
        for id in ABSENT {
            assert!(cofferdam_graph::CAPABILITIES.contains(id), "{id} has no need to be left out");
            assert!(!announced.iter().any(|announced| announced == id), "{id}");
        }
    }
}
