//! The daemon's calls into a session, one module per service.
//!
//! Section 3 of the protocol. Each method checks what the client announced before it calls, so
//! that a missing service is a clear error and not a transport failure. Nothing here interprets
//! bytes for the caller beyond the service's own framing.

pub(crate) mod auth;
pub(crate) mod content;
pub(crate) mod export;
pub(crate) mod exporter;
pub(crate) mod local;
pub(crate) mod policy;
pub(crate) mod secrets;
pub(crate) mod ssh;
pub(crate) mod upload;
