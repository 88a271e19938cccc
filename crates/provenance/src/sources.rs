//! What a build took from outside.

use cofferdam_digest::Digest;
use cofferdam_image::Platform;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// Its reference, as normalised as the build had it.
    pub reference: String,
    /// The platform that was chosen.
    pub platform: Option<Platform>,
    /// What the reference named.
    pub digest: Option<Digest>,
    /// From a layout of the client, not from a registry.
    pub local: bool,
}

/// One blob of a registry or layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSource {
    /// Repository and digest.
    pub reference: String,
    /// The blob.
    pub digest: Digest,
    /// From a layout of the client, not from a registry.
    pub local: bool,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// Its address with `#ref`.
    pub url: String,
    /// The commit.
    pub commit: String,
    /// The file that the commit was taken from, when the repository itself was not asked.
    pub bundle: Option<BlobSource>,
}

/// A download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// Where from.
    pub url: String,
    /// What it was.
    pub digest: Digest,
}

/// Everything of a result, each thing once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Images.
    pub images: Vec<ImageSource>,
    /// Blobs.
    pub blobs: Vec<BlobSource>,
    /// Repositories.
    pub git: Vec<GitSource>,
    /// Downloads.
    pub http: Vec<HttpSource>,
    /// Names of directories of the client.
    pub locals: Vec<String>,
}
