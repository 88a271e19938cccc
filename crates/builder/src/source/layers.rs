//! Layers of an image or an imported cache: fetched when somebody looks at files.
//!
//! Each layer is found by its chain id or fetched, verified (compressed digest, size and
//! uncompressed digest) and unpacked into a layer of the store. Layers do not depend on each
//! other on disk, so they are fetched and unpacked side by side.

use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use cofferdam_image::layer::{self, ApplyOptions};
use cofferdam_image::{Descriptor, Reference, chain_ids};
use cofferdam_solver::{Status, VertexLog};
use cofferdam_store::{Blob, BlobWriter, Layer, LayerBlob, RecordType, Store};
use connectrpc::ErrorCode;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::held::Held;
use crate::blocking::blocking;
use crate::cache::Spoilt;
use crate::context::Context;
use crate::failure::Failure;
use crate::online::Online;
use crate::pieces::{Absent, Piece, Pieces};
use crate::snapshot::Snapshot;
use crate::turns::Turns;

/// How often progress of one download is reported, in bytes.
const REPORT_EVERY: u64 = 4 << 20;

/// The bytes of a blob.
pub(crate) type BlobStream = BoxStream<'static, Result<Bytes, Failure>>;

/// Where blobs come from.
#[async_trait]
pub(crate) trait BlobSource: Send + Sync {
    /// The bytes of a blob from `offset` on; unverified.
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Failure>;

    /// Whether a blob is still there in its size, as far as that can be found out without reading it.
    async fn has(&self, descriptor: &Descriptor) -> bool {
        let _ = descriptor;
        true
    }

    /// The repository of a registry that has a blob, when it comes from one.
    fn place(&self, descriptor: &Descriptor) -> Option<Reference> {
        let _ = descriptor;
        None
    }
}

/// The layers of one tree, bottom first.
pub(crate) struct RemoteLayers {
    store: Arc<Store>,
    fetches: Arc<Turns>,
    blobs: Arc<dyn BlobSource>,
    layers: Vec<RemoteLayer>,
    name: String,
    log: VertexLog,
    online: Arc<Online>,
    /// What was seen here, so that it still is when it is wanted.
    held: Held,
    /// The cache they are of, and where it is noted that it holds something else.
    cache: Option<(String, Digest, Arc<Spoilt>)>,
}

/// One layer as an image or a cache describes it.
#[derive(Debug, Clone)]
pub(crate) struct RemoteLayer {
    /// What to fetch.
    pub(crate) descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// When it was made, where that is known: images made of it say so.
    pub(crate) created: Option<DateTime<Utc>>,
}

impl RemoteLayers {
    /// Layers, bottom first, of which none is fetched yet.
    pub(crate) fn new(
        context: &Context,
        blobs: Arc<dyn BlobSource>,
        layers: Vec<RemoteLayer>,
        name: String,
        log: VertexLog,
    ) -> Self {
        let (store, fetches) = (Arc::clone(&context.store), Arc::clone(&context.fetches));
        let online = Arc::clone(&context.online);
        let held = Held::default();
        Self { store, fetches, online, blobs, layers, name, log, held, cache: None }
    }

    /// The same, of a cache that is left out from then on when a layer is not what it says.
    #[must_use]
    pub(crate) fn of_cache(self, source: &str, cache: Digest, spoilt: &Arc<Spoilt>) -> Self {
        Self { cache: Some((source.to_owned(), cache, Arc::clone(spoilt))), ..self }
    }

    /// The layers that are not on this disk. Those that are stay there as long as this lives.
    pub(crate) fn absent(&self) -> Vec<RemoteLayer> {
        let layers = self.layers.iter().zip(self.chain());
        let absent = layers.filter(|(_, chain)| self.held.layer(&self.store, chain).is_none());
        absent.map(|(remote, _)| remote.clone()).collect()
    }

    /// The layers as far as they are on this disk, and descriptions of the others.
    pub(crate) fn pieces(self: &Arc<Self>) -> Pieces {
        let piece = |(remote, chain_id): (&RemoteLayer, Digest)| match self
            .held
            .layer(&self.store, &chain_id)
        {
            Some(layer) => Piece::Here(layer),
            None => {
                let absent = Absent::new(remote.clone(), chain_id, Arc::clone(self));
                Piece::There(Arc::new(absent))
            }
        };
        Pieces::new(self.layers.iter().zip(self.chain()).map(piece).collect())
    }

