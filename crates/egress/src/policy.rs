//! What a step may reach, decided for names at lookup and for addresses right before connecting.
//!
//! Order of decision for an address: `deny` rules; `allow` rules that name the address; addresses closed by nature (the table
//! in `address`, the host's own addresses, the resolvers); then the mode. A *name* rule never opens an address that is closed
//! by nature, whatever the name server answers: that is the rebinding attack. Private services are opened by address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::{closed_block, shares_prefix};
use crate::record::Verdict;
use crate::rule::Rule;
use crate::{GATE_ADDRESS, PREFIX_LENGTH};

/// Names under which clouds serve credentials to anybody who asks; no rule opens them.
const METADATA_NAMES: &[&str] = &[
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
];

/// Port of the name service.
const DNS_PORT: u16 = 53;

/// What to do with a destination no rule mentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Public addresses are reachable, everything else only by an `allow` rule.
    #[default]
    Public,
    /// Nothing is reachable and no name is resolved; rules are ignored.
    Off,
    /// Only what `allow` lists is reachable, and only names it lists are resolved.
    List,
}

/// The rules one gate applies to all its steps. Reads and writes as a table of configuration:
///
/// ```toml
/// mode = "list"
/// allow = ["*.packages.example", "10.0.0.0/8:443"]
/// deny = ["telemetry.packages.example"]
/// resolvers = ["192.0.2.53"]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What holds where no rule does.
    pub mode: Mode,
    /// Opens. A range opens addresses that are not public only when it lies within the closed range, so `0.0.0.0/0` does not
    /// open the host's network; the host's own addresses and the resolvers take a rule for exactly that address.
    pub allow: Vec<Rule>,
    /// Closes, and wins over `allow`.
    pub deny: Vec<Rule>,
    /// Opens to the builder's own pulls, pushes and downloads, and never to a step, whatever the mode: registries of the
    /// operator's own. Unlike in `allow`, a name here also opens the private addresses that it resolves to, since whoever
    /// wrote it answers for it; loopback, link-local and metadata addresses take a rule by address.
    pub vouched: Vec<Rule>,
    /// Name servers to forward to; the host's own when empty.
    pub resolvers: Vec<Resolver>,
    /// A policy that has to allow as well: the operator's, where this one is a project's. Its resolvers are not used.
    pub within: Option<Box<Policy>>,
}

/// Address of a name server: `192.0.2.53` or `192.0.2.53:5353`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolver(pub SocketAddr);

impl FromStr for Resolver {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Resolver, Self::Err> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Resolver(SocketAddr::new(address, DNS_PORT))),
            Err(_) => text.parse().map(Resolver),
        }
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Resolver {
    type Error = std::net::AddrParseError;

    fn try_from(text: String) -> Result<Resolver, Self::Error> {
        text.parse()
    }
}

impl From<Resolver> for String {
    fn from(resolver: Resolver) -> String {
        resolver.to_string()
    }
}

impl Policy {
    /// This policy as it holds for third-party code.
    pub(crate) fn for_steps(&self) -> Policy {
        let within = self.within.as_ref().map(|outer| Box::new(outer.for_steps()));
        Policy { vouched: Vec::new(), within, ..self.clone() }
    }

    /// The refusal of the policy around this one.
    fn outer_denies(&self, decide: impl FnOnce(&Policy) -> Verdict) -> Option<Verdict> {
        self.within.as_deref().map(decide).filter(Verdict::is_denied)
    }

    /// Whether a lower-case name without trailing dot may be resolved.
    pub fn decide_name(&self, name: &str) -> Verdict {
        if let Some(verdict) = self.outer_denies(|outer| outer.decide_name(name)) {
            return verdict;
        }
        if let Some(rule) = self.vouched.iter().find(|rule| rule.covers_name(name)) {
            return self
                .denies_name(name)
                .unwrap_or_else(|| Verdict::allowed(format!("vouched {rule}")));
        }
        if self.mode == Mode::Off {
            return Verdict::denied("mode off");
        }
        if let Some(verdict) = self.denies_name(name) {
            return verdict;
        }
        match self.allow.iter().find(|rule| rule.covers_name(name)) {
            Some(rule) => Verdict::allowed(format!("allow {rule}")),
            None if self.mode == Mode::Public => Verdict::allowed("public"),
            None => Verdict::denied("not in the allow list"),
        }
    }

