#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use cofferdam_store::{Options, Store};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::snapshot::Snapshot;

const IDS: IdRange = IdRange { first: 0, count: 65536 };

fn open(path: &Path) -> Root {
    Root::new(rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap())
}

fn tree() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in [("a/one", "1"), ("a/two", "2"), ("b/one", "1"), ("b/two", "2")] {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = open(directory.path());
    (directory, root)
}

fn of(root: &Root, selector: Selector) -> Digest {
    digest(root, IDS, &[selector], None).unwrap()
}

#[test]
fn equal_content_is_equal_whatever_its_name_and_time() {
    let (directory, root) = tree();
    assert_eq!(of(&root, Selector::path("/a")), of(&root, Selector::path("/b")));
    let before = of(&root, Selector::path("/a"));
    let file = std::fs::File::options().append(true).open(directory.path().join("a/one")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(of(&root, Selector::path("/a")), before);
    let path = directory.path().join("a/one");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(of(&root, Selector::path("/a")), before);
}

#[test]
fn patterns_limit_what_is_digested() {
    let (directory, root) = tree();
    let only_one = || Selector { include: vec!["one".into()], ..Selector::path("/a") };
    let before = of(&root, only_one());
    std::fs::write(directory.path().join("a/two"), "changed").unwrap();
    assert_eq!(of(&root, only_one()), before);
    std::fs::write(directory.path().join("a/one"), "changed").unwrap();
    assert_ne!(of(&root, only_one()), before);
}

#[test]
fn missing_paths_are_named() {
    let (_directory, root) = tree();
    let error = digest(&root, IDS, &[Selector::path("/nope")], None).unwrap_err();
    assert_eq!(error.to_string(), "\"/nope\": not found");
    let required = Selector { required: vec!["/a/gone".into()], ..Selector::path("/a") };
    assert!(digest(&root, IDS, &[required], None).is_err());
}

/// The digest of an entry as records of builds that were have it, in the plainest way.
fn plainly(path: &Path) -> Digest {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let mut out = Digester::new();
    out.field(stat.mode().to_le_bytes());
    out.field(stat.uid().to_le_bytes());
    out.field(stat.gid().to_le_bytes());
    if stat.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let mut content = Digester::new();
        for name in names {
            content.field(name.as_encoded_bytes());
            content.field(plainly(&path.join(&name)).as_bytes());
        }
        out.field(content.finish().as_bytes());
    } else if stat.is_symlink() {
        out.field(std::fs::read_link(path).unwrap().as_os_str().as_encoded_bytes());
    } else {
        out.update(std::fs::read(path).unwrap());
    }
    out.finish()
}

/// More files than one thread reads alone or may wait, small and large, in many directories and in one.
fn large(directory: &Path) {
    for index in 0..600 {
        let name = match index % 3 {
            0 => format!("flat-{index}"),
            1 => format!("d{}/f{index}", index % 40),
            _ => format!("d{}/deep/er/f{index}", index % 20),
        };
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let length = if index % 50 == 0 { 300_000 + index } else { index };
        std::fs::write(path, vec![u8::try_from(index % 251).unwrap(); length]).unwrap();
    }
    symlink("flat-0", directory.join("d1/link")).unwrap();
    std::fs::create_dir(directory.join("empty")).unwrap();
}

#[test]
fn the_digest_does_not_depend_on_who_reads_what() {
    let directory = tempfile::tempdir().unwrap();
    large(directory.path());
    let root = open(directory.path());
    let mut expected = Digester::new();
    expected.field(plainly(directory.path()).as_bytes());
    let expected = expected.finish();
    let mirrors = KnownMirrors::default();
    for _ in 0..5 {
        assert_eq!(of(&root, Selector::whole()), expected);
        let known = Some(mirrors.of("m"));
        assert_eq!(digest(&root, IDS, &[Selector::whole()], known).unwrap(), expected);
    }
}

#[test]
fn a_file_that_cannot_be_opened_ends_the_digest() {
    let directory = tempfile::tempdir().unwrap();
    large(directory.path());
    std::fs::set_permissions(
        directory.path().join("d3/deep/er"),
        std::fs::Permissions::from_mode(0o000),
    )
    .unwrap();
    let root = open(directory.path());
    let result = digest(&root, IDS, &[Selector::whole()], None);
    if rustix::process::geteuid().is_root() {
        assert!(result.is_ok());
    } else {
        assert_eq!(result.unwrap_err().to_string(), "failed to read \"/\"");
    }
    std::fs::set_permissions(
        directory.path().join("d3/deep/er"),
        std::fs::Permissions::from_mode(0o700),
    )
    .unwrap();
}

