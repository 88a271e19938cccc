//! Importing a cache: its records and where their layers are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use bytes::Bytes;
use chrono::DateTime;
use cofferdam_digest::Digest;
use cofferdam_image::registry::Repository;
use cofferdam_image::{
    Descriptor, Document, ImageConfig, Index, Manifest, Platform, Reference, media,
};
use cofferdam_session::Session;
use cofferdam_solver::{VertexLog, Warning};
use futures::{FutureExt, StreamExt};

use super::config::{CacheConfig, CacheLayer, MAX_RECORDS, MEDIA_TYPE};
use super::registry::CachePlace;
use super::s3::{self, Bucket};
use crate::context::Context;
use crate::export::flag;
use crate::failure::Failure;
use crate::source::image::SessionBlobs;
use crate::source::layers::{BlobSource, RemoteLayer, RemoteLayers};

/// Largest config of a cache manifest.
const MAX_CONFIG: u64 = 64 << 20;
/// Most images of an index that are asked for a cache; real ones have one for each platform.
const MAX_IMAGES: usize = 64;
/// Layers that a cache is asked for at once.
const PARALLEL_QUESTIONS: usize = 8;
/// Where an image's config keeps an inline cache.
const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// A cache that was read.
pub(crate) struct ImportedCache {
    /// Of each image that has some.
    records: Vec<Records>,
    blobs: Blobs,
    name: String,
    /// Digest of what lists its layers.
    id: Digest,
    /// Layers that were asked for, and whether they are there.
    asked: Mutex<HashMap<Digest, bool>>,
}

/// Where the layers of a cache are.
enum Blobs {
    /// In a registry, where it matters who asks.
    Registry(Arc<CachePlace>),
    /// Somewhere that only its importer can name.
    Other(Arc<dyn BlobSource>),
}

/// What a client wants imported.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ImportRequest {
    /// `registry`, `local` or `s3`.
    pub(crate) kind: String,
    /// Its attributes. Those of `s3` may hold keys: they are never shown.
    pub(crate) attrs: BTreeMap<String, String>,
}

impl std::fmt::Debug for ImportRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?}", self.kind, s3::shown(&self.attrs))
    }
}

/// A cache as frontend attributes name it.
#[derive(serde::Deserialize)]
pub(super) struct ListedImport {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    #[serde(rename = "Attrs", default)]
    pub(super) attrs: BTreeMap<String, String>,
}

impl ImportRequest {
    /// How progress names the cache.
    pub(crate) fn name(&self) -> String {
        match self.attrs.get("ref") {
            Some(reference) => reference.clone(),
            None => {
                let digest = Digest::of(format!("{:?}", s3::shown(&self.attrs)));
                format!("{}:{}", self.kind, &digest.hex()[..12])
            }
        }
    }
}

impl ImportedCache {
    /// The output stored under `key`, its layers not yet fetched, and the key it had first.
    pub(crate) fn find(
        &self,
        context: &Context,
        key: &Digest,
        output: usize,
        log: &VertexLog,
    ) -> Option<(Digest, RemoteLayers)> {
        if context.spoilt.knows(&self.name, self.id) {
            return None;
        }
        let name_of_output = output_key(key, output);
        let found = self.records.iter().find_map(|records| records.find(&name_of_output));
        let (identity, layers) = found?;
        let blobs = match &self.blobs {
            Blobs::Registry(place) => place.layers(log),
            Blobs::Other(blobs) => Arc::clone(blobs),
        };
        let name = format!("imported from {}", self.name);
        let layers = RemoteLayers::new(context, blobs, layers, name, log.clone());
        Some((identity.unwrap_or(*key), layers.of_cache(&self.name, self.id, &context.spoilt)))
    }

    /// Whether all of `layers` are here or still where the cache has them, in the size it says. Those that are not are
    /// told once.
    pub(super) async fn has(&self, layers: &RemoteLayers, log: &VertexLog) -> bool {
        let mut questions = Vec::new();
        for remote in layers.absent() {
            questions.push(self.has_layer(layers, remote, log).boxed());
        }
        let answers = futures::stream::iter(questions).buffered(PARALLEL_QUESTIONS);
        answers.collect::<Vec<bool>>().await.into_iter().all(|there| there)
    }

