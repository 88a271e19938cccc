//! `RUN --mount`: files, caches, secrets and agents for one command.

use buffa::MessageField;
use cofferdam_wire::pb;
use pb::__buffa::oneof::user_opt::User;

use super::Converter;
use super::dispatch::Step;
use super::plan::{Action, Info, Mount, Root};
use super::run::RunStepError;
use super::stage::{Stage, StageId};
use crate::instructions::{Mount as Flag, MountKind, MountSharing, Run};
use crate::paths;

const SECRETS: &str = "/run/secrets/";
const AGENTS: &str = "/run/buildkit/ssh_agent.";
const SECRET_MODE: u32 = 0o400;
const AGENT_MODE: u32 = 0o600;
const CACHE_MODE: u32 = 0o755;

/// The mounts of a command.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) binds: Vec<Mount>,
    /// Secrets, then agents.
    pub(super) sockets: Vec<pb::Mount>,
    pub(super) secret_env: Vec<pb::SecretEnv>,
}

impl Converter<'_> {
    pub(super) fn run_mounts(
        &mut self,
        stage: &mut Stage,
        run: &Run,
        step: &Step<'_>,
    ) -> Result<Mounts, RunStepError> {
        let mut mounts = Mounts::default();
        let mut agents = Vec::new();
        for (index, flag) in run.mounts.iter().enumerate() {
            let source = step.sources.get(index).copied().flatten();
            let lines = step.instruction.lines;
            match flag.kind {
                MountKind::Secret => {
                    let id = secret_id(flag)?;
                    stage.outline.ask_secret(&id, flag.required, lines);
                    add_secret(&mut mounts, flag, &id);
                }
                MountKind::Ssh => {
                    let agent = agent(flag, agents.len())?;
                    stage.outline.ask_ssh(&agent.SSHOpt.ID, flag.required, lines);
                    agents.push(agent);
                }
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                    let mount = self.bind(stage, flag, source)?;
                    mounts.binds.push(mount);
                }
            }
        }
        mounts.sockets.extend(agents);
        Ok(mounts)
    }

    fn bind(
        &mut self,
        stage: &mut Stage,
        flag: &Flag,
        source: Option<StageId>,
    ) -> Result<Mount, RunStepError> {
        let mut mount = pb::Mount {
            dest: target(stage, &flag.target)?,
            readonly: flag.readonly,
            ..Default::default()
        };
        match flag.kind {
            MountKind::Cache => {
                mount.mountType = pb::MountType::CACHE.into();
                mount.cacheOpt = MessageField::some(self.cache(flag));
            }
            MountKind::Tmpfs => {
                mount.mountType = pb::MountType::TMPFS.into();
                let size = pb::TmpfsOpt { size: flag.size, ..Default::default() };
                mount.TmpfsOpt = MessageField::some(size);
            }
            _ => {}
        }
        let mut root = self.mount_root(stage, flag, source)?;
        let selector = paths::join("/", &flag.source);
        if flag.kind == MountKind::Tmpfs {
            root = None;
        } else if selector != "/" {
            mount.selector = selector;
        } else if flag.uid.is_some() || flag.gid.is_some() || flag.mode.is_some() {
            root = Some(self.owned_directory(root, flag));
            "/cache".clone_into(&mut mount.selector);
        }
        let discard = flag.kind == MountKind::Bind && !flag.readonly;
        Ok(Mount { source: root, mount, discard })
    }

    /// What is mounted; notes which of its paths are used.
    fn mount_root(
        &mut self,
        stage: &mut Stage,
        flag: &Flag,
        source: Option<StageId>,
    ) -> Result<Root, RunStepError> {
        let used = paths::join("/", &flag.source);
        let Some(id) = source else {
            if flag.kind != MountKind::Bind {
                return Ok(None);
            }
            stage.used.context.insert(used);
            return Ok(Some(self.context));
        };
        let found = &self.stages[id];
        if !found.status.dispatched {
            let (from, target) = (flag.from.clone(), flag.target.clone());
            return Err(RunStepError::LaterStage { from, target });
        }
        let (root, own) = (found.state.root, found.used.own);
        self.paths[own].insert(used);
        Ok(root)
    }

    fn cache(&self, flag: &Flag) -> pb::CacheOpt {
        let namespace = &self.request.contexts.options.cache_namespace;
        let id = if flag.id.is_empty() { paths::clean(&flag.target) } else { flag.id.clone() };
        let sharing = match flag.sharing {
            None | Some(MountSharing::Shared) => pb::CacheSharingOpt::SHARED,
            Some(MountSharing::Private) => pb::CacheSharingOpt::PRIVATE,
            Some(MountSharing::Locked) => pb::CacheSharingOpt::LOCKED,
        };
        pb::CacheOpt {
            ID: format!("{namespace}/{id}"),
            sharing: sharing.into(),
            ..Default::default()
        }
    }

    /// A directory `/cache` on `root` with the owner and mode of the flag.
    fn owned_directory(&mut self, root: Root, flag: &Flag) -> super::plan::NodeId {
        let user = |id: Option<u32>| {
            let user = Some(User::ByID(id.unwrap_or(0)));
            MessageField::some(pb::UserOpt { user, ..Default::default() })
        };
        let owner =
            pb::ChownOpt { user: user(flag.uid), group: user(flag.gid), ..Default::default() };
        let mode = flag.mode.unwrap_or(CACHE_MODE) & 0o777;
        let directory = pb::FileActionMkDir {
            path: "/cache".to_owned(),
            mode: i32::try_from(mode).unwrap_or(0o755),
            owner: MessageField::some(owner),
            timestamp: -1,
            ..Default::default()
        };
        let action = Action { source: None, action: directory.into() };
        self.plan.file(root, vec![action], Info::internal("setting cache mount permissions"))
    }
}

