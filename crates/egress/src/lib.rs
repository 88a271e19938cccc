//! The gate: the only way from a sandbox to the network.
//!
//! A step's network namespace holds one TUN interface and nothing else. The descriptor of that interface is handed to the
//! *gate*, a process outside the builder's uid range, which ends every TCP connection and UDP exchange in a userspace stack
//! ([smoltcp], one tiny instance per TCP flow), decides by [`Policy`] on the address really connected to, and relays allowed
//! flows with ordinary sockets. Names are resolved by the gate alone. Every connection, allowed or not, is reported to the
//! builder, which holds the client half: [`Gate`] and [`Attachment`].
//!
//! What the gate must never do: connect before the decision, decide on a name where an address is known, believe anything
//! inside a packet about its own length, or let one step's traffic grow its memory without bound.
//!
//! # Contract with the sandbox
//!
//! The interface is made with `IFF_TUN | IFF_NO_PI` (adding `IFF_VNET_HDR` is understood and saves a pass over the data), has
//! [`STEP_ADDRESS`]/[`PREFIX_LENGTH`], [`MTU`], a default route via [`GATE_ADDRESS`], and no IPv6. `resolv.conf` names
//! [`GATE_ADDRESS`]. The descriptor must not be read by anybody else once it has been attached.
//!
//! # Why smoltcp and not a ready-made tunnel stack
//!
//! The crate `ipstack` 1.0 does not fit: it keeps packets of every flow in unbounded channels and ignores its own
//! receive window (a hostile step could fill the gate's memory), offers no window scaling (64 KiB in flight), answers the SYN
//! before the caller can refuse it, and gives up on half-closed connections after seconds.

use std::net::Ipv4Addr;

mod address;
mod client;
mod control;
mod dns;
mod flows;
mod gate;
mod names;
mod packet;
mod policy;
mod privileges;
mod record;
mod reports;
mod rule;
mod step;
mod tcp;
mod terminal;
mod tun;
mod udp;

pub use client::{AttachError, Attachment, Gate, StepRecord};
pub use control::{ControlError, control_pair};
pub use gate::{GateError, GateOptions, run_gate, run_gate_with};
pub use policy::{Mode, Policy, Resolver};
pub use privileges::PrivilegeError;
pub use record::{Connection, Protocol, StepName, Unlisted, Verdict};
pub use rule::{Rule, RuleError};
pub use tun::{Packets, TunError};

/// Address of the step's interface.
pub const STEP_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 206, 0, 2);

/// Address of the gate as the step sees it: default route and name server (UDP and TCP port 53).
pub const GATE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 206, 0, 1);

/// Length of the network prefix shared by [`STEP_ADDRESS`] and [`GATE_ADDRESS`].
pub const PREFIX_LENGTH: u8 = 30;

/// Largest IP packet on the step's interface, in bytes. As large as IPv4 allows in whole 16-byte units, because the cost of
/// the gate is per packet.
pub const MTU: usize = 65520;

/// Feeds arbitrary bytes to the parsers of name server messages, as a step or a resolver could send them.
pub fn exercise_dns(data: &[u8]) {
    dns::exercise(data);
}

/// Feeds arbitrary bytes to the parsers of both directions of the control socket.
pub fn exercise_control(data: &[u8]) {
    control::exercise(data);
}

/// Feeds arbitrary bytes to the packet parser and, as a TCP segment, to the userspace stack.
pub fn exercise_packet(data: &[u8]) {
    terminal::exercise(data);
}
