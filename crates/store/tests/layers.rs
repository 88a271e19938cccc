//! Layers and trees as mounts: merged views, whiteouts, many layers.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::MetadataExt;

use cofferdam_store::{IdRange, LayerUsage, Options, RecordType, Store, Tree, mount_tree};
use common::{is_opaque, is_whiteout, layer, names, open, read, remove, subdirectory, write};
use rustix::fs::{AtFlags, Mode};

#[test]
fn a_layer_is_owned_by_the_containers_root_and_committed_by_rename() {
    let temp = tempfile::tempdir().unwrap();
    let ids = IdRange { first: 65_536, count: 65_536 };
    let store = Store::open(temp.path(), Options { ids }).unwrap();
    let active = store.new_layer("step", RecordType::Regular).unwrap();
    let before = std::fs::metadata(active.dir()).unwrap();
    assert_eq!((before.uid(), before.gid(), before.mode() & 0o7777), (65_536, 65_536, 0o755));
    let id = active.id();
    let layer = active.commit().unwrap();
    assert_eq!(layer.id(), id);
    assert_eq!(std::fs::metadata(layer.dir()).unwrap().ino(), before.ino());
    assert_eq!(layer.info().description, "step");
    let root = std::fs::metadata(temp.path()).unwrap();
    assert_eq!(root.mode() & 0o7777, 0o700);
}

#[test]
fn a_dropped_active_layer_is_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let active = store.new_layer("step", RecordType::Regular).unwrap();
    std::fs::write(active.dir().join("file"), "x").unwrap();
    drop(active);
    store.wait_for_deletions();
    for part in ["active", "trash"] {
        assert_eq!(std::fs::read_dir(temp.path().join(part)).unwrap().count(), 0, "{part}");
    }
}

#[test]
fn writes_go_to_the_upper_directory_and_later_trees_see_them() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = layer(&store, &[("keep", "1"), ("gone", "1"), ("dir/a", "1"), ("dir/b", "1")]);
    let tree = Tree::from(base);

    let active = store.new_layer("step", RecordType::Regular).unwrap();
    let mount = mount_tree(&tree, Some(&active)).unwrap();
    write(&mount, "new", "2");
    remove(&mount, "gone", AtFlags::empty());
    let dir = subdirectory(&mount, "dir");
    remove(&dir, "a", AtFlags::empty());
    remove(&dir, "b", AtFlags::empty());
    remove(&mount, "dir", AtFlags::REMOVEDIR);
    rustix::fs::mkdirat(&mount, "dir", Mode::from_raw_mode(0o755)).unwrap();
    write(subdirectory(&mount, "dir"), "c", "2");
    drop((dir, mount));
    let second = active.commit().unwrap();
    assert!(is_whiteout(&second.dir().join("gone")));
    assert!(is_opaque(&second.dir().join("dir")));

    // The third layer sees both others; whiteouts hold across them.
    let tree = tree.with(second);
    let third = layer(&store, &[("dir/d", "3")]);
    let tree = tree.with(third);
    let mount = mount_tree(&tree, None).unwrap();
    assert_eq!(names(&mount), ["dir", "keep", "new"]);
    assert_eq!(names(subdirectory(&mount, "dir")), ["c", "d"]);
    assert_eq!(read(&mount, "new").unwrap(), "2");
    let refused = rustix::fs::unlinkat(&mount, "keep", AtFlags::empty());
    assert_eq!(refused, Err(rustix::io::Errno::ROFS));

    store.flush().unwrap();
    let plain: Vec<bool> =
        tree.layers().iter().map(|layer| layer.info().usage.unwrap().plain).collect();
    assert_eq!(plain, [true, false, true]);
}

#[test]
fn an_upper_directory_can_be_mounted_again_after_it_was_unmounted() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let active = store.new_layer("step", RecordType::Regular).unwrap();
    for name in ["first", "second"] {
        let mount = mount_tree(&Tree::scratch(), Some(&active)).unwrap();
        write(&mount, name, "x");
    }
    let mount = mount_tree(&Tree::from(active.commit().unwrap()), None).unwrap();
    assert_eq!(names(&mount), ["first", "second"]);
}

