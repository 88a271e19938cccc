//! Bounds on what one archive may ask for, each with its reason.

/// Bounds on one archive.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the uncompressed tar. Default 256 GiB: more than any real layer, less than a disk.
    pub output_bytes: u64,
    /// Uncompressed bytes per compressed byte, once past `ratio_free`. Deflate tops out at 1032:1, and
    /// only on content that is nothing but padding; 1000:1 refuses exactly that.
    pub ratio: u64,
    /// Uncompressed bytes before the ratio counts. Default 64 MiB: small layers of zeros are real.
    pub ratio_free: u64,
    /// Entries, extended headers not counted. Default 5,000,000.
    pub entries: u64,
    /// Bytes of all directory names that must be remembered until the end. Default 256 MiB.
    pub directory_names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            output_bytes: 256 << 30,
            ratio: 1000,
            ratio_free: 64 << 20,
            entries: 5_000_000,
            directory_names: 256 << 20,
        }
    }
}

impl Limits {
    /// Small bounds for exercising the parser with arbitrary bytes.
    #[must_use]
    pub const fn tiny() -> Self {
        Self {
            output_bytes: 1 << 20,
            ratio: 1000,
            ratio_free: 1 << 16,
            entries: 256,
            directory_names: 1 << 16,
        }
    }
}

/// Longest path of an entry in bytes, `PATH_MAX` of the kernel.
pub(crate) const MAX_PATH: usize = 4096;
/// Longest single name in bytes, `NAME_MAX` of the kernel.
pub(crate) const MAX_NAME: usize = 255;
/// Deepest directory nesting. Deeper trees break tools and exhaust descriptors on removal.
pub(crate) const MAX_DEPTH: usize = 256;
/// Bytes of all extended attributes of one entry, the kernel's own bound for one value.
pub(crate) const MAX_XATTRS: usize = 64 << 10;
/// Bytes of one extended header: paths, link, attributes in base64-free form, and room.
pub(crate) const MAX_EXTENDED_HEADER: u64 = 1 << 20;
/// Largest zstd window, as a power of two: 128 MiB bounds the decoder's memory.
pub(crate) const MAX_ZSTD_WINDOW_LOG: u32 = 27;
