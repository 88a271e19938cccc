//! Digests and lengths here are those of the same entries written with Go's `archive/tar`.
#![allow(clippy::unwrap_used)]

use sha2::{Digest, Sha256};

use super::header::Entry;
use super::*;

struct Layer(LayerTar<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(LayerTar::new(Vec::new()))
    }

    fn directory(&mut self, path: &str) {
        self.0.directory(path, 0, 0, 0o755).unwrap();
    }

    fn file(&mut self, path: impl AsRef<[u8]>) {
        self.0.file(path, 0, 0, 0o644, 1, &mut &b"c"[..]).unwrap();
    }

    fn link(&mut self, path: &str, target: &str) {
        self.0.symlink(path, target, 0, 0, 0o777).unwrap();
    }

    #[track_caller]
    fn is(self, length: usize, sha256: &str) {
        let bytes = self.0.finish().unwrap();
        assert_eq!(bytes.len(), length);
        assert_eq!(hex::encode(Sha256::digest(&bytes)), sha256);
    }
}

#[test]
fn nothing() {
    Layer::new().is(1024, "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
}

#[test]
fn every_kind_of_entry() {
    let mut layer = Layer::new();
    let tar = &mut layer.0;
    tar.directory("/layers", 0, 0, 0o755).unwrap();
    tar.directory("/layers/acme_a", 1000, 1000, 0o41777).unwrap();
    tar.file("/layers/acme_a/hello", 1000, 1001, 0o644, 6, &mut &b"hello\n"[..]).unwrap();
    tar.file("/layers/acme_a/block", 0, 0, 0o104_755, 512, &mut &[b'x'; 512][..]).unwrap();
    tar.file("/layers/acme_a/empty", 2_097_151, 2_097_151, 0, 0, &mut io::empty()).unwrap();
    tar.file("/layers/acme_a/big", 1, 2, 0o600, 100_001, &mut io::repeat(b'y').take(100_001))
        .unwrap();
    tar.symlink("/layers/acme_a/link", "../there", 0, 0, 0o777).unwrap();
    tar.fifo("/layers/acme_a/fifo", 1, 1, 0o600).unwrap();
    tar.device("/layers/acme_a/null", Device::Char, (1, 3), 0, 0, 0o666).unwrap();
    tar.device("/layers/acme_a/sda", Device::Block, (8, 1_048_575), 0, 0, 0o660).unwrap();
    layer.is(107_520, "0948affa241c99a2431889e087b6b2d19be5ff311ae73d90ee496c600655a671");
}

#[test]
fn long_names_are_split_where_go_splits_them() {
    let mut layer = Layer::new();
    for length in 95..110 {
        layer.file(format!("/{}", "d".repeat(length)));
        layer.file(format!("/d/{}", "f".repeat(length)));
    }
    for length in 140..160 {
        let directory = format!("/{}", "d".repeat(length));
        layer.directory(&directory);
        layer.directory(&format!("{directory}/{}", "f".repeat(100)));
        layer.directory(&format!("{directory}/{}", "f".repeat(101)));
    }
    layer.file("/abcdefghi".repeat(26));
    layer.file("/abcdefghi".repeat(200));
    layer.is(133_632, "d84584538af7cba16b915ec16cd28ce155c766d77d70cf9045e3af3dade202d3");
}

#[test]
fn what_does_not_fit_is_in_records() {
    let mut layer = Layer::new();
    for length in (1..400).step_by(7) {
        layer.file(format!("/é{}", "n".repeat(length)));
        layer.link("/l", &"t".repeat(length));
        layer.link(&format!("/{}", "l".repeat(length)), &"ü".repeat(length));
        layer.link(&format!("/p/{}", "l".repeat(length)), &"t".repeat(101));
    }
    layer.file(format!("/x/{}{}", "a/".repeat(49), "b".repeat(200)));
    layer.file(format!("/{}/{}", "a".repeat(98), "b".repeat(200)));
    layer.file(b"/\xff\xfe");
    layer.file(format!("/d/{}/x", "é".repeat(120)));
    layer.0.directory("/u", 2_097_152, 0, 0o755).unwrap();
    layer.0.directory("/g", 0, 4_294_967_294, 0o755).unwrap();
    layer.0.directory("/ug/ü", 2_097_152, 2_097_152, 0o755).unwrap();
    let path = format!("/{}/{}", "d".repeat(60), "e".repeat(60));
    layer.0.file(path, 3_000_000, 1, 0o644, 1, &mut &b"c"[..]).unwrap();
    layer.is(402_432, "fbf674cbe594bbd909fcac07f4f1d027f91f13750059043e5a32ffa71ddd0253");
}

#[test]
fn large_files_have_their_size_in_a_record() {
    for (size, length, sha256) in [
        (8_589_934_591, 512, "a99f9b2a35905ef0643c2f7a02bfcec628862e4308b720c00c4954a11e8487c9"),
        (8_589_934_592, 1536, "b199133eac3014cc4d9935c27d27e51de97752e86c663634a26830e9788bb1c9"),
        (1 << 50, 1536, "45c02f669d8e750a5b775b8de63c83f4e38741fdfcd4cb97335259876b22560e"),
    ] {
        let owner = Owner { uid: 0, gid: 0, mode: 0o644 };
        let header = Entry { size, ..Entry::new(b"/big", b'0', owner) }.blocks().unwrap();
        assert_eq!(header.len(), length);
        assert_eq!(hex::encode(Sha256::digest(&header)), sha256, "{size}");
    }
}

#[test]
fn files_that_change_while_they_are_read_are_errors() {
    let write = |size: u64, bytes: &[u8]| {
        LayerTar::new(io::sink()).file("/f", 0, 0, 0o644, size, &mut &*bytes)
    };
    assert!(write(3, b"abc").is_ok());
    for (size, bytes) in [(4, &b"abc"[..]), (2, b"abc"), (0, b"a"), (1, b""), (u64::MAX, b"")] {
        assert!(matches!(write(size, bytes), Err(LayerTarError::Size { .. })), "{size}");
    }
}

#[test]
fn paths_that_are_not_clean_are_errors() {
    let long = format!("/{}", "a".repeat(MAX_PATH));
    for path in ["", "a", "/a/", "//a", "/a//b", "/a/..", "/./a", "/a\0", &long] {
        let written = LayerTar::new(io::sink()).directory(path, 0, 0, 0o755);
        assert!(matches!(written, Err(LayerTarError::Path(_))), "{path:?}");
    }
    assert!(LayerTar::new(io::sink()).directory("/", 0, 0, 0o755).is_ok());
    assert!(LayerTar::new(io::sink()).fifo("/", 0, 0, 0o755).is_err());
    for target in ["", "a\0b", &long] {
        let written = LayerTar::new(io::sink()).symlink("/l", target, 0, 0, 0o777);
        assert!(matches!(written, Err(LayerTarError::Target(_))), "{target:?}");
    }
    let device = LayerTar::new(io::sink()).device("/d", Device::Char, (1 << 21, 0), 0, 0, 0);
    assert!(matches!(device, Err(LayerTarError::Number { .. })));
}
