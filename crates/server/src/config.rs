//! Configuration of a server: a TOML file, over it the environment and flags (which the command line reads).
//!
//! Every key has a default that works on one machine. Unknown keys are refused: a misspelt wall is no wall.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_fleet::Isolation;
use cofferdam_records::KeepBuilds;
use serde::Deserialize;

/// Longest configuration file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has keys or values that mean nothing here.
    #[error("{}: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value makes no sense.
    #[error("{key}: {message}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong and what would do.
        message: String,
    },
}

/// A server's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port of everything: API, registry, pages, gateway.
    pub listen: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How clients reach this server, `http(s)://host[:port]`. Default: under whatever name they used.
    pub public_url: Option<String>,
    /// TLS on the port; without it clients speak cleartext.
    pub tls: Option<TlsFiles>,
    /// Trust in tokens of CI providers.
    pub oidc: Oidc,
    /// How builders are kept.
    pub builders: Builders,
    /// How long records are kept.
    pub records: KeptRecords,
    /// Seconds that running builds have to finish when the server is told to stop.
    pub drain_seconds: u64,
    /// Configuration that every builder is given, with the keys of `cofferdam builder --config`.
    pub builder: toml::Table,
}

/// Files with a certificate chain and its key, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

/// Trust in CI providers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oidc {
    /// Audiences that tokens may be made for.
    pub audiences: Vec<String>,
    /// GitHub Actions.
    pub github: OidcIssuer,
    /// CircleCI; organizations have issuers below this one.
    pub circleci: OidcIssuer,
    /// Buildkite.
    pub buildkite: OidcIssuer,
}

/// One issuer of tokens.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OidcIssuer {
    /// Its URL. Default: the provider's own.
    pub issuer: Option<String>,
    /// Where its keys are, when not where the issuer says.
    pub jwks_url: Option<String>,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            // What every client asks its provider for.
            audiences: vec!["https://depot.dev".to_owned()],
            github: OidcIssuer::default(),
            circleci: OidcIssuer::default(),
            buildkite: OidcIssuer::default(),
        }
    }
}

/// How builders are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Builders {
    /// Seconds after which a builder without builds is stopped.
    pub idle_seconds: u64,
    /// Most builders at once; further builds wait.
    pub most: usize,
    /// Seconds between two looks at what projects take of the disk, and whether their caches are within their bounds.
    pub keep_every_seconds: u64,
}

impl Default for Builders {
    fn default() -> Self {
        Self { idle_seconds: 300, most: 64, keep_every_seconds: 3600 }
    }
}

/// How long records are kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeptRecords {
    /// Days after its end that a build is kept with its logs; 0, the default, is for ever.
    pub keep_days: u32,
}

impl KeptRecords {
    /// The same as the records take it.
    pub(crate) fn keep(&self) -> KeepBuilds {
        KeepBuilds { days: self.keep_days, ..KeepBuilds::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            data_dir: PathBuf::from("/var/lib/cofferdam/server"),
            public_url: None,
            tls: None,
            oidc: Oidc::default(),
            builders: Builders::default(),
            records: KeptRecords::default(),
            drain_seconds: 60,
            builder: toml::Table::new(),
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        use std::io::Read;
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// A value that makes no sense, with its key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, message: &str| ConfigError::Value { key, message: message.to_owned() };
        if let Some(url) = &self.public_url
            && crate::origin::Origin::from_url(url).is_none()
        {
            return Err(wrong("public_url", "expected http://HOST[:PORT] or https://HOST[:PORT]"));
        }
        if !self.data_dir.is_absolute() {
            return Err(wrong("data_dir", "expected an absolute path"));
        }
        if self.builders.most == 0 {
            return Err(wrong("builders.most", "without a builder nothing can be built"));
        }
        if self.builders.keep_every_seconds == 0 {
            return Err(wrong("builders.keep_every_seconds", "expected at least 1"));
        }
        self.least_isolation()?;
        crate::run::access_options(&self.oidc)
            .oidc
            .check()
            .map_err(|error| wrong("oidc", &error.to_string()))
    }

    /// The level of isolation that every build has at least: that of the configuration of builders.
    pub(crate) fn least_isolation(&self) -> Result<Isolation, ConfigError> {
        let key = "builder.isolation.level";
        crate::walls::least(&self.builder)
            .map_err(|error| ConfigError::Value { key, message: error.to_string() })
    }

    /// How long running builds have to finish.
    pub(crate) const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// How often caches are looked at.
    pub(crate) const fn keep_every(&self) -> Duration {
        Duration::from_secs(self.builders.keep_every_seconds)
    }

    /// How long a builder without builds is kept.
    pub(crate) const fn idle(&self) -> Duration {
        Duration::from_secs(self.builders.idle_seconds)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<Config>("lisen = \"x\"").unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
    }

    #[test]
    fn builds_are_kept_unless_told_otherwise() {
        let keep = |text: &str| toml::from_str::<Config>(text).map(|config| config.records.keep());
        assert_eq!(keep("").unwrap(), KeepBuilds::default());
        let days = keep("[records]\nkeep_days = 90").unwrap();
        assert_eq!(days, KeepBuilds { builds: 0, days: 90 });
        keep("[records]\nkeep_days = -1").unwrap_err();
        keep("[records]\nkeep_day = 90").unwrap_err();
    }

    #[test]
    fn values_are_checked() {
        let check = |text: &str| toml::from_str::<Config>(text).unwrap().check();
        check("").unwrap();
        check("public_url = \"https://builds.example.com\"\n[builders]\nmost = 3").unwrap();
        for bad in [
            "public_url = \"builds\"",
            "data_dir = \"here\"",
            "[builders]\nmost = 0\nidle_seconds = 1",
            "[builders]\nkeep_every_seconds = 0",
            "[oidc]\naudiences = []",
            "[builder.isolation]\nlevel = \"strong\"",
            "[oidc.github]\nissuer = \"token.example.com\"",
        ] {
            check(bad).unwrap_err();
        }
    }
}
