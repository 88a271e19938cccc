//! A builder's state on disk: content, layers, mutable directories, cache records.
//!
//! One [`Store`] owns one directory. Nothing else may write there, and a second open of the same
//! directory is refused. Everything a caller may use is pinned by a value it holds ([`Blob`],
//! [`Layer`], [`CacheMount`], [`MirrorGuard`]); house keeping never takes what is pinned.
//!
//! * **Content**: blobs by digest, see [`Store::blob_writer`] and [`Store::resume_blob`].
//! * **Layers**: committed overlay upper directories, see [`Store::new_layer`]. A [`Tree`] is an
//!   ordered list of them, and [`mount_tree`] shows one as a file system.
//! * **Mutable directories**: cache mounts ([`Store::cache_mount`]) and mirrors of a client's
//!   directories ([`Store::mirror`]).
//! * **Records**: cache key to result ([`Store::put_record`], [`Store::record`]), digests of
//!   parts of trees, and documents that are never evicted.
//!
//! # Durability
//! What is committed is visible at once and made durable in batches, about a second later or by
//! [`Store::flush`] or [`Store::settled`]: first the data (one `syncfs`), then the rows that name it. After a crash the
//! store is the state of some earlier batch; what came later is swept at the next open. A process that is
//! killed loses nothing of what [`Store::secure`] was asked for before, at the price of a small write.
//!
//! # Blocking
//! Methods that are documented as *blocking* walk directories or wait for the disk: call them
//! through `spawn_blocking`. All others take microseconds and may be called from async code.
//!
//! # Trust
//! A disk may lose and change what it was given. What it says it lost is dropped; damaged records
//! are set aside, and the store begins anew with the blobs it has; [`Store::verify`] looks at
//! everything, and whoever finds wrong bytes calls [`Store::distrust`].
//!
//! This crate must never read tenant trees by path: below the root it works through directory
//! descriptors and never follows a link.

mod clock;
mod content;
mod database;
mod directory;
mod disk;
mod document;
mod error;
mod flush;
mod ids;
mod ingest;
mod journal;
mod layer;
mod loss;
mod mount;
mod mount_legacy;
mod mounter;
mod prune;
mod record;
mod root;
mod state;
mod store;
mod sweep;
mod trash;
mod tree;
mod usage;
mod verify;
mod walk;

pub use clock::{Clock, SystemClock};
pub use content::Blob;
pub use database::DatabaseError;
pub use directory::{CacheMount, MirrorGuard, Sharing};
pub use disk::DiskUsage;
pub use document::Document;
pub use error::{ContentError, DirectoryError, LayerError, OpenError, RecordError};
pub use ids::{IdRange, LayerId};
pub use ingest::BlobWriter;
pub use layer::{ActiveLayer, Layer, LayerBlob, LayerInfo, RecordType};
pub use mount::{MountError, mount_tree};
pub use mounter::start_mounter;
pub use prune::PruneOptions;
pub use record::Record;
pub use store::{Options, Store};
pub use tree::Tree;
pub use usage::UsageRecord;
pub use verify::Trouble;
pub use walk::LayerUsage;

/// Reads arbitrary bytes as what a killed process left, as a damaged disk could have it.
pub fn exercise_journal(data: &[u8]) {
    journal::exercise(data);
}
