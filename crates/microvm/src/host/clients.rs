//! Connections of clients, carried to the builder in the guest. Their bytes pass unread.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use crate::channel::{Channel, Purpose};

/// Connections at once; a bound on descriptors and streams.
const MAX_CLIENTS: usize = 512;
/// Bytes on their way in one connection and direction.
const BUFFER: usize = 64 << 10;
/// A failing accept usually means that descriptors ran out; spinning would make it worse.
const PAUSE: Duration = Duration::from_millis(200);

/// Where clients come to; bound by whoever started this process.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener),
    /// A TCP socket.
    Tcp(std::net::TcpListener),
}

/// Serves a listener in the background: whoever comes is connected to the guest's listener of the same number.
pub(super) fn serve(number: u32, listener: Listener, channel: Channel) -> io::Result<()> {
    let places = Rc::new(Semaphore::new(MAX_CLIENTS));
    match listener {
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::UnixListener::from_std(listener)?;
            spawn_local(async move {
                loop {
                    let accepted = listener.accept().await.map(|(client, _)| client);
                    admit(accepted, number, &channel, &places).await;
                }
            });
        }
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            spawn_local(async move {
                loop {
                    let accepted = listener.accept().await.map(|(client, _)| client);
                    admit(accepted, number, &channel, &places).await;
                }
            });
        }
    }
    Ok(())
}

async fn admit<C: AsyncRead + AsyncWrite + Unpin + 'static>(
    accepted: io::Result<C>,
    number: u32,
    channel: &Channel,
    places: &Rc<Semaphore>,
) {
    let mut client = match accepted {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            return tokio::time::sleep(PAUSE).await;
        }
    };
    let channel = channel.clone();
    let places = Rc::clone(places);
    spawn_local(async move {
        let Ok(_place) = places.try_acquire() else {
            return tracing::warn!("a connection was refused: there are {MAX_CLIENTS} already");
        };
        let carried = async {
            let mut stream = channel.open(&Purpose::Client(number)).await?;
            copy_bidirectional_with_sizes(&mut client, &mut stream, BUFFER, BUFFER).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(%error, "a connection to the virtual machine ended");
        }
    });
}
