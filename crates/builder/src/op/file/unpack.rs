//! `ADD` of an archive: unpacked at the destination when the file is one, copied otherwise.

use std::os::fd::AsFd;

use cofferdam_image::archive;
use cofferdam_image::layer::ApplyOptions;
use cofferdam_store::IdRange;
use rustix::fs::{FileType, Mode, OFlags};

use super::copy::{Copier, CopyOptions};
use super::{FileActionError, Maker, failed};
use crate::rooted::{Root, clean};

/// Unpacks `path` of `source` into `destination` and says so, or leaves a file that is no
/// archive alone.
pub(super) fn try_unpack(
    source: &Root,
    path: &str,
    target: &Root,
    destination: &str,
    options: &CopyOptions,
    maker: Maker,
    ids: IdRange,
) -> Result<bool, FileActionError> {
    let open = || -> std::io::Result<Option<std::fs::File>> {
        let fd = source.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_file.then(|| std::fs::File::from(fd)))
    };
    let Some(file) = open().map_err(failed("copy", path))? else { return Ok(false) };
    if !archive::is_archive(&file).map_err(failed("read", path))? {
        return Ok(false);
    }
    drop(file);
    let Some(file) = open().map_err(failed("copy", path))? else { return Ok(false) };
    let to = target
        .create_directories(&clean(destination), 0o755, maker.ownership(-1))
        .map_err(failed("create", destination))?;
    let unpack = |file: std::fs::File, to: &Root, map: &(dyn Fn(u32) -> Option<u32> + Sync)| {
        let options = ApplyOptions { ids: map, ..ApplyOptions::default() };
        archive::unpack(file, to.as_fd(), &options)
            .map(|_| ())
            .map_err(|source| FileActionError::Unpack { path: path.to_owned(), source })
    };
    match options.owner {
        None => unpack(file, &to, &|id| ids.to_disk(id))?,
        Some((uid, gid)) if uid == gid => unpack(file, &to, &move |_| Some(uid))?,
        Some(owner) => {
            // The archive's own owners mean nothing here; a copy gives every entry both ids.
            let aside = ".cofferdam-unpack";
            let directory = to
                .create_directory(aside, 0o700, maker.ownership(-1))
                .map_err(failed("create", destination))?;
            let result = unpack(file, &directory, &move |_| Some(owner.0)).and_then(|()| {
                let options =
                    CopyOptions { owner: Some(owner), parents: owner, ..CopyOptions::everything() };
                Copier::new(&directory, &to, &options).copy("/", "/").map_err(failed("copy", path))
            });
            to.remove(aside.as_ref()).map_err(failed("remove", destination))?;
            result?;
        }
    }
    Ok(true)
}
