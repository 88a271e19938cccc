//! A cache in a bucket of an object store that speaks S3, laid out as BuildKit lays it out: blobs under
//! one prefix, configs under another, each config under one or several names.
//!
//! Keys come with the request and nowhere else: not from the environment and not from a machine's
//! metadata service, which would lend every client what the operator has. They are in no log, no
//! error, no record and no key; [`shown`] is what may be told of attributes. A layer from elsewhere is
//! hashed on its way, because an object store takes whatever it is given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use cofferdam_digest::{Digest, Digester};
use cofferdam_image::Descriptor;
use cofferdam_image::registry::lookup;
use cofferdam_solver::{Status, VertexLog};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{DnsError, DnsFuture, DnsResolver};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    WriteMultipart,
};

use super::document::Written;
use crate::config::duration;
use crate::export::flag;
use crate::export::layers::PackedLayer;
use crate::failure::Failure;
use crate::source::layers::{BlobSource, BlobStream};

/// Attributes that are nobody's business but the object store's.
const SECRET: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];
/// Blobs up to this are sent in one request; larger ones in pieces of it.
const PIECE_BYTES: u64 = 8 << 20;
/// Pieces of one blob under way at once.
const PARALLEL_PIECES: usize = 4;
/// Blobs sent at once when the client does not say.
const PARALLEL_BLOBS: usize = 4;
/// Most blobs that a client may have sent at once: each holds pieces in memory.
const MAX_PARALLEL: usize = 8;
/// Most attempts at one request.
const MAX_ATTEMPTS: usize = 64;
/// What is older is sent again, so that a bucket's expiry rules do not take what is in use.
const REFRESH_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that one config is stored under.
const MAX_NAMES: usize = 64;

/// Attributes as they may be shown: without what opens the bucket.
pub(crate) fn shown(attrs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let open = |(key, _): &(&String, &String)| !SECRET.contains(&key.as_str());
    let copied = |(key, value): (&String, &String)| (key.clone(), value.clone());
    attrs.iter().filter(open).map(copied).collect()
}

/// A bucket and where a cache is in it.
#[derive(Clone)]
pub(super) struct Bucket {
    store: Arc<AmazonS3>,
    blobs: String,
    manifests: String,
    names: Vec<String>,
    refresh: Duration,
    parallel: usize,
}

impl Bucket {
    /// What `attrs` name. Nothing is asked of the object store yet.
    pub(super) fn new(attrs: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let attr = |key: &str| attrs.get(key).filter(|value| !value.is_empty());
        let required = |key: &str| {
            attr(key)
                .cloned()
                .ok_or_else(|| Failure::invalid(format!("{key} not set for s3 cache")))
        };
        let prefix = attr("prefix").map_or("", String::as_str);
        let below = |key: &str, default: &str| {
            format!("{prefix}{}", attrs.get(key).map_or(default, String::as_str))
        };
        let names: Vec<String> =
            attr("name").map_or("buildkit", String::as_str).split(';').map(str::to_owned).collect();
        if names.len() > MAX_NAMES {
            return Err(Failure::invalid(format!("more than {MAX_NAMES} names for an s3 cache")));
        }
        let refresh = attr("touch_refresh").and_then(|text| duration(text));
        let parallel = match attr("upload_parallelism").map(|text| text.parse::<usize>()) {
            None => PARALLEL_BLOBS,
            Some(Ok(number)) if number > 0 => number.min(MAX_PARALLEL),
            Some(_) => {
                return Err(Failure::invalid("upload_parallelism must be a positive integer"));
            }
        };
        Ok(Self {
            store: Arc::new(connect(attrs, required("bucket")?, required("region")?)?),
            blobs: below("blobs_prefix", "blobs/"),
            manifests: below("manifests_prefix", "manifests/"),
            names,
            refresh: refresh.unwrap_or(REFRESH_AFTER),
            parallel,
        })
    }

    fn blob(&self, digest: &Digest) -> Path {
        Path::from(format!("{}{digest}", self.blobs))
    }

