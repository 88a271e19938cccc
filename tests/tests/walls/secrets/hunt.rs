//! The search: for a secret in clear and in base64, in files, archives and compressed streams.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a compressed stream may hold; test images are smaller.
const MOST: u64 = 256 << 20;

/// Something nobody else may see, unlike anything else there is.
#[derive(Debug, Clone)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("planted{name}{}x{number}yZ9q", std::process::id()))
    }

    /// As a test with a password of its own has it.
    pub(crate) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// What is searched for.
#[derive(Debug, Default)]
pub(crate) struct Hunt(Vec<(String, Vec<u8>)>);

impl Hunt {
    /// Adds a secret, in clear, in hex and in base64 at each of the three places that it can begin at.
    pub(crate) fn wanted(&mut self, secret: &Secret) {
        let bytes = secret.text().as_bytes();
        self.0.push((format!("{} in clear", secret.text()), bytes.to_vec()));
        self.0.push((format!("{} in hex", secret.text()), hex::encode(bytes).into_bytes()));
        for before in 0..3 {
            let padded = [&vec![0; before][..], bytes].concat();
            let encoded = STANDARD.encode(&padded);
            // Ends depend on what stands next to the secret.
            let inner = encoded[4.min(encoded.len())..encoded.len() - 4].to_owned();
            self.0.push((format!("{} in base64", secret.text()), inner.into_bytes()));
        }
    }

    /// What is found in some text.
    pub(crate) fn text(&self, text: &str) -> Vec<String> {
        self.bytes(text.as_bytes())
    }

    fn bytes(&self, bytes: &[u8]) -> Vec<String> {
        let mut found: Vec<String> = self
            .0
            .iter()
            .filter(|(_, wanted)| contains(bytes, wanted))
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(plain) = unpacked(bytes) {
            found.extend(self.bytes(&plain));
        } else if bytes.get(257..262) == Some(b"ustar") {
            for mut entry in tar::Archive::new(bytes).entries().into_iter().flatten().flatten() {
                let mut content = Vec::new();
                // What is not packed was searched with the archive.
                if entry.read_to_end(&mut content).is_ok() && unpacked(&content).is_some() {
                    found.extend(self.bytes(&content));
                }
            }
        }
        found
    }

    /// What is found in a file or in all files below a directory, with their paths; names of files are searched too.
    pub(crate) fn tree(&self, path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let said = |what: &String| format!("{what} in {}", path.display());
            found.extend(self.text(&path.to_string_lossy()).iter().map(said));
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if sent(&path) {
                continue;
            }
            if metadata.is_dir() {
                todo.extend(
                    fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()),
                );
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap_or_default();
                found.extend(self.text(&target.to_string_lossy()).iter().map(said));
            } else if metadata.is_file() {
                // A file may go while one looks.
                let Ok(bytes) = fs::read(&path) else { continue };
                found.extend(self.bytes(&bytes).iter().map(said));
            }
        }
        found
    }

    /// Panics when something is found in a tree.
    pub(crate) fn absent(&self, what: &str, path: &Path) {
        let found = self.tree(path);
        assert!(found.is_empty(), "{what}: {found:?}");
    }

    /// Panics when something is found in a text.
    pub(crate) fn unsaid(&self, what: &str, text: &str) {
        let found = self.text(text);
        let line = text.lines().find(|line| !self.text(line).is_empty()).unwrap_or_default();
        assert!(found.is_empty(), "{what}: {found:?}: {line}");
    }
}

/// Whether a file is a Dockerfile as the client sent it: what its author wrote there is what a later build is compared with, and the
/// store of the project keeps it like any other file of a context.
fn sent(path: &Path) -> bool {
    path.ends_with("fs/Dockerfile") && path.components().any(|part| part.as_os_str() == "mutable")
}

/// The content of a compressed stream.
fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    match bytes {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(bytes).take(MOST).read_to_end(&mut plain).ok()?
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(bytes).ok()?.take(MOST).read_to_end(&mut plain).ok()?
        }
        _ => return None,
    };
    Some(plain)
}

/// Whether `wanted` is in `bytes`; by the C library, since stores are large and tests are not optimised.
fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    // SAFETY: both pointers and lengths are those of slices.
    let at = unsafe {
        libc::memmem(bytes.as_ptr().cast(), bytes.len(), wanted.as_ptr().cast(), wanted.len())
    };
    !at.is_null()
}
