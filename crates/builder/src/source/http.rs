//! Plain downloads: `http://`, `https://`, and archives that the client uploads
//! (`http://buildkit-session/…`).
//!
//! A download is named by the digest of its content, so it has to happen for the key; the file
//! is then made from the blob. Redirects and sizes are bounded, and no credential of a registry
//! is ever sent here.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_digest::{Digest, Digester};
use cofferdam_image::archive;
use cofferdam_image::registry::SystemNames;
use cofferdam_session::Session;
use cofferdam_solver::{CacheMap, Status, Step};
use cofferdam_store::{Blob, BlobWriter};
use cofferdam_wire::pb;
use flate2::write::GzDecoder;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use rustix::fs::{Mode, OFlags};

use super::http_cache::{self, Answers, Download, Place, Remembered};
use super::http_request::{Answer, ask};
use super::single::{self, Single};
use super::{SourceKey, cancellable};
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// Largest file a build may download this way.
const MAX_BYTES: u64 = 32 << 30;
/// Host of URLs that mean "ask the client".
const SESSION_HOST: &str = "buildkit-session";
/// Longest wait for a server that sends nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The client for downloads.
///
/// # Errors
/// TLS could not be set up.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        // Servers tell builders by BuildKit's name.
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION"), " (like buildkit/v0.32)"))
        .dns_resolver(SystemNames)
        .read_timeout(READ_TIMEOUT)
        .connect_timeout(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::limited(10))
        .build()
}

fn file_name(op: &pb::SourceOp, download: &Download) -> String {
    single::given_name(op).unwrap_or_else(|| download.name.clone())
}

/// What names the download: its content and how the file is made.
pub(crate) async fn key(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    step: &Step,
) -> Result<SourceKey, Failure> {
    let place = Place::of(op, url);
    let parsed = parse(op, url)?;
    if let Some(expected) = checksum(op)? {
        // Nothing else can come of it, so nothing has to be asked.
        let mut digester = Digester::new();
        digester.field("http");
        digester.field("pinned");
        digester.field(expected.to_string());
        digester.field(place.digest().as_bytes());
        let pin = Some(expected.to_string().into());
        return Ok(SourceKey { digest: digester.finish(), volatile: false, pin });
    }
    let download = cancellable(step, download(context, op, &parsed, &place, step)).await?;
    let digest = name(op, &download);
    // The file is made after the key was looked up; until then its build holds the blob.
    let pin = download.blob.digest().to_string();
    Ok(SourceKey { digest, volatile: false, pin: Some(pin.into()) })
}

/// What names a download that no checksum holds to its content: everything the file is made of.
fn name(op: &pb::SourceOp, download: &Download) -> Digest {
    let mut digester = Digester::new();
    digester.field("http");
    digester.field(download.blob.digest().to_string());
    digester.field(file_name(op, download));
    digester.field(download.modified.unwrap_or(0).to_le_bytes());
    single::add_to(&mut digester, op);
    digester.finish()
}

/// What a download is called, holds and when it changed.
pub(crate) async fn describe(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    step: &Step,
) -> Result<(String, Digest, Option<i64>), Failure> {
    let place = Place::of(op, url);
    let found = cancellable(step, download(context, op, &parse(op, url)?, &place, step)).await?;
    Ok((file_name(op, &found), found.blob.digest(), found.modified))
}

/// The file that was `named`, or an error when the server has another one by now.
async fn named_download(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    named: &CacheMap,
    step: &Step,
) -> Result<Download, Failure> {
    let place = Place::of(op, url);
    let found = cancellable(step, download(context, op, &parse(op, url)?, &place, step)).await?;
    // What a checksum holds was compared with it already.
    if checksum(op)?.is_none() && name(op, &found) != named.digest {
        return Err(Failure::unknown(format!(
            "{} changed during the build: it was {} and is now {}, or has another name or time",
            redacted(url),
            named.note.as_deref().unwrap_or_default(),
            found.blob.digest()
        )));
    }
    Ok(found)
}

/// The downloaded file in a directory of its own.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    named: &CacheMap,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let download = named_download(context, op, url, named, step).await?;
    let file = Single {
        name: file_name(op, &download),
        blob: download.blob,
        modified: download.modified.unwrap_or(0),
        description: format!("download of {}", redacted(url)),
    };
    single::snapshot(context, op, file).await
}

