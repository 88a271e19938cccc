//! The step's interface as the gate holds it: packets in, packets out.
//!
//! The descriptor comes from the builder, so it is checked before anything is read from it. It is a TUN, or, for a step in a
//! virtual machine, a unix socket whose every message is one packet. Packets with and without the `virtio_net_hdr` prefix are
//! understood on a TUN (kernel: Documentation/networking/tuntap.rst); the prefix lets the kernel skip the checksum of bulk data.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, sockopt};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::Notify;

use crate::MTU;
use crate::terminal::Wire;

/// Longest `virtio_net_hdr` there is, in bytes.
const MAX_PREFIX: usize = 24;
/// Bytes a buffer for one packet needs: any IPv4 packet, whatever the interface's MTU, and the prefix.
pub(crate) const PACKET_BUFFER: usize = 65536 + MAX_PREFIX;

/// Packets and bytes that wait for room in a socket; what a TUN's own queue holds by default, and a bound on memory.
const MAX_WAITING: usize = 500;
const MAX_WAITING_BYTES: usize = 8 << 20;
/// Room asked for in a socket, in bytes. The kernel gives what the machine's limit allows.
const SOCKET_ROOM: usize = 4 << 20;

/// `virtio_net_hdr.flags`: the checksum from `csum_start` on is still to be filled in.
const NEEDS_CHECKSUM: u8 = 1;
/// Where the checksum lies in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Length of the IPv4 headers the stack writes.
const IP_HEADER: u16 = 20;

/// Why a descriptor is not served.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// It is not an attached TUN interface.
    #[error("the descriptor is neither a TUN interface nor a socket of packets: {0}")]
    NotTun(io::Error),
    /// It carries Ethernet frames or packet information, which the gate does not read.
    #[error("the interface must be made with IFF_TUN and IFF_NO_PI (flags are {0:#x})")]
    Flags(u16),
    /// It cannot be watched.
    #[error("the interface cannot be watched: {0}")]
    Watch(io::Error),
}

#[derive(Debug)]
pub(crate) struct Tun {
    fd: AsyncFd<OwnedFd>,
    /// Bytes in front of each packet.
    prefix: usize,
    scratch: RefCell<Vec<u8>>,
    /// Of a socket: what found no room. A TUN has a queue of its own.
    waiting: Option<Waiting>,
}

/// Packets that wait for room, the oldest first.
#[derive(Debug, Default)]
struct Waiting {
    packets: RefCell<VecDeque<Vec<u8>>>,
    grown: Notify,
    gone: Notify,
}