#[test]
fn what_is_known_is_not_read_until_it_changes() {
    let (directory, root) = tree();
    let mirrors = KnownMirrors::default();
    let path = directory.path().join("a/one");
    let with = || digest(&root, IDS, &[Selector::path("/a")], Some(mirrors.of("m"))).unwrap();
    let truth = of(&root, Selector::path("/a"));
    assert_eq!(with(), truth);
    // What is known wrongly shows that it was used.
    let stat = rustix::fs::stat(&path).unwrap();
    mirrors.of("m").remember(&stat, i128::MAX, Digest::of("not what is in it"));
    assert_ne!(with(), truth);
    let top = || digest(&root, IDS, &[Selector::path("/a/one")], Some(mirrors.of("m"))).unwrap();
    assert_ne!(top(), of(&root, Selector::path("/a/one")));
    // As the receiving end replaces a file: another inode with the same size and time.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    // Longer than a tick of the clock that files have their times from.
    std::thread::sleep(std::time::Duration::from_millis(30));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "3").unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    let changed = rustix::fs::stat(&path).unwrap();
    let changed_at = |stat: &rustix::fs::Stat| (stat.st_ctime, stat.st_ctime_nsec);
    assert_ne!(changed_at(&changed), changed_at(&stat));
    assert_eq!(with(), of(&root, Selector::path("/a")));
    assert_eq!(top(), of(&root, Selector::path("/a/one")));
    assert_ne!(of(&root, Selector::path("/a")), truth);
}

#[test]
fn what_is_found_out_is_written_when_the_mirror_is_let_go_and_not_before() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Options::default()).unwrap();
    let guard = store.mirror("a client's directory").unwrap();
    let files = guard.dir().to_owned();
    std::fs::write(files.join("one"), "1").unwrap();
    let kept = files.parent().unwrap().join("state/digests");
    let state = guard.open_state().unwrap();
    let known = KnownMirrors::default().of_kept(&guard.id(), state, IDS, true);
    let snapshot = Snapshot::mirror(guard, Arc::clone(&store), Arc::clone(&known));
    let stat = rustix::fs::stat(files.join("one")).unwrap();
    known.remember(&stat, i128::MAX, Digest::of("1"));
    let tree = open(&files);
    for _ in 0..2 {
        digest(&tree, IDS, &[Selector::whole()], Some(Arc::clone(&known))).unwrap();
    }
    assert!(known.has_news() && !kept.exists());
    let clone = snapshot.clone();
    drop(snapshot);
    assert!(known.has_news() && !kept.exists());
    drop(clone);
    assert!(!known.has_news() && kept.exists());
}

#[test]
fn attributes_count_whole_and_are_not_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, "content").unwrap();
    let fd = rustix::fs::open(directory.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    let root = Root::new(fd);
    let plain = of(&root, Selector::path("/f"));
    let mut seen = vec![plain];
    for value in ["1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa2"] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, "user.v", value.as_bytes(), flags).unwrap();
        let digest = of(&root, Selector::path("/f"));
        assert!(!seen.contains(&digest), "{value}");
        seen.push(digest);
    }
    // What the attribute is digested as, as content of a file without any.
    let mut written = Vec::new();
    for field in [&b"user.v"[..], b"1"] {
        written.extend_from_slice(&(field.len() as u64).to_le_bytes());
        written.extend_from_slice(field);
    }
    written.extend_from_slice(b"content");
    rustix::fs::removexattr(&path, "user.v").unwrap();
    std::fs::write(&path, written).unwrap();
    assert!(!seen.contains(&of(&root, Selector::path("/f"))));
}

/// Set in the environment of a process that has few descriptors.
const BOUNDED: &str = "DIGEST_BOUNDED";

#[test]
fn too_few_descriptors_end_a_digest_and_make_no_wrong_one() {
    if std::env::var_os(BOUNDED).is_some() {
        return digest_with_few_descriptors();
    }
    // A limit is a process's, and others are under way in this one.
    let name = "content_digest::tests::too_few_descriptors_end_a_digest_and_make_no_wrong_one";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(BOUNDED, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complaints}");
}

fn digest_with_few_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    large(directory.path());
    let root = open(directory.path());
    let truth = of(&root, Selector::whole());
    let mirrors = KnownMirrors::default();
    let with = || digest(&root, IDS, &[Selector::whole()], Some(mirrors.of("m")));
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let mut failures = 0;
    while !held.is_empty() {
        match with() {
            Ok(digest) => assert_eq!(digest, truth),
            Err(error) => {
                failures += 1;
                let code = crate::failure::Failure::of(error).code();
                assert_eq!(code, connectrpc::ErrorCode::ResourceExhausted);
            }
        }
        held.pop();
    }
    assert!(failures > 1, "control: there were too few");
    assert_eq!(with().unwrap(), truth);
}