/// A URL as it may be shown: without user information and query.
pub(crate) fn redacted(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.to_string()
        }
        Err(_) => "an invalid URL".to_owned(),
    }
}

/// When the newest entry of a downloaded archive changed; `None` for what is no archive.
pub(super) async fn newest(files: &Snapshot) -> Result<Option<i64>, Failure> {
    let view = files.view().await?;
    let read = move || -> std::io::Result<Option<i64>> {
        // A download is one file in a directory of its own.
        let names = view.directory("/")?.names()?;
        let Some(name) = names.first().and_then(|name| name.to_str()) else { return Ok(None) };
        let file = view.open(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        archive::newest(std::fs::File::from(file))
    };
    blocking(read).await?.map_err(Failure::store)
}

fn parse(op: &pb::SourceOp, url: &str) -> Result<url::Url, Failure> {
    super::check_supported(op)?;
    url::Url::parse(url)
        .map_err(|error| Failure::invalid(format!("invalid URL {}: {error}", redacted(url))))
}

/// What the content has to be.
fn checksum(op: &pb::SourceOp) -> Result<Option<Digest>, Failure> {
    let text = op.attrs.get("http.checksum").filter(|text| !text.is_empty());
    text.map(|text| Digest::parse(text).map_err(Failure::of)).transpose()
}

/// The file as the builds that want it first got it, or else as it is now.
async fn download(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    place: &Place,
    step: &Step,
) -> Result<Download, Failure> {
    let question = http_cache::question(op, url.as_str());
    let builds: Vec<Arc<Answers>> =
        context.builds_of(step).into_iter().map(|build| build.answers).collect();
    let known = |builds: &[Arc<Answers>]| builds.iter().find_map(|build| build.get(&question));
    let found = match known(&builds) {
        Some(known) => known,
        None => fetch(context, op, url, place, step).await?,
    };
    // Builds that began to want it meanwhile have the same answer.
    for build in
        context.builds_of(step).into_iter().map(|build| build.answers).chain(builds.clone())
    {
        build.keep(question, &found);
    }
    // Another step of the build may have been faster.
    let found = known(&builds).unwrap_or(found);
    let digest = found.blob.digest();
    if let Some(expected) = checksum(op)?.filter(|expected| *expected != digest) {
        return Err(Failure::unknown(format!(
            "digest mismatch for {}: {digest} (expected: {expected})",
            redacted(url.as_str())
        )));
    }
    Ok(found)
}

async fn fetch(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    place: &Place,
    step: &Step,
) -> Result<Download, Failure> {
    let status = Status::begin(redacted(url.as_str()), "downloading");
    if url.host_str() == Some(SESSION_HOST) {
        let body = upload(context, url, step).await?;
        let blob = save(context, body, false, &status, 0, step).await?;
        return Ok(Download { blob, name: "download".to_owned(), modified: None });
    }
    let known = http_cache::recall(context, place).await;
    match ask(context, op, url, known, step).await? {
        Answer::Unchanged(known, blob) => {
            Ok(Download { blob, name: known.name, modified: known.modified })
        }
        Answer::New(response) => new_download(context, place, response, &status, step).await,
    }
}

type Body = BoxStream<'static, Result<Bytes, Failure>>;

async fn upload(context: &Arc<Context>, url: &url::Url, step: &Step) -> Result<Body, Failure> {
    let ids = context.sessions_of(step);
    let path = url.path().to_owned();
    let path = path.as_str();
    let open = |session: Arc<Session>| {
        async move { session.upload_pull(path, SESSION_HOST).await.map_err(Failure::of) }.boxed()
    };
    let stream = context.any_session(&ids, open).await?;
    Ok(stream.map_err(Failure::of).boxed())
}

async fn new_download(
    context: &Arc<Context>,
    place: &Place,
    response: reqwest::Response,
    status: &Status,
    step: &Step,
) -> Result<Download, Failure> {
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let (etag, last_modified) = (header("etag"), header("last-modified"));
    let modified = last_modified.as_deref().and_then(seconds_of_date);
    let name = header("content-disposition")
        .and_then(|text| disposition_name(&text))
        .or_else(|| base_name(response.url()))
        .unwrap_or_else(|| "download".to_owned());
    let total = response.content_length().unwrap_or(0);
    let packed = header("content-encoding").is_some_and(|with| with.eq_ignore_ascii_case("gzip"));
    let body = response.bytes_stream().map_err(|error| Failure::of(error.without_url())).boxed();
    let blob = save(context, body, packed, status, total, step).await?;
    let remembered =
        Remembered { etag, last_modified, digest: blob.digest(), name: name.clone(), modified };
    http_cache::remember(context, place, &remembered).await;
    Ok(Download { blob, name, modified })
}

/// A date of HTTP in any of its three forms
/// ([RFC 9110, 5.6.7](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7)), in seconds since the epoch.
fn seconds_of_date(text: &str) -> Option<i64> {
    const OBSOLETE: [&str; 3] =
        ["%A, %d-%b-%y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S UTC", "%a %b %e %H:%M:%S %Y"];
    if let Ok(time) = chrono::DateTime::parse_from_rfc2822(text) {
        return Some(time.timestamp());
    }
    let parse = |form: &&str| chrono::NaiveDateTime::parse_from_str(text, form).ok();
    OBSOLETE.iter().find_map(parse).map(|time| time.and_utc().timestamp())
}

/// The last component of a URL's path, when it is a plain name.
fn base_name(url: &url::Url) -> Option<String> {
    let name = url.path().rsplit('/').next()?;
    plain_name(name)
}

fn disposition_name(header: &str) -> Option<String> {
    header.split(';').find_map(|part| {
        let value = part.trim().strip_prefix("filename=")?;
        plain_name(value.trim_matches('"'))
    })
}

fn plain_name(name: &str) -> Option<String> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    plain.then(|| name.to_owned())
}

