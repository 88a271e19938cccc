//! What a backup says about itself: `manifest.json`, and the list of its files, one a line: digest, bytes, name.
//!
//! The list's own digest is in the manifest. Both are read with bounds, and versions before anything else.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{Algorithm, Beneath, Digest, is_ours, pour};
use super::{BackupError, Summary, failed};
use crate::layout;

/// The version of backups that this program makes. Raised when an older program could not restore one.
pub(super) const VERSION: u32 = 1;
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const LIST: &str = "files";
/// Longest manifest; most of it is what was incomplete.
const MAX_MANIFEST: u64 = 4 << 20;
/// Lines of what was incomplete that are kept.
pub(super) const MOST_TROUBLES: usize = 1000;
/// Longest line of the list.
const MAX_LINE: u64 = 1024;

/// The manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) program: String,
    pub(super) made_at: String,
    /// The layout of the data directory.
    pub(super) layout: u32,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Digest of the list.
    pub(super) list: String,
    pub(super) incomplete: Vec<String>,
}

impl Manifest {
    /// Reads the manifest of a backup that this program can restore.
    pub(super) fn read(path: &Path, beneath: &Beneath) -> Result<Self, BackupError> {
        let file = beneath.file(MANIFEST).map_err(failed("open the manifest of", path))?;
        let Some(file) = file else {
            return Err(BackupError::NoBackup { path: path.to_owned() });
        };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST)
            .read_to_end(&mut bytes)
            .map_err(failed("read the manifest of", path))?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = || BackupError::Damaged {
            file: MANIFEST.to_owned(),
            why: "is no manifest of a backup",
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        // What later versions look like beyond these two is not known.
        let found = value["version"].as_u64().ok_or_else(damaged)?;
        let program = layout::plain(value["program"].as_str().unwrap_or("another program"));
        if found > u64::from(VERSION) {
            let (path, known) = (path.to_owned(), VERSION);
            return Err(BackupError::Newer { path, found, known, program });
        }
        let mut manifest: Self = serde_json::from_value(value).map_err(|_| damaged())?;
        manifest.program.clone_from(&program);
        if manifest.layout == 0 {
            return Err(damaged());
        }
        if manifest.layout > layout::SERVER.known() {
            let (path, found, known) = (path.to_owned(), manifest.layout, layout::SERVER.known());
            return Err(BackupError::NewerLayout { path, found, known, program });
        }
        Ok(manifest)
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Writes it beside its files, which are on the disk already: with it, the directory is a backup.
    pub(super) fn write(&self, path: &Path) -> Result<(), BackupError> {
        let (name, part) = (path.join(MANIFEST), path.join("manifest.part"));
        let write = || {
            let text = self.text()?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&part, &name)?;
            File::open(path)?.sync_all()
        };
        write().map_err(failed("write", &name))
    }

    pub(super) fn summary(self) -> Summary {
        let Self { program, made_at, files, bytes, incomplete, .. } = self;
        Summary { program, made_at, files, bytes, incomplete }
    }
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) path: String,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "{} {} {}", self.digest, self.bytes, self.path)
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.splitn(3, ' ');
        let digest = Digest::parse(words.next()?)?;
        let bytes = words.next()?.parse().ok()?;
        let path = words.next().filter(|path| is_ours(path))?.to_owned();
        Some(Self { digest, bytes, path })
    }
}

/// The list of a backup, once its digest was found right.
pub(super) struct List<R>(R);

impl List<BufReader<File>> {
    pub(super) fn open(
        path: &Path,
        beneath: &Beneath,
        manifest: &Manifest,
    ) -> Result<Self, BackupError> {
        let open = || beneath.file(LIST).map_err(failed("open the list of", path));
        let damaged = |why| BackupError::Damaged { file: LIST.to_owned(), why };
        let file = open()?.ok_or_else(|| damaged("is missing"))?;
        let computed = pour(file, &mut io::sink(), Algorithm::Sha256);
        let (digest, _) = computed.map_err(failed("read the list of", path))?;
        if digest.to_string() != manifest.list {
            return Err(damaged("has other content than when it was written"));
        }
        Ok(Self(BufReader::new(open()?.ok_or_else(|| damaged("is missing"))?)))
    }
}

impl<R: BufRead> Iterator for List<R> {
    type Item = Result<Entry, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        let damaged = |why| BackupError::Damaged { file: LIST.to_owned(), why };
        let mut line = String::new();
        match self.0.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                Some(Entry::parse(&line).ok_or_else(|| damaged("has a line that is no file's")))
            }
            Err(_) => Some(Err(damaged("cannot be read"))),
        }
    }
}

