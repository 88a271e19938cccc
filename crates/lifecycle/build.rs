//! Builds the two programs that the lifecycle puts into other images: `launcher` and `attempt`.
//!
//! They are static, small and for this crate's target, whatever profile, flags and wrappers this
//! crate itself is built with: they run where no library is, and images must not differ because
//! someone built with `clippy` or `--release`. A nested cargo does that in a target directory of its own,
//! below `OUT_DIR`: the outer cargo holds the lock of the usual one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What the programs are built from. `Cargo.lock` is among them because it says which versions of
/// other crates are; when nothing that concerns them changed, the nested cargo finds out quickly.
const SOURCES: [&str; 6] = [
    "build.rs",
    "../launcher/Cargo.toml",
    "../launcher/src",
    "../cnb/Cargo.toml",
    "../cnb/src",
    "../../Cargo.lock",
];

/// The release profile as these programs need it: size counts, speed does not.
const PROFILE: [(&str, &str); 8] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
];

/// Variables that say how the outer build is done; everything that starts so is kept from the nested one.
const OUTER: [&str; 12] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_DIR",
    "CLIPPY_",
    "RUSTC_W",
    "RUSTFLAGS",
];

fn main() {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let target = variable("TARGET");
    let programs = PathBuf::from(variable("OUT_DIR")).join("programs");
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os().filter(|(name, _)| is_outer(name)) {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--locked", "--release", "--bins", "--manifest-path"])
        .arg(here.join("../launcher/Cargo.toml"))
        .arg("--target")
        .arg(&target)
        .arg("--target-dir")
        .arg(&programs)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&here))
        .envs(PROFILE);
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the launcher cannot be built: cargo: {status}")),
        Err(error) => fail(&format!("the launcher cannot be built: {error}")),
    }
    // Where `programs.rs` includes them from, whatever the target is called.
    for name in ["launcher", "attempt"] {
        let built = programs.join(&target).join("release").join(name);
        if let Err(error) = std::fs::copy(&built, programs.join(name)) {
            fail(&format!("{}: {error}", built.display()));
        }
    }
}

/// Flags of the compiler: static, and without directories of this machine in the programs.
fn flags(here: &Path) -> OsString {
    let workspace = here.ancestors().nth(2).unwrap_or(here);
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    let places = [(Some(workspace), "/cofferdam"), (home.as_deref(), "/cargo")];
    for (from, to) in places {
        if let Some(from) = from {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
    }
    flags
}

fn is_outer(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    OUTER.iter().any(|prefix| name.starts_with(prefix))
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}
