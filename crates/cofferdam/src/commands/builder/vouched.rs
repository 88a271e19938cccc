//! What the operator vouches for: hosts that the builder itself may reach although they are not public.
//!
//! Whoever names a registry, a proxy or a collector of traces in the configuration or in a flag has said that the builder is to use it; saying it a
//! second time in `[egress]` would only be a trap. Steps get none of it. Names from builds never come here.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use cofferdam_builder::Config;
use cofferdam_egress::Rule;

/// Longest `/etc/hosts` that is read.
const MAX_HOSTS: u64 = 1 << 20;

/// Variables that name proxies, which the builder's own downloads then use.
const PROXIES: &[&str] = &["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "FTP_PROXY"];

/// Adds rules for the hosts of flags, registries, proxies and the collector of traces.
pub(super) fn add(config: &mut Config, flags: &[String]) -> anyhow::Result<()> {
    let hosts = read_hosts();
    let mut rules = Vec::new();
    // An empty variable is no host.
    for flag in flags.iter().filter(|flag| !flag.is_empty()) {
        rules.extend(
            rules_of(flag, &hosts)
                .with_context(|| format!("--allow-registry {flag}: use HOST or HOST:PORT"))?,
        );
    }
    for (host, registry) in &config.registry {
        let plain = registry.http.unwrap_or(false) || registry.insecure.unwrap_or(false);
        let named = std::iter::once(host).chain(&registry.mirrors);
        for authority in named.flat_map(|name| authorities(name, plain)) {
            // A name that is no host is the registry client's to complain of.
            rules.extend(rules_of(&authority, &hosts).unwrap_or_default());
        }
    }
    if let Some(authority) = authority_of(&config.otel.endpoint) {
        rules.extend(rules_of(&authority, &hosts).unwrap_or_default());
    }
    for name in PROXIES.iter().flat_map(|name| [(*name).to_owned(), name.to_ascii_lowercase()]) {
        let Ok(proxy) = std::env::var(name) else { continue };
        if let Some(authority) = authority_of(&proxy) {
            rules.extend(rules_of(&authority, &hosts).unwrap_or_default());
        }
    }
    let vouched = &mut config.egress.vouched;
    for rule in rules {
        if !vouched.contains(&rule) {
            vouched.push(rule);
        }
    }
    Ok(())
}

/// A registry's name with the ports it may be served on.
fn authorities(name: &str, plain: bool) -> Vec<String> {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let host = name.split('/').next().unwrap_or_default();
    if has_port(host) {
        return vec![host.to_owned()];
    }
    let ports: &[u16] = if plain { &[443, 80] } else { &[443] };
    ports.iter().map(|port| format!("{host}:{port}")).collect()
}

/// Host and port of a proxy's URL, in which both scheme and port may be missing.
fn authority_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = match scheme {
        "https" => 443,
        "socks4" | "socks5" | "socks5h" => 1080,
        _ => 80,
    };
    let text = if has_port(host) { host.to_owned() } else { format!("{host}:{port}") };
    (!host.is_empty()).then_some(text)
}

fn has_port(host: &str) -> bool {
    let tail = host.rsplit_once(']').map_or(host, |(_, tail)| tail);
    tail.contains(':')
}

/// The rule for a host, and for the addresses that this machine knows it by without asking anybody: the builder finds those
/// without asking the gate.
fn rules_of(authority: &str, hosts: &str) -> anyhow::Result<Vec<Rule>> {
    let rule: Rule = authority.parse()?;
    let mut rules = Vec::new();
    if rule.is_name() {
        let name = match rule.port() {
            Some(_) => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
            None => authority,
        };
        for address in known(name, hosts) {
            let text = match rule.port() {
                Some(port) => format!("{address}:{port}"),
                None => address.to_string(),
            };
            rules.push(text.parse()?);
        }
    }
    rules.push(rule);
    Ok(rules)
}

/// IPv4 addresses of a name in a table in the form of hosts(5); there is no way to others.
fn known(name: &str, hosts: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    if name.eq_ignore_ascii_case("localhost") {
        found.push(Ipv4Addr::LOCALHOST);
    }
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(IpAddr::V4(address))) = words.next().map(str::parse) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn read_hosts() -> String {
    use std::io::Read;
    let mut text = String::new();
    // Without it no name is known here, and all are asked for.
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        file.take(MAX_HOSTS).read_to_string(&mut text).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(rules: Vec<Rule>) -> Vec<String> {
        rules.into_iter().map(String::from).collect()
    }

    #[test]
    fn hosts_of_this_machine_are_known_by_address_too() {
        let hosts = "127.0.0.1 localhost\n10.0.0.9 registry.corp registry # ours\n::1 registry\n";
        let of = |text: &str| texts(rules_of(text, hosts).unwrap());
        assert_eq!(of("localhost:5000"), ["127.0.0.1:5000", "localhost:5000"]);
        assert_eq!(of("Registry"), ["10.0.0.9", "Registry"]);
        assert_eq!(of("other.corp:443"), ["other.corp:443"]);
        assert_eq!(of("127.0.0.1:5000"), ["127.0.0.1:5000"]);
        for bad in ["", "a b", "http://a:1", "a:0"] {
            assert!(rules_of(bad, hosts).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_those_that_will_be_used() {
        assert_eq!(authorities("registry.corp", false), ["registry.corp:443"]);
        assert_eq!(authorities("registry.corp", true), ["registry.corp:443", "registry.corp:80"]);
        assert_eq!(authorities("https://mirror:5000/v2/", false), ["mirror:5000"]);
        assert_eq!(authority_of("http://u:p@proxy:3128/").as_deref(), Some("proxy:3128"));
        assert_eq!(authority_of("socks5://10.0.0.1").as_deref(), Some("10.0.0.1:1080"));
        assert_eq!(authority_of("proxy").as_deref(), Some("proxy:80"));
        assert_eq!(authority_of(""), None);
    }

    #[test]
    fn registries_of_the_configuration_are_vouched_for_once() {
        let mut config: Config =
            serde_json::from_str(r#"{"registry":{"r.corp:5000":{"mirrors":["r.corp:5000/x"]}}}"#)
                .unwrap();
        add(&mut config, &["r.corp:5000".to_owned()]).unwrap();
        let rules = texts(config.egress.vouched);
        assert_eq!(rules.iter().filter(|rule| *rule == "r.corp:5000").count(), 1, "{rules:?}");
    }
}