/// For fuzzing: whatever is accepted names files of ours only, and is written and read again as the same.
pub(super) fn exercise(data: &[u8]) {
    let path = Path::new("backup");
    if let Ok(manifest) = Manifest::parse(path, data) {
        let written = manifest.text().unwrap_or_default();
        let again = Manifest::parse(path, &written).ok().and_then(|again| again.text().ok());
        assert_eq!(again, Some(written));
    }
    for entry in List(data).map_while(Result::ok) {
        let named = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        assert!(entry.path.split('/').all(named), "{entry:?}");
        assert_eq!(Entry::parse(&entry.to_string()), Some(entry));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_read_back_and_others_are_not() {
        let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let entry = Entry { digest, bytes: 7, path: "logs/p/b/0".to_owned() };
        let line = entry.to_string();
        assert_eq!(Entry::parse(&line), Some(entry));
        for bad in ["\n", line.trim_end(), &line.replace("logs", ".."), &line.replace('7', "x")] {
            assert_eq!(Entry::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_newer_backup_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join(MANIFEST), text).unwrap();
            Manifest::read(dir.path(), &Beneath::open(dir.path()).unwrap()).unwrap_err()
        };
        let newer =
            read("{\"version\": 2, \"program\": \"cofferdam\\u001b 9\", \"other\": 1}").to_string();
        assert!(newer.contains("version 2") && newer.contains("cofferdam 9"), "{newer}");
        let whole = |layout: u32| {
            format!(
                "{{\"version\":1,\"program\":\"cofferdam 9\",\"made_at\":\"\",\"layout\":{layout},\"files\":0,\
                 \"bytes\":0,\"list\":\"\",\"incomplete\":[]}}"
            )
        };
        let layout = read(&whole(99));
        assert!(matches!(layout, BackupError::NewerLayout { found: 99, .. }), "{layout}");
        for bad in ["", "{}", "[]", "{\"version\": 1}", &whole(0)] {
            assert!(matches!(read(bad), BackupError::Damaged { .. }), "{bad}");
        }
    }

    fn sound() -> Manifest {
        Manifest {
            version: VERSION,
            program: "cofferdam 1".to_owned(),
            made_at: "2025-01-01T00:00:00Z".to_owned(),
            layout: 1,
            files: u64::MAX,
            bytes: u64::MAX,
            list: format!("sha256:{}", "0".repeat(64)),
            incomplete: vec!["a blob".to_owned()],
        }
    }

    #[test]
    fn damaged_manifests_are_refused() {
        let text = String::from_utf8(sound().text().unwrap()).unwrap();
        let read = |bytes: &[u8]| Manifest::parse(Path::new("backup"), bytes);
        // Huge counts are compared with what is there, and nothing is made of them.
        assert_eq!(read(text.as_bytes()).unwrap().files, u64::MAX);
        let cut = (0..text.trim_end().len()).map(|length| text[..length].to_owned());
        let most = u64::MAX.to_string();
        let wrong = [
            text.replacen(&most, "-1", 1),
            text.replacen(&most, &format!("{most}0"), 1),
            text.replacen(&most, "1e30", 1),
            text.replacen("\"version\": 1", "\"version\": 18446744073709551616", 1),
            text.replacen("\"layout\": 1", "\"layout\": 4294967296", 1),
            text.replacen("[", "{", 1),
            "[".repeat(1 << 20),
            format!("{text}{text}"),
        ];
        for bad in cut.chain(wrong) {
            let refused = matches!(read(bad.as_bytes()), Err(BackupError::Damaged { .. }));
            assert!(refused, "{}", &bad[..bad.len().min(1000)]);
        }
        assert!(read(b"\xff\xfe").is_err() && read(&[0; 100]).is_err());
    }

    #[test]
    fn lists_with_other_files_than_ours_are_refused() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let read = |bytes: &[u8]| List(bytes).collect::<Result<Vec<Entry>, _>>();
        let good = format!("{digest} 7 logs/p/b/0\n");
        assert_eq!(read(good.repeat(3).as_bytes()).unwrap().len(), 3, "control");
        let path = |path: &str| format!("{good}{digest} 7 {path}\n").into_bytes();
        for bad in [
            path("../logs/p/b/0"),
            path("logs/../../etc/passwd"),
            path("logs/.."),
            path("/logs/p/b/0"),
            path("/etc/passwd"),
            path("logs/p\0/b"),
            path("logs/p b"),
            path(""),
            path(&format!("logs/{}", "x".repeat(4096))),
            good.replace(" 7 ", " -7 ").into_bytes(),
            good.replace(" 7 ", " 18446744073709551616 ").into_bytes(),
            good.replace("sha256", "sha1").into_bytes(),
            good.replace("sha256:0", "sha256:").into_bytes(),
            good.trim_end().as_bytes().to_vec(),
            good.as_bytes()[..20].to_vec(),
            b"\xff\n".to_vec(),
            vec![b'x'; 1 << 20],
        ] {
            let error = read(&bad).unwrap_err();
            assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_list_with_another_digest_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::open(dir.path()).unwrap();
        let open = || List::open(dir.path(), &beneath, &sound()).err();
        assert!(matches!(open(), Some(BackupError::Damaged { .. })), "there is none");
        std::fs::write(dir.path().join(LIST), "").unwrap();
        assert!(matches!(open(), Some(BackupError::Damaged { .. })), "it has another digest");
        let list = pour(io::empty(), &mut io::sink(), Algorithm::Sha256).unwrap().0.to_string();
        let whole = Manifest { list, ..sound() };
        assert!(List::open(dir.path(), &beneath, &whole).is_ok(), "control");
    }

    #[test]
    fn fuzzing_begins_with_documents_that_are_read() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/backup");
        let (mut manifests, mut entries) = (0, 0);
        for seed in std::fs::read_dir(seeds).unwrap() {
            let bytes = std::fs::read(seed.unwrap().path()).unwrap();
            manifests += usize::from(Manifest::parse(Path::new("backup"), &bytes).is_ok());
            entries += List(&bytes[..]).map_while(Result::ok).count();
            for place in 0..bytes.len() {
                exercise(&bytes[..place]);
                for byte in [0, b'\n', b' ', b'.', b'/', b'"', b'9', 0xff] {
                    let mut changed = bytes.clone();
                    changed[place] = byte;
                    exercise(&changed);
                }
            }
        }
        assert!(manifests > 0 && entries > 0, "control");
    }
}
