//! What a supervisor does, settled from configuration file, flags and defaults, in rising order: defaults, file, flags.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cofferdam_builder::{Config, DiskSpace, Isolation};
use cofferdam_egress::Resolver;
use cofferdam_sandbox::Limits;

use super::arguments::BuilderArgs;
use super::ignored::Ignored;
use super::listen::{Address, Owner};
use super::places::{CONFIG, Places};
use super::vouched;
use crate::logging::{Format, Level};

/// Length of a scheduling period in microseconds, the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// Memory below which not even the builder's own process starts.
const LEAST_MEMORY: u64 = 64 << 20;

/// Everything a supervisor needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    /// The directory the builder's state is in, on the host.
    pub(super) root: PathBuf,
    /// Where to listen.
    pub(super) addresses: Vec<Address>,
    /// Who may connect to unix sockets besides their owner.
    pub(super) owner: Owner,
    /// How much to log.
    pub(super) level: Level,
    /// In which shape.
    pub(super) format: Format,
    /// Limits of the builder and its steps together.
    pub(super) limits: Limits,
    /// End with standard input.
    pub(super) until_stdin_closes: bool,
    /// Flags without meaning here.
    pub(super) ignored: Ignored,
    /// What the builder is told.
    pub(super) config: Config,
}

impl Settings {
    /// Reads the configuration and puts the flags over it.
    pub(super) fn new(args: BuilderArgs, places: &Places) -> anyhow::Result<Self> {
        let config = match &args.config {
            // A file that is named and missing is no error for BuildKit's daemon either.
            Some(path) => Config::load(path, false)?,
            None => Config::load(Path::new(CONFIG), false)?,
        };
        Self::settle(args, config, places)
    }

    fn settle(args: BuilderArgs, mut config: Config, places: &Places) -> anyhow::Result<Self> {
        apply_worker(&args, &mut config)?;
        // A flag can raise what the file says, never lower it.
        config.isolation.level = config.isolation.level.max(args.isolation.unwrap_or_default());
        if let Some(nonsense) = config.limits.nonsense() {
            bail!(nonsense);
        }
        apply_logging(&args, &mut config);
        apply_tls(&args, &mut config)?;
        let mut addresses = addresses(&args, &mut config, places)?;
        let debug = args.debugaddr.as_ref().unwrap_or(&config.grpc.debug_address);
        if !debug.is_empty() {
            addresses.push(Address::for_debugging(debug)?);
        }
        let root = args.root.or_else(|| config.root.take()).or_else(|| places.root());
        let root = root.context(
            "say where to keep state with --root: neither XDG_DATA_HOME nor HOME is set",
        )?;
        let gid = args.group.as_deref().map(super::listen::group_id).transpose()?;
        name_resolvers(&mut config)?;
        config.cdi.disabled = args.cdi_disabled.unwrap_or(config.cdi.disabled);
        if !args.cdi_spec_dir.is_empty() {
            config.cdi.spec_dirs.clone_from(&args.cdi_spec_dir);
        }
        if let Some(dir) = &args.provenance_env_dir {
            config.provenance_env_dir = Some(dir.clone());
        }
        config.load_provenance_env()?;
        // The builder has none of this process's variables.
        config.otel.add_variables(|name| std::env::var(name).ok())?;
        vouched::add(&mut config, &args.allow_registry)?;
        Ok(Self {
            root,
            addresses,
            owner: Owner { uid: config.grpc.uid, gid: gid.or(config.grpc.gid) },
            level: level(&config)?,
            format: if config.log.format.is_empty() {
                Format::Text
            } else {
                config.log.format.parse()?
            },
            until_stdin_closes: args.until_stdin_closes,
            ignored: args.ignored,
            limits: limits(&config.isolation)?,
            config,
        })
    }
}

fn addresses(
    args: &BuilderArgs,
    config: &mut Config,
    places: &Places,
) -> anyhow::Result<Vec<Address>> {
    if let Some(path) = &args.server_socket {
        // Nobody may reach such a builder past its server, whatever the configuration says.
        config.grpc.address = vec![format!("server {}", path.display())];
        return Ok(vec![Address::Server(path.clone())]);
    }
    if !args.addr.is_empty() {
        config.grpc.address.clone_from(&args.addr);
    }
    if config.grpc.address.is_empty() {
        let socket = places
            .socket()
            .context("say where to listen with --addr: XDG_RUNTIME_DIR is not set")?;
        config.grpc.address = vec![format!("unix://{}", socket.display())];
    }
    config.grpc.address.iter().map(|text| text.parse()).collect()
}

