//! The exec operation: one process tree in a sandbox.
//!
//! Semantics are those of LLB's `ExecOp`: mounts, outputs in mount order, users, secrets, exit
//! codes. Secrets live in memory until the step ends; their values never reach a log, an error
//! or a key.

use std::sync::Arc;

use cofferdam_graph::Vertex;
use cofferdam_sandbox::{Exit, LaunchError, Network, Security, Spec, User};
use cofferdam_solver::Step;
use cofferdam_wire::pb;

use super::exec_disk::Written;
use super::exec_limits;
use super::exec_logs::{self, Pipes};
use super::exec_mounts::{self, Prepared, Wanted};
use super::outputs;
use crate::blocking::{blocking, give_back};
use crate::context::Context;
use crate::failure::Failure;
use crate::network_record::Recording;
use crate::snapshot::Snapshot;
use crate::user::resolve_user;

/// What a step finds in `PATH` when its image says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Description of a vertex whose programs cannot gain privileges, not even by set-user-id files.
const NO_NEW_PRIVILEGES: &str = "cofferdam.no-new-privileges";
/// As BuildKit names its sandboxes; images and scripts have come to expect it.
pub(super) const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Runs the vertex and returns its outputs, one per output mount in mount order.
pub(crate) async fn execute(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    exec: &pb::ExecOp,
    inputs: Vec<Snapshot>,
    step: &Step,
) -> Result<Vec<Snapshot>, Failure> {
    let meta =
        exec.meta.as_option().ok_or_else(|| Failure::invalid("invalid exec op with no meta"))?;
    let wanted = Wanted::by(vertex, exec);
    let mut prepared = exec_mounts::prepare(context, &wanted, &inputs, step).await?;
    let spec = spec(context, vertex, exec, meta, &mut prepared, step).await?;
    let written = written(context, &prepared).await?;
    let outcome = run(context, spec, step, &written).await;
    prepared.finish_agents();
    let (failure, settled) = match outcome {
        Ok(exit) => match check_exit(context, meta, &exit) {
            Ok(()) => return outputs::collect(prepared, inputs, exit.settled_parents).await,
            Err(failure) => (failure, Some(exit.settled_parents)),
        },
        Err(failure) => (failure, None),
    };
    // What filled the disk must go, and nothing is to be seen of a step that was ended.
    let settled = settled.filter(|_| exec_limits::disk_is_low(context.store.path()).is_none());
    match settled.filter(|_| context.builds_of(step).iter().any(|build| build.explores)) {
        Some(settled) => {
            let remains = outputs::remains(prepared, &exec.mounts, &inputs, settled).await?;
            Err(failure.leaving(remains))
        }
        None => {
            give_back(&context.store, prepared).await;
            Err(failure)
        }
    }
}

async fn spec(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    exec: &pb::ExecOp,
    meta: &pb::Meta,
    prepared: &mut Prepared,
    step: &Step,
) -> Result<Spec, Failure> {
    let user = resolve_user(prepared.root_view(), &meta.user).map_err(Failure::of)?;
    let mut env = environment(meta);
    env.extend(context.devices.variables(&exec.cdiDevices)?);
    env.extend(secret_environment(context, &exec.secretenv, step).await?);
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    let mut spec = Spec::new(
        vertex.digest.hex().chars().take(12).collect::<String>(),
        prepared.take_root()?,
        meta.args.clone(),
    );
    spec.readonly_root = prepared.readonly_root;
    spec.mounts = std::mem::take(&mut prepared.mounts);
    spec.env = env;
    spec.cwd = if meta.cwd.is_empty() { "/".to_owned() } else { meta.cwd.clone() };
    // Programs that change their user work in Dockerfiles as they do elsewhere; a frontend may forbid it.
    let forbidden = vertex.metadata.description.contains_key(NO_NEW_PRIVILEGES);
    spec.no_new_privileges = user.uid == 0 || forbidden;
    spec.user = User { uid: user.uid, gid: user.gid, groups: user.groups };
    let hostname = if meta.hostname.is_empty() { DEFAULT_HOSTNAME } else { &meta.hostname };
    spec.hostname = hostname.to_owned();
    spec.hosts = hosts(&meta.extraHosts)?;
    spec.network =
        network(context, exec.network == pb::NetMode::NONE, exec.network == pb::NetMode::HOST);
    spec.resolv_conf = context.resolv_conf(spec.network);
    spec.security = match exec.security.as_known() {
        Some(pb::SecurityMode::SANDBOX) => Security::Sandbox,
        Some(pb::SecurityMode::INSECURE) => Security::Insecure,
        None => return Err(Failure::invalid("invalid security mode")),
    };
    spec.limits = exec_limits::of_group(context, vertex.metadata.linux_resources.as_option());
    spec.ulimits = exec_limits::of_processes(&context.config.limits, meta);
    spec.shm_size = prepared.shm_size;
    Ok(spec)
}

