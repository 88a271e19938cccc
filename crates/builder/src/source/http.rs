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
use cofferdam_session::Session;
use cofferdam_solver::{Status, Step};
use cofferdam_store::{Blob, Tree};
use cofferdam_wire::pb;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, HeaderValue};

use super::http_cache::{self, Remembered};
use super::{SourceKey, cancellable};
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::op::file::{Maker, mkfile_from};
use crate::snapshot::{Snapshot, Workspace};

/// Largest file a build may download this way.
const MAX_BYTES: u64 = 32 << 30;
/// Host of URLs that mean "ask the client".
const SESSION_HOST: &str = "buildkit-session";
/// Longest wait for a server that sends nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A finished download.
struct Download {
    blob: Blob,
    name: String,
    modified: Option<i64>,
}

/// The client for downloads.
///
/// # Errors
/// TLS could not be set up.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        .read_timeout(READ_TIMEOUT)
        .connect_timeout(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::limited(10))
        .build()
}

fn file_name(op: &pb::SourceOp, download: &Download) -> String {
    match op.attrs.get("http.filename").filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None => download.name.clone(),
    }
}

/// What names the download: its content and how the file is made.
pub(crate) async fn key(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    step: &Step,
) -> Result<SourceKey, Failure> {
    let download = cancellable(step, download(context, op, url, step)).await?;
    let mut digester = Digester::new();
    digester.field("http");
    digester.field(download.blob.digest().to_string());
    digester.field(file_name(op, &download));
    digester.field(download.modified.unwrap_or(0).to_le_bytes());
    for key in ["http.perm", "http.uid", "http.gid"] {
        digester.field(op.attrs.get(key).map_or("", String::as_str));
    }
    // The file is made after the key was looked up; until then the blob must not be collected.
    context.downloads.keep(url, download.blob, download.modified, download.name);
    Ok(SourceKey { digest: digester.finish(), volatile: false })
}

/// The downloaded file in a directory of its own.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let download = match context.downloads.take(url) {
        Some((blob, modified, name)) => Download { blob, name, modified },
        None => cancellable(step, download(context, op, url, step)).await?,
    };
    let number = |key: &str| op.attrs.get(key).and_then(|text| text.parse::<u32>().ok());
    let (uid, gid) = (number("http.uid").unwrap_or(0), number("http.gid").unwrap_or(0));
    let ids = context.store_ids();
    let owner = ids
        .to_disk(uid)
        .zip(ids.to_disk(gid))
        .ok_or_else(|| Failure::invalid(format!("ids {uid}:{gid} are outside a build's range")))?;
    let mode = match op.attrs.get("http.perm") {
        Some(text) => u32::from_str_radix(text, 8)
            .map_err(|_| Failure::invalid(format!("invalid http.perm {text:?}")))?,
        None => 0o600,
    };
    let name = file_name(op, &download);
    let store = Arc::clone(&context.store);
    let description = format!("download of {}", redacted(url));
    blocking(move || {
        let workspace = Workspace::new(&store, Tree::scratch(), &description)?;
        let maker = Maker { owner: Some(owner), root: owner };
        let mut content = download.blob.open().map_err(Failure::store)?;
        let time = download.modified.map_or(-1, |seconds| seconds.saturating_mul(1_000_000_000));
        mkfile_from(workspace.root(), &name, &mut content, mode, time, maker)
            .map_err(Failure::of)?;
        workspace.commit().map(Snapshot::committed)
    })
    .await?
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

async fn download(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &str,
    step: &Step,
) -> Result<Download, Failure> {
    let parsed = url::Url::parse(url)
        .map_err(|error| Failure::invalid(format!("invalid URL {}: {error}", redacted(url))))?;
    let expected = match op.attrs.get("http.checksum") {
        Some(text) => Some(Digest::parse(text).map_err(Failure::of)?),
        None => None,
    };
    let status = Status::begin(redacted(url), "downloading");
    let download = if parsed.host_str() == Some(SESSION_HOST) {
        let body = upload(context, &parsed, step).await?;
        let blob = save(context, body, &status, 0, step).await?;
        Download { blob, name: "download".to_owned(), modified: None }
    } else {
        let known = http_cache::recall(context, url).await;
        match request(context, op, &parsed, known, step).await? {
            Answer::Unchanged(known, blob) => {
                Download { blob, name: known.name, modified: known.modified }
            }
            Answer::New(response) => new_download(context, url, response, &status, step).await?,
        }
    };
    let found = download.blob.digest();
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(Failure::unknown(format!("digest mismatch {found}: {expected}")));
    }
    Ok(download)
}

