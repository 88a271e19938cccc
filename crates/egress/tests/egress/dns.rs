//! The name service: a tiny resolver in the world, hostile answers included.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use cofferdam_egress::{Connection, Protocol};

use crate::world::{METADATA, PRIVATE, RESOLVER, SERVER, World, at, connect, exchange, may_run};

const A: u16 = 1;
const AAAA: u16 = 28;
const TXT: u16 = 16;

/// What the tiny resolver says to a question.
fn resolve(query: &[u8], tcp: bool) -> Vec<u8> {
    let question = &query[12..];
    let name_end = question.iter().position(|b| *b == 0).unwrap();
    let first = String::from_utf8_lossy(&question[1..1 + usize::from(question[0])]).to_lowercase();
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    reply.extend_from_slice(&question[..name_end + 5]);
    let addresses: &[&str] = match first.as_str() {
        "ok" | "www" | "bad" => &[SERVER],
        "rebind" => &[PRIVATE, METADATA],
        "mixed" => &[PRIVATE, SERVER],
        "many" if tcp => &[SERVER; 40],
        "alias" => {
            // CNAME to bad.example.net, then its address.
            let target = b"\x03bad\x07example\x03net\x00";
            reply[7] = 2;
            reply.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, target.len() as u8]);
            let at = reply.len();
            reply.extend_from_slice(target);
            reply.extend_from_slice(&[
                0xc0 | (at >> 8) as u8,
                at as u8,
                0,
                1,
                0,
                1,
                0,
                0,
                0,
                9,
                0,
                4,
            ]);
            reply.extend_from_slice(&SERVER.parse::<Ipv4Addr>().unwrap().octets());
            return reply;
        }
        "glue" => {
            reply[11] = 1;
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 9, 9, 9]);
            return reply;
        }
        "many" => {
            reply[2] |= 2;
            return reply;
        }
        "loop" => {
            reply[7] = 1;
            let at = reply.len();
            reply.extend_from_slice(&[0xc0, at as u8, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 1, 1, 1]);
            return reply;
        }
        _ => {
            reply[3] |= 3;
            return reply;
        }
    };
    reply[7] = addresses.len() as u8;
    for address in addresses {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        reply.extend_from_slice(&address.parse::<Ipv4Addr>().unwrap().octets());
    }
    reply
}

fn start_resolver(world: &World) {
    let socket = world.outer.run(|| UdpSocket::bind((RESOLVER, 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&resolve(&buffer[..length], false), from);
        }
    });
    world.serve(53, |mut stream| {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let reply = resolve(&query, true);
            stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

#[derive(Debug, PartialEq)]
struct Reply {
    code: u8,
    truncated: bool,
    addresses: Vec<Ipv4Addr>,
    length: usize,
}

/// Takes the last four bytes of every 16-byte record with a compressed owner, which is how all these answers are made.
fn read(reply: &[u8], query: &[u8]) -> Reply {
    assert_eq!(reply[..2], query[..2]);
    assert_eq!(reply[12..query.len()], query[12..], "the question comes back letter for letter");
    let count = usize::from(reply[7]);
    let records = reply[query.len()..].chunks_exact(16).take(count);
    let addresses = records
        .filter(|r| r[2..4] == [0, 1])
        .map(|r| Ipv4Addr::new(r[12], r[13], r[14], r[15]))
        .collect();
    Reply { code: reply[3] & 15, truncated: reply[2] & 2 != 0, addresses, length: reply.len() }
}

fn ask(name: &str, kind: u16) -> Reply {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let query = question(name, kind);
    socket.send_to(&query, at("10.206.0.1", 53)).unwrap();
    let mut buffer = [0; 4096];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, at("10.206.0.1", 53));
    read(&buffer[..length], &query)
}

fn ask_tcp(name: &str, kind: u16) -> Reply {
    let mut stream = connect("10.206.0.1", 53).unwrap();
    let query = question(name, kind);
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&query);
    stream.write_all(&framed).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).unwrap();
    read(&reply, &query)
}

