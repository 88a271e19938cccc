//! Where things are: the program under test and the root filesystems to build on.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names another program than the one that was built together with a test, such as one with optimization.
const PROGRAM: &str = "COFFERDAM_TEST_PROGRAM";

/// The `cofferdam` program that was built together with this test, or the one that `COFFERDAM_TEST_PROGRAM` names.
///
/// # Panics
/// When it was not built: a test executable does not pull the program in.
#[must_use]
pub fn program() -> PathBuf {
    let path = std::env::var_os(PROGRAM).map_or_else(|| target().join("cofferdam"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: build it first with `make build` (cargo build -p cofferdam)",
        path.display()
    );
    path
}

/// The program where nothing is at some paths: in a mount namespace of its own they lead to the null device.
pub(crate) fn hiding(paths: &[&str]) -> Command {
    let script =
        "for path in $HIDDEN; do [ ! -e $path ] || mount --bind /dev/null $path; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.env("HIDDEN", paths.join(" ")).arg(program());
    command
}

/// A root filesystem made by `tests/images/make`, such as `busybox`.
///
/// # Panics
/// When it was not made.
#[must_use]
pub fn test_image(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/test-images")
        .join(format!("{name}.tar"));
    assert!(path.exists(), "{} is missing: make it first with `make images`", path.display());
    path
}

/// A client installed by `tests/clients/install`, such as `depot`.
///
/// # Panics
/// When it was not installed.
#[must_use]
pub fn test_client(name: &str) -> PathBuf {
    let path = repository().join("target/test-clients/bin").join(name);
    assert!(path.exists(), "{} is missing: install it first with `make clients`", path.display());
    path
}

/// The kernel image unpacked by `tests/kernel/fetch`, and the directory of its modules.
///
/// # Panics
/// When it was not fetched.
#[must_use]
pub fn test_kernel() -> (PathBuf, PathBuf) {
    let root = repository().join("target/test-kernel");
    let images = std::fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
    let version = images
        .into_iter()
        .find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()));
    let version = version.unwrap_or_else(|| {
        panic!("there is no kernel in {}: fetch it first with `make kernel`", root.display())
    });
    (root.join(format!("boot/vmlinuz-{version}")), root.join("lib/modules").join(version))
}

/// The repository.
///
/// # Panics
/// When it is not where it was compiled.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Whether this process is root of the host; some walls can only be tried by root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Stops a test that only root can carry out: passing without trying would lie.
///
/// # Panics
/// For anybody else.
pub fn need_root() {
    assert!(is_root(), "this test needs root");
}

/// The directory with the profile's programs: test executables are in its `deps`.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().to_owned()
}
