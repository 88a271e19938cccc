//! Copies of trees that are large enough for several threads, between plain directories.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::XattrFlags;

use super::*;

fn root(path: &Path) -> Root {
    Root::new(File::open(path).unwrap().into())
}

fn as_it_is() -> CopyOptions {
    CopyOptions::everything()
}

fn copy_all(from: &Path, to: &Path, options: &CopyOptions) -> io::Result<()> {
    let (from, to) = (root(from), root(to));
    Copier::new(&from, &to, options).copy("/", "/")
}

/// Two empty directories: where from and where to.
fn pair() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    (temp, from, to)
}

fn stamp(path: &Path, seconds: u64) {
    File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// Directories in directories, `files` files in each. Every time is one of its own.
fn fill(directory: &Path, depth: u64, files: u64) {
    for number in 0..files {
        let path = directory.join(format!("file{number:02}"));
        fs::write(&path, format!("{number} in {}", directory.display())).unwrap();
        let mode = [0o644, 0o4755, 0o600, 0o444, 0o666, 0o2755][number as usize % 6];
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        stamp(&path, 1_000_000 + depth * 1000 + number);
    }
    if depth > 0 {
        for number in 0..3 {
            let below = directory.join(format!("directory{number}"));
            fs::create_dir(&below).unwrap();
            fill(&below, depth - 1, files);
            fs::set_permissions(&below, Permissions::from_mode(0o750)).unwrap();
            stamp(&below, 2_000_000 + depth * 1000 + number);
        }
    }
}

fn assert_same(from: &Path, to: &Path) {
    let names = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(from), names(to), "{}", to.display());
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        let (old, new) = (from.symlink_metadata().unwrap(), to.symlink_metadata().unwrap());
        let seen = |data: &fs::Metadata| {
            (data.mode(), data.uid(), data.gid(), data.mtime(), data.mtime_nsec())
        };
        assert_eq!(seen(&old), seen(&new), "{}", to.display());
        if old.is_dir() {
            assert_same(&from, &to);
        } else if old.is_symlink() {
            assert_eq!(fs::read_link(&from).unwrap(), fs::read_link(&to).unwrap());
        } else if old.is_file() {
            assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap(), "{}", to.display());
            assert_eq!(old.nlink(), new.nlink(), "{}", to.display());
        }
    }
}

#[test]
fn a_large_tree_arrives_whole() {
    let (_temp, from, to) = pair();
    fill(&from, 3, 23);
    fs::write(from.join("large"), vec![7_u8; 300_000]).unwrap();
    fs::write(from.join("edge"), vec![8_u8; 128 << 10]).unwrap();
    fs::write(from.join("empty"), b"").unwrap();
    symlink("/nowhere", from.join("directory0/link")).unwrap();
    stamp(&from.join("directory0"), 5);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    copy_all(&from, &to, &as_it_is()).unwrap();
    assert_same(&from, &to);
}

#[test]
fn all_times_are_those_asked_for() {
    let (_temp, from, to) = pair();
    fill(&from, 2, 30);
    let options = CopyOptions { mtime: Some(7_000_000_000), ..as_it_is() };
    copy_all(&from, &to, &options).unwrap();
    for path in ["file00", "directory0", "directory2/directory1", "directory2/directory1/file29"] {
        assert_eq!(fs::metadata(to.join(path)).unwrap().mtime(), 7, "{path}");
    }
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let (_temp, from, to) = pair();
    fs::write(from.join("a"), "a").unwrap();
    fs::write(from.join("b"), "b").unwrap();
    for number in 0..20 {
        let directory = from.join(format!("directory{number:02}"));
        fs::create_dir(&directory).unwrap();
        for name in 0..10 {
            let first = if name % 2 == 0 { "a" } else { "b" };
            fs::hard_link(from.join(first), directory.join(format!("name{name}"))).unwrap();
        }
    }
    copy_all(&from, &to, &as_it_is()).unwrap();
    assert_eq!(fs::metadata(to.join("a")).unwrap().nlink(), 101);
    let inode = |path: &str| fs::metadata(to.join(path)).unwrap().ino();
    assert_eq!(inode("a"), inode("directory19/name8"));
    assert_eq!(inode("b"), inode("directory00/name1"));
    assert_ne!(inode("a"), inode("b"));
    assert_same(&from, &to);
}

