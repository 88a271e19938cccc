//! The client against registries that are slow, stall, break off TLS, or want to be asked less.
#![allow(clippy::unwrap_used)]

mod common {
    pub(crate) mod server;
}

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::registry::{
    Anonymous, Client, ClientConfig, HostConfig, Pushed, RegistryError, Repository,
};
use cofferdam_image::{Descriptor, Manifest, Reference, media};
use common::server::{Reply, Server};
use futures::TryStreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a test may take: a client that waits for ever fails it.
const PATIENCE: Duration = Duration::from_secs(60);

trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

type Stream = BufReader<Box<dyn Wire>>;

struct Head {
    method: String,
    path: String,
    length: usize,
    /// Where an asked range starts.
    start: usize,
}

/// A server that decides byte by byte what goes over the wire.
struct Registry {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start(serve: impl Fn(&Head, &mut Stream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::over(|socket| -> Box<dyn Wire> { Box::new(socket) }, serve)
    }

    fn over(
        wrap: impl Fn(TcpStream) -> Box<dyn Wire> + Send + Sync + 'static,
        serve: impl Fn(&Head, &mut Stream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let behaviour = Arc::new((wrap, serve));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(socket), log, behaviour) =
                    (socket, Arc::clone(&log), Arc::clone(&behaviour))
                else {
                    return;
                };
                std::thread::spawn(move || {
                    let (wrap, serve) = &*behaviour;
                    let mut stream = BufReader::new(wrap(socket));
                    let Some(head) = read_head(&mut stream) else { return };
                    log.lock().unwrap().push(head.method.clone());
                    // The client may be gone.
                    let _ = serve(&head, &mut stream);
                });
            }
        });
        Self { host, asked }
    }

    /// A registry without blobs that does with an upload what `put` says.
    fn taking(put: impl Fn(&Head, &mut Stream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start(move |head, stream| match head.method.as_str() {
            "HEAD" => reply(stream, 404, "", b""),
            "POST" => reply(stream, 202, "Location: /upload\r\n", b""),
            _ => put(head, stream),
        })
    }

    fn count(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == method).count()
    }
}

fn read_head(stream: &mut Stream) -> Option<Head> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut start) = (0, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        let number = |text: &str| text.trim_end_matches('-').parse::<usize>().unwrap();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = number(value.trim()),
            "range" => start = number(value.trim().trim_start_matches("bytes=")),
            _ => {}
        }
    }
    Some(Head { method, path, length, start })
}

fn reply(stream: &mut Stream, status: u16, headers: &str, body: &[u8]) -> io::Result<()> {
    begin(stream, status, &format!("Content-Length: {}\r\n{headers}", body.len()))?;
    stream.get_mut().write_all(body)?;
    stream.get_mut().flush()
}

fn begin(stream: &mut Stream, status: u16, headers: &str) -> io::Result<()> {
    write!(stream.get_mut(), "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n")
}