fn denied<'c>(connections: &'c [Connection], name: &str) -> &'c Connection {
    let matches = |c: &&Connection| c.name.as_deref() == Some(name) && c.denied();
    connections.iter().find(matches).unwrap_or_else(|| panic!("{name} in {connections:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_and_filtered() {
    if !may_run() {
        return;
    }
    let world = World::new(r#"{"deny":["*.example.net"]}"#);
    start_resolver(&world);
    world.serve_echo(7);
    let attachment = world.attach(0).await;
    let server: Ipv4Addr = SERVER.parse().unwrap();
    world
        .in_step(move || {
            for ask in [ask, ask_tcp] {
                let ok = ask("oK.Example.com", A);
                assert_eq!((ok.code, ok.addresses), (0, vec![server]));
                let none = ask("ok.example.com", AAAA);
                assert_eq!((none.code, none.addresses.len()), (0, 0));
                assert_eq!(ask("missing.example.com", A).code, 3);
                assert_eq!(ask("missing.example.com", TXT).code, 3);
                let rebind = ask("rebind.example.com", A);
                assert_eq!((rebind.code, rebind.addresses), (0, vec![]));
                assert_eq!(ask("mixed.example.com", A).addresses, [server]);
                assert_eq!(
                    ask("glue.example.com", A).length,
                    question("glue.example.com", A).len()
                );
                assert_eq!(
                    ask("loop.example.com", A).code,
                    2,
                    "an answer that points at itself is not passed on"
                );
                for closed in ["metadata.google.internal", "www.example.net", "alias.example.com"] {
                    assert_eq!(ask(closed, A).code, 3, "{closed}");
                }
                assert_eq!(ask("ok.example.com", 255).code, 4);
            }
            assert!(ask("many.example.com", A).truncated);
            assert_eq!(ask_tcp("many.example.com", A).addresses.len(), 40);
            assert_eq!(exchange(SERVER, 7, b"named").unwrap(), b"named");
        })
        .await;
    let record = attachment.finish().await.connections;
    let echo = record.iter().find(|c| c.port == 7).unwrap();
    assert_eq!(echo.name.as_deref(), Some("many.example.com"), "the name looked up last");
    assert_eq!(denied(&record, "metadata.google.internal").verdict.rule(), "instance metadata");
    assert_eq!(denied(&record, "bad.example.net").verdict.rule(), "deny *.example.net");
    let rebind = denied(&record, "rebind.example.com");
    assert_eq!((rebind.protocol, rebind.address.to_string().as_str()), (Protocol::Dns, PRIVATE));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_opens_names_and_only_those() {
    if !may_run() {
        return;
    }
    let world = World::new(
        r#"{"mode":"list","allow":["www.example.com:7","rebind.example.com","10.9.9.9:8"]}"#,
    );
    start_resolver(&world);
    world.serve_echo(7);
    world.serve_echo(8);
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            assert_eq!(ask("ok.example.com", A).code, 3);
            assert!(connect(SERVER, 7).is_err(), "not open before its name was looked up");
            assert_eq!(ask("www.example.com", A).addresses.len(), 1);
            assert_eq!(exchange(SERVER, 7, b"x").unwrap(), b"x");
            assert!(connect(SERVER, 8).is_err());
            let rebind = ask("rebind.example.com", A).addresses;
            assert_eq!(
                rebind,
                [PRIVATE.parse::<Ipv4Addr>().unwrap()],
                "open on some port, so it is told"
            );
            assert!(connect(PRIVATE, 7).is_err(), "a name does not open a private address");
            assert_eq!(exchange(PRIVATE, 8, b"y").unwrap(), b"y");
        })
        .await;
    let record = attachment.finish().await.connections;
    let open = record.iter().find(|c| c.port == 7 && !c.denied()).unwrap();
    assert_eq!(
        (open.verdict.rule(), open.name.as_deref()),
        ("allow www.example.com:7", Some("www.example.com"))
    );
    world.end().await;
}
