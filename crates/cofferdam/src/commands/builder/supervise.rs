//! The life of a builder as its supervisor sees it: started, signalled, ended, cleaned up after.
//!
//! One thread throughout. Gate and builder become what they are of copies that were made before anything was read.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use cofferdam_egress::control_pair;
use cofferdam_sandbox::{Enclosure, EnclosureOptions, Isolation, Network, Spare, Supervised};
use rustix::process::Signal;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::settings::Settings;
use super::{Spares, devices, enclosed, gate, listen, vm};

/// Below the root directory: the part that belongs to the builder's ids. The rest stays the supervisor's.
pub(super) const STORE: &str = "store";

/// How long a builder has to end by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the gate has once its builder has gone.
const GATE_PATIENCE: Duration = Duration::from_secs(2);

/// "For ever", for a timer that has to be something.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Variables of the supervisor that the builder keeps: proxies for its own downloads, and switches for debugging.
const KEPT: &[&str] = &[
    "ALL_PROXY",
    "BUILDKIT_DEBUG_EXEC_OUTPUT",
    "BUILDKIT_DEBUG_PANIC_ON_ERROR",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "RUST_BACKTRACE",
    "TZ",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Programs the builder starts (git) are looked for here.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a builder until it ends.
pub(super) fn run(settings: Settings, spares: Spares) -> anyhow::Result<ExitCode> {
    crate::commands::server::make_files_as_meant();
    keep_descriptors().context("close inherited descriptors to other programs")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(settings, spares))
}

/// Whatever this process was started with besides its standard streams is not for the gate and not for the builder.
fn keep_descriptors() -> std::io::Result<()> {
    // SAFETY: closes nothing now; only marks descriptors as closed when the next program is executed.
    let result =
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

async fn supervise(settings: Settings, spares: Spares) -> anyhow::Result<ExitCode> {
    for flag in &settings.ignored.0 {
        tracing::debug!(flag, "this flag means nothing here and is ignored");
    }
    // From here on a signal finds somebody who cleans up.
    let mut stop = Stop::watch(settings.until_stdin_closes)?;
    create_root(&settings)?;
    // Held to the end: two supervisors would hand one disk to two guests.
    let _alone = take_root(&settings.root)?;
    let unnoted = cofferdam_server::layout::BUILDER.prepare(&settings.root)?;
    let bound = listen::bind(&settings.addresses, settings.owner)?;
    let (ours, theirs) = control_pair()?;
    let mut gate = gate::start(spares.gate, &theirs, &settings)?;
    drop(theirs);
    let mut descriptors = bound.descriptors;
    descriptors.push((enclosed::GATE.to_owned(), ours));
    if settings.config.isolation.level == Isolation::Vm {
        devices::say_that_none_are_given(&settings.config);
    } else if let Some(feed) = devices::watch(&settings.config)? {
        descriptors.push((enclosed::DEVICES.to_owned(), feed));
    }
    let mut builder = enclose(&settings, descriptors, spares.builder)?;
    // The builder opens its store meanwhile. If the machine goes down before this is on the disk, that store has nothing in it.
    unnoted.note()?;
    tracing::info!(root = %settings.root.display(), addresses = ?settings.config.grpc.address, "the builder is up");
    // Reading arguments and configuration took a hundred times what waiting takes.
    cofferdam_server::give_back_memory();
    let code = watch(&mut builder, &mut gate, &mut stop).await;
    // The builder held the other end of its socket: it ends by itself, and is killed when dropped if not.
    timeout(GATE_PATIENCE, gate.exited()).await.ok();
    drop(bound.sockets);
    if settings.until_stdin_closes {
        remove_directories(&settings.addresses);
    }
    code
}

/// Removes the private directories of sockets, as far as they are empty: whoever made them may be gone.
fn remove_directories(addresses: &[listen::Address]) {
    for address in addresses {
        if let listen::Address::Unix(path) = address
            && let Some(parent) = path.parent()
        {
            // Not empty is not ours.
            std::fs::remove_dir(parent).ok();
        }
    }
}

/// Makes the root directory. Others may pass through it only if they know what they look for: the store inside is closed to
/// everybody but the builder.
fn create_root(settings: &Settings) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&settings.root)
        .with_context(|| format!("create {}", settings.root.display()))
}

/// Takes the root directory for this supervisor alone. The lock is on the directory itself: it needs no space on a full disk, and
/// nothing of it is left behind.
fn take_root(root: &Path) -> anyhow::Result<File> {
    use rustix::fs::{FlockOperation, flock};
    let open = || format!("open {}", root.display());
    let directory = File::open(root).with_context(open)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("{} belongs to a builder that runs: use another root directory", root.display())
        }
        Err(error) => Err(error).with_context(|| format!("lock {}", root.display())),
    }
}

