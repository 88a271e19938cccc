//! Base images, made from Debian packages by `tests/images/make` and served by one registry for the whole test process.

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use crate::image::{Blob, digest};
use crate::places::test_image;
use crate::registry::Registry;

/// What steps find programs in.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The registry of base images. It ends with the test process.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::start)
}

/// A reference to a static busybox.
#[must_use]
pub fn busybox() -> String {
    served("busybox")
}

/// A reference to a Debian with Python.
#[must_use]
pub fn python() -> String {
    served("python")
}

/// A root filesystem as layer and config, for other registries and for variations.
///
/// # Panics
/// When the root filesystem was not made.
#[must_use]
pub fn parts(name: &str) -> (Blob, Value) {
    let tar = std::fs::read(test_image(name)).unwrap();
    let layer = layer(&tar);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Env": [PATH], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&tar)] },
        "history": [{ "created_by": "tests/images/make" }],
    });
    (layer, config)
}

/// A tar as a gzip layer.
///
/// # Panics
/// Never: memory does not fail to be written.
#[must_use]
pub fn layer(tar: &[u8]) -> Blob {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tar).unwrap();
    Blob {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        bytes: gzip.finish().unwrap(),
    }
}

fn served(name: &str) -> String {
    static PUSHED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut pushed = PUSHED.lock().unwrap();
    if !pushed.iter().any(|known| known == name) {
        let (layer, config) = parts(name);
        registry().push_image(name, "latest", &[layer], &config);
        pushed.push(name.to_owned());
    }
    registry().reference(&format!("{name}:latest"))
}
