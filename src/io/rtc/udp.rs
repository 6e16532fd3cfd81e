//! A UDP socket that is waited for while it is quiet, and read in steps while it is busy (see [`moderation`](super::moderation)).
//!
//! While it is read in steps it is not registered with the reactor at all: every packet would wake a thread there, even
//! if no task asked for it.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use webrtc::runtime::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::moderation::{Moderation, NextRead};

/// How long a sender waits whose socket's buffer is full: 4 MiB, which no link drains in that time.
const SEND_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
pub(super) struct UdpPort {
    local_addr: SocketAddr,
    state: UdpSocketState,
    timing: Mutex<Timing>,
}

struct Timing {
    mode: Mode,
    moderation: Moderation,
    send_pause: Option<Pin<Box<Sleep>>>,
}

enum Mode {
    Waiting(tokio::net::UdpSocket),
    Stepping {
        socket: UdpSocket,
        step: Pin<Box<Sleep>>,
    },
    /// For the moment of a change; what is left after a change that failed.
    Lost,
}

impl UdpPort {
    /// `epoch` is the same for all sockets of a process.
    pub(super) fn new(socket: UdpSocket, epoch: Instant) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local_addr = socket.local_addr()?;
        let mode = Mode::Waiting(tokio::net::UdpSocket::from_std(socket)?);
        let timing = Timing { mode, moderation: Moderation::new(epoch), send_pause: None };
        Ok(Self { local_addr, state, timing: Mutex::new(timing) })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(super) fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(super) fn max_gro_segments(&self) -> usize {
        self.state.gro_segments()
    }

    /// As `AsyncUdpSocket::poll_send`.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let mut timing = self.timing();
        let Timing { mode, send_pause, .. } = &mut *timing;
        loop {
            if let Some(pause) = send_pause {
                ready!(pause.as_mut().poll(cx));
                *send_pause = None;
            }
            match self.state.try_send(mode.socket()?, transmit) {
                Ok(()) => return Poll::Ready(Ok(transmit.contents.len())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *send_pause = Some(Box::pin(tokio::time::sleep(SEND_PAUSE)));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As `AsyncUdpSocket::poll_recv`.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut timing = self.timing();
        let Timing { mode, moderation, .. } = &mut *timing;
        loop {
            ready!(mode.poll_due(cx))?;
            match self.receive(mode, bufs, metas) {
                Ok(count) => {
                    moderation
                        .note_read(metas[..count].iter().map(|meta| meta.len.div_ceil(meta.stride)).sum());
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    mode.change(moderation.next_read(Instant::now()))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn receive(&self, mode: &Mode, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        let mut read = || match self.state.recv(mode.socket()?, bufs, metas)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        };
        let count = match mode {
            // Through the reactor, which learns here that the socket is empty.
            Mode::Waiting(socket) => socket.try_io(tokio::io::Interest::READABLE, read),
            Mode::Stepping { .. } | Mode::Lost => read(),
        }?;
        for meta in &mut metas[..count] {
            // A datagram without content has no stride.
            meta.stride = meta.stride.max(1);
        }
        Ok(count)
    }

    fn timing(&self) -> MutexGuard<'_, Timing> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for UdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPort").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Mode {
    fn socket(&self) -> io::Result<UdpSockRef<'_>> {
        match self {
            Self::Waiting(socket) => Ok(socket.into()),
            Self::Stepping { socket, .. } => Ok(socket.into()),
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Ready when the socket should be read.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Waiting(socket) => socket.poll_recv_ready(cx),
            Self::Stepping { step, .. } => step.as_mut().poll(cx).map(Ok),
            Self::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn change(&mut self, next: NextRead) -> io::Result<()> {
        *self = match (std::mem::replace(self, Self::Lost), next) {
            (Self::Stepping { socket, mut step }, NextRead::At(at)) => {
                step.as_mut().reset(at.into());
                Self::Stepping { socket, step }
            }
            (Self::Waiting(socket), NextRead::At(at)) => {
                let step = Box::pin(tokio::time::sleep_until(at.into()));
                Self::Stepping { socket: socket.into_std()?, step }
            }
            (Self::Stepping { socket, .. }, NextRead::WhenReady) => {
                Self::Waiting(tokio::net::UdpSocket::from_std(socket)?)
            }
            (mode @ (Self::Waiting(_) | Self::Lost), NextRead::WhenReady) | (mode @ Self::Lost, _) => mode,
        };
        Ok(())
    }
}
