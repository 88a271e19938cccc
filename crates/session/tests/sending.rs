//! What a sender announces of a tree that changes meanwhile, or that cannot travel.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use cofferdam_session::fsutil::{self, SendError, SendOptions, Sent, Source};
use cofferdam_wire::fsutil::types::Packet;
use cofferdam_wire::fsutil::types::packet::PacketType;
use common::{dir, write};
use connectrpc::StreamMessage;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A receiver that wants no file.
async fn announced(root: &Path, options: SendOptions) -> (Vec<Packet>, Result<Sent, SendError>) {
    let (peer, incoming) = mpsc::unbounded_channel();
    let (outgoing, mut received) = mpsc::channel(4);
    let sources = vec![Source { root: dir(root), under: None }];
    let packets = UnboundedReceiverStream::new(incoming).boxed();
    let sending = tokio::spawn(fsutil::send(sources, packets, outgoing, options));
    let mut all = Vec::new();
    while let Some(packet) = received.recv().await {
        if !packet.stat.is_set() {
            break;
        }
        all.push(packet);
    }
    let fin = Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() };
    // A sender that has failed listens no more.
    let _ = peer.send(Ok(StreamMessage::from_message(&fin)));
    drop(peer);
    while received.recv().await.is_some() {}
    (all, sending.await.unwrap())
}

/// Deep and wide.
fn forest(root: &Path) {
    for outer in 0..30 {
        for inner in 0..4 {
            for file in 0..3 {
                write(root, &format!("d{outer}/e{inner}/f{file}"), "x");
                write(root, &format!("d{outer}/e{inner}/z/y/x/f{file}"), "x");
            }
        }
        write(root, &format!("file{outer}"), "x");
    }
    fs::hard_link(root.join("d1/e1/f1"), root.join("d9/e1/again")).unwrap();
    std::os::unix::fs::symlink("d1", root.join("d10/to")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_goes_away_meanwhile_is_sent_as_far_as_it_is_there() {
    for _ in 0..10 {
        let root = tempfile::tempdir().unwrap();
        forest(root.path());
        let path = root.path().to_owned();
        let removal = std::thread::spawn(move || {
            for outer in (0..30).rev() {
                fs::remove_dir_all(path.join(format!("d{outer}"))).unwrap();
            }
        });
        let (all, sent) = announced(root.path(), SendOptions::default()).await;
        removal.join().unwrap();
        assert_eq!(sent.unwrap().entries, all.len() as u64);
    }
}

/// A few dozen entries have room in one message, and get one only where the receiver reads bundles.
#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_for_those_who_read_them() {
    let root = tempfile::tempdir().unwrap();
    (0..50).for_each(|number| write(root.path(), &format!("file{number}"), "x"));
    for (bundles, expected) in [(false, vec![0; 51]), (true, vec![4096])] {
        let (peer, incoming) = mpsc::unbounded_channel();
        let (outgoing, mut received) = mpsc::channel(64);
        let sources = vec![Source { root: dir(root.path()), under: None }];
        let packets = UnboundedReceiverStream::new(incoming).boxed();
        let options = SendOptions { bundles, ..SendOptions::default() };
        let sending = tokio::spawn(fsutil::send(sources, packets, outgoing, options));
        let mut kinds = Vec::new();
        while kinds.len() < expected.len() {
            kinds.push(received.recv().await.unwrap().r#type.to_i32());
        }
        assert_eq!(kinds, expected);
        let fin = Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() };
        peer.send(Ok(StreamMessage::from_message(&fin))).unwrap();
        drop(peer);
        assert_eq!(sending.await.unwrap().unwrap().entries, 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_travel_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let root = tempfile::tempdir().unwrap();
    forest(root.path());
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    fs::write(root.path().join("d20/e2").join(odd), "").unwrap();
    let error = announced(root.path(), SendOptions::default()).await.1.unwrap_err();
    assert!(error.to_string().contains("send d20/e2/odd"), "{error}");
}