    async fn has_layer(&self, layers: &RemoteLayers, remote: RemoteLayer, log: &VertexLog) -> bool {
        let digest = remote.descriptor.digest;
        // Held for these layers only, so that it says nothing about what others are told.
        if layers.has_packed(&remote) {
            return true;
        }
        let asked = || self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asked().get(&digest).copied();
        if let Some(known) = known {
            return known;
        }
        let there = layers.is_offered(&remote).await;
        let before = asked().insert(digest, there);
        if !there && before.is_none() {
            let short = format!("{} has lost layer {digest}: its steps run again", self.name);
            log.warning(Warning {
                level: 1,
                short: Bytes::from(short),
                detail: Vec::new(),
                url: String::new(),
                info: None,
                ranges: Vec::new(),
            });
        }
        there
    }

    /// Reads the cache that `request` names.
    pub(crate) async fn load(
        context: &Arc<Context>,
        request: &ImportRequest,
        sessions: &[String],
    ) -> Result<Self, Failure> {
        let cache = match request.kind.as_str() {
            "registry" => Self::from_registry(context, request, sessions).await?,
            "local" => Self::from_client(context, request, sessions).await?,
            "s3" => Self::from_bucket(request).await?,
            other => return Err(Failure::invalid(format!("unknown cache importer: {other:?}"))),
        };
        if context.spoilt.knows(&cache.name, cache.id) {
            let reason = "an earlier build found a layer of it that is not what it says";
            return Err(Failure::unknown(format!("{} is left out: {reason}", cache.name)));
        }
        Ok(cache)
    }

    fn new(records: Vec<Records>, blobs: Blobs, name: String, id: Digest) -> Self {
        Self { records, blobs, name, id, asked: Mutex::default() }
    }

    async fn from_registry(
        context: &Arc<Context>,
        request: &ImportRequest,
        sessions: &[String],
    ) -> Result<Self, Failure> {
        let text = request
            .attrs
            .get("ref")
            .ok_or_else(|| Failure::invalid("registry cache importer needs a ref"))?;
        let reference = Reference::parse(text).map_err(Failure::of)?;
        let insecure = flag(&request.attrs, "registry.insecure")?.unwrap_or(false);
        let place = CachePlace::new(context, &reference, insecure, sessions)?;
        let repository = place.repository();
        let fetched = repository.fetch(&reference.target()).await.map_err(Failure::of)?;
        let id = fetched.descriptor.digest;
        let records = match fetched.document {
            Document::Manifest(manifest) if manifest.config.media_type == MEDIA_TYPE => {
                let bytes = blob(&repository, &manifest.config).await?;
                vec![Records::new(parse(&bytes)?, &manifest.layers)]
            }
            Document::Manifest(manifest) => vec![inline(&repository, &manifest).await?],
            Document::Index(index) => {
                let config = index.manifests.iter().find(|entry| entry.media_type == MEDIA_TYPE);
                match config {
                    Some(config) => {
                        let bytes = blob(&repository, config).await?;
                        vec![Records::new(parse(&bytes)?, &index.manifests)]
                    }
                    None => inline_of_index(&repository, &index).await?,
                }
            }
        };
        Ok(Self::new(records, Blobs::Registry(place), text.clone(), id))
    }

    async fn from_bucket(request: &ImportRequest) -> Result<Self, Failure> {
        let bucket = Bucket::new(&request.attrs)?;
        let name = request.name();
        let bytes = bucket.config(MAX_CONFIG).await?;
        let id = Digest::of(bytes.as_deref().unwrap_or_default());
        let records = match bytes {
            Some(bytes) => {
                let config = parse(&bytes)?;
                let layers = described(&config);
                vec![Records::new(config, &layers)]
            }
            None => Vec::new(),
        };
        Ok(Self::new(records, Blobs::Other(Arc::new(bucket)), name, id))
    }

