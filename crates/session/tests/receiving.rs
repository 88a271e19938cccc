//! The receiving end packet by packet: what must be done before what, and what an error leaves behind.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use buffa::{Message as _, MessageField, MessageView as _};
use cofferdam_session::fsutil::{
    self, ReceiveError, ReceiveLimits, ReceiveMode, ReceiveOptions, Receiver, Step,
};
use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, PacketView, Stat};
use common::dir;
use connectrpc::{ConnectError, StreamMessage};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

const DIR: u32 = 1 << 31 | 0o755;
const SECOND: i64 = 1_000_000_000;

fn stat(path: &str, mode: u32, size: usize) -> Packet {
    let size = i64::try_from(size).unwrap();
    let stat = Stat { path: path.into(), mode, size, modTime: 7 * SECOND, ..Stat::default() };
    Packet { stat: MessageField::some(stat), ..Packet::default() }
}

fn data(id: u32, content: &[u8]) -> Packet {
    let data = content.to_vec();
    Packet { r#type: PacketType::PACKET_DATA.into(), ID: id, data, ..Packet::default() }
}

fn fin() -> Packet {
    Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() }
}

fn give(receiver: &mut Receiver, packet: &Packet) -> Result<Step, ReceiveError> {
    let bytes = packet.encode_to_vec();
    receiver.packet(0, &PacketView::decode_view(&bytes).unwrap())
}

fn receiver(dest: &Path, mode: ReceiveMode) -> Receiver {
    Receiver::new(dir(dest), ReceiveOptions { mode, ..ReceiveOptions::default() }, 1).unwrap()
}

/// Announces `count` files in each of `directories` directories; returns ids and paths.
fn announce(receiver: &mut Receiver, directories: u32, count: u32) -> Vec<(u32, String)> {
    let mut files = Vec::new();
    let mut id = 0;
    for directory in 0..directories {
        let directory = format!("d{directory:03}");
        give(receiver, &stat(&directory, DIR, 0)).unwrap();
        id += 1;
        for file in 0..count {
            let path = format!("{directory}/f{file:03}");
            assert_eq!(give(receiver, &stat(&path, 0o644, path.len())).unwrap(), Step::Request(id));
            files.push((id, path));
            id += 1;
        }
    }
    give(receiver, &Packet::default()).unwrap();
    files
}

#[test]
fn all_files_are_finished_before_anything_that_depends_on_them() {
    let dest = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dest.path(), ReceiveMode::Mirror);
    let files = announce(&mut receiver, 40, 20);
    // In an order that leaves directories and comes back to them.
    let mut order: Vec<_> = files.iter().collect();
    order.sort_by_key(|(id, _)| (id % 7, *id));
    for (id, path) in &order {
        assert!(!receiver.is_ready());
        give(&mut receiver, &data(*id, path.as_bytes())).unwrap();
        give(&mut receiver, &data(*id, b"")).unwrap();
    }
    assert!(receiver.is_ready());
    receiver.settle().unwrap();
    for (_, path) in &files {
        assert_eq!(fs::read_to_string(dest.path().join(path)).unwrap(), *path);
        let found = fs::metadata(dest.path().join(path)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o644, 7));
        // A file made in it later would have changed this.
        let parent = dest.path().join(path).parent().unwrap().to_owned();
        assert_eq!(fs::metadata(parent).unwrap().mtime(), 7);
    }
    assert_eq!(give(&mut receiver, &fin()).unwrap(), Step::Finished);
    assert_eq!(receiver.received().requested, 800);
}

