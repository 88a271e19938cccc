//! `FileSync`: the named directories of the client.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_wire::fsutil::types::Packet;
use cofferdam_wire::moby::filesync::v1::FileSync;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceResult, ServiceStream,
};
use rustix::fs::{Mode, OFlags};

use super::LocalDirectory;
use crate::fsutil::{self, MapHook, MapResult, SendOptions, Source};
use crate::metadata::{self, headers};

pub(super) struct FileSyncService {
    directories: HashMap<String, LocalDirectory>,
}

impl FileSyncService {
    pub(super) const fn new(directories: HashMap<String, LocalDirectory>) -> Self {
        Self { directories }
    }
}

/// Every entry belongs to root, as in an image.
fn root_owned() -> MapHook {
    Arc::new(|stat| {
        stat.uid = 0;
        stat.gid = 0;
        MapResult::Keep
    })
}

impl FileSync for FileSyncService {
    async fn diff_copy(
        &self,
        context: RequestContext,
        requests: InboundStream<Packet>,
    ) -> ServiceResult<ServiceStream<Packet>> {
        let map = context.headers();
        let name = metadata::value(map, headers::DIR_NAME).unwrap_or_default();
        let directory = self
            .directories
            .get(&name)
            .ok_or_else(|| ConnectError::not_found(format!("no access allowed to dir {name:?}")))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root: OwnedFd = rustix::fs::open(&directory.path, flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(|error| {
                let path = directory.path.display();
                ConnectError::failed_precondition(format!("open {path}: {error}"))
            })?;
        let options = SendOptions {
            include: metadata::values(map, headers::INCLUDE),
            exclude: metadata::values(map, headers::EXCLUDE),
            follow: metadata::values(map, headers::FOLLOW),
            map: if directory.keep_owner { None } else { Some(root_owned()) },
            bundles: metadata::value(map, headers::BUNDLES).is_some(),
            ..SendOptions::default()
        };
        let (outgoing, stream) = fsutil::server_channel();
        tokio::spawn(async move {
            let sources = vec![Source { root, under: None }];
            if let Err(error) = fsutil::send(sources, requests, outgoing, options).await {
                // The receiver was told in the protocol; this is for whoever debugs the client.
                tracing::debug!(name, %error, "directory was not sent");
            }
        });
        Response::ok(stream)
    }

    async fn tar_stream(
        &self,
        _context: RequestContext,
        _requests: InboundStream<Packet>,
    ) -> ServiceResult<ServiceStream<Packet>> {
        Err(ConnectError::unimplemented("directories are sent with DiffCopy"))
    }
}
