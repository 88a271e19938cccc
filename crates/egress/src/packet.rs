//! The few IPv4, TCP and UDP fields the gate reads and writes itself (RFC 791, 768, 9293).
//!
//! Everything here comes from a step, which may write any bytes to its interface: every length is checked against what was
//! really read. Checksums of received packets are not verified, since they never crossed a wire. Fragments are dropped; the
//! interface's MTU makes none.

use std::net::{Ipv4Addr, SocketAddrV4};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// IPv4 and UDP header in front of a datagram's payload.
pub(crate) const UDP_HEADERS: usize = IP_HEADER + UDP_HEADER;
/// A packet with a bare TCP header.
pub(crate) const BARE_TCP: usize = IP_HEADER + TCP_HEADER;
/// Hop limit of packets made here; the step is one hop away.
const HOPS: u8 = 64;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// An unfragmented IPv4 packet, cut to its own length.
#[derive(Debug)]
pub(crate) struct Ipv4<'a> {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) packet: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Option<Ipv4<'a>> {
        let header: &[u8; IP_HEADER] = data.first_chunk()?;
        let header_length = usize::from(header[0] & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        if header[0] >> 4 != 4 || header_length < IP_HEADER || fragment {
            return None;
        }
        let packet = data.get(..length)?;
        Some(Ipv4 {
            source: address(header, 12),
            destination: address(header, 16),
            protocol: header[9],
            packet,
            payload: packet.get(header_length..)?,
        })
    }
}

fn address(header: &[u8; IP_HEADER], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
}

/// The header of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    /// Sequence numbers the segment takes up.
    length: u32,
}

impl Segment {
    pub(crate) fn parse(data: &[u8]) -> Option<Segment> {
        let header: &[u8; TCP_HEADER] = data.first_chunk()?;
        let header_length = usize::from(header[12] >> 4) * 4;
        if header_length < TCP_HEADER {
            return None;
        }
        let payload = u32::try_from(data.get(header_length..)?.len()).ok()?;
        let flags = header[13];
        Some(Segment {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            acknowledgement: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags,
            length: payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0),
        })
    }

    /// Whether this segment asks for a new connection.
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    pub(crate) fn resets(&self) -> bool {
        self.flags & RST != 0
    }

    /// Writes the refusal of this segment (RFC 9293, 3.10.7.1) from `destination` back to `source`.
    pub(crate) fn refusal(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        out: &mut [u8; BARE_TCP],
    ) {
        let (sequence, acknowledgement, flags) = if self.flags & ACK != 0 {
            (self.acknowledgement, 0, RST)
        } else {
            (0, self.sequence.wrapping_add(self.length), RST | ACK)
        };
        write_ip(&mut out[..], destination, source, TCP);
        let (_, tcp) = out.split_at_mut(IP_HEADER);
        tcp.fill(0);
        tcp[0..2].copy_from_slice(&self.destination_port.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.source_port.to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = flags;
        let pseudo =
            u32::from(TCP) + TCP_HEADER as u32 + sum(&destination.octets()) + sum(&source.octets());
        let checksum = fold(pseudo + sum(tcp));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Ports and payload of a UDP datagram, cut to its own length.
pub(crate) fn parse_udp(data: &[u8]) -> Option<(u16, u16, &[u8])> {
    let header: &[u8; UDP_HEADER] = data.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = data.get(UDP_HEADER..length)?;
    Some((
        u16::from_be_bytes([header[0], header[1]]),
        u16::from_be_bytes([header[2], header[3]]),
        payload,
    ))
}

/// Writes the headers of a datagram whose payload already lies behind them in `packet`. The checksum is left out, as IPv4
/// allows: nothing between here and the step can damage it. False when the packet is too large for IPv4.
pub(crate) fn write_udp(packet: &mut [u8], from: SocketAddrV4, to: SocketAddrV4) -> bool {
    let Some(length) =
        packet.len().checked_sub(IP_HEADER).and_then(|length| u16::try_from(length).ok())
    else {
        return false;
    };
    if u16::try_from(packet.len()).is_err() || usize::from(length) < UDP_HEADER {
        return false;
    }
    write_ip(packet, *from.ip(), *to.ip(), UDP);
    let udp = &mut packet[IP_HEADER..UDP_HEADERS];
    udp[0..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    udp[6..8].fill(0);
    true
}

/// The caller guarantees that `packet` holds at least the header and at most 65535 bytes.
fn write_ip(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) {
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let header = &mut packet[..IP_HEADER];
    header.fill(0);
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[6] = 0x40;
    header[8] = HOPS;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// One's complement sum of short headers (no more than 64 KiB, so it cannot overflow).
fn sum(data: &[u8]) -> u32 {
    data.chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hostile_lengths_are_refused() {
        let mut packet = vec![0u8; 40];
        write_ip(&mut packet, Ipv4Addr::new(10, 206, 0, 2), Ipv4Addr::new(1, 1, 1, 1), TCP);
        packet[32] = 5 << 4;
        assert!(Ipv4::parse(&packet).is_some_and(|ip| Segment::parse(ip.payload).is_some()));
        for (at, value) in
            [(0, 0x65), (0, 0x44), (0, 0x40), (3, 41), (3, 19), (2, 0xff), (6, 0x20), (7, 1)]
        {
            let mut bad = packet.clone();
            bad[at] = value;
            assert!(Ipv4::parse(&bad).is_none(), "byte {at} = {value:#x}");
        }
        for (at, value) in [(32, 0x40), (32, 0xf0)] {
            let mut bad = packet.clone();
            bad[at] = value;
            assert!(Segment::parse(Ipv4::parse(&bad).unwrap().payload).is_none());
        }
        for length in 0..20 {
            assert!(Ipv4::parse(&packet[..length]).is_none());
        }
        let udp = [0, 1, 0, 2, 0, 9, 0, 0, 7, 8];
        assert_eq!(parse_udp(&udp), Some((1, 2, &udp[8..9])));
        assert!(
            parse_udp(&[0, 1, 0, 2, 0, 7, 0, 0]).is_none()
                && parse_udp(&[0, 1, 0, 2, 0, 99, 0, 0]).is_none()
        );
    }

    #[test]
    fn written_packets_have_valid_checksums() {
        let (a, b) = (Ipv4Addr::new(10, 206, 0, 2), Ipv4Addr::new(203, 0, 113, 9));
        let segment = Segment {
            source_port: 5,
            destination_port: 6,
            sequence: 7,
            acknowledgement: 0,
            flags: SYN,
            length: 1,
        };
        let mut out = [0; BARE_TCP];
        segment.refusal(a, b, &mut out);
        assert_eq!(fold(sum(&out[..20])), 0);
        assert_eq!(fold(sum(&out[12..]) + u32::from(TCP) + 20), 0);
        let ip = Ipv4::parse(&out).unwrap();
        assert_eq!((ip.source, ip.destination), (b, a));
        let back = Segment::parse(ip.payload).unwrap();
        assert!(back.resets() && back.acknowledgement == 8);
        let mut datagram = vec![0; UDP_HEADERS + 3];
        assert!(write_udp(&mut datagram, SocketAddrV4::new(b, 53), SocketAddrV4::new(a, 9)));
        assert_eq!(
            parse_udp(Ipv4::parse(&datagram).unwrap().payload),
            Some((53, 9, &[0u8, 0, 0][..]))
        );
        assert!(!write_udp(&mut vec![0; 65536], SocketAddrV4::new(b, 53), SocketAddrV4::new(a, 9)));
    }
}
