//! Finding `runsc` and learning what it can do, from what it says about itself.
//!
//! Versions differ in flags and platforms, and a flag that is not known ends the program. So nothing is concluded from a version
//! number: what `runsc flags` does not list is not passed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::spec::{Network, Security};

/// Where the program is looked for: the directories of the host that every builder sees.
const DIRECTORIES: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Platforms worth trying, the best first. The one that needs a device of the host is not among them: steps have no devices.
const PLATFORMS: &[&str] = &["systrap", "ptrace"];

/// Longest answer that is looked at; a list of flags has some 20 KiB.
const MAX_ANSWER: usize = 256 << 10;

/// What is said in every refusal.
const INSTALL: &str = "on Debian and Ubuntu: apt-get install runsc; elsewhere see https://gvisor.dev/docs/user_guide/install";

/// `runsc` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunscError {
    /// There is no such program where a builder could see it.
    #[error("isolation level gvisor needs the program runsc in {}, and there is none ({INSTALL})", DIRECTORIES.join(":"))]
    Missing,
    /// It does not run.
    #[error(
        "isolation level gvisor needs the program runsc: {path} {arguments}: {reason} ({INSTALL})"
    )]
    Unusable {
        /// The program.
        path: PathBuf,
        /// What it was asked.
        arguments: &'static str,
        /// What came of it.
        reason: String,
    },
    /// It is too old or too new: something that steps depend on is not there.
    #[error(
        "isolation level gvisor needs runsc with {missing}, which {path} {version} has not ({INSTALL})"
    )]
    Unfit {
        /// The program.
        path: PathBuf,
        /// What it calls itself.
        version: String,
        /// What is missing.
        missing: &'static str,
    },
    /// It starts nothing on this machine.
    #[error(
        "isolation level gvisor: {path} {version} cannot start a step with any of its platforms: {reasons}"
    )]
    NoPlatform {
        /// The program.
        path: PathBuf,
        /// What it calls itself.
        version: String,
        /// By platform, what went wrong.
        reasons: String,
    },
}

/// A `runsc` that was found, and what it knows.
#[derive(Debug, Clone)]
pub struct Runsc {
    path: PathBuf,
    version: String,
    flags: BTreeSet<String>,
    platforms: Vec<&'static str>,
}

/// What flags depend on for one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) network: Network,
    pub(crate) security: Security,
    /// A socket is mounted into the step.
    pub(crate) sockets: bool,
    /// Set-user-id files have their effect.
    pub(crate) privileges_by_file: bool,
    /// Descriptor that complaints are written to.
    pub(crate) log: i32,
}

impl Runsc {
    /// Looks for the program and asks it what it knows. Runs it twice, for some ten milliseconds each.
    ///
    /// # Errors
    ///
    /// When there is none, or none that steps can be trusted to. The text says how to get one.
    pub fn find() -> Result<Self, RunscError> {
        let mut candidates = DIRECTORIES.iter().map(|directory| Path::new(directory).join("runsc"));
        let path = candidates.find(|path| path.is_file()).ok_or(RunscError::Missing)?;
        let version = ask(&path, "--version")?;
        let version = version_of(&version);
        Self::known(path.clone(), version, &ask(&path, "flags")?)
    }

    fn known(path: PathBuf, version: String, help: &str) -> Result<Self, RunscError> {
        let (flags, platforms) = parse_flags(help);
        let found = Self { path, version, flags, platforms };
        let unfit = |missing| {
            Err(RunscError::Unfit {
                path: found.path.clone(),
                version: found.version.clone(),
                missing,
            })
        };
        for (flag, missing) in [
            ("root", "the flag --root"),
            ("network", "the flag --network"),
            ("ignore-cgroups", "the flag --ignore-cgroups"),
            ("file-access", "the flag --file-access"),
            ("log-fd", "the flag --log-fd"),
        ] {
            if !found.flags.contains(flag) {
                return unfit(missing);
            }
        }
        if found.platforms.is_empty() {
            return unfit("platform systrap or ptrace");
        }
        Ok(found)
    }