    fn manifest(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.manifests))
    }

    /// The config that is stored under the first name; `None` when there is none yet.
    pub(super) async fn config(&self, max: u64) -> Result<Option<Vec<u8>>, Failure> {
        let name = self.names.first().map_or("", String::as_str);
        let found = match self.store.get(&self.manifest(name)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            result => result.map_err(failed)?,
        };
        let mut stream = found.into_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > max {
                return Err(Failure::invalid("the build cache's config is too large"));
            }
        }
        Ok(Some(bytes))
    }

    /// Stores layers, then the config under every name.
    pub(super) async fn save(
        &self,
        layers: &[PackedLayer],
        config: &Written,
        log: &VertexLog,
    ) -> Result<(), Failure> {
        futures::stream::iter(layers.to_vec())
            .map(|layer| async move { self.save_layer(&layer, log).await })
            .buffer_unordered(self.parallel)
            .try_collect::<()>()
            .await?;
        for name in &self.names {
            let payload = PutPayload::from(config.bytes.clone());
            self.store.put(&self.manifest(name), payload).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn save_layer(&self, layer: &PackedLayer, log: &VertexLog) -> Result<(), Failure> {
        let path = self.blob(&layer.descriptor.digest);
        match self.store.head(&path).await {
            Ok(known) if self.is_fresh(known.last_modified) => return Ok(()),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let status = Status::begin(format!("writing layer {}", layer.descriptor.digest), "");
        log.status(status.clone());
        self.send(&path, layer).await?;
        log.status(status.done());
        Ok(())
    }

    fn is_fresh(&self, modified: chrono::DateTime<Utc>) -> bool {
        (Utc::now() - modified).to_std().unwrap_or_default() < self.refresh
    }

    async fn send(&self, path: &Path, layer: &PackedLayer) -> Result<(), Failure> {
        let Descriptor { digest, size, .. } = &layer.descriptor;
        let mut body = layer.body()?.open(0, *size);
        let mut hasher = Digester::new();
        if *size <= PIECE_BYTES {
            let mut bytes = Vec::with_capacity(usize::try_from(*size).unwrap_or(0));
            while let Some(chunk) = body.try_next().await.map_err(Failure::of)? {
                bytes.extend_from_slice(&chunk);
            }
            hasher.update(&bytes);
            check(hasher, digest)?;
            let sent = self.store.put(path, PutPayload::from(bytes)).await;
            return sent.map(|_| ()).map_err(failed);
        }
        let upload = self.store.put_multipart(path).await.map_err(failed)?;
        let piece = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(upload, piece);
        let sent = async {
            while let Some(chunk) = body.try_next().await.map_err(Failure::of)? {
                hasher.update(&chunk);
                upload.wait_for_capacity(PARALLEL_PIECES).await.map_err(failed)?;
                upload.put(chunk);
            }
            check(hasher, digest)
        };
        match sent.await {
            Ok(()) => upload.finish().await.map(|_| ()).map_err(failed),
            Err(failure) => {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "an upload could not be taken back");
                }
                Err(failure)
            }
        }
    }
}

#[async_trait]
impl BlobSource for Bucket {
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Failure> {
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let options = GetOptions { range, ..GetOptions::default() };
        let path = self.blob(&descriptor.digest);
        let found = self.store.get_opts(&path, options).await.map_err(failed)?;
        Ok(found.into_stream().map_err(failed).boxed())
    }

    async fn has(&self, descriptor: &Descriptor) -> bool {
        match self.store.head(&self.blob(&descriptor.digest)).await {
            Ok(known) => known.size == descriptor.size,
            // Whoever needs it is told what else is the matter.
            Err(error) => !matches!(error, object_store::Error::NotFound { .. }),
        }
    }
}

fn check(hasher: Digester, expected: &Digest) -> Result<(), Failure> {
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    Err(Failure::unknown(format!("content of {expected} does not match its digest: {found}")))
}

