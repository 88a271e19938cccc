//! The machine's process on the host: starts QEMU or Firecracker, and carries bytes between the guest, clients and the gate.
//!
//! It runs in the enclosure of its project, without network and without capabilities, since it is what a hostile guest talks to.
//! It never reads what clients and guest say to each other, and mounts nothing.

mod clients;
mod monitor;
mod port;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cofferdam_sandbox::{ConfineError, confine_machine};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, interval, sleep_until, timeout};
use yamux::ConnectionError;

use crate::channel::{self, Channel, Incoming, Purpose, Side, Stream};
use crate::console::{Console, printable};
use crate::disk::{self, DiskError};
use crate::machine::Machine;
use crate::order::{Command, MAX_NEWS, News, Order};
use crate::relay::HostRelay;

pub use clients::Listener;
use monitor::Monitor;
use port::Port;

/// Where Firecracker's sockets are, in the machine's own enclosure.
const SOCKETS: &str = "/tmp/machine";
/// Longest time from the monitor's start until the builder serves. Two seconds are usual without KVM; a machine may be busy.
const BOOT: Duration = Duration::from_secs(120);
/// How long the guest has to end after it was told to; less than whoever watches this process has.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the monitor has to end after the guest has.
const POWER_OFF: Duration = Duration::from_secs(5);
/// How often the guest is told the time.
const CLOCK: Duration = Duration::from_secs(10);
/// How long a guest may take to take in a command.
const SAY: Duration = Duration::from_secs(1);
/// "For ever", for a timer that has to be something.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest line of the builder's log that is passed on, and most of it in a second.
const MAX_LINE: usize = 16 << 10;
const MAX_LOG: usize = 1 << 20;