/// What `[isolation]` limits of the builder and its steps together.
fn limits(isolation: &Isolation) -> anyhow::Result<Limits> {
    let mut limits = Limits { pids: isolation.pids, ..Limits::default() };
    if let Some(cpus) = isolation.cpus {
        ensure!(
            (0.01..=1e6).contains(&cpus),
            "[isolation] cpus: {cpus} is no number of processors"
        );
        limits.cpu_period = Some(CPU_PERIOD);
        // Positive and far below the limits of both types.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let quota = (cpus * CPU_PERIOD as f64) as u64;
        limits.cpu_quota = Some(quota);
    }
    if let Some(memory) = isolation.memory {
        let machine = rustix::system::sysinfo();
        let total = machine.totalram.saturating_mul(machine.mem_unit.into());
        let memory = memory.bytes(total);
        ensure!(memory >= LEAST_MEMORY, "[isolation] memory: a builder needs {LEAST_MEMORY} bytes");
        limits.memory = Some(memory);
    }
    Ok(limits)
}

/// Certificates are read here, by the process that may read what the caller may read.
fn apply_tls(args: &BuilderArgs, config: &mut Config) -> anyhow::Result<()> {
    let tls = &mut config.grpc.tls;
    for (flag, file) in [
        (&args.tlscert, &mut tls.cert),
        (&args.tlskey, &mut tls.key),
        (&args.tlscacert, &mut tls.ca),
    ] {
        if let Some(path) = flag {
            file.clone_from(path);
        }
    }
    let given = |path: &Path| !path.as_os_str().is_empty();
    ensure!(
        given(&tls.cert) == given(&tls.key) && (!given(&tls.ca) || given(&tls.cert)),
        "TLS needs both --tlscert and --tlskey, and --tlscacert needs them too"
    );
    Ok(config.load_tls()?)
}

fn apply_worker(args: &BuilderArgs, config: &mut Config) -> anyhow::Result<()> {
    for entitlement in &args.allow_insecure_entitlement {
        if !config.allows(entitlement) {
            config.insecure_entitlements.push(entitlement.clone());
        }
    }
    let worker = &mut config.worker.oci;
    worker.labels.extend(args.oci_worker_labels.iter().cloned());
    if !args.oci_worker_platform.is_empty() {
        worker.platforms.clone_from(&args.oci_worker_platform);
    }
    if let Some(parallelism) = args.oci_max_parallelism {
        worker.max_parallelism = parallelism.0;
    }
    worker.gc = args.oci_worker_gc.or(worker.gc);
    if let Some(net) = &args.oci_worker_net {
        worker.network_mode.clone_from(net);
    }
    if let Some(text) = &args.oci_worker_gc_keepstorage {
        let mut spaces = text.split(',').map(disk_space);
        worker.reserved_space = spaces.next().transpose()?.unwrap_or(worker.reserved_space);
        worker.min_free_space = spaces.next().transpose()?.unwrap_or(worker.min_free_space);
        worker.max_used_space = spaces.next().transpose()?.unwrap_or(worker.max_used_space);
    }
    Ok(())
}

/// A size as the configuration writes it, or a bare number of megabytes as the flag does.
fn disk_space(text: &str) -> anyhow::Result<DiskSpace> {
    let text = text.trim();
    let unit = if text.bytes().all(|byte| byte.is_ascii_digit()) { "MB" } else { "" };
    serde_json::from_value(format!("{text}{unit}").into()).context("--oci-worker-gc-keepstorage")
}

fn apply_logging(args: &BuilderArgs, config: &mut Config) {
    config.debug = args.debug.unwrap_or(config.debug);
    config.trace = args.trace.unwrap_or(config.trace);
    if let Some(level) = &args.log_level {
        config.log.level.clone_from(level);
    }
    if let Some(format) = &args.log_format {
        config.log.format.clone_from(format);
    }
}

fn level(config: &Config) -> anyhow::Result<Level> {
    if config.trace {
        return Ok(Level::Trace);
    }
    if config.debug {
        return Ok(Level::Debug);
    }
    if config.log.level.is_empty() { Ok(Level::default()) } else { config.log.level.parse() }
}

