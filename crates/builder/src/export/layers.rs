//! Packed layers of a tree: known ones are reused, others are packed while read once, and those that
//! are elsewhere stay there.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_image::layer::{self, BlockSource, Compression, ESTARGZ_ANNOTATIONS, PackOptions};
use cofferdam_image::registry::{BlobBody, FileBody};
use cofferdam_image::{Descriptor, media};
use cofferdam_store::{Blob, Layer, LayerBlob, Store};
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};

use super::blocks::PackedBlocks;
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::pieces::{Absent, Piece, Pieces};

/// Layers packed at the same time; each one uses all processors for compression already, and
/// two overlap one's reading with the other's end.
const PARALLEL: usize = 2;
/// Says that a layer's file times were clamped, and to when.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// How layers are to be packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing {
    /// Compression of layers that have to be packed.
    pub(crate) compression: Compression,
    /// Whether layers that came packed in another form are packed again.
    pub(crate) force: bool,
    /// No file is later than this.
    pub(crate) epoch: Option<i64>,
    /// OCI media types instead of Docker's.
    pub(crate) oci_types: bool,
}

/// One packed layer.
#[derive(Clone)]
pub(crate) struct PackedLayer {
    /// Names the blob in a manifest.
    pub(crate) descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: cofferdam_digest::Digest,
    /// When the layer was made.
    pub(crate) created: chrono::DateTime<chrono::Utc>,
    /// Whether it came from a registry or a cache.
    pub(crate) pulled: bool,
    /// Where the bytes are.
    pub(crate) content: Content,
}

/// Where the bytes of a packed layer are.
#[derive(Clone)]
pub(crate) enum Content {
    /// In the store, pinned.
    Here(Blob),
    /// Where they came from: nobody needed them so far.
    There(Arc<Absent>),
}

impl PackedLayer {
    /// The blob, fetched when it is not here.
    pub(crate) async fn blob(&self) -> Result<Blob, Failure> {
        match &self.content {
            Content::Here(blob) => Ok(blob.clone()),
            Content::There(absent) => absent.blob().await,
        }
    }

    /// The bytes for an upload. What is elsewhere goes straight from there to where it is wanted;
    /// the receiver checks its digest.
    pub(crate) fn body(&self) -> Result<Box<dyn BlobBody>, Failure> {
        match &self.content {
            Content::Here(blob) => {
                Ok(Box::new(FileBody::new(blob.open().map_err(Failure::store)?)))
            }
            Content::There(absent) => Ok(Box::new(Through(Arc::clone(absent)))),
        }
    }

    /// The path of a repository of the registry `domain` that has the blob.
    pub(crate) fn neighbour(&self, domain: &str) -> Option<String> {
        let Content::There(absent) = &self.content else { return None };
        let place = absent.place().filter(|place| place.domain() == domain)?;
        Some(place.path().to_owned())
    }
}

/// A blob that passes through.
struct Through(Arc<Absent>);

impl BlobBody for Through {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
        let absent = Arc::clone(&self.0);
        let opened = async move { absent.stream(offset).await };
        let bytes = opened.try_flatten_stream().map_err(std::io::Error::other);
        limited(bytes.boxed(), length)
    }
}

/// The first `length` bytes.
fn limited(
    stream: BoxStream<'static, std::io::Result<Bytes>>,
    length: u64,
) -> BoxStream<'static, std::io::Result<Bytes>> {
    futures::stream::try_unfold((stream, length), |(mut stream, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(chunk) = stream.try_next().await? else { return Ok(None) };
        let chunk = chunk.slice(..chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let left = left - chunk.len() as u64;
        Ok(Some((chunk, (stream, left))))
    })
    .boxed()
}

