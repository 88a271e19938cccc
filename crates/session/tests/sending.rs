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
