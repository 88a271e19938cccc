//! What a build really used, gathered while it runs, and the attestations made of it.
//!
//! `asked` keeps who asked for what; `gather` goes over the graphs of a result afterwards and
//! collects what their steps took; `create` writes the predicates. Formats are those of the
//! `provenance` room. Nothing here may change what a build does, and no secret's content, no
//! credential and nothing of another build's may get in.

mod asked;
mod create;
mod gather;
mod produced;

pub(crate) use self::asked::{Asked, FrontendRequest};
pub(crate) use self::create::Creator;
pub(crate) use self::gather::gather;
pub(crate) use self::produced::Produced;
