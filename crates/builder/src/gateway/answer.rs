//! What frontends answer, here and on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_wire::moby::buildkit::v1::frontend as wire;

use super::bridge::{Bridge, Reference};
use crate::attest::{self, Promised};
use crate::failure::Failure;

/// A frontend's answer: references instead of files.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    /// References by platform, or the only one.
    pub(crate) refs: AnswerRefs,
    /// Metadata.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    /// What is stated about the results, by platform.
    pub(crate) attestations: BTreeMap<String, Vec<Promised>>,
}

impl Answer {
    /// Whether there is a result for each platform.
    pub(crate) const fn is_map(&self) -> bool {
        matches!(self.refs, AnswerRefs::Map(_))
    }

    /// The graph for a platform; a single one is every platform's.
    pub(crate) fn reference_for(&self, platform: &str) -> Option<Arc<Reference>> {
        match &self.refs {
            AnswerRefs::Single(reference) => reference.clone(),
            AnswerRefs::Map(map) => map.iter().find(|(id, _)| id == platform)?.1.clone(),
        }
    }

    /// The graphs of results.
    pub(crate) fn results(&self) -> impl Iterator<Item = Arc<Reference>> {
        let results: Vec<Arc<Reference>> = match &self.refs {
            AnswerRefs::Single(reference) => reference.iter().cloned().collect(),
            AnswerRefs::Map(map) => map.iter().filter_map(|(_, one)| one.clone()).collect(),
        };
        results.into_iter()
    }

    /// Every graph of the answer, those of attestations too.
    pub(crate) fn references(&self) -> impl Iterator<Item = Arc<Reference>> {
        let stated = self.attestations.values().flatten().filter_map(|one| one.content.clone());
        self.results().chain(stated)
    }
}

/// The references of an answer.
#[derive(Clone)]
pub(crate) enum AnswerRefs {
    /// One; `None` is scratch.
    Single(Option<Arc<Reference>>),
    /// One per platform id.
    Map(Vec<(String, Option<Arc<Reference>>)>),
}

impl Default for AnswerRefs {
    fn default() -> Self {
        Self::Single(None)
    }
}

/// The answer on the wire.
pub(crate) fn to_wire(answer: &Answer) -> wire::FrontendResult {
    use wire::__buffa::oneof::frontend_result::Result as Kind;
    let reference = |reference: &Option<Arc<Reference>>| match reference {
        Some(reference) => wire::Ref {
            id: reference.id.clone(),
            def: buffa::MessageField::some(reference.definition.clone()),
            ..wire::Ref::default()
        },
        None => wire::Ref::default(),
    };
    let result = match &answer.refs {
        AnswerRefs::Single(single) => Kind::from(reference(single)),
        AnswerRefs::Map(map) => {
            let refs = map.iter().map(|(id, single)| (id.clone(), reference(single))).collect();
            Kind::from(wire::RefMap { refs, ..wire::RefMap::default() })
        }
    };
    wire::FrontendResult {
        result: Some(result),
        metadata: answer.metadata.clone().into_iter().collect(),
        attestations: answer
            .attestations
            .iter()
            .map(|(platform, list)| {
                let attestation = list.iter().map(attest::to_wire).collect();
                (platform.clone(), wire::Attestations { attestation, ..Default::default() })
            })
            .collect(),
        ..wire::FrontendResult::default()
    }
}

impl Bridge {
    /// The answer a client returned.
    pub(crate) fn accept(&self, result: wire::FrontendResult) -> Result<Answer, Failure> {
        use wire::__buffa::oneof::frontend_result::Result as Kind;
        let refs = match result.result {
            None => AnswerRefs::Single(None),
            Some(Kind::RefDeprecated(id)) => AnswerRefs::Single(self.find(&id)?),
            Some(Kind::Ref(reference)) => AnswerRefs::Single(self.find(&reference.id)?),
            Some(Kind::RefsDeprecated(map)) => AnswerRefs::Map(
                map.refs
                    .iter()
                    .map(|(key, id)| Ok((key.clone(), self.find(id)?)))
                    .collect::<Result<_, Failure>>()?,
            ),
            Some(Kind::Refs(map)) => AnswerRefs::Map(
                map.refs
                    .iter()
                    .map(|(key, reference)| Ok((key.clone(), self.find(&reference.id)?)))
                    .collect::<Result<_, Failure>>()?,
            ),
        };
        let attestations = attest::from_wire(result.attestations, |id| self.find(id))?;
        Ok(Answer { refs, metadata: result.metadata.into_iter().collect(), attestations })
    }
}
