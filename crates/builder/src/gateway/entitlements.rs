//! What a build may do beyond the ordinary: granted by the daemon's configuration and asked for
//! by the build, checked when a graph arrives and before any of it runs.

use std::collections::BTreeSet;

use cofferdam_graph::Graph;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;

use crate::config::Config;
use crate::failure::Failure;

const KNOWN: &[&str] = &["network.host", "security.insecure"];

/// The entitlements of one build.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted(BTreeSet<String>);

impl Granted {
    /// Grants what a build asks for, if the daemon allows it.
    pub(crate) fn new(config: &Config, wanted: &[String]) -> Result<Self, Failure> {
        for name in wanted {
            if !KNOWN.contains(&name.as_str()) {
                return Err(Failure::invalid(format!("unknown entitlement {name}")));
            }
            if !config.allows(name) {
                return Err(Failure::unknown(format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                )));
            }
        }
        Ok(Self(wanted.iter().cloned().collect()))
    }

    /// Checks what the vertices of a graph need.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), Failure> {
        for vertex in graph.vertices() {
            let Some(Op::Exec(exec)) = &vertex.op.op else { continue };
            if exec.network == pb::NetMode::HOST {
                self.require("network.host")?;
            }
            if exec.security == pb::SecurityMode::INSECURE {
                self.require("security.insecure")?;
            }
            if exec.network.as_known().is_none() || exec.security.as_known().is_none() {
                return Err(Failure::invalid("invalid network or security mode"));
            }
        }
        Ok(())
    }

    fn require(&self, name: &str) -> Result<(), Failure> {
        if self.0.contains(name) {
            Ok(())
        } else {
            Err(Failure::unknown(format!("{name} is not allowed")))
        }
    }
}
