//! `ExecProcess`: the processes of a build's containers on one stream.
//!
//! A client may have any number of them on it, each under a name of its choice. Per process the order is: Init, Started, output and
//! Exit, the end of each output, Done (fact sheet 6.4). When the client goes away its processes are ended. Nothing that waits for
//! either side may grow without bound, and of a process that has ended its name alone is kept.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_sandbox::Control;
use cofferdam_wire::google::rpc::Status;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::moby::buildkit::v1::frontend::__buffa::oneof::exec_message::Input as Message;
use connectrpc::{ConnectError, ErrorCode, InboundStream, ServiceStream};
use futures::StreamExt;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bridge::Bridge;
use crate::failure::Failure;
use crate::op::container::{Input, Launch, Ours, Source, Started, Streams, Terminal};

/// Messages towards the client that wait for it. Processes wait when it is slow.
const DEPTH: usize = 32;
/// Pieces of [`CHUNK`] bytes for one process that wait for it to read: 2 MiB. The client waits when it does not.
const INPUT_DEPTH: usize = 64;
/// What one read of an output takes, and a piece of an input.
const CHUNK: usize = 32 << 10;
/// Processes that one stream may have started; all of them are remembered, since input for one that has ended is no mistake.
const MAX_PROCESSES: usize = 10_000;
/// Longest name of a process; clients use 51 characters.
const MAX_ID: usize = 512;
/// What is taken of an output once its process has ended: others may have its end of a pipe.
const DRAIN: Drain = Drain { wait: Duration::from_secs(5), bytes: 64 << 20 };
/// Exit code of a process whose own is not known.
const UNKNOWN_EXIT: u32 = 255;

type Sender = mpsc::Sender<Result<wire::ExecMessage, ConnectError>>;

/// How much of an output is waited for.
#[derive(Clone, Copy)]
struct Drain {
    /// Time without output, all of it together. What the client takes to read is not counted.
    wait: Duration,
    bytes: usize,
}

/// A process as its stream knows it.
#[derive(Clone, Default)]
struct Known {
    live: Arc<Mutex<Live>>,
    /// Fires when the process has ended.
    ended: CancellationToken,
}

/// What there is of a process until it has ended.
#[derive(Default)]
struct Live {
    input: Option<mpsc::Sender<Vec<u8>>>,
    terminal: Option<Terminal>,
    control: Option<Control>,
}

impl Known {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where input goes to, while there is somebody to read it.
    fn input(&self) -> Option<mpsc::Sender<Vec<u8>>> {
        self.live().input.clone()
    }

    /// Lets go of everything that stood for the process.
    fn end(&self) {
        self.ended.cancel();
        *self.live() = Live::default();
    }
}

/// Ends what is left when the stream does.
#[derive(Default)]
struct Processes {
    known: HashMap<String, Known>,
    ends: TaskTracker,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for known in self.known.values() {
            if let Some(control) = &known.live().control {
                control.kill();
            }
        }
    }
}

/// Serves a stream.
pub(super) fn serve(
    bridge: Arc<Bridge>,
    mut requests: InboundStream<wire::ExecMessage>,
) -> ServiceStream<wire::ExecMessage> {
    let (replies, mut stream) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let mut processes = Processes::default();
        let gone = bridge.job.cancellation();
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = replies.closed() => return,
                () = gone.cancelled() => return,
            };
            let failure = match request {
                // The client has no more to say; what it started goes on.
                None => break,
                // It is gone.
                Some(Err(_)) => return,
                Some(Ok(message)) => {
                    let message = message.to_owned_message();
                    let handled = handle(&bridge, &mut processes, message, &replies);
                    tokio::select! {
                        handled = handled => handled.err(),
                        () = replies.closed() => return,
                    }
                }
            };
            if let Some(failure) = failure {
                // A client that is gone needs no reason.
                let _ = replies.send(Err(failure.into())).await;
                return;
            }
        }
        for known in processes.known.values() {
            known.live().input = None;
        }
        processes.ends.close();
        tokio::select! {
            () = processes.ends.wait() => {}
            () = replies.closed() => {}
        }
    });
    Box::pin(futures::stream::poll_fn(move |context| stream.poll_recv(context)))
}

