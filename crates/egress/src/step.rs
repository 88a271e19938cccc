//! One attached step: reads its packets, tells flows apart, and decides on new ones.
//!
//! Everything per step is bounded by the constants here. A packet is either given to a known flow, opens one after a decision,
//! or is answered and forgotten; the reader never waits for a flow.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::control::Report;
use crate::flows::{OpenFlows, Started};
use crate::gate::Outside;
use crate::names::Names;
use crate::packet::{BARE_TCP, Ipv4, Segment, TCP, UDP, parse_udp};
use crate::record::{Connection, Protocol, StepName, Verdict};
use crate::reports::Reports;
use crate::tun::{PACKET_BUFFER, Tun};
use crate::{GATE_ADDRESS, STEP_ADDRESS, dns, tcp, udp};

/// TCP connections of one step at a time; parallel downloads use some dozens.
const MAX_TCP: usize = 1024;
/// UDP flows of one step at a time.
const MAX_UDP: usize = 512;
/// Lookups of one step under way at a time.
const MAX_LOOKUPS: usize = 128;
/// Packets read before flows get their turn.
const BATCH: usize = 32;
/// Largest first packet of a connection: two full headers. More is data sent ahead, which the step sends again after.
const MAX_SYN: usize = 120;
/// Refused destinations remembered, so that retries are counted and not listed again.
const MAX_REPEATED: usize = 1024;
/// Port of the name service.
const DNS_PORT: u16 = 53;
/// Any port will do to ask the kernel for a route.
const DISCARD_PORT: u16 = 9;

/// What tells flows of one step apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    source_port: u16,
    pub(crate) destination: SocketAddrV4,
}

impl Key {
    pub(crate) fn source(self) -> SocketAddrV4 {
        SocketAddrV4::new(STEP_ADDRESS, self.source_port)
    }

    pub(crate) fn is_name_service(self) -> bool {
        *self.destination.ip() == GATE_ADDRESS && self.destination.port() == DNS_PORT
    }
}

#[derive(Debug)]
pub(crate) struct Step {
    id: u32,
    pub(crate) name: StepName,
    pub(crate) tun: Tun,
    pub(crate) outside: Rc<Outside>,
    reports: Rc<Reports>,
    pub(crate) names: RefCell<Names>,
    tcp: RefCell<HashMap<Key, Rc<tcp::Flow>>>,
    udp: RefCell<HashMap<Key, Rc<udp::Flow>>>,
    pub(crate) open: OpenFlows,
    repeated: RefCell<HashSet<(Protocol, Option<String>, SocketAddrV4)>>,
    lookups: Cell<usize>,
}

/// What the gate wants of a step that runs. At most as many wait as the builder may send requests ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Report what is open.
    Flush,
    /// End.
    Stop,
}

/// Serves a step until it is ordered to stop (or the sender's end), then ends its flows and reports the end.
pub(crate) async fn run(
    id: u32,
    name: StepName,
    tun: Tun,
    outside: Rc<Outside>,
    reports: Rc<Reports>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let step = Rc::new(Step {
        id,
        name,
        tun,
        outside,
        reports: Rc::clone(&reports),
        names: RefCell::default(),
        tcp: RefCell::default(),
        udp: RefCell::default(),
        open: OpenFlows::default(),
        repeated: RefCell::default(),
        lookups: Cell::new(0),
    });
    let mut flows = JoinSet::new();
    let lost = tokio::select! {
        () = step.obey(&mut orders) => None,
        error = step.serve(&mut flows) => Some(error),
    };
    flows.shutdown().await;
    if let Some(error) = lost {
        tracing::debug!(step = %step.name, %error, "the interface of the step is gone");
        step.obey(&mut orders).await;
    }
    reports.finish(id);
    // Its flows are gone, so nobody else has it.
    if let Ok(step) = Rc::try_unwrap(step) {
        step.tun.close();
    }
}

impl Step {
    /// Reports what is open as often as that is wanted; returns when the step is to end.
    async fn obey(&self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        while let Some(Order::Flush) = orders.recv().await {
            for flow in self.open.borrow().values() {
                flow.report(self, None);
            }
            self.reports.answer(Report::Flushed { id: self.id });
        }
    }