/// Variables whose values are secrets.
pub(super) async fn secret_environment(
    context: &Context,
    secrets: &[pb::SecretEnv],
    step: &Step,
) -> Result<Vec<String>, Failure> {
    let mut env = Vec::with_capacity(secrets.len());
    for secret in secrets {
        match context.secret(step, &secret.ID).await {
            Ok(value) => env.push(format!("{}={}", secret.name, String::from_utf8_lossy(&value))),
            Err(_) if secret.optional => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(env)
}

/// The op's variables, then proxies in both spellings, then a default path; the first spelling
/// of a name wins in programs that read the environment from the front.
fn environment(meta: &pb::Meta) -> Vec<String> {
    let mut env = meta.env.clone();
    if let Some(proxy) = meta.proxy_env.as_option() {
        for (name, value) in [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                env.push(format!("{name}={value}"));
                env.push(format!("{}={value}", name.to_ascii_lowercase()));
            }
        }
    }
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    env
}

/// Entries of the hosts file.
pub(super) fn hosts(wanted: &[pb::HostIP]) -> Result<Vec<(std::net::IpAddr, String)>, Failure> {
    let parse = |host: &pb::HostIP| match host.IP.parse() {
        Ok(address) => Ok((address, host.Host.clone())),
        Err(_) => {
            let (address, name) = (&host.IP, &host.Host);
            Err(Failure::invalid(format!("invalid address {address:?} for host {name}")))
        }
    };
    wanted.iter().map(parse).collect()
}

/// What a step gets that asks for none, or for the host's.
pub(crate) fn network(context: &Context, none: bool, host: bool) -> Network {
    if none {
        Network::None
    } else if host || context.host_network_by_default() {
        Network::Host
    } else {
        Network::Gate
    }
}

/// Begins to count what the step writes.
pub(super) async fn written(context: &Context, prepared: &Prepared) -> Result<Written, Failure> {
    let disk = rustix::fs::statvfs(context.store.path()).map_err(Failure::store)?;
    let limit = context.config.limits.step_disk(disk.f_blocks * disk.f_frsize);
    let directories = if limit.is_some() { prepared.writable()? } else { Vec::new() };
    blocking(move || Written::begin(limit, directories)).await
}

async fn run(
    context: &Arc<Context>,
    spec: Spec,
    step: &Step,
    written: &Written,
) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let gated = spec.network == Network::Gate;
    if gated {
        context.require_gate()?;
    }
    let Pipes { stdout, stderr, readers } = exec_logs::pipes(step)?;
    let command = spec.args.join(" ");
    let started = context.launcher.run(spec, stdout, stderr, None).await;
    let mut running = started.map_err(|error| not_started(&command, error))?;
    let recording = match running.take_tun() {
        Some(tun) if gated => {
            let attachment = context.attach(tun, &name).await?;
            Some(Recording::begin(context, step, attachment))
        }
        _ => None,
    };
    let exit = tokio::select! {
        exit = running.wait() => exit.map_err(|error| not_started(&command, error))?,
        failure = exec_limits::unwanted(context, step, written) => {
            running.kill();
            // The step is gone when wait returns; only then may its mounts be reused.
            let _ = running.wait().await;
            return Err(failure);
        }
    };
    readers.finish().await;
    if let Some(recording) = recording {
        recording.finish().await;
    }
    // What it wrote since the last look counts too.
    match written.trouble().await {
        Some(trouble) => Err(Failure::new(connectrpc::ErrorCode::ResourceExhausted, trouble)),
        None => Ok(exit),
    }
}

/// A command that cannot be executed failed as one that ended badly does, as BuildKit tells it.
fn not_started(command: &str, error: LaunchError) -> Failure {
    let command = match error {
        LaunchError::Command { .. } => Some(command),
        _ => None,
    };
    let failure = Failure::of(error);
    match command {
        Some(command) => {
            failure.during(&format!("process {command:?} did not complete successfully"))
        }
        None => failure,
    }
}

fn check_exit(context: &Context, meta: &pb::Meta, exit: &Exit) -> Result<(), Failure> {
    let code = exit.code.unwrap_or_else(|| 128 + exit.signal.unwrap_or(127));
    let valid: &[i32] = if meta.validExitCodes.is_empty() { &[0] } else { &meta.validExitCodes };
    if valid.contains(&code) {
        return Ok(());
    }
    let command = meta.args.join(" ");
    let mut message =
        format!("process {command:?} did not complete successfully: exit code: {code}");
    let reached = exec_limits::reached(context, exit);
    if let Some(reached) = &reached {
        message.push_str(": ");
        message.push_str(reached);
    }
    let detail = exec_limits::exit_detail(code, reached);
    Err(Failure::unknown(message)
        .with_detail("github.com/moby/buildkit/gatewayapi.ExitMessage+json", detail))
}