/// `[dns] nameservers` is what steps resolve with, unless the gate's own table says otherwise.
fn name_resolvers(config: &mut Config) -> anyhow::Result<()> {
    if !config.egress.resolvers.is_empty() {
        return Ok(());
    }
    for text in &config.dns.nameservers {
        let Ok(resolver) = text.parse::<Resolver>() else {
            bail!("[dns] nameservers: {text:?} is not an address");
        };
        config.egress.resolvers.push(resolver);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::arguments::Parallelism;
    use super::super::places::User;
    use super::*;

    fn settle(args: BuilderArgs, config: Config) -> anyhow::Result<Settings> {
        Settings::settle(args, config, &Places::from(User::Root))
    }

    #[test]
    fn defaults() {
        let settings = settle(BuilderArgs::default(), Config::default()).unwrap();
        assert_eq!(settings.root, Path::new("/var/lib/cofferdam/builder"));
        assert_eq!(settings.addresses, [Address::Unix("/run/cofferdam/builder.sock".into())]);
        assert_eq!((settings.level, settings.format), (Level::Info, Format::Text));
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut config = Config { root: Some("/file".into()), ..Config::default() };
        config.grpc.address = vec!["unix:///file".into()];
        config.worker.oci.max_parallelism = 9;
        config.log.level = "error".into();
        config.insecure_entitlements = vec!["network.host".into()];
        let args = BuilderArgs {
            root: Some("/flag".into()),
            addr: vec!["tcp://127.0.0.1:1234".into()],
            oci_max_parallelism: Some(Parallelism(2)),
            log_level: Some("debug".into()),
            allow_insecure_entitlement: vec!["network.host".into(), "security.insecure".into()],
            oci_worker_gc_keepstorage: Some("100,5GB".into()),
            ..BuilderArgs::default()
        };
        let settings = settle(args, config).unwrap();
        assert_eq!(settings.root, Path::new("/flag"));
        assert_eq!(settings.addresses, [Address::Tcp("127.0.0.1:1234".into())]);
        assert_eq!(settings.level, Level::Debug);
        let worker = &settings.config.worker.oci;
        assert_eq!(worker.max_parallelism, 2);
        assert_eq!(worker.reserved_space, DiskSpace::Bytes(100_000_000));
        assert_eq!(worker.min_free_space, DiskSpace::Bytes(5_000_000_000));
        assert_eq!(settings.config.insecure_entitlements, ["network.host", "security.insecure"]);
    }

    #[test]
    fn limits_of_the_whole_builder() {
        let text = r#"{"isolation":{"cpus":1.5,"memory":"1GiB","pids":100}}"#;
        let config = serde_json::from_str(text).unwrap();
        let limits = settle(BuilderArgs::default(), config).unwrap().limits;
        assert_eq!((limits.memory, limits.pids), (Some(1 << 30), Some(100)));
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(150_000), Some(100_000)));
        let none = settle(BuilderArgs::default(), Config::default()).unwrap().limits;
        assert!(none.is_empty());
    }

    #[test]
    fn a_servers_socket_is_the_only_way_in() {
        let mut config = Config::default();
        config.grpc.address = vec!["tcp://127.0.0.1:1".into()];
        let args = BuilderArgs { server_socket: Some("s".into()), ..BuilderArgs::default() };
        let settings = settle(args, config).unwrap();
        assert_eq!(settings.addresses, [Address::Server("s".into())]);
    }

    #[test]
    fn what_the_builder_does_can_be_asked_at_every_level() {
        for level in ["namespaces", "gvisor", "vm"] {
            let text = format!(
                r#"{{"isolation":{{"level":"{level}"}},"grpc":{{"debugAddress":"127.0.0.1:1"}}}}"#
            );
            let config = serde_json::from_str(&text).unwrap();
            let settings = settle(BuilderArgs::default(), config).unwrap();
            let debug = Address::Debug(Box::new(Address::Tcp("127.0.0.1:1".into())));
            assert!(settings.addresses.contains(&debug), "{level}: {:?}", settings.addresses);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let tls = BuilderArgs { tlscert: Some("/c".into()), ..BuilderArgs::default() };
        assert!(settle(tls, Config::default()).unwrap_err().to_string().contains("tlskey"));
        let isolation = |text: &str| {
            let config = serde_json::from_str(text).unwrap();
            settle(BuilderArgs::default(), config)
        };
        assert!(isolation(r#"{"isolation":{"cpus":0}}"#).is_err());
        assert!(isolation(r#"{"isolation":{"memory":1000}}"#).is_err());
        assert!(isolation(r#"{"limits":{"step":{"cpus":-1}}}"#).is_err());
        let scheme = BuilderArgs { addr: vec!["npipe://x".into()], ..BuilderArgs::default() };
        assert!(settle(scheme, Config::default()).is_err());
        let mut config = Config::default();
        config.dns.nameservers = vec!["nowhere".into()];
        assert!(settle(BuilderArgs::default(), config).is_err());
    }
}
