//! LLB, the build graph: decoding, validation, digests and encoding.
//!
//! A graph arrives from a client as [`pb::Definition`](cofferdam_wire::pb::Definition): a list of
//! encoded ops that name their inputs by digest. [`load`] turns it into a [`Graph`] whose every
//! index, enum and reference has been checked, so that nothing behind it has to doubt them.
//! [`Assembler`] goes the other way for the frontends. Messages and field numbers are those of
//! BuildKit's `solver/pb/ops.proto`.
//!
//! This crate must never execute an op, touch a file system or decide what a cache key covers.
//! It never recurses over the depth of a graph: ops form chains of tens of thousands.

mod assemble;
mod capability;
mod check;
mod credentials;
mod encode;
mod load;
mod name;
mod platform;
mod rewrite;
mod vertex;

pub use assemble::{Assembler, Output};
pub use capability::{CAPABILITIES, is_capability};
pub use check::{InvalidOp, output_count};
pub use credentials::without_credentials;
pub use encode::{encode_definition, encode_op};
pub use load::{Limits, LoadError, decode_definition, load, load_bytes};
pub use platform::{
    ParsePlatformError, default_platform, normalize_platform, parse_platform, platform_id,
    platform_string,
};
pub use rewrite::with_sources;
pub use vertex::{Edge, Graph, SourceRange, Vertex};
