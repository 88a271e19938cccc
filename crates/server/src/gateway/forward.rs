//! One connection of a client to the builder of its build.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::authority::fingerprint;
use crate::builds::Builds;

/// Bytes in flight in each direction: a context is sent in messages of this order.
const BUFFER: usize = 128 << 10;
/// How long the builder may take to accept the connection.
const CONNECT: Duration = Duration::from_secs(30);

/// Carries a connection until either side ends it or the build does.
pub(crate) async fn serve(mut stream: TlsStream<TcpStream>, builds: &Arc<Builds>) {
    // The verifier has seen that it is there and ours.
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(build) = certificate.and_then(|found| builds.of_certificate(&fingerprint(found)))
    else {
        tracing::debug!("a connection with the certificate of a build that has ended");
        return;
    };
    let Some(_connection) = build.connection() else { return };
    let connect = tokio::time::timeout(CONNECT, builds.connect(&build));
    let mut builder = match connect.await {
        Ok(Ok(builder)) => builder,
        Ok(Err(error)) => {
            tracing::warn!(build = build.id(), project = build.project_id(), %error, "cannot reach the builder");
            return;
        }
        Err(_) => {
            tracing::warn!(build = build.id(), "the builder took too long to accept a connection");
            return;
        }
    };
    tokio::select! {
        // Clients just drop connections; that is no event.
        result = copy_bidirectional_with_sizes(&mut stream, &mut builder, BUFFER, BUFFER) => {
            if let Err(error) = result {
                tracing::debug!(build = build.id(), %error, "a connection to a builder broke");
            }
        }
        () = build.cut() => {}
    }
}
