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

/// HTTP/2 connection window. It is far beyond what streams use, because the library takes small frames that wait to be read for an
/// attack once what each lacks of 256 bytes adds up to half of this window, and ends the connection; the description of a file is
/// such a frame. What a peer can make us buffer is bounded by the windows of the streams, which are all opened by this side.
pub(crate) const CONNECTION_WINDOW: u32 = 64 << 20;

/// Two transfers of nothing but the smallest descriptions may wait unread.
const _: () = {
    const SMALLEST: u32 = 35;
    let waiting = 2 * (STREAM_WINDOW / SMALLEST);
    assert!(waiting * (256 - SMALLEST) <= CONNECTION_WINDOW / 2);
};

/// Largest HTTP/2 frame taken: each costs a message of the stream that carries the tunnel, so the
/// 16 KiB that HTTP/2 starts with are expensive.
pub(crate) const MAX_FRAME: u32 = 256 << 10;