    /// The refusal of a name that is closed whatever the mode; what an answer leads on to is judged by this alone.
    pub(crate) fn denies_name(&self, name: &str) -> Option<Verdict> {
        if METADATA_NAMES.contains(&name) {
            return Some(Verdict::denied("instance metadata"));
        }
        let denies = |rule: &&Rule| rule.port().is_none() && rule.covers_name(name);
        match self.deny.iter().find(denies) {
            Some(rule) => Some(Verdict::denied(format!("deny {rule}"))),
            None => self.within.as_ref().and_then(|outer| outer.denies_name(name)),
        }
    }

    /// Whether `destination` may be connected to, given the names it was resolved from. The host's own addresses and the
    /// resolvers are not known here; see `decide_near`.
    pub fn decide(&self, destination: SocketAddr, names: &[Arc<str>]) -> Verdict {
        self.decide_near(destination, names, None)
    }

    /// As `decide`, with `near` saying why the address is closed although public: it belongs to the host.
    pub(crate) fn decide_near(
        &self,
        destination: SocketAddr,
        names: &[Arc<str>],
        near: Option<&'static str>,
    ) -> Verdict {
        let outer = |outer: &Policy| outer.decide_near(destination, names, near);
        if let Some(verdict) = self.outer_denies(outer) {
            return verdict;
        }
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let vouched = self.vouches(address, port, names, near.is_some());
        if self.mode == Mode::Off && vouched.is_none() {
            return Verdict::denied("mode off");
        }
        if port == 0 {
            return Verdict::denied("port 0");
        }
        if is_tunnel(address) {
            return Verdict::denied("address of the gate");
        }
        let by_name = |rule: &&Rule| {
            rule.covers_port(port) && names.iter().any(|name| rule.covers_name(name))
        };
        let denies = |rule: &&Rule| {
            rule.covers_port(port) && rule.covers_address(address).is_some() || by_name(rule)
        };
        if let Some(rule) = self.deny.iter().find(denies) {
            return Verdict::denied(format!("deny {rule}"));
        }
        if let Some(rule) = vouched {
            return Verdict::allowed(format!("vouched {rule}"));
        }
        if let Some(rule) = self
            .allow
            .iter()
            .find(|rule| rule.covers_port(port) && opens(rule, address, near.is_some()))
        {
            return Verdict::allowed(format!("allow {rule}"));
        }
        if let Some(reason) = near {
            return Verdict::denied(reason);
        }
        if let Some(block) = closed_block(address) {
            return Verdict::denied(format!("not public: {}", block.text));
        }
        match self.mode {
            Mode::Public => Verdict::allowed("public"),
            _ => match self.allow.iter().find(by_name) {
                Some(rule) => Verdict::allowed(format!("allow {rule}")),
                None => Verdict::denied("not in the allow list"),
            },
        }
    }

    /// The rule by which the operator vouches for a destination.
    fn vouches(&self, address: IpAddr, port: u16, names: &[Arc<str>], near: bool) -> Option<&Rule> {
        self.vouched.iter().filter(|rule| rule.covers_port(port)).find(|rule| {
            let by_name = || names.iter().any(|name| rule.covers_name(name));
            opens(rule, address, near) || !near && may_be_vouched_by_name(address) && by_name()
        })
    }

    /// Whether an address may appear in an answer of the name service: it can be reached on some port.
    pub(crate) fn keeps_answer(&self, name: &str, address: Ipv4Addr) -> bool {
        let address = IpAddr::V4(address);
        let vouched = may_be_vouched_by_name(address)
            && self.vouched.iter().any(|rule| rule.covers_name(name));
        let denied = self
            .deny
            .iter()
            .any(|rule| rule.port().is_none() && rule.covers_address(address).is_some());
        let open = closed_block(address).is_none()
            || self.allow.iter().any(|rule| opens(rule, address, false));
        let outer = |v4| self.within.as_ref().is_none_or(|outer| outer.keeps_answer(name, v4));
        let within = matches!(address, IpAddr::V4(v4) if outer(v4));
        within && !denied && !is_tunnel(address) && (open || vouched)
    }
}

/// Whether a name that the operator answers for may lead here: to the public and to private networks.
fn may_be_vouched_by_name(address: IpAddr) -> bool {
    !is_tunnel(address)
        && match address {
            IpAddr::V4(v4) => closed_block(address).is_none() || v4.is_private(),
            IpAddr::V6(_) => closed_block(address).is_none(),
        }
}

