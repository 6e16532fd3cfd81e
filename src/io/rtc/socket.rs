//! The sockets of connections: large in the kernel, small in the process.
//!
//! One call reads several messages, each of up to 64 datagrams with segmentation offload. The engine takes one message a call
//! and keeps two buffers of that size (96 KB) for each socket, most of what an idle connection costs. So it is told
//! that eight datagrams are the most, reads go through one buffer a thread, and what the engine's own does not hold is
//! handed over at its next reads, datagrams of one length together, however they came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::records::{ALERT, FORGOTTEN_HEADER, forget};
use super::runtime::Pulse;
use super::stun::{COOKIE, relayed_data};
use super::udp::UdpPort;

/// What is asked of the kernel for each socket, in each direction. A burst of one SCTP window must fit.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The least SCTP receive window: one message of the largest size must fit (RFC 9260 §6.2).
const WINDOW_MIN_BYTES: usize = 256 * 1024;

/// The most datagrams the kernel coalesces, and the most bytes one of them has (the engine's own assumption).
const COALESCED_MAX: usize = 64;
const DATAGRAM_MAX_BYTES: usize = 1500;

/// How many datagrams the engine takes at once.
const HANDED_OVER_MAX: usize = 8;

/// How many datagrams leave in one call. Routers and rate limiters drop longer bursts sooner, or take them apart: the usual
/// token bucket (tc-tbf(8), as most examples set it) holds 32 KB.
const BURST_MAX: usize = 24;

/// The port of multicast DNS (RFC 6762 §3), and the first byte of its messages (§18.1). The engine takes what comes there for anything.
const MDNS_PORT: u16 = 5353;
const MDNS_FIRST: u8 = 0;

/// Asks the kernel for large buffers and returns the SCTP receive window they carry, in bytes.
///
/// A window larger than the socket's buffer makes the kernel drop packets, and each loss meets SCTP's minimum
/// retransmission time of one second. Linux reports twice what it grants for payload.
pub(super) fn receive_window_bytes() -> io::Result<u32> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).or_else(|_| UdpSocket::bind(("::", 0)))?;
    enlarge_buffers(&socket);
    let granted = socket2::SockRef::from(&socket).recv_buffer_size()? / 2;
    let window = granted.clamp(WINDOW_MIN_BYTES, SOCKET_BUFFER_BYTES);
    Ok(u32::try_from(window).expect("4 MiB fit 32 bits"))
}

/// Best effort: a kernel that refuses keeps its default, and the window follows what was granted.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
}

/// How many messages one call reads. More are seldom there in one step of a busy socket.
const MESSAGES_MAX: usize = 16;
const MESSAGE_MAX_BYTES: usize = COALESCED_MAX * DATAGRAM_MAX_BYTES;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; MESSAGES_MAX * MESSAGE_MAX_BYTES].into_boxed_slice());
}

/// A socket that wakes its connection's clock and watches for DTLS alerts until the connection is settled.
#[derive(Debug)]
pub(super) struct LinkSocket {
    inner: UdpPort,
    pulse: Arc<Pulse>,
    reader: Arc<AtomicWaker>,
    received: Mutex<Received>,
}

/// What was read and not handed over yet.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// Where in `bytes` the first run begins.
    from: usize,
    runs: VecDeque<RecvMeta>,
}

impl LinkSocket {
    pub(super) fn new(inner: UdpPort, pulse: Arc<Pulse>) -> Self {
        let reader = Arc::default();
        pulse.add_reader(&reader);
        Self { inner, pulse, reader, received: Mutex::default() }
    }

    /// Has the engine forget what it must not get.
    fn sift(&self, datagrams: &mut [u8], meta: &RecvMeta) {
        let now = Instant::now();
        for datagram in datagrams.chunks_mut(meta.stride.max(1)) {
            if self.admits(datagram, meta.addr, now) {
                self.pulse.servers.iter().for_each(|servers| servers.note_heard(meta.addr, datagram, now));
                self.sift_records(datagram, now);
            } else {
                forget(datagram);
            }
        }
    }

