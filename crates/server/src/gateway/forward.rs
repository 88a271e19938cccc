//! One connection of a client to the builder of its build.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tracing::Instrument;

use super::authority::fingerprint;
use super::ended;
use crate::builds::{Builds, LiveBuild};
use crate::metrics::ERRORS;

/// Bytes in flight in each direction: a context is sent in messages of this order.
const BUFFER: usize = 128 << 10;
/// How long the builder may take to accept the connection.
const CONNECT: Duration = Duration::from_secs(30);

/// Carries a connection until either side ends it or the build does.
pub(crate) async fn serve(stream: TlsStream<TcpStream>, builds: &Arc<Builds>) {
    // The verifier has seen that it is there and ours.
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(build) = certificate.and_then(|found| builds.of_certificate(&fingerprint(found)))
    else {
        tracing::debug!("a connection with the certificate of a build that has ended");
        return;
    };
    let Some(_connection) = build.connection() else {
        ended::serve(stream, builds, &build).instrument(build.span().clone()).await;
        return;
    };
    let traced = build.trace().begin("connection");
    let carried = carry(stream, builds, &build).instrument(build.span().clone()).await;
    build.trace().end(traced, !carried);
}

/// Returns whether there was a builder at the other end.
async fn carry(
    mut stream: TlsStream<TcpStream>,
    builds: &Arc<Builds>,
    build: &Arc<LiveBuild>,
) -> bool {
    let connect = tokio::time::timeout(CONNECT, builds.connect(build));
    let mut builder = match connect.await {
        Ok(Ok(builder)) => builder,
        Ok(Err(error)) => {
            ERRORS.count("unreachable", 1);
            tracing::warn!(%error, "cannot reach the builder");
            return false;
        }
        Err(_) => {
            ERRORS.count("unreachable", 1);
            tracing::warn!("the builder took too long to accept a connection");
            return false;
        }
    };
    tokio::select! {
        // Clients just drop connections; that is no event.
        result = copy_bidirectional_with_sizes(&mut stream, &mut builder, BUFFER, BUFFER) => {
            if let Err(error) = result {
                tracing::debug!(%error, "a connection to a builder broke");
            }
        }
        () = build.cut() => {}
    }
    true
}