async fn handle(
    bridge: &Arc<Bridge>,
    processes: &mut Processes,
    message: wire::ExecMessage,
    replies: &Sender,
) -> Result<(), Failure> {
    let id = message.ProcessID;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(Failure::invalid("ProcessID required"));
    }
    let Some(message) = message.Input else { return Ok(()) };
    if let Message::Init(init) = message {
        if processes.known.contains_key(&id) {
            let message = format!("Process {id} already exists");
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        if processes.known.len() >= MAX_PROCESSES {
            return Err(Failure::new(ErrorCode::ResourceExhausted, "too many processes"));
        }
        let known = start(bridge, &id, *init, replies, &processes.ends).await?;
        processes.known.insert(id, known);
        return Ok(());
    }
    let Some(known) = processes.known.get(&id) else {
        return Err(Failure::not_found(format!("IO for process {id:?} not found")));
    };
    match message {
        Message::File(file) => {
            if file.Fd != 0 {
                let message = format!("fd {} unavailable to write", file.Fd);
                return Err(Failure::new(ErrorCode::OutOfRange, message));
            }
            if let Some(input) = known.input() {
                feed(&input, &file.Data).await;
            }
            if file.EOF {
                known.live().input = None;
            }
        }
        Message::Resize(size) => {
            if let Some(terminal) = &known.live().terminal {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                // One whose process has ended has no size.
                let _ = terminal.resize(cells(size.Rows), cells(size.Cols));
            }
        }
        Message::Signal(signal) => {
            let signal = signal_named(&signal.Name)?;
            if let Some(control) = &known.live().control {
                control.signal(signal);
            }
        }
        // What only a builder says.
        _ => return Err(Failure::invalid("unexpected message")),
    }
    Ok(())
}

fn signal_named(name: &str) -> Result<Signal, Failure> {
    Ok(match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "ILL" => Signal::ILL,
        "TRAP" => Signal::TRAP,
        "ABRT" | "IOT" => Signal::ABORT,
        "BUS" => Signal::BUS,
        "FPE" => Signal::FPE,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "SEGV" => Signal::SEGV,
        "USR2" => Signal::USR2,
        "PIPE" => Signal::PIPE,
        "ALRM" => Signal::ALARM,
        "TERM" => Signal::TERM,
        "CHLD" | "CLD" => Signal::CHILD,
        "CONT" => Signal::CONT,
        "STOP" => Signal::STOP,
        "TSTP" => Signal::TSTP,
        "TTIN" => Signal::TTIN,
        "TTOU" => Signal::TTOU,
        "URG" => Signal::URG,
        "XCPU" => Signal::XCPU,
        "XFSZ" => Signal::XFSZ,
        "VTALRM" => Signal::VTALARM,
        "PROF" => Signal::PROF,
        "WINCH" => Signal::WINCH,
        "IO" | "POLL" => Signal::IO,
        "PWR" => Signal::POWER,
        "SYS" => Signal::SYS,
        _ => return Err(Failure::invalid(format!("Unknown signal {name}"))),
    })
}

async fn start(
    bridge: &Arc<Bridge>,
    id: &str,
    init: wire::InitMessage,
    replies: &Sender,
    ends: &TaskTracker,
) -> Result<Known, Failure> {
    let wants = |fd| init.Fds.contains(&fd);
    let launch = Launch {
        meta: init.Meta.into_option().unwrap_or_default(),
        secrets: init.secretenv,
        terminal: init.Tty,
        insecure: false,
        streams: Streams { stdin: wants(0), stdout: wants(1), stderr: wants(2) },
    };
    let container = bridge.container(&init.ContainerID)?;
    let replies = Replies { id: id.to_owned(), stream: replies.clone() };
    // Said at once: a client that connects processes with each other reads nothing more of one before it has heard of the next.
    replies.send(wire::StartedMessage::default()).await;
    let started = bridge.start_process(&container, launch, init.Security).await;
    match started {
        Ok(Started { streams, control, end }) => {
            let Ours { input, outputs, terminal } = streams;
            let known = Known::default();
            let input = input.map(|input| forward_input(input, known.ended.clone()));
            *known.live() = Live { input, terminal, control: Some(control) };
            let process = known.clone();
            ends.spawn(async move {
                // A container that is gone takes its processes along.
                let ended = async { end.await.unwrap_or_else(|_| Err(Failure::canceled())) };
                finish(replies, outputs, &process, ended).await;
            });
            Ok(known)
        }
        // A process that did not come to be ends at once: clients wait for its end and not for its beginning.
        Err(failure) => {
            let fds = [(1, init.Fds.contains(&1)), (2, init.Fds.contains(&2))];
            replies.send(exit(Err(failure))).await;
            for (fd, _) in fds.into_iter().filter(|(_, wanted)| *wanted) {
                replies.end(fd).await;
            }
            replies.send(wire::DoneMessage::default()).await;
            Ok(Known::default())
        }
    }
}

