//! The one way between host and guest: streams over the virtio-serial port, multiplexed by yamux.
//!
//! Each side reads what the other wrote without trust: the number of streams and what they hold is bounded, a message beyond its
//! bound ends the stream it came on, and an error of the multiplexer ends the channel, and with it the machine.

use std::io;
use std::task::Poll;

use futures::future::poll_fn;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode};

/// Streams at once: connections of clients, steps with a network and three of our own.
const MAX_STREAMS: usize = 1024;
/// What all streams may hold unread, in bytes: what yamux grants each at first.
const MAX_UNREAD: usize = MAX_STREAMS * (256 << 10);
/// Most that is written at once for one stream: a packet of a step fits.
const CHUNK: usize = 64 << 10;
/// Streams of the other side that nobody has taken yet; more are refused.
const MAX_NEW: usize = 64;

/// A stream of the channel.
pub(crate) type Stream = Compat<yamux::Stream>;

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Guest,
}

/// Opens streams.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
}

/// Streams that the other side opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    streams: mpsc::Receiver<yamux::Stream>,
}

/// Starts a channel on `socket`; the task ends with the channel, and says why.
pub(crate) fn start(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    side: Side,
) -> (Channel, Incoming, tokio::task::JoinHandle<Result<(), ConnectionError>>) {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_UNREAD));
    config.set_split_send_size(CHUNK);
    let mode = if side == Side::Host { Mode::Client } else { Mode::Server };
    let connection = Connection::new(socket.compat(), config, mode);
    let (requests, wanted) = mpsc::channel(MAX_NEW);
    let (found, streams) = mpsc::channel(MAX_NEW);
    let driver = tokio::task::spawn_local(drive(connection, wanted, found));
    (Channel { requests }, Incoming { streams }, driver)
}

async fn drive<T: futures::AsyncRead + futures::AsyncWrite + Unpin>(
    mut connection: Connection<T>,
    mut wanted: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    found: mpsc::Sender<yamux::Stream>,
) -> Result<(), ConnectionError> {
    let mut opening: Option<oneshot::Sender<yamux::Stream>> = None;
    poll_fn(|context| {
        loop {
            if opening.is_none()
                && let Poll::Ready(Some(request)) = wanted.poll_recv(context)
            {
                opening = Some(request);
            }
            if opening.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(context)
            {
                let stream = opened?;
                if let Some(request) = opening.take() {
                    // Whoever asked may have gone; the stream is then dropped.
                    request.send(stream).ok();
                }
                continue;
            }
            match connection.poll_next_inbound(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(stream))) => {
                    if found.try_send(stream).is_err() {
                        tracing::warn!("a stream of the other side was refused: too many at once");
                    }
                }
            }
        }
    })
    .await
}

impl Channel {
    /// Opens a stream and says what it is for.
    pub(crate) async fn open(&self, purpose: &Purpose) -> io::Result<Stream> {
        let (request, opened) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.requests.send(request).await.map_err(|_| gone())?;
        let mut stream = opened.await.map_err(|_| gone())?.compat();
        stream.write_all(&purpose.encode()).await?;
        stream.flush().await?;
        Ok(stream)
    }
}

impl Incoming {
    /// The next stream; `None` at the end of the channel.
    pub(crate) async fn next(&mut self) -> Option<yamux::Stream> {
        self.streams.recv().await
    }
}

/// What a stream is for; its first five bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Host to guest, once: what the guest is to do, and what becomes of it.
    Order,
    /// Host to guest: a client that came to the listener of this number.
    Client(u32),
    /// Guest to host, once: the gate's control socket.
    Gate,
    /// Guest to host: packets of the step that is attached with this number.
    Packets(u32),
    /// Guest to host, once: what the builder logs.
    Log,
}

impl Purpose {
    /// Length of its encoding.
    const LENGTH: usize = 5;

