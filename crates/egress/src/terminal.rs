//! The inner end of one TCP connection: a smoltcp interface of its own holding a single socket.
//!
//! One instance per flow makes a packet's cost independent of the number of flows, and a confused flow harmless to others.
//! Buffers are fixed when the connection is accepted. The step's segments are only ever given to the flow they name.

use std::net::SocketAddrV4;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use tokio::time::{Duration, Instant};

use crate::MTU;
use crate::packet::{Ipv4, Segment, TCP};

/// Where packets to the step go.
pub(crate) trait Wire {
    /// Whether TCP checksums must be filled in by the sender.
    fn checksums(&self) -> bool;
    /// Sends a packet of `length` bytes that `fill` writes.
    fn send<R>(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R;
}

pub(crate) struct Terminal {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    epoch: Instant,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

impl Terminal {
    /// Waits for the step to open its connection to `destination`, whose part this end plays. `buffer` bytes are kept in
    /// each direction; `seed` must be unpredictable, since sequence numbers come from it.
    pub(crate) fn listen(
        destination: SocketAddrV4,
        buffer: usize,
        seed: u64,
        wire: &impl Wire,
    ) -> Terminal {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface =
            Interface::new(config, &mut Port { packet: None, wire }, StackTime::ZERO);
        let address = IpAddress::Ipv4(*destination.ip());
        interface.update_ip_addrs(|addresses| {
            // There is room for two.
            let _ = addresses.push(IpCidr::new(address, 32));
        });
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        // The step's kernel acknowledges and delays on its own account; adding to that only costs time.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let endpoint = IpListenEndpoint { addr: Some(address), port: destination.port() };
        if let Err(error) = socket.listen(endpoint) {
            // Only port 0 does this, which the policy refused; the connection is then reset by the stack.
            tracing::debug!(%error, "cannot listen for the step");
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Terminal { interface, sockets, handle, epoch: Instant::now() }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes one packet of this flow from the step. Replies that cannot wait go out at once.
    pub(crate) fn ingress(&mut self, packet: &[u8], wire: &impl Wire) {
        let now = self.now();
        self.interface.poll_ingress_single(
            now,
            &mut Port { packet: Some(packet), wire },
            &mut self.sockets,
        );
    }

    /// Sends what is due, at most `budget` packets. True when more is due.
    pub(crate) fn egress(&mut self, budget: usize, wire: &impl Wire) -> bool {
        let now = self.now();
        let mut port = Port { packet: None, wire };
        (0..budget).all(|_| {
            self.interface.poll_egress(now, &mut port, &mut self.sockets) != PollResult::None
        })
    }

    /// When `egress` has to be called next, if nothing happens before.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let now = self.now();
        let at = self.interface.poll_at(now, &self.sockets)?;
        Some(self.epoch + Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }

    fn now(&self) -> StackTime {
        StackTime::from_micros(i64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// The device of a terminal for the time of one call.
struct Port<'a, W> {
    packet: Option<&'a [u8]>,
    wire: &'a W,
}

struct Received<'a>(&'a [u8]);

struct Sending<'a, W>(&'a W);

impl<W: Wire> Device for Port<'_, W> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sending<'t, W>
    where
        Self: 't;

    fn receive(&mut self, _now: StackTime) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.packet.take().map(|packet| (Received(packet), Sending(self.wire)))
    }

