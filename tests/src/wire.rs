//! A wire to somebody else's service that a test cuts or holds: bytes pass unread, so that what goes over it may be encrypted.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for a wire to be held.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a connection. Numbers are bytes that pass before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is what it should be.
    None,
    /// It ends among the answers, as when the other machine goes away.
    CutAnswers(u64),
    /// It ends among the questions.
    CutQuestions(u64),
    /// It stays and no more answers come.
    HoldAnswers(u64),
    /// It stays and no more questions are taken.
    HoldQuestions(u64),
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    connections: AtomicUsize,
    cut: AtomicUsize,
    held: AtomicUsize,
}

/// A wire from a loopback port of its own to a service.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Wire {
    /// One to `service` (`host:port`) on which connection `n`, from 0, becomes what `plan` says.
    ///
    /// # Panics
    /// Without a free port.
    #[must_use]
    pub fn to(service: &str, plan: impl Fn(usize) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let (service, shared) = (service.to_owned(), Arc::clone(&wire.shared));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if shared.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let fault = plan(shared.connections.fetch_add(1, Ordering::Relaxed));
                let Ok(far) = TcpStream::connect(&service) else { continue };
                connect(&near, &far, fault, &shared);
            }
        });
        wire
    }

    /// `127.0.0.1:port` of the near end.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// A reference to `name` on the registry at the far end.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// How many connections were cut.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::Relaxed)
    }

    /// Waits until a connection is held.
    ///
    /// # Panics
    /// When that takes a minute.
    pub fn wait_until_held(&self) {
        let begun = Instant::now();
        while self.shared.held.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < PATIENCE, "nothing was held");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Wakes the loop; when that fails it has ended already.
        TcpStream::connect(self.address).ok();
    }
}

/// Passes bytes both ways, each in a thread of its own.
fn connect(near: &TcpStream, far: &TcpStream, fault: Fault, shared: &Arc<Shared>) {
    let (answers, questions, hold) = match fault {
        Fault::None => (u64::MAX, u64::MAX, false),
        Fault::CutAnswers(bytes) => (bytes, u64::MAX, false),
        Fault::CutQuestions(bytes) => (u64::MAX, bytes, false),
        Fault::HoldAnswers(bytes) => (bytes, u64::MAX, true),
        Fault::HoldQuestions(bytes) => (u64::MAX, bytes, true),
    };
    for (from, to, most) in [(far, near, answers), (near, far, questions)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pass(from, to, most, hold, &shared));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, most: u64, hold: bool, shared: &Shared) {
    let mut left = most;
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = from.read(&mut buffer[..wanted]).unwrap_or(0);
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            to.shutdown(Shutdown::Write).ok();
            return;
        }
        left -= count as u64;
    }
    if hold {
        shared.held.fetch_add(1, Ordering::Relaxed);
        while !shared.stopping.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    } else {
        shared.cut.fetch_add(1, Ordering::Relaxed);
    }
    for end in [&from, &to] {
        end.shutdown(Shutdown::Both).ok();
    }
}