    /// STUN and DTLS, with or without a relay (RFC 7983 §7), and of DTLS what comes from an address of the peer's.
    fn admits(&self, datagram: &[u8], from: SocketAddr, now: Instant) -> bool {
        let to = self.inner.local_addr();
        if to.port() == MDNS_PORT {
            return datagram.first() == Some(&MDNS_FIRST) && datagram.get(4..8) != Some(&COOKIE);
        }
        let checks = &self.pulse.checks;
        match datagram.first() {
            Some(0..=3) if relayed_data(datagram).is_none() => checks.admits(from, to, datagram, now),
            Some(0..=3 | 64..=127) => checks.is_relay(from) && checks.admits(from, to, datagram, now),
            Some(20..=63) => checks.knows(from),
            Some(_) | None => false,
        }
    }

    fn sift_records(&self, datagram: &mut [u8], now: Instant) {
        let relayed = relayed_data(datagram);
        if relayed.is_some() {
            self.pulse.note_relayed(now);
        }
        let data = relayed.unwrap_or(0..datagram.len());
        let data = &mut datagram[data];
        match data.first() {
            Some(20..=63) => {
                self.pulse.records.sift(data, self.pulse.has_deciphered());
                if is_alert(data) && !self.pulse.is_settled() {
                    self.pulse.note_alert_received();
                }
            }
            // There is nothing else that this program speaks, and RTP costs the engine memory before it is known whose it is.
            Some(4..=19 | 128..) => forget(data),
            Some(0..=3 | 64..=127) | None => {}
        }
    }

    /// Hands over as much as `buf` holds, of what was read before or of what is there now.
    fn read(&self, cx: &mut Context<'_>, buf: &mut [u8], meta: &mut RecvMeta) -> Poll<io::Result<()>> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        if received.take(buf, meta) {
            return Poll::Ready(Ok(()));
        }
        READ_BUFFER.with_borrow_mut(|read_buffer| {
            let mut metas = [RecvMeta::default(); MESSAGES_MAX];
            let mut messages = read_buffer.chunks_exact_mut(MESSAGE_MAX_BYTES).map(IoSliceMut::new);
            let mut messages: [_; MESSAGES_MAX] =
                std::array::from_fn(|_| messages.next().expect("the buffer has room for all messages"));
            let count = ready!(self.inner.poll_recv(cx, &mut messages, &mut metas))?;
            if let [only] = metas[..count]
                && only.len <= buf.len()
            {
                buf[..only.len].copy_from_slice(&messages[0][..only.len]);
                *meta = only;
                return Poll::Ready(Ok(()));
            }
            for (message, meta) in messages.iter().zip(&metas[..count]) {
                received.put(&message[..meta.len], meta);
            }
            received.take(buf, meta);
            Poll::Ready(Ok(()))
        })
    }
}

impl Received {
    fn put(&mut self, bytes: &[u8], meta: &RecvMeta) {
        self.bytes.extend_from_slice(bytes);
        match self.runs.back_mut() {
            Some(run) if continues(run, meta) => run.len += meta.len,
            Some(_) | None => self.runs.push_back(*meta),
        }
    }

    /// `false`: there is nothing.
    fn take(&mut self, buf: &mut [u8], meta: &mut RecvMeta) -> bool {
        let Some(run) = self.runs.front_mut() else { return false };
        let taken = whole_datagrams(run.len, run.stride, buf.len());
        buf[..taken].copy_from_slice(&self.bytes[self.from..self.from + taken]);
        *meta = *run;
        meta.len = taken;
        // What does not fit by itself was cut: the rest of that datagram goes, too.
        let gone = taken.next_multiple_of(run.stride.max(1)).min(run.len);
        self.from += gone;
        run.len -= gone;
        if run.len == 0 {
            self.runs.pop_front();
        }
        if self.runs.is_empty() {
            *self = Self::default();
        }
        true
    }
}