/// Keeps what a server sends. `packed` says that it was compressed for the way.
async fn save(
    context: &Arc<Context>,
    mut stream: Body,
    packed: bool,
    status: &Status,
    total: u64,
    step: &Step,
) -> Result<Blob, Failure> {
    let store = Arc::clone(&context.store);
    let writer = blocking(move || store.blob_writer(None)).await?.map_err(Failure::store)?;
    let mut sink = Sink::new(writer, packed);
    let total = i64::try_from(total).unwrap_or(0);
    let mut received = 0_i64;
    while let Some(chunk) = stream.try_next().await? {
        received = received.saturating_add(i64::try_from(chunk.len()).unwrap_or(i64::MAX));
        sink = blocking(move || sink.write_all(&chunk).map(|()| sink))
            .await?
            .map_err(Failure::store)?;
        step.progress.status(status.clone().at(received, total));
    }
    let blob = blocking(move || sink.finish()).await?.map_err(Failure::store)?;
    step.progress.status(status.clone().at(received, total).done());
    Ok(blob)
}

/// A blob in the making, of which at most [`MAX_BYTES`] are kept however little was sent.
enum Sink {
    Plain(Box<Bounded>),
    Packed(Box<GzDecoder<Bounded>>),
}

struct Bounded {
    writer: BlobWriter,
    left: u64,
}

impl Sink {
    fn new(writer: BlobWriter, packed: bool) -> Self {
        let bounded = Bounded { writer, left: MAX_BYTES };
        if packed {
            Self::Packed(Box::new(GzDecoder::new(bounded)))
        } else {
            Self::Plain(Box::new(bounded))
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(bounded) => bounded.write_all(bytes),
            Self::Packed(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> std::io::Result<Blob> {
        let bounded = match self {
            Self::Plain(bounded) => *bounded,
            Self::Packed(decoder) => decoder.finish()?,
        };
        bounded.writer.commit().map_err(std::io::Error::other)
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        let left = self.left.checked_sub(written as u64).ok_or_else(|| {
            std::io::Error::other(format!("download is larger than {MAX_BYTES} bytes"))
        })?;
        self.left = left;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_dates_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 UTC",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(seconds_of_date(text), Some(784_111_777), "{text}");
        }
        for text in ["", "yesterday", "Sunday, 06-Nov-94"] {
            assert_eq!(seconds_of_date(text), None, "{text}");
        }
    }
}