fn enclose(
    settings: &Settings,
    mut descriptors: Vec<(String, std::os::fd::OwnedFd)>,
    spare: Spare,
) -> anyhow::Result<Supervised> {
    let mut config = settings.config.clone();
    settings.level.name().clone_into(&mut config.log.level);
    settings.format.name().clone_into(&mut config.log.format);
    let config = serde_json::to_vec(&config)?;
    let mut env: Vec<(OsString, OsString)> =
        KEPT.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
    env.push(("PATH".into(), PATH.into()));
    env.push(("HOME".into(), "/tmp".into()));
    if settings.config.isolation.level == Isolation::Vm {
        return vm::enclose(settings, descriptors, config, &env, spare);
    }
    descriptors.push((enclosed::CONFIG.to_owned(), gate::in_memory(c"config", &config)?));
    Enclosure::spawn(EnclosureOptions {
        store: settings.root.join(STORE),
        ids_base: settings.config.isolation.ids_base,
        args: vec![enclosed::MODE.into()],
        env,
        descriptors,
        limits: settings.limits.clone(),
        // No way out but the gate.
        network: Network::Gate,
        spare: Some(spare),
        ..EnclosureOptions::default()
    })
    .context("start the builder")
}

/// Waits for the builder's end; passes signals on, and loses patience in the end.
async fn watch(
    builder: &mut Supervised,
    gate: &mut Spare,
    stop: &mut Stop,
) -> anyhow::Result<ExitCode> {
    let mut deadline = Instant::now() + NEVER;
    let mut stopping = false;
    let mut gate_ended = false;
    let mut failed = false;
    loop {
        tokio::select! {
            exit = builder.exited() => {
                let code = exit.context("watch the builder")?.code;
                // A signal ends one that has not come so far as to watch for it.
                let told = stopping && (code == 128 + libc::SIGTERM || code == 128 + libc::SIGINT);
                let code = if told { 0 } else { code };
                if code != 0 {
                    tracing::error!(code, "the builder failed");
                }
                let code = u8::try_from(code).unwrap_or(1);
                return Ok(if failed { ExitCode::FAILURE } else { ExitCode::from(code) });
            }
            (signal, urgent) = stop.next() => {
                if stopping {
                    if urgent {
                        builder.kill();
                    }
                    continue;
                }
                stopping = true;
                deadline = Instant::now() + PATIENCE;
                tracing::info!("the builder was told to stop");
                builder.signal(signal)?;
            }
            code = gate.exited(), if !gate_ended => {
                gate_ended = true;
                // It succeeds when the builder has closed the socket: then the builder's own end is near.
                if stopping || matches!(code, Ok(0)) {
                    continue;
                }
                // Steps would fail one by one without saying why; a builder cannot be given another gate.
                tracing::error!(code = ?code.ok(), "the gate is gone: stopping the builder");
                failed = true;
                stopping = true;
                deadline = Instant::now() + PATIENCE;
                builder.signal(Signal::TERM)?;
            }
            () = sleep_until(deadline) => {
                tracing::warn!("the builder does not stop by itself and is killed");
                builder.kill();
                deadline = Instant::now() + NEVER;
            }
        }
    }
}

/// Reasons to stop.
struct Stop {
    terminate: Signals,
    interrupt: Signals,
    hangup: Signals,
    input: Option<pipe::Receiver>,
}

impl Stop {
    fn watch(until_stdin_closes: bool) -> anyhow::Result<Self> {
        use std::os::fd::AsFd;
        let input = if until_stdin_closes {
            let input = std::io::stdin().as_fd().try_clone_to_owned()?;
            Some(pipe::Receiver::from_owned_fd(input).context("watch standard input")?)
        } else {
            None
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            input,
        })
    }

    /// The next reason, as the signal to pass on, and whether saying it again means "at once": people do, a pipe does not.
    async fn next(&mut self) -> (Signal, bool) {
        tokio::select! {
            _ = self.terminate.recv() => (Signal::TERM, true),
            _ = self.interrupt.recv() => (Signal::INT, true),
            _ = self.hangup.recv() => (Signal::TERM, false),
            () = closed(&mut self.input) => (Signal::TERM, false),
        }
    }
}

/// Returns once, when the pipe's other end is gone; never without a pipe.
async fn closed(input: &mut Option<pipe::Receiver>) {
    use tokio::io::AsyncReadExt;
    let Some(pipe) = input else { return std::future::pending().await };
    let mut scrap = [0; 64];
    while pipe.read(&mut scrap).await.is_ok_and(|length| length > 0) {}
    *input = None;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_root_directory_has_one_supervisor() {
        let root = tempfile::tempdir().unwrap();
        let first = take_root(root.path()).unwrap();
        let error = take_root(root.path()).unwrap_err();
        assert!(error.to_string().contains("belongs to a builder that runs"), "{error}");
        drop(first);
        take_root(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
