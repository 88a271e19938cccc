//! Attestations of frontends on the wire of the gateway.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use cofferdam_provenance::Subject;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;

use super::{About, Attestation, Promised};
use crate::failure::Failure;
use crate::gateway::bridge::Reference;

/// Attestations one result may have: a few for each platform.
const MAX_ATTESTATIONS: usize = 1_000;
/// Subjects all of them may have.
const MAX_SUBJECTS: usize = 100_000;

/// What a client returned; `find` knows its references.
pub(crate) fn from_wire<S: BuildHasher>(
    all: HashMap<String, wire::Attestations, S>,
    find: impl Fn(&str) -> Result<Option<Arc<Reference>>, Failure>,
) -> Result<BTreeMap<String, Vec<Promised>>, Failure> {
    let count: usize = all.values().map(|list| list.attestation.len()).sum();
    if count > MAX_ATTESTATIONS {
        return Err(Failure::invalid("the result has too many attestations"));
    }
    let subjects = all.values().flat_map(|list| &list.attestation);
    let subjects = subjects.map(|attestation| attestation.inTotoSubjects.len());
    if subjects.fold(0, usize::saturating_add) > MAX_SUBJECTS {
        return Err(Failure::invalid("the result's attestations have too many subjects"));
    }
    let mut promised = BTreeMap::new();
    for (platform, list) in all {
        let read = list.attestation.into_iter().map(|attestation| read(attestation, &find));
        promised.insert(platform, read.collect::<Result<_, _>>()?);
    }
    Ok(promised)
}

fn read(
    attestation: wire::Attestation,
    find: impl Fn(&str) -> Result<Option<Arc<Reference>>, Failure>,
) -> Result<Promised, Failure> {
    let content = match attestation.r#ref.as_option() {
        Some(reference) => find(&reference.id)?,
        None => None,
    };
    Ok(Attestation {
        bundle: attestation.kind == wire::AttestationKind::Bundle,
        metadata: attestation.metadata.into_iter().collect(),
        path: attestation.path,
        predicate_type: attestation.inTotoPredicateType,
        subjects: attestation.inTotoSubjects.into_iter().map(subject).collect(),
        content,
    })
}

fn subject(subject: wire::InTotoSubject) -> About {
    if subject.kind == wire::InTotoSubjectKind::Self_ {
        return About::Result(subject.name);
    }
    let digests = subject.digest.iter().filter_map(|digest| digest.split_once(':'));
    About::Other(Subject {
        name: subject.name,
        digest: digests.map(|(kind, hex)| (kind.to_owned(), hex.to_owned())).collect(),
    })
}

/// What a frontend answered.
pub(crate) fn to_wire(promised: &Promised) -> wire::Attestation {
    let reference = promised.content.as_ref().map(|reference| wire::Ref {
        id: reference.id.clone(),
        def: buffa::MessageField::some(reference.definition.clone()),
        ..wire::Ref::default()
    });
    let kind = match promised.bundle {
        true => wire::AttestationKind::Bundle,
        false => wire::AttestationKind::InToto,
    };
    wire::Attestation {
        kind: kind.into(),
        metadata: promised.metadata.clone().into_iter().collect(),
        r#ref: reference.map_or_else(buffa::MessageField::none, buffa::MessageField::some),
        path: promised.path.clone(),
        inTotoPredicateType: promised.predicate_type.clone(),
        inTotoSubjects: promised.subjects.iter().map(subject_to_wire).collect(),
        ..wire::Attestation::default()
    }
}

fn subject_to_wire(about: &About) -> wire::InTotoSubject {
    match about {
        About::Result(name) => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Self_.into(),
            name: name.clone(),
            ..wire::InTotoSubject::default()
        },
        About::Other(subject) => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Raw.into(),
            name: subject.name.clone(),
            digest: subject.digest.iter().map(|(kind, hex)| format!("{kind}:{hex}")).collect(),
            ..wire::InTotoSubject::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_all_attestations_are_counted() {
        let attestation = |subjects: usize| wire::Attestation {
            inTotoSubjects: vec![wire::InTotoSubject::default(); subjects],
            ..wire::Attestation::default()
        };
        let result = |counts: [usize; 2]| {
            let list = wire::Attestations {
                attestation: counts.map(attestation).into(),
                ..wire::Attestations::default()
            };
            let all = HashMap::from([("linux/amd64".to_owned(), list)]);
            from_wire(all, |_| Ok(None)).is_ok()
        };
        assert!(result([1, 1]));
        assert!(!result([MAX_SUBJECTS, 1]));
    }
}
