//! Asks the host's resolvers.
//!
//! Every query gets a socket and an id of its own, so that forging an answer means guessing both (RFC 5452). Answers are only
//! taken from the address asked, and must repeat the question.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Transport;
use super::message::{Answer, Query, id};
use crate::step::Step;

/// How long one resolver may take.
const WAIT: Duration = Duration::from_millis(2500);
/// Rounds over the list of resolvers for UDP, where packets get lost.
const UDP_ROUNDS: usize = 2;
/// Largest answer: what the length field of the TCP form can say.
const MAX_ANSWER: usize = 65535;

/// The first acceptable answer, with the id it came with.
pub(super) async fn ask(
    resolvers: &[SocketAddr],
    query: &Query,
    transport: Transport,
    step: &Step,
) -> Option<Vec<u8>> {
    let rounds = if transport == Transport::Udp { UDP_ROUNDS } else { 1 };
    for resolver in resolvers.iter().cycle().take(resolvers.len() * rounds) {
        let sent_id = (step.random() >> 16) as u16;
        let message = query.forwarded(sent_id, transport == Transport::Udp);
        let found = timeout(WAIT, async {
            match transport {
                Transport::Udp => over_udp(*resolver, &message, query, sent_id).await,
                Transport::Tcp => over_tcp(*resolver, &message).await,
            }
        })
        .await;
        match found {
            Ok(Ok(answer)) if is_answer(&answer, query, sent_id) => return Some(answer),
            Ok(Ok(_)) => tracing::debug!(%resolver, "a resolver answered something else"),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver could not be asked"),
            Err(_) => tracing::debug!(%resolver, "a resolver did not answer"),
        }
    }
    None
}

fn is_answer(answer: &[u8], query: &Query, sent_id: u16) -> bool {
    id(answer) == Some(sent_id) && Answer::parse(answer, query).is_ok()
}

async fn over_udp(
    resolver: SocketAddr,
    message: &[u8],
    query: &Query,
    sent_id: u16,
) -> io::Result<Vec<u8>> {
    let local: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(resolver).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        // A forged or late answer must not end the wait for the real one.
        if is_answer(answer, query, sent_id) {
            return Ok(answer.to_vec());
        }
        // The right id with unreadable contents is the resolver's own doing: waiting longer does not help.
        if id(answer) == Some(sent_id) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

async fn over_tcp(resolver: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