    fn chain(&self) -> Vec<Digest> {
        chain_ids(&self.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>())
    }

    /// Reports that fetching began.
    pub(crate) fn started(&self) {
        self.log.start();
    }

    /// Reports that fetching ended.
    pub(crate) fn ended(&self, failure: Option<&Failure>) {
        match failure {
            Some(failure) => self.log.fail(failure.message()),
            None => self.log.complete(),
        }
    }

    /// The repository that has a layer.
    pub(crate) fn place(&self, remote: &RemoteLayer) -> Option<Reference> {
        self.blobs.place(&remote.descriptor)
    }

    /// Whether a layer can still be had. One that is here stays here as long as this lives.
    pub(crate) async fn has(&self, remote: &RemoteLayer) -> bool {
        self.has_packed(remote) || self.is_offered(remote).await
    }

    /// Whether a packed layer is here; it stays here then as long as this lives.
    pub(crate) fn has_packed(&self, remote: &RemoteLayer) -> bool {
        self.held.blob(&self.store, &remote.descriptor.digest)
    }

    /// Whether a layer is still where it was.
    pub(crate) async fn is_offered(&self, remote: &RemoteLayer) -> bool {
        self.blobs.has(&remote.descriptor).await
    }

    /// A packed layer as it comes: unverified and not kept.
    pub(crate) async fn stream(
        &self,
        remote: &RemoteLayer,
        offset: u64,
    ) -> Result<BlobStream, Failure> {
        self.blobs.open(&remote.descriptor, offset).await
    }

    /// A packed layer, fetched when it is not here.
    pub(crate) async fn blob(&self, remote: &RemoteLayer) -> Result<Blob, Failure> {
        let _turn = self.fetches.take(remote.descriptor.digest).await;
        self.fetch(&remote.descriptor).await
    }

    async fn fetch(&self, descriptor: &Descriptor) -> Result<Blob, Failure> {
        let mut fetched = self.fetch_once(descriptor, false).await;
        let is_wrong = |failure: &Failure| failure.code() == ErrorCode::DataLoss;
        if self.cache.is_some() && fetched.as_ref().is_err_and(is_wrong) {
            // A transfer may spoil what the cache has right: once more, and from nothing.
            fetched = self.fetch_once(descriptor, true).await;
        }
        fetched.map_err(|failure| self.judged(&descriptor.digest, failure))
    }

    async fn fetch_once(&self, descriptor: &Descriptor, anew: bool) -> Result<Blob, Failure> {
        let fetch = fetch_from(&self.store, &*self.blobs, descriptor, &self.log, anew);
        self.online.during(&self.log, &self.name, fetch).await
    }

    /// A failure at a layer. A cache that holds another one than it says has spoken of what it has not: the step was
    /// left out for it, and runs in the next build.
    fn judged(&self, layer: &Digest, failure: Failure) -> Failure {
        match &self.cache {
            Some((source, cache, spoilt)) if failure.code() == ErrorCode::DataLoss => {
                spoilt.note(source, *cache);
                let attempt = format!("layer {layer}, {}, is not what the cache says", self.name);
                failure.during(&attempt).because("build again, and the cache is left out")
            }
            _ => failure,
        }
    }

    /// A layer, fetched and unpacked when it is not here.
    pub(crate) async fn layer(
        &self,
        remote: &RemoteLayer,
        chain_id: Digest,
    ) -> Result<Layer, Failure> {
        // By blob: the same one may be part of two chains.
        let _turn = self.fetches.take(remote.descriptor.digest).await;
        let descriptor = &remote.descriptor;
        if let Some(layer) = self.store.layer_by_chain_id(&chain_id) {
            return Ok(layer);
        }
        let digest = descriptor.digest;
        let blob = self.fetch(descriptor).await?;
        let extracting = Status::begin(format!("extracting {digest}"), "extract".to_owned());
        self.log.status(extracting.clone());
        let mut unpacked = self.unpacked(blob, remote, chain_id).await;
        if unpacked.is_err() && self.is_rotten(digest).await {
            let blob = self.fetch(descriptor).await?;
            unpacked = self.unpacked(blob, remote, chain_id).await;
        }
        let layer = unpacked.map_err(|failure| self.judged(&digest, failure))?;
        self.log.status(extracting.done());
        Ok(layer)
    }

