//! Users and groups as an image names them.
//!
//! Resolves `USER` and `--chown` values against `/etc/passwd` and `/etc/group` of a root.
//! These files belong to the tenant: they are read through [`Root`], must be regular files and
//! are bounded; numbers are parsed strictly as 32-bit ids below the mapped range. Nothing here
//! may consult the host's user database.

use crate::rooted::{Root, is_absent};

/// Largest user database that is read (CVE-2026-47262 is what happens without a bound).
const MAX_DATABASE_BYTES: u64 = 10 << 20;
/// Ids an image may use; the size of a step's id map.
const MAX_ID: u32 = 65_535;
/// Home of users that the database does not know, as runc has it.
const DEFAULT_HOME: &str = "/";

/// A user resolved to numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// User id inside the step.
    pub(crate) uid: u32,
    /// Primary group id inside the step.
    pub(crate) gid: u32,
    /// Supplementary groups, without duplicates, ascending.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

/// Why a user or group could not be resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveUserError {
    /// The name is not in the image's user database.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The group is not in the image's group database.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number outside the ids a step has.
    #[error("invalid id {0}: ids in a build are 0 to {MAX_ID}")]
    IdOutOfRange(String),
    /// The database could not be read.
    #[error("failed to read {path} of the image")]
    ReadDatabase {
        /// Which file.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Resolves `spec`, the text of `USER`: `name`, `uid`, `name:group`, `uid:gid` or empty for root.
pub(crate) fn resolve_user(root: &Root, spec: &str) -> Result<User, ResolveUserError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let accounts = accounts(root)?;
    let number = parse_id(user)?;
    // A numeric user that the database knows brings its group and home along.
    let account = accounts.iter().find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let (uid, mut gid, name, home) = match (account, number) {
        (Some(account), _) => {
            (account.uid, account.gid, Some(account.name.clone()), account.home.clone())
        }
        (None, Some(uid)) => (uid, 0, None, DEFAULT_HOME.to_owned()),
        (None, None) => return Err(ResolveUserError::UnknownUser(user.to_owned())),
    };
    let groups = groups(root)?;
    let mut supplementary: Vec<u32> = Vec::new();
    if let Some(group) = group {
        gid = find_group(&groups, group)?;
    } else if let Some(name) = name {
        supplementary.extend(
            groups.iter().filter(|group| group.members.contains(&name)).map(|group| group.gid),
        );
    }
    supplementary.push(gid);
    supplementary.sort_unstable();
    supplementary.dedup();
    Ok(User { uid, gid, groups: supplementary, home })
}

/// Resolves a group name or number.
pub(crate) fn resolve_group(root: &Root, spec: &str) -> Result<u32, ResolveUserError> {
    find_group(&groups(root)?, spec)
}

/// Resolves the user part of an ownership: its uid and primary gid.
pub(crate) fn resolve_owner(root: &Root, spec: &str) -> Result<(u32, u32), ResolveUserError> {
    if let Some(uid) = parse_id(spec)? {
        return Ok((uid, uid));
    }
    accounts(root)?
        .iter()
        .find(|account| account.name == spec)
        .map(|account| (account.uid, account.gid))
        .ok_or_else(|| ResolveUserError::UnknownUser(spec.to_owned()))
}

fn find_group(groups: &[Group], spec: &str) -> Result<u32, ResolveUserError> {
    if let Some(gid) = parse_id(spec)? {
        return Ok(gid);
    }
    groups
        .iter()
        .find(|group| group.name == spec)
        .map(|group| group.gid)
        .ok_or_else(|| ResolveUserError::UnknownGroup(spec.to_owned()))
}

/// A plain decimal id; `None` when the text is a name. Signs, spaces and `0x` make a name,
/// which then is not found, and never a number that wraps around to root.
fn parse_id(text: &str) -> Result<Option<u32>, ResolveUserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    text.parse::<u32>()
        .ok()
        .filter(|id| *id <= MAX_ID)
        .map(Some)
        .ok_or_else(|| ResolveUserError::IdOutOfRange(text.to_owned()))
}

fn database(root: &Root, path: &'static str) -> Result<String, ResolveUserError> {
    match root.read_file(path, MAX_DATABASE_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if is_absent(&error) => Ok(String::new()),
        Err(source) => Err(ResolveUserError::ReadDatabase { path, source }),
    }
}

fn accounts(root: &Root) -> Result<Vec<Account>, ResolveUserError> {
    let text = database(root, "/etc/passwd")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some(Account {
                name: (*fields.first()?).to_owned(),
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: fields
                    .get(5)
                    .filter(|home| !home.is_empty())
                    .unwrap_or(&DEFAULT_HOME)
                    .to_string(),
            })
        })
        .filter(|account| account.uid <= MAX_ID && account.gid <= MAX_ID)
        .collect())
}

fn groups(root: &Root) -> Result<Vec<Group>, ResolveUserError> {
    let text = database(root, "/etc/group")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some(Group {
                name: (*fields.first()?).to_owned(),
                gid: fields.get(2)?.parse().ok()?,
                members: fields.get(3).map_or_else(Vec::new, |members| {
                    members.split(',').map(|member| member.trim().to_owned()).collect()
                }),
            })
        })
        .filter(|group| group.gid <= MAX_ID)
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Mode, OFlags};

    fn image() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(
            directory.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            directory.path().join("etc/group"),
            "root:x:0:\napp:x:1001:\nextra:x:50:app,other\n",
        )
        .unwrap();
        let fd = rustix::fs::open(directory.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        (directory, Root::new(fd))
    }

    #[test]
    fn names_bring_their_groups_and_home() {
        let (_directory, root) = image();
        let user = resolve_user(&root, "app").unwrap();
        assert_eq!(
            user,
            User { uid: 1000, gid: 1001, groups: vec![50, 1001], home: "/home/app".into() }
        );
        assert_eq!(resolve_user(&root, "").unwrap().home, "/root");
        assert_eq!(resolve_user(&root, "app:extra").unwrap().gid, 50);
        assert_eq!(resolve_user(&root, "4242").unwrap().gid, 0);
        assert_eq!(resolve_owner(&root, "app").unwrap(), (1000, 1001));
        assert_eq!(resolve_group(&root, "extra").unwrap(), 50);
    }

    #[test]
    fn numbers_that_could_wrap_to_root_are_refused() {
        let (_directory, root) = image();
        for spec in ["4294967296", "65536", "-1", "0x0", " 0", "1000:99999999999", "nobody-here"] {
            assert!(resolve_user(&root, spec).is_err(), "{spec:?} was accepted");
        }
    }

    #[test]
    fn a_database_that_is_a_link_or_fifo_is_not_followed_outside() {
        let (directory, root) = image();
        std::fs::remove_file(directory.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.path().join("etc/passwd")).unwrap();
        assert!(resolve_user(&root, "app").is_err());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join("etc/fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        std::fs::remove_file(directory.path().join("etc/group")).unwrap();
        std::os::unix::fs::symlink("fifo", directory.path().join("etc/group")).unwrap();
        assert!(resolve_user(&root, "0:app").is_err());
    }
}
