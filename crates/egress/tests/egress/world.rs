//! Network namespaces, a gate process and helpers to act inside them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_egress::{Attachment, GATE_ADDRESS, Gate, MTU, STEP_ADDRESS, control_pair};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

pub(crate) const POLICY: &str = "COFFERDAM_TEST_GATE_POLICY";
/// Says to the gate process which descriptor its control socket is.
pub(crate) const CONTROL: &str = "COFFERDAM_TEST_GATE_CONTROL";

/// The gate's own address towards the world.
pub(crate) const GATE_OUTSIDE: &str = "198.51.100.1";
/// The resolver of the world.
pub(crate) const RESOLVER: &str = "198.51.100.2";
/// A public server.
pub(crate) const SERVER: &str = "198.51.100.3";
/// A private server that is really there.
pub(crate) const PRIVATE: &str = "10.9.9.9";
/// A metadata service that is really there.
pub(crate) const METADATA: &str = "169.254.169.254";

pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    fn new() -> Namespace {
        let fd = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        let namespace = Namespace(Arc::new(fd.join().unwrap()));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread of its own inside.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let fd = Arc::clone(&self.0);
        std::thread::spawn(move || {
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(arguments.split_ascii_whitespace());
        assert!(self.enter(&mut command).status().unwrap().success(), "ip {arguments}");
    }

    fn enter<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let fd = self.0.as_raw_fd();
        // SAFETY: setns is a plain system call on a descriptor that stays open meanwhile.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            })
        }
    }
}

pub(crate) struct World {
    pub(crate) step: Namespace,
    pub(crate) inner: Namespace,
    pub(crate) outer: Namespace,
    pub(crate) gate: Option<Gate>,
    child: Child,
}

pub(crate) fn may_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not run: needs root");
    }
    root
}

impl World {
    /// Three namespaces and a gate with `policy`, written as JSON; the resolver is added.
    pub(crate) fn new(policy: &str) -> World {
        let (step, inner, outer) = (Namespace::new(), Namespace::new(), Namespace::new());
        inner.ip("link add up0 type veth peer name down0");
        let path = format!("/proc/{}/fd/{}", std::process::id(), outer.0.as_raw_fd());
        inner.ip(&format!("link set down0 netns {path}"));
        inner.ip(&format!("addr add {GATE_OUTSIDE}/24 dev up0"));
        inner.ip("link set up0 up");
        inner.ip(&format!("route add default via {RESOLVER}"));
        for address in [RESOLVER, SERVER] {
            outer.ip(&format!("addr add {address}/24 dev down0"));
        }
        outer.ip("link set down0 up");
        for address in [PRIVATE, METADATA] {
            outer.ip(&format!("addr add {address}/32 dev lo"));
        }
        let mut policy: serde_json::Value = serde_json::from_str(policy).unwrap();
        policy["resolvers"] = serde_json::json!([RESOLVER]);
        let (ours, theirs) = control_pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "gate_process", "--ignored", "--nocapture"])
            .env(POLICY, policy.to_string());
        let number = theirs.as_raw_fd();
        command.env(CONTROL, number.to_string());
        // The descriptor keeps its number: a copy to a chosen one would close what that number means in the child,
        // at times the namespace it is about to enter.
        // SAFETY: fcntl is a plain system call; the descriptor is open in the child.
        unsafe {
            command.pre_exec(move || {
                if libc::fcntl(number, libc::F_SETFD, 0) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let child = inner.enter(&mut command).stdout(std::process::Stdio::null()).spawn().unwrap();
        World { step, inner, outer, gate: Some(Gate::new(ours).unwrap()), child }
    }

    /// Makes the step's interface and hands it to the gate.
    pub(crate) async fn attach(&self, flags: i32) -> Attachment {
        let tun = self.interface(flags);
        self.gate.as_ref().unwrap().attach(tun, "RUN test").await.unwrap()
    }

    /// The same for the builder itself.
    pub(crate) async fn attach_builder(&self) -> Attachment {
        let tun = self.interface(0);
        self.gate.as_ref().unwrap().attach_builder(tun).await.unwrap()
    }

    fn interface(&self, flags: i32) -> OwnedFd {
        let tun = self.step.run(move || tun(flags));
        self.step.ip(&format!("addr add {STEP_ADDRESS}/30 dev tun0"));
        self.step.ip(&format!("link set tun0 mtu {MTU} up"));
        self.step.ip(&format!("route add default via {GATE_ADDRESS}"));
        tun
    }

    /// Runs blocking work inside the step without stalling the test's runtime.
    pub(crate) async fn in_step<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = self.step.spawn(work);
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
    }

    /// Starts a server in the world that handles each connection on a thread of its own.
    pub(crate) fn serve(&self, port: u16, handle: impl Fn(TcpStream) + Send + Sync + 'static) {
        let listener = self.outer.run(move || TcpListener::bind(("0.0.0.0", port)).unwrap());
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let handle = Arc::clone(&handle);
                std::thread::spawn(move || handle(stream));
            }
        });
    }

    pub(crate) fn serve_echo(&self, port: u16) {
        self.serve(port, |mut stream| {
            let mut copy = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut copy);
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
    }

    pub(crate) fn serve_udp_echo(&self, port: u16) {
        let socket = self.outer.run(move || UdpSocket::bind((SERVER, port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }

    /// Lets the gate go and checks that its process ends by itself and well.
    pub(crate) async fn end(mut self) {
        self.gate = None;
        for _ in 0..100 {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "the gate ended with {status}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the gate did not end with its control socket");
    }

    pub(crate) fn gate_pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tun(flags: i32) -> OwnedFd {
    let fd = OwnedFd::from(
        std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap(),
    );
    // SAFETY: a zeroed `ifreq` is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI | flags).unwrap();
    // SAFETY: the request is a whole `ifreq` that lives during the call.
    assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) }, 0);
    fd
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

pub(crate) fn connect(address: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at(address, port), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends `data`, ends the sending half, and returns everything that comes back.
pub(crate) fn exchange(address: &str, port: u16, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(address, port)?;
    let mut writer = stream.try_clone()?;
    let data = data.to_vec();
    let sender = std::thread::spawn(move || {
        writer.write_all(&data)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    sender.join().unwrap()?;
    Ok(back)
}
