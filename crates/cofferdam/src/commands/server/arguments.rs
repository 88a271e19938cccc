//! Arguments of the server, over its configuration file.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use cofferdam_server::{Config, TlsFiles};

use super::CONFIG;
use crate::logging::{Format, Level};

/// Run the server: API, registry, pages and the builders of every project
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Address and port of everything
    #[arg(long, value_name = "ADDR:PORT", env = "COFFERDAM_LISTEN")]
    listen: Option<String>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", env = "COFFERDAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file (default: /etc/cofferdam/server.toml, if it exists)
    #[arg(long, value_name = "FILE", env = "COFFERDAM_CONFIG")]
    config: Option<PathBuf>,
    /// How clients reach this server; default: whatever name they used
    #[arg(long, value_name = "URL", env = "COFFERDAM_PUBLIC_URL")]
    public_url: Option<String>,
    /// Certificate chain for TLS, PEM
    #[arg(long, value_name = "FILE", env = "COFFERDAM_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key for TLS, PEM
    #[arg(long, value_name = "FILE", env = "COFFERDAM_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How long running builds may finish when the server is told to stop
    #[arg(long, value_name = "SECONDS", env = "COFFERDAM_DRAIN")]
    drain: Option<u64>,
    /// How much is logged
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "COFFERDAM_LOG_LEVEL")]
    pub(super) log_level: Level,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "COFFERDAM_LOG_FORMAT")]
    pub(super) log_format: Format,
}

/// Manage organizations, on the machine of the server
#[derive(Debug, Args)]
pub(crate) struct OrganizationArgs {
    #[command(subcommand)]
    pub(super) command: OrganizationCommand,
}

/// What can be done with organizations.
#[derive(Debug, Subcommand)]
pub(crate) enum OrganizationCommand {
    /// Create an organization and print its token; the server may be running
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Which server's data is meant.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR", env = "COFFERDAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE", env = "COFFERDAM_CONFIG")]
    config: Option<PathBuf>,
}

impl DataArgs {
    /// Whether one is named.
    pub(crate) fn is_named(&self) -> bool {
        self.data_dir.is_some() || self.config.is_some()
    }

    /// The configuration, with the data directory that is named over it.
    pub(crate) fn configuration(&self) -> anyhow::Result<Config> {
        // Who names a directory may have no configuration at all.
        let mut config = configuration(self.config.as_deref())?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir = std::path::absolute(data_dir)?;
        }
        Ok(config)
    }

    /// The data directory.
    pub(crate) fn directory(&self) -> anyhow::Result<PathBuf> {
        match &self.data_dir {
            Some(data_dir) => Ok(std::path::absolute(data_dir)?),
            None => Ok(configuration(self.config.as_deref())?.data_dir),
        }
    }
}

/// The file that is named, else the usual one if it exists, else nothing but defaults.
pub(super) fn configuration(file: Option<&Path>) -> anyhow::Result<Config> {
    match file {
        Some(file) => Ok(Config::read(file)?),
        None if Path::new(CONFIG).exists() => Ok(Config::read(Path::new(CONFIG))?),
        None => Ok(Config::default()),
    }
}

impl ServerArgs {
    /// The configuration with what these arguments say over it.
    pub(super) fn configuration(&self) -> anyhow::Result<Config> {
        let mut config = configuration(self.config.as_deref())?;
        if let Some(listen) = &self.listen {
            config.listen.clone_from(listen);
        }
        if let Some(data_dir) = &self.data_dir {
            config.data_dir = std::path::absolute(data_dir)?;
        }
        if self.public_url.is_some() {
            config.public_url.clone_from(&self.public_url);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            config.tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
        }
        if let Some(drain) = self.drain {
            config.drain_seconds = drain;
        }
        if config.listen.is_empty() {
            bail!("the address to listen on is empty: use ADDR:PORT");
        }
        config.check()?;
        Ok(config)
    }
}
