//! What a build may do beyond the ordinary: granted by the daemon's configuration and asked for
//! by the build, checked when a graph arrives and before any of it runs.

use std::collections::BTreeSet;

use cofferdam_graph::Graph;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;

use crate::config::Config;
use crate::devices::{self, Devices};
use crate::failure::Failure;

const KNOWN: &[&str] = &["network.host", "security.insecure"];
/// Entitlement to devices: all of them, or behind `=` one, a kind or a class. No daemon's configuration forbids what its operator
/// declared.
const DEVICE: &str = "device";

/// The entitlements of one build.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    names: BTreeSet<String>,
    devices: devices::Granted,
}

impl Granted {
    /// Grants what a build asks for, if the daemon allows it.
    pub(crate) fn new(config: &Config, wanted: &[String]) -> Result<Self, Failure> {
        let mut devices = devices::Granted::default();
        for name in wanted {
            if let Some(rest) = name.strip_prefix(DEVICE)
                && (rest.is_empty() || rest.starts_with('='))
            {
                devices.add(rest.trim_start_matches('='))?;
                continue;
            }
            if !KNOWN.contains(&name.as_str()) {
                return Err(Failure::invalid(format!("unknown entitlement {name}")));
            }
            if !config.allows(name) {
                return Err(Failure::unknown(format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                )));
            }
        }
        Ok(Self { names: wanted.iter().cloned().collect(), devices })
    }

    /// Checks what the vertices of a graph need, of `devices` among others.
    pub(crate) fn check(&self, graph: &Graph, devices: &Devices) -> Result<(), Failure> {
        for vertex in graph.vertices() {
            let Some(Op::Exec(exec)) = &vertex.op.op else { continue };
            if exec.network == pb::NetMode::HOST {
                self.require("network.host")?;
            }
            if exec.security == pb::SecurityMode::INSECURE {
                self.require("security.insecure")?;
            }
            if !exec.cdiDevices.is_empty() {
                devices.check(&exec.cdiDevices, &self.devices)?;
            }
            if exec.network.as_known().is_none() || exec.security.as_known().is_none() {
                return Err(Failure::invalid("invalid network or security mode"));
            }
        }
        Ok(())
    }

    /// Checks what a process of a container needs.
    pub(super) fn check_process(
        &self,
        host_network: bool,
        security: buffa::EnumValue<pb::SecurityMode>,
    ) -> Result<(), Failure> {
        if host_network {
            self.require("network.host")?;
        }
        match security.as_known() {
            Some(pb::SecurityMode::SANDBOX) => Ok(()),
            Some(pb::SecurityMode::INSECURE) => self.require("security.insecure"),
            None => Err(Failure::invalid("invalid security mode")),
        }
    }

    fn require(&self, name: &str) -> Result<(), Failure> {
        if self.names.contains(name) {
            Ok(())
        } else {
            Err(Failure::unknown(format!("{name} is not allowed")))
        }
    }
}
