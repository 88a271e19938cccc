//! Directories travelling through a session: both ends are the product's own.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use cofferdam_session::fsutil::{
    Compare, MapResult, Ownership, ReceiveError, ReceiveMode, ReceiveOptions, Received,
    SendOptions, Source,
};
use cofferdam_session::{
    ExportTarget, FileTarget, LocalError, LocalRequest, OutputTarget, Services, Session,
};
use common::{dir, session, tree, write};

async fn sync(session: &Session, dest: &Path, request: LocalRequest) -> Received {
    session.sync_local(request, dir(dest)).await.unwrap()
}

fn context() -> LocalRequest {
    LocalRequest { name: "context".into(), ..LocalRequest::default() }
}

fn sample(root: &Path) {
    write(root, "a.txt", "hello");
    write(root, "empty", "");
    write(root, "dir/b.txt", "in dir");
    write(root, "dir/sub/c.txt", "deeper");
    write(root, "dir-x/d", "sorts after dir/");
    write(root, "big", &"0123456789".repeat(100_000));
    fs::create_dir(root.join("none")).unwrap();
    symlink("a.txt", root.join("link")).unwrap();
    symlink("/etc/passwd", root.join("dir/abs")).unwrap();
    fs::hard_link(root.join("a.txt"), root.join("dir/hard")).unwrap();
    fs::set_permissions(root.join("dir/b.txt"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("none"), fs::Permissions::from_mode(0o1777)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_arrives_as_it_is_and_then_only_changes_travel() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(source.path());
    let services = Services::new().directory("context", source.path());
    let (_manager, session) = session(services).await;

    let first = sync(&session, dest.path(), context()).await;
    assert_eq!(tree(source.path()), tree(dest.path()));
    assert_eq!(first.requested, 6);
    assert_eq!(first.entries, 13);

    let second = sync(&session, dest.path(), context()).await;
    assert_eq!((second.requested, second.bytes, second.deleted), (0, 0, 0));

    write(source.path(), "a.txt", "changed");
    fs::remove_file(source.path().join("empty")).unwrap();
    fs::remove_dir_all(source.path().join("dir/sub")).unwrap();
    write(source.path(), "dir/sub", "now a file");
    fs::remove_file(source.path().join("link")).unwrap();
    write(source.path(), "link/inside", "now a directory");
    fs::remove_file(source.path().join("dir/hard")).unwrap();
    write(source.path(), "dir/hard", "alone");
    let third = sync(&session, dest.path(), context()).await;
    assert_eq!(tree(source.path()), tree(dest.path()));
    assert_eq!(third.requested, 4);
    assert_eq!(third.deleted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_comparison_every_file_travels() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(source.path());
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    sync(&session, dest.path(), context()).await;
    let mut request = context();
    request.options.compare = Compare::Nothing;
    assert_eq!(sync(&session, dest.path(), request).await.requested, 6);
    assert_eq!(tree(source.path()), tree(dest.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for index in 0..10_000 {
        write(source.path(), &format!("d{}/f{index}", index % 100), &format!("content {index}"));
    }
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let started = std::time::Instant::now();
    let first = sync(&session, dest.path(), context()).await;
    let full = started.elapsed();
    assert_eq!((first.entries, first.requested), (10_100, 10_000));
    let started = std::time::Instant::now();
    assert_eq!(sync(&session, dest.path(), context()).await.requested, 0);
    println!("full {full:?}, unchanged {:?}", started.elapsed());
    assert_eq!(tree(source.path()), tree(dest.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_size_arrive_whole() {
    const CHUNK: usize = 128 << 10;
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sizes = [0, 1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7];
    for round in 0..20 {
        for size in sizes {
            let content: String = ('a'..='z').cycle().skip(round + size % 26).take(size).collect();
            write(source.path(), &format!("{round}/{size}"), &content);
        }
    }
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let received = sync(&session, dest.path(), context()).await;
    assert_eq!(received.bytes, sizes.iter().map(|size| 20 * *size as u64).sum::<u64>());
    assert_eq!(tree(dest.path()), tree(source.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_select() {
    let source = tempfile::tempdir().unwrap();
    for path in ["a/1.go", "a/2.txt", "a/b/3.go", "c/4.go", "c/d/5.txt", "6.go", "x/y/z/7"] {
        write(source.path(), path, path);
    }
    symlink("c/d", source.path().join("l")).unwrap();
    symlink("/x/y", source.path().join("c/m")).unwrap();
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 15] = [
        (&["a"], &[], &[], &["a", "a/1.go", "a/2.txt", "a/b", "a/b/3.go"]),
        (&["a/b"], &[], &[], &["a", "a/b", "a/b/3.go"]),
        (&["**/*.go"], &[], &[], &["6.go", "a", "a/1.go", "a/b", "a/b/3.go", "c", "c/4.go"]),
        (&["*.go"], &[], &[], &["6.go"]),
        (&["a", "!a/b"], &[], &[], &["a", "a/1.go", "a/2.txt"]),
        (&["nothing"], &[], &[], &[]),
        (&[], &["*", "!a/b"], &[], &["a", "a/b", "a/b/3.go"]),
        (&[], &["**", "!c/*.go"], &[], &["c", "c/4.go"]),
        (&[], &["**/*.go", "x", "c", "l"], &[], &["a", "a/2.txt", "a/b"]),
        (
            &["a", "c"],
            &["**/*.txt", "c/m"],
            &[],
            &["a", "a/1.go", "a/b", "a/b/3.go", "c", "c/4.go", "c/d"],
        ),
        (&[], &[], &["l"], &["c", "c/d", "c/d/5.txt", "l"]),
        (&[], &[], &["l/5.txt"], &["c", "c/d", "c/d/5.txt", "l"]),
        (&[], &[], &["c/m/z"], &["c", "c/m", "x", "x/y", "x/y/z", "x/y/z/7"]),
        (&["6.go"], &[], &["c/m"], &["6.go", "c", "c/m", "x", "x/y", "x/y/z", "x/y/z/7"]),
        (&[], &[], &["[lq]"], &["c", "c/d", "c/d/5.txt", "l"]),
    ];
    let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (include, exclude, follow, expected) in cases {
        let dest = tempfile::tempdir().unwrap();
        let request = LocalRequest {
            include: list(include),
            exclude: list(exclude),
            follow: list(follow),
            ..context()
        };
        sync(&session, dest.path(), request).await;
        let found: Vec<String> = tree(dest.path()).into_keys().collect();
        assert_eq!(found, list(expected), "{include:?} {exclude:?} {follow:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_origin_is_left_out_becomes_a_file() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "a", "same");
    fs::hard_link(source.path().join("a"), source.path().join("b")).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("c")).unwrap();
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let request = LocalRequest { exclude: vec!["a".into()], ..context() };
    assert_eq!(sync(&session, dest.path(), request).await.requested, 1);
    assert_eq!(fs::read(dest.path().join("c")).unwrap(), b"same");
    let inode = |name: &str| fs::metadata(dest.path().join(name)).unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_directories_and_services_are_clear_errors() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_manager, with) = session(Services::new().directory("context", source.path())).await;
    let request = LocalRequest { name: "other".into(), ..LocalRequest::default() };
    let error = with.sync_local(request, dir(dest.path())).await.unwrap_err();
    assert_eq!(error.to_string(), "no access allowed to dir \"other\"");
    let (_manager, without) = session(Services::new()).await;
    let error = without.sync_local(context(), dir(dest.path())).await.unwrap_err();
    assert!(matches!(error, LocalError::NotEnabled));
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_mapped_or_refused() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "dir/file", "x");
    symlink("file", source.path().join("dir/link")).unwrap();
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let me = fs::metadata(dest.path()).unwrap().uid();
    if me == 0 {
        let mut request = context();
        request.options.ownership = Ownership::Mapped(Arc::new(|id| id.checked_add(65536)));
        sync(&session, dest.path(), request.clone()).await;
        for path in ["dir", "dir/file", "dir/link"] {
            assert_eq!(fs::symlink_metadata(dest.path().join(path)).unwrap().uid(), 65536);
        }
        assert_eq!(sync(&session, dest.path(), request).await.requested, 0);
    }
    let mut request = context();
    request.options.ownership = Ownership::Mapped(Arc::new(|_| None));
    let error = session.sync_local(request, dir(dest.path())).await.unwrap_err();
    assert!(matches!(error, LocalError::Receive { source: ReceiveError::Owner { id: 0, .. }, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_exported_over_what_is_there() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(source.path());
    write(dest.path(), "kept", "mine");
    write(dest.path(), "a.txt", "old");
    let output = OutputTarget::Directory { path: dest.path().to_path_buf(), mirror: false };
    let (_manager, session) = session(Services::new().output(0, output)).await;
    let map: cofferdam_session::fsutil::MapHook = Arc::new(|stat| {
        stat.modTime = 1_000_000_000;
        if stat.path == "dir/sub" { MapResult::SkipDir } else { MapResult::Keep }
    });
    let options = SendOptions { map: Some(map), ..SendOptions::default() };
    let sources = vec![Source { root: dir(source.path()), under: None }];
    let sent = session.send_tree(&ExportTarget::default(), sources, options).await.unwrap();
    assert_eq!((sent.entries, sent.requested), (11, 5));
    let found = tree(dest.path());
    assert!(found.contains_key("kept") && !found.contains_key("dir/sub"));
    assert_eq!(fs::read(dest.path().join("a.txt")).unwrap(), b"hello");
    assert_eq!(fs::metadata(dest.path().join("dir")).unwrap().mtime(), 1);
    assert!(!found.keys().any(|name| name.contains(".cofferdam")));
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_travel_as_directories_of_one_mirror() {
    let (one, two, dest) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path(), "bin", "amd64");
    write(two.path(), "bin", "arm64");
    write(dest.path(), "stale", "x");
    let output = OutputTarget::Directory { path: dest.path().to_path_buf(), mirror: true };
    let (_manager, session) = session(Services::new().output(2, output)).await;
    let sources = || {
        vec![
            Source { root: dir(two.path()), under: Some("linux_arm64".into()) },
            Source { root: dir(one.path()), under: Some("linux_amd64".into()) },
        ]
    };
    let single = ExportTarget { exporter: 2, ..ExportTarget::default() };
    assert!(session.send_tree(&single, sources(), SendOptions::default()).await.is_err());
    let target = ExportTarget { exporter: 2, multi_platform: true, ..ExportTarget::default() };
    session.send_tree(&target, sources(), SendOptions::default()).await.unwrap();
    let found: Vec<String> = tree(dest.path()).into_keys().collect();
    assert_eq!(found, ["linux_amd64", "linux_amd64/bin", "linux_arm64", "linux_arm64/bin"]);
    assert_eq!(fs::read(dest.path().join("linux_arm64/bin")).unwrap(), b"arm64");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_exported_whole_or_not_at_all() {
    let dest = tempfile::tempdir().unwrap();
    let path = dest.path().join("image.tar");
    let output = OutputTarget::File(FileTarget::Path(path.clone()));
    let (_manager, session) = session(Services::new().output(1, output)).await;
    let mut target = ExportTarget { exporter: 1, ..ExportTarget::default() };
    target.metadata.insert("containerimage.digest".into(), "sha256:x".into());
    let sender = session.send_file(&target).await.unwrap();
    let mut writer = sender.blocking_writer();
    tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        for _ in 0..300 {
            writer.write_all(&[7; 10_000]).unwrap();
        }
        writer.flush().unwrap();
    })
    .await
    .unwrap();
    assert!(!path.exists());
    sender.finish().await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![7; 3_000_000]);

    let missing = ExportTarget { exporter: 5, ..ExportTarget::default() };
    let error = session.send_file(&missing).await.unwrap().finish().await.unwrap_err();
    let text = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("exporter 5 not found"), "{error} {text}");
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn merging_keeps_what_the_sender_does_not_have() {
    let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(source.path());
    write(dest.path(), "dir/extra", "x");
    let (_manager, session) = session(Services::new().directory("context", source.path())).await;
    let mut request = context();
    request.options = ReceiveOptions { mode: ReceiveMode::Merge, ..ReceiveOptions::default() };
    sync(&session, dest.path(), request).await;
    assert!(dest.path().join("dir/extra").exists());
    assert!(dest.path().join("dir/sub/c.txt").exists());
}
