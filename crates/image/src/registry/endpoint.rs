//! Where requests for a repository may go: mirrors first, then the registry itself.

use url::Url;

use super::config::ClientConfig;
use super::error::RegistryError;
use crate::DEFAULT_DOMAIN;

/// Docker Hub's registry; its name in references is another.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One place that speaks the distribution protocol.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `scheme://host[:port]/v2/[prefix/]`.
    pub(super) base: Url,
    /// Host and port as credentials are looked up.
    pub(super) host: String,
    /// Name of the host in the settings.
    pub(super) config_host: String,
    /// Path before every repository name, with a trailing slash; empty for registries.
    pub(super) prefix: String,
    /// For a mirror: whose content is asked for.
    pub(super) namespace: Option<String>,
    /// Whether plain HTTP and unverified certificates are fine here.
    pub(super) lax: bool,
    /// Token servers that may see this host's credentials.
    pub(super) realms: Vec<String>,
}

impl Endpoint {
    /// The mirrors of `domain`, in order.
    pub(super) fn mirrors(config: &ClientConfig, domain: &str) -> Result<Vec<Self>, RegistryError> {
        let mut found = Vec::new();
        for mirror in config.host(domain).mirrors {
            let mirror = mirror.trim_start_matches("https://").trim_start_matches("http://");
            let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
            let path = path.trim_matches('/');
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            for mut endpoint in Self::of(config, host, host, &prefix)? {
                endpoint.namespace = Some(domain.to_owned());
                found.push(endpoint);
            }
        }
        Ok(found)
    }

    /// The registry itself; several when more than one scheme is to be tried.
    pub(super) fn origin(config: &ClientConfig, domain: &str) -> Result<Vec<Self>, RegistryError> {
        let host = if domain == DEFAULT_DOMAIN { DOCKER_HUB } else { domain };
        Self::of(config, domain, host, "")
    }

    fn of(
        config: &ClientConfig,
        config_host: &str,
        host: &str,
        prefix: &str,
    ) -> Result<Vec<Self>, RegistryError> {
        let settings = config.host(config_host);
        let endpoint = |scheme: &&str| {
            let base = Url::parse(&format!("{scheme}://{host}/v2/{prefix}")).map_err(|error| {
                RegistryError::Setup {
                    host: host.to_owned(),
                    reason: "its name is not valid in a URL",
                    source: Some(Box::new(error)),
                }
            })?;
            Ok(Self {
                base,
                host: host.to_owned(),
                config_host: config_host.to_owned(),
                prefix: prefix.to_owned(),
                namespace: None,
                lax: *scheme == "http" || settings.insecure,
                realms: settings.realms.clone(),
            })
        };
        settings.schemes(config_host).iter().map(endpoint).collect()
    }

    /// `<base><repository>/<rest>`; `rest` consists of checked names, digests and tags only.
    pub(super) fn url(&self, repository: &str, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{repository}/{rest}", self.base.path()));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Whether `url` is on this endpoint's host: only then may it see our credentials.
    pub(super) fn owns(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Whether the token server at `realm` may see this host's credentials: it is the same server,
    /// under the same domain, or listed in the settings.
    pub(super) fn trusts_realm(&self, realm: &Url) -> bool {
        if self.owns(realm) {
            return true;
        }
        let Some(theirs) = realm.host_str() else { return false };
        let authority =
            realm.port().map_or_else(|| theirs.to_owned(), |port| format!("{theirs}:{port}"));
        if self
            .realms
            .iter()
            .any(|known| *known == authority || (known == theirs && realm.port().is_none()))
        {
            return true;
        }
        let (Some(url::Host::Domain(ours)), Some(url::Host::Domain(theirs))) =
            (self.base.host(), realm.host())
        else {
            return false;
        };
        let parent = |name: &str| -> Option<String> {
            let labels: Vec<&str> = name.rsplit('.').collect();
            (labels.len() >= 2).then(|| labels[..2].join("."))
        };
        realm.scheme() == "https" && parent(ours).is_some() && parent(ours) == parent(theirs)
    }

    /// Whether a token may be fetched from `realm` at all.
    pub(super) fn allows_realm(&self, realm: &Url) -> bool {
        realm.scheme() == "https" || (realm.scheme() == "http" && self.lax)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::HostConfig;

    fn origin(domain: &str) -> Endpoint {
        Endpoint::origin(&ClientConfig::default(), domain).unwrap().remove(0)
    }

    #[test]
    fn urls() {
        let mut config = ClientConfig::default();
        let mirrors = vec!["mirror:5000".to_owned(), "harbor.example/proxy/hub".to_owned()];
        config
            .hosts
            .insert("docker.io".to_owned(), HostConfig { mirrors, ..HostConfig::default() });
        config.hosts.insert(
            "mirror:5000".to_owned(),
            HostConfig { http: Some(true), ..HostConfig::default() },
        );
        let mirrors = Endpoint::mirrors(&config, "docker.io").unwrap();
        assert_eq!(
            mirrors
                .iter()
                .map(|mirror| mirror.url("library/x", "manifests/1").to_string())
                .collect::<Vec<_>>(),
            [
                "http://mirror:5000/v2/library/x/manifests/1?ns=docker.io",
                "https://harbor.example/v2/proxy/hub/library/x/manifests/1?ns=docker.io"
            ]
        );
        assert_eq!(
            origin("docker.io").url("library/x", "tags/list").as_str(),
            "https://registry-1.docker.io/v2/library/x/tags/list"
        );
        assert_eq!(origin("localhost:5000").url("x", "y").as_str(), "http://localhost:5000/v2/x/y");
    }

    #[test]
    fn realms() {
        let trusts =
            |domain: &str, realm: &str| origin(domain).trusts_realm(&Url::parse(realm).unwrap());
        assert!(trusts("docker.io", "https://auth.docker.io/token"));
        assert!(trusts("registry.gitlab.com", "https://gitlab.com/jwt/auth"));
        assert!(trusts("localhost:5000", "http://localhost:5000/token"));
        assert!(!trusts("localhost:5000", "http://localhost:5001/token"));
        assert!(!trusts("docker.io", "https://docker.io.evil.example/token"));
        assert!(!trusts("docker.io", "https://evil.example/auth.docker.io"));
        assert!(!trusts("registry.example", "http://registry.example/token"));
        assert!(!trusts("10.0.0.1", "https://11.0.0.1/token"));
        assert!(!trusts("registry.example", "https://example/token"));
        assert!(
            !origin("docker.io").allows_realm(&Url::parse("http://auth.docker.io/token").unwrap())
        );
    }
}