/// Whether a message's datagrams can be told apart by the stride of those before it. Only the last of a run may be shorter.
fn continues(run: &RecvMeta, next: &RecvMeta) -> bool {
    let alike = run.addr == next.addr && run.ecn == next.ecn && run.dst_ip == next.dst_ip;
    let whole = run.len > 0 && run.len.is_multiple_of(run.stride);
    alike
        && whole
        && next.len > 0
        && (next.stride == run.stride || next.len == next.stride && next.len < run.stride)
}

/// Before the handshake is done alerts are in the clear.
fn is_alert(datagram: &[u8]) -> bool {
    datagram.first() == Some(&ALERT)
}

fn put_forgotten_record(buf: &mut [u8], meta: &mut RecvMeta) {
    let len = FORGOTTEN_HEADER.len() + 1;
    forget(&mut buf[..len]);
    (meta.len, meta.stride) = (len, len);
}

/// How many of `len` bytes of datagrams of `stride` bytes fit into `room`. One that does not fit by itself is cut, as
/// the kernel would.
fn whole_datagrams(len: usize, stride: usize, room: usize) -> usize {
    if len <= room {
        return len;
    }
    let stride = stride.max(1);
    match room / stride {
        0 => room,
        fitting => fitting * stride,
    }
}

impl AsyncUdpSocket for LinkSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.local_addr())
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let (checks, now) = (&self.pulse.checks, Instant::now());
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut datagrams = transmit.contents.chunks(stride.max(1));
        let (from, to) = (self.inner.local_addr(), transmit.destination);
        if !datagrams.next().is_none_or(|first| checks.may_leave(from, to, first, now)) {
            // Like one that got lost.
            return Poll::Ready(Ok(transmit.contents.len()));
        }
        datagrams.for_each(|datagram| checks.note_left(datagram, now));
        self.pulse.servers.iter().for_each(|servers| servers.note_sent(to, transmit.contents, now));
        let sent = self.inner.poll_send(cx, transmit);
        if !self.pulse.is_settled() {
            self.pulse.note_sent(is_alert(transmit.contents));
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let ([buf, ..], [meta, ..]) = (bufs, meta) else { return Poll::Ready(Ok(0)) };
        self.reader.register(cx.waker());
        if self.pulse.take_prod() {
            *meta = RecvMeta::default();
            meta.addr = self.inner.local_addr();
            put_forgotten_record(buf, meta);
            return Poll::Ready(Ok(1));
        }
        if self.pulse.is_held() {
            return Poll::Pending;
        }
        let received = self.read(cx, buf, meta);
        if matches!(received, Poll::Ready(Ok(()))) {
            self.sift(&mut buf[..meta.len], meta);
        }
        if received.is_ready() {
            self.pulse.beat();
        }
        received.map_ok(|()| 1)
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments().min(BURST_MAX)
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments().min(HANDED_OVER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::checks::tests::{check, expect_us};
    use super::*;

    fn socket(pulse: &Arc<Pulse>) -> LinkSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        LinkSocket::new(UdpPort::new(socket, Instant::now()).expect("a socket"), Arc::clone(pulse))
    }

    /// Reads once, by a waker of its own as the engine has one for each socket. The flag tells whether it was woken.
    fn read_by(socket: &LinkSocket, woken: &Arc<Flag>) -> Poll<Vec<u8>> {
        let waker = std::task::Waker::from(Arc::clone(woken));
        let (mut bytes, mut meta) = (vec![0; 2048], [RecvMeta::default()]);
        let mut bufs = [IoSliceMut::new(&mut bytes)];
        let read = socket.poll_recv(&mut Context::from_waker(&waker), &mut bufs, &mut meta);
        read.map(|read| {
            read.expect("no error");
            bytes[..meta[0].len].to_vec()
        })
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A connection has a socket for each address, and each may be the one that is used.
    #[tokio::test]
    async fn all_sockets_of_a_connection_are_read_again_after_a_hold() {
        let pulse = Arc::default();
        let sockets = [socket(&pulse), socket(&pulse)];
        let woken = [Arc::<Flag>::default(), Arc::default()];
        pulse.hold();
        for (socket, woken) in sockets.iter().zip(&woken) {
            assert!(read_by(socket, woken).is_pending());
        }
        assert!(woken.iter().all(|woken| !woken.0.load(Ordering::Relaxed)));
        pulse.release();
        assert!(woken.iter().all(|woken| woken.0.load(Ordering::Relaxed)));
        pulse.prod();
        assert_eq!(read_by(&sockets[1], &woken[1]), Poll::Ready([&FORGOTTEN_HEADER[..], &[0]].concat()));
        assert!(read_by(&sockets[0], &woken[0]).is_pending(), "once is enough");
    }

    #[tokio::test]
    async fn checks_that_the_engine_must_not_get_are_forgotten() {
        let pulse = Arc::<Pulse>::default();
        expect_us(&pulse.checks);
        let socket = socket(&pulse);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let arrives = async |check: Vec<u8>| {
            sender.send_to(&check, socket.local_addr().expect("bound")).expect("sent");
            loop {
                match read_by(&socket, &Arc::default()) {
                    Poll::Ready(read) => return read == check,
                    Poll::Pending => tokio::task::yield_now().await,
                }
            }
        };
        assert!(arrives(check("us:them")).await);
        assert!(!arrives(check("them:us")).await);
        assert!(arrives(check("us:them")).await);
    }

    #[tokio::test]
    async fn of_dtls_only_that_of_the_peer_comes_in_and_nothing_of_what_is_not_spoken() {
        let pulse = Arc::<Pulse>::default();
        expect_us(&pulse.checks);
        let socket = socket(&pulse);
        let (peer, stranger) = (([192, 0, 2, 1], 9).into(), ([192, 0, 2, 2], 9).into());
        let comes_in = |from, datagram: &[u8]| {
            let (mut sifted, mut meta) = (datagram.to_vec(), RecvMeta::default());
            (meta.addr, meta.len, meta.stride) = (from, datagram.len(), datagram.len());
            socket.sift(&mut sifted, &meta);
            sifted == datagram
        };
        let record = [&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 20][..], &[7; 20]].concat();
        assert!(!comes_in(peer, &record), "it is not known yet");
        assert!(comes_in(peer, &check("us:them")));
        assert!(comes_in(peer, &record));
        assert!(!comes_in(stranger, &record));
        for first in [4, 19, 128, 144, 191, 255] {
            assert!(!comes_in(peer, &[first; 40]) && !comes_in(peer, &[first; 12]), "{first}");
        }
        let relayed = |data: &[u8]| [&[0x40, 1, 0, data.len() as u8][..], data].concat();
        assert!(!comes_in(stranger, &relayed(&record)), "it is no relay");
        pulse.checks.note_relays(&[stranger]);
        assert!(comes_in(stranger, &relayed(&record)), "a relay passes on what it was asked to");
        assert!(!comes_in(peer, &relayed(&record)));
        assert!(!comes_in(stranger, &relayed(&[128; 40])));
        let cipher_change = [&[20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1][..], &[1]].concat();
        assert!(!comes_in(peer, &cipher_change) && !comes_in(stranger, &relayed(&cipher_change)));
    }

    /// An alert that nobody of the peer's sent would make a failure of the network look like another key.
    #[tokio::test]
    async fn alerts_are_those_that_come_in() {
        let pulse = Arc::<Pulse>::default();
        expect_us(&pulse.checks);
        let socket = socket(&pulse);
        let (peer, stranger) = (([192, 0, 2, 1], 9).into(), ([192, 0, 2, 2], 9).into());
        let hear = |from, datagram: &[u8]| {
            let mut meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, datagram.len(), datagram.len());
            socket.sift(&mut datagram.to_vec(), &meta);
            pulse.alert_received()
        };
        let alert = [&[21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2][..], &[2, 40]].concat();
        assert!(!hear(peer, &check("us:them")));
        assert!(!hear(stranger, &[21]) && !hear(stranger, &alert) && !hear(peer, &[21]));
        assert!(hear(peer, &alert));
    }

    #[tokio::test]
    async fn checks_that_leave_behind_other_datagrams_are_answered() {
        let pulse = Arc::<Pulse>::default();
        let socket = socket(&pulse);
        let (asked, to) = (check("them:us"), UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let to = to.local_addr().expect("bound");
        let contents = [vec![23; asked.len()], asked.clone()].concat();
        let segment_size = Some(asked.len());
        let transmit =
            Transmit { destination: to, ecn: None, contents: &contents, segment_size, src_ip: None };
        if socket.max_gso_segments() > 1 {
            std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await.expect("sent");
            let answer = [&[1, 1, 0, 0][..], &asked[4..20]].concat();
            assert!(pulse.checks.admits(to, to, &answer, Instant::now()));
        }
    }

    #[tokio::test]
    async fn a_large_read_is_handed_over_in_order_and_in_whole_datagrams() {
        let runtime = webrtc::runtime::default_runtime().expect("tokio");
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = receiver.local_addr().expect("bound");
        let pulse = Arc::<Pulse>::default();
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        pulse.checks.note_relays(&[sender.local_addr().expect("bound")]);
        let receiver = LinkSocket::new(UdpPort::new(receiver, Instant::now()).expect("a socket"), pulse);
        let sender = runtime.wrap_udp_socket(sender).expect("a socket");
        const DATAGRAMS: u8 = 40;
        // As a relay's.
        let contents: Vec<u8> = (0..DATAGRAMS).flat_map(|n| vec![0x40 + n; 1200]).collect();
        let segment_size = (sender.max_gso_segments() >= usize::from(DATAGRAMS)).then_some(1200);
        let step = segment_size.map_or(1200, |_| contents.len());
        for chunk in contents.chunks(step) {
            let transmit =
                Transmit { destination: to, ecn: None, contents: chunk, segment_size, src_ip: None };
            std::future::poll_fn(|cx| sender.poll_send(cx, &transmit)).await.expect("sent");
        }
        let mut received = Vec::new();
        while received.len() < contents.len() {
            let mut buf = vec![0; HANDED_OVER_MAX * DATAGRAM_MAX_BYTES];
            let mut meta = [RecvMeta::default()];
            let read = std::future::poll_fn(|cx| {
                receiver.poll_recv(cx, &mut [IoSliceMut::new(&mut buf)], &mut meta)
            });
            assert_eq!(read.await.expect("read"), 1);
            assert_eq!(meta[0].len % 1200, 0);
            received.extend_from_slice(&buf[..meta[0].len]);
        }
        assert!(received == contents);
    }

    fn message(from: u16, len: usize, stride: usize) -> RecvMeta {
        let mut meta = RecvMeta::default();
        meta.addr = ([127, 0, 0, 1], from).into();
        meta.len = len;
        meta.stride = stride;
        meta
    }

    #[test]
    fn messages_are_handed_over_together_while_their_datagrams_can_be_told_apart() {
        let mut received = Received::default();
        for (from, len, stride) in
            [(1, 10, 10), (1, 20, 10), (1, 4, 4), (1, 10, 10), (2, 10, 10), (2, 15, 10), (2, 10, 10)]
        {
            received.put(&vec![len as u8; len], &message(from, len, stride));
        }
        let mut buf = [0; 25];
        let mut meta = RecvMeta::default();
        let mut handed_over = Vec::new();
        while received.take(&mut buf, &mut meta) {
            handed_over.push((meta.addr.port(), meta.len, meta.stride));
        }
        assert_eq!(handed_over, [(1, 20, 10), (1, 14, 10), (1, 10, 10), (2, 25, 10), (2, 10, 10)]);
        assert_eq!(received.bytes.capacity(), 0, "nothing is kept for idle connections");
    }

    #[test]
    fn a_datagram_is_cut_only_if_it_does_not_fit_by_itself() {
        assert_eq!(whole_datagrams(3000, 1200, 12_000), 3000);
        assert_eq!(whole_datagrams(64 * 1200, 1200, 12_000), 12_000);
        assert_eq!(whole_datagrams(64 * 1300, 1300, 12_000), 9 * 1300);
        assert_eq!(whole_datagrams(9000, 9000, 2000), 2000);
        assert_eq!(whole_datagrams(5, 0, 2), 2);
    }
}