    /// Reads packets until the interface fails.
    async fn serve(self: &Rc<Step>, flows: &mut JoinSet<()>) -> io::Error {
        let mut buffer = vec![0; PACKET_BUFFER];
        loop {
            let mut ready = match self.tun.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            for _ in 0..BATCH {
                match self.tun.read(&mut buffer) {
                    Ok(packet) => self.packet(packet, flows),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return error,
                }
            }
            while let Some(ended) = flows.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(step = %self.name, %error, "a flow ended badly");
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn packet(self: &Rc<Step>, packet: &[u8], flows: &mut JoinSet<()>) {
        let Some(ip) = Ipv4::parse(packet) else { return };
        // Anything else is forged: the interface has one address.
        if ip.source != STEP_ADDRESS {
            return;
        }
        match ip.protocol {
            TCP => self.segment(&ip, flows),
            UDP => self.datagram(&ip, flows),
            _ => {}
        }
    }

    fn segment(self: &Rc<Step>, ip: &Ipv4<'_>, flows: &mut JoinSet<()>) {
        let Some(segment) = Segment::parse(ip.payload) else { return };
        let destination = SocketAddrV4::new(ip.destination, segment.destination_port);
        let key = Key { source_port: segment.source_port, destination };
        let known = self.tcp.borrow().get(&key).cloned();
        match known {
            Some(flow) => flow.ingress(ip.packet, segment.resets(), self),
            None if segment.opens() => self.connect(key, ip, flows),
            None => self.refuse(ip, &segment),
        }
    }

    /// Decides on a new TCP connection.
    fn connect(self: &Rc<Step>, key: Key, ip: &Ipv4<'_>, flows: &mut JoinSet<()>) {
        if ip.packet.len() > MAX_SYN {
            return;
        }
        let syn = ip.packet.to_vec();
        let verdict = match key.is_name_service() {
            true => Verdict::allowed("name service"),
            false => self.decide(key.destination),
        };
        let full = self.open_flows() >= MAX_TCP;
        let verdict = if full && !verdict.is_denied() {
            Verdict::denied(format!("more than {MAX_TCP} connections"))
        } else {
            verdict
        };
        if verdict.is_denied() {
            self.refuse_packet(&syn);
            return self.denied(key.destination, Protocol::Tcp, None, verdict);
        }
        let flow = Rc::new(tcp::Flow::default());
        self.tcp.borrow_mut().insert(key, Rc::clone(&flow));
        let started = Started::new(Rc::clone(self), key, Protocol::Tcp, verdict);
        if key.is_name_service() {
            flows.spawn_local(tcp::serve_names(started, flow, syn));
        } else {
            flows.spawn_local(tcp::relay(started, flow, syn));
        }
    }

    fn datagram(self: &Rc<Step>, ip: &Ipv4<'_>, flows: &mut JoinSet<()>) {
        let Some((source_port, port, payload)) = parse_udp(ip.payload) else { return };
        let key = Key { source_port, destination: SocketAddrV4::new(ip.destination, port) };
        if key.is_name_service() {
            return self.lookup(key, payload, flows);
        }
        let known = self.udp.borrow().get(&key).cloned();
        if let Some(flow) = known {
            return flow.ingress(payload);
        }
        let full = self.udp.borrow().len() >= MAX_UDP;
        let verdict = if full {
            Verdict::denied(format!("more than {MAX_UDP} UDP flows"))
        } else {
            self.decide(key.destination)
        };
        if verdict.is_denied() {
            return self.denied(key.destination, Protocol::Udp, None, verdict);
        }
        let mut started = Started::new(Rc::clone(self), key, Protocol::Udp, verdict);
        match udp::Flow::open(key.destination, Rc::clone(&started.open)) {
            Ok(flow) => {
                let flow = Rc::new(flow);
                flow.ingress(payload);
                self.udp.borrow_mut().insert(key, Rc::clone(&flow));
                flows.spawn_local(udp::relay(started, flow));
            }
            Err(error) => started.failure = Some(error.to_string()),
        }
    }

    /// Answers a lookup sent as a datagram. Those beyond the cap are dropped, which makes a resolver try again later.
    fn lookup(self: &Rc<Step>, key: Key, query: &[u8], flows: &mut JoinSet<()>) {
        let Some(slot) = self.lookup_slot() else { return self.reports.repeated(self.id) };
        let query = query.to_vec();
        flows.spawn_local(async move {
            if let Some(answer) = dns::answer(&slot.0, &query, dns::Transport::Udp).await {
                slot.0.tun.send_datagram(key.destination, key.source(), &answer);
            }
        });
    }

    /// Room for one more lookup, given back when dropped.
    pub(crate) fn lookup_slot(self: &Rc<Step>) -> Option<LookupSlot> {
        let now = self.lookups.get();
        (now < MAX_LOOKUPS).then(|| {
            self.lookups.set(now + 1);
            LookupSlot(Rc::clone(self))
        })
    }

    fn decide(&self, destination: SocketAddrV4) -> Verdict {
        let names = self.names.borrow().of(*destination.ip());
        let address = SocketAddr::V4(destination);
        let near = if self.outside.resolvers.iter().any(|resolver| resolver.ip() == address.ip()) {
            Some("address of a resolver")
        } else if is_own(destination.ip()) {
            Some("address of this host")
        } else {
            None
        };
        self.outside.policy.decide_near(address, &names, near)
    }

    /// Records a refusal; the second and later ones of the same kind are counted.
    pub(crate) fn denied(
        &self,
        destination: SocketAddrV4,
        protocol: Protocol,
        name: Option<&str>,
        verdict: Verdict,
    ) {
        let key = (protocol, name.map(str::to_owned), destination);
        let mut repeated = self.repeated.borrow_mut();
        if repeated.contains(&key) {
            return self.reports.repeated(self.id);
        }
        if repeated.len() >= MAX_REPEATED {
            repeated.clear();
        }
        repeated.insert(key);
        drop(repeated);
        let name = name.map(str::to_owned).or_else(|| self.name_of(*destination.ip()));
        self.reports.connection(
            self.id,
            Connection {
                step: self.name.clone(),
                name,
                address: IpAddr::V4(*destination.ip()),
                port: destination.port(),
                protocol,
                bytes_up: 0,
                bytes_down: 0,
                started: SystemTime::now(),
                duration: Duration::ZERO,
                verdict,
                failure: None,
            },
        );
    }

    /// Takes a flow that has ended out of the tables.
    pub(crate) fn forget(&self, protocol: Protocol, key: Key) {
        self.open.borrow_mut().remove(&(protocol, key));
        match protocol {
            Protocol::Udp => drop(self.udp.borrow_mut().remove(&key)),
            Protocol::Tcp | Protocol::Dns => drop(self.tcp.borrow_mut().remove(&key)),
        }
    }

    pub(crate) fn record(&self, connection: Connection) {
        self.reports.connection(self.id, connection);
    }

    pub(crate) fn name_of(&self, address: Ipv4Addr) -> Option<String> {
        self.names.borrow().of(address).first().map(|name: &Arc<str>| name.to_string())
    }

    fn refuse(&self, ip: &Ipv4<'_>, segment: &Segment) {
        if segment.resets() {
            return;
        }
        let mut out = [0; BARE_TCP];
        segment.refusal(ip.source, ip.destination, &mut out);
        self.tun.send_plain(&out);
    }

    /// Resets the connection a packet of the step belongs to.
    pub(crate) fn refuse_packet(&self, packet: &[u8]) {
        if let Some(ip) = Ipv4::parse(packet)
            && let Some(segment) = Segment::parse(ip.payload)
        {
            self.refuse(&ip, &segment);
        }
    }

    pub(crate) fn open_flows(&self) -> usize {
        self.tcp.borrow().len()
    }

    /// A number the step cannot guess.
    pub(crate) fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // The kernel's pool is up long before builds run; the clock is the fallback of a fallback.
        match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(8) => u64::from_ne_bytes(bytes),
            _ => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_nanos() as u64),
        }
    }
}

