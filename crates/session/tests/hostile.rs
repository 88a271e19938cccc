//! Senders and receivers that break the protocol, with something outside to break.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use buffa::{EnumValue, Message as _, MessageField};
use cofferdam_session::fsutil::{
    self, Compare, Ownership, ReceiveError, ReceiveLimits, ReceiveMode, ReceiveOptions, Received,
    SendError, SendOptions, Source, receive_bytes,
};
use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, Stat};
use common::{dir, tree, write};
use connectrpc::{ConnectError, StreamMessage};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const DIR: u32 = 1 << 31 | 0o755;
const LINK: u32 = 1 << 27 | 0o777;
const CHAR: u32 = 1 << 26 | 1 << 21 | 0o600;

fn stat(path: &str, mode: u32) -> Packet {
    let stat = Stat { path: path.into(), mode, ..Stat::default() };
    Packet { stat: MessageField::some(stat), ..Packet::default() }
}

fn linked(path: &str, mode: u32, linkname: &str) -> Packet {
    let stat = Stat { path: path.into(), mode, linkname: linkname.into(), ..Stat::default() };
    Packet { stat: MessageField::some(stat), ..Packet::default() }
}

fn file(path: &str) -> Packet {
    stat(path, 0o644)
}

fn end() -> Packet {
    Packet::default()
}

fn data(id: u32, content: &str) -> Packet {
    let data = content.as_bytes().to_vec();
    Packet { r#type: PacketType::PACKET_DATA.into(), ID: id, data, ..Packet::default() }
}

fn fin() -> Packet {
    Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() }
}