/// Packs every layer of `tree`, bottom first, into the store of `blocks`.
pub(crate) async fn pack(
    blocks: &Arc<PackedBlocks>,
    tree: &Pieces,
    packing: Packing,
) -> Result<Vec<PackedLayer>, Failure> {
    let pieces: Vec<Piece> = tree.iter().cloned().collect();
    futures::stream::iter(pieces)
        .map(|piece| {
            let blocks = Arc::clone(blocks);
            async move {
                let layer = match piece {
                    Piece::Here(layer) => layer,
                    Piece::There(absent) => match described(blocks.store(), &absent, packing) {
                        Some(packed) => return Ok(packed),
                        None => absent.layer().await?,
                    },
                };
                blocking(move || pack_layer(&blocks, &layer, packing)).await?
            }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

/// A layer that is elsewhere, as it is there, when that is the form that is wanted.
fn described(store: &Store, absent: &Arc<Absent>, packing: Packing) -> Option<PackedLayer> {
    let remote = &absent.remote;
    let media_type = remote.descriptor.media_type.as_str();
    let annotations = &remote.descriptor.annotations;
    if packing.force && !has_compression(media_type, annotations, packing.compression) {
        return None;
    }
    let converted = media::converted(media_type, packing.oci_types);
    let mut descriptor =
        Descriptor::new(converted, remote.descriptor.digest, remote.descriptor.size);
    let told = annotations.iter().filter(|(name, _)| ESTARGZ_ANNOTATIONS.contains(&name.as_str()));
    descriptor.annotations = told.map(|(name, value)| (name.clone(), value.clone())).collect();
    let blob = store.blob(&descriptor.digest);
    let content = blob.map_or_else(|| Content::There(Arc::clone(absent)), Content::Here);
    // A time that does not depend on when somebody asked.
    let created = remote.created.unwrap_or(chrono::DateTime::UNIX_EPOCH);
    Some(PackedLayer { descriptor, diff_id: remote.diff_id, created, pulled: true, content })
}

fn pack_layer(
    blocks: &PackedBlocks,
    layer: &Layer,
    packing: Packing,
) -> Result<PackedLayer, Failure> {
    let store = blocks.store();
    let info = layer.info();
    let pulled = info.chain_id.is_some();
    let stamp = packing.epoch.filter(|_| !pulled).map(|epoch| epoch.to_string());
    let known = info.blobs.iter().find_map(|known| {
        let fits = (pulled && !packing.force)
            || has_compression(&known.media_type, &known.annotations, packing.compression);
        let same_times = known.annotations.get(REWRITTEN) == stamp.as_ref();
        let blob = (fits && same_times).then(|| store.blob(&known.digest)).flatten()?;
        Some((known.clone(), blob))
    });
    let (known, blob) = match known {
        Some(found) => found,
        None => pack_anew(blocks, layer, packing, stamp)?,
    };
    let media_type = media::converted(&known.media_type, packing.oci_types);
    let mut descriptor = Descriptor::new(media_type, known.digest, known.size);
    descriptor.annotations = known.annotations;
    let (diff_id, content) = (known.diff_id, Content::Here(blob));
    Ok(PackedLayer { descriptor, diff_id, created: info.created_at, pulled, content })
}

/// Whether a blob has the form that is wanted. An eStargz is gzip to everybody but those who look at its annotations.
fn has_compression(
    media_type: &str,
    annotations: &BTreeMap<String, String>,
    compression: Compression,
) -> bool {
    let lazy = matches!(compression, Compression::Estargz(_));
    let same_type = [true, false].iter().any(|oci| media_type == compression.media_type(*oci));
    same_type && lazy == annotations.contains_key(ESTARGZ_ANNOTATIONS[0])
}

fn pack_anew(
    blocks: &PackedBlocks,
    layer: &Layer,
    packing: Packing,
    stamp: Option<String>,
) -> Result<(LayerBlob, Blob), Failure> {
    let store = blocks.store();
    // A plain tar has nothing to save, and an eStargz has members of its own.
    let in_blocks = matches!(packing.compression, Compression::Gzip(_) | Compression::Zstd(_));
    let earlier = in_blocks.then(|| blocks.source());
    let ids = store.ids();
    let from_disk = move |id: u32| ids.from_disk(id);
    let options = PackOptions {
        compression: packing.compression,
        epoch: stamp.as_ref().and(packing.epoch),
        ids: &from_disk,
        index: in_blocks,
        prior: earlier.as_ref().map(|earlier| earlier as &dyn BlockSource),
        ..PackOptions::default()
    };
    let directory = layer.open().map_err(Failure::store)?;
    let mut writer = store.blob_writer(None).map_err(Failure::store)?;
    let packed = layer::pack(directory.as_fd(), &options, &mut writer).map_err(Failure::of)?;
    let blob = writer.commit().map_err(Failure::store)?;
    // Before the layer names the blob: the batch that makes this durable takes the blocks along.
    blocks.remember(&packed);
    let mut known = LayerBlob {
        digest: packed.digest,
        size: packed.size,
        media_type: packing.compression.media_type(true).to_owned(),
        diff_id: packed.diff_id,
        annotations: packed.annotations,
    };
    if let Some(stamp) = stamp {
        known.annotations.insert(REWRITTEN.to_owned(), stamp);
    }
    store.set_layer_blob(layer, known.clone());
    Ok((known, blob))
}
