//! Debian's `docker-registry` on a loopback port of its own, with storage of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Response, request};
use crate::image::{Blob, Image, digest};
use crate::process::Process;

/// A registry starts in milliseconds; a busy machine may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The one user of a registry that wants a password.
pub const USER: &str = "builder";
/// The password of [`USER`].
pub const PASSWORD: &str = "hunter2-open-sesame";
/// `htpasswd -nbB builder hunter2-open-sesame`
const HTPASSWD: &str = "builder:$2b$05$abcdefghijklmnopqrstuuda/IitnRAa5B4Ci7PoVimVVCSi5Dw16\n";

/// What a client accepts as a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    address: String,
    authorization: Option<String>,
    dir: TempDir,
    _process: Process,
}

impl Registry {
    /// Starts one that is open to everybody.
    #[must_use]
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// Starts one that is open to [`USER`] with [`PASSWORD`] only.
    #[must_use]
    pub fn with_password() -> Self {
        Self::launch(true)
    }

    fn launch(password: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        fs::write(&config, configuration(dir.path(), password)).unwrap();
        // Its messages come through a pipe: the first ones say which port it got.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let process = Process::start(command);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    sender.send(address).ok();
                }
            }
        });
        let address = receiver
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("docker-registry does not start"));
        let authorization = password.then(|| basic(USER, PASSWORD));
        Self { address, authorization, dir, _process: process }
    }

    /// `127.0.0.1:port`, as it stands in references.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A reference to `name` on it.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The directory it keeps its data in.
    #[must_use]
    pub fn storage(&self) -> &Path {
        self.dir.path()
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut headers = headers.to_vec();
        if let Some(authorization) = &self.authorization {
            headers.push(("Authorization", authorization));
        }
        request(method, &format!("http://{}/v2/{path}", self.address), &headers, body)
    }

    /// A manifest by tag or digest, as bytes and JSON; `None` when there is none.
    ///
    /// # Panics
    /// On any other answer.
    #[must_use]
    pub fn manifest(&self, name: &str, reference: &str) -> Option<(Vec<u8>, Value)> {
        let response = self.ask(
            "GET",
            &format!("{name}/manifests/{reference}"),
            &[("Accept", MANIFESTS)],
            b"",
        );
        match response.status {
            200 => {
                let value = serde_json::from_slice(&response.body).unwrap();
                Some((response.body, value))
            }
            // Asked for a manifest by the digest of something else, this registry fails instead of saying no.
            404 | 500 => None,
            status => panic!("{name}:{reference}: status {status}"),
        }
    }

    /// A blob.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn blob(&self, name: &str, digest: &str) -> Vec<u8> {
        let response = self.ask("GET", &format!("{name}/blobs/{digest}"), &[], b"");
        assert_eq!(response.status, 200, "blob {name}@{digest}");
        response.body
    }

    /// Pulls the only image behind `name:tag`, verifying every digest.
    ///
    /// # Panics
    /// When it is not there or is broken.
    #[must_use]
    pub fn pull(&self, name: &str, tag: &str) -> Image {
        let (bytes, _) = self
            .manifest(name, tag)
            .unwrap_or_else(|| panic!("{name}:{tag} is not in the registry"));
        Image::read(bytes, &|wanted| match self.manifest(name, wanted) {
            Some((bytes, _)) => bytes,
            None => self.blob(name, wanted),
        })
    }

    /// Uploads a blob.
    ///
    /// # Panics
    /// When the registry refuses it.
    pub fn push_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let begun = self.ask("POST", &format!("{name}/blobs/uploads/"), &[], b"");
        assert_eq!(begun.status, 202, "begin an upload to {name}");
        let location = begun.header("location").unwrap();
        let location =
            location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(location);
        let path = format!("{}&digest={digest}", location.strip_prefix("/v2/").unwrap());
        let done = self.ask("PUT", &path, &[("Content-Type", "application/octet-stream")], bytes);
        assert_eq!(done.status, 201, "upload to {name}");
        digest
    }

    /// Uploads a manifest under a tag.
    ///
    /// # Panics
    /// When the registry refuses it.
    pub fn push_manifest(&self, name: &str, tag: &str, manifest: &Value) -> String {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let media_type = manifest["mediaType"].as_str().unwrap();
        let done = self.ask(
            "PUT",
            &format!("{name}/manifests/{tag}"),
            &[("Content-Type", media_type)],
            &bytes,
        );
        assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
        digest(&bytes)
    }

    /// Puts an image of gzip layers under a tag.
    pub fn push_image(&self, name: &str, tag: &str, layers: &[Blob], config: &Value) -> String {
        let config = serde_json::to_vec(config).unwrap();
        let config_digest = self.push_blob(name, &config);
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.push_blob(name, &layer.bytes);
                serde_json::json!({ "mediaType": layer.media_type, "digest": digest, "size": layer.bytes.len() })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": layers,
        });
        self.push_manifest(name, tag, &manifest)
    }
}

fn configuration(dir: &Path, password: bool) -> String {
    let mut text = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:0\n",
        dir.join("data").display()
    );
    if password {
        let file = dir.join("htpasswd");
        fs::write(&file, HTPASSWD).unwrap();
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        ));
    }
    text
}

fn listening(line: &str) -> Option<String> {
    let rest = line.split("listening on ").nth(1)?;
    let end =
        rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

/// The value of an `Authorization` header, and with its first six characters removed of an `auth` entry in `config.json`.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}