impl Tun {
    /// Takes a TUN, or one end of a `SOCK_SEQPACKET` pair.
    pub(crate) fn new(fd: OwnedFd) -> Result<Tun, TunError> {
        if is_packet_socket(&fd) {
            // Less room is only slower.
            let _ = sockopt::set_socket_send_buffer_size(&fd, SOCKET_ROOM);
            return Tun::watch(fd, 0, Some(Waiting::default()));
        }
        let flags = flags(&fd).map_err(TunError::NotTun)?;
        let mode = libc::IFF_TUN | libc::IFF_TAP | libc::IFF_NO_PI;
        if i32::from(flags) & mode != libc::IFF_TUN | libc::IFF_NO_PI {
            return Err(TunError::Flags(flags));
        }
        let prefix = if i32::from(flags) & libc::IFF_VNET_HDR == 0 {
            0
        } else {
            prefix_size(&fd).map_err(TunError::NotTun)?
        };
        // The step's kernel then leaves TCP checksums of what it sends unfilled; nobody here verifies them.
        // SAFETY: the descriptor is a TUN and the argument a plain integer.
        let _ = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(libc::TUN_F_CSUM),
            )
        };
        Tun::watch(fd, prefix, None)
    }

    /// Closes it, on a thread of its own: the kernel takes an interface down while the caller waits, some ten milliseconds in which
    /// no other step would be served and the end of this one not be told.
    pub(crate) fn close(self) {
        let fd = self.fd.into_inner();
        drop(tokio::task::spawn_blocking(move || drop(fd)));
    }

    fn watch(fd: OwnedFd, prefix: usize, waiting: Option<Waiting>) -> Result<Tun, TunError> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| TunError::Watch(e.into()))?;
        // SAFETY: an owned descriptor stays open and the same for as long as the value that holds it.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| TunError::Watch(e.into()))?;
        Ok(Tun { fd, prefix, scratch: RefCell::new(vec![0; PACKET_BUFFER]), waiting })
    }

    /// Waits for a packet. Those that wait for room on their way out are sent meanwhile.
    pub(crate) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        let Some(waiting) = &self.waiting else { return self.fd.readable().await };
        loop {
            if waiting.packets.borrow().is_empty() {
                tokio::select! {
                    ready = self.fd.readable() => return ready,
                    () = waiting.grown.notified() => continue,
                }
            }
            tokio::select! {
                biased;
                room = self.fd.writable() => self.send_waiting(waiting, &mut room?),
                ready = self.fd.readable() => return ready,
            }
        }
    }

    fn send_waiting(&self, waiting: &Waiting, room: &mut AsyncFdReadyGuard<'_, OwnedFd>) {
        let mut packets = waiting.packets.borrow_mut();
        while let Some(packet) = packets.front() {
            match self.send_now(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    room.clear_ready();
                    return;
                }
                // What cannot be sent at all is lost.
                _ => drop(packets.pop_front()),
            }
        }
        waiting.gone.notify_one();
    }

    /// Reads one packet into `buffer` (of [`PACKET_BUFFER`] bytes) and returns it without its prefix.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        if self.waiting.is_some() {
            // Descriptors that come along are closed by the kernel, since there is no room for them.
            let (length, _) = rustix::net::recv(self.fd.as_fd(), &mut *buffer, RecvFlags::empty())?;
            // No packet is empty, so this is the end of the connection.
            return match length {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                length => Ok(&buffer[..length]),
            };
        }
        let length = rustix::io::read(self.fd.as_fd(), &mut *buffer)?;
        Ok(buffer.get(self.prefix..length).unwrap_or_default())
    }

    /// Receives straight into the packet to be sent: `fill` gets the space behind `headers` bytes and returns how much it
    /// wrote, then `finish` completes the packet and says whether to send it.
    pub(crate) fn send_received<E>(
        &self,
        headers: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
        finish: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<(), E> {
        let mut scratch = self.scratch.borrow_mut();
        let length = headers + fill(&mut scratch[self.prefix + headers..])?;
        let end = self.prefix + length;
        scratch[..self.prefix].fill(0);
        if length <= MTU && finish(&mut scratch[self.prefix..end]) {
            self.write(&scratch[..end]);
        }
        Ok(())
    }

    /// A packet that cannot be written is lost, as on any network; the ends recover or give up.
    fn write(&self, packet: &[u8]) {
        let behind =
            self.waiting.as_ref().is_some_and(|waiting| !waiting.packets.borrow().is_empty());
        let sent =
            if behind { Err(io::ErrorKind::WouldBlock.into()) } else { self.send_now(packet) };
        match (sent, &self.waiting) {
            (Ok(()), _) => {}
            (Err(error), Some(waiting)) if error.kind() == io::ErrorKind::WouldBlock => {
                waiting.push(packet);
            }
            (Err(error), _) => {
                tracing::trace!(%error, length = packet.len(), "packet to the step lost");
            }
        }
    }

    fn send_now(&self, packet: &[u8]) -> io::Result<()> {
        if self.waiting.is_some() {
            rustix::net::send(self.fd.as_fd(), packet, SendFlags::NOSIGNAL)?;
        } else {
            rustix::io::write(self.fd.as_fd(), packet)?;
        }
        Ok(())
    }
}

impl Waiting {
    fn push(&self, packet: &[u8]) {
        let mut packets = self.packets.borrow_mut();
        let bytes: usize = packets.iter().map(Vec::len).sum();
        if packets.len() < MAX_WAITING && bytes + packet.len() <= MAX_WAITING_BYTES {
            packets.push_back(packet.to_vec());
            self.grown.notify_one();
        }
    }
}

/// Packets of a step, for whoever carries them between a TUN and a gate that is somewhere else. Of either kind that a gate takes.
#[derive(Debug)]
pub struct Packets(Tun);

impl Packets {
    /// Bytes that a buffer for [`Packets::next`] needs.
    pub const BUFFER: usize = PACKET_BUFFER;