#[test]
fn scratch_is_an_empty_read_only_directory() {
    let mount = mount_tree(&Tree::scratch(), None).unwrap();
    assert_eq!(names(&mount), [""; 0]);
    let refused = rustix::fs::mkdirat(&mount, "x", Mode::RWXU);
    assert_eq!(refused, Err(rustix::io::Errno::ROFS));
}

#[test]
fn a_single_layer_shows_no_whiteouts() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let active = store.new_layer("diff", RecordType::Regular).unwrap();
    std::fs::write(active.dir().join("file"), "x").unwrap();
    let whiteout = active.dir().join("hidden");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &whiteout,
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    let tree = Tree::from(active.commit().unwrap());
    for _ in 0..2 {
        // Before and after it is known what the layer holds.
        assert_eq!(names(mount_tree(&tree, None).unwrap()), ["file"]);
        store.flush().unwrap();
    }
    let plain = layer(&store, &[("file", "x")]);
    store.flush().unwrap();
    let mount = mount_tree(&Tree::from(plain), None).unwrap();
    assert_eq!(names(&mount), ["file"]);
    let refused = rustix::fs::unlinkat(&mount, "file", AtFlags::empty());
    assert_eq!(refused, Err(rustix::io::Errno::ROFS));
}

#[test]
fn many_layers_can_be_mounted() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let usage = LayerUsage { bytes: 4096, inodes: 2, plain: true };
    let mut tree = Tree::scratch();
    for index in 0..1000 {
        let active = store.new_layer("step", RecordType::Regular).unwrap();
        std::fs::write(active.dir().join(format!("f{index}")), "x").unwrap();
        std::fs::write(active.dir().join("top"), index.to_string()).unwrap();
        tree = tree.with(active.commit_with_usage(usage).unwrap());
    }
    for count in [1, 2, 21, 130, 499, 500, 501, 999] {
        let part = Tree::new(tree.layers()[..count].to_vec());
        let mount = mount_tree(&part, None).unwrap();
        assert_eq!(names(&mount).len(), count + 1, "{count} layers");
        assert_eq!(read(&mount, "top").unwrap(), (count - 1).to_string());
        let active = store.new_layer("step", RecordType::Regular).unwrap();
        let mount = mount_tree(&part, Some(&active)).unwrap();
        write(&mount, "top", "new");
        remove(&mount, "f0", AtFlags::empty());
        assert_eq!(names(&mount).len(), count, "{count} layers and an upper directory");
    }
    assert!(mount_tree(&tree, None).is_err());
}

#[test]
fn a_layer_may_appear_twice_in_a_tree() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let a = layer(&store, &[("f", "a"), ("only-a", "a")]);
    let b = layer(&store, &[("f", "b")]);
    let tree = Tree::new(vec![a.clone(), b, a]);
    let mount = mount_tree(&tree, None).unwrap();
    assert_eq!(read(&mount, "f").unwrap(), "a");
    assert_eq!(names(&mount), ["f", "only-a"]);
}

#[test]
fn device_nodes_of_a_layer_are_dead() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let active = store.new_layer("step", RecordType::Regular).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        active.dir().join("null"),
        rustix::fs::FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let tree = Tree::from(active.commit().unwrap());
    let mount = mount_tree(&tree, None).unwrap();
    let opened = rustix::fs::openat(&mount, "null", rustix::fs::OFlags::RDONLY, Mode::empty());
    assert_eq!(opened.unwrap_err(), rustix::io::Errno::ACCESS);
}

#[test]
fn a_layer_knows_the_names_at_its_root() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = layer(&store, &[("gone", "1"), ("dir/deep", "1")]);
    let active = store.new_layer("step", RecordType::Regular).unwrap();
    let mount = mount_tree(&Tree::from(base.clone()), Some(&active)).unwrap();
    remove(&mount, "gone", AtFlags::empty());
    drop(mount);
    let removal = active.commit().unwrap();
    let files: Vec<String> = (0..100).map(|index| format!("file{index}")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (name.as_str(), "")).collect();
    let many = layer(&store, &files);
    // As it is asked first, and again.
    for _ in 0..2 {
        let has = |name| [&base, &removal, &many].map(|layer| layer.has_at_root(name).unwrap());
        assert_eq!(has("gone"), [true, true, false], "what removes it is there too");
        assert_eq!(has("dir"), [true, false, false]);
        assert_eq!(has("deep"), [false; 3]);
        assert_eq!(has("file99"), [false, false, true]);
    }
}
