//! The name service a step sees at the gate's address.
//!
//! A query is taken apart, judged by name, asked anew at the host's resolvers, and the answer judged by address before it goes
//! back: an answer must never hand a step an address it may not connect to (rebinding), and what is learned here labels and
//! opens connections later. IPv6 addresses are answered with "none", since there is no such path. Specification: RFC 1035,
//! with EDNS sizes of RFC 6891.

mod forward;
mod message;

use std::net::SocketAddrV4;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::GATE_ADDRESS;
use crate::record::{Protocol, Verdict};
use crate::step::Step;
use message::{Answer, Query, QueryError, rcode, rtype};

/// Port shown in records about lookups.
const DNS_PORT: u16 = 53;
/// Silence after which a TCP client of the name service is dropped.
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// Largest query taken over TCP; one question and EDNS options fit many times.
const MAX_STREAM_QUERY: usize = 4096;

/// How the step asked, which is how the resolver is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The reply to one query, or `None` when there is nothing that could be answered.
pub(crate) async fn answer(step: &Step, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let query = match Query::parse(bytes) {
        Ok(query) => query,
        Err(QueryError::Reply(header, code)) => return Some(message::bare_reply(header, code)),
        Err(QueryError::Hopeless) => return None,
    };
    match query.kind {
        rtype::ANY | rtype::AXFR | rtype::IXFR => return Some(query.reply(rcode::NOT_IMPLEMENTED)),
        _ => {}
    }
    let verdict = step.outside.policy.decide_name(&query.name);
    if verdict.is_denied() {
        return Some(refuse(step, &query, &query.name, verdict));
    }
    // No path for IPv6, and service bindings would only carry addresses past the filter below.
    if matches!(query.kind, rtype::AAAA | rtype::SVCB | rtype::HTTPS) {
        return Some(query.reply(rcode::NO_ERROR));
    }
    let found = forward::ask(&step.outside.resolvers, &query, transport, step).await;
    let reply = match found {
        Some(bytes) => judge(step, &query, bytes),
        None => query.reply(rcode::SERVER_FAILURE),
    };
    let fits = transport == Transport::Tcp || reply.len() <= query.udp_size;
    Some(if fits { reply } else { query.truncated() })
}

/// Turns what a resolver said into what the step may hear.
fn judge(step: &Step, query: &Query, mut bytes: Vec<u8>) -> Vec<u8> {
    let Ok(answer) = Answer::parse(&bytes, query) else {
        return query.reply(rcode::SERVER_FAILURE);
    };
    if answer.truncated {
        return query.truncated();
    }
    let policy = &step.outside.policy;
    for alias in &answer.aliases {
        if let Some(verdict) = policy.denies_name(alias) {
            return refuse(step, query, alias, verdict);
        }
    }
    let name: Arc<str> = Arc::from(query.name.as_str());
    let mut kept = Vec::new();
    let mut dropped = false;
    for &(address, ttl) in &answer.addresses {
        if policy.keeps_answer(&query.name, address) {
            step.names.borrow_mut().learn(address, &name);
            kept.push((address, ttl));
        } else {
            dropped = true;
            let verdict = Verdict::denied(format!("answer holds {address}, which is not open"));
            step.denied(
                SocketAddrV4::new(address, DNS_PORT),
                Protocol::Dns,
                Some(&query.name),
                verdict,
            );
        }
    }
    if dropped {
        return query.reply_with(&kept);
    }
    if answer.others.iter().any(|address| !policy.keeps_answer(&query.name, *address)) {
        message::cut_after_answers(&mut bytes, answer.answers_end);
    }
    message::set_id(&mut bytes, query.header.id);
    bytes
}

fn refuse(step: &Step, query: &Query, name: &str, verdict: Verdict) -> Vec<u8> {
    step.denied(SocketAddrV4::new(GATE_ADDRESS, DNS_PORT), Protocol::Dns, Some(name), verdict);
    query.reply(rcode::NO_SUCH_NAME)
}