    async fn unpacked(
        &self,
        blob: Blob,
        remote: &RemoteLayer,
        chain_id: Digest,
    ) -> Result<Layer, Failure> {
        let (store, name) = (Arc::clone(&self.store), self.name.clone());
        let RemoteLayer { descriptor, diff_id, created } = remote.clone();
        blocking(move || {
            let layer = unpack(&store, &blob, &descriptor.media_type, diff_id, &name)?;
            store.set_layer_blob(&layer, layer_blob(&descriptor, diff_id));
            store.set_layer_chain_id(&layer, chain_id);
            if let Some(created) = created {
                store.set_layer_created_at(&layer, created);
            }
            Ok(layer)
        })
        .await?
    }

    /// Whether the disk changed a packed layer since it came; the store has it no more then.
    async fn is_rotten(&self, digest: Digest) -> bool {
        let store = Arc::clone(&self.store);
        matches!(blocking(move || store.check_blob(&digest)).await, Ok(Ok(false)))
    }
}

impl From<RemoteLayers> for Snapshot {
    fn from(layers: RemoteLayers) -> Self {
        Self::joined(Arc::new(layers).pieces())
    }
}

fn layer_blob(descriptor: &Descriptor, diff_id: Digest) -> LayerBlob {
    LayerBlob {
        digest: descriptor.digest,
        size: descriptor.size,
        media_type: descriptor.media_type.clone(),
        diff_id,
        annotations: Default::default(),
    }
}

/// Brings a blob to this store, continuing what an earlier attempt left.
pub(crate) async fn fetch(
    store: &Arc<Store>,
    blobs: &dyn BlobSource,
    descriptor: &Descriptor,
    log: &VertexLog,
) -> Result<Blob, Failure> {
    fetch_from(store, blobs, descriptor, log, false).await
}

/// The same; `anew` leaves alone what came of an earlier attempt.
async fn fetch_from(
    store: &Arc<Store>,
    blobs: &dyn BlobSource,
    descriptor: &Descriptor,
    log: &VertexLog,
    anew: bool,
) -> Result<Blob, Failure> {
    if let Some(blob) = store.blob(&descriptor.digest) {
        return Ok(blob);
    }
    let opener = Arc::clone(store);
    let (digest, size) = (descriptor.digest, descriptor.size);
    let mut writer: BlobWriter =
        blocking(move || opener.resume_blob(&digest, size)).await?.map_err(Failure::store)?;
    if anew {
        writer.restart().map_err(Failure::store)?;
    }
    let total = i64::try_from(size).unwrap_or(i64::MAX);
    let status = Status::begin(digest.to_string(), "downloading");
    let mut offset = writer.offset();
    let mut reported = offset;
    log.status(status.clone().at(i64::try_from(offset).unwrap_or(0), total));
    let mut stream = blobs.open(descriptor, offset).await?;
    while let Some(chunk) = stream.try_next().await? {
        offset += chunk.len() as u64;
        writer = blocking(move || {
            use std::io::Write;
            writer.write_all(&chunk).map(|()| writer)
        })
        .await?
        .map_err(Failure::store)?;
        if offset - reported >= REPORT_EVERY {
            reported = offset;
            log.status(status.clone().at(i64::try_from(offset).unwrap_or(total), total));
        }
    }
    let blob = blocking(move || writer.commit()).await?.map_err(Failure::store)?;
    log.status(Status { name: "done".into(), ..status.at(total, total).done() });
    Ok(blob)
}

fn unpack(
    store: &Arc<Store>,
    blob: &Blob,
    media_type: &str,
    diff_id: Digest,
    name: &str,
) -> Result<Layer, Failure> {
    let active = store.new_layer(name, RecordType::Regular).map_err(Failure::store)?;
    let directory = active.open().map_err(Failure::store)?;
    let ids = store.ids();
    let to_disk = move |id: u32| ids.to_disk(id);
    let options = ApplyOptions { ids: &to_disk, ..ApplyOptions::default() };
    // The blob's own digest was verified when it arrived.
    let file = blob.open().map_err(Failure::store)?;
    let applied =
        layer::apply(file, media_type, directory.as_fd(), &options).map_err(Failure::of)?;
    if applied.diff_id != diff_id {
        let message = format!(
            "layer {} unpacks to {}, but the image's config says {diff_id}",
            blob.digest(),
            applied.diff_id
        );
        return Err(Failure::new(ErrorCode::DataLoss, message));
    }
    drop(directory);
    active.commit().map_err(Failure::store)
}