    /// Takes the descriptor of a TUN or of a socket of packets. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn new(fd: OwnedFd) -> Result<Self, TunError> {
        Tun::new(fd).map(Self)
    }

    /// The next packet, in `buffer`. Somebody must wait here all the time, or what waits for room is not sent.
    ///
    /// # Errors
    ///
    /// At the end of the interface or connection. Can be cancelled without losing a packet.
    pub async fn next<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.read(buffer).map(<[u8]>::len) {
                Ok(length) => return Ok(&buffer[self.0.prefix..self.0.prefix + length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a packet, or drops it when too much waits for room, as any network does. One that is too long is dropped too.
    pub fn send(&self, packet: &[u8]) {
        let copied = |space: &mut [u8]| match space.get_mut(..packet.len()) {
            Some(space) => {
                space.copy_from_slice(packet);
                Ok(packet.len())
            }
            None => Err(()),
        };
        let _ = self.0.send_received(0, copied, |_| true);
    }

    /// Waits until nothing waits for room any more.
    pub async fn room(&self) {
        let Some(waiting) = &self.0.waiting else { return };
        while !waiting.packets.borrow().is_empty() {
            waiting.gone.notified().await;
        }
    }
}

/// One end of a unix socket that keeps messages apart and is connected.
fn is_packet_socket(fd: &OwnedFd) -> bool {
    let kind = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET);
    kind && sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

impl Wire for Tun {
    fn checksums(&self) -> bool {
        self.prefix == 0
    }

    fn send<R>(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut scratch = self.scratch.borrow_mut();
        let end = self.prefix + length;
        // The stack never makes packets beyond the MTU it was told.
        if scratch.len() < end {
            scratch.resize(end, 0);
        }
        let result = fill(&mut scratch[self.prefix..end]);
        if self.prefix > 0 {
            let prefix = &mut scratch[..self.prefix];
            prefix.fill(0);
            prefix[0] = NEEDS_CHECKSUM;
            prefix[6..8].copy_from_slice(&IP_HEADER.to_ne_bytes());
            prefix[8..10].copy_from_slice(&TCP_CHECKSUM.to_ne_bytes());
        }
        self.write(&scratch[..end]);
        result
    }
}

fn flags(fd: &OwnedFd) -> io::Result<u16> {
    let mut request = MaybeUninit::<libc::ifreq>::zeroed();
    // SAFETY: the request is a whole zeroed `ifreq`, which TUNGETIFF fills; another kind of descriptor refuses the command.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, request.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid `ifreq`, and after success the union holds the flags.
    let flags = unsafe { request.assume_init().ifr_ifru.ifru_flags };
    Ok(flags.cast_unsigned())
}

fn prefix_size(fd: &OwnedFd) -> io::Result<usize> {
    let mut size: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ as _, &raw mut size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match usize::try_from(size) {
        Ok(size) if (10..=MAX_PREFIX).contains(&size) => Ok(size),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::net::{SocketFlags, socketpair};

    use super::*;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[tokio::test]
    async fn other_descriptors_are_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Tun::new(file.into()), Err(TunError::NotTun(_))));
        for kind in [SocketType::STREAM, SocketType::DGRAM] {
            assert!(matches!(Tun::new(pair(kind).0), Err(TunError::NotTun(_))), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn every_message_is_a_packet_and_none_is_lost_for_want_of_room() {
        let (a, b) = pair(SocketType::SEQPACKET);
        let (a, b) = (Packets::new(a).unwrap(), Packets::new(b).unwrap());
        let packet = |number: usize| vec![(number % 251) as u8; 65_000];
        let mut count = 0;
        // More than a socket holds, by a good deal.
        let mut more = 40;
        while more > 0 {
            b.send(&packet(count));
            count += 1;
            more -= usize::from(!b.0.waiting.as_ref().unwrap().packets.borrow().is_empty());
        }
        let (mut buffer, mut unused) = (vec![0; Packets::BUFFER], vec![0; Packets::BUFFER]);
        let receive = async {
            for number in 0..count {
                assert!(a.next(&mut buffer).await.unwrap() == packet(number), "packet {number}");
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(receive, b.room()) } => {}
            _ = b.next(&mut unused) => panic!("nobody sent anything"),
        }
        drop(b);
        assert_eq!(a.next(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (a, _b) = pair(SocketType::SEQPACKET);
        let packets = Packets::new(a).unwrap();
        for _ in 0..2 * MAX_WAITING {
            packets.send(&[0; 60_000]);
        }
        let waiting = packets.0.waiting.as_ref().unwrap().packets.borrow();
        assert!(waiting.iter().map(Vec::len).sum::<usize>() <= MAX_WAITING_BYTES);
        assert!(waiting.len() <= MAX_WAITING);
    }
}
