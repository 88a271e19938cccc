//! One line of an allow or deny list, and what it matches.
//!
//! Written as a name (`registry.packages.example`, `*.packages.example` for everything below it but not itself, `*` for any name), an
//! address or an address range (`203.0.113.5`, `10.0.0.0/8`, `[2001:db8::]/32` or `[2001:db8::/32]`), each with an optional
//! `:port`. A rule that could be read in two ways is refused: silently guessing here opens or closes the wrong thing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::shares_prefix;

/// Longest domain name in its dotted form (RFC 1035).
const MAX_NAME: usize = 253;
/// Longest label of a domain name (RFC 1035).
const MAX_LABEL: usize = 63;

/// A parsed line of a policy's `allow` or `deny` list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    target: Target,
    port: Option<u16>,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    AnyName,
    Name(String),
    Below(String),
    Range { network: IpAddr, prefix: u8 },
}

/// Why a rule could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// There was nothing before the port.
    #[error("rule {0:?} names no host, address or range")]
    Empty(String),
    /// The part after the last colon is not a port from 1 to 65535.
    #[error("rule {0:?} has an invalid port")]
    Port(String),
    /// Neither a domain name nor an address.
    #[error("rule {0:?} is neither a name, an address nor a range")]
    Target(String),
    /// The prefix length does not fit the address, or the address has bits beyond it.
    #[error("rule {0:?} has an address with bits beyond its prefix length")]
    Prefix(String),
}

impl Rule {
    /// Whether the rule is about names rather than addresses.
    pub fn is_name(&self) -> bool {
        !matches!(self.target, Target::Range { .. })
    }

    /// The port the rule is limited to.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    pub(crate) fn covers_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    /// Whether a lower-case name without trailing dot is meant. Ports are not looked at.
    pub(crate) fn covers_name(&self, name: &str) -> bool {
        match &self.target {
            Target::AnyName => true,
            Target::Name(own) => own == name,
            Target::Below(parent) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|head| head.len() > 1 && head.ends_with('.')),
            Target::Range { .. } => false,
        }
    }

    /// The prefix length of the rule's range when it contains `address`. Ports are not looked at.
    pub(crate) fn covers_address(&self, address: IpAddr) -> Option<u8> {
        let Target::Range { network, prefix } = &self.target else { return None };
        let inside = match (network, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shares_prefix(&a.octets(), &b.octets(), *prefix),
            (IpAddr::V6(a), IpAddr::V6(b)) => shares_prefix(&a.octets(), &b.octets(), *prefix),
            _ => false,
        };
        inside.then_some(*prefix)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.text
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Rule, RuleError> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let trimmed = text.trim();
        let (host, port) = split_port(trimmed)?;
        if host.is_empty() {
            return Err(RuleError::Empty(text.to_owned()));
        }
        let target =
            parse_range(host, trimmed).transpose().unwrap_or_else(|| parse_name(host, trimmed))?;
        Ok(Rule { target, port, text: trimmed.to_owned() })
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), RuleError> {
    let end_of_host = text.rfind(']').map_or(0, |at| at + 1);
    // Without brackets, more than one colon is a bare IPv6 address, which has no room for a port.
    let colon = match text.get(end_of_host..).and_then(|tail| tail.rfind(':')) {
        Some(at) if end_of_host > 0 || text.matches(':').count() == 1 => end_of_host + at,
        _ => return Ok((text, None)),
    };
    let digits = &text[colon + 1..];
    match digits.parse::<u16>() {
        Ok(port) if port != 0 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Ok((&text[..colon], Some(port)))
        }
        _ => Err(RuleError::Port(text.to_owned())),
    }
}

/// `Ok(None)` when the text does not look like an address at all.
fn parse_range(host: &str, text: &str) -> Result<Option<Target>, RuleError> {
    let bare: String = host.chars().filter(|c| !matches!(c, '[' | ']')).collect();
    let (address, prefix) = match bare.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (bare.as_str(), None),
    };
    let network = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(v4), _) => IpAddr::V4(v4),
        (_, Ok(v6)) => IpAddr::V6(v6),
        _ if prefix.is_some() => return Err(RuleError::Target(text.to_owned())),
        _ => return Ok(None),
    };
    let bits: u8 = if network.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(digits) => digits.parse::<u8>().map_err(|_| RuleError::Prefix(text.to_owned()))?,
        None => bits,
    };
    if prefix > bits || network_bits_beyond(network, prefix) {
        return Err(RuleError::Prefix(text.to_owned()));
    }
    Ok(Some(Target::Range { network, prefix }))
}

fn network_bits_beyond(network: IpAddr, prefix: u8) -> bool {
    match network {
        IpAddr::V4(v4) => v4.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
        IpAddr::V6(v6) => v6.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
    }
}

fn parse_name(host: &str, text: &str) -> Result<Target, RuleError> {
    if host == "*" {
        return Ok(Target::AnyName);
    }
    let lower = host.to_ascii_lowercase();
    let lower = lower.strip_suffix('.').unwrap_or(&lower);
    let (below, name) = match lower.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, lower),
    };
    let label_fits = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last label of digits only is a mistyped address, never a name (RFC 3696).
    let mistyped =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > MAX_NAME || mistyped || !name.split('.').all(label_fits) {
        return Err(RuleError::Target(text.to_owned()));
    }
    Ok(if below { Target::Below(name.to_owned()) } else { Target::Name(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn names_match_whole_labels() {
        assert!(rule("*.packages.example").covers_name("registry.packages.example"));
        assert!(rule("*.PACKAGEs.example.").covers_name("a.b.packages.example"));
        for other in [
            "packages.example",
            "evilpackages.example",
            ".packages.example",
            "registry.packages.example.evil.com",
            "",
        ] {
            assert!(!rule("*.packages.example").covers_name(other), "{other}");
        }
        assert!(rule("packages.example:443").covers_name("packages.example"));
        assert!(!rule("packages.example").covers_name("www.packages.example"));
        assert!(rule("*").covers_name("anything.example"));
        assert_eq!(rule("packages.example:443").port(), Some(443));
    }

    #[test]
    fn ranges_match_addresses() {
        let ten = rule("10.0.0.0/8:443");
        assert_eq!(ten.covers_address("10.9.8.7".parse().unwrap()), Some(8));
        assert_eq!(ten.covers_address("::ffff:10.9.8.7".parse().unwrap()), Some(8));
        assert_eq!(ten.covers_address("11.0.0.1".parse().unwrap()), None);
        assert!(ten.covers_port(443) && !ten.covers_port(80));
        assert_eq!(
            rule("203.0.113.5:5000").covers_address("203.0.113.5".parse().unwrap()),
            Some(32)
        );
        for text in ["2001:db8::/32", "[2001:db8::]/32", "[2001:db8::/32]", "[2001:db8::/32]:443"] {
            assert_eq!(
                rule(text).covers_address("2001:db8::1".parse().unwrap()),
                Some(32),
                "{text}"
            );
        }
        assert_eq!(rule("[2001:db8::1]:443").port(), Some(443));
        assert_eq!(rule("0.0.0.0/0").covers_address("1.2.3.4".parse().unwrap()), Some(0));
    }

    #[test]
    fn ambiguous_rules_are_refused() {
        for bad in [
            "",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0",
            "300.1.1.1",
            "a..b",
            "*.",
            "**.a",
            "a.*.b",
            "http://a.b",
            "a b",
            "exa_mple.com/24",
            "2001:db8::1/32",
            "ä.de",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
    }
}