    fn encode(self) -> [u8; Self::LENGTH] {
        let (kind, number) = match self {
            Self::Order => (b'o', 0),
            Self::Client(number) => (b'c', number),
            Self::Gate => (b'g', 0),
            Self::Packets(number) => (b'p', number),
            Self::Log => (b'l', 0),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [kind, a, b, c, d]
    }

    /// Reads it from the beginning of a stream.
    pub(crate) async fn read(stream: &mut Stream) -> io::Result<Self> {
        let mut bytes = [0; Self::LENGTH];
        stream.read_exact(&mut bytes).await?;
        let [kind, number @ ..] = bytes;
        let number = u32::from_be_bytes(number);
        match kind {
            b'o' => Ok(Self::Order),
            b'c' => Ok(Self::Client(number)),
            b'g' => Ok(Self::Gate),
            b'p' => Ok(Self::Packets(number)),
            b'l' => Ok(Self::Log),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A stream as tokio has it.
pub(crate) fn stream(raw: yamux::Stream) -> Stream {
    raw.compat()
}

/// Writes one message.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    out: &mut W,
    message: &impl Serialize,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    write_frame(out, &bytes).await
}

/// Reads one message of at most `most` bytes; `None` at the end.
pub(crate) async fn receive<M: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<Option<M>> {
    let Some(bytes) = read_frame(input, most).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other)
}

/// Writes a length and bytes.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    out: &mut W,
    bytes: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(bytes.len() + 4);
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
    out.write_all(&frame).await?;
    out.flush().await
}

/// Reads what [`write_frame`] wrote, `None` at the end. Not to be cancelled: a part would be lost.
pub(crate) async fn read_frame(
    input: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// What a host reads of a guest: the channel's own frames, and what each stream begins with.
pub(crate) async fn exercise(data: &[u8]) {
    /// As of messages on the gate's control socket.
    const MOST: usize = 8192;
    let mut rest = data;
    while let Ok(Some(frame)) = read_frame(&mut rest, MOST).await {
        assert!(frame.len() <= MOST);
    }
    let Ok((ours, mut theirs)) = tokio::net::UnixStream::pair() else { return };
    let (_host, mut incoming, driver) = start(ours, Side::Host);
    let write = async {
        // A channel that ended early takes no more.
        theirs.write_all(data).await.ok();
        theirs.shutdown().await.ok();
        // It answers, and must not wait for somebody to read that.
        tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await.ok();
    };
    let read = async {
        while let Some(raw) = incoming.next().await {
            let mut stream = stream(raw);
            if Purpose::read(&mut stream).await.is_ok() {
                receive::<serde_json::Value>(&mut stream, MOST).await.ok();
            }
        }
    };
    tokio::join!(write, read);
    driver.await.ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test]
    async fn streams_say_what_they_are_for_and_carry_bytes_both_ways() {
        LocalSet::new()
            .run_until(async {
                let (a, b) = tokio::net::UnixStream::pair().unwrap();
                let (host, _host_incoming, _) = start(a, Side::Host);
                let (_guest, mut incoming, _) = start(b, Side::Guest);
                spawn_local(async move {
                    while let Some(raw) = incoming.next().await {
                        let mut stream = stream(raw);
                        let purpose = Purpose::read(&mut stream).await.unwrap();
                        spawn_local(async move {
                            stream.write_all(format!("{purpose:?} ").as_bytes()).await.unwrap();
                            let (mut input, mut output) = tokio::io::split(stream);
                            tokio::io::copy(&mut input, &mut output).await.unwrap();
                            output.shutdown().await.unwrap();
                        });
                    }
                });
                // More than any buffer on the way holds, many at once.
                let data = vec![7; 3 << 20];
                let run = |number: u32| {
                    let (host, data) = (host.clone(), data.clone());
                    spawn_local(async move {
                        let stream = host.open(&Purpose::Client(number)).await.unwrap();
                        let (mut input, mut output) = tokio::io::split(stream);
                        let copy = data.clone();
                        spawn_local(async move {
                            output.write_all(&copy).await.unwrap();
                            output.shutdown().await.unwrap();
                        });
                        let mut answer = Vec::new();
                        input.read_to_end(&mut answer).await.unwrap();
                        let greeting = format!("Client({number}) ");
                        assert!(answer.starts_with(greeting.as_bytes()));
                        assert!(answer[greeting.len()..] == data[..]);
                    })
                };
                for task in [run(1), run(2), run(u32::MAX)] {
                    task.await.unwrap();
                }
            })
            .await;
    }

    #[tokio::test]
    async fn what_is_too_long_or_nonsense_is_refused() {
        let mut long = &b"\0\0\x10\0rest"[..];
        let refused = read_frame(&mut long, 4095).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let mut cut = &b"\0\0\0\x05cut"[..];
        assert!(read_frame(&mut cut, 100).await.is_err());
        assert!(read_frame(&mut &b""[..], 100).await.unwrap().is_none());
        let mut bytes = Vec::new();
        send(&mut bytes, &"text").await.unwrap();
        assert_eq!(receive::<String>(&mut bytes.as_slice(), 100).await.unwrap().unwrap(), "text");
        assert!(receive::<u32>(&mut bytes.as_slice(), 100).await.is_err());
    }

    #[tokio::test]
    async fn any_bytes_are_survived() {
        // A new stream with seven bytes: what it is for, and the beginning of a message.
        let opened = b"\0\0\0\x01\0\0\0\x02\0\0\0\x07c\0\0\0\x01\xff\xff";
        // Windows, pings and goodbyes for streams that there are and that there are not.
        let others = b"\0\x01\0\0\0\0\0\x02\xff\xff\xff\xff\0\x02\0\x01\0\0\0\0\0\0\0\x01\0\x03\0\0\0\0\0\0\0\0\0\x09";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000 {
            let mut bytes = [&opened[..], &others[..], &opened[..]].concat();
            for _ in 0..round % 5 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            let set = LocalSet::new();
            let survived = set.run_until(exercise(&bytes));
            tokio::time::timeout(std::time::Duration::from_secs(5), survived).await.unwrap();
        }
    }

    #[tokio::test]
    async fn garbage_ends_the_channel() {
        LocalSet::new()
            .run_until(async {
                let (a, mut b) = tokio::net::UnixStream::pair().unwrap();
                let (host, mut incoming, driver) = start(a, Side::Host);
                b.write_all(&[0xff; 4096]).await.unwrap();
                assert!(driver.await.unwrap().is_err());
                assert!(incoming.next().await.is_none());
                assert!(host.open(&Purpose::Log).await.is_err());
            })
            .await;
    }
}
