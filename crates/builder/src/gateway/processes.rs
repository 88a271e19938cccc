//! `ExecProcess`: the processes of a build's containers on one stream.
//!
//! A client may have any number of them on it, each under a name of its choice. Per process the order is: Init, Started, output and
//! Exit, the end of each output, Done (fact sheet 6.4). When the client goes away its processes are ended.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_sandbox::Control;
use cofferdam_wire::google::rpc::Status;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::moby::buildkit::v1::frontend::__buffa::oneof::exec_message::Input as Message;
use connectrpc::{ConnectError, ErrorCode, InboundStream, ServiceStream};
use futures::StreamExt;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::bridge::Bridge;
use crate::failure::Failure;
use crate::op::container::{Input, Launch, Ours, Source, Started, Streams, Terminal};

/// Messages towards the client that wait for it. Processes wait when it is slow.
const DEPTH: usize = 32;
/// Messages for one process that wait for it to read. The client waits when it does not.
const INPUT_DEPTH: usize = 64;
/// What one read of an output takes.
const CHUNK: usize = 32 << 10;
/// Processes that one stream may have started; all of them are remembered, since input for one that has ended is no mistake.
const MAX_PROCESSES: usize = 10_000;
/// Longest name of a process; clients use 51 characters.
const MAX_ID: usize = 512;
/// How long output may trickle in after a process has ended: others may have its end of a pipe.
const DRAIN: Duration = Duration::from_secs(5);
/// Exit code of a process whose own is not known.
const UNKNOWN_EXIT: u32 = 255;

type Sender = mpsc::Sender<Result<wire::ExecMessage, ConnectError>>;

/// A process as its stream knows it.
struct Known {
    input: Option<mpsc::Sender<Vec<u8>>>,
    terminal: Option<Terminal>,
    control: Option<Control>,
}

/// Ends what is left when the stream does.
#[derive(Default)]
struct Processes {
    known: HashMap<String, Known>,
    ends: TaskTracker,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for control in self.known.values().filter_map(|known| known.control.as_ref()) {
            control.kill();
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
        for known in processes.known.values_mut() {
            known.input = None;
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
    let Some(known) = processes.known.get_mut(&id) else {
        return Err(Failure::not_found(format!("IO for process {id:?} not found")));
    };
    match message {
        Message::File(file) => {
            if file.Fd != 0 {
                let message = format!("fd {} unavailable to write", file.Fd);
                return Err(Failure::new(ErrorCode::OutOfRange, message));
            }
            if let (Some(input), false) = (&known.input, file.Data.is_empty()) {
                // A process that has ended reads nothing.
                let _ = input.send(file.Data).await;
            }
            if file.EOF {
                known.input = None;
            }
        }
        Message::Resize(size) => {
            if let Some(terminal) = &known.terminal {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                // One whose process has ended has no size.
                let _ = terminal.resize(cells(size.Rows), cells(size.Cols));
            }
        }
        Message::Signal(signal) => {
            let signal = signal_named(&signal.Name)?;
            if let Some(control) = &known.control {
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
            let input = input.map(forward_input);
            let known = Known { input, terminal, control: Some(control) };
            ends.spawn(async move {
                // A container that is gone takes its processes along.
                let ended = async { end.await.unwrap_or_else(|_| Err(Failure::canceled())) };
                finish(replies, outputs, ended).await;
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
            Ok(Known { input: None, terminal: None, control: None })
        }
    }
}

/// Writes what the client sends for as long as the process reads.
fn forward_input(mut input: Input) -> mpsc::Sender<Vec<u8>> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(INPUT_DEPTH);
    tokio::spawn(async move {
        while let Some(bytes) = receiver.recv().await {
            if input.write(&bytes).await.is_err() {
                return;
            }
        }
    });
    sender
}

/// What one process says.
#[derive(Clone)]
struct Replies {
    id: String,
    stream: Sender,
}

impl Replies {
    /// Says something; a client that is gone hears nothing, which its stream's own end is for.
    async fn send(&self, message: impl Into<Message>) {
        let message = wire::ExecMessage {
            ProcessID: self.id.clone(),
            Input: Some(message.into()),
            ..wire::ExecMessage::default()
        };
        let _ = self.stream.send(Ok(message)).await;
    }

    async fn end(&self, fd: u32) {
        self.send(wire::FdMessage { Fd: fd, EOF: true, ..wire::FdMessage::default() }).await;
    }

    async fn forward(&self, fd: u32, mut source: Source) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = source.read(&mut buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            self.send(wire::FdMessage { Fd: fd, Data: bytes, ..wire::FdMessage::default() }).await;
        }
    }
}

async fn finish(
    replies: Replies,
    outputs: Vec<(u32, Source)>,
    end: impl Future<Output = Result<(), Failure>>,
) {
    let mut readers: Vec<_> = outputs
        .into_iter()
        .map(|(fd, source)| {
            let replies = replies.clone();
            (fd, tokio::spawn(async move { replies.forward(fd, source).await }))
        })
        .collect();
    replies.send(exit(end.await)).await;
    for (fd, reader) in &mut readers {
        if tokio::time::timeout(DRAIN, &mut *reader).await.is_err() {
            reader.abort();
        }
        replies.end(*fd).await;
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