    async fn from_client(
        context: &Arc<Context>,
        request: &ImportRequest,
        sessions: &[String],
    ) -> Result<Self, Failure> {
        let attr = |key: &str| {
            request
                .attrs
                .get(key)
                .cloned()
                .ok_or_else(|| Failure::invalid(format!("local cache importer requires {key}")))
        };
        let (source, digest) = (attr("src")?, attr("digest")?);
        let digest = Digest::parse(&digest).map_err(Failure::of)?;
        let open = |session: Arc<Session>| {
            let blobs = SessionBlobs::new(session, format!("local:{source}"));
            async move {
                let bytes = blobs.small(&digest, cofferdam_image::MAX_DOCUMENT).await?;
                Ok((blobs, bytes))
            }
            .boxed()
        };
        let (blobs, bytes) = context.any_session(sessions, open).await?;
        let (config, layers) = match Document::parse(&bytes, None).map_err(Failure::of)? {
            Document::Manifest(manifest) => (Some(manifest.config), manifest.layers),
            Document::Index(index) => {
                let found = index.manifests.iter().find(|entry| entry.media_type == MEDIA_TYPE);
                (found.cloned(), index.manifests)
            }
        };
        let config = config
            .filter(|config| config.media_type == MEDIA_TYPE)
            .ok_or_else(|| Failure::invalid(format!("{source} holds no build cache")))?;
        let bytes = blobs.small(&config.digest, MAX_CONFIG).await?;
        let records = vec![Records::new(parse(&bytes)?, &layers)];
        Ok(Self::new(records, Blobs::Other(Arc::new(blobs)), source, digest))
    }
}

/// The key of one output of a record: the record's own for the first.
pub(super) fn output_key(key: &Digest, output: usize) -> Digest {
    if output == 0 { *key } else { Digest::of(format!("{key}@{output}")) }
}

fn parse(bytes: &[u8]) -> Result<CacheConfig, Failure> {
    let config: CacheConfig = serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("malformed build cache: {error}")))?;
    if config.records.len() > MAX_RECORDS {
        return Err(Failure::invalid("build cache has too many records"));
    }
    Ok(config)
}

async fn blob(repository: &Repository, descriptor: &Descriptor) -> Result<Bytes, Failure> {
    repository.small_blob(descriptor).await.map_err(Failure::of)
}

/// Records, and what describes their layers. The layers of one are put together when it is found: all of them together may be far
/// more than the config that was read.
struct Records {
    config: CacheConfig,
    descriptors: HashMap<Digest, Descriptor>,
    by_key: HashMap<Digest, usize>,
}

impl Records {
    fn new(config: CacheConfig, descriptors: &[Descriptor]) -> Self {
        let descriptors =
            descriptors.iter().map(|descriptor| (descriptor.digest, descriptor.clone())).collect();
        let records = config.records.iter().enumerate();
        let by_key = records.map(|(index, record)| (record.digest, index)).collect();
        Self { config, descriptors, by_key }
    }

    /// The layers of a record if each of them is described completely, and the key it had first.
    fn find(&self, key: &Digest) -> Option<(Option<Digest>, Vec<RemoteLayer>)> {
        let record = self.config.records.get(*self.by_key.get(key)?)?;
        let chain = self.config.chain(record)?;
        let layers = chain.into_iter().map(|layer| self.layer(layer)).collect::<Option<_>>()?;
        Some((record.identity, layers))
    }

    fn layer(&self, layer: &CacheLayer) -> Option<RemoteLayer> {
        let annotations = layer.annotations.as_ref()?;
        let mut descriptor = self.descriptors.get(&layer.blob?)?.clone();
        if !media::is_layer(&descriptor.media_type) {
            descriptor.media_type = annotations.media_type.clone();
        }
        let (diff_id, created) = (annotations.diff_id?, annotations.created_at);
        Some(RemoteLayer { descriptor, diff_id, created })
    }
}

