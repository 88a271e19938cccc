//! Images as a stranger sees them: manifest, config and layers, read from an archive or a registry with every digest checked.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// `sha256:…` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A piece of an image.
#[derive(Debug, Clone)]
pub struct Blob {
    /// What it is.
    pub media_type: String,
    /// Its bytes as stored.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Its bytes without compression, told by their first bytes.
    ///
    /// # Panics
    /// When they are damaged.
    #[must_use]
    pub fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.bytes.as_slice() {
            [0x1f, 0x8b, ..] => {
                flate2::read::MultiGzDecoder::new(&*self.bytes).read_to_end(&mut out).unwrap();
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => out = zstd::decode_all(&*self.bytes).unwrap(),
            _ => out.clone_from(&self.bytes),
        }
        out
    }
}

/// One file of a tar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// `f`, `d`, `l`, `h` (hard link), `c`, `b` or `p`.
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds.
    pub mtime: u64,
    /// Target of a link.
    pub link: String,
    /// Bytes of a file.
    pub content: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    /// The file's bytes as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the outermost document: index or manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// Digest of the manifest.
    pub manifest_digest: String,
    /// The image config.
    pub config: Value,
    /// Layers, bottom first.
    pub layers: Vec<Blob>,
    /// Every other document on the way, for searching.
    pub documents: Vec<Vec<u8>>,
}

impl Image {
    /// Reads the image that `bytes`, an index of one or a manifest, describes; `fetch` gives documents and blobs by digest.
    ///
    /// # Panics
    /// When something is missing or has another digest than it should.
    #[must_use]
    pub fn read(bytes: Vec<u8>, fetch: &dyn Fn(&str) -> Vec<u8>) -> Self {
        let outer = digest(&bytes);
        let mut documents = vec![bytes.clone()];
        let checked = |wanted: &str| {
            let bytes = fetch(wanted);
            assert_eq!(digest(&bytes), wanted, "digest of a blob");
            bytes
        };
        let mut bytes = bytes;
        let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
        while let Some(manifests) = manifest["manifests"].as_array() {
            // What is attested of an image lies beside it.
            let images: Vec<&Value> = manifests
                .iter()
                .filter(|one| one["annotations"]["vnd.docker.reference.type"].is_null())
                .collect();
            assert_eq!(images.len(), 1, "more than one platform: {manifest}");
            bytes = checked(images[0]["digest"].as_str().unwrap());
            documents.push(bytes.clone());
            manifest = serde_json::from_slice(&bytes).unwrap();
        }
        let config = checked(manifest["config"]["digest"].as_str().unwrap());
        documents.push(config.clone());
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| Blob {
            media_type: layer["mediaType"].as_str().unwrap().to_owned(),
            bytes: checked(layer["digest"].as_str().unwrap()),
        });
        let layers: Vec<Blob> = layers.collect();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let image = Self {
            digest: outer,
            manifest_digest: digest(&bytes),
            manifest,
            config,
            layers,
            documents,
        };
        image.check();
        image
    }

    /// Reads the only image of an OCI archive.
    ///
    /// # Panics
    /// When it is no such archive.
    #[must_use]
    pub fn from_oci_archive(path: &Path) -> Self {
        let files = entries(&std::fs::read(path).unwrap());
        let index =
            files.get("index.json").unwrap_or_else(|| panic!("no index.json: {:?}", files.keys()));
        assert!(files.contains_key("oci-layout"));
        Self::read(index.content.clone(), &|wanted| {
            let name = format!("blobs/{}", wanted.replace(':', "/"));
            files.get(&name).unwrap_or_else(|| panic!("no {name} in the archive")).content.clone()
        })
    }

    fn check(&self) {
        let ids = self.config["rootfs"]["diff_ids"].as_array().unwrap();
        let actual: Vec<String> = self.layers.iter().map(|layer| digest(&layer.plain())).collect();
        assert_eq!(
            ids.iter().map(|id| id.as_str().unwrap()).collect::<Vec<_>>(),
            actual,
            "diff ids"
        );
        for (layer, descriptor) in
            self.layers.iter().zip(self.manifest["layers"].as_array().unwrap())
        {
            assert_eq!(descriptor["size"], layer.bytes.len());
        }
    }

    /// The files of one layer, whiteouts included.
    #[must_use]
    pub fn layer(&self, index: usize) -> BTreeMap<String, Entry> {
        entries(&self.layers[index].plain())
    }

    /// Number of layers.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The files of all layers together.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Entry> {
        let mut all: BTreeMap<String, Entry> = BTreeMap::new();
        for index in 0..self.layers.len() {
            let layer = self.layer(index);
            for path in layer.keys() {
                let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
                let within =
                    if directory.is_empty() { String::new() } else { format!("{directory}/") };
                if name == ".wh..wh..opq" {
                    all.retain(|path, _| !path.starts_with(&within));
                } else if let Some(gone) = name.strip_prefix(".wh.") {
                    let gone = format!("{within}{gone}");
                    all.retain(|path, _| *path != gone && !path.starts_with(&format!("{gone}/")));
                }
            }
            let whiteout = |path: &str| path.rsplit('/').next().unwrap_or(path).starts_with(".wh.");
            all.extend(layer.into_iter().filter(|(path, _)| !whiteout(path)));
        }
        all
    }

    /// The text of a file.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        let files = self.files();
        files
            .get(path)
            .unwrap_or_else(|| panic!("no {path} in the image; it has {:?}", listed(&files)))
            .text()
    }

    /// A value of the config's `config`.
    #[must_use]
    pub fn setting(&self, key: &str) -> &Value {
        &self.config["config"][key]
    }

    /// The environment.
    #[must_use]
    pub fn env(&self) -> Vec<&str> {
        self.setting("Env")
            .as_array()
            .map(|env| env.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
}

fn listed(files: &BTreeMap<String, Entry>) -> Vec<&String> {
    // A busybox has hundreds of these.
    files.keys().filter(|path| !path.starts_with("bin/")).collect()
}

/// The files of a tar by path, without a leading `./` or `/` and without a trailing `/`.
///
/// # Panics
/// When it is damaged.
#[must_use]
pub fn entries(tar: &[u8]) -> BTreeMap<String, Entry> {
    let mut archive = tar::Archive::new(tar);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let mut xattrs = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let found = Entry {
            kind: kind(header.entry_type()),
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            mtime: header.mtime().unwrap(),
            link: entry
                .link_name_bytes()
                .map(|link| String::from_utf8_lossy(&link).into_owned())
                .unwrap_or_default(),
            content,
            xattrs,
        };
        if !path.is_empty() && path != "." {
            assert!(files.insert(path.clone(), found).is_none(), "{path} is in the archive twice");
        }
    }
    files
}

fn kind(entry: tar::EntryType) -> char {
    match entry {
        tar::EntryType::Directory => 'd',
        tar::EntryType::Symlink => 'l',
        tar::EntryType::Link => 'h',
        tar::EntryType::Char => 'c',
        tar::EntryType::Block => 'b',
        tar::EntryType::Fifo => 'p',
        _ => 'f',
    }
}
