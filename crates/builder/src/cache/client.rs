//! A cache in a directory of the client, through the content service of its session.

use std::io::Read;
use std::sync::Arc;

use cofferdam_image::Descriptor;
use cofferdam_session::{ContentError, Session};
use futures::FutureExt;

use super::document::Written;
use super::export::ExportRequest;
use crate::context::Context;
use crate::export::layers::PackedLayer;
use crate::failure::Failure;

/// What one message to the client's content store carries.
const CHUNK_BYTES: usize = 1 << 20;

/// Sends layers and documents.
pub(super) async fn send(
    context: &Arc<Context>,
    request: &ExportRequest,
    layers: &[PackedLayer],
    documents: [&Written; 2],
    sessions: &[String],
) -> Result<(), Failure> {
    let destination = request.attrs.get("dest").filter(|dest| !dest.is_empty());
    let destination =
        destination.ok_or_else(|| Failure::invalid("local cache exporter requires dest"))?;
    let store = format!("local:{destination}");
    let session = context.any_session(sessions, |session| async { Ok(session) }.boxed()).await?;
    for layer in layers {
        let mut file = layer.blob().await?.open().map_err(Failure::store)?;
        write_blob(&session, &store, &layer.descriptor, &mut file).await?;
    }
    for document in documents {
        write_blob(&session, &store, &document.descriptor, &mut document.bytes.as_slice()).await?;
    }
    Ok(())
}

/// Writes a blob into a content store of the client, unless it is there.
pub(crate) async fn write_blob(
    session: &Arc<Session>,
    store: &str,
    descriptor: &Descriptor,
    content: &mut (impl Read + Send),
) -> Result<(), Failure> {
    let opened = session.content_writer(store, &descriptor.digest, descriptor.size).await;
    let mut writer = match opened {
        Ok(writer) => writer,
        Err(ContentError::AlreadyExists) => return Ok(()),
        Err(error) => return Err(Failure::of(error)),
    };
    let mut skip = writer.offset();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = content.read(&mut buffer).map_err(Failure::store)?;
        if count == 0 {
            break;
        }
        // What an earlier attempt left at the client is not sent again.
        let skipped = usize::try_from(skip.min(count as u64)).unwrap_or(count);
        skip -= skipped as u64;
        if skipped < count {
            writer.write(&buffer[skipped..count]).await.map_err(Failure::of)?;
        }
    }
    writer.commit().await.map_err(Failure::of)
}