/// The mount point, absolute.
fn target(stage: &Stage, path: &str) -> Result<String, RunStepError> {
    let target = if path.starts_with('/') {
        path.to_owned()
    } else {
        paths::join(&format!("/{}", stage.state.dir), path)
    };
    if paths::clean(&target) == "/" { Err(RunStepError::Target(target)) } else { Ok(target) }
}

fn secret_id(flag: &Flag) -> Result<String, RunStepError> {
    let given = if flag.source.is_empty() { &flag.id } else { &flag.source };
    match (given.is_empty(), flag.target.is_empty()) {
        (false, _) => Ok(given.clone()),
        (true, false) => Ok(paths::base(&flag.target).to_owned()),
        (true, true) => Err(RunStepError::SecretName),
    }
}

/// A secret is a file, a variable, or both when both are named.
fn add_secret(mounts: &mut Mounts, flag: &Flag, id: &str) {
    if let Some(name) = &flag.env {
        let name = if name.is_empty() { id } else { name };
        mounts.secret_env.push(pb::SecretEnv {
            ID: id.to_owned(),
            name: name.to_owned(),
            optional: !flag.required,
            ..Default::default()
        });
        if flag.target.is_empty() {
            return;
        }
    }
    let dest = if flag.target.is_empty() {
        format!("{SECRETS}{}", paths::base(id))
    } else {
        flag.target.clone()
    };
    let secret = pb::SecretOpt {
        ID: id.to_owned(),
        uid: flag.uid.unwrap_or(0),
        gid: flag.gid.unwrap_or(0),
        mode: flag.mode.unwrap_or(SECRET_MODE),
        optional: !flag.required,
        ..Default::default()
    };
    mounts.sockets.push(pb::Mount {
        input: -1,
        dest,
        mountType: pb::MountType::SECRET.into(),
        secretOpt: MessageField::some(secret),
        ..Default::default()
    });
}

fn agent(flag: &Flag, index: usize) -> Result<pb::Mount, RunStepError> {
    if !flag.source.is_empty() {
        return Err(RunStepError::SshSource);
    }
    let id = if flag.id.is_empty() { "default" } else { &flag.id };
    let agent = pb::SSHOpt {
        ID: id.to_owned(),
        uid: flag.uid.unwrap_or(0),
        gid: flag.gid.unwrap_or(0),
        mode: flag.mode.unwrap_or(AGENT_MODE),
        optional: !flag.required,
        ..Default::default()
    };
    let dest =
        if flag.target.is_empty() { format!("{AGENTS}{index}") } else { flag.target.clone() };
    Ok(pb::Mount {
        input: -1,
        dest,
        mountType: pb::MountType::SSH.into(),
        SSHOpt: MessageField::some(agent),
        ..Default::default()
    })
}
