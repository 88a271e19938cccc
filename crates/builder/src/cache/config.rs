//! The config of a cache manifest, as BuildKit's `cache/remotecache/v1` writes it.

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use serde::{Deserialize, Serialize};

/// Media type of the config.
pub(super) const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Most records of one cache that are looked at.
pub(super) const MAX_RECORDS: usize = 1 << 20;

/// Most layers of one result; file systems take fewer.
const MAX_CHAIN: usize = 500;

/// The whole config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheConfig {
    /// Layers, each on top of its parent.
    #[serde(default)]
    pub(super) layers: Vec<CacheLayer>,
    /// Records.
    #[serde(default)]
    pub(super) records: Vec<CacheRecord>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheLayer {
    /// Digest of the packed layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<Digest>,
    /// Index of the layer below; -1 at the bottom.
    #[serde(default, rename = "parent")]
    pub(super) parent: i64,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<LayerAnnotations>,
}

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerAnnotations {
    /// Media type of the packed layer.
    #[serde(default)]
    pub(super) media_type: String,
    /// Digest of the uncompressed tar.
    #[serde(default, rename = "diffID", skip_serializing_if = "Option::is_none")]
    pub(super) diff_id: Option<Digest>,
    /// Size of the packed layer.
    #[serde(default)]
    pub(super) size: u64,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<DateTime<Utc>>,
}

/// One record: a key and its results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheRecord {
    /// The key.
    pub(super) digest: Digest,
    /// The key its result had first, when that is another one. Not in BuildKit's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Digest>,
    /// Results whose layers form a chain through their parents.
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty")]
    pub(super) results: Vec<CacheResult>,
    /// Results given as explicit lists of layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chains: Vec<ChainedResult>,
}

/// A result that is a layer with all its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheResult {
    /// Index of the uppermost layer.
    pub(super) layer: usize,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
}

/// A result that is a list of layers, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChainedResult {
    /// Indexes of the layers.
    pub(super) layers: Vec<usize>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
}

impl CacheConfig {
    /// The layers of a record's first result, bottom first; none of one that is too long to be real.
    pub(super) fn chain(&self, record: &CacheRecord) -> Option<Vec<&CacheLayer>> {
        if let Some(chain) = record.chains.first() {
            if chain.layers.len() > MAX_CHAIN {
                return None;
            }
            return chain.layers.iter().map(|index| self.layers.get(*index)).collect();
        }
        let mut found = Vec::new();
        let mut at = i64::try_from(record.results.first()?.layer).ok()?;
        while at >= 0 {
            let layer = self.layers.get(usize::try_from(at).ok()?)?;
            // A cycle of parents would never end.
            if found.len() >= MAX_CHAIN {
                return None;
            }
            found.push(layer);
            at = layer.parent;
        }
        found.reverse();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many layers, each on the one before it.
    fn tower(count: usize) -> CacheConfig {
        let layer = |index: usize| {
            let parent = i64::try_from(index).unwrap_or(0) - 1;
            CacheLayer { blob: None, parent, annotations: None }
        };
        CacheConfig { layers: (0..count).map(layer).collect(), records: Vec::new() }
    }

    fn record(results: Vec<CacheResult>, chains: Vec<ChainedResult>) -> CacheRecord {
        CacheRecord { digest: Digest::of("key"), identity: None, results, chains }
    }

    fn topped(layer: usize) -> CacheRecord {
        record(vec![CacheResult { layer, created_at: None }], Vec::new())
    }

    fn listed(layers: Vec<usize>) -> CacheRecord {
        record(Vec::new(), vec![ChainedResult { layers, created_at: None }])
    }

    #[test]
    fn a_chain_is_as_long_as_a_real_one_at_most() {
        let config = tower(MAX_CHAIN + 1);
        let length = |record: &CacheRecord| config.chain(record).map(|chain| chain.len());
        assert_eq!(length(&topped(MAX_CHAIN - 1)), Some(MAX_CHAIN));
        assert_eq!(length(&topped(MAX_CHAIN)), None);
        assert_eq!(length(&listed(vec![0; MAX_CHAIN])), Some(MAX_CHAIN));
        assert_eq!(length(&listed(vec![0; MAX_CHAIN + 1])), None);
    }

    #[test]
    fn layers_that_are_their_own_parents_are_no_chain() {
        let mut config = tower(2);
        config.layers[0].parent = 1;
        assert_eq!(config.chain(&topped(1)), None);
        assert_eq!(config.chain(&topped(9)), None, "no such layer");
    }
}
