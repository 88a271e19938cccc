//! A server's life: take the data directory, put the parts together, serve, drain, stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_access::{Access, AccessOptions, Issuer, OidcOptions};
use cofferdam_fleet::{Fleet, FleetError, FleetOptions};
use cofferdam_records::{Records, RecordsError};
use cofferdam_registry::OpenRegistryError;
use cofferdam_telemetry::{Collector, CollectorError, Otel, UnknownProtocol};
use metrics_exporter_prometheus::PrometheusHandle;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Logins};
use crate::builds::Builds;
use crate::config::{Config, OidcIssuer, TlsFiles};
use crate::daily;
use crate::gateway::{Authority, AuthorityError};
use crate::listen::{self, Shared};
use crate::memory;
use crate::origin::Origin;
use crate::registry::{self, Gatekeeper};
use crate::start::{self, DataDir, FirstToken};

/// How long requests that are not builds may take once builds are done.
const REQUESTS_GRACE: Duration = Duration::from_secs(3);
/// How long builders have to stop by themselves.
const BUILDERS_GRACE: Duration = Duration::from_secs(15);
/// What a service manager grants beyond that before it kills.
const STOP_RESERVE: Duration = Duration::from_secs(30);

/// What a server is started with.
pub struct Options {
    /// Its configuration.
    pub config: Config,
    /// The program that is started again for builders.
    pub program: PathBuf,
    /// Told once the port is bound: the address, and the first organization's token if this start made one.
    pub ready: Box<dyn FnOnce(SocketAddr, Option<FirstToken>) + Send>,
}