/// What a server says.
enum Answer {
    /// What is remembered is current.
    Unchanged(Remembered, Blob),
    /// A file follows.
    New(reqwest::Response),
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

async fn request(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    known: Option<(Remembered, Blob)>,
    step: &Step,
) -> Result<Answer, Failure> {
    let mut request = context.http.get(url.clone());
    if let Some(value) = authorization(context, op, url, step).await? {
        request = request.header(AUTHORIZATION, value);
    }
    if let Some((known, _)) = &known {
        if let Some(etag) = &known.etag {
            request = request.header("if-none-match", etag);
        }
        if let Some(time) = &known.last_modified {
            request = request.header("if-modified-since", time);
        }
    }
    for (key, value) in &op.attrs {
        if let Some(name) = key.strip_prefix("http.header.") {
            request = request.header(name, value);
        }
    }
    // The error of a request names the whole URL, which may hold a token.
    let response = request
        .send()
        .await
        .map_err(|error| Failure::of(error.without_url()).during(&redacted(url.as_str())))?;
    if let (304, Some((known, blob))) = (response.status().as_u16(), known) {
        return Ok(Answer::Unchanged(known, blob));
    }
    if !response.status().is_success() {
        return Err(Failure::unknown(format!(
            "invalid response status {} for {}",
            response.status().as_u16(),
            redacted(url.as_str())
        )));
    }
    Ok(Answer::New(response))
}

/// What proves to the server that the client may download: the secret the graph names, which has to
/// be there then, or one that is named after the host. Redirects to other hosts do not get it.
async fn authorization(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    step: &Step,
) -> Result<Option<HeaderValue>, Failure> {
    let secret = |id: String, prefix: &'static str| async move {
        let mut value = prefix.as_bytes().to_vec();
        value.extend_from_slice(context.secret(step, &id).await?.trim_ascii());
        let mut header = HeaderValue::from_bytes(&value)
            .map_err(|_| Failure::invalid(format!("secret {id} cannot be sent as a header")))?;
        header.set_sensitive(true);
        Ok::<_, Failure>(header)
    };
    if let Some(id) = op.attrs.get("http.authheadersecret").filter(|id| !id.is_empty()) {
        let header = secret(id.clone(), "").await.map_err(|failure| {
            failure.during(&format!("failed to retrieve HTTP auth secret {id}"))
        })?;
        return Ok(Some(header));
    }
    let Some(host) = url.host_str() else { return Ok(None) };
    for (name, prefix) in [("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")] {
        if let Ok(header) = secret(format!("{name}{host}"), prefix).await {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

async fn new_download(
    context: &Arc<Context>,
    url: &str,
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
    let body = response.bytes_stream().map_err(|error| Failure::of(error.without_url())).boxed();
    let blob = save(context, body, status, total, step).await?;
    let remembered =
        Remembered { etag, last_modified, digest: blob.digest(), name: name.clone(), modified };
    http_cache::remember(context, url, &remembered).await;
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

async fn save(
    context: &Arc<Context>,
    mut stream: Body,
    status: &Status,
    total: u64,
    step: &Step,
) -> Result<Blob, Failure> {
    let store = Arc::clone(&context.store);
    let mut writer = blocking(move || store.blob_writer(None)).await?.map_err(Failure::store)?;
    let total = i64::try_from(total).unwrap_or(0);
    let mut received = 0_u64;
    while let Some(chunk) = stream.try_next().await? {
        received += chunk.len() as u64;
        if received > MAX_BYTES {
            return Err(Failure::invalid(format!("download is larger than {MAX_BYTES} bytes")));
        }
        writer = blocking(move || writer.write_all(&chunk).map(|()| writer))
            .await?
            .map_err(Failure::store)?;
        step.progress.status(status.clone().at(i64::try_from(received).unwrap_or(0), total));
    }
    let blob = blocking(move || writer.commit()).await?.map_err(Failure::store)?;
    step.progress.status(status.clone().at(i64::try_from(received).unwrap_or(0), total).done());
    Ok(blob)
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
