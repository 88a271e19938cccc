//! `FileSync.DiffCopy`: brings a client's directory to this machine.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use cofferdam_wire::moby::filesync::v1::FileSyncClient;
use connectrpc::ErrorCode;

use crate::fsutil::{self, ReceiveError, ReceiveOptions, Received};
use crate::metadata::{self, headers};
use crate::session::{RpcError, Session};

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Which part of which directory of the client to bring.
#[derive(Debug, Clone, Default)]
pub struct LocalRequest {
    /// Name the client gave the directory (`context`, `dockerfile`, …).
    pub name: String,
    /// Only matching paths; empty means everything.
    pub include: Vec<String>,
    /// Not these paths.
    pub exclude: Vec<String>,
    /// Paths the client resolves through symlinks and includes.
    pub follow: Vec<String>,
    /// Directories that a call of their own brings, so that the client describes two parts of the tree at once; see
    /// [`Received::apart`]. Only where everything is brought.
    pub apart: Vec<String>,
    /// How to receive.
    pub options: ReceiveOptions,
}

/// A local directory that could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The client serves no directories.
    #[error("no local sources enabled")]
    NotEnabled,
    /// The client does not know the directory; another session may.
    #[error("no access allowed to dir {name:?}")]
    NoAccess {
        /// The name asked for.
        name: String,
    },
    /// The call could not be made.
    #[error(transparent)]
    Rpc(RpcError),
    /// The transfer failed.
    #[error("transfer {name}")]
    Receive {
        /// The name asked for.
        name: String,
        /// What went wrong.
        #[source]
        source: ReceiveError,
    },
}

impl LocalError {
    /// Whether another session of the same build should be tried.
    #[must_use]
    pub const fn try_next(&self) -> bool {
        matches!(self, Self::NotEnabled | Self::NoAccess { .. } | Self::Rpc(_))
    }
}

impl Session {
    /// Mirrors (or merges) the client's directory into `dest`.
    ///
    /// # Errors
    /// A client without directories or without this one, a broken transfer, or a client that
    /// breaks the protocol.
    pub async fn sync_local(
        &self,
        request: LocalRequest,
        dest: OwnedFd,
    ) -> Result<Received, LocalError> {
        if !self.supports(METHOD) {
            return Err(LocalError::NotEnabled);
        }
        let mut calls = Vec::new();
        for part in parts(&request) {
            calls.push(self.diff_copy(&part).await?);
        }
        let received = fsutil::receive_parts(calls, dest, request.options).await;
        let name = request.name;
        received.map_err(|source| match source {
            ReceiveError::Stream(error) if error.code == ErrorCode::NotFound => {
                LocalError::NoAccess { name }
            }
            source => LocalError::Receive { name, source },
        })
    }

    /// Begins the call that brings a part of a directory.
    async fn diff_copy(&self, part: &Part<'_>) -> Result<fsutil::Call, LocalError> {
        let mut map = http::HeaderMap::new();
        metadata::append(&mut map, headers::DIR_NAME, std::slice::from_ref(part.name));
        metadata::append(&mut map, headers::INCLUDE, part.include);
        metadata::append(&mut map, headers::EXCLUDE, &part.exclude);
        metadata::append(&mut map, headers::FOLLOW, part.follow);
        metadata::append(&mut map, headers::BUNDLES, &["1".to_owned()]);
        let options = Self::options()
            .with_headers(map.iter().map(|(name, value)| (name.clone(), value.clone())));
        let client = FileSyncClient::new(self.transport().clone(), self.config());
        let stream = client
            .diff_copy_with_options(options)
            .await
            .map_err(|error| LocalError::Rpc(RpcError::new(METHOD, error)))?;
        let (packets, outgoing) = fsutil::client_channel(stream);
        Ok(fsutil::Call { packets, outgoing })
    }
}

/// Patterns of a request that leave room for those of its parts among the headers, which clients bound: a request that was
/// answered by itself must not be refused for the sake of speed.
const FEW_PATTERNS: usize = 100;

/// What one call brings.
struct Part<'a> {
    name: &'a String,
    include: &'a [String],
    exclude: Cow<'a, [String]>,
    follow: &'a [String],
}

/// The rest and what is apart, or all of it. Patterns that exclude come last to have the last word.
fn parts(request: &LocalRequest) -> Vec<Part<'_>> {
    let LocalRequest { name, include, exclude, follow, apart, options } = request;
    let all = Part { name, include, exclude: Cow::Borrowed(exclude), follow };
    let is_whole = include.is_empty() && follow.is_empty() && options.described.is_none();
    if apart.is_empty() || !is_whole || exclude.len() > FEW_PATTERNS {
        return vec![all];
    }
    let rest = [&exclude[..], &apart[..]].concat();
    let apart = Part { name, include: apart, exclude: Cow::Borrowed(exclude), follow };
    vec![Part { exclude: Cow::Owned(rest), ..all }, apart]
}
