//! Headers of entries: one USTAR block, with PAX records before it where a field does not fit.
//!
//! Which records there are, their order and the leftovers in the block after them are what Go's
//! `archive/tar` makes of them; digests depend on every byte.

use super::{BLOCK, LAYER_TIME};

/// Bytes of the fields `name` and `linkname`.
const NAME: usize = 100;
/// Bytes of the field `prefix`.
const PREFIX: usize = 155;
/// Largest number in a field of eight bytes: seven octal digits.
const MAX_SHORT: u64 = (1 << 21) - 1;
/// Largest number in a field of twelve bytes: eleven octal digits.
const MAX_LONG: u64 = (1 << 33) - 1;

/// Owner and mode of an entry.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// What a header says.
pub(super) struct Entry<'a> {
    pub(super) path: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) flag: u8,
    pub(super) owner: Owner,
    pub(super) size: u64,
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl<'a> Entry<'a> {
    pub(super) fn new(path: &'a [u8], flag: u8, owner: Owner) -> Self {
        Self { path, target: b"", flag, owner, size: 0, major: 0, minor: 0 }
    }

    /// The blocks before the contents; otherwise which number does not fit.
    pub(super) fn blocks(&self) -> Result<Vec<u8>, (&'static str, u64)> {
        for (what, number) in [("device number", self.major), ("device number", self.minor)] {
            if u64::from(number) > MAX_SHORT {
                return Err((what, number.into()));
            }
        }
        let records = self.records();
        let split = split(self.path);
        // A long name alone can be split; then its record is not needed.
        let name_only = records.iter().all(|(key, _)| *key == "path");
        if records.is_empty() || (name_only && split.is_some()) {
            let (prefix, name) = split.unwrap_or((b"", self.path));
            return Ok(self.block(prefix, name, self.target).to_vec());
        }
        let mut blocks = extension(self.path, &records);
        let (name, target) = (ascii(self.path), ascii(self.target));
        blocks.extend_from_slice(&self.block(b"", &name, &target));
        Ok(blocks)
    }

    /// Fields that do not fit into a block, by key.
    fn records(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut records = Vec::new();
        let mut number = |key, number: u64, max| {
            if number > max {
                records.push((key, number.to_string().into_bytes()));
            }
        };
        number("gid", self.owner.gid.into(), MAX_SHORT);
        number("uid", self.owner.uid.into(), MAX_SHORT);
        number("size", self.size, MAX_LONG);
        for (key, text) in [("linkpath", self.target), ("path", self.path)] {
            if text.len() > NAME || !text.is_ascii() {
                records.push((key, text.to_vec()));
            }
        }
        records.sort_unstable();
        records
    }

    fn block(&self, prefix: &[u8], name: &[u8], target: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..100], name);
        octal(&mut block[100..108], (self.owner.mode & 0o7777).into());
        octal(&mut block[108..116], short(self.owner.uid));
        octal(&mut block[116..124], short(self.owner.gid));
        octal(&mut block[124..136], if self.size > MAX_LONG { 0 } else { self.size });
        octal(&mut block[136..148], LAYER_TIME);
        block[156] = self.flag;
        text(&mut block[157..257], target);
        octal(&mut block[329..337], self.major.into());
        octal(&mut block[337..345], self.minor.into());
        text(&mut block[345..500], prefix);
        seal(&mut block);
        block
    }
}

/// The entry with the records, and its contents.
fn extension(path: &[u8], records: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let mut name = path[..slash].to_vec();
    name.extend_from_slice(b"PaxHeaders.0/");
    name.extend_from_slice(&path[slash..]);
    let mut name = ascii(&name);
    name.truncate(NAME);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let mut block = [0; BLOCK];
    text(&mut block[..100], &name);
    for field in [100..108, 108..116, 116..124, 136..148] {
        octal(&mut block[field], 0);
    }
    octal(&mut block[124..136], data.len() as u64);
    block[156] = b'x';
    seal(&mut block);
    let mut blocks = block.to_vec();
    blocks.extend_from_slice(&data);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    blocks
}

/// `<length> <key>=<value>\n`; the length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// The parts of a name that is too long for its field, cut at a slash; `None` when it is not too
/// long, or has no such slash.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME || !path.is_ascii() {
        return None;
    }
    let within = path.len().min(PREFIX + 1);
    let at = path[..within].iter().rposition(|byte| *byte == b'/').filter(|at| *at > 0)?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (!name.is_empty() && name.len() <= NAME).then_some((prefix, name))
}

/// What is left of a name in a block that has its record before it.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| byte.is_ascii() && *byte != 0).collect()
}

fn short(id: u32) -> u64 {
    let id = u64::from(id);
    if id > MAX_SHORT { 0 } else { id }
}

fn text(field: &mut [u8], text: &[u8]) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    // A name that is cut after a slash would be taken for a directory's.
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let end = field.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        field[end] = 0;
    }
}

/// Octal digits with leading zeros, then NUL; callers have checked that it fits.
fn octal(field: &mut [u8], number: u64) {
    let digits = format!("{number:0width$o}", width = field.len() - 1);
    field[..digits.len()].copy_from_slice(digits.as_bytes());
    field[digits.len()..].fill(0);
}

/// Puts the format and the checksum into a header.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
}
