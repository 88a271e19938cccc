//! `RUN`: a command in the stage's file tree.

use buffa::MessageField;
use cofferdam_wire::pb;

use super::Converter;
use super::dispatch::Step;
use super::env::Env;
use super::error::ConvertError;
use super::history::command_line;
use super::mounts::Mounts;
use super::naming::{display, summarize};
use super::plan::{Exec, Info, Mount, Work, make_file};
use super::settings::with_shell;
use super::stage::Stage;
use crate::instructions::{CommandLine, Device, MountKind, Network, Run, Security};
use crate::parser::{parse_heredoc, strip_tabs};
use crate::paths;

/// Where the script of a heredoc with `#!` is mounted.
const SCRIPTS: &str = "/dev/pipes/";

/// A `RUN` that does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunStepError {
    /// Heredocs beside an exec form.
    #[error("parsing produced an invalid run command: {0:?}")]
    Heredoc(Vec<String>),
    /// The stage comes later in the file.
    #[error(
        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command"
    )]
    LaterStage {
        /// `from`.
        from: String,
        /// `target`.
        target: String,
    },
    /// A mount over the root.
    #[error("invalid mount target {0:?}")]
    Target(String),
    /// A secret without a name.
    #[error("one of source, target required")]
    SecretName,
    /// `type=ssh,source=…`.
    #[error("ssh does not support source")]
    SshSource,
    /// A base image that wants what was given to whoever builds on it.
    #[error(
        "ONBUILD of a base image must not mount secrets or SSH agents: write the instruction into the Dockerfile itself"
    )]
    Trigger,
}

/// A command with what its heredocs add to it.
struct Prepared {
    words: Vec<String>,
    /// Behind the name in lists.
    summary: String,
    script: Option<Mount>,
}

/// A base image says what is run on top of it; what a client keeps back for its own steps is not the image's to ask for.
fn check_trigger(stage: &Stage, run: &Run) -> Result<(), RunStepError> {
    let kept =
        run.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Secret | MountKind::Ssh));
    if stage.counter.onbuild && stage.base.is_none() && kept {
        return Err(RunStepError::Trigger);
    }
    Ok(())
}

fn device(device: &Device) -> pb::CDIDevice {
    pb::CDIDevice {
        name: device.name.clone(),
        optional: !device.required,
        ..pb::CDIDevice::default()
    }
}

