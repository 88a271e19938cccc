//! The step's interface as the gate holds it: packets in, packets out.
//!
//! The descriptor comes from the builder, so it is checked to be a TUN before anything is read from it. Packets with and
//! without the `virtio_net_hdr` prefix are understood (kernel: Documentation/networking/tuntap.rst); the prefix lets the kernel
//! skip the checksum of bulk data.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::MTU;
use crate::terminal::Wire;

/// Longest `virtio_net_hdr` there is, in bytes.
const MAX_PREFIX: usize = 24;
/// Bytes a buffer for one packet needs: any IPv4 packet, whatever the interface's MTU, and the prefix.
pub(crate) const PACKET_BUFFER: usize = 65536 + MAX_PREFIX;

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
    #[error("the descriptor is not a TUN interface: {0}")]
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
}

impl Tun {
    pub(crate) fn new(fd: OwnedFd) -> Result<Tun, TunError> {
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
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| TunError::Watch(e.into()))?;
        // SAFETY: an owned descriptor stays open and the same for as long as the value that holds it.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| TunError::Watch(e.into()))?;
        Ok(Tun { fd, prefix, scratch: RefCell::new(vec![0; PACKET_BUFFER]) })
    }

    pub(crate) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.fd.readable().await
    }

    /// Reads one packet into `buffer` (of [`PACKET_BUFFER`] bytes) and returns it without its prefix.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
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
        if let Err(error) = rustix::io::write(self.fd.as_fd(), packet) {
            tracing::trace!(%error, length = packet.len(), "packet to the step lost");
        }
    }
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
