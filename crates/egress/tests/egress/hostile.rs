//! Raw packets no kernel would send. The gate must stay up, serve others, and leak no state.

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::world::{METADATA, SERVER, World, connect, exchange, may_run};

/// A small deterministic generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Writes bytes to `tun0` as they are.
struct Raw(std::os::fd::OwnedFd);

impl Raw {
    fn new() -> Raw {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        Raw(socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .unwrap())
    }

    fn send(&self, packet: &[u8]) {
        // SAFETY: a zeroed `sockaddr_ll` is valid, and the name is a C string.
        let (mut to, index) = unsafe {
            (std::mem::zeroed::<libc::sockaddr_ll>(), libc::if_nametoindex(c"tun0".as_ptr()))
        };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = 0x0800u16.to_be();
        to.sll_ifindex = index as i32;
        // SAFETY: pointers and lengths describe the two live values.
        unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            );
        }
    }
}

fn segment(destination: &str, source_port: u16, port: u16, flags: u8, payload: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + payload];
    let length = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&[10, 206, 0, 2]);
    packet[16..20].copy_from_slice(&destination.parse::<std::net::Ipv4Addr>().unwrap().octets());
    packet[20..22].copy_from_slice(&source_port.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = flags;
    packet[35] = 0xff;
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_packets_do_not_kill_the_gate() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    world.serve_echo(7);
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let raw = Raw::new();
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            // An open connection, whose segments are forged below.
            let open = connect(SERVER, 7).unwrap();
            let own_port = open.local_addr().unwrap().port();
            for round in 0..20_000u32 {
                let packet = match round % 6 {
                    0 => (0..random.next() % 200).map(|_| random.next() as u8).collect(),
                    1 => segment(SERVER, random.next() as u16, 7, random.next() as u8, 0),
                    2 => segment(
                        SERVER,
                        own_port,
                        7,
                        random.next() as u8,
                        (random.next() % 100) as usize,
                    ),
                    3 => segment(METADATA, random.next() as u16, 80, 2, 0),
                    4 => {
                        let mut udp = segment("10.206.0.1", 9, 53, 0, 30);
                        udp[9] = 17;
                        udp[24..26].copy_from_slice(&50u16.to_be_bytes());
                        udp[28..].iter_mut().for_each(|b| *b = random.next() as u8);
                        udp
                    }
                    _ => segment(SERVER, 40000, 7, 2, 0),
                };
                let mut packet: Vec<u8> = packet;
                for _ in 0..random.next() % 4 {
                    if let Some(at) = (random.next() as usize).checked_rem(packet.len()) {
                        packet[at] = random.next() as u8;
                    }
                }
                raw.send(&packet);
            }
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(exchange(SERVER, 7, b"alive").unwrap(), b"alive");
        })
        .await;
    let record = attachment.finish().await;
    assert!(record.complete);
    assert!(record.connections.iter().any(|c| c.bytes_down == 5));
    assert!(
        record
            .connections
            .iter()
            .filter(|c| c.address.to_string() == METADATA)
            .all(cofferdam_egress::Connection::denied)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_refused_and_counted() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    world.serve(75, |_stream| std::thread::sleep(Duration::from_secs(30)));
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let raw = Raw::new();
            for port in 1..3000u16 {
                raw.send(&segment(SERVER, port, 75, 2, 0));
                if port % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            std::thread::sleep(Duration::from_millis(300));
        })
        .await;
    let record = attachment.finish().await;
    let refused =
        record.connections.iter().filter(|c| c.denied()).count() as u64 + record.unlisted.denied;
    assert!(record.complete && record.connections.len() <= 16384);
    let allowed =
        record.connections.iter().filter(|c| !c.denied()).count() as u64 + record.unlisted.allowed;
    assert!(refused + allowed <= 2999 && allowed > 0, "{allowed} relayed, {refused} refused");
    world.end().await;
}