#[test]
fn a_failure_in_the_middle_is_told_before_the_transfer_counts_as_done() {
    let dest = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dest.path(), ReceiveMode::Mirror);
    let files = announce(&mut receiver, 10, 20);
    let (_, taken) = &files[files.len() - 1];
    fs::write(dest.path().join(taken), "somebody else's").unwrap();
    let mut failure = None;
    for (id, path) in &files {
        let given = give(&mut receiver, &data(*id, path.as_bytes()))
            .and_then(|_| give(&mut receiver, &data(*id, b"")));
        if let Err(error) = given {
            failure = Some(error);
            break;
        }
    }
    let failure = failure.unwrap_or_else(|| receiver.settle().unwrap_err());
    assert_eq!(failure.to_string(), format!("create {taken}"));
    assert_eq!(fs::read_to_string(dest.path().join(taken)).unwrap(), "somebody else's");
}

#[test]
fn a_failure_early_on_ends_the_transfer() {
    let dest = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dest.path(), ReceiveMode::Mirror);
    let files = announce(&mut receiver, 1, 200);
    let (_, taken) = &files[30];
    fs::write(dest.path().join(taken), "").unwrap();
    let mut result = Ok(Step::Continue);
    for (id, _) in &files {
        result = give(&mut receiver, &data(*id, b""));
        if result.is_err() {
            break;
        }
    }
    let failure = result.and_then(|_| receiver.settle()).unwrap_err();
    assert_eq!(failure.to_string(), format!("create {taken}"));
}

#[test]
fn a_transfer_given_up_leaves_nobody_writing() {
    let dest = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dest.path(), ReceiveMode::Mirror);
    for (id, path) in announce(&mut receiver, 10, 30) {
        give(&mut receiver, &data(id, path.as_bytes())).unwrap();
        give(&mut receiver, &data(id, b"")).unwrap();
    }
    drop(receiver);
    // A thread that still made files would make this fail, or the directory come back.
    for entry in fs::read_dir(dest.path()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 0);
}

#[test]
fn content_in_several_packets_keeps_its_order() {
    let dest = tempfile::tempdir().unwrap();
    for mode in [ReceiveMode::Mirror, ReceiveMode::Merge] {
        let mut receiver = receiver(dest.path(), mode);
        let long: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        for (id, path) in [(0, "long"), (1, "many"), (2, "none"), (3, "whole")] {
            let size = if mode == ReceiveMode::Merge { 1 } else { 2 };
            assert_eq!(give(&mut receiver, &stat(path, 0o600, size)).unwrap(), Step::Request(id));
        }
        let parts: [(u32, &[u8]); 6] =
            [(1, b"a"), (0, &long), (3, b"whole"), (1, b"b"), (3, b""), (1, b"c")];
        for (id, content) in parts {
            give(&mut receiver, &data(id, content)).unwrap();
        }
        for packet in [data(2, b""), data(0, b"end"), data(1, b""), data(0, b"")] {
            give(&mut receiver, &packet).unwrap();
        }
        give(&mut receiver, &Packet::default()).unwrap();
        assert!(receiver.is_ready());
        receiver.settle().unwrap();
        let read = |name: &str| fs::read(dest.path().join(name)).unwrap();
        assert_eq!(read("long"), [&long[..], b"end"].concat());
        assert_eq!((read("many"), read("none")), (b"abc".to_vec(), Vec::new()));
        assert_eq!(read("whole"), b"whole");
        assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 4);
    }
}

#[test]
fn modes_arrive_whatever_the_process_leaves_out_of_new_files() {
    let dest = tempfile::tempdir().unwrap();
    let mut receiver = receiver(dest.path(), ReceiveMode::Mirror);
    // As Go writes them: set-user-id and set-group-id are bits 23 and 22, sticky is bit 20.
    let modes: [(u32, u32); 7] = [
        (0o000, 0o000),
        (0o444, 0o444),
        (0o666, 0o666),
        (0o777, 0o777),
        (1 << 23 | 0o755, 0o4755),
        (1 << 22 | 0o775, 0o2775),
        (1 << 20 | 0o622, 0o1622),
    ];
    for (index, (mode, _)) in modes.iter().enumerate() {
        give(&mut receiver, &stat(&format!("f{index}"), *mode, 1)).unwrap();
    }
    give(&mut receiver, &Packet::default()).unwrap();
    for id in 0..7 {
        give(&mut receiver, &data(id, b"x")).unwrap();
        give(&mut receiver, &data(id, b"")).unwrap();
    }
    receiver.settle().unwrap();
    for (index, (_, mode)) in modes.iter().enumerate() {
        let found = fs::metadata(dest.path().join(format!("f{index}"))).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, *mode, "{mode:o}");
    }
}

