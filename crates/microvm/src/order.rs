//! What host and guest tell each other on the first stream of the channel.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest order: configuration with its certificates, which stays far below.
pub(crate) const MAX_ORDER: usize = 64 << 20;
/// Longest message after it.
pub(crate) const MAX_NEWS: usize = 64 << 10;

/// What the guest is to do. It holds what may be secret, and so reaches the guest over the channel only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The builder's configuration; this crate does not look into it.
    pub config: String,
    /// The builder's environment.
    pub env: Vec<(String, String)>,
    /// The host's table of names, so that the builder knows those that it would know outside.
    pub hosts: String,
    /// Kind of each listener, by its number.
    pub listeners: Vec<String>,
    /// Processes and threads the builder and its steps may have together.
    pub pids: Option<u64>,
    /// What the time is, since 1970.
    pub time: Duration,
    /// Bytes nobody else knows, for the guest's generator of random numbers.
    pub seed: Vec<u8>,
}

/// From the host, after the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// The builder is to get this signal.
    Signal(i32),
    /// What the time is, since 1970. An emulated machine's clock falls behind, and any machine's does while its host sleeps.
    Time(Duration),
}

/// From the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// The builder is there.
    Ready,
    /// It could not be started.
    Failed(String),
    /// It has ended with this exit code; the disk is in order.
    Ended(i32),
}
