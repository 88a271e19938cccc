//! The directory protocol of BuildKit's sessions: a tree as a stream of stats, and the content
//! of those files the other end asks for.
//!
//! Section 3.2 of the protocol. [`receive`] trusts nothing it reads: order, paths, links, ids
//! and sizes are checked before a system call sees them, and every call resolves beneath the
//! directory's descriptor. [`send`] opens only what its own walk has found.

mod bundle;
mod channel;
mod dir;
mod filter;
mod follow;
mod limits;
mod mode;
mod order;
mod receive;
mod send;
mod stat;
mod walk;
mod xattrs;

pub use channel::{PacketStream, client_channel, server_channel};
pub use filter::{Filter, FilterError};
pub use follow::{FollowError, resolve as follow_paths};
pub use limits::ReceiveLimits;
pub use mode::GoMode;
pub use receive::{
    Call, Compare, Ownership, ReceiveError, ReceiveMode, ReceiveOptions, Received, Receiver, Step,
    receive, receive_bytes, receive_parts,
};
pub use send::{MapHook, MapResult, SendError, SendOptions, Sent, Source, send};

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters a transfer keeps up to date, for progress displays.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Progress {
    /// Bytes of packets moved so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Directory entries announced so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }
}
