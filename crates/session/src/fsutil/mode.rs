//! Go's `os.FileMode` bits, the mode of every stat on this wire, and the kernel's.

use rustix::fs::{FileType, Mode};

/// A file mode as Go writes it: type and special bits above, permissions in the low nine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoMode(pub u32);

impl GoMode {
    const DIR: u32 = 1 << 31;
    const SYMLINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const NAMED_PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const CHAR_DEVICE: u32 = 1 << 21;
    const STICKY: u32 = 1 << 20;
    const IRREGULAR: u32 = 1 << 19;
    const TYPE: u32 = Self::DIR
        | Self::SYMLINK
        | Self::DEVICE
        | Self::NAMED_PIPE
        | Self::SOCKET
        | Self::CHAR_DEVICE
        | Self::IRREGULAR;

    /// From a kernel `st_mode`.
    #[must_use]
    pub fn from_unix(mode: u32) -> Self {
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => 0,
            FileType::Directory => Self::DIR,
            FileType::Symlink => Self::SYMLINK,
            FileType::BlockDevice => Self::DEVICE,
            FileType::CharacterDevice => Self::DEVICE | Self::CHAR_DEVICE,
            FileType::Fifo => Self::NAMED_PIPE,
            FileType::Socket => Self::SOCKET,
            _ => Self::IRREGULAR,
        };
        let mut bits = kind | (mode & 0o777);
        for (unix, go) in [(0o4000, Self::SETUID), (0o2000, Self::SETGID), (0o1000, Self::STICKY)] {
            if mode & unix != 0 {
                bits |= go;
            }
        }
        Self(bits)
    }

    /// The kernel's file type; `None` for combinations no kernel object has.
    #[must_use]
    pub const fn file_type(self) -> Option<FileType> {
        match self.0 & Self::TYPE {
            0 => Some(FileType::RegularFile),
            Self::DIR => Some(FileType::Directory),
            Self::SYMLINK => Some(FileType::Symlink),
            Self::DEVICE => Some(FileType::BlockDevice),
            bits if bits == Self::DEVICE | Self::CHAR_DEVICE => Some(FileType::CharacterDevice),
            Self::NAMED_PIPE => Some(FileType::Fifo),
            Self::SOCKET => Some(FileType::Socket),
            _ => None,
        }
    }

    /// Permissions and special bits as the kernel has them.
    #[must_use]
    pub fn permissions(self) -> Mode {
        let mut mode = self.0 & 0o777;
        for (unix, go) in [(0o4000, Self::SETUID), (0o2000, Self::SETGID), (0o1000, Self::STICKY)] {
            if self.0 & go != 0 {
                mode |= unix;
            }
        }
        Mode::from_raw_mode(mode)
    }

    /// The same mode without its socket bit: a socket travels as an empty file.
    #[must_use]
    pub const fn without_socket(self) -> Self {
        Self(self.0 & !Self::SOCKET)
    }

    /// Whether this is a directory.
    #[must_use]
    pub const fn is_dir(self) -> bool {
        self.0 & Self::DIR != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_modes_survive_the_round_trip() {
        for mode in
            [0o100_644, 0o104_755, 0o042_755, 0o041_777, 0o120_777, 0o060_660, 0o020_600, 0o010_644]
        {
            let go = GoMode::from_unix(mode);
            assert_eq!(go.permissions().as_raw_mode(), mode & 0o7777, "{mode:o}");
            assert_eq!(go.file_type(), Some(FileType::from_raw_mode(mode)), "{mode:o}");
        }
    }

    #[test]
    fn impossible_types_are_none() {
        assert_eq!(GoMode(GoMode::DIR | GoMode::SYMLINK).file_type(), None);
        assert_eq!(GoMode(GoMode::CHAR_DEVICE).file_type(), None);
        assert_eq!(GoMode(GoMode::IRREGULAR).file_type(), None);
        assert_eq!(
            GoMode(GoMode::SOCKET | 0o644).without_socket().file_type(),
            Some(FileType::RegularFile)
        );
    }
}