/// A client of the bucket.
fn connect(
    attrs: &BTreeMap<String, String>,
    bucket: String,
    region: String,
) -> Result<AmazonS3, Failure> {
    let attr = |key: &str| attrs.get(key).filter(|value| !value.is_empty());
    let path_style = flag(attrs, "use_path_style")?.unwrap_or(false);
    let mut builder =
        AmazonS3Builder::new().with_region(region).with_virtual_hosted_style_request(!path_style);
    let mut options = ClientOptions::new().with_dns_resolver(Arc::new(Lookups));
    if let Some(endpoint) = attr("endpoint_url") {
        let url = url::Url::parse(endpoint)
            .map_err(|error| Failure::invalid(format!("invalid endpoint_url: {error}")))?;
        options = options.with_allow_http(url.scheme() == "http");
        let endpoint = if path_style { endpoint.clone() } else { within(&url, &bucket)? };
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder = builder.with_client_options(options);
    builder = match (attr("access_key_id"), attr("secret_access_key")) {
        (Some(id), Some(secret)) => {
            builder.with_access_key_id(id.clone()).with_secret_access_key(secret.clone())
        }
        // A public bucket; otherwise the client would go and look for keys around this machine.
        (None, None) => builder.with_skip_signature(true),
        _ => {
            return Err(Failure::invalid(
                "s3 cache needs both access_key_id and secret_access_key, or neither",
            ));
        }
    };
    if let Some(token) = attr("session_token") {
        builder = builder.with_token(token.clone());
    }
    let mut retry = RetryConfig::default();
    if let Some(text) = attr("retry_max_attempts") {
        let attempts = text.parse::<usize>().ok().filter(|attempts| *attempts > 0);
        let attempts = attempts
            .ok_or_else(|| Failure::invalid("retry_max_attempts must be a positive integer"))?;
        retry.max_retries = attempts.min(MAX_ATTEMPTS) - 1;
    }
    builder.with_bucket_name(bucket).with_retry(retry).build().map_err(failed)
}

/// Looks names up as registries' clients do.
#[derive(Debug)]
struct Lookups;

impl DnsResolver for Lookups {
    fn resolve(&self, host: &str) -> DnsFuture {
        Box::pin(addresses(host.to_owned()))
    }
}

async fn addresses(host: String) -> Result<Vec<IpAddr>, DnsError> {
    let found = lookup(&host).await?;
    Ok(found.into_iter().map(|address| address.ip()).collect())
}

/// The endpoint whose host begins with the bucket.
fn within(endpoint: &url::Url, bucket: &str) -> Result<String, Failure> {
    let host = endpoint.host_str().ok_or_else(|| Failure::invalid("endpoint_url has no host"))?;
    let mut url = endpoint.clone();
    url.set_host(Some(&format!("{bucket}.{host}")))
        .map_err(|error| Failure::invalid(format!("invalid bucket: {error}")))?;
    Ok(url.to_string())
}

/// An error of the object store. It names paths in the bucket and hosts, never a key.
fn failed(error: object_store::Error) -> Failure {
    Failure::of(error).during("s3 cache")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_opens_the_bucket_is_not_shown() {
        let given = attrs(&[("bucket", "b"), ("secret_access_key", "s"), ("session_token", "t")]);
        assert_eq!(shown(&given), attrs(&[("bucket", "b")]));
    }

    #[test]
    fn a_bucket_needs_a_region_and_keys_come_in_pairs() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let message = |pairs: &[(&str, &str)]| Bucket::new(&attrs(pairs)).err().unwrap();
        assert!(message(&[("region", "r")]).message().contains("bucket not set"));
        assert!(message(&[("bucket", "b")]).message().contains("region not set"));
        let half = [("bucket", "b"), ("region", "r"), ("access_key_id", "i")];
        assert!(message(&half).message().contains("both"));
        let open = Bucket::new(&attrs(&[("bucket", "b"), ("region", "r"), ("prefix", "p/")]));
        let open = open.unwrap();
        assert_eq!(open.manifest("main").to_string(), "p/manifests/main");
    }

    #[test]
    fn clients_cannot_have_everything_sent_at_once() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let bucket = |text: &str| {
            let given = [("bucket", "b"), ("region", "r"), ("upload_parallelism", text)];
            Bucket::new(&attrs(&given))
        };
        assert_eq!(bucket("2").unwrap().parallel, 2);
        assert_eq!(bucket("1000000").unwrap().parallel, MAX_PARALLEL);
        assert!(bucket("0").is_err());
    }
}
