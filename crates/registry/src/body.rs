//! Request bodies into uploads, and files into response bodies.
//!
//! Both stream with a fixed amount of memory per request, end when a token is revoked and give
//! up on a client that stalls. What arrived before an interruption is kept, so that the client
//! can go on from there.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::auth::Permit;
use crate::error::Failure;
use crate::limits::{Limits, READ_BYTES, ROOM_BYTES, WRITE_BYTES};
use crate::registry::Inner;
use crate::upload::Claim;

/// Appends `body` to an upload. With `exact`, the body must have that many bytes. An `open` one did
/// not say how many it has: whether there is room is asked again while it comes.
pub(crate) async fn receive(
    mut claim: Claim,
    body: Body,
    exact: Option<u64>,
    open: bool,
    permit: &Permit,
    registry: &Arc<Inner>,
) -> Result<Claim, Failure> {
    let (limits, upload) = (&registry.limits, Arc::clone(&claim.upload));
    let mut stream = body.into_data_stream();
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    let (mut total, mut asked) = (0_u64, 0_u64);
    let outcome = loop {
        let next = tokio::select! {
            biased;
            // Whoever took over counts on the length it saw: nothing more may be added.
            () = claim.superseded.cancelled() => return Err(Failure::UploadBusy),
            failure = revoked(permit) => return Err(failure),
            next = tokio::time::timeout(limits.stall, stream.next()) => next,
        };
        let bytes = match next {
            Err(_) => break Err(Failure::Stalled(limits.stall.as_secs())),
            Ok(None) => break Ok(()),
            Ok(Some(Err(_))) => break Err(Failure::Interrupted),
            Ok(Some(Ok(bytes))) => bytes,
        };
        total += bytes.len() as u64;
        if exact.is_some_and(|exact| total > exact) {
            break Err(Failure::LengthMismatch);
        }
        if claim.length() + (buffer.len() + bytes.len()) as u64 > limits.blob_bytes {
            return Err(Failure::BlobTooLarge(limits.blob_bytes));
        }
        if open && total - asked >= ROOM_BYTES {
            asked = total;
            registry.has_room(upload.repository.project(), 1).await?;
        }
        for piece in bytes.chunks(WRITE_BYTES) {
            buffer.extend_from_slice(piece);
            if buffer.len() >= WRITE_BYTES {
                (claim, buffer) = write(claim, buffer).await?;
            }
        }
    };
    let (claim, _) = write(claim, buffer).await?;
    outcome?;
    if exact.is_some_and(|exact| total != exact) {
        return Err(Failure::LengthMismatch);
    }
    Ok(claim)
}

async fn write(mut claim: Claim, mut buffer: BytesMut) -> Result<(Claim, BytesMut), Failure> {
    if buffer.is_empty() {
        return Ok((claim, buffer));
    }
    let written = tokio::task::spawn_blocking(move || {
        claim.write(&buffer)?;
        buffer.clear();
        Ok((claim, buffer))
    });
    written.await.map_err(|_| Failure::Internal)?
}

/// Reads a body of at most `limit` bytes into memory.
pub(crate) async fn read(
    body: Body,
    limit: usize,
    permit: &Permit,
    limits: &Limits,
) -> Result<Bytes, Failure> {
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let next = tokio::select! {
            biased;
            failure = revoked(permit) => return Err(failure),
            next = tokio::time::timeout(limits.stall, stream.next()) => next,
        };
        match next {
            Err(_) => return Err(Failure::Stalled(limits.stall.as_secs())),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(_))) => return Err(Failure::Interrupted),
            Ok(Some(Ok(bytes))) if whole.len() + bytes.len() > limit => {
                return Err(Failure::ManifestTooLarge(limit));
            }
            Ok(Some(Ok(bytes))) => whole.extend_from_slice(&bytes),
        }
    }
}

/// Streams `length` bytes of `file` from `first` on.
pub(crate) fn send(file: File, first: u64, length: u64, permit: Permit) -> std::io::Result<Body> {
    let mut file = file;
    file.seek(SeekFrom::Start(first))?;
    let stream =
        ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(length), READ_BYTES);
    // The length was announced: a body that ends early breaks the connection, which is the point.
    let until = async move { drop(revoked(&permit).await) };
    Ok(Body::from_stream(stream.take_until(Box::pin(until))))
}

/// Ends when the request's token is revoked, if ever.
async fn revoked(permit: &Permit) -> Failure {
    match &permit.revoked {
        Some(revoked) => revoked.cancelled().await,
        None => std::future::pending().await,
    }
    Failure::Unauthenticated("this token was revoked".to_owned())
}
