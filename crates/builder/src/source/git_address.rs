//! Addresses of repositories: one spelling for each, and the name that rules about sources know it by.
//!
//! Programs disagree about what an odd address means: git decodes more than a parser of URLs does, and looks for the host elsewhere.
//! So an address is taken apart here, what has two readings is refused, and git gets what was put together again. Nothing here may
//! be shown or kept: addresses hold passwords.

use cofferdam_wire::pb;
use url::{Host, Url};

use super::login::decoded;
use crate::failure::Failure;
use crate::rooted::clean;

/// Attribute with the address that a repository is fetched from.
pub(crate) const FULL_URL: &str = "git.fullurl";
/// Ports that need not be said.
const SSH_PORT: u16 = 22;
const GIT_PORT: u16 = 9418;

/// Where a repository is.
pub(crate) struct Address {
    /// What git fetches from; may hold a user and a password.
    pub(crate) url: String,
    /// The only protocol that git may speak.
    pub(crate) protocol: &'static str,
    /// Host and path, equal for all protocols and users.
    pub(crate) place: String,
    /// The user of ssh, for whom the path may lead to a repository of their own.
    pub(crate) user: Option<String>,
}

/// The user that counts. Servers that serve everybody alike call theirs `git`, and what follows a colon may be a password.
fn own_user(protocol: &str, user: &str) -> Option<String> {
    let user = user.split(':').next().unwrap_or_default();
    (protocol == "ssh" && !user.is_empty() && user != "git").then(|| user.to_owned())
}

fn invalid(reason: &str) -> Failure {
    Failure::invalid(format!("invalid git URL: {reason}"))
}

/// Where the repository of a source is; `identifier` is without its scheme.
pub(crate) fn address(op: &pb::SourceOp, identifier: &str) -> Result<Address, Failure> {
    if let Some(url) = op.attrs.get(FULL_URL).filter(|url| !url.is_empty()) {
        return parse(url);
    }
    let plain = identifier.split_once('#').map_or(identifier, |(plain, _)| plain);
    parse(&format!("https://{plain}"))
}

fn parse(url: &str) -> Result<Address, Failure> {
    let odd = |c: char| c.is_control() || " ?#\\".contains(c);
    if url.starts_with('-') || url.chars().any(odd) {
        return Err(invalid("a character that is not allowed"));
    }
    match url.split_once("://") {
        Some(("https", rest)) => web("https", rest),
        Some(("http", rest)) => web("http", rest),
        Some(("ssh", rest)) => other("ssh", rest, SSH_PORT),
        Some(("git", rest)) => other("git", rest, GIT_PORT),
        None if url.contains('@') && url.contains(':') => like_scp(url),
        _ => Err(Failure::invalid("git URLs must use https, http, ssh or git")),
    }
}

fn web(protocol: &'static str, rest: &str) -> Result<Address, Failure> {
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() || authority.matches('@').count() > 1 {
        return Err(invalid("no host, or more than one"));
    }
    let url = Url::parse(&format!("{protocol}://{rest}"));
    let mut url = url.map_err(|error| invalid(&error.to_string()))?;
    let path = path(url.path())?;
    url.set_path(&path);
    let host = url.host_str().unwrap_or_default().to_owned();
    checked(&host)?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let place = format!("{host}{port}{}", shown(url.path())?);
    Ok(Address { url: url.into(), protocol, place, user: None })
}

/// Addresses of which git decodes every part.
fn other(protocol: &'static str, rest: &str, default: u16) -> Result<Address, Failure> {
    let (authority, encoded) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    if authority.matches('@').count() > 1 || authority.contains('%') || user.starts_with('-') {
        return Err(invalid("no host, or more than one"));
    }
    // The colons of an address of IPv6 are no port's.
    let end = place.find(']').map_or(0, |at| at + 1);
    let (name, port) = match place[end..].split_once(':') {
        Some((more, port)) => (&place[..end + more.len()], port),
        None => (place, ""),
    };
    let port = match port {
        "" => default,
        port => port.parse().map_err(|_| invalid("a port that is none"))?,
    };
    let port = if port == default { String::new() } else { format!(":{port}") };
    let (host, path) = (host(name)?, path(encoded)?);
    upwards(&path)?;
    let at = if user.is_empty() { "" } else { "@" };
    Ok(Address {
        url: format!("{protocol}://{user}{at}{host}{port}{path}"),
        protocol,
        place: format!("{host}{port}{}", shown(&path)?),
        user: own_user(protocol, user),
    })
}

/// `user@host:path`, which git does not decode.
fn like_scp(url: &str) -> Result<Address, Failure> {
    let parts = url.split_once('@').and_then(|(user, rest)| Some((user, rest.split_once(':')?)));
    let (user, (name, path)) = parts.ok_or_else(|| invalid("no host"))?;
    let of = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !of(user, "-_.") || user.starts_with('-') || !of(name, "-.") {
        return Err(invalid("no host, or more than one"));
    }
    upwards(path)?;
    let host = host(name)?;
    let place = format!("{host}{}", clean(path));
    let own = own_user("ssh", user);
    Ok(Address { url: format!("{user}@{host}:{path}"), protocol: "ssh", place, user: own })
}