fn is_tunnel(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if shares_prefix(&v4.octets(), &GATE_ADDRESS.octets(), PREFIX_LENGTH))
}

/// Whether an allow rule opens `address` by naming it. `exact` demands a rule for this one address.
fn opens(rule: &Rule, address: IpAddr, exact: bool) -> bool {
    let Some(prefix) = rule.covers_address(address) else { return false };
    let single = prefix == if address.is_ipv4() { 32 } else { 128 };
    let within_block =
        closed_block(address).is_none_or(|block| block.openable && prefix >= block.prefix());
    within_block && (single || !exact)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Policy { mode, allow: rules(allow), deny: rules(deny), ..Policy::default() }
    }

    fn allowed(policy: &Policy, destination: &str, names: &[&str]) -> bool {
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        !policy.decide(destination.parse().unwrap(), &names).is_denied()
    }

    #[test]
    fn public_mode() {
        let p = policy(
            Mode::Public,
            &["10.0.0.0/8:443", "0.0.0.0/0", "127.0.0.1:5000"],
            &["203.0.113.0/24", "*.evil.com", "ads.com:80"],
        );
        assert!(allowed(&p, "1.1.1.1:80", &[]));
        assert!(allowed(&p, "10.2.3.4:443", &[]));
        assert!(allowed(&p, "127.0.0.1:5000", &[]));
        for closed in [
            "10.2.3.4:80",
            "169.254.169.254:80",
            "127.0.0.2:5000",
            "0.0.0.0:80",
            "255.255.255.255:1",
            "203.0.113.9:1",
            "10.206.0.1:443",
            "1.1.1.1:0",
        ] {
            assert!(!allowed(&p, closed, &[]), "{closed}");
        }
        assert!(!allowed(&p, "[::ffff:169.254.169.254]:80", &[]));
        assert!(
            !allowed(&p, "1.1.1.1:80", &["ads.com"]) && allowed(&p, "1.1.1.1:443", &["ads.com"])
        );
        assert!(
            p.decide_name("a.evil.com").is_denied()
                && p.decide_name("metadata.google.internal").is_denied()
        );
        assert!(!p.decide_name("ads.com").is_denied() && !p.decide_name("evil.com").is_denied());
        assert!(
            p.keeps_answer("a.example", Ipv4Addr::new(10, 1, 1, 1))
                && !p.keeps_answer("a.example", Ipv4Addr::new(192, 168, 0, 1))
        );
        assert!(
            !p.keeps_answer("a.example", Ipv4Addr::new(203, 0, 113, 1))
                && !p.keeps_answer("a.example", Ipv4Addr::UNSPECIFIED)
        );
    }

    #[test]
    fn list_mode_and_names() {
        let p = policy(
            Mode::List,
            &["*.packages.example", "203.0.113.5:5000", "internal.corp"],
            &["bad.packages.example"],
        );
        assert!(allowed(&p, "1.1.1.1:443", &["registry.packages.example"]));
        assert!(
            !allowed(&p, "1.1.1.1:443", &["bad.packages.example"])
                && !allowed(&p, "1.1.1.1:443", &[])
        );
        assert!(allowed(&p, "203.0.113.5:5000", &[]) && !allowed(&p, "203.0.113.5:5001", &[]));
        assert!(
            !allowed(&p, "10.0.0.1:443", &["internal.corp"]),
            "a name never opens a private address"
        );
        assert!(
            p.decide_name("example.com").is_denied() && !p.decide_name("internal.corp").is_denied()
        );
    }

    #[test]
    fn off_denies_everything() {
        let p = policy(Mode::Off, &["*", "1.1.1.1"], &[]);
        assert!(!allowed(&p, "1.1.1.1:80", &[]) && p.decide_name("example.com").is_denied());
    }

    #[test]
    fn what_the_operator_vouches_for_is_open_to_the_builder_alone() {
        let vouched = ["registry.corp:5000", "127.0.0.1:5000"].map(|text| text.parse().unwrap());
        let base = Policy { vouched: vouched.to_vec(), ..policy(Mode::Off, &[], &["bad.corp"]) };
        let named = &["registry.corp"][..];
        assert!(allowed(&base, "10.0.0.9:5000", named) && allowed(&base, "127.0.0.1:5000", &[]));
        assert!(!allowed(&base, "10.0.0.9:5001", named) && !allowed(&base, "10.0.0.9:5000", &[]));
        for closed in ["169.254.169.254:5000", "127.0.0.9:5000", "0.0.0.0:5000"] {
            assert!(!allowed(&base, closed, named), "{closed}");
        }
        assert!(!base.decide_name("registry.corp").is_denied());
        assert!(base.decide_name("other.corp").is_denied());
        assert!(base.keeps_answer("registry.corp", Ipv4Addr::new(10, 0, 0, 9)));
        assert!(!base.keeps_answer("other.corp", Ipv4Addr::new(10, 0, 0, 9)));
        let steps = base.for_steps();
        assert!(!allowed(&steps, "10.0.0.9:5000", named));
        assert!(!allowed(&steps, "127.0.0.1:5000", &[]));
        let denied = Policy { deny: vec!["registry.corp".parse().unwrap()], ..base };
        assert!(denied.decide_name("registry.corp").is_denied());
        assert!(!allowed(&denied, "10.0.0.9:5000", named));
        let at = "203.0.113.5:5000".parse().unwrap();
        let names = [Arc::from("registry.corp")];
        assert!(base_near(&denied, at, &names).is_denied());
    }

    fn base_near(policy: &Policy, at: SocketAddr, names: &[Arc<str>]) -> Verdict {
        policy.decide_near(at, names, Some("address of this host"))
    }

    #[test]
    fn a_policy_within_another_can_only_narrow_it() {
        let outer = policy(Mode::Public, &["10.1.0.0/16"], &["*.evil.com"]);
        let inner =
            policy(Mode::List, &["10.0.0.0/8", "*.good.com", "a.evil.com", "203.0.113.5"], &[]);
        let p = Policy { within: Some(Box::new(outer)), ..inner.clone() };
        assert!(allowed(&inner, "10.2.0.1:80", &[]), "control: alone it opens more");
        assert!(allowed(&p, "10.1.0.1:80", &[]) && !allowed(&p, "10.2.0.1:80", &[]));
        assert!(allowed(&p, "1.1.1.1:80", &["a.good.com"]) && !allowed(&p, "1.1.1.1:80", &[]));
        assert!(!allowed(&p, "1.1.1.1:80", &["a.evil.com"]));
        assert!(p.decide_name("a.evil.com").is_denied() && p.decide_name("b.com").is_denied());
        assert!(!p.decide_name("a.good.com").is_denied());
        assert!(p.denies_name("a.evil.com").is_some() && p.denies_name("a.good.com").is_none());
        assert!(p.keeps_answer("x", Ipv4Addr::new(10, 1, 1, 1)));
        assert!(!p.keeps_answer("x", Ipv4Addr::new(10, 2, 1, 1)));
        // The host's own address, which the inner one names, is the outer one's to open.
        let at = "203.0.113.5:80".parse().unwrap();
        assert!(!base_near(&inner, at, &[]).is_denied() && base_near(&p, at, &[]).is_denied());
        let off =
            Policy { within: Some(Box::new(policy(Mode::Off, &[], &[]))), ..Policy::default() };
        assert!(!allowed(&off, "1.1.1.1:80", &[]) && off.decide_name("b.com").is_denied());
    }

    #[test]
    fn addresses_of_the_host_need_a_rule_of_their_own() {
        let at = "203.0.113.5:80".parse().unwrap();
        let near = Some("address of this host");
        assert!(
            policy(Mode::Public, &["203.0.113.0/24"], &[]).decide_near(at, &[], near).is_denied()
        );
        assert!(
            !policy(Mode::Public, &["203.0.113.5"], &[]).decide_near(at, &[], near).is_denied()
        );
    }

    #[test]
    fn reads_and_writes_as_configuration() {
        let text = r#"{"mode":"list","allow":["*.packages.example","10.0.0.0/8:443"],"deny":[],"vouched":[],"resolvers":["192.0.2.53"]}"#;
        let p: Policy = serde_json::from_str(text).unwrap();
        assert_eq!(p.resolvers[0].0.port(), 53);
        assert_eq!(serde_json::from_str::<Policy>(&serde_json::to_string(&p).unwrap()).unwrap(), p);
        assert!(serde_json::from_str::<Policy>(r#"{"mode":"open"}"#).is_err());
        assert!(serde_json::from_str::<Policy>(r#"{"alow":[]}"#).is_err());
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
    }
}
