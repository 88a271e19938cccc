//! Which addresses are not on the public network.
//!
//! The table is what stands between a build step and the machine's own network: loopback, private ranges, instance metadata.
//! It must never be consulted with a name, and always after an IPv4-mapped IPv6 address was unwrapped. Ranges follow the IANA
//! special-purpose registries (RFC 6890 and updates); ranges that embed an IPv4 address are closed as a whole, because what
//! they reach depends on routers nobody here controls.

use std::net::IpAddr;

/// One range that the policy keeps closed unless a rule opens it.
#[derive(Debug)]
pub(crate) struct Block {
    network: [u8; 16],
    prefix: u8,
    v4: bool,
    /// How the range is written and what it is, for records.
    pub(crate) text: &'static str,
    /// False when no rule may open it: connecting there never means what it seems to.
    pub(crate) openable: bool,
}

impl Block {
    const fn v4(network: [u8; 4], prefix: u8, openable: bool, text: &'static str) -> Block {
        let [a, b, c, d] = network;
        Block {
            network: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            prefix,
            v4: true,
            text,
            openable,
        }
    }

    const fn v6(head: [u16; 2], tail: u16, prefix: u8, text: &'static str) -> Block {
        let [a, b] = [head[0].to_be_bytes(), head[1].to_be_bytes()];
        let z = tail.to_be_bytes();
        let network = [a[0], a[1], b[0], b[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, z[0], z[1]];
        Block { network, prefix, v4: false, text, openable: true }
    }

    /// Length of the block's prefix in bits.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => {
                self.v4 && shares_prefix(&v4.octets(), &self.network[..4], self.prefix)
            }
            IpAddr::V6(v6) => !self.v4 && shares_prefix(&v6.octets(), &self.network, self.prefix),
        }
    }
}

const BLOCKS: &[Block] = &[
    Block::v4([0, 0, 0, 0], 8, false, "0.0.0.0/8 (this network)"),
    Block::v4([10, 0, 0, 0], 8, true, "10.0.0.0/8 (private)"),
    Block::v4([100, 64, 0, 0], 10, true, "100.64.0.0/10 (shared by carriers)"),
    Block::v4([127, 0, 0, 0], 8, true, "127.0.0.0/8 (loopback)"),
    Block::v4([169, 254, 0, 0], 16, true, "169.254.0.0/16 (link-local, instance metadata)"),
    Block::v4([172, 16, 0, 0], 12, true, "172.16.0.0/12 (private)"),
    Block::v4([192, 0, 0, 0], 24, true, "192.0.0.0/24 (protocol assignments)"),
    Block::v4([192, 168, 0, 0], 16, true, "192.168.0.0/16 (private)"),
    Block::v4([198, 18, 0, 0], 15, true, "198.18.0.0/15 (benchmarking)"),
    Block::v4([224, 0, 0, 0], 4, false, "224.0.0.0/4 (multicast)"),
    Block::v4([240, 0, 0, 0], 4, false, "240.0.0.0/4 (reserved)"),
    Block::v6([0, 0], 0, 128, "::/128 (unspecified)"),
    Block::v6([0, 0], 1, 128, "::1/128 (loopback)"),
    Block::v6([0, 0], 0, 96, "::/96 (IPv4-compatible)"),
    Block::v6([0x0064, 0xff9b], 0, 96, "64:ff9b::/96 (translated IPv4)"),
    Block::v6([0x2002, 0], 0, 16, "2002::/16 (6to4)"),
    Block::v6([0xfc00, 0], 0, 7, "fc00::/7 (private)"),
    Block::v6([0xfe80, 0], 0, 10, "fe80::/10 (link-local)"),
    Block::v6([0xff00, 0], 0, 8, "ff00::/8 (multicast)"),
];

/// The closed range `address` lies in, or `None` when it is public. IPv4-mapped addresses are judged as the IPv4 they carry.
pub(crate) fn closed_block(address: IpAddr) -> Option<&'static Block> {
    let address = address.to_canonical();
    BLOCKS.iter().find(|block| block.contains(address))
}

/// Whether the first `prefix` bits of two addresses of one family agree. A prefix longer than the address never matches.
pub(crate) fn shares_prefix(a: &[u8], b: &[u8], prefix: u8) -> bool {
    let (whole, rest) = (usize::from(prefix / 8), prefix % 8);
    let (Some(head_a), Some(head_b)) = (a.get(..whole), b.get(..whole)) else { return false };
    if head_a != head_b {
        return false;
    }
    if rest == 0 {
        return true;
    }
    let mask = u8::MAX << (8 - rest);
    matches!((a.get(whole), b.get(whole)), (Some(x), Some(y)) if x & mask == y & mask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn closed_and_public_addresses() {
        let closed = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.1.2.3",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ];
        for text in closed {
            assert!(closed_block(text.parse().unwrap()).is_some(), "{text} must be closed");
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.113.5",
            "223.255.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ];
        for text in public {
            assert!(closed_block(text.parse().unwrap()).is_none(), "{text} must be public");
        }
    }
}
