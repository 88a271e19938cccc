//! Programs without walls, for controls: what many tools did before they were attacked. And images that attack.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cofferdam_tests::{digest, images};
use serde_json::Value;
use tempfile::TempDir;

use crate::planted::{TEXT, hashed};

/// Something to be harmed by a control: a directory with a file in it, and an empty root next to it.
pub(crate) struct Bait {
    dir: TempDir,
}

impl Bait {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("walls-bait-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside/b/c")).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("outside/file"), TEXT).unwrap();
        Self { dir }
    }

    /// What must not be touched.
    pub(crate) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Where the tool works.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Runs a tool and panics unless it changes what is outside; says how.
    pub(crate) fn harmed(&self, tool: impl FnOnce(&Path)) -> String {
        let before = hashed(&self.outside());
        tool(&self.root());
        let after = hashed(&self.outside());
        let changed =
            before.keys().chain(after.keys()).find(|path| before.get(*path) != after.get(*path));
        let changed = changed.expect("the control does no harm");
        format!(
            "a tool that joins paths changes {}",
            changed.file_name().unwrap().to_string_lossy()
        )
    }
}

/// One entry of a hostile archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evil {
    pub(crate) name: String,
    /// As in a header: `0` file, `1` hard link, `2` link, `3` character device, `4` block device, `5` directory, `6` pipe.
    pub(crate) kind: u8,
    pub(crate) link: String,
    pub(crate) mode: u32,
    pub(crate) text: String,
    pub(crate) device: (u32, u32),
    pub(crate) pax: Vec<(String, String)>,
}

/// An entry of a kind that may have a target or a content.
pub(crate) fn evil(kind: char, name: &str, rest: &str) -> Evil {
    let kind = kind as u8;
    let links = matches!(kind, b'1' | b'2');
    Evil {
        name: name.to_owned(),
        kind,
        link: if links { rest.to_owned() } else { String::new() },
        text: if links { String::new() } else { rest.to_owned() },
        mode: if kind == b'5' { 0o777 } else { 0o644 },
        ..Evil::default()
    }
}

/// An archive of these entries with their names as they are: the writers of libraries refuse the interesting ones.
pub(crate) fn archive(entries: &[Evil]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        if !entry.pax.is_empty() {
            let mut records = String::new();
            for (key, value) in &entry.pax {
                let rest = format!(" {key}={value}\n");
                let mut length = rest.len() + 1;
                while length.to_string().len() + rest.len() != length {
                    length = length.to_string().len() + rest.len();
                }
                records.push_str(&format!("{length}{rest}"));
            }
            block(
                &mut bytes,
                &Evil {
                    name: "pax".into(),
                    kind: b'x',
                    mode: 0o644,
                    text: records,
                    ..Evil::default()
                },
            );
        }
        block(&mut bytes, entry);
    }
    bytes.extend([0; 1024]);
    bytes
}

fn block(bytes: &mut Vec<u8>, entry: &Evil) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, entry.name.as_bytes());
    put(100, format!("{:07o}", entry.mode).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", entry.text.len()).as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, entry.link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", entry.device.0).as_bytes());
    put(337, format!("{:07o}", entry.device.1).as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes.extend(header);
    bytes.extend(entry.text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

/// An unpacker that joins paths and lets the kernel follow what is there.
pub(crate) fn unpack(tar: &[u8], root: &Path) {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let target = root.join(name.trim_start_matches('/'));
        let link =
            entry.link_name_bytes().map(|name| String::from_utf8(name.into_owned()).unwrap());
        // What fails is not what a control is about.
        let _ = match entry.header().entry_type() {
            tar::EntryType::Directory => {
                let made = fs::create_dir_all(&target);
                let mode = fs::Permissions::from_mode(entry.header().mode().unwrap());
                made.and_then(|()| fs::set_permissions(&target, mode))
            }
            tar::EntryType::Symlink => symlink(link.unwrap(), &target),
            tar::EntryType::Link => {
                fs::hard_link(root.join(link.unwrap().trim_start_matches('/')), &target)
            }
            tar::EntryType::Regular
                if target
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(".wh.")) =>
            {
                let name = target.file_name().unwrap().to_string_lossy().into_owned();
                let gone = format!(
                    "{}/{}",
                    target.parent().unwrap().display(),
                    name.trim_start_matches(".wh.")
                );
                fs::remove_dir_all(&gone).or_else(|_| fs::remove_file(&gone))
            }
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                fs::write(&target, content)
            }
        };
    }
}

/// A root made of busybox with a layer on top, in the registry of base images; gives its reference.
pub(crate) fn image(name: &str, layers: &[Vec<u8>], change: impl FnOnce(&mut Value)) -> String {
    let (root, mut config) = images::parts("busybox");
    let mut blobs = vec![root];
    for tar in layers {
        blobs.push(images::layer(tar));
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest(tar).into());
    }
    config["history"] = Value::Array(vec![]);
    change(&mut config);
    let name = format!("walls/{name}");
    images::registry().push_image(&name, "1", &blobs, &config);
    images::registry().reference(&format!("{name}:1"))
}
