//! Configuration of a builder: the keys of `buildkitd.toml`, and a few of our own.
//!
//! The file is read once, by the process that starts the builder and may read what the caller
//! may read. Files that it names (certificates, keys) are read then too and travel inline, since
//! the builder's own root does not have them. Unknown keys are ignored, as buildkitd ignores
//! them; a value of the wrong kind is an error that names its key.

mod certificates;
mod environment;
mod limits;
mod units;
mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cofferdam_egress::Policy;
pub use cofferdam_telemetry::{Otel, OtelProtocol, UnknownProtocol};
use serde::{Deserialize, Serialize};

pub use self::limits::{BuildLimits, Limits, StepLimits};
pub(crate) use self::units::duration;
pub use self::units::{DiskSpace, Span};
pub use self::vm::{Accelerator, Hypervisor, Vm};

/// Largest configuration or certificate file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is missing or unreadable.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any real one.
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A file that adds to provenance is no JSON object.
    #[error("failed to parse {}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file that adds to provenance says what the builder itself says.
    #[error("{} cannot be added to provenance", path.display())]
    Provenance {
        /// Which file.
        path: PathBuf,
        /// Which key.
        #[source]
        source: cofferdam_provenance::OptionsError,
    },
    /// The text is not TOML or a key has the wrong kind of value.
    #[error("failed to parse {}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// A builder's configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Log more.
    pub debug: bool,
    /// Log everything.
    pub trace: bool,
    /// Where the store lives.
    pub root: Option<PathBuf>,
    /// `network.host`, `security.insecure`: what builds may ask for.
    #[serde(rename = "insecure-entitlements")]
    pub insecure_entitlements: Vec<String>,
    /// Log format and level.
    pub log: Log,
    /// Listen addresses and TLS.
    pub grpc: Grpc,
    /// Workers; only `oci` means something here.
    pub worker: Workers,
    /// Registries by host.
    pub registry: BTreeMap<String, Registry>,
    /// Resolvers that steps and pulls use.
    pub dns: Dns,
    /// How long past builds are remembered.
    pub history: History,
    /// Where traces of builds go.
    pub otel: Otel,
    /// Devices that steps may ask for.
    pub cdi: Cdi,
    /// Directory of JSON files that are added to the provenance of builds.
    pub provenance_env_dir: Option<PathBuf>,
    /// Contents of those files, filled in by [`Config::load_provenance_env`].
    pub provenance_env: serde_json::Map<String, serde_json::Value>,
    /// What builds may reach.
    pub egress: Policy,
    /// How the builder is walled in.
    pub isolation: Isolation,
    /// What a step and a build may use.
    pub limits: Limits,
    /// What builds by buildpacks may trust.
    pub buildpacks: Buildpacks,
}

/// `[log]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// `text` or `json`.
    pub format: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// `[grpc]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Grpc {
    /// `unix://` and `tcp://` addresses.
    pub address: Vec<String>,
    /// Where the builder says over HTTP what it is doing; nowhere when empty.
    #[serde(rename = "debugAddress")]
    pub debug_address: String,
    /// Owner of unix sockets.
    pub uid: Option<u32>,
    /// Group of unix sockets.
    pub gid: Option<u32>,
    /// Certificates for `tcp://`.
    pub tls: Tls,
}

/// `[grpc.tls]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Server certificate chain, PEM file.
    pub cert: PathBuf,
    /// Its key, PEM file.
    pub key: PathBuf,
    /// Authority that client certificates must come from, PEM file.
    pub ca: PathBuf,
    /// Contents of the files, filled in by [`Config::load_tls`].
    pub pem: Option<TlsPem>,
}

/// Contents of the files that [`Tls`] names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TlsPem {
    /// Certificate chain.
    pub cert: String,
    /// Key.
    pub key: String,
    /// Authority of clients; without one, clients need no certificate.
    pub ca: Option<String>,
}

/// `[worker]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Workers {
    /// The only kind of worker here.
    pub oci: Worker,
}

/// `[worker.oci]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Worker {
    /// Labels shown by `ListWorkers`.
    pub labels: BTreeMap<String, String>,
    /// Platforms beyond the machine's own.
    pub platforms: Vec<String>,
    /// Most steps that run at once; 0 has no limit.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
    /// Whether to collect garbage.
    pub gc: Option<bool>,
    /// Space that collection never takes.
    pub reserved_space: DiskSpace,
    /// Space above which collection starts.
    pub max_used_space: DiskSpace,
    /// Free space that collection leaves on the disk.
    pub min_free_space: DiskSpace,
    /// Older name of `reservedSpace`.
    pub gckeepstorage: DiskSpace,
    /// Rules of collection, in order.
    pub gcpolicy: Vec<GcPolicy>,
    /// `host` gives every step the host's network; needs the entitlement's trust.
    pub network_mode: String,
}

/// `[[worker.oci.gcpolicy]]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GcPolicy {
    /// Whether internal records may go too.
    pub all: bool,
    /// Filter expressions; any may match.
    pub filters: Vec<String>,
    /// Records used within this span stay.
    pub keep_duration: Span,
    /// Older name of `reservedSpace`.
    pub keep_bytes: DiskSpace,
    /// Space that this rule never takes.
    pub reserved_space: DiskSpace,
    /// Space above which this rule acts.
    pub max_used_space: DiskSpace,
    /// Free space this rule leaves on the disk.
    pub min_free_space: DiskSpace,
}