/// A host in its one spelling.
fn host(name: &str) -> Result<String, Failure> {
    let host = Host::parse(name).map_err(|error| invalid(&error.to_string()))?.to_string();
    checked(&host)?;
    Ok(host)
}

/// Refuses what is an option to programs, and the second name that every host has in the DNS.
fn checked(host: &str) -> Result<(), Failure> {
    if host.is_empty() || host.starts_with('-') || host.ends_with('.') {
        return Err(invalid("a host that is none"));
    }
    Ok(())
}

/// Where such a path leads is known to the server alone.
fn upwards(path: &str) -> Result<(), Failure> {
    if path.split('/').any(|part| part == "..") {
        return Err(invalid("a path that leads upwards"));
    }
    Ok(())
}

fn path(encoded: &str) -> Result<String, Failure> {
    let path = canonical(encoded).ok_or_else(|| invalid("a % that encodes nothing"))?;
    if path.contains("%2F") {
        return Err(invalid("an encoded slash"));
    }
    Ok(path)
}

/// A path of a URL in which nothing is encoded that need not be; `None` when a `%` encodes nothing.
pub(crate) fn canonical(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(code, 16).ok()?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            plain.push(char::from(byte));
        } else {
            plain.push('%');
            plain.push_str(&code.to_ascii_uppercase());
        }
        plain.push_str(&part[2..]);
    }
    Some(plain)
}

/// A path as names have it: a `#` would end it there.
fn shown(path: &str) -> Result<String, Failure> {
    let path = String::from_utf8(decoded(path)).map_err(|_| invalid("a path that is no text"))?;
    if path.chars().any(|c| c.is_control() || c == '#') {
        return Err(invalid("a character that is not allowed"));
    }
    Ok(clean(&path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_spellings_of_an_address_become_one() {
        for (given, url, place) in [
            ("https://HOST:443/a/../r.git", "https://host/r.git", "host/r.git"),
            ("http://u:p%40@host:8/%72.git", "http://u:p%40@host:8/r.git", "host:8/r.git"),
            ("https://host//a/./r", "https://host//a/r", "host/a/r"),
            ("https://host/my%20r", "https://host/my%20r", "host/my r"),
            ("ssh://git@HOST:22/r.git", "ssh://git@host/r.git", "host/r.git"),
            ("ssh://git@host:2222/%72%20", "ssh://git@host:2222/r%20", "host:2222/r "),
            ("ssh://[0::1]:2/r", "ssh://[::1]:2/r", "[::1]:2/r"),
            ("git://host:9418/r", "git://host/r", "host/r"),
            ("git@Host:a//r.git", "git@host:a//r.git", "host/a/r.git"),
        ] {
            let address = parse(given).ok().unwrap();
            assert_eq!((address.url.as_str(), address.place.as_str()), (url, place), "{given}");
        }
    }

    #[test]
    fn users_of_ssh_count_who_may_have_a_path_of_their_own() {
        for (given, user) in [
            ("alice@host:r", Some("alice")),
            ("ssh://alice@host/r", Some("alice")),
            ("ssh://alice:secret@host/r", Some("alice")),
            ("git@host:r", None),
            ("ssh://git@host/r", None),
            ("ssh://host/r", None),
            ("https://alice@host/r", None),
            ("git://alice@host/r", None),
        ] {
            assert_eq!(parse(given).ok().unwrap().user.as_deref(), user, "{given}");
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for address in [
            "https://good@evil@good/r",
            "https://good?@evil/r",
            "https://evil\\@good/r",
            "https://evil#@good/r",
            "https://evil./r",
            "https:///r",
            "https://host/a%2fb",
            "https://host/a%23b",
            "https://host/%zz",
            "https://host/a\tb",
            "ssh://a%40evil%2F@good/r",
            "ssh://ev%69l/r",
            "ssh://a@evil@good/r",
            "ssh://-oProxyCommand=x/r",
            "ssh://git@-oProxyCommand=x/r",
            "ssh://host:x/r",
            "ssh://host/a/../r",
            "ssh://host/a/%2e./r",
            "evil:x@good:r",
            "a@b@good:r",
            "git@-oProxyCommand=x:r",
            "git@host:../r",
            "-u@host:r",
            "file:///r",
            "HTTPS://host/r",
            "host/r",
            "",
        ] {
            assert!(parse(address).is_err(), "{address:?} was accepted");
        }
    }

    #[test]
    fn the_full_address_is_what_is_fetched() {
        let mut op = pb::SourceOp::default();
        assert_eq!(address(&op, "host/r.git#v1").ok().unwrap().url, "https://host/r.git");
        op.attrs.insert(FULL_URL.to_owned(), "git@other:r".to_owned());
        assert_eq!(address(&op, "host/r.git#v1").ok().unwrap().place, "other/r");
    }
}