/// Writes what the client sends for as long as the process reads. Others that it left its end to read nothing more when it has ended.
fn forward_input(mut input: Input, ended: CancellationToken) -> mpsc::Sender<Vec<u8>> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(INPUT_DEPTH);
    tokio::spawn(async move {
        let forward = async {
            while let Some(bytes) = receiver.recv().await {
                if input.write(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = ended.cancelled() => {}
        }
    });
    sender
}

/// Passes input on in pieces: a queue of messages as large as a client makes them would have no bound worth the name.
async fn feed(input: &mpsc::Sender<Vec<u8>>, data: &[u8]) {
    for piece in data.chunks(CHUNK) {
        // A process that has ended reads nothing.
        if input.send(piece.to_vec()).await.is_err() {
            return;
        }
    }
}

/// What one process says.
#[derive(Clone)]
struct Replies {
    id: String,
    stream: Sender,
}

impl Replies {
    /// Says something, unless the client is gone, which its stream's own end is for. Says whether there is a client.
    async fn send(&self, message: impl Into<Message>) -> bool {
        let message = wire::ExecMessage {
            ProcessID: self.id.clone(),
            Input: Some(message.into()),
            ..wire::ExecMessage::default()
        };
        self.stream.send(Ok(message)).await.is_ok()
    }

    async fn end(&self, fd: u32) {
        self.send(wire::FdMessage { Fd: fd, EOF: true, ..wire::FdMessage::default() }).await;
    }

    /// Passes an output on, to its end or until nothing more is to be expected of it.
    async fn forward(&self, fd: u32, mut source: Source, ended: CancellationToken, rest: Drain) {
        let mut buffer = vec![0; CHUNK];
        let Drain { mut wait, bytes: mut room } = rest;
        loop {
            let late = ended.is_cancelled().then(Instant::now);
            let read = tokio::select! {
                biased;
                read = source.read(&mut buffer) => read,
                () = given_up(&ended, wait) => return,
            };
            let Ok(length @ 1..) = read else { return };
            if let Some(begun) = late {
                wait = wait.saturating_sub(begun.elapsed());
                match room.checked_sub(length) {
                    Some(left) => room = left,
                    None => return,
                }
            }
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            let said = wire::FdMessage { Fd: fd, Data: bytes, ..wire::FdMessage::default() };
            if !self.send(said).await {
                return;
            }
        }
    }
}

/// Resolves when a process has ended and nothing came for as long.
async fn given_up(ended: &CancellationToken, wait: Duration) {
    ended.cancelled().await;
    tokio::time::sleep(wait).await;
}

async fn finish(
    replies: Replies,
    outputs: Vec<(u32, Source)>,
    process: &Known,
    end: impl Future<Output = Result<(), Failure>>,
) {
    let readers: Vec<_> = outputs
        .into_iter()
        .map(|(fd, source)| {
            let (replies, ended) = (replies.clone(), process.ended.clone());
            let reader = async move { replies.forward(fd, source, ended, DRAIN).await };
            (fd, tokio::spawn(reader))
        })
        .collect();
    let end = end.await;
    process.end();
    replies.send(exit(end)).await;
    for (fd, reader) in readers {
        // It ends by itself, as soon as the client has read what there was.
        let _ = reader.await;
        replies.end(fd).await;
    }
    replies.send(wire::DoneMessage::default()).await;
}

/// How a process ended, on the wire.
fn exit(end: Result<(), Failure>) -> wire::ExitMessage {
    let Err(failure) = end else { return wire::ExitMessage::default() };
    let code = failure
        .details()
        .iter()
        .find(|(name, _)| name.ends_with("/gatewayapi.ExitMessage+json"))
        .and_then(|(_, value)| serde_json::from_slice::<serde_json::Value>(value).ok())
        .and_then(|value| value.get("Code")?.as_u64())
        .and_then(|code| u32::try_from(code).ok());
    wire::ExitMessage {
        Code: code.unwrap_or(UNKNOWN_EXIT),
        Error: buffa::MessageField::some(status(&failure)),
        ..wire::ExitMessage::default()
    }
}

fn status(failure: &Failure) -> Status {
    let details =
        failure.details().iter().map(|(type_url, value)| buffa_types::google::protobuf::Any {
            type_url: type_url.clone(),
            value: value.to_vec().into(),
            ..Default::default()
        });
    Status {
        code: i32::try_from(failure.code().grpc_code()).unwrap_or(2),
        message: failure.message().to_owned(),
        details: details.collect(),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests;