/// `[registry."host"]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Hosts asked first.
    pub mirrors: Vec<String>,
    /// Speak plain HTTP.
    pub http: Option<bool>,
    /// Do not verify certificates.
    pub insecure: Option<bool>,
    /// Authority files, PEM.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypair: Vec<KeyPair>,
    /// Directories of certificates: `.crt` files are authorities, `.cert` and `.key` of one name a client's.
    pub tlsconfigdir: Vec<PathBuf>,
    /// Contents of `ca`, filled in by [`Config::load`].
    pub ca_pem: Vec<String>,
    /// Contents of the first `keypair`, certificate then key, filled in by [`Config::load`].
    pub client_pem: Option<String>,
}

/// `[[registry."host".keypair]]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyPair {
    /// Key file, PEM.
    pub key: PathBuf,
    /// Certificate file, PEM.
    pub cert: PathBuf,
}

/// `[dns]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Dns {
    /// Resolver addresses.
    pub nameservers: Vec<String>,
    /// Options for steps' `resolv.conf`.
    pub options: Vec<String>,
    /// Search list for steps' `resolv.conf`.
    pub search_domains: Vec<String>,
}

/// `[history]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct History {
    /// How long.
    pub max_age: Span,
    /// How many.
    pub max_entries: Option<i64>,
    /// Bytes that records and logs take at most, our own.
    pub max_bytes: DiskSpace,
}

/// `[cdi]`: devices by the Container Device Interface.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cdi {
    /// Whether there are none, whatever is declared.
    pub disabled: bool,
    /// Directories with declarations, a later one over an earlier one.
    pub spec_dirs: Vec<PathBuf>,
}

/// `[buildpacks]`, our own: builder images by `registry/repository[:tag][@digest]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Buildpacks {
    /// Trusted in every build.
    pub trusted: Vec<String>,
    /// Never trusted, whatever a build says.
    pub denied: Vec<String>,
    /// The git repository that `urn:cnb:registry:` names are looked up in.
    pub registry: Option<String>,
}

/// The second wall around the builder's own process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Landlock {
    /// The builder does not start without it.
    #[default]
    Required,
    /// For kernels that have none.
    Off,
}

/// `[isolation]`, our own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Isolation {
    /// `namespaces`, `gvisor` or `vm`. The builder does not start when the machine cannot have it.
    pub level: cofferdam_sandbox::Isolation,
    /// Whether the builder restricts itself with landlock.
    pub landlock: Landlock,
    /// First of the 131,072 host ids this builder owns when started as root; chosen from the
    /// root directory's path when absent.
    pub ids_base: Option<u32>,
    /// Processors that the builder and its steps may use together, such as `2` or `1.5`.
    pub cpus: Option<f64>,
    /// Memory that they may use together; a share is of the machine's.
    pub memory: Option<DiskSpace>,
    /// Processes and threads that they may have together.
    pub pids: Option<u64>,
    /// What level `vm` runs on.
    pub vm: Vm,
}

impl Config {
    /// Reads `path` and the files it names. A missing file is the default configuration unless
    /// `required`.
    ///
    /// # Errors
    /// Unreadable or malformed files.
    pub fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(ConfigError::Read { source, .. })
                if !required && source.kind() == std::io::ErrorKind::NotFound =>
            {
                String::new()
            }
            Err(error) => return Err(error),
        };
        let mut config = Self::parse(path, &text)?;
        for registry in config.registry.values_mut() {
            registry.add_directories()?;
            for ca in &registry.ca {
                registry.ca_pem.push(read_text(ca)?);
            }
            if let Some(pair) = registry.keypair.first() {
                let certificate = read_text(&pair.cert)?;
                registry.client_pem = Some(format!("{certificate}\n{}", read_text(&pair.key)?));
            }
        }
        Ok(config)
    }

    /// Reads the files of `[grpc.tls]`, once flags had their say about them.
    ///
    /// # Errors
    /// Unreadable files.
    pub fn load_tls(&mut self) -> Result<(), ConfigError> {
        let tls = &mut self.grpc.tls;
        if tls.cert.as_os_str().is_empty() && tls.key.as_os_str().is_empty() {
            return Ok(());
        }
        let ca = if tls.ca.as_os_str().is_empty() { None } else { Some(read_text(&tls.ca)?) };
        tls.pem = Some(TlsPem { cert: read_text(&tls.cert)?, key: read_text(&tls.key)?, ca });
        Ok(())
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Whether builds may ask for `entitlement`.
    #[must_use]
    pub fn allows(&self, entitlement: &str) -> bool {
        self.insecure_entitlements.iter().any(|allowed| allowed == entitlement)
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_of_buildkitd_are_understood_and_others_ignored() {
        let config = Config::parse(
            Path::new("test.toml"),
            r#"
            root = "/var/lib/builder"
            insecure-entitlements = ["network.host"]
            [log]
            format = "json"
            [worker.containerd]
            enabled = false
            [worker.oci]
            max-parallelism = 3
            reservedSpace = "10GB"
            gckeepstorage = 5000
            [worker.oci.labels]
            a = "b"
            [[worker.oci.gcpolicy]]
            all = true
            keepDuration = "48h"
            keepBytes = "512MB"
            [registry."docker.io"]
            mirrors = ["localhost:5000"]
            [unknown.table]
            key = 1
            "#,
        )
        .unwrap();
        assert!(config.allows("network.host") && !config.allows("security.insecure"));
        assert_eq!(config.worker.oci.max_parallelism, 3);
        assert_eq!(config.worker.oci.reserved_space, DiskSpace::Bytes(10_000_000_000));
        assert_eq!(config.worker.oci.gcpolicy[0].keep_duration, Span::from_secs(48 * 3600));
        assert_eq!(config.registry["docker.io"].mirrors, ["localhost:5000"]);
        assert!(Config::parse(Path::new("bad.toml"), "debug = 3").is_err());
    }
}