/// Whether the kernel would deliver to this host itself: it then talks from the very address it talks to.
fn is_own(address: &Ipv4Addr) -> bool {
    let route = || {
        let socket = std::net::UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddrV4::new(*address, DISCARD_PORT))?;
        socket.local_addr()
    };
    route().is_ok_and(|local| local.ip() == IpAddr::V4(*address))
}

/// Holds one of the step's places for lookups.
pub(crate) struct LookupSlot(Rc<Step>);

impl Drop for LookupSlot {
    fn drop(&mut self) {
        self.0.lookups.set(self.0.lookups.get().saturating_sub(1));
    }
}

/// Packets made by the gate itself.
impl Tun {
    fn send_plain(&self, packet: &[u8]) {
        let copied = |space: &mut [u8]| {
            space[..packet.len()].copy_from_slice(packet);
            Ok::<usize, std::convert::Infallible>(packet.len())
        };
        let Ok(()) = self.send_received(0, copied, |_| true);
    }

    fn send_datagram(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let copied = |space: &mut [u8]| match space.get_mut(..payload.len()) {
            Some(space) => {
                space.copy_from_slice(payload);
                Ok(payload.len())
            }
            None => Err(()),
        };
        let _ = self.send_received(crate::packet::UDP_HEADERS, copied, |packet| {
            crate::packet::write_udp(packet, from, to)
        });
    }
}

const _: () = assert!(crate::MTU < PACKET_BUFFER);
