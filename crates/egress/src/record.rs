//! What is known afterwards about each connection of a step.
//!
//! A record is a fact for audit: it is made for denied attempts too, and when there are too many to list one by one they are
//! summed in [`Unlisted`], never dropped. Nothing here may hold bytes of the traffic itself.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Longest step name kept, in bytes: it is repeated in every message.
const MAX_STEP_NAME: usize = 256;

/// Name of a step in records. Control characters are replaced and the length is bounded, so that it can be shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct StepName(String);

impl StepName {
    /// Makes a name of any text, cut to 256 bytes.
    pub fn new(text: &str) -> StepName {
        let mut name = String::with_capacity(text.len().min(MAX_STEP_NAME));
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if name.len() + c.len_utf8() > MAX_STEP_NAME {
                break;
            }
            name.push(c);
        }
        StepName(name)
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for StepName {
    fn from(text: String) -> StepName {
        StepName::new(&text)
    }
}

impl From<&str> for StepName {
    fn from(text: &str) -> StepName {
        StepName::new(text)
    }
}

impl From<StepName> for String {
    fn from(name: StepName) -> String {
        name.0
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a step talked to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// An exchange of UDP datagrams between one pair of ports.
    Udp,
    /// A lookup of a name that was refused, or whose answer held a refused address. Lookups that succeed are not recorded.
    Dns,
}

/// The decision and the rule it came from: `allow <rule>`, `deny <rule>`, or the reason built into the mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The flow was relayed.
    Allowed(String),
    /// The flow was refused.
    Denied(String),
}

impl Verdict {
    pub(crate) fn allowed(rule: impl Into<String>) -> Verdict {
        Verdict::Allowed(rule.into())
    }

    pub(crate) fn denied(rule: impl Into<String>) -> Verdict {
        Verdict::Denied(rule.into())
    }

    /// Whether the flow was refused.
    pub fn is_denied(&self) -> bool {
        matches!(self, Verdict::Denied(_))
    }

    /// The rule or reason that decided.
    pub fn rule(&self) -> &str {
        match self {
            Verdict::Allowed(rule) | Verdict::Denied(rule) => rule,
        }
    }
}

/// One connection, reported when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The step that made it.
    pub step: StepName,
    /// The name the step resolved the address from last, when it asked the gate for one.
    pub name: Option<String>,
    /// The address connected to; for a refused lookup the gate's own, for a refused answer the address in it.
    pub address: IpAddr,
    /// The destination port.
    pub port: u16,
    /// How the step talked to it.
    pub protocol: Protocol,
    /// Payload bytes from the step outwards.
    pub bytes_up: u64,
    /// Payload bytes towards the step.
    pub bytes_down: u64,
    /// When the step asked for it.
    pub started: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// Whether it was relayed, and by which rule.
    pub verdict: Verdict,
    /// Why an allowed connection could not be made or ended early.
    pub failure: Option<String>,
}

impl Connection {
    /// Whether the gate refused it.
    pub fn denied(&self) -> bool {
        self.verdict.is_denied()
    }
}

/// Sum of the connections that were not listed one by one, because there were too many or the reader was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Unlisted {
    /// Relayed connections.
    pub allowed: u64,
    /// Refused connections, datagrams and lookups.
    pub denied: u64,
    /// Payload bytes of the relayed ones from the step outwards.
    pub bytes_up: u64,
    /// Payload bytes of the relayed ones towards the step.
    pub bytes_down: u64,
}

impl Unlisted {
    /// Whether everything was listed.
    pub fn is_empty(&self) -> bool {
        *self == Unlisted::default()
    }

    pub(crate) fn count(&mut self, connection: &Connection) {
        if connection.denied() {
            self.denied = self.denied.saturating_add(1);
        } else {
            self.allowed = self.allowed.saturating_add(1);
        }
        self.bytes_up = self.bytes_up.saturating_add(connection.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(connection.bytes_down);
    }

    pub(crate) fn add(&mut self, other: Unlisted) {
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.denied = self.denied.saturating_add(other.denied);
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
    }
}
