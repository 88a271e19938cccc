//! Writing the id maps of the enclosure's user namespace, user_namespaces(7) and newuidmap(1).

use std::process::{Command, Stdio};

use super::EnclosureError;
use super::ids::{BLOCK, Identity};
use crate::identity::write_file;

/// Longest message of a map helper that is passed on.
const MAX_MESSAGE: usize = 400;

/// Maps the ids of the user namespace process `pid` has just entered.
pub(super) fn write(pid: i32, identity: &Identity) -> Result<(), EnclosureError> {
    match identity {
        Identity::Block { base } => {
            let map = format!("0 {base} {BLOCK}\n");
            for file in ["uid_map", "gid_map"] {
                write_file(&format!("/proc/{pid}/{file}"), map.as_bytes())
                    .map_err(EnclosureError::mechanism(format!("write {file} of the builder")))?;
            }
            Ok(())
        }
        Identity::Subordinate { uid, gid, uids, gids, count } => {
            run("newuidmap", pid, *uid, *uids, *count)?;
            run("newgidmap", pid, *gid, *gids, *count)
        }
    }
}

fn run(
    program: &'static str,
    pid: i32,
    own: u32,
    first: u32,
    count: u32,
) -> Result<(), EnclosureError> {
    let arguments = format!("{pid} 0 {own} 1 1 {first} {count}");
    let failed = |reason: String| EnclosureError::MapHelper {
        program,
        arguments: arguments.clone(),
        reason,
    };
    let output = Command::new(program)
        .args(arguments.split(' '))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(MAX_MESSAGE).collect();
    Err(failed(format!("{}: {said}", output.status)))
}