impl Converter<'_> {
    pub(super) fn run(
        &mut self,
        stage: &mut Stage,
        run: &Run,
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        // A command may read any file.
        self.paths[stage.used.own].insert("/".to_owned());
        let mut prepared = self.prepare_command(stage, &run.command)?;
        if run.command.shell {
            prepared.words = with_shell(&stage.image, &prepared.words);
        }
        check_trigger(stage, run)?;
        let mut mounts = self.run_mounts(stage, run, step)?;
        self.budget.command(stage, &prepared.words)?;
        self.budget.items(run.mounts.len().saturating_add(run.devices.len()))?;
        mounts.binds.extend(prepared.script);
        mounts.binds.extend(self.shm());
        let name =
            self.run_name(stage, run, &format!("{}{}", step.instruction.text, prepared.summary));
        let options = self.request.contexts.options;
        let exec = Exec {
            meta: self.meta(stage, prepared.words.clone(), mounts.ssh_socket()),
            network: match run.network {
                Network::Default => options.network,
                Network::None => pb::NetMode::NONE,
                Network::Host => pb::NetMode::HOST,
            },
            security: match run.security {
                Security::Sandbox => pb::SecurityMode::SANDBOX,
                Security::Insecure => pb::SecurityMode::INSECURE,
            },
            root: stage.state.root,
            mounts: mounts.binds,
            sockets: mounts.sockets,
            secret_env: mounts.secret_env,
            devices: run.devices.iter().map(device).collect(),
            platform: stage.platform(),
        };
        let info = Info {
            name: Some(name),
            command: Some(step.instruction.text.clone()),
            ignore_cache: stage.ignore_cache,
            resources: options.resources.clone(),
            lines: Some(step.instruction.lines),
            group: None,
        };
        stage.state.root = Some(self.plan.add(Work::Exec(Box::new(exec)), info));
        let line = command_line(&prepared.words, &stage.args, &stage.state.env);
        self.commit(stage, &format!("RUN {line} # buildkit"), true);
        Ok(())
    }

    /// A single heredoc is the command itself: a program of its own when it starts with `#!`, else
    /// text for the shell. Several are left to the shell.
    fn prepare_command(
        &mut self,
        stage: &Stage,
        command: &CommandLine,
    ) -> Result<Prepared, RunStepError> {
        let mut prepared =
            Prepared { words: command.words.clone(), summary: String::new(), script: None };
        let Some(first) = command.files.first() else { return Ok(prepared) };
        let [text] = command.words.as_slice() else {
            return Err(RunStepError::Heredoc(command.words.clone()));
        };
        if !command.shell {
            return Err(RunStepError::Heredoc(command.words.clone()));
        }
        if parse_heredoc(text).is_none() {
            let mut text = text.clone();
            for file in &command.files {
                text.push('\n');
                text.push_str(&file.data);
                text.push_str(&file.name);
            }
            prepared.words = vec![text];
            return Ok(prepared);
        }
        let data = if first.strip_tabs { strip_tabs(&first.data) } else { first.data.clone() };
        prepared.summary = format!(" ({})", summarize(&first.data));
        if stage.image.os != "windows" && data.starts_with("#!") {
            prepared.script = Some(self.script(&first.name, &data));
            prepared.words = vec![format!("{SCRIPTS}{}", first.name)];
        } else {
            prepared.words = vec![data];
        }
        Ok(prepared)
    }

    fn script(&mut self, name: &str, data: &str) -> Mount {
        let file = make_file(&paths::join("/", name), 0o755, data);
        let info = Info::internal("preparing inline document");
        let source = self.plan.file(None, vec![file], info);
        let mount = pb::Mount {
            dest: SCRIPTS.to_owned(),
            selector: "/".to_owned(),
            readonly: true,
            ..Default::default()
        };
        Mount { source: Some(source), mount, discard: false }
    }

    /// `/dev/shm` of the size that was asked for.
    fn shm(&self) -> Option<Mount> {
        let size = self.request.contexts.options.shm_size;
        let mount = pb::Mount {
            dest: "/dev/shm".to_owned(),
            mountType: pb::MountType::TMPFS.into(),
            TmpfsOpt: MessageField::some(pb::TmpfsOpt { size, ..Default::default() }),
            ..Default::default()
        };
        (size > 0).then_some(Mount { source: None, mount, discard: false })
    }

    /// The vertex name. Secrets in variables are only ever shown as stars.
    fn run_name(&self, stage: &mut Stage, run: &Run, text: &str) -> String {
        let expander = self.expander.clone().raw_quotes().keep_unset();
        let mut env = stage.state.env.clone();
        for mount in run.mounts.iter().filter(|mount| mount.kind == MountKind::Secret) {
            if let Some(name) = &mount.env {
                env.set(name, "****");
            }
        }
        self.prefix(stage) + &display(&expander, text, &env)
    }

    fn meta(&self, stage: &Stage, args: Vec<String>, ssh_socket: Option<&str>) -> pb::Meta {
        let options = self.request.contexts.options;
        let mut env: Env = stage.state.env.clone();
        if let Some(socket) = ssh_socket.filter(|_| env.value("SSH_AUTH_SOCK").is_none()) {
            env.set("SSH_AUTH_SOCK", socket);
        }
        let directory = if stage.state.dir.is_empty() { "/" } else { &stage.state.dir };
        pb::Meta {
            args,
            env: env.list(),
            cwd: directory.to_owned(),
            user: stage.state.user.clone(),
            proxy_env: self.proxy_env().into(),
            extraHosts: options.hosts.clone(),
            hostname: options.hostname.clone(),
            ulimit: options.ulimits.clone(),
            cgroupParent: options.cgroup_parent.clone(),
            removeMountStubsRecursive: true,
            ..Default::default()
        }
    }

    /// Proxies among the build arguments; they need no declaration.
    fn proxy_env(&self) -> Option<pb::ProxyEnv> {
        let mut proxies = pb::ProxyEnv::default();
        let mut any = false;
        for (name, value) in &self.build_args {
            let field = match name.to_ascii_lowercase().as_str() {
                "http_proxy" => &mut proxies.http_proxy,
                "https_proxy" => &mut proxies.https_proxy,
                "ftp_proxy" => &mut proxies.ftp_proxy,
                "no_proxy" => &mut proxies.no_proxy,
                "all_proxy" => &mut proxies.all_proxy,
                _ => continue,
            };
            field.clone_from(value);
            any = true;
        }
        any.then_some(proxies)
    }
}

impl Mounts {
    fn ssh_socket(&self) -> Option<&str> {
        let ssh = |mount: &&pb::Mount| mount.mountType == pb::MountType::SSH;
        self.sockets.iter().find(ssh).map(|mount| mount.dest.as_str())
    }
}
