//! Layers: from a compressed tar to an overlay directory ([`apply`]) and back ([`pack`]).
//!
//! The tar format and whiteouts follow the
//! [OCI layer specification](https://github.com/opencontainers/image-spec/blob/main/layer.md); on
//! disk a removed name is a character device 0:0 and an opaque directory carries the xattr
//! `user.overlay.opaque`. Layer bytes come from strangers: nothing here may read or write outside
//! the directory descriptor it was given, whatever the archive says.

mod apply;
mod error;
mod limits;
mod name;
pub(crate) mod pack;
mod remove;
mod source;
mod tarstream;
mod tree;

pub(crate) use apply::unpack_tar;
pub use apply::{Applied, ApplyOptions, apply, apply_untrusted};
pub use error::ApplyError;
pub use limits::Limits;
pub use pack::{
    Block, BlockKey, BlockSource, Compression, ESTARGZ_ANNOTATIONS, PackError, PackOptions, Packed,
    PriorBlob, TarSink, TreeOptions, TreeWriter, pack, pack_tar, write_tree,
};
pub(crate) use source::{Source, Wrapping};
pub(crate) use tarstream::TarStream;

/// Maps one user or group id; `None` means the id has no place on the other side.
pub type MapId<'a> = &'a (dyn Fn(u32) -> Option<u32> + Sync);

/// The identity map, for trees whose ids on disk are the ids in the image.
pub const IDENTITY: MapId<'static> = &Some;

const XATTR_CAPABILITY: &str = "security.capability";
const XATTR_OPAQUE: &str = "user.overlay.opaque";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