/// Starts a receiver that is in the middle of a large file, which takes the place of `f`.
fn halfway(dest: &Path) -> Receiver {
    let mut receiver = receiver(dest, ReceiveMode::Merge);
    give(&mut receiver, &stat("f", 0o644, 200_000)).unwrap();
    give(&mut receiver, &Packet::default()).unwrap();
    give(&mut receiver, &data(0, &[7; 150_000])).unwrap();
    receiver
}

fn names(dest: &Path) -> Vec<String> {
    let entries = fs::read_dir(dest).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_replaces_a_file_is_in_nobodys_way() {
    let dest = tempfile::tempdir().unwrap();
    fs::write(dest.path().join("f"), "old").unwrap();
    // As processes that were killed left theirs, one of which had this one's number.
    let left = format!(".cofferdam-0-{}", std::process::id());
    fs::write(dest.path().join(&left), "half").unwrap();
    // Two at once, and neither has a name of the other.
    let (mut first, second) = (halfway(dest.path()), halfway(dest.path()));
    assert_eq!(names(dest.path()).len(), 4);
    assert_eq!(fs::read(dest.path().join("f")).unwrap(), b"old");
    give(&mut first, &data(0, &[8; 50_000])).unwrap();
    give(&mut first, &data(0, b"")).unwrap();
    first.settle().unwrap();
    assert_eq!(fs::read(dest.path().join("f")).unwrap().len(), 200_000);
    // The other one is given up.
    drop(second);
    let mut found = names(dest.path());
    found.sort();
    assert_eq!(found, [left.as_str(), "f"]);
    assert_eq!(fs::read(dest.path().join("f")).unwrap().len(), 200_000);
}

/// Receives a read-only file and a read-only directory, each with an attribute, twice: once as new, then over what is there.
fn receive_read_only(dest: &Path) {
    let with = |mut packet: Packet, value: &str| {
        let mut stat = packet.stat.take().unwrap();
        stat.xattrs.insert("user.v".into(), value.as_bytes().to_vec());
        packet.stat = MessageField::some(stat);
        packet
    };
    for value in ["new", "changed"] {
        let mut receiver = receiver(dest, ReceiveMode::Merge);
        // A time of its own makes the directory one that has to be set again.
        let mut directory = stat("d", 1 << 31 | 0o555, value.len());
        directory.stat.as_option_mut().unwrap().modTime += i64::try_from(value.len()).unwrap();
        give(&mut receiver, &with(directory, value)).unwrap();
        give(&mut receiver, &with(stat("f", 0o444, value.len()), value)).unwrap();
        give(&mut receiver, &Packet::default()).unwrap();
        give(&mut receiver, &data(1, value.as_bytes())).unwrap();
        give(&mut receiver, &data(1, b"")).unwrap();
        receiver.settle().unwrap();
        for (name, mode) in [("d", 0o555), ("f", 0o444)] {
            let path = dest.join(name);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
            let mut found = [0; 16];
            let length = rustix::fs::getxattr(&path, "user.v", &mut found).unwrap();
            assert_eq!(&found[..length], value.as_bytes(), "{name}");
        }
    }
}

#[test]
fn attributes_of_what_is_read_only_arrive_without_privilege() {
    let dest = tempfile::tempdir().unwrap();
    let path = dest.path().to_owned();
    // Of a thread: the others keep what they may.
    let receiving = std::thread::spawn(move || {
        let empty = rustix::thread::CapabilitySet::empty();
        let none = rustix::thread::CapabilitySets {
            effective: empty,
            permitted: empty,
            inheritable: empty,
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        receive_read_only(&path);
    });
    receiving.join().unwrap();
}

#[test]
fn files_in_transit_are_counted_while_their_content_is_held() {
    let dest = tempfile::tempdir().unwrap();
    let limits = ReceiveLimits { max_open_files: 1, ..ReceiveLimits::default() };
    let options = ReceiveOptions { limits, ..ReceiveOptions::default() };
    let mut receiver = Receiver::new(dir(dest.path()), options, 1).unwrap();
    for path in ["a", "b", "c"] {
        give(&mut receiver, &stat(path, 0o644, 1)).unwrap();
    }
    for id in [0, 1] {
        give(&mut receiver, &data(id, b"x")).unwrap();
        give(&mut receiver, &data(id, b"")).unwrap();
    }
    give(&mut receiver, &data(2, b"x")).unwrap();
    let beside = tempfile::tempdir().unwrap();
    let options = ReceiveOptions { limits, ..ReceiveOptions::default() };
    let mut other = Receiver::new(dir(beside.path()), options, 1).unwrap();
    for path in ["a", "b"] {
        give(&mut other, &stat(path, 0o644, 1)).unwrap();
    }
    give(&mut other, &data(0, b"x")).unwrap();
    let error = give(&mut other, &data(1, b"")).unwrap_err();
    assert_eq!(error.to_string(), "file transfer exceeds the number of files in transit");
}

/// A stream of all `packets`, each there at once.
async fn receive_all(packets: &[Packet], dest: &Path) -> (Result<u64, ReceiveError>, Vec<Packet>) {
    let items: Vec<Result<StreamMessage<Packet>, ConnectError>> =
        packets.iter().map(|packet| Ok(StreamMessage::from_message(packet))).collect();
    let (outgoing, mut said) = mpsc::channel(4);
    let received = fsutil::receive(
        stream::iter(items).boxed(),
        outgoing,
        dir(dest),
        ReceiveOptions::default(),
    );
    let listen = async {
        let mut all = Vec::new();
        while let Some(packet) = said.recv().await {
            all.push(packet);
        }
        all
    };
    let (result, all) = tokio::join!(received, listen);
    (result.map(|received| received.entries), all)
}

#[tokio::test]
async fn requests_leave_in_order_and_the_last_word_comes_last() {
    let dest = tempfile::tempdir().unwrap();
    let mut packets: Vec<Packet> =
        (0..1000).map(|index| stat(&format!("f{index:04}"), 0o644, 1)).collect();
    packets.push(Packet::default());
    for id in 0..1000 {
        packets.extend([data(id, b"x"), data(id, b"")]);
    }
    packets.push(fin());
    let (result, said) = receive_all(&packets, dest.path()).await;
    assert_eq!(result.unwrap(), 1000);
    let asked: Vec<u32> = said[..1000].iter().map(|packet| packet.ID).collect();
    assert_eq!(asked, (0..1000).collect::<Vec<u32>>());
    assert_eq!(said.len(), 1001);
    assert_eq!(said[1000].r#type.as_known(), Some(PacketType::PACKET_FIN));
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 1000);
}

#[tokio::test]
async fn what_came_before_a_violation_or_the_end_is_applied() {
    let dest = tempfile::tempdir().unwrap();
    let early = [stat("d", DIR, 0), stat("d/f", 0o644, 1)];
    let (result, _) = receive_all(&early, dest.path()).await;
    assert!(matches!(result.unwrap_err(), ReceiveError::Ended));
    assert!(dest.path().join("d").is_dir());
    let bad = [stat("e", DIR, 0), stat("../x", 0o644, 1), stat("g", DIR, 0)];
    let (result, said) = receive_all(&bad, dest.path()).await;
    assert!(matches!(result.unwrap_err(), ReceiveError::Invalid { .. }));
    assert_eq!(said.last().unwrap().r#type.as_known(), Some(PacketType::PACKET_ERR));
    assert!(dest.path().join("e").is_dir() && !dest.path().join("g").exists());
}