/// Serves queries over one TCP connection, one after the other.
pub(crate) async fn serve_stream(step: &Rc<Step>, mut stream: UnixStream) {
    let mut query = Vec::new();
    loop {
        let received = timeout(STREAM_IDLE, async {
            let length = usize::from(stream.read_u16().await.ok()?);
            query.resize(length.min(MAX_STREAM_QUERY), 0);
            (length <= MAX_STREAM_QUERY).then_some(())?;
            stream.read_exact(&mut query).await.ok().map(drop)
        });
        if !matches!(received.await, Ok(Some(()))) {
            return;
        }
        let Some(_slot) = step.lookup_slot() else { return };
        let Some(reply) = answer(step, &query, Transport::Tcp).await else { return };
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

pub(crate) fn exercise(data: &[u8]) {
    if let Ok(query) = Query::parse(data) {
        let _ = Query::parse(&query.forwarded(7, true));
        let _ = (query.truncated(), query.reply(rcode::NO_ERROR));
    }
    // The first two bytes of a fixed question keep most inputs past the identity check.
    if let Ok(query) = Query::parse(message::SAMPLE_QUERY) {
        let mut reply = query.reply(rcode::NO_ERROR);
        reply.extend_from_slice(data.get(6..).unwrap_or_default());
        if let Some(counts) = data.get(..6) {
            reply[6..12].copy_from_slice(counts);
        }
        let _ = Answer::parse(data, &query);
        if let Ok(answer) = Answer::parse(&reply, &query) {
            message::cut_after_answers(&mut reply, answer.answers_end);
            assert!(Answer::parse(&reply, &query).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Query {
        Query::parse(message::SAMPLE_QUERY).unwrap()
    }

    #[test]
    fn queries_are_read_strictly() {
        let query = sample();
        assert_eq!((query.name.as_str(), query.kind, query.udp_size), ("a.bc", rtype::A, 512));
        assert_eq!(query.forwarded(7, true)[2..], message::SAMPLE_QUERY[2..]);
        for length in 0..message::SAMPLE_QUERY.len() {
            assert!(Query::parse(&message::SAMPLE_QUERY[..length]).is_err(), "{length}");
        }
        // A reply, two questions, an unknown opcode, another class, a compressed and an overlong name.
        for (at, value) in [(2, 0x81), (5, 2), (2, 0x28), (20, 3), (12, 0xc0), (12, 64), (12, 9)] {
            let mut bad = message::SAMPLE_QUERY.to_vec();
            bad[at] = value;
            assert!(Query::parse(&bad).is_err(), "byte {at} = {value}");
        }
        let mut long = message::SAMPLE_QUERY[..12].to_vec();
        long.extend([1, b'x'].repeat(130));
        long.extend([0, 0, 1, 0, 1]);
        assert!(Query::parse(&long).is_err());
    }

    #[test]
    fn odd_labels_cannot_imitate_others() {
        let mut bytes = message::SAMPLE_QUERY[..12].to_vec();
        bytes.extend(b"\x05a.bc\\\x03COM\x00\x00\x01\x00\x01");
        assert_eq!(Query::parse(&bytes).unwrap().name, "a\\046bc\\092.com");
    }

    #[test]
    fn edns_is_bounded_and_rebuilt() {
        let mut bytes = message::SAMPLE_QUERY.to_vec();
        bytes[11] = 1;
        bytes.extend([0, 0, 41, 0xff, 0xff, 0, 0, 0x80, 0, 0, 4, 0, 8, 0, 0]);
        let query = Query::parse(&bytes).unwrap();
        assert_eq!(query.udp_size, 4096);
        let forwarded = query.forwarded(1, true);
        assert_eq!(
            forwarded[forwarded.len() - 11..],
            [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0],
            "no options, no flags"
        );
        bytes.pop();
        assert!(Query::parse(&bytes).is_err());
    }

    #[test]
    fn hostile_answers_are_refused() {
        let query = sample();
        let reply = query.reply_with(&[("1.2.3.4".parse().unwrap(), 60)]);
        let answer = Answer::parse(&reply, &query).unwrap();
        assert_eq!(answer.addresses, [("1.2.3.4".parse().unwrap(), 60)]);
        for length in 0..reply.len() {
            assert!(Answer::parse(&reply[..length], &query).is_err(), "{length}");
        }
        let start = message::SAMPLE_QUERY.len();
        // Not a reply, other question, more records than there are, a pointer to itself and one forward, a short address.
        for (at, value) in [
            (2, 0),
            (13, b'x'),
            (7, 2),
            (6, 255),
            (start + 1, start as u8),
            (start + 1, 200),
            (start + 11, 3),
            (start + 11, 5),
        ] {
            let mut bad = reply.clone();
            bad[at] = value;
            assert!(Answer::parse(&bad, &query).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                sample().reply_with(&[
                    ("1.2.3.4".parse().unwrap(), 60),
                    ("5.6.7.8".parse().unwrap(), 1),
                ])
            } else {
                message::SAMPLE_QUERY.to_vec()
            };
            for _ in 0..next() % 6 {
                let at = (next() as usize) % bytes.len();
                bytes[at] = next() as u8;
            }
            exercise(&bytes);
            crate::exercise_control(&bytes);
            crate::exercise_packet(&bytes);
        }
    }
}