/// The machine could not be run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its disk could not be made.
    #[error("prepare the disk of the virtual machine")]
    Disk(#[from] DiskError),
    /// QEMU or Firecracker could not be started.
    #[error("start the virtual machine")]
    Start(#[source] std::io::Error),
    /// The event loop, a listener or the gate's socket could not be used.
    #[error("prepare the channel to the virtual machine")]
    Prepare(#[source] std::io::Error),
    /// Privileges could not be given up.
    #[error("give up privileges")]
    Privileges(#[source] std::io::Error),
    /// The process could not be restricted.
    #[error("restrict the machine's process")]
    Confine(#[from] ConfineError),
    /// The guest could not start the builder.
    #[error("the virtual machine cannot start the builder: {0}")]
    Guest(String),
    /// The guest ended, or what runs it did.
    #[error("the virtual machine {how}{}", .console.iter().map(|line| format!("\n  | {line}")).collect::<String>())]
    Ended {
        /// What happened.
        how: String,
        /// Its last words.
        console: Vec<String>,
    },
}

/// What the machine's process is told, besides its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The machine.
    pub machine: Machine,
    /// Size of its disk in bytes.
    pub disk: u64,
    /// Whether its process restricts itself with landlock.
    pub landlock: bool,
    /// What its guest is to do.
    pub order: Order,
}

/// Everything the machine's process has.
#[derive(Debug)]
pub struct Parts {
    /// The directory of the disk.
    pub store: PathBuf,
    /// What to do.
    pub plan: Plan,
    /// Where clients come to, in the order of [`Order::listeners`].
    pub listeners: Vec<Listener>,
    /// The gate's control socket, when there is a gate.
    pub gate: Option<OwnedFd>,
}

/// Runs the machine until it has ended; the builder's exit code. The process has one thread when this is called.
///
/// # Errors
///
/// When the machine cannot be started or dies.
pub fn run(parts: Parts) -> Result<i32, MachineError> {
    give_up_privileges().map_err(MachineError::Privileges)?;
    if parts.plan.landlock {
        confine_machine(parts.plan.machine.program())?;
    }
    let disk = disk::prepare(&parts.store, parts.plan.disk)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(MachineError::Prepare)?;
    LocalSet::new().block_on(&runtime, async {
        let (monitor, port) = Monitor::start(&parts.plan.machine, &disk.path, SOCKETS.as_ref())
            .map_err(MachineError::Start)?;
        let console = Rc::clone(&monitor.console);
        let ended =
            |how: String| MachineError::Ended { how, console: console.borrow().last_lines() };
        Host::new(parts, monitor, port)?.run().await.map_err(|failure| match failure {
            Failure::Machine(error) => error,
            Failure::Ended(how) => ended(how),
        })
    })
}

/// Whatever this process and the monitor are made to do, they do it as an ordinary user.
fn give_up_privileges() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it cannot give it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Why it did not go on; the console's last lines are added outside.
enum Failure {
    Machine(MachineError),
    Ended(String),
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

struct Host {
    monitor: Monitor,
    channel: Channel,
    incoming: Incoming,
    driver: JoinHandle<Result<(), ConnectionError>>,
    order: Order,
    listeners: Vec<Listener>,
    relay: Option<HostRelay>,
    /// Whether the guest has begun to log, which it does once.
    logged: Rc<Cell<bool>>,
}

impl Host {
    fn new(parts: Parts, monitor: Monitor, port: Port) -> Result<Self, MachineError> {
        let relay = parts.gate.map(HostRelay::new).transpose().map_err(MachineError::Prepare)?;
        let (channel, incoming, driver) = channel::start(port, Side::Host);
        let (order, listeners, logged) = (parts.plan.order, parts.listeners, Rc::default());
        Ok(Self { monitor, channel, incoming, driver, order, listeners, relay, logged })
    }

    async fn run(mut self) -> Result<i32, Failure> {
        let watch = |kind| signal(kind).map_err(MachineError::Prepare);
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut hangup = watch(SignalKind::hangup())?;
        let mut stop = async || {
            tokio::select! {
                _ = terminate.recv() => libc::SIGTERM,
                _ = interrupt.recv() => libc::SIGINT,
                _ = hangup.recv() => libc::SIGTERM,
            }
        };
        let order = tokio::select! {
            ready = self.boot() => ready?,
            // The guest has done nothing yet that would have to be finished.
            _ = stop() => return Ok(0),
        };
        for (number, listener) in (0..).zip(std::mem::take(&mut self.listeners)) {
            clients::serve(number, listener, self.channel.clone())
                .map_err(MachineError::Prepare)?;
        }
        let (mut news, mut commands) = tokio::io::split(order);
        let mut next_news =
            spawn_local(async move { channel::receive::<News>(&mut news, MAX_NEWS).await });
        let mut deadline = Instant::now() + NEVER;
        let mut clock = interval(CLOCK);
        loop {
            tokio::select! {
                heard = &mut next_news => match heard {
                    Ok(Ok(Some(News::Ended(code)))) => {
                        self.monitor.end(POWER_OFF).await;
                        return Ok(code);
                    }
                    _ => return Err(self.dead().await),
                },
                how = self.monitor.ended() => return Err(Failure::Ended(how)),
                _ = &mut self.driver => return Err(self.dead().await),
                stream = self.incoming.next() => match stream {
                    Some(stream) => self.take(channel::stream(stream)),
                    None => return Err(self.dead().await),
                },
                number = stop() => {
                    deadline = deadline.min(Instant::now() + PATIENCE);
                    say(&mut commands, &Command::Signal(number)).await;
                }
                _ = clock.tick() => {
                    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                    say(&mut commands, &Command::Time(time.unwrap_or_default())).await;
                }
                () = sleep_until(deadline) => {
                    return Err(Failure::Ended("does not stop by itself and was ended".to_owned()));
                }
            }
        }
    }

    /// Waits until the builder in the guest serves.
    async fn boot(&mut self) -> Result<Stream, Failure> {
        let channel = self.channel.clone();
        let exchange = async {
            let mut stream = channel.open(&Purpose::Order).await?;
            channel::send(&mut stream, &self.order).await?;
            let news = channel::receive(&mut stream, MAX_NEWS).await?;
            Ok::<_, std::io::Error>((stream, news))
        };
        let exchange = timeout(BOOT, exchange);
        tokio::select! {
            heard = exchange => match heard {
                Ok(Ok((stream, Some(News::Ready)))) => Ok(stream),
                Ok(Ok((_, Some(News::Failed(why))))) => {
                    Err(MachineError::Guest(printable(&why)).into())
                }
                Err(_) => {
                    Err(Failure::Ended(format!("was not ready within {} seconds", BOOT.as_secs())))
                }
                Ok(_) => Err(self.dead().await),
            },
            how = self.monitor.ended() => Err(Failure::Ended(how)),
            _ = &mut self.driver => Err(self.dead().await),
        }
    }

    /// The channel has gone: the monitor has most likely ended, and then says how.
    async fn dead(&mut self) -> Failure {
        match timeout(POWER_OFF, self.monitor.ended()).await {
            Ok(how) => Failure::Ended(how),
            Err(_) => Failure::Ended("closed its channel".to_owned()),
        }
    }

    /// Serves a stream that the guest opened.
    fn take(&self, mut stream: Stream) {
        let (relay, logged) = (self.relay.clone(), Rc::clone(&self.logged));
        spawn_local(async move {
            let served = match (Purpose::read(&mut stream).await, relay) {
                (Ok(Purpose::Gate), Some(relay)) => relay.control(stream).await,
                (Ok(Purpose::Packets(number)), Some(relay)) => relay.packets(number, stream).await,
                (Ok(Purpose::Log), _) if !logged.replace(true) => log(stream).await,
                _ => Err(std::io::ErrorKind::InvalidData.into()),
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a stream of the virtual machine ended");
            }
        });
    }
}

/// Tells the guest something. One that does not listen is not waited for.
async fn say(to: &mut (impl AsyncWrite + Unpin), command: &Command) {
    timeout(SAY, channel::send(to, command)).await.ok();
}

/// Passes the builder's log on: whole lines, nothing that controls a terminal, and no more in a second than anybody could want.
async fn log(mut stream: Stream) -> std::io::Result<()> {
    use std::io::Write;
    let mut buffer = vec![0; MAX_LINE];
    let mut line = Vec::new();
    let (mut since, mut passed) = (Instant::now(), 0);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        for byte in &buffer[..length] {
            if *byte != b'\n' && line.len() < MAX_LINE {
                line.push(*byte);
                continue;
            }
            if since.elapsed() > Duration::from_secs(1) {
                (since, passed) = (Instant::now(), 0);
            }
            passed += line.len() + 1;
            if passed <= MAX_LOG {
                let text: String =
                    String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
                writeln!(std::io::stderr(), "{text}").ok();
            }
            line.clear();
        }
    }
}

/// What is shared with the tasks that read the monitor's output.
type SharedConsole = Rc<RefCell<Console>>;

#[cfg(test)]
mod tests;
