//! The gate's two kinds of sockets, carried over the channel.
//!
//! Messages of the control socket go over one stream, unread. Where one comes with a descriptor, that is a step's device: its
//! packets go over a stream of their own, opened and answered before the message goes out, so that the host has the other end of
//! it by the time the message arrives. The gate ends a step by closing its descriptor, the builder by closing the device; either
//! ends the stream, which ends the other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use cofferdam_egress::Packets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, spawn_local};

use crate::channel::{self, Channel, Purpose, Stream};
use crate::seqpacket::{MAX_MESSAGE, Messages, pair};

/// Steps with a network at once; the gate's own bound.
const MAX_STEPS: usize = 256;
/// Length of the number in front of a control message: of the stream with its packets, or 0.
const NUMBER: usize = 4;
/// The host's answer to a new stream of packets.
const TAKEN: u8 = 1;

/// The guest's half: `control` is the gate's end of the builder's control socket. Returns when either side is gone.
pub(crate) async fn in_guest(channel: &Channel, control: OwnedFd) -> io::Result<()> {
    let control = Rc::new(Messages::new(control)?);
    let (mut input, mut output) = tokio::io::split(channel.open(&Purpose::Gate).await?);
    let reports = Rc::clone(&control);
    let mut reader = spawn_local(async move {
        while let Some(message) = channel::read_frame(&mut input, MAX_MESSAGE).await? {
            reports.send(&message, None).await?;
        }
        Ok::<(), io::Error>(())
    });
    let mut steps = JoinSet::new();
    let mut last: u32 = 0;
    loop {
        let received = tokio::select! {
            ended = &mut reader => return ended.map_err(io::Error::other)?,
            received = control.receive() => received?,
        };
        let Some((message, device)) = received else { return Ok(()) };
        while steps.try_join_next().is_some() {}
        let mut number = 0;
        if let Some(device) = device {
            last = last.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
            number = last;
            let mut stream = channel.open(&Purpose::Packets(number)).await?;
            if stream.read_u8().await? != TAKEN {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let packets = Packets::new(device).map_err(io::Error::other)?;
            steps.spawn_local(carry(packets, stream));
        }
        let mut frame = number.to_be_bytes().to_vec();
        frame.extend(message);
        channel::write_frame(&mut output, &frame).await?;
    }
}

/// The host's half.
#[derive(Debug, Clone)]
pub(crate) struct HostRelay {
    gate: Rc<Messages>,
    /// Whether the guest has asked for the control socket. It is asked for once.
    controlled: Rc<Cell<bool>>,
    /// Steps whose packets are carried.
    steps: Rc<Cell<usize>>,
    /// The gate's ends of sockets whose messages have not come yet.
    waiting: Rc<RefCell<HashMap<u32, OwnedFd>>>,
}

impl HostRelay {
    pub(crate) fn new(gate: OwnedFd) -> io::Result<Self> {
        let gate = Rc::new(Messages::new(gate)?);
        Ok(Self { gate, controlled: Rc::default(), steps: Rc::default(), waiting: Rc::default() })
    }

    /// Carries control messages until either side is gone.
    pub(crate) async fn control(self, stream: Stream) -> io::Result<()> {
        if self.controlled.replace(true) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (mut input, mut output) = tokio::io::split(stream);
        let gate = Rc::clone(&self.gate);
        let mut writer = spawn_local(async move {
            while let Some((message, _)) = gate.receive().await? {
                channel::write_frame(&mut output, &message).await?;
            }
            Ok::<(), io::Error>(())
        });
        let reader = async {
            while let Some(frame) = channel::read_frame(&mut input, NUMBER + MAX_MESSAGE).await? {
                let (number, message) =
                    frame.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
                let number = u32::from_be_bytes(*number);
                let device = match number {
                    0 => None,
                    number => {
                        let taken = self.waiting.borrow_mut().remove(&number);
                        Some(taken.ok_or(io::ErrorKind::InvalidData)?)
                    }
                };
                self.gate.send(message, device.as_ref()).await?;
            }
            Ok(())
        };
        let result = tokio::select! {
            result = reader => result,
            ended = &mut writer => ended.map_err(io::Error::other)?,
        };
        writer.abort();
        result
    }

    /// Carries the packets of one step.
    pub(crate) async fn packets(self, number: u32, stream: Stream) -> io::Result<()> {
        if self.steps.get() >= MAX_STEPS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.steps.set(self.steps.get() + 1);
        let result = self.step(number, stream).await;
        self.steps.set(self.steps.get() - 1);
        result
    }

    async fn step(&self, number: u32, mut stream: Stream) -> io::Result<()> {
        let (ours, theirs) = pair()?;
        if number == 0 || self.waiting.borrow().contains_key(&number) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let packets = Packets::new(ours).map_err(io::Error::other)?;
        self.waiting.borrow_mut().insert(number, theirs);
        let carried = async {
            stream.write_u8(TAKEN).await?;
            stream.flush().await?;
            carry(packets, stream).await;
            Ok(())
        };
        let result = carried.await;
        // Still there only when its message never came.
        self.waiting.borrow_mut().remove(&number);
        result
    }
}

/// Carries packets between a device or socket and a stream, until either ends. Neither direction waits for the other.
async fn carry(packets: Packets, stream: Stream) {
    let (mut input, mut output) = tokio::io::split(stream);
    let out = async {
        let mut buffer = vec![0; Packets::BUFFER];
        while let Ok(packet) = packets.next(&mut buffer).await {
            let Ok(length) = u16::try_from(packet.len()) else { continue };
            let mut frame = length.to_be_bytes().to_vec();
            frame.extend_from_slice(packet);
            if output.write_all(&frame).await.is_err() || output.flush().await.is_err() {
                break;
            }
        }
    };
    let back = async {
        while let Ok(Some(packet)) = read_packet(&mut input).await {
            packets.send(&packet);
            packets.room().await;
        }
    };
    tokio::select! {
        () = out => {}
        () = back => {}
    }
}

async fn read_packet(input: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match input.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    let mut packet = vec![0; length.into()];
    input.read_exact(&mut packet).await?;
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::task::LocalSet;

    use super::*;
    use crate::channel::{Incoming, Side, start};

    fn both() -> ((Channel, Incoming), (Channel, Incoming)) {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        let (host, host_incoming, _) = start(a, Side::Host);
        let (guest, guest_incoming, _) = start(b, Side::Guest);
        ((host, host_incoming), (guest, guest_incoming))
    }

    fn serve(relay: &HostRelay, mut incoming: Incoming) {
        let relay = relay.clone();
        spawn_local(async move {
            while let Some(stream) = incoming.next().await {
                let relay = relay.clone();
                spawn_local(async move {
                    let mut stream = channel::stream(stream);
                    match Purpose::read(&mut stream).await.unwrap() {
                        Purpose::Gate => relay.control(stream).await,
                        Purpose::Packets(number) => relay.packets(number, stream).await,
                        other => panic!("{other:?}"),
                    }
                });
            }
        });
    }

    #[tokio::test]
    async fn a_device_in_the_guest_is_a_socket_at_the_gate() {
        LocalSet::new()
            .run_until(async {
                let ((_host, incoming), (guest, _)) = both();
                let (gate, gates) = pair().unwrap();
                let gate = Messages::new(gate).unwrap();
                serve(&HostRelay::new(gates).unwrap(), incoming);
                let (builder, control) = pair().unwrap();
                let builder = Messages::new(builder).unwrap();
                spawn_local(async move { in_guest(&guest, control).await });

                // A message without a device, and an answer.
                builder.send(b"hello", None).await.unwrap();
                let (message, fd) = gate.receive().await.unwrap().unwrap();
                assert_eq!((message.as_slice(), fd.is_none()), (&b"hello"[..], true));
                gate.send(b"welcome", None).await.unwrap();
                assert_eq!(builder.receive().await.unwrap().unwrap().0, b"welcome");

                // One with a device: what is written to it comes out at the gate's descriptor, and the other way round.
                let (device, step) = pair().unwrap();
                builder.send(b"attach", Some(&device)).await.unwrap();
                drop(device);
                let (message, fd) = gate.receive().await.unwrap().unwrap();
                assert_eq!(message, b"attach");
                let (step, fd) =
                    (Messages::new(step).unwrap(), Messages::new(fd.unwrap()).unwrap());
                for packet in [&b"first"[..], b"second"] {
                    step.send(packet, None).await.unwrap();
                    assert_eq!(fd.receive().await.unwrap().unwrap().0, packet);
                    fd.send(packet, None).await.unwrap();
                    assert_eq!(step.receive().await.unwrap().unwrap().0, packet);
                }
                // The gate ends the step; its device is closed in the guest.
                drop(fd);
                assert!(step.receive().await.unwrap().is_none());
                // The builder ends; the gate hears of it.
                drop(builder);
            })
            .await;
    }

    #[tokio::test]
    async fn a_device_that_was_never_announced_is_refused() {
        LocalSet::new()
            .run_until(async {
                let ((_host, incoming), (guest, _)) = both();
                let (gate, gates) = pair().unwrap();
                let gate = Messages::new(gate).unwrap();
                serve(&HostRelay::new(gates).unwrap(), incoming);
                let mut stream = guest.open(&Purpose::Gate).await.unwrap();
                channel::write_frame(&mut stream, b"\0\0\0\x07attach").await.unwrap();
                // The relay ends, and with it the socket; nothing came.
                assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
                // A second one is not given the gate either.
                let mut again = guest.open(&Purpose::Gate).await.unwrap();
                channel::write_frame(&mut again, b"\0\0\0\0hello").await.ok();
                assert_eq!(again.read(&mut [0; 8]).await.unwrap_or(0), 0);
                drop((stream, again));
                let waited = std::time::Duration::from_millis(200);
                let nothing = tokio::time::timeout(waited, gate.receive()).await;
                assert!(!matches!(nothing, Ok(Ok(Some(_)))), "{nothing:?}");
            })
            .await;
    }
}
