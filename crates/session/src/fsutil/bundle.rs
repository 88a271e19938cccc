//! Several packets in one, between our own two ends.
//!
//! The protocol has a message for each entry and each small file, and for a tree of many of them the messages cost more than the
//! tree. A receiver says in the metadata of its call that it reads bundles ([`headers::BUNDLES`](crate::metadata::headers::BUNDLES)); a
//! sender that knows the key sends them, and a receiver that has got one answers likewise. BuildKit's ends do not know the key and never
//! see a bundle.
//!
//! A bundle is a packet of a type of its own, whose data are packets, each behind its length as four little-endian bytes. It holds no
//! other bundle.

use buffa::{EnumValue, Message as _, MessageView as _};
use cofferdam_wire::fsutil::types::{Packet, PacketView};

/// Far from the types that the protocol has.
const KIND: i32 = 4096;

/// A bundle of this size is sent. The last packet in it may be larger than that by itself.
pub(super) const FULL: usize = 32 << 10;

/// Bytes that should be packets and are not.
#[derive(Debug, thiserror::Error)]
#[error("what should be packets is not")]
pub(super) struct Malformed;

/// Packets to send as one.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    bytes: Vec<u8>,
}

impl Bundle {
    /// Adds a packet.
    pub(super) fn push(&mut self, packet: &Packet) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        packet.encode(&mut self.bytes);
        // No packet is near the four gigabytes that a length can tell; the message around it could not be sent.
        let length = u32::try_from(self.bytes.len() - start - 4).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Whether it should be sent before more is added.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// The packet to send, unless nothing is in it; empty afterwards.
    pub(super) fn take(&mut self) -> Option<Packet> {
        if self.bytes.is_empty() {
            return None;
        }
        let data = std::mem::replace(&mut self.bytes, Vec::with_capacity(FULL + FULL / 8));
        Some(Packet { r#type: EnumValue::Unknown(KIND), data, ..Packet::default() })
    }
}

/// Whether a packet is a bundle.
pub(super) fn is_bundle(packet: &PacketView<'_>) -> bool {
    packet.r#type.to_i32() == KIND
}

/// Packets behind their lengths, until something is none.
pub(super) struct Packets<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = Result<PacketView<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let packet = self.0.split_first_chunk::<4>().and_then(|(length, rest)| {
            let (packet, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            self.0 = rest;
            PacketView::decode_view(packet).ok()
        });
        if packet.is_none() {
            self.0 = &[];
        }
        Some(packet.ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut bundle = Bundle::default();
        assert!(bundle.take().is_none());
        let packets =
            [Packet { ID: 7, data: vec![1; 300], ..Packet::default() }, Packet::default()];
        packets.iter().for_each(|packet| bundle.push(packet));
        let sent = bundle.take().unwrap().encode_to_vec();
        let sent = PacketView::decode_view(&sent).unwrap();
        assert!(is_bundle(&sent) && bundle.take().is_none());
        let got: Vec<_> = Packets(sent.data).map(|packet| packet.unwrap().ID).collect();
        assert_eq!(got, [7, 0]);
    }

    #[test]
    fn what_is_no_packet_ends_it() {
        for bytes in [&[1, 0][..], &[9, 0, 0, 0, 1], &[1, 0, 0, 0, 0xff], &[255; 8]] {
            let mut packets = Packets(bytes);
            assert!(packets.next().unwrap().is_err(), "{bytes:?}");
            assert!(packets.next().is_none());
        }
    }
}