/// Answers with `length` bytes, `piece` of them every ten milliseconds.
fn drip(stream: &mut Stream, length: usize, piece: usize) -> io::Result<()> {
    begin(stream, 200, &format!("Content-Length: {length}\r\n"))?;
    let mut left = length;
    while left > 0 {
        let size = piece.min(left);
        stream.get_mut().write_all(&vec![b' '; size])?;
        stream.get_mut().flush()?;
        left -= size;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Keeps the connection and does nothing with it.
fn hold() -> ! {
    loop {
        std::thread::park();
    }
}

fn take(head: &Head, stream: &mut Stream) -> io::Result<()> {
    stream.read_exact(&mut vec![0; head.length])
}

fn repository(host: &str, config: ClientConfig) -> Repository {
    let config = ClientConfig { backoff: Duration::from_millis(2), attempts: 3, ..config };
    let name = Reference::parse(&format!("{host}/x")).unwrap();
    Client::new(config).unwrap().repository(&name, Arc::new(Anonymous))
}

fn patient_for(read_timeout: Duration) -> ClientConfig {
    ClientConfig { read_timeout, ..ClientConfig::default() }
}

/// The servers here do not look at digests.
fn layer(size: usize) -> Descriptor {
    Descriptor::new(media::OCI_LAYER, Digest::of(b"layer"), size as u64)
}

async fn push(repository: &Repository, size: usize) -> Result<Pushed, RegistryError> {
    let (descriptor, body) = (layer(size), Bytes::from(vec![0; size]));
    tokio::time::timeout(PATIENCE, repository.push_blob(&descriptor, &body, None)).await.unwrap()
}

async fn read(repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let chunks = repository.blob(descriptor, 0).try_collect::<Vec<Bytes>>();
    let chunks = tokio::time::timeout(PATIENCE, chunks).await.unwrap()?;
    Ok(chunks.concat())
}

fn assert_stalled<T: std::fmt::Debug>(result: Result<T, RegistryError>, reason: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[tokio::test]
async fn an_upload_may_take_longer_than_any_silence() {
    let registry = Registry::taking(|head, stream| {
        let (mut left, mut buffer) = (head.length, vec![0; 256 << 10]);
        while left > 0 {
            let size = left.min(buffer.len());
            stream.read_exact(&mut buffer[..size])?;
            left -= size;
            std::thread::sleep(Duration::from_millis(20));
        }
        reply(stream, 201, "", b"")
    });
    let silence = Duration::from_secs(1);
    let started = Instant::now();
    let pushed = push(&repository(&registry.host, patient_for(silence)), 32 << 20).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(started.elapsed() > 2 * silence, "the test has to be slower than the limit");
    assert_eq!(registry.count("PUT"), 1, "the upload was begun anew");
}

#[tokio::test]
async fn an_upload_that_nobody_takes_ends() {
    let registry = Registry::taking(|_, _| hold());
    let repository = repository(&registry.host, patient_for(Duration::from_millis(500)));
    assert_stalled(push(&repository, 64 << 20).await, "nothing of the content was taken in 500ms");
    assert_eq!(registry.count("PUT"), 2);
}

#[tokio::test]
async fn the_answer_to_an_upload_may_be_late_and_not_too_late() {
    let late = Registry::taking(|head, stream| {
        take(head, stream)?;
        std::thread::sleep(Duration::from_millis(1200));
        reply(stream, 201, "", b"")
    });
    let config = patient_for(Duration::from_millis(500));
    let pushed = push(&repository(&late.host, config), 1000).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(late.count("PUT"), 1);
    let never = Registry::taking(|head, stream| {
        take(head, stream)?;
        hold()
    });
    let config = ClientConfig {
        answer_timeout: Duration::from_millis(300),
        ..patient_for(Duration::from_secs(5))
    };
    assert_stalled(push(&repository(&never.host, config), 1000).await, "no answer came in 300ms");
    assert_eq!(never.count("PUT"), 2);
}

#[tokio::test]
async fn silence_and_drops_are_no_answer() {
    let silent = Registry::start(|_, _| hold());
    let quick = || patient_for(Duration::from_millis(300));
    let fetched = repository(&silent.host, quick()).fetch("1").await;
    assert_stalled(fetched, "no answer came in 300ms");
    assert_eq!(silent.count("GET"), 3);
    // A byte now and then is no better, though there never is a silence.
    let dripping = Registry::start(|_, stream| drip(stream, 100_000, 1));
    let content = read(&repository(&dripping.host, quick()), &layer(100_000)).await;
    assert_stalled(content, "next to nothing of the content came in 300ms");
    assert_eq!(dripping.count("GET"), 3);
    let fetched = tokio::time::timeout(PATIENCE, async {
        repository(&dripping.host, quick()).fetch("1").await
    });
    assert_stalled(fetched.await.unwrap(), "next to nothing of the content came in 300ms");
    // What is slow and goes on is waited for.
    let steady = Registry::start(|_, stream| drip(stream, 20_000, 200));
    let content = read(&repository(&steady.host, quick()), &layer(20_000)).await.unwrap();
    assert_eq!(content.len(), 20_000);
    assert_eq!(steady.count("GET"), 1);
}

#[tokio::test]
async fn our_own_slowness_breaks_no_download() {
    let registry = Registry::start(|_, stream| reply(stream, 200, "", &[7; 400_000]));
    let silence = Duration::from_millis(300);
    let repository = repository(&registry.host, patient_for(silence));
    let mut stream = repository.blob(&layer(400_000), 0);
    let first = stream.try_next().await.unwrap().unwrap();
    assert!(first.len() < 400_000);
    tokio::time::sleep(2 * silence).await;
    let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(first.len() + rest.iter().map(Bytes::len).sum::<usize>(), 400_000);
    assert_eq!(registry.count("GET"), 1, "the download was interrupted");
}

fn tls() -> Arc<rustls::ServerConfig> {
    let dir = tempfile::tempdir().unwrap();
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -subj /CN=localhost -days 30";
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output();
    assert!(made.is_ok_and(|made| made.status.success()), "the Debian package openssl is needed");
    let certificate = CertificateDer::from_pem_file(dir.path().join("cert")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.path().join("key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate], key)
    .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn tls_that_is_cut_off_is_not_the_end_of_the_content() {
    const SIZE: usize = 160_000;
    let content: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
    let served = content.clone();
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(media::OCI_MANIFEST, config, Vec::new());
    let mut manifest = serde_json::to_vec(&manifest).unwrap();
    let typed = format!("Content-Type: {}\r\n", media::OCI_MANIFEST);
    let tls = tls();
    let wrap = move |socket: TcpStream| -> Box<dyn Wire> {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        Box::new(rustls::StreamOwned::new(connection, socket))
    };
    // Even without the white space that follows them, these bytes are a manifest.
    let complete = manifest.len();
    manifest.resize(complete + 1000, b' ');
    let registry = Registry::over(wrap, move |head, stream| {
        if head.path.ends_with("/manifests/whole") {
            return reply(stream, 200, &typed, &manifest);
        }
        if head.path.ends_with("/manifests/cut") {
            begin(stream, 200, &typed)?;
            stream.get_mut().write_all(&manifest[..complete + 500])?;
            return stream.get_mut().flush();
        }
        let (start, end) = (head.start, SIZE.min(head.start + 50_000));
        let length = format!("Content-Length: {}\r\n", SIZE - start);
        let range = format!("Content-Range: bytes {start}-{}/{SIZE}\r\n", SIZE - 1);
        begin(stream, if start == 0 { 200 } else { 206 }, &(length + &range))?;
        stream.get_mut().write_all(&served[start..end])?;
        stream.get_mut().flush()
    });
    let host = HostConfig { http: Some(false), insecure: true, ..HostConfig::default() };
    let hosts = [(registry.host.clone(), host)].into();
    let repository = repository(&registry.host, ClientConfig { hosts, ..ClientConfig::default() });
    assert_eq!(read(&repository, &layer(SIZE)).await.unwrap(), content);
    assert_eq!(registry.count("GET"), 4);
    assert!(repository.fetch("whole").await.is_ok());
    let cut = repository.fetch("cut").await;
    assert!(matches!(cut, Err(RegistryError::Transport { .. })), "{cut:?}");
}

fn manifest_reply() -> Reply {
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(media::OCI_MANIFEST, config, Vec::new());
    let body = serde_json::to_vec(&manifest).unwrap();
    Reply::new(200).header("Content-Type", media::OCI_MANIFEST).body(body)
}

/// Answers 429 so often, each time with what `when` says.
fn limited(times: usize, when: impl Fn() -> String + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        number if number < times => Reply::new(429).header("Retry-After", when()),
        _ => manifest_reply(),
    })
}

#[tokio::test]
async fn a_limit_that_ends_soon_is_waited_for() {
    let seconds = limited(1, || "1".to_owned());
    let date = limited(1, || {
        let soon = chrono::Utc::now() + Duration::from_secs(2);
        soon.format("%A, %d-%b-%y %H:%M:%S GMT").to_string()
    });
    for server in [seconds, date] {
        let started = Instant::now();
        let repository = repository(&server.host, ClientConfig::default());
        repository.fetch("1").await.unwrap();
        assert!(started.elapsed() > Duration::from_millis(900), "nobody waited");
        assert_eq!(server.asked().len(), 2);
    }
    // More often than a registry in trouble would be asked.
    let long = limited(7, || "0".to_owned());
    repository(&long.host, ClientConfig::default()).fetch("1").await.unwrap();
    assert_eq!(long.asked().len(), 8);
}

#[tokio::test]
async fn a_limit_that_lasts_is_told() {
    const SAID: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let server = Server::start(|_| Reply::new(429).header("Retry-After", "3600").body(SAID));
    let error = repository(&server.host, ClientConfig::default()).fetch("1").await.unwrap_err();
    let hour = Some(Duration::from_secs(3600));
    assert!(
        matches!(error, RegistryError::RateLimited { after, .. } if after == hour),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        format!(
            "rate-limited by {} (429 Too Many Requests), asks to come again in 3600 s: \
             toomanyrequests: slow down",
            server.host
        )
    );
    assert_eq!(server.asked().len(), 1, "a registry that is asked for rest was asked again");
    // A limit that never ends is waited for as long as all waits together may take.
    let endless = limited(usize::MAX, || "0".to_owned());
    let max_retry_after = Duration::from_millis(100);
    let config = ClientConfig { max_retry_after, ..ClientConfig::default() };
    let error = repository(&endless.host, config).fetch("1").await.unwrap_err();
    assert!(matches!(error, RegistryError::RateLimited { .. }), "{error:?}");
    assert!((4..10).contains(&endless.asked().len()), "{}", endless.asked().len());
}

#[tokio::test]
async fn uploads_heed_limits() {
    for (asked, works) in [("0", true), ("3600", false)] {
        let count = AtomicUsize::new(0);
        let registry = Registry::taking(move |head, stream| {
            take(head, stream)?;
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => reply(stream, 429, &format!("Retry-After: {asked}\r\n"), b""),
                _ => reply(stream, 201, "", b""),
            }
        });
        let pushed = push(&repository(&registry.host, ClientConfig::default()), 1000).await;
        match pushed {
            Ok(pushed) => assert!(works && pushed == Pushed::Uploaded),
            Err(error) => {
                assert!(!works && matches!(error, RegistryError::RateLimited { .. }), "{error:?}");
            }
        }
        assert_eq!(registry.count("PUT"), if works { 2 } else { 1 });
    }
}
