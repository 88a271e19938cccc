//! What the builder is to a server that started it: builds that are told apart by the connection they come over, and a service
//! through which the server watches, cancels and closes them.
//!
//! Builds of one project share a store and run steps together, yet know nothing of each other: references and sessions are kept
//! under names that begin with the build's id, which comes from the server and never from a client. A builder that somebody
//! started by hand has one nameless [`Scope`] for all its connections and none of this.

mod build;
mod preamble;
mod registry;
mod scope;
mod service;
mod solve;
mod watch;

pub(crate) use preamble::{Purpose, read as read_preamble};
pub(crate) use registry::ServedBuilds;
pub(crate) use scope::Scope;
pub(crate) use service::ServerService;
pub(crate) use solve::{ServedSolve, Solving};
