//! What the supervisor writes down for the process it makes, and what it hears back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::EnclosureOptions;
use super::ids::Identity;
use crate::cgroup::{Delegation, Grant};
use crate::spec::{Network, StepIds};

/// Set in the environment of a process that is to enter an enclosure; gone from the builder's.
pub(super) const MARK: &str = "COFFERDAM_ENCLOSURE";

/// Numbers of inherited descriptors: the plan, the socket for news, the pipe that ends with the supervisor, and from then on
/// those of the caller in the order of [`Plan::descriptors`].
pub(super) const PLAN: i32 = 3;
pub(super) const STATUS: i32 = 4;
pub(super) const LIFELINE: i32 = 5;
pub(super) const FIRST_INHERITED: i32 = 6;

/// Everything a process needs to know to enclose itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) store: PathBuf,
    pub(super) identity: Identity,
    pub(super) steps: StepIds,
    pub(super) binds: Vec<PlannedBind>,
    pub(super) descriptors: Vec<String>,
    /// Control groups by their paths on the host.
    pub(super) delegation: Delegation,
    pub(super) join: Vec<PathBuf>,
    pub(super) network: Network,
    pub(super) kvm: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlannedBind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) readonly: bool,
    /// Whether a source that does not exist is left out.
    pub(super) optional: bool,
}

impl Plan {
    pub(super) fn new(
        store: PathBuf,
        identity: Identity,
        options: &EnclosureOptions,
        grant: &Grant,
    ) -> Self {
        let given = options.binds.iter().map(|bind| PlannedBind {
            source: bind.source.clone(),
            target: bind.target.clone(),
            readonly: bind.readonly,
            optional: false,
        });
        let system = super::root::SYSTEM.iter().chain(super::root::resolver(options.network));
        let system = system.map(|path| PlannedBind {
            source: path.into(),
            target: path.into(),
            readonly: true,
            optional: true,
        });
        Self {
            store,
            steps: identity.step_ids(),
            identity,
            binds: system.chain(given).collect(),
            descriptors: options.descriptors.iter().map(|(name, _)| name.clone()).collect(),
            delegation: grant.delegation.clone(),
            join: grant.join.clone(),
            network: options.network,
            kvm: options.kvm,
        }
    }
}

/// News of an enclosure in the making.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Status {
    /// Init exists; its pidfd comes along.
    Started { pid: i32 },
    /// The builder is in its place.
    Ready,
    /// Something failed; nothing is left running that does not end by itself.
    Failed(String),
}