/// Why a server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory or something in it.
    #[error("prepare {}", path.display())]
    DataDir {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another server has it.
    #[error("another server uses {}: stop it, or give this one another --data-dir", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The version of the data directory.
    #[error(transparent)]
    Layout(#[from] crate::layout::LayoutError),
    /// A value of the configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The records.
    #[error("open the records")]
    Records(#[from] RecordsError),
    /// The fleet of builders.
    #[error("prepare for builders")]
    Fleet(#[from] FleetError),
    /// Keys and certificates of the gateway.
    #[error("make the gateway's certificates")]
    Authority(#[from] AuthorityError),
    /// Files of the API's own TLS.
    #[error("use {} for TLS", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry's directory.
    #[error(transparent)]
    Registry(#[from] OpenRegistryError),
    /// The address.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Signals of the process.
    #[error("watch for signals")]
    Signals(#[source] std::io::Error),
    /// Where traces go, as the configuration has it.
    #[error("builder.otel: {0}")]
    Otel(String),
    /// Where traces go, as the environment has it.
    #[error(transparent)]
    OtelVariables(#[from] UnknownProtocol),
    /// The collector of traces.
    #[error("send traces")]
    Collector(#[from] CollectorError),
    /// The metrics' recorder.
    #[error("set up metrics")]
    Metrics(#[source] metrics_exporter_prometheus::BuildError),
}

/// Serves until told to stop; then lets running builds finish, or cancels them when their time is up.
///
/// # Errors
/// Something the server needs cannot be had; nothing was served then.
pub async fn run(options: Options) -> Result<(), ServerError> {
    let Options { mut config, program, ready } = options;
    let otel = traces(&mut config, |name| std::env::var(name).ok())?;
    let _taken = DataDir::take(&config.data_dir)?;
    crate::layout::SERVER.bring_up_to_date(&config.data_dir)?;
    let records = Records::open(&config.data_dir).await?;
    let first = start::first_token(&records).await?;
    let access = Access::new(records.clone(), access_options(&config.oidc));
    let address = config.listen.clone();
    let listen_failed = |source| ServerError::Listen { address: address.clone(), source };
    let listener = TcpListener::bind(&config.listen).await.map_err(listen_failed)?;
    let bound = listener.local_addr().map_err(listen_failed)?;
    let origin = config.public_url.as_deref().and_then(Origin::from_url);
    let fleet = Fleet::new(FleetOptions {
        program,
        data_dir: config.data_dir.clone(),
        builder_config: builder_config(&config, bound, origin.as_ref()),
        idle: config.idle(),
        most: config.builders.most,
    })
    .await?;
    let authority = Authority::new()?;
    let gateway_tls = authority.tls()?;
    let images = registry::open(records.clone(), &config.data_dir)?;
    let builds = Builds::new(
        records.clone(),
        Arc::clone(&access),
        Arc::clone(&fleet),
        images.clone(),
        authority,
        config.least_isolation()?,
    );
    builds.recover().await?;
    let metrics = watch(&builds, &fleet, &otel)?;
    let api = Arc::new(Api {
        records,
        access,
        builds: Arc::clone(&builds),
        images: images.clone(),
        logins: Arc::new(Logins::default()),
    });
    let router = crate::web::router(&api, metrics)
        .merge(images.router(Arc::new(Gatekeeper(Arc::clone(&api.access)))))
        .fallback_service(api::service(&api));
    let tls = config.tls.as_ref().map(api_tls).transpose()?;
    let shared = Shared { router, builds: Arc::clone(&builds), tls, gateway_tls, origin };
    let mut signals = Signals::watch().map_err(ServerError::Signals)?;
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(listen::serve(listener, Arc::new(shared), stop.clone(), REQUESTS_GRACE));
    tokio::spawn(Arc::clone(&builds).keep_house());
    tokio::spawn(memory::give_back());
    let keeper = tokio::spawn(Arc::clone(&builds).keep_caches(config.keep_every()));
    tokio::spawn(daily::tidy_up(api.records.clone(), images, config.records.keep()));
    ready(bound, first);
    signals.next().await;
    keeper.abort();
    crate::notify::notify(&stopping(config.drain()));
    drain(&builds, &mut signals, config.drain()).await;
    stop.cancel();
    serving.await.ok();
    fleet.shutdown(BUILDERS_GRACE).await;
    tracing::info!("the server has stopped");
    Ok(())
}

/// What a service manager is told of a stop: also how long it may take, whatever the manager's own patience.
fn stopping(drain: Duration) -> String {
    let most = [REQUESTS_GRACE, BUILDERS_GRACE, STOP_RESERVE]
        .into_iter()
        .fold(drain, Duration::saturating_add)
        .as_micros();
    // The largest number would mean no change.
    let most = u64::try_from(most).unwrap_or(u64::MAX).min(u64::MAX - 1);
    format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={most}\nSTATUS=running builds may finish")
}

/// Lets running builds finish, while clients can still be heard; a second signal or the end of their time cancels them.
async fn drain(builds: &Arc<Builds>, signals: &mut Signals, patience: Duration) {
    let running = builds.refuse_new();
    if running == 0 {
        return;
    }
    tracing::info!(
        running,
        seconds = patience.as_secs(),
        "stopping: running builds may finish; a second signal cancels them"
    );
    tokio::select! {
        () = builds.idle() => return,
        () = signals.next() => {}
        () = tokio::time::sleep(patience) => {}
    }
    let canceled = builds.cancel_all("the server is stopping").await;
    tracing::info!(canceled, "builds that were still running have been canceled");
}

/// Begins to trace builds and to count what happens.
fn watch(builds: &Builds, fleet: &Fleet, otel: &Otel) -> Result<PrometheusHandle, ServerError> {
    builds.trace_to(Collector::start(otel)?);
    let metrics = crate::metrics::install().map_err(ServerError::Metrics)?;
    crate::metrics::observe(fleet);
    tokio::spawn(crate::metrics::upkeep(metrics.clone()));
    Ok(metrics)
}

/// Where traces go: where the configuration of builders says, or OpenTelemetry's variables of this process. Builders send theirs to
/// the same place, but with the headers of their configuration alone: variables hold this process's own credentials, and what a
/// builder is given is in reach of what it runs.
fn traces(
    config: &mut Config,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Otel, ServerError> {
    let wrong = |message: String| ServerError::Otel(message.trim_end().to_owned());
    let mut otel = match config.builder.get("otel") {
        Some(written) => {
            written.clone().try_into::<Otel>().map_err(|error| wrong(error.to_string()))?
        }
        None => Otel::default(),
    };
    let headers = otel.headers.clone();
    otel.add_variables(variable)?;
    let builders = Otel { headers, ..otel.clone() };
    let table = toml::Value::try_from(&builders).map_err(|error| wrong(error.to_string()))?;
    config.builder.insert("otel".to_owned(), table);
    Ok(otel)
}

/// Trust in CI providers, as configured.
pub(crate) fn access_options(oidc: &crate::config::Oidc) -> AccessOptions {
    let issuer = |configured: &OidcIssuer| Issuer {
        url: configured.issuer.clone(),
        jwks_url: configured.jwks_url.clone(),
    };
    AccessOptions {
        oidc: OidcOptions {
            audiences: oidc.audiences.clone(),
            github: issuer(&oidc.github),
            circleci: issuer(&oidc.circleci),
            buildkite: issuer(&oidc.buildkite),
        },
    }
}

/// What the operator configured for builders, and this server's own registry: with its name there, builders may reach it wherever
/// it is, and speak cleartext where it does.
fn builder_config(config: &Config, bound: SocketAddr, origin: Option<&Origin>) -> toml::Table {
    let mut table = config.builder.clone();
    let mut names: Vec<String> = Vec::new();
    match origin {
        Some(origin) => names.push(origin.authority.clone()),
        None => {
            let port = bound.port();
            names.extend([
                bound.to_string(),
                format!("localhost:{port}"),
                format!("127.0.0.1:{port}"),
            ]);
        }
    }
    let cleartext = origin.map_or(config.tls.is_none(), |origin| !origin.secure);
    let registries =
        table.entry("registry").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let Some(registries) = registries.as_table_mut() {
        for name in names {
            let mut own = toml::Table::new();
            if cleartext {
                own.insert("http".to_owned(), toml::Value::Boolean(true));
            }
            registries.entry(name).or_insert(toml::Value::Table(own));
        }
    }
    table
}

fn api_tls(files: &TlsFiles) -> Result<Arc<ServerConfig>, ServerError> {
    let failed = |path: &PathBuf, source: Box<dyn std::error::Error + Send + Sync>| {
        ServerError::Tls { path: path.clone(), source }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&files.cert, error.into()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key, error.into()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&files.cert, error.into()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Requests to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Headers of the server's own spans, and of builders'.
    fn headers(config: &mut Config) -> (Option<String>, Option<String>) {
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://collector:4317".to_owned()),
            "OTEL_EXPORTER_OTLP_HEADERS" => Some("authorization=Bearer%20x".to_owned()),
            _ => None,
        };
        let own = traces(config, variable).unwrap();
        let builders: Otel = config.builder.get("otel").unwrap().clone().try_into().unwrap();
        assert_eq!(own.endpoint, builders.endpoint);
        let of = |otel: &Otel| otel.headers.get("authorization").cloned();
        (of(&own), of(&builders))
    }

    #[test]
    fn builders_are_given_no_credentials_of_the_environment() {
        let mut config = Config::default();
        assert_eq!(headers(&mut config), (Some("Bearer x".to_owned()), None));
        let written = "endpoint = \"http://other\"\nheaders = { authorization = \"Bearer y\" }";
        let written: toml::Table = written.parse().unwrap();
        let mut config = Config::default();
        config.builder.insert("otel".to_owned(), toml::Value::Table(written));
        let both = Some("Bearer y".to_owned());
        assert_eq!(headers(&mut config), (both.clone(), both));
    }

    #[test]
    fn a_service_manager_is_told_how_long_a_stop_may_take() {
        assert!(stopping(Duration::from_secs(60)).contains("\nEXTEND_TIMEOUT_USEC=108000000\n"));
        let most = format!("={}\n", u64::MAX - 1);
        assert!(stopping(Duration::MAX).contains(&most));
    }
}
