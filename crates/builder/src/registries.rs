//! How this builder reaches registries, from its configuration.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use cofferdam_image::registry::{Client, ClientConfig, HostConfig, KeyPair};

use crate::config::Config;
use crate::failure::Failure;

/// Where certificates of the configuration are put: the builder's own root has none of the files
/// the configuration names.
const CERTIFICATES: &str = "/tmp";

/// The client for all pulls and pushes.
pub(crate) fn client(config: &Config) -> Result<Arc<Client>, Failure> {
    Client::new(client_config(config)?).map_err(Failure::of)
}

/// A client that accepts plain HTTP and any certificate from one host, for an output that says so.
pub(crate) fn insecure_client(config: &Config, host: &str) -> Result<Arc<Client>, Failure> {
    let mut config = client_config(config)?;
    config.hosts.entry(host.to_owned()).or_default().insecure = true;
    Client::new(config).map_err(Failure::of)
}

fn client_config(config: &Config) -> Result<ClientConfig, Failure> {
    let mut client = ClientConfig::default();
    for (host, registry) in &config.registry {
        let mut settings = HostConfig {
            mirrors: registry.mirrors.clone(),
            http: registry.http,
            insecure: registry.insecure.unwrap_or(false),
            ..HostConfig::default()
        };
        for pem in &registry.ca_pem {
            settings.ca.push(file(pem)?);
        }
        if let Some(pem) = &registry.client_pem {
            let path = file(pem)?;
            settings.keypairs.push(KeyPair { key: path.clone(), cert: path });
        }
        client.hosts.insert(host.clone(), settings);
    }
    Ok(client)
}

fn file(pem: &str) -> Result<PathBuf, Failure> {
    let mut file = tempfile::Builder::new()
        .prefix("registry-")
        .suffix(".pem")
        .tempfile_in(CERTIFICATES)
        .map_err(Failure::of)?;
    file.write_all(pem.as_bytes()).map_err(Failure::of)?;
    let (_, path) = file.keep().map_err(Failure::of)?;
    Ok(path)
}
