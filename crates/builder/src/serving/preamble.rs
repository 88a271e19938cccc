//! The first bytes of a connection from the server: eight that name the protocol, one for the kind (`B` or `C`), one for the
//! length of the build's id, the id. The server's end of this is `control` in `cofferdam-fleet`.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What every connection begins with.
const MAGIC: &[u8; 8] = b"cofferd1";
/// Longest id of a build.
const MAX_ID: usize = 64;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Everything on it belongs to this build.
    Build(String),
    /// The server's own questions.
    Control,
}

/// Reads the preamble and not a byte more.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Purpose> {
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 10];
    stream.read_exact(&mut head).await?;
    let (magic, rest) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(bad("a connection does not begin as the server's do"));
    }
    let length = usize::from(rest[1]);
    match (rest[0], length) {
        (b'C', 0) => Ok(Purpose::Control),
        (b'B', 1..=MAX_ID) => {
            let mut id = vec![0; length];
            stream.read_exact(&mut id).await?;
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let id = String::from_utf8(id).ok().filter(|id| id.as_bytes().iter().all(plain));
            id.map(Purpose::Build).ok_or_else(|| bad("a connection names no possible build"))
        }
        _ => Err(bad("a connection is for nothing known")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn reads_what_the_fleet_writes_and_leaves_the_rest() {
        let mut bytes: &[u8] = b"cofferd1B\x02b1PRI * HTTP/2.0";
        assert_eq!(read(&mut bytes).await.unwrap(), Purpose::Build("b1".into()));
        assert_eq!(bytes, b"PRI * HTTP/2.0");
        let mut bytes: &[u8] = b"cofferd1C\x00PRI";
        assert_eq!(read(&mut bytes).await.unwrap(), Purpose::Control);
    }

    #[tokio::test]
    async fn refuses_everything_else() {
        let long = [b"cofferd1B\x41".as_slice(), &[b'x'; 65]].concat();
        for bytes in [
            b"".as_slice(),
            b"cofferd1",
            b"cofferd1B\x00",
            b"cofferd1C\x01b",
            b"cofferd1X\x01b",
            b"cofferd1B\x03b1",
            b"cofferd1B\x03a/b",
            b"cofferd1B\x02\xff\xff",
            b"PRI * HTTP/2.0\r\n\r\n",
            &long,
        ] {
            assert!(read(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
    }
}