    fn transmit(&mut self, _now: StackTime) -> Option<Self::TxToken<'_>> {
        Some(Sending(self.wire))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = if self.wire.checksums() { Checksum::Tx } else { Checksum::None };
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = checksum;
        capabilities
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<W: Wire> TxToken for Sending<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.send(length, f)
    }
}

/// Reads `data` as packets, each after its 16-bit length, and gives the TCP ones to one terminal.
pub(crate) fn exercise(data: &[u8]) {
    struct Sink;
    impl Wire for Sink {
        fn checksums(&self) -> bool {
            true
        }
        fn send<R>(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
            fill(&mut vec![0; length])
        }
    }
    let mut terminal: Option<Terminal> = None;
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*head)).min(tail.len());
        let (data, tail) = tail.split_at(length);
        rest = tail;
        let Some(ip) = Ipv4::parse(data) else { continue };
        let Some(segment) = (ip.protocol == TCP).then(|| Segment::parse(ip.payload)).flatten()
        else {
            continue;
        };
        let destination = SocketAddrV4::new(ip.destination, segment.destination_port);
        let terminal =
            terminal.get_or_insert_with(|| Terminal::listen(destination, 4096, 1, &Sink));
        terminal.ingress(ip.packet, &Sink);
        let _ = terminal.socket().recv(|buffer| (buffer.len(), ()));
        let _ = terminal.socket().send_slice(data);
        terminal.egress(8, &Sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deterministic generator, so that a failure can be repeated.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn framed(
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let length = (40 + options.len() + payload.len()) as u16;
        let mut out = length.to_be_bytes().to_vec();
        out.extend([0x45, 0]);
        out.extend(length.to_be_bytes());
        out.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 206, 0, 2, 203, 0, 113, 5, 0x80, 0, 0, 80]);
        out.extend(sequence.to_be_bytes());
        out.extend(acknowledgement.to_be_bytes());
        out.extend([(5 + options.len() as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        out.extend(options);
        out.extend(payload);
        out
    }

    /// Keeps the sequence number of the last packet sent.
    #[derive(Default)]
    struct Last(std::cell::Cell<u32>);

    impl Wire for Last {
        fn checksums(&self) -> bool {
            true
        }
        fn send<R>(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
            let mut packet = vec![0; length];
            let result = fill(&mut packet);
            self.0.set(u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]));
            result
        }
    }

    #[test]
    fn forged_segments_do_not_panic_the_stack() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut established = 0;
        for round in 0..2_000 {
            let wire = Last::default();
            let destination = SocketAddrV4::new([203, 0, 113, 5].into(), 80);
            let mut terminal = Terminal::listen(destination, 8192, round, &wire);
            let mss = [2, 4, (random(&mut state) % 3) as u8, random(&mut state) as u8];
            let scale = [3, 3, random(&mut state) as u8, 1];
            terminal.ingress(&framed(1000, 0, 2, &[mss, scale].concat(), &[])[2..], &wire);
            terminal.egress(8, &wire);
            terminal.ingress(&framed(1001, wire.0.get().wrapping_add(1), 16, &[], &[])[2..], &wire);
            established += u32::from(terminal.socket().may_send());
            for _ in 0..random(&mut state) % 60 {
                let near = |base: u32, r: u64| match r % 8 {
                    0 => (r >> 8) as u32,
                    1..=4 => base.wrapping_add((r >> 8) as u32 % 100),
                    _ => base.wrapping_add((r >> 8) as u32 % 9000),
                };
                let choice = random(&mut state) as usize % 12;
                let flags = *[0x11, 0x14, 0x02, 0x12, random(&mut state) as u8]
                    .get(choice)
                    .unwrap_or(&0x18);
                let sequence = near(1001, random(&mut state));
                let acknowledgement = near(wire.0.get(), random(&mut state));
                let payload = vec![7; random(&mut state) as usize % 3000];
                terminal
                    .ingress(&framed(sequence, acknowledgement, flags, &[], &payload)[2..], &wire);
                match random(&mut state) % 4 {
                    0 => drop(terminal.socket().recv(|data| (data.len() / 2, ()))),
                    1 => drop(terminal.socket().send_slice(&payload)),
                    2 if random(&mut state).is_multiple_of(16) => terminal.socket().close(),
                    _ => {}
                }
                terminal.egress(8, &wire);
                terminal.deadline();
            }
            exercise(&framed(1000, 0, 2, &[], &[]));
        }
        assert!(established > 1_000, "only {established} connections were opened");
    }
}
