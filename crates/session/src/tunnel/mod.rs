//! One HTTP/2 connection carried in the messages of a gRPC stream.
//!
//! Section 2.2 of the protocol: message boundaries mean nothing, the concatenated bytes are a
//! cleartext prior-knowledge HTTP/2 connection whose *client* is the daemon. This module knows
//! bytes and HTTP only; it must never look at what the calls inside mean.

mod io;
mod server;
mod transport;

pub use io::TunnelIo;
pub use server::serve;
pub use transport::{Transport, connect};

/// Largest message of a call inside the tunnel, the limit BuildKit's clients and daemon share.
pub const MAX_MESSAGE: usize = 16 << 20;

/// HTTP/2 stream window: one file transfer can run at full speed over a slow round trip.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;

/// HTTP/2 connection window: bounds what a peer can make us buffer for one tunnel.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