/// Descriptors of a config's layers by what it says of them itself.
fn described(config: &CacheConfig) -> Vec<Descriptor> {
    let describe = |layer: &CacheLayer| {
        let known = layer.annotations.as_ref()?;
        Some(Descriptor::new(&known.media_type, layer.blob?, known.size))
    };
    config.layers.iter().filter_map(describe).collect()
}

/// An inline cache: records in the image's config, about the image's own layers.
async fn inline(repository: &Repository, manifest: &Manifest) -> Result<Records, Failure> {
    let bytes = blob(repository, &manifest.config).await?;
    let config = ImageConfig::parse(&bytes).map_err(Failure::of)?;
    let Some(encoded) = config.extra.get(INLINE_KEY).and_then(|value| value.as_str()) else {
        return Err(Failure::unknown("the image holds no build cache"));
    };
    let json = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|error| Failure::invalid(format!("malformed inline cache: {error}")))?;
    let mut cache = parse(&json)?;
    let diff_ids = &config.rootfs.diff_ids;
    // The history has an entry for each layer, among others.
    let mut history = config.history.iter().filter(|entry| !entry.empty_layer);
    for ((layer, descriptor), diff_id) in
        cache.layers.iter_mut().zip(&manifest.layers).zip(diff_ids)
    {
        let created = history.next().and_then(|entry| entry.created.as_deref());
        let created = created.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        layer.blob = Some(descriptor.digest);
        layer.annotations = Some(super::config::LayerAnnotations {
            media_type: descriptor.media_type.clone(),
            diff_id: Some(*diff_id),
            size: descriptor.size,
            created_at: created.map(|time| time.to_utc()),
        });
    }
    Ok(Records::new(cache, &manifest.layers))
}

/// The inline caches of all images of an index: a build may be for several platforms.
async fn inline_of_index(repository: &Repository, index: &Index) -> Result<Vec<Records>, Failure> {
    let mut found = Vec::new();
    let images = index.manifests.iter().filter(|entry| {
        let attestation = entry.platform.as_ref().is_some_and(Platform::is_unknown);
        media::is_manifest(&entry.media_type) && !attestation
    });
    let mut trouble = Failure::unknown("the image holds no build cache");
    for entry in images.take(MAX_IMAGES) {
        let fetched = repository.document(entry).await.map_err(Failure::of)?;
        let Document::Manifest(manifest) = fetched.document else { continue };
        match inline(repository, &manifest).await {
            Ok(records) => found.push(records),
            Err(failure) => trouble = failure,
        }
    }
    if found.is_empty() { Err(trouble) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> CacheConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_record_is_found_with_its_layers_if_all_of_them_are_described() {
        let (lower, upper) = (Digest::of("lower"), Digest::of("upper"));
        let (whole, partial) = (Digest::of("whole"), Digest::of("partial"));
        let known =
            format!(r#"{{"mediaType":"{}","diffID":"{lower}","size":1}}"#, media::OCI_LAYER);
        let config = config(&format!(
            r#"{{"layers":[{{"blob":"{lower}","parent":-1,"annotations":{known}}},
                          {{"blob":"{upper}","parent":0,"annotations":{known}}}],
                "records":[{{"digest":"{whole}","layers":[{{"layer":0}}]}},
                           {{"digest":"{partial}","identity":"{whole}","layers":[{{"layer":1}}]}}]}}"#
        ));
        let all = described(&config);
        let records = Records::new(config.clone(), &all[..1]);
        let (identity, layers) = records.find(&whole).unwrap();
        assert_eq!((identity, layers.len()), (None, 1));
        assert_eq!(layers[0].descriptor.digest, lower);
        assert!(records.find(&partial).is_none());
        assert!(records.find(&lower).is_none());
        let (identity, layers) = Records::new(config, &all).find(&partial).unwrap();
        assert_eq!(identity, Some(whole));
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.descriptor.digest).collect();
        assert_eq!(digests, [lower, upper]);
    }
}