    /// What the program calls its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The platform steps run on.
    #[must_use]
    pub fn platform(&self) -> &'static str {
        self.platforms.first().copied().unwrap_or(PLATFORMS[0])
    }

    /// Whether set-user-id files can have their effect in steps. Without it, `sudo` of a user who is not root fails.
    #[must_use]
    pub fn knows_set_user_id(&self) -> bool {
        self.flags.contains("allow-suid")
    }

    /// What it can run on, the best first.
    pub(super) fn platforms(&self) -> &[&'static str] {
        &self.platforms
    }

    /// The same, to run on one platform.
    pub(super) fn on(&self, platform: &'static str) -> Self {
        Self { platforms: vec![platform], ..self.clone() }
    }

    /// The program, as the builder sees it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole command line for one step.
    pub(crate) fn arguments(&self, needs: Needs, id: &str) -> Vec<String> {
        use super::places::{BUNDLE, PROGRAM, STATE};
        let network = match needs.network {
            Network::None => "none",
            // The namespace the process is in, which is the step's own unless it was given the builder's.
            Network::Gate | Network::Host => "host",
        };
        let mut arguments = vec![
            PROGRAM.to_owned(),
            format!("--root={STATE}"),
            format!("--platform={}", self.platform()),
            format!("--network={network}"),
            // The step's group is joined before; there is none to make here.
            "--ignore-cgroups=true".to_owned(),
            // Nobody else changes the root while the step runs; for other mounts the default is to share.
            "--file-access=exclusive".to_owned(),
            format!("--log-fd={}", needs.log),
            "--log-format=json".to_owned(),
        ];
        let mut given = |flag: &str, value: &str| {
            let known = self.flags.contains(flag);
            if known {
                arguments.push(format!("--{flag}={value}"));
            }
            known
        };
        // Otherwise what the step writes stays in memory and never becomes a layer.
        if !given("overlay2", "none") {
            given("overlay", "false");
        }
        // The sentry then opens no file by itself; all go by way of the gofer.
        given("directfs", "false");
        if needs.sockets && !given("host-uds", "open") {
            given("fsgofer-host-uds", "true");
        }
        if needs.privileges_by_file {
            given("allow-suid", "true");
        }
        if needs.security == Security::Insecure {
            given("net-raw", "true");
        }
        arguments.extend(["run".to_owned(), format!("--bundle={BUNDLE}"), id.to_owned()]);
        arguments
    }
}

fn ask(path: &Path, argument: &'static str) -> Result<String, RunscError> {
    let failed = |reason: String| RunscError::Unusable {
        path: path.to_owned(),
        arguments: argument,
        reason,
    };
    let output = Command::new(path)
        .arg(argument)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    // The list of flags is written to one or the other, by version.
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let said: String = said.trim().chars().take(200).collect();
        return Err(failed(format!("{}: {said}", output.status)));
    }
    Ok(said.chars().take(MAX_ANSWER).collect())
}

/// `runsc version 0.0~20221219.0` and more lines.
fn version_of(answer: &str) -> String {
    let first = answer.lines().next().unwrap_or_default();
    first.trim_start_matches("runsc version ").trim().chars().take(80).collect()
}

/// Names of flags, and platforms among them that are worth trying.
fn parse_flags(help: &str) -> (BTreeSet<String>, Vec<&'static str>) {
    let mut flags = BTreeSet::new();
    let mut named = "";
    let mut platforms = Vec::new();
    for line in help.lines() {
        if let Some(flag) = line.strip_prefix("  -") {
            named = flag.split_whitespace().next().unwrap_or_default();
            flags.insert(named.to_owned());
        } else if named == "platform" {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric());
            let words: Vec<&str> = words.collect();
            platforms.extend(PLATFORMS.iter().filter(|name| words.contains(name)));
        }
    }
    (flags, platforms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OLD: &str = "  -file-access value\n    \tspecifies\n  -ignore-cgroups\n    \tdon't\n  -log-fd int\n    \tfile\n  -network value\n    \twhich\n  -overlay2 value\n    \twrap\n  -host-uds value\n    \tNone\n  -platform string\n    \tspecifies which platform to use: ptrace (default), kvm. (default \"ptrace\")\n  -platform_device_path string\n    \te.g. systrap\n  -root string\n    \troot\n";

    fn known(help: &str) -> Result<Runsc, RunscError> {
        Runsc::known("/usr/bin/runsc".into(), "1".into(), help)
    }

    fn needs() -> Needs {
        Needs {
            network: Network::Gate,
            security: Security::Sandbox,
            sockets: true,
            privileges_by_file: true,
            log: 7,
        }
    }

    #[test]
    fn flags_are_passed_when_they_are_known() {
        let old = known(OLD).unwrap();
        assert_eq!(old.platform(), "ptrace");
        let arguments = old.arguments(needs(), "x").join(" ");
        assert!(arguments.contains("--overlay2=none") && arguments.contains("--host-uds=open"));
        assert!(arguments.contains("--network=host") && arguments.ends_with("--bundle=/bundle x"));
        assert!(!arguments.contains("directfs") && !arguments.contains("allow-suid"));
        let new = OLD.replace("ptrace (default)", "systrap (default), ptrace")
            + "  -directfs\n    \tx\n  -allow-suid\n    \tx\n";
        let new = known(&new).unwrap();
        assert_eq!(new.platforms, ["systrap", "ptrace"]);
        let arguments = new.arguments(Needs { network: Network::None, ..needs() }, "x").join(" ");
        assert!(arguments.contains("--directfs=false") && arguments.contains("--allow-suid=true"));
        assert!(arguments.contains("--network=none"));
    }

    #[test]
    fn what_lacks_something_is_refused_by_name() {
        let error = known(&OLD.replace("ignore-cgroups", "x")).unwrap_err().to_string();
        assert!(error.contains("--ignore-cgroups") && error.contains("apt-get install"), "{error}");
        let error = known(&OLD.replace("ptrace", "x")).unwrap_err().to_string();
        assert!(error.contains("systrap or ptrace"), "{error}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_of("runsc version 0.0~2022\nspec: 1.0.2-dev\n"), "0.0~2022");
    }
}
