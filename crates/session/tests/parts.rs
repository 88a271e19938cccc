//! One tree brought by two calls: that it is the same tree, and what either call may do to the other.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buffa::{EnumValue, Message as _, MessageField};
use cofferdam_session::fsutil::{Call, ReceiveError, ReceiveOptions, Received, receive_parts};
use cofferdam_session::{LocalRequest, Services, Session};
use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, Stat};
use common::{dir, session, tree, write};
use connectrpc::StreamMessage;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const DIR: u32 = 1 << 31 | 0o755;

async fn sync(session: &Session, dest: &Path, apart: &[&str]) -> Received {
    let apart = apart.iter().map(|path| (*path).to_owned()).collect();
    let exclude = vec!["**/left-out".to_owned(), "!b/kept/left-out".to_owned()];
    let request = LocalRequest { name: "context".into(), exclude, apart, ..Default::default() };
    session.sync_local(request, dir(dest)).await.unwrap()
}

/// Entries of the last part are before, within and after those of the rest.
fn sample(root: &Path) {
    for path in ["a/1", "a-b/2", "b/kept/3", "b/other/4", "b/kept.txt", "c", "d/deep/er/5", "z/6"] {
        write(root, path, path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_parts_are_the_whole() {
    let source = tempfile::tempdir().unwrap();
    sample(source.path());
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    for apart in
        [&["a"][..], &["b/kept"], &["a", "b/other", "d/deep/er"], &["c"], &["none", "z/6/7"], &[]]
    {
        let dest = tempfile::tempdir().unwrap();
        sync(&session, dest.path(), apart).await;
        assert_eq!(tree(source.path()), tree(dest.path()), "{apart:?}");
        let again = sync(&session, dest.path(), apart).await;
        assert_eq!((again.requested, again.deleted, again.changed), (0, 0, false), "{apart:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_in_either_part_changes() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = source.path();
    sample(root);
    let (_manager, session) = session(Services::new().directory("context", root)).await;
    let parts = ["b/kept", "d"];
    sync(&session, dest.path(), &parts).await;
    write(root, "a/1", "longer than it was");
    write(root, "b/kept/new", "");
    write(root, "b/new/new", "");
    fs::remove_file(root.join("b/kept/3")).unwrap();
    fs::remove_dir_all(root.join("z")).unwrap();
    let received = sync(&session, dest.path(), &parts).await;
    assert_eq!(tree(root), tree(dest.path()));
    assert_eq!((received.requested, received.deleted, received.changed), (3, 2, true));
    // A part that is no directory any more, and one that is not there.
    fs::remove_dir_all(root.join("d")).unwrap();
    write(root, "d", "a file");
    fs::remove_dir_all(root.join("b/kept")).unwrap();
    sync(&session, dest.path(), &parts).await;
    assert_eq!(tree(root), tree(dest.path()));
    // What is left out stays out of both, and so does what was there before it was.
    write(root, "b/kept/left-out", "an exception");
    write(root, "b/other/left-out", "");
    write(root, "a/left-out/x", "");
    sync(&session, dest.path(), &parts).await;
    let arrived = tree(dest.path());
    let left_out: Vec<_> = arrived.keys().filter(|path| path.contains("left-out")).collect();
    assert_eq!(left_out, ["b/kept/left-out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_tree_says_what_its_half_is() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for index in 0..4_400 {
        write(source.path(), &format!("m/{}/{index}", index % 4), "");
    }
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let first = sync(&session, dest.path(), &[]).await;
    assert_eq!(first.apart, ["m/0", "m/1"]);
    let second = sync(&session, dest.path(), &["m/0", "m/1"]).await;
    assert_eq!((&second.apart, second.changed), (&first.apart, false));
    // The directory above comes in both, so that one more entry shows that there were two calls.
    assert_eq!((first.entries, second.entries), (4_405, 4_406));
    let many = LocalRequest {
        name: "context".into(),
        exclude: (0..101).map(|index| format!("none{index}")).collect(),
        apart: first.apart.clone(),
        ..LocalRequest::default()
    };
    let whole = session.sync_local(many, dir(dest.path())).await.unwrap();
    assert_eq!(whole.entries, 4_405, "one call, whose headers have no room for more patterns");
    fs::hard_link(source.path().join("m/0/0"), source.path().join("m/0/again")).unwrap();
    let linked = sync(&session, dest.path(), &[]).await;
    assert!(linked.apart.is_empty(), "two calls would make two files of it");
}

fn stat(path: &str, mode: u32) -> Packet {
    let stat = Stat { path: path.into(), mode, ..Stat::default() };
    Packet { stat: MessageField::some(stat), ..Packet::default() }
}

fn end() -> Packet {
    Packet::default()
}

fn data(id: u32, text: &str) -> Packet {
    let data = text.as_bytes().to_vec();
    Packet { r#type: PacketType::PACKET_DATA.into(), ID: id, data, ..Packet::default() }
}

fn of_type(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

/// All of them in one, as our own senders do.
fn bundle(packets: &[Packet]) -> Packet {
    let mut data = Vec::new();
    for packet in packets {
        let bytes = packet.encode_to_vec();
        data.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        data.extend(bytes);
    }
    Packet { r#type: EnumValue::from(4096), data, ..Packet::default() }
}

/// A call whose sender is a test.
struct Sender {
    say: Option<mpsc::UnboundedSender<Packet>>,
    told: mpsc::Receiver<Packet>,
    taken: Arc<AtomicUsize>,
}

impl Sender {
    fn new() -> (Self, Call) {
        let (say, said) = mpsc::unbounded_channel();
        let (outgoing, told) = mpsc::channel(64);
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let packets = UnboundedReceiverStream::new(said).map(move |packet: Packet| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(StreamMessage::from_message(&packet))
        });
        (Self { say: Some(say), told, taken }, Call { packets: packets.boxed(), outgoing })
    }

    fn say(&self, packets: &[Packet]) {
        for packet in packets {
            self.say.as_ref().unwrap().send(packet.clone()).unwrap();
        }
    }

    async fn told(&mut self) -> Packet {
        tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await.unwrap().unwrap()
    }

    async fn is_asked_for(&mut self, id: u32) {
        let told = self.told().await;
        assert_eq!((told.r#type.as_known(), told.ID), (Some(PacketType::PACKET_REQ), id));
    }
}

type Receiving = tokio::task::JoinHandle<Result<Received, ReceiveError>>;

fn two(dest: &Path) -> (Sender, Sender, Receiving) {
    let ((first, one), (second, other)) = (Sender::new(), Sender::new());
    let receiving = receive_parts(vec![one, other], dir(dest), ReceiveOptions::default());
    (first, second, tokio::spawn(receiving))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_ids_of_its_own() {
    let dest = tempfile::tempdir().unwrap();
    let (mut first, mut second, receiving) = two(dest.path());
    second.say(&[bundle(&[stat("m", DIR), stat("m/b", 0o644)]), bundle(&[]), bundle(&[end()])]);
    first.say(&[stat("m", DIR), stat("m/a", 0o644), stat("m/c", 0o644), end()]);
    first.is_asked_for(1).await;
    second.is_asked_for(1).await;
    first.is_asked_for(2).await;
    second.say(&[data(1, "b"), data(1, "")]);
    first.say(&[data(2, "c"), data(1, "a"), data(2, ""), data(1, "")]);
    for sender in [&mut first, &mut second] {
        assert_eq!(sender.told().await.r#type.as_known(), Some(PacketType::PACKET_FIN));
    }
    // One that ends when it has said all does not end the other.
    first.say(&[of_type(PacketType::PACKET_FIN)]);
    first.say = None;
    tokio::time::sleep(Duration::from_millis(50)).await;
    second.say(&[of_type(PacketType::PACKET_FIN)]);
    second.say = None;
    let received = receiving.await.unwrap().unwrap();
    assert_eq!((received.entries, received.requested, received.bytes), (5, 3, 3));
    let text = |name| fs::read_to_string(dest.path().join("m").join(name)).unwrap();
    assert_eq!([text("a"), text("b"), text("c")], ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_far_ahead_waits() {
    const MANY: usize = 45_000;
    let dest = tempfile::tempdir().unwrap();
    let (first, second, receiving) = two(dest.path());
    let links = (0..MANY).map(|index| {
        let mut link = stat(&format!("b{index:05}"), 1 << 27 | 0o777);
        link.stat.modify(|stat| stat.linkname = "x".repeat(200));
        link
    });
    second.say(&links.collect::<Vec<_>>());
    second.say(&[end()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = second.taken.load(Ordering::Relaxed);
    assert!(
        (1_000..MANY - 10_000).contains(&taken),
        "{taken} of {MANY} are held while nobody can take them"
    );
    first.say(&[stat("a", DIR), stat("c", DIR), end()]);
    first.say(&[of_type(PacketType::PACKET_FIN)]);
    second.say(&[of_type(PacketType::PACKET_FIN)]);
    // They were said before they were asked for, which is no way to end a transfer, but it has come to its end.
    let result = tokio::time::timeout(Duration::from_secs(60), receiving).await.unwrap().unwrap();
    let text = result.unwrap_err().to_string();
    assert!(text.contains("unexpected packet"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_one_call_fails_both() {
    let refused = [
        (vec![stat("b", DIR), stat("a", DIR)], "changes out of order"),
        (vec![stat("../x", DIR)], "unclean path"),
        (vec![stat("none/x", DIR)], "was not announced"),
        (vec![data(0, "x")], "data of file 0, which was not requested"),
        (vec![end(), end()], "second end"),
        (vec![end(), stat("c", DIR)], "announced after the end"),
        (vec![Packet { data: vec![1, 0], ..bundle(&[]) }], "what should be packets is not"),
    ];
    for (packets, violation) in refused {
        let dest = tempfile::tempdir().unwrap();
        let (mut first, mut second, receiving) = two(dest.path());
        // A file that only the first call may bring the content of.
        first.say(&[stat("a.txt", 0o644), end()]);
        second.say(&packets);
        let mut words = Vec::new();
        for sender in [&mut first, &mut second] {
            let mut told = sender.told().await;
            while told.r#type.as_known() == Some(PacketType::PACKET_REQ) {
                told = sender.told().await;
            }
            words.push(String::from_utf8(told.data).unwrap());
        }
        (first.say, second.say) = (None, None);
        let error = receiving.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(violation), "{error}, not {violation}");
        assert!(words.iter().all(|told| *told == error), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_breaks_ends_both() {
    let dest = tempfile::tempdir().unwrap();
    let (first, mut second, receiving) = two(dest.path());
    first.say(&[stat("a", DIR), end()]);
    second.say = None;
    let error = receiving.await.unwrap().unwrap_err();
    assert!(matches!(error, ReceiveError::Ended), "{error}");
    let (mut first, second, receiving) = two(dest.path());
    let gave_up = Packet { data: b"gone".to_vec(), ..of_type(PacketType::PACKET_ERR) };
    second.say(&[gave_up]);
    let told = tokio::time::timeout(Duration::from_secs(20), first.told.recv()).await.unwrap();
    assert!(told.is_none(), "its call is over: {told:?}");
    drop((first, second));
    let error = receiving.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "error from sender: gone");
    let broken = connectrpc::ConnectError::internal("broken");
    let (outgoing, _told) = mpsc::channel(1);
    let call = Call { packets: stream::iter([Err(broken)]).boxed(), outgoing };
    let (_other, open) = Sender::new();
    let result = receive_parts(vec![open, call], dir(dest.path()), ReceiveOptions::default());
    let error = tokio::time::timeout(Duration::from_secs(20), result).await.unwrap().unwrap_err();
    assert!(matches!(error, ReceiveError::Stream(_)), "{error}");
}
