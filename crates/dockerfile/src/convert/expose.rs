//! `EXPOSE`: ports a container listens on.
//!
//! Takes the forms of `docker run --publish` for compatibility, but only the container's side counts.

use std::net::IpAddr;

use super::Converter;
use super::dispatch::{Step, report_undefined};
use super::error::ConvertError;
use super::go_format::list;
use super::stage::Stage;
use crate::image::Empty;
use crate::lint::Finding;

/// Ports that one file may expose in all. A range over every port of three protocols is legal; a
/// thousand of those would fill the image configuration and the builder's memory.
pub(super) const MAX_PORTS: usize = 3 * 65_536;

/// A port specification that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExposeError {
    /// No port, or an unknown protocol.
    #[error("invalid port: {port:?}: {reason}")]
    Port {
        /// As written.
        port: String,
        /// What is wrong.
        reason: String,
    },
    /// A bad address in front.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// A bad port or range of the container.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// A bad port or range of the host.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// Ranges of different length.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
    /// More than any image needs.
    #[error("more than {MAX_PORTS} ports exposed")]
    TooMany,
}

impl Converter<'_> {
    pub(super) fn expose(
        &mut self,
        stage: &mut Stage,
        ports: &[String],
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        let mut exposed = Vec::new();
        for text in ports {
            let expanded = self.expander.expand(text, &stage.state.env)?;
            report_undefined(stage, step.instruction, &expanded.unmatched, step.warnings);
            for port in &expanded.words {
                let range = parse_port(port, step)?;
                let left = self.ports_left.checked_sub(range.len());
                self.ports_left = left.ok_or(ExposeError::TooMany)?;
                exposed.extend(range.ports());
            }
        }
        for port in &exposed {
            stage.image.config.exposed_ports.insert(port.clone(), Empty {});
        }
        self.commit(stage, &format!("EXPOSE {}", list(&exposed)), false);
        Ok(())
    }
}

/// Ports of one protocol.
struct PortRange {
    first: u16,
    last: u16,
    protocol: String,
}

impl PortRange {
    fn len(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// `80/tcp` for each.
    fn ports(&self) -> impl Iterator<Item = String> {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// `[ip:][host:]container[/protocol]`.
fn parse_port(port: &str, step: &mut Step<'_>) -> Result<PortRange, ExposeError> {
    let (address, host, rest) = split(port);
    let (container, protocol) = protocol(port, rest)?;
    if protocol.chars().any(char::is_uppercase) {
        step.report(&Finding::ExposeProtoCasing { port });
    }
    if !address.is_empty() || !host.is_empty() {
        step.report(&Finding::ExposeInvalidFormat { port });
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(ExposeError::Address(address.to_owned()));
    }
    let error = || ExposeError::Container(container.to_owned());
    let (first, last) = range(container).ok_or_else(error)?;
    if !host.is_empty() {
        let (host_first, host_last) =
            range(host).ok_or_else(|| ExposeError::Host(host.to_owned()))?;
        if last != first && last - first != host_last - host_first {
            let (container, host) = (container.to_owned(), host.to_owned());
            return Err(ExposeError::Ranges { container, host });
        }
    }
    Ok(PortRange { first, last, protocol: protocol.to_lowercase() })
}

fn split(port: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = port.rsplit_once(':') else { return ("", "", port) };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn protocol<'a>(whole: &str, port: &'a str) -> Result<(&'a str, &'a str), ExposeError> {
    let error = |reason: String| ExposeError::Port { port: whole.to_owned(), reason };
    let (port, protocol) = port.split_once('/').unwrap_or((port, ""));
    if port.is_empty() {
        return Err(error("no port specified".to_owned()));
    }
    match protocol.to_lowercase().as_str() {
        "" => Ok((port, "tcp")),
        "tcp" | "udp" | "sctp" => Ok((port, protocol)),
        _ => Err(error(format!("invalid proto: {protocol}"))),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse().ok().filter(|_| !text.starts_with('+'));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ports_are_refused() {
        for text in ["", "-", "1-", "65536", "2-1", "+1-", "+1", "a", "1-2-3"] {
            assert!(range(text).is_none(), "{text:?} was accepted");
        }
        assert_eq!(range("1-3"), Some((1, 3)));
        assert_eq!(split("1.2.3.4:80:8080/udp"), ("1.2.3.4", "80", "8080/udp"));
        assert_eq!(split("[::1]:80:8080"), ("[::1]", "80", "8080"));
        assert!(protocol("80/x", "80/x").is_err());
        assert!(protocol("/tcp", "/tcp").is_err());
    }
}
