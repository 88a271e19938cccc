//! Packets in and out of a gRPC call, the same for both ends.

use cofferdam_wire::fsutil::types::{Packet, PacketView};
use connectrpc::client::BidiStream;
use connectrpc::{ConnectError, ServiceStream, StreamMessage};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Packets as they arrive; an error ends the stream.
pub type PacketStream = BoxStream<'static, Result<StreamMessage<Packet>, ConnectError>>;

/// Outgoing packets in flight (at 128 KiB each, 4 MiB; most are stats and small files).
const DEPTH: usize = 32;

/// The two directions of a call the daemon made. Dropping the sender half-closes the call;
/// dropping the stream cancels it.
#[must_use]
pub fn client_channel(
    call: BidiStream<Incoming, Packet, PacketView<'static>>,
) -> (PacketStream, mpsc::Sender<Packet>) {
    let (mut send, receive) = call.into_split();
    let (outgoing, mut queue) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        while let Some(packet) = queue.recv().await {
            // The reason for an early end is the call's status, which the stream reports.
            if send.send(packet).await.is_err() {
                break;
            }
        }
        send.close_send();
    });
    let packets = stream::unfold(Some(receive), |state| async move {
        let mut receive = state?;
        match receive.message().await {
            Ok(Some(message)) => Some((Ok(message), Some(receive))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    (packets.boxed(), outgoing)
}

/// The outgoing direction of a call the client serves: a sender and the response stream.
#[must_use]
pub fn server_channel() -> (mpsc::Sender<Packet>, ServiceStream<Packet>) {
    let (outgoing, queue) = mpsc::channel(DEPTH);
    (outgoing, Box::pin(ReceiverStream::new(queue).map(Ok)))
}
