//! What a running build's record is told by those who make results.
//!
//! Exporters and whoever attests get at the recording of their build with `Context::recording_of(job)`:
//!
//! * [`Recording::keep`] puts a document (manifest, config, statement) into the store, where the Content service finds it as long as
//!   the record exists, and gives its descriptor; [`Recording::hold`] does the same for a blob that is in the store already.
//! * [`Recording::result`] says what exporter `index` made.
//! * [`Recording::attestation`] attaches a statement about one platform's result.
//!
//! A build that is not recorded has a recording that takes everything and keeps nothing, so nobody has to ask first. What is told
//! after the build has ended is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buffa::MessageField;
use cofferdam_image::Descriptor;
use cofferdam_store::{Blob, Store};
use cofferdam_wire::moby::buildkit::v1 as wire;

use crate::blocking::blocking;
use crate::failure::Failure;

/// The media type of statements.
pub(crate) const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The annotation that says what a statement is about.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Blobs of one record: an image of a hundred platforms with attestations has fewer.
const MAX_BLOBS: usize = 2000;

/// A running build's record; the default is none.
#[derive(Clone, Default)]
pub(crate) struct Recording(Option<Arc<Open>>);

struct Open {
    store: Arc<Store>,
    made: Mutex<Made>,
}

/// What a build has made.
#[derive(Default)]
pub(super) struct Made {
    results: BTreeMap<i64, wire::Descriptor>,
    /// By platform id; the empty one is the result that is no platform's.
    attestations: BTreeMap<String, Vec<wire::Descriptor>>,
    /// What is kept with the record.
    pub(super) blobs: Vec<Blob>,
}

impl Recording {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self(Some(Arc::new(Open { store, made: Mutex::default() })))
    }

    fn made(&self) -> Option<MutexGuard<'_, Made>> {
        self.0.as_ref().map(|open| open.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anything is kept, for those to whom making it is work.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Stores a document, to be kept with the record, and describes it.
    pub(crate) async fn keep(
        &self,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<Descriptor, Failure> {
        let descriptor = Descriptor::of(media_type, &bytes);
        if let Some(open) = &self.0 {
            let store = Arc::clone(&open.store);
            let blob = blocking(move || super::logs::store_bytes(&store, &bytes)).await??;
            self.hold(blob);
        }
        Ok(descriptor)
    }

    /// Keeps a blob of the store with the record.
    pub(crate) fn hold(&self, blob: Blob) {
        if let Some(mut made) = self.made()
            && made.blobs.len() < MAX_BLOBS
        {
            made.blobs.push(blob);
        }
    }

    /// Says what exporter `index` of the request made. What the descriptor names is kept separately.
    pub(crate) fn result(&self, index: usize, descriptor: &Descriptor) {
        if let (Some(mut made), Ok(index)) = (self.made(), i64::try_from(index)) {
            made.results.insert(index, to_wire(descriptor));
        }
    }

    /// Attaches a statement of `predicate_type` about the result of `platform` (its id as in the result's metadata; empty for a
    /// result that is no platform's). The statement was stored by [`Recording::keep`], as [`IN_TOTO`].
    pub(crate) fn attestation(
        &self,
        platform: &str,
        predicate_type: &str,
        descriptor: &Descriptor,
    ) {
        let Some(mut made) = self.made() else { return };
        if made.attestations.values().map(Vec::len).sum::<usize>() >= MAX_BLOBS {
            return;
        }
        let mut descriptor = to_wire(descriptor);
        descriptor.annotations.insert(PREDICATE_TYPE.to_owned(), predicate_type.to_owned());
        made.attestations.entry(platform.to_owned()).or_default().push(descriptor);
    }

    /// Takes what was told so far.
    pub(super) fn take(&self) -> Made {
        self.made().map(|mut made| std::mem::take(&mut *made)).unwrap_or_default()
    }
}

impl Made {
    /// Puts results and attestations into a record.
    pub(super) fn fill(&mut self, record: &mut wire::BuildHistoryRecord) {
        let mut attestations = std::mem::take(&mut self.attestations);
        let of_single = attestations.remove("");
        if !self.results.is_empty() || of_single.is_some() {
            let first = self.results.values().next().cloned();
            record.Result = MessageField::some(wire::BuildResultInfo {
                ResultDeprecated: first.map_or_else(MessageField::none, MessageField::some),
                Attestations: of_single.unwrap_or_default(),
                Results: std::mem::take(&mut self.results).into_iter().collect(),
                ..wire::BuildResultInfo::default()
            });
        }
        record.Results = attestations
            .into_iter()
            .map(|(platform, list)| {
                (platform, wire::BuildResultInfo { Attestations: list, ..Default::default() })
            })
            .collect();
    }
}

pub(super) fn to_wire(descriptor: &Descriptor) -> wire::Descriptor {
    wire::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone().into_iter().collect(),
        ..wire::Descriptor::default()
    }
}
