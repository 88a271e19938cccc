//! Which host ids a builder gets, and the ownership of its store.
//!
//! Root gives each store a block of 131,072 ids between 2^28 and 2^31: above what login users and their subordinate ids use by
//! default, below where signed arithmetic starts to hurt. The block is found from the store itself (its owner), so that nothing
//! has to be recorded elsewhere; a new store takes the block its path hashes to, or the next one that no store in the same
//! directory has. Whoever keeps stores in several directories, or uses these ids for something else, says which block to take.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EnclosureError;

/// Ids of one project.
pub(super) const BLOCK: u32 = 131_072;
/// Ids of a step.
pub(super) const STEP_COUNT: u32 = 65_536;

const LOWEST: u32 = 1 << 28;
const BLOCKS: u32 = ((1 << 31) - LOWEST) / BLOCK;

/// Longest `/etc/subuid` that is read.
const MAX_TABLE: u64 = 16 << 20;

/// Where a builder's ids come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Identity {
    /// A block of host ids, written by root.
    Block { base: u32 },
    /// The user itself and one subordinate range each, written by the system's helpers.
    Subordinate { uid: u32, gid: u32, uids: u32, gids: u32, count: u32 },
}

/// Makes the store directory the builder's and says which ids that is.
pub(super) fn prepare(
    store: &Path,
    base: Option<u32>,
) -> Result<(PathBuf, Identity), EnclosureError> {
    let failed = |source| EnclosureError::Store { path: store.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(store).map_err(failed)?;
    let store = store.canonicalize().map_err(failed)?;
    let identity = if rustix::process::geteuid().is_root() {
        Identity::Block { base: claim(&store, base)? }
    } else {
        subordinate()?
    };
    Ok((store, identity))
}

fn claim(store: &Path, asked: Option<u32>) -> Result<u32, EnclosureError> {
    let failed = |source| EnclosureError::Store { path: store.to_owned(), source };
    if let Some(base) = asked {
        check(base)?;
    }
    let metadata = fs::metadata(store).map_err(failed)?;
    let owner = metadata.uid();
    let base = match asked {
        Some(base) => base,
        None if is_block(owner) => owner,
        None => free_block(store),
    };
    if owner != base {
        let fresh = owner == 0 && fs::read_dir(store).map_err(failed)?.next().is_none();
        if !fresh {
            return Err(EnclosureError::StoreOwner { path: store.to_owned(), owner, base });
        }
        std::os::unix::fs::chown(store, Some(base), Some(base)).map_err(failed)?;
    }
    if metadata.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(store, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(base)
}

fn check(base: u32) -> Result<(), EnclosureError> {
    if base == 0 {
        return Err(EnclosureError::Range {
            base,
            reason: "root of the host cannot be the builder",
        });
    }
    // The last id is the kernel's mark for "none".
    if base.checked_add(BLOCK).is_none_or(|end| end == u32::MAX) {
        return Err(EnclosureError::Range { base, reason: "it has no room for 131,072 ids" });
    }
    Ok(())
}

fn is_block(owner: u32) -> bool {
    owner >= LOWEST && (owner - LOWEST).is_multiple_of(BLOCK) && (owner - LOWEST) / BLOCK < BLOCKS
}

fn free_block(store: &Path) -> u32 {
    let siblings = store.parent().and_then(|parent| fs::read_dir(parent).ok());
    let taken: Vec<u32> = siblings
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.uid())
        .filter(|owner| is_block(*owner))
        .collect();
    // The remainder is below BLOCKS, so it fits.
    let start = u32::try_from(hash(store) % u64::from(BLOCKS)).unwrap_or(0);
    let blocks = (0..BLOCKS).map(|step| LOWEST + (start + step) % BLOCKS * BLOCK);
    blocks.into_iter().find(|base| !taken.contains(base)).unwrap_or(LOWEST + start * BLOCK)
}

/// FNV-1a of a path: the same in every version of this program.
pub(super) fn hash(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn subordinate() -> Result<Identity, EnclosureError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let find = |file: &'static str| {
        range(file, uid).ok_or(EnclosureError::Subordinate { file, user: uid, needed: STEP_COUNT })
    };
    let (uids, uid_count) = find("/etc/subuid")?;
    let (gids, gid_count) = find("/etc/subgid")?;
    let count = uid_count.min(gid_count).min(2 * STEP_COUNT - 1);
    Ok(Identity::Subordinate { uid, gid, uids, gids, count })
}

/// The first range of `user` that is large enough, see subuid(5).
pub(crate) fn range(file: &str, user: u32) -> Option<(u32, u32)> {
    use std::io::Read;
    let read = |path: &str| {
        let mut text = String::new();
        fs::File::open(path).ok()?.take(MAX_TABLE).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let passwd = read("/etc/passwd").unwrap_or_default();
    find_range(&read(file)?, &user_name(&passwd, user)?, user)
}

fn user_name(passwd: &str, user: u32) -> Option<String> {
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    });
    found.or_else(|| Some(user.to_string()))
}

fn find_range(table: &str, name: &str, user: u32) -> Option<(u32, u32)> {
    table.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != name && owner.parse() != Ok(user) {
            return None;
        }
        let (start, count): (u32, u32) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let usable = count >= STEP_COUNT && start != 0 && start.checked_add(count).is_some();
        usable.then_some((start, count))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_are_stable_and_inside_the_range() {
        for path in ["/", "/var/lib/cofferdam/projects/a", "/b"] {
            let base = free_block(Path::new(path));
            assert!(is_block(base));
            assert!(check(base).is_ok());
        }
        assert!(!is_block(0) && !is_block(LOWEST + 1) && !is_block(1 << 31));
        assert_eq!(hash(Path::new("a")), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn root_and_ranges_past_the_end_are_refused() {
        assert!(check(0).is_err());
        assert!(check(u32::MAX - 10).is_err());
        assert!(check(100_000).is_ok());
    }

    #[test]
    fn finds_ranges_by_name_and_number() {
        let table = "other:1:65536\nme:0:65536\nme:200000:100\nme:300000:65536\n1000:400000:65536\nbroken\nme:x:y\n";
        assert_eq!(find_range(table, "me", 7), Some((300_000, 65_536)));
        assert_eq!(find_range(table, "nobody", 1000), Some((400_000, 65_536)));
        assert_eq!(find_range(table, "stranger", 8), None);
    }
}
