//! What is written straight into a layer's directory, past the overlay that shows what lies below it.
//!
//! An overlay in between doubles what a small file costs, and through it no file of another layer can be given a further name.
//! It is not needed where a copy looks at nothing that lies below: where everything it makes goes into one directory that is not
//! there yet, or that nothing is in; nor where a directory is made and the first name of its path is not there yet. Must say so
//! only when that is certain; whatever else there is goes through the overlay.

use std::os::fd::AsFd;

use cofferdam_store::Tree;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::file_action::Action;
use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::file;
use crate::rooted::{Root, clean, components};

/// Whether what an action makes is the same without a view of `base`: nothing in it has the name that
/// all of it goes below.
pub(super) fn is_apart(base: &Tree, action: &pb::FileAction) -> bool {
    let path = goes_below(action).or_else(|| is_made(action));
    let Some(name) = path.and_then(|path| path.into_iter().next()) else { return false };
    base.iter().all(|layer| matches!(layer.has_at_root(&name), Ok(false)))
}

/// Prepares `merged`, a new layer seen together with what is below it: when all that an action makes goes into a directory
/// there in which nothing is, or below a name that is not in one, then that directory is in the layer itself afterwards, as it
/// is below, and the layer alone is enough. Gives whether it is so.
pub(super) fn has_room(merged: &Root, action: &pb::FileAction) -> bool {
    let Some(path) = goes_below(action) else { return false };
    let Ok(mut directory) = merged.try_clone() else { return false };
    let mut deepest = 0;
    for name in &path {
        let there = rustix::fs::statat(directory.as_fd(), name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        match there {
            Err(Errno::NOENT) => break,
            // A link would be followed within all that is there, and is what the overlay is for.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            _ => return false,
        }
        let Ok(child) = directory.child(name) else { return false };
        directory = child;
        deepest += 1;
    }
    let is_whole = deepest == path.len();
    if is_whole && !is_empty(&directory) {
        return false;
    }
    // The root of a layer is always there. Any change of a directory brings it up, with those above it.
    deepest == 0 || brought_up(&directory).is_ok()
}

/// Whether nothing is known to be in a directory.
fn is_empty(directory: &Root) -> bool {
    let Ok(entries) = Dir::read_from(directory.as_fd()) else { return false };
    let mut others = entries.filter(|entry| {
        !entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
    });
    others.next().is_none()
}

fn brought_up(directory: &Root) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(directory.as_fd())?;
    rustix::fs::fchmod(directory.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o7777))
}

/// The path of a directory that is made. Without the one above it there is nothing to make it in, and who asked is told of that by
/// what the layer alone says, too.
fn is_made(action: &pb::FileAction) -> Option<Vec<String>> {
    let Some(Action::Mkdir(mkdir)) = &action.action else { return None };
    Some(components(&clean(&mkdir.path))).filter(|path| !path.is_empty())
}

/// The path that everything a copy makes is at or below, if there can be only one. Of several
/// sources one may bring a link that the next one's destination leads through, and so may an archive.
fn goes_below(action: &pb::FileAction) -> Option<Vec<String>> {
    let Some(Action::Copy(copy)) = &action.action else { return None };
    let several = copy.allowWildcard && file::has_wildcard(&copy.src);
    if several || copy.attemptUnpackDockerCompatibility {
        return None;
    }
    Some(components(&clean(&copy.dest))).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_source_is_known_to_stay_below_its_destination() {
        let copy = |src: &str, dest: &str| pb::FileActionCopy {
            src: src.to_owned(),
            dest: dest.to_owned(),
            allowWildcard: true,
            ..pb::FileActionCopy::default()
        };
        let path = |copy: pb::FileActionCopy| {
            let action = Some(Action::from(copy));
            goes_below(&pb::FileAction { action, ..Default::default() }).map(|path| path.join("/"))
        };
        assert_eq!(path(copy("/", "/app/")).as_deref(), Some("app"));
        assert_eq!(path(copy("/a", "/etc/../srv/./deep")).as_deref(), Some("srv/deep"));
        assert_eq!(path(copy("/", "/")), None);
        assert_eq!(path(copy("/*", "/app/")), None);
        let archive = copy("/a.tar", "/app/");
        let archive = pb::FileActionCopy { attemptUnpackDockerCompatibility: true, ..archive };
        assert_eq!(path(archive), None);
    }
}
