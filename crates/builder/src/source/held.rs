//! What somebody was told is on this disk, and has not used yet.
//!
//! A step is left out because its layers are here, and their files are looked at much later. The collector takes what nobody
//! holds, also while builds run: so what was seen is held from that moment on, for as long as this lives. Must never fetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_store::{Blob, Layer, Store};

/// Layers that were seen in a store.
#[derive(Default)]
pub(super) struct Held {
    /// Unpacked, by chain id.
    layers: Mutex<HashMap<Digest, Layer>>,
    /// Packed.
    blobs: Mutex<HashMap<Digest, Blob>>,
}

impl Held {
    /// The unpacked layer with this chain id, held from now on.
    pub(super) fn layer(&self, store: &Arc<Store>, chain_id: &Digest) -> Option<Layer> {
        let layer = store.layer_by_chain_id(chain_id)?;
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.insert(*chain_id, layer.clone());
        Some(layer)
    }

    /// Whether the packed layer is here, and then held from now on.
    pub(super) fn blob(&self, store: &Store, digest: &Digest) -> bool {
        let Some(blob) = store.blob(digest) else { return false };
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.insert(*digest, blob);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use cofferdam_store::{Options, PruneOptions, RecordType};

    use super::*;

    #[test]
    fn what_was_seen_is_not_collected_before_it_is_let_go() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Options::default()).unwrap();
        let chain = Digest::of("chain");
        let active = store.new_layer("made by a test", RecordType::Regular).unwrap();
        std::fs::write(active.dir().join("file"), "unpacked").unwrap();
        store.set_layer_chain_id(&active.commit().unwrap(), chain);
        let mut writer = store.blob_writer(None).unwrap();
        writer.write_all(b"packed").unwrap();
        let digest = writer.commit().unwrap().digest();
        let held = Held::default();
        assert!(held.layer(&store, &chain).is_some() && held.blob(&store, &digest));
        let everything = PruneOptions { all: true, ..PruneOptions::default() };
        let here = || (store.layer_by_chain_id(&chain).is_some(), store.blob(&digest).is_some());
        store.prune(&everything).unwrap();
        assert_eq!(here(), (true, true));
        drop(held);
        store.prune(&everything).unwrap();
        assert_eq!(here(), (false, false), "control: nothing else held it");
        let held = Held::default();
        assert!(held.layer(&store, &chain).is_none() && !held.blob(&store, &digest));
    }
}