#[test]
fn what_is_there_is_replaced_and_links_are_not_followed() {
    let (temp, from, to) = pair();
    fill(&from, 1, 40);
    let outside = temp.path().join("outside");
    fs::write(&outside, "kept").unwrap();
    symlink(&outside, to.join("file03")).unwrap();
    fs::create_dir(to.join("directory1")).unwrap();
    fs::write(to.join("directory1/file07"), "old and longer than what comes").unwrap();
    fs::hard_link(&outside, to.join("directory1/file08")).unwrap();
    copy_all(&from, &to, &as_it_is()).unwrap();
    assert_same(&from, &to);
    assert_eq!(fs::read(&outside).unwrap(), b"kept");
}

#[test]
fn the_failure_that_comes_first_in_the_tree_is_reported() {
    let (_temp, from, to) = pair();
    for directory in 0..20 {
        let directory = from.join(format!("directory{directory:02}"));
        fs::create_dir(&directory).unwrap();
        fill(&directory, 0, 40);
    }
    for blocked in ["directory05/file21", "directory06/file00", "directory19/file01"] {
        fs::create_dir_all(to.join(blocked)).unwrap();
    }
    for _ in 0..10 {
        let error = copy_all(&from, &to, &as_it_is()).unwrap_err().to_string();
        assert_eq!(error, "cannot replace to directory //directory05/file21 with file");
    }
    copy_all(&from, &to, &CopyOptions { replace: true, ..as_it_is() }).unwrap();
    assert_same(&from, &to);
}

#[test]
fn a_directory_does_not_take_the_place_of_a_file_unasked() {
    let (_temp, from, to) = pair();
    fill(&from, 1, 1);
    let outside = to.join("elsewhere");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("directory1")).unwrap();
    let error = copy_all(&from, &to, &as_it_is()).unwrap_err().to_string();
    assert_eq!(error, "cannot copy to non-directory: //directory1");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    copy_all(&from, &to, &CopyOptions { replace: true, ..as_it_is() }).unwrap();
    assert!(to.join("directory1").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn directories_that_are_not_selected_are_made_for_what_is_in_them() {
    let (_temp, from, to) = pair();
    fill(&from, 2, 20);
    let selected = ["directory1/directory2/file13".to_owned()];
    let selection = Selection::new(&selected, &[]).unwrap();
    copy_all(&from, &to, &CopyOptions { selection, ..as_it_is() }).unwrap();
    let count = |path: &str| fs::read_dir(to.join(path)).unwrap().count();
    assert_eq!([count(""), count("directory1"), count("directory1/directory2")], [1, 1, 1]);
    assert!(to.join(&selected[0]).is_file());
    assert_eq!(fs::metadata(to.join("directory1")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn attributes_of_content_come_along() {
    let (_temp, from, to) = pair();
    fill(&from, 1, 2);
    let set = |path: &str, name: &str| {
        rustix::fs::setxattr(from.join(path), name, b"value", XattrFlags::empty())
    };
    if set("file00", "user.kept") == Err(Errno::OPNOTSUPP) {
        return;
    }
    set("directory0", "user.kept").unwrap();
    set("file00", "user.overlay.mark").unwrap();
    copy_all(&from, &to, &as_it_is()).unwrap();
    let mut value = [0_u8; 16];
    for path in ["file00", "directory0"] {
        let len = rustix::fs::getxattr(to.join(path), "user.kept", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"value", "{path}");
    }
    assert!(rustix::fs::getxattr(to.join("file00"), "user.overlay.mark", &mut value[..]).is_err());
}
