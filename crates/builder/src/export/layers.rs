//! Packed layers of a tree: known ones are reused, others are packed while read once.

use std::os::fd::AsFd;
use std::sync::Arc;

use cofferdam_image::layer::{self, Compression, PackOptions};
use cofferdam_image::{Descriptor, media};
use cofferdam_store::{Blob, Layer, LayerBlob, Store, Tree};
use futures::{StreamExt, TryStreamExt};

use crate::blocking::blocking;
use crate::failure::Failure;

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
    /// The blob, pinned.
    pub(crate) blob: Blob,
}

/// Packs every layer of `tree`, bottom first.
pub(crate) async fn pack(
    store: &Arc<Store>,
    tree: &Tree,
    packing: Packing,
) -> Result<Vec<PackedLayer>, Failure> {
    futures::stream::iter(tree.layers().to_vec())
        .map(|layer| {
            let store = Arc::clone(store);
            async move { blocking(move || pack_layer(&store, &layer, packing)).await? }
        })
        .buffered(PARALLEL)
        .try_collect()
        .await
}

fn pack_layer(store: &Arc<Store>, layer: &Layer, packing: Packing) -> Result<PackedLayer, Failure> {
    let info = layer.info();
    let pulled = info.chain_id.is_some();
    let stamp = packing.epoch.filter(|_| !pulled).map(|epoch| epoch.to_string());
    let known = info.blobs.iter().find_map(|known| {
        let fits = (pulled && !packing.force) || has_compression(known, packing.compression);
        let same_times = known.annotations.get(REWRITTEN) == stamp.as_ref();
        let blob = (fits && same_times).then(|| store.blob(&known.digest)).flatten()?;
        Some((known.clone(), blob))
    });
    let (known, blob) = match known {
        Some(found) => found,
        None => pack_anew(store, layer, packing, stamp)?,
    };
    let media_type = media::converted(&known.media_type, packing.oci_types);
    let mut descriptor = Descriptor::new(media_type, known.digest, known.size);
    descriptor.annotations = known.annotations;
    Ok(PackedLayer { descriptor, diff_id: known.diff_id, created: info.created_at, pulled, blob })
}

fn has_compression(known: &LayerBlob, compression: Compression) -> bool {
    [true, false].iter().any(|oci| known.media_type == compression.media_type(*oci))
}

fn pack_anew(
    store: &Arc<Store>,
    layer: &Layer,
    packing: Packing,
    stamp: Option<String>,
) -> Result<(LayerBlob, Blob), Failure> {
    let ids = store.ids();
    let from_disk = move |id: u32| ids.from_disk(id);
    let options = PackOptions {
        compression: packing.compression,
        epoch: stamp.as_ref().and(packing.epoch),
        ids: &from_disk,
        ..PackOptions::default()
    };
    let directory = layer.open().map_err(Failure::store)?;
    let mut writer = store.blob_writer(None).map_err(Failure::store)?;
    let packed = layer::pack(directory.as_fd(), &options, &mut writer).map_err(Failure::of)?;
    let blob = writer.commit().map_err(Failure::store)?;
    let mut known = LayerBlob {
        digest: packed.digest,
        size: packed.size,
        media_type: packing.compression.media_type(true).to_owned(),
        diff_id: packed.diff_id,
        annotations: Default::default(),
    };
    if let Some(stamp) = stamp {
        known.annotations.insert(REWRITTEN.to_owned(), stamp);
    }
    store.set_layer_blob(layer, known.clone());
    Ok((known, blob))
}
