//! The guest's side of the channel: its order, connections for the builder, and the way to the gate.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;

use super::{GuestError, start};
use crate::channel::{self, Channel, Incoming, Purpose, Side, Stream};
use crate::order::{Command, MAX_NEWS, MAX_ORDER, News, Order};
use crate::relay;

/// Bytes on their way in one connection and direction.
const BUFFER: usize = 64 << 10;

/// Where the builder listens, in the guest.
#[derive(Debug, Clone)]
pub enum Target {
    /// At a unix socket.
    Unix(PathBuf),
    /// At a TCP address.
    Tcp(std::net::SocketAddr),
}

/// The channel to the host, after its order has come.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    incoming: Incoming,
    stream: Stream,
    order: Order,
}

/// A running builder.
pub struct Inside<E, S> {
    /// The gate's end of its control socket.
    pub gate: OwnedFd,
    /// What it logs.
    pub log: OwnedFd,
    /// Its listeners, by the host's numbers.
    pub targets: Vec<Target>,
    /// Its end, as an exit code.
    pub ended: E,
    /// Sends it a signal.
    pub signal: S,
}

impl Session {
    /// Waits for the host's order on `port`, and sets clock and random numbers as it says. Inside a `LocalSet`.
    ///
    /// # Errors
    ///
    /// When the host does not keep to the protocol.
    pub async fn receive(port: OwnedFd) -> Result<Self, GuestError> {
        let port = Port::new(port).map_err(GuestError::Channel)?;
        let (channel, mut incoming, _driver) = channel::start(port, Side::Guest);
        let broken = |kind: io::ErrorKind| GuestError::Channel(kind.into());
        let stream = incoming.next().await.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof))?;
        let mut stream = channel::stream(stream);
        if Purpose::read(&mut stream).await.map_err(GuestError::Channel)? != Purpose::Order {
            return Err(broken(io::ErrorKind::InvalidData));
        }
        let order: Option<Order> =
            channel::receive(&mut stream, MAX_ORDER).await.map_err(GuestError::Channel)?;
        let order = order.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof))?;
        start::settle(&order)?;
        Ok(Self { channel, incoming, stream, order })
    }

    /// What the host wants.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Tells the host that the builder could not be started.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub async fn fail(mut self, why: String) -> Result<(), GuestError> {
        channel::send(&mut self.stream, &News::Failed(why)).await.map_err(GuestError::Channel)?;
        // The host ends the machine; until then the message must not be lost with it.
        channel::receive::<Command>(&mut self.stream, MAX_NEWS).await.ok();
        Ok(())
    }

    /// Serves until the builder has ended, then settles the disk and tells the host.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub async fn serve<E, S>(self, inside: Inside<E, S>) -> Result<(), GuestError>
    where
        E: Future<Output = i32>,
        S: Fn(i32) + 'static,
    {
        let Self { channel, mut incoming, mut stream, .. } = self;
        channel::send(&mut stream, &News::Ready).await.map_err(GuestError::Channel)?;
        let (mut commands, mut news) = tokio::io::split(stream);
        spawn_local({
            let channel = channel.clone();
            async move {
                if let Err(error) = relay::in_guest(&channel, inside.gate).await {
                    eprintln!("cofferdam: the way to the gate is lost: {error}");
                }
            }
        });
        spawn_local(log(channel.clone(), inside.log));
        let signal = inside.signal;
        spawn_local(async move {
            while let Ok(Some(command)) = channel::receive(&mut commands, MAX_NEWS).await {
                match command {
                    Command::Signal(number) => signal(number),
                    // A clock that cannot be set now can be set the next time.
                    Command::Time(time) => drop(start::set_clock(time)),
                }
            }
        });
        tokio::pin! { let ended = inside.ended; }
        let code = loop {
            tokio::select! {
                code = &mut ended => break code,
                stream = incoming.next() => {
                    let gone = || GuestError::Channel(io::ErrorKind::UnexpectedEof.into());
                    let stream = channel::stream(stream.ok_or_else(gone)?);
                    let targets = inside.targets.clone();
                    spawn_local(async move { connect(stream, &targets).await.ok() });
                }
            }
        };
        start::settle_disk();
        channel::send(&mut news, &News::Ended(code)).await.map_err(GuestError::Channel)?;
        // The message is out when the host has taken it; it has when it ends the stream, or after a moment.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Ok(())
    }
}

/// Connects one client to the builder.
async fn connect(mut stream: Stream, targets: &[Target]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let Purpose::Client(number) = Purpose::read(&mut stream).await? else { return Err(invalid()) };
    match targets.get(number as usize).ok_or_else(invalid)? {
        Target::Unix(path) => {
            let mut builder = UnixStream::connect(path).await?;
            copy_bidirectional_with_sizes(&mut stream, &mut builder, BUFFER, BUFFER).await?;
        }
        Target::Tcp(address) => {
            let mut builder = TcpStream::connect(address).await?;
            builder.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut stream, &mut builder, BUFFER, BUFFER).await?;
        }
    }
    Ok(())
}

/// Carries what the builder logs to the host.
async fn log(channel: Channel, pipe: OwnedFd) -> io::Result<()> {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)?;
    let mut stream = channel.open(&Purpose::Log).await?;
    tokio::io::copy(&mut pipe, &mut stream).await?;
    Ok(())
}

/// The virtio port as a stream of bytes.
struct Port(AsyncFd<OwnedFd>);

impl Port {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor stays open and the same for as long as the value that holds it.
        Ok(Self(unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?))
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_read_ready(context))?;
            match rustix::io::read(guard.get_inner(), buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_write_ready(context))?;
            match rustix::io::write(guard.get_inner(), bytes) {
                Ok(length) => return Poll::Ready(Ok(length)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
