//! What a sender may make the receiving side hold or write.

/// Bounds of one transfer; the defaults are far above any real build context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Entries announced: each costs memory until the transfer ends.
    pub max_entries: u32,
    /// Bytes of all paths, link targets and attributes together.
    pub max_metadata_bytes: u64,
    /// Bytes of all file contents together, whatever the stats said.
    pub max_content_bytes: u64,
    /// Directories inside each other: each holds a descriptor while its entries arrive.
    pub max_depth: usize,
    /// Files in transit at once: each holds a descriptor or 64 KiB. Known senders use four.
    pub max_open_files: usize,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self {
            max_entries: 8_000_000,
            max_metadata_bytes: 1 << 30,
            max_content_bytes: 1 << 40,
            max_depth: 512,
            max_open_files: 128,
        }
    }
}