fn encode(packets: &[Packet]) -> Vec<u8> {
    let mut out = Vec::new();
    for packet in packets {
        let bytes = packet.encode_to_vec();
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// A directory to receive into, beside one that must not change.
struct Ground {
    all: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        write(all.path(), "outside/canary", "alive");
        fs::create_dir(all.path().join("in")).unwrap();
        Self { all }
    }

    fn inside(&self) -> std::path::PathBuf {
        self.all.path().join("in")
    }

    fn receive(
        &self,
        packets: &[Packet],
        options: ReceiveOptions,
    ) -> Result<Received, ReceiveError> {
        receive_bytes(&encode(packets), dir(&self.inside()), options)
    }

    fn refuse(&self, packets: &[Packet]) -> String {
        let before = tree(&self.all.path().join("outside"));
        let error = self.receive(packets, ReceiveOptions::default()).unwrap_err();
        assert_eq!(before, tree(&self.all.path().join("outside")));
        let top: Vec<_> = fs::read_dir(self.all.path()).unwrap().collect();
        assert_eq!(top.len(), 2, "something was made outside");
        error.to_string()
    }
}

/// All of them in one, as our own senders do.
fn bundle(packets: &[Packet]) -> Packet {
    Packet { r#type: EnumValue::from(4096), data: encode(packets), ..Packet::default() }
}

#[test]
fn what_is_no_bundle_is_refused() {
    let whole = bundle(&[file("a"), end()]);
    let nested = bundle(std::slice::from_ref(&whole));
    assert!(Ground::new().refuse(&[nested]).contains("unexpected packet of type 4096"));
    for length in 1..whole.data.len() {
        let cut = Packet { data: whole.data[..length].to_vec(), ..whole.clone() };
        let ground = Ground::new();
        // Cut between two packets it is a transfer that is not at its end.
        let text = ground.refuse(&[cut]);
        assert!(text.contains("what should be packets is not") || text.contains("early"), "{text}");
    }
    let long = Packet { data: vec![255; 64], ..whole };
    assert!(Ground::new().refuse(&[long]).contains("what should be packets is not"));
}

#[test]
fn bundles_are_received_as_what_is_in_them() {
    let ground = Ground::new();
    let bundles = [bundle(&[file("a"), file("b")]), bundle(&[end(), data(0, "x"), data(1, "y")])];
    let rest = bundle(&[data(1, ""), data(0, ""), fin()]);
    let all = [&bundles[..], &[rest]].concat();
    let received = ground.receive(&all, ReceiveOptions::default()).unwrap();
    assert_eq!((received.entries, received.requested, received.bytes), (2, 2, 2));
    assert_eq!(fs::read(ground.inside().join("b")).unwrap(), b"y");
}

#[test]
fn paths_that_leave_are_refused() {
    for path in ["../x", "..", "/etc/x", "a/../../x", ".", "", "a//b", "a/", "a\0b", "./a"] {
        let ground = Ground::new();
        for packets in [vec![file(path), end()], vec![bundle(&[file(path), end()])]] {
            let text = ground.refuse(&packets);
            assert!(text.contains("unclean path"), "{path:?}: {text}");
        }
    }
}

#[test]
fn disorder_is_refused() {
    for (packets, expected) in [
        (vec![file("b"), file("a")], "out of order"),
        (vec![file("a"), file("a")], "out of order"),
        (vec![stat("a", DIR), file("a-b"), file("a/b")], "out of order"),
        (vec![file("a/b")], "directory of a/b was not announced"),
        (vec![file("a"), file("a/b")], "directory of a/b was not announced"),
        (vec![stat("a", DIR), file("b"), end(), file("c")], "after the end"),
        (vec![end(), end()], "second end"),
        (vec![linked("a", 0o644, "b")], "was not announced"),
        (vec![stat("d", DIR), linked("e", 0o644, "d")], "was not announced"),
        (vec![linked("l", LINK, "x"), linked("m", 0o644, "l")], "was not announced"),
        (vec![linked("a", 0o644, "../outside/canary")], "was not announced"),
        (vec![linked("a", 0o644, "a")], "was not announced"),
        (vec![stat("l", LINK)], "without a usable target"),
        (vec![linked("l", LINK, &"x".repeat(5000))], "without a usable target"),
        (vec![stat("x", 1 << 31 | 1 << 27)], "impossible mode"),
        (vec![file("a"), end(), data(7, "x")], "was not requested"),
        (vec![stat("a", DIR), end(), data(0, "x")], "was not requested"),
        (vec![file("a"), end(), data(0, "x"), data(0, ""), data(0, "x")], "was not requested"),
        (vec![file("a"), end(), data(u32::MAX, "x")], "was not requested"),
        (vec![file("a"), end(), fin()], "unexpected packet"),
        (vec![fin()], "unexpected packet"),
        (vec![Packet { r#type: PacketType::PACKET_REQ.into(), ..Packet::default() }], "unexpected"),
        (
            vec![Packet { r#type: EnumValue::from(99), ..Packet::default() }],
            "unexpected packet of type 99",
        ),
    ] {
        let text = Ground::new().refuse(&packets);
        assert!(text.contains(expected), "{text} instead of {expected}");
    }
}

#[test]
fn a_link_is_never_a_directory_to_write_through() {
    let ground = Ground::new();
    let text = ground.refuse(&[linked("a", LINK, "../outside"), file("a/canary"), end()]);
    assert!(text.contains("was not announced"), "{text}");
    // Left over from an earlier transfer: replaced by the directory, not followed.
    let ground = Ground::new();
    for mode in [ReceiveMode::Mirror, ReceiveMode::Merge] {
        let _ = fs::remove_dir_all(ground.inside().join("a"));
        symlink("../outside", ground.inside().join("a")).unwrap();
        let options = ReceiveOptions { mode, ..ReceiveOptions::default() };
        let packets =
            [stat("a", DIR), file("a/canary"), end(), data(1, "evil"), data(1, ""), fin()];
        ground.receive(&packets, options).unwrap();
        assert_eq!(fs::read(ground.all.path().join("outside/canary")).unwrap(), b"alive");
        assert_eq!(fs::read(ground.inside().join("a/canary")).unwrap(), b"evil");
    }
}

#[test]
fn a_link_in_a_files_place_is_replaced_not_written_through() {
    for mode in [ReceiveMode::Mirror, ReceiveMode::Merge] {
        let ground = Ground::new();
        symlink("../outside/canary", ground.inside().join("f")).unwrap();
        let options =
            ReceiveOptions { mode, compare: Compare::Nothing, ..ReceiveOptions::default() };
        let packets = [file("f"), end(), data(0, "evil"), data(0, ""), fin()];
        ground.receive(&packets, options).unwrap();
        assert_eq!(fs::read(ground.all.path().join("outside/canary")).unwrap(), b"alive");
        assert!(fs::symlink_metadata(ground.inside().join("f")).unwrap().is_file());
    }
}

#[test]
fn a_shared_inode_is_never_written_to() {
    let ground = Ground::new();
    fs::hard_link(ground.all.path().join("outside/canary"), ground.inside().join("f")).unwrap();
    let packets = [file("f"), end(), data(0, "evil"), data(0, ""), fin()];
    ground.receive(&packets, ReceiveOptions::default()).unwrap();
    assert_eq!(fs::read(ground.all.path().join("outside/canary")).unwrap(), b"alive");
}

#[test]
fn deleting_does_not_follow_links() {
    let ground = Ground::new();
    fs::create_dir(ground.inside().join("d")).unwrap();
    symlink("../../outside", ground.inside().join("d/l")).unwrap();
    symlink("../outside", ground.inside().join("l")).unwrap();
    let received = ground.receive(&[end(), fin()], ReceiveOptions::default()).unwrap();
    assert_eq!(received.deleted, 2);
    assert_eq!(fs::read(ground.all.path().join("outside/canary")).unwrap(), b"alive");
}

#[test]
fn devices_are_left_out() {
    let ground = Ground::new();
    let received = ground
        .receive(&[stat("null", CHAR), stat("z", DIR), end(), fin()], ReceiveOptions::default());
    assert_eq!(received.unwrap().entries, 2);
    assert_eq!(tree(&ground.inside()).len(), 1);
}

#[test]
fn limits_hold() {
    let limits = ReceiveLimits {
        max_entries: 3,
        max_metadata_bytes: 40,
        max_content_bytes: 10,
        max_depth: 2,
        max_open_files: 2,
    };
    let options = || ReceiveOptions { limits, ..ReceiveOptions::default() };
    for (packets, expected) in [
        (vec![file("a"), file("b"), file("c"), file("d")], "number of entries"),
        (vec![file(&"x".repeat(41))], "paths and attributes"),
        (vec![linked("a", LINK, &"x".repeat(41))], "paths and attributes"),
        (vec![stat("a", DIR), stat("a/b", DIR), stat("a/b/c", DIR)], "depth"),
        (vec![file("a"), end(), data(0, "12345678"), data(0, "12345678")], "size of all files"),
        (
            vec![file("a"), file("b"), file("c"), data(0, "1"), data(1, "1"), data(2, "1")],
            "files in transit",
        ),
    ] {
        let error = Ground::new().receive(&packets, options()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} instead of {expected}");
    }
}

#[test]
fn huge_ids_are_refused() {
    let mapped = Ownership::Mapped(Arc::new(|id| Some(id).filter(|id| *id < 65536)));
    let mut packet = file("a");
    packet.stat.get_or_insert_default().uid = u32::MAX;
    let options = ReceiveOptions { ownership: mapped, ..ReceiveOptions::default() };
    let error = Ground::new().receive(&[packet.clone()], options).unwrap_err();
    assert_eq!(error.to_string(), "owner 4294967295 of a is outside the ids of this builder");
    // Even a mapping that lets everything through cannot produce the kernel's "no change".
    let all = Ownership::Mapped(Arc::new(Some));
    let options = ReceiveOptions { ownership: all, ..ReceiveOptions::default() };
    assert!(Ground::new().receive(&[packet], options).is_err());
}

#[test]
fn overlay_attributes_do_not_arrive() {
    let ground = Ground::new();
    let mut packet = stat("d", DIR);
    let xattrs = &mut packet.stat.get_or_insert_default().xattrs;
    xattrs.insert("user.overlay.opaque".into(), b"y".to_vec());
    xattrs.insert("trusted.overlay.opaque".into(), b"y".to_vec());
    xattrs.insert("security.capability".into(), vec![0; 20]);
    ground.receive(&[packet, end(), fin()], ReceiveOptions::default()).unwrap();
    let path = ground.inside().join("d");
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("overlay") && !names.contains("capability"), "{names}");
}

#[test]
fn arbitrary_bytes_end_the_transfer() {
    let ground = Ground::new();
    let mut seed = 7_u64;
    for _ in 0..2000 {
        let mut packets = [stat("d", DIR), file("d/f"), end(), data(1, "x"), data(1, ""), fin()];
        let mut bytes = encode(&packets);
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = usize::try_from(seed >> 33).unwrap() % bytes.len();
            bytes[index] = (seed >> 20) as u8;
        }
        let _ = receive_bytes(&bytes, dir(&ground.inside()), ReceiveOptions::default());
        packets.reverse();
    }
    assert_eq!(fs::read(ground.all.path().join("outside/canary")).unwrap(), b"alive");
    assert_eq!(fs::read_dir(ground.all.path()).unwrap().count(), 2);
}

type Peer = mpsc::UnboundedSender<Result<StreamMessage<Packet>, ConnectError>>;

fn say(peer: &Peer, packet: &Packet) {
    let _ = peer.send(Ok(StreamMessage::from_message(packet)));
}

fn request(id: u32) -> Packet {
    Packet { r#type: PacketType::PACKET_REQ.into(), ID: id, ..Packet::default() }
}

/// Runs our sender against a receiver made by hand.
async fn against_receiver(
    source: &Path,
    script: impl AsyncFnOnce(&Peer, &mut mpsc::Receiver<Packet>),
) -> Result<fsutil::Sent, SendError> {
    let (peer, incoming) = mpsc::unbounded_channel();
    let (outgoing, mut received) = mpsc::channel(4);
    let sources = vec![Source { root: dir(source), under: None }];
    let packets = UnboundedReceiverStream::new(incoming).boxed();
    let sending = tokio::spawn(fsutil::send(sources, packets, outgoing, SendOptions::default()));
    script(&peer, &mut received).await;
    drop(peer);
    let last = async {
        let mut last = None;
        while let Some(packet) = received.recv().await {
            last = Some(packet);
        }
        last
    };
    let (result, _) = tokio::join!(sending, last);
    result.unwrap()
}

#[tokio::test]
async fn bad_requests_end_the_sender() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "d/f", "x");
    fs::hard_link(source.path().join("d/f"), source.path().join("d/g")).unwrap();
    for ids in [vec![9], vec![0], vec![2], vec![1, 1], vec![u32::MAX]] {
        let last = *ids.last().unwrap();
        let error = against_receiver(source.path(), async |peer, received| {
            while received.recv().await.is_some_and(|packet| packet.stat.is_set()) {}
            for id in &ids {
                say(peer, &request(*id));
            }
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), format!("invalid file id {last}"), "{ids:?}");
        let error = against_receiver(source.path(), async |peer, received| {
            while received.recv().await.is_some_and(|packet| packet.stat.is_set()) {}
            let requests: Vec<_> = ids.iter().copied().map(request).collect();
            say(peer, &bundle(&requests));
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), format!("invalid file id {last}"), "{ids:?}");
    }
    for (packet, expected) in [
        (bundle(&[bundle(&[request(1)])]), "unexpected packet of type 4096"),
        (Packet { data: vec![9, 0, 0], ..bundle(&[]) }, "what is no packet"),
    ] {
        let error = against_receiver(source.path(), async |peer, received| {
            while received.recv().await.is_some_and(|packet| packet.stat.is_set()) {}
            say(peer, &packet);
        })
        .await
        .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_file_swapped_for_a_link_is_not_followed() {
    let ground = Ground::new();
    let inside = ground.inside();
    write(&inside, "f", "mine");
    let mut content = Vec::new();
    against_receiver(&inside, async |peer, received| {
        while received.recv().await.is_some_and(|packet| packet.stat.is_set()) {}
        fs::remove_file(inside.join("f")).unwrap();
        symlink("../outside/canary", inside.join("f")).unwrap();
        say(peer, &request(0));
        while let Some(packet) = received.recv().await {
            if packet.data.is_empty() {
                break;
            }
            content.extend(packet.data);
        }
        say(peer, &fin());
    })
    .await
    .unwrap();
    assert!(content.is_empty());
}

#[tokio::test]
async fn a_receiver_that_only_asks_does_not_block_the_sender() {
    let source = tempfile::tempdir().unwrap();
    for index in 0..500 {
        write(source.path(), &format!("f{index:03}"), "content");
    }
    let sent = against_receiver(source.path(), async |peer, received| {
        while received.recv().await.is_some_and(|packet| packet.stat.is_set()) {}
        for id in 0..500 {
            say(peer, &request(id));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut ends = 0;
        while ends < 500 {
            ends += usize::from(received.recv().await.unwrap().data.is_empty());
        }
        say(peer, &fin());
    })
    .await
    .unwrap();
    assert_eq!((sent.entries, sent.requested, sent.bytes), (500, 500, 3500));
}

#[tokio::test]
async fn both_ends_name_the_other_ones_error() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "f", "x");
    let gave_up = |text: &str| Packet {
        r#type: PacketType::PACKET_ERR.into(),
        data: text.as_bytes().to_vec(),
        ..Packet::default()
    };
    let error = against_receiver(source.path(), async |peer, _| say(peer, &gave_up("disk full")))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "error from receiver: disk full");
    let text = Ground::new().refuse(&[file("a"), gave_up("cannot read")]);
    assert_eq!(text, "error from sender: cannot read");
}

#[tokio::test]
async fn a_violation_is_told_to_the_sender() {
    let ground = Ground::new();
    let (peer, incoming) = mpsc::unbounded_channel();
    let (outgoing, mut said) = mpsc::channel(8);
    let packets = UnboundedReceiverStream::new(incoming).boxed();
    let receiving = tokio::spawn(fsutil::receive(
        packets,
        outgoing,
        dir(&ground.inside()),
        ReceiveOptions::default(),
    ));
    say(&peer, &file("../x"));
    let told = said.recv().await.unwrap();
    assert_eq!(told.r#type.as_known(), Some(PacketType::PACKET_ERR));
    assert!(String::from_utf8_lossy(&told.data).contains("unclean path"));
    drop(peer);
    assert!(receiving.await.unwrap().is_err());
}
