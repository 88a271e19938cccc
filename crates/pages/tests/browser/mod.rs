//! A real Chromium, and a small server on loopback that shows it pages as the real server would.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_pages::{PAGE_HEADERS, SECURITY_HEADERS, asset};

/// The longest a browser may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(150);
/// The most bytes of a request that are read.
const MAX_REQUEST: usize = 64 * 1024;

/// How a page is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// With the headers of the real server.
    Full,
    /// As `Full`, but a page of the same origin may frame it: the browser has no window as narrow
    /// as a phone's, so that narrow pages are looked at in a frame.
    Framed,
    /// Without any policy, to see that what the policy forbids would be noticed.
    None,
}

/// A server of fixed pages that remembers what was asked of it.
pub(crate) struct Site {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, (Guard, String)>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let site = Site { address, pages: Arc::default(), requests: Arc::default() };
        let (pages, requests) = (Arc::clone(&site.pages), Arc::clone(&site.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, requests) = (Arc::clone(&pages), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream, &pages, &requests));
            }
        });
        site
    }

    /// Puts a page at a path.
    pub(crate) fn put(&self, path: &str, guard: Guard, html: &str) {
        locked(&self.pages).insert(path.to_owned(), (guard, html.to_owned()));
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The targets that were asked for so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        locked(&self.requests).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    mut stream: TcpStream,
    pages: &Mutex<HashMap<String, (Guard, String)>>,
    requests: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut chunk = [0_u8; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < MAX_REQUEST {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&chunk[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.split(' ').nth(1).unwrap_or("/").to_owned();
    locked(requests).push(target.clone());
    let path = target.split('?').next().unwrap_or("/");
    let mut answer = String::new();
    let body = if let Some(asset) = asset(path) {
        answer += &format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\n", asset.content_type);
        headers(&mut answer, Guard::Full, &[]);
        asset.body.to_vec()
    } else if let Some((guard, html)) = locked(pages).get(path).cloned() {
        answer += "HTTP/1.1 200 OK\r\n";
        headers(&mut answer, guard, PAGE_HEADERS);
        html.into_bytes()
    } else {
        answer += "HTTP/1.1 404 Not Found\r\n";
        Vec::new()
    };
    answer += &format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn headers(answer: &mut String, guard: Guard, more: &[(&str, &str)]) {
    let security = if guard == Guard::None { &[][..] } else { SECURITY_HEADERS };
    for (name, value) in security.iter().chain(more) {
        let value = match (guard, *name) {
            (Guard::Framed, "x-frame-options") => continue,
            (Guard::Framed, _) => value.replace("frame-ancestors 'none'", "frame-ancestors 'self'"),
            _ => (*value).to_owned(),
        };
        *answer += &format!("{name}: {value}\r\n");
    }
}

/// What the browser made of a page.
pub(crate) struct Seen {
    /// The document after it was loaded.
    pub(crate) dom: String,
    /// What went to the console.
    pub(crate) console: Vec<String>,
}

/// Loads a page, lets `milliseconds` of its own time pass, and returns its document.
pub(crate) fn load(url: &str, milliseconds: u32) -> Seen {
    let budget = format!("--virtual-time-budget={milliseconds}");
    let (dom, log) = chromium(&[&budget, "--window-size=1280,900", "--dump-dom", url]);
    let console = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Seen { dom, console }
}

/// Opens a page, and closes the browser once `enough` says so or `patience` is over.
pub(crate) fn visit(url: &str, patience: Duration, enough: impl Fn() -> bool) {
    let _one = locked(&ONE);
    let profile = tempfile::tempdir().expect("a directory for the browser's profile");
    let mut child = start(profile.path(), &["--remote-debugging-port=0", url]);
    let started = Instant::now();
    while !enough() && started.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(100));
    }
    end(&mut child);
}

/// Takes a picture of a page.
pub(crate) fn picture(url: &str, size: (u32, u32), dark: bool, file: &Path) {
    let window = format!("--window-size={},{}", size.0, size.1);
    let file = format!("--screenshot={}", file.display());
    let scheme = if dark { "--force-dark-mode" } else { "--hide-scrollbars" };
    chromium(&[&window, "--hide-scrollbars", scheme, &file, "--virtual-time-budget=1000", url]);
}

/// Browsers are large: one at a time.
static ONE: Mutex<()> = Mutex::new(());

fn chromium(arguments: &[&str]) -> (String, String) {
    let _one = locked(&ONE);
    let profile = tempfile::tempdir().expect("a directory for the browser's profile");
    let mut child = start(profile.path(), arguments);
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("the state of the browser") {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                end(&mut child);
                panic!("chromium did not finish: {arguments:?}");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let read = |name: &str| {
        let bytes = std::fs::read(profile.path().join(name)).expect("the browser's output");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let log = read("err");
    assert!(status.success(), "chromium failed: {status}\n{log}");
    (read("out"), log)
}

/// Starts a browser that leads a process group of its own and keeps everything in `folder`.
fn start(folder: &Path, arguments: &[&str]) -> Child {
    let output = |name: &str| File::create(folder.join(name)).expect("a file");
    Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-dev-shm-usage", "--disable-extensions", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update"])
        .args(["--enable-logging=stderr", "--v=0", "--force-device-scale-factor=1"])
        // Nothing of a page may be fetched from elsewhere, not even by mistake.
        .args(["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(arguments)
        .env("HOME", folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output("out"))
        .stderr(output("err"))
        .spawn()
        .expect("chromium cannot be started: run `make setup`, which installs it")
}

/// Ends a browser and the processes it started, which are its process group.
fn end(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _ = child.wait();
}
