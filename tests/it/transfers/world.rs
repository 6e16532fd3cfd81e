//! Transfer machines on a virtual clock, joined by a simple network: each peer has an uplink and a downlink of a given rate,
//! a delay to everyone, and for each other peer a bulk channel that buffers a little.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_rtc_swarm::core::transfer::{
    Config, DiskDone, DiskJob, DiskOp, Input, OpId, Output, TransferCommand, TransferEvent, Transfers,
};
use fast_rtc_swarm::wire::transfer::TransferMessage;
use fast_rtc_swarm::wire::{UserId, frame};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a bulk channel buffers.
const CHANNEL_BYTES: usize = 256 * 1024;

/// How a peer is connected.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Bytes a second, net of the packets' headers.
    pub up_bps: u64,
    /// Bytes a second.
    pub down_bps: u64,
    /// To everyone, one way.
    pub delay: Duration,
}

/// Carries out disk jobs; a scan may answer more than once.
pub type DiskFn = Box<dyn FnMut(DiskJob) -> Vec<DiskDone>>;

/// What a peer does to what it sends.
pub type Tamper = Box<dyn FnMut(&UserId, Sent) -> Option<Sent>>;

/// A message between two machines.
#[derive(Debug, Clone)]
pub enum Sent {
    Control(TransferMessage),
    Bulk(Bytes),
}

impl Sent {
    fn len(&self) -> usize {
        match self {
            Self::Control(message) => control_len(message),
            Self::Bulk(frame) => frame.len(),
        }
    }
}

/// About what the JSON takes: writing it only to count it would take most of a run's time.
fn control_len(message: &TransferMessage) -> usize {
    let pieces = match message {
        TransferMessage::Have { pieces, bits, .. } => {
            pieces.len() * 5 + bits.as_ref().map_or(0, |bits| bits.set.len())
        }
        TransferMessage::Request { pieces, .. }
        | TransferMessage::Cancel { pieces, .. }
        | TransferMessage::Busy { pieces, .. } => pieces.len() * 5,
        _ => 100,
    };
    120 + pieces
}

#[derive(Debug)]
enum Happens {
    UplinkFree { peer: UserId },
    Arrives { from: UserId, to: UserId, sent: Sent },
    Delivered { from: UserId, to: UserId, sent: Sent },
    Disk { peer: UserId, op: OpId, done: DiskDone },
    Wake { peer: UserId },
    Given { peer: UserId, input: Input },
    StripeBreaks { a: UserId, b: UserId },
    Leaves { peer: UserId },
}

struct Node {
    machine: Transfers,
    disk: DiskFn,
    access: Access,
    tamper: Option<Tamper>,
    /// Control messages go before bulk.
    control: VecDeque<(UserId, Sent)>,
    bulk: BTreeMap<UserId, Channel>,
    turn: Option<UserId>,
    uplink_busy: bool,
    downlink_free: Instant,
    wake_at: Option<Instant>,
    /// How long each disk operation takes.
    disk_takes: Duration,
    sent_bytes: u64,
}

#[derive(Default)]
struct Channel {
    queue: VecDeque<Sent>,
    bytes: usize,
    /// What the machine may still send.
    left: i64,
}

/// Peers, a network and a clock.
pub struct World {
    pub start: Instant,
    pub now: Instant,
    nodes: BTreeMap<UserId, Node>,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    stripes: Option<Stripes>,
    /// Everything the faces would hear.
    pub events: Vec<(Duration, UserId, TransferEvent)>,
}

/// Each pair has several connections for bulk: frames of pieces overtake each other, and what the channels take is granted in
/// portions of any size.
struct Stripes {
    rng: StdRng,
    /// How much later than others a frame may arrive.
    late: Duration,
}

struct Entry {
    at: Instant,
    sequence: u64,
    happens: Happens,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The id of the peer with this number.
pub fn id(number: usize) -> UserId {
    UserId::new(format!("p{number:03}")).expect("a plain id")
}

impl World {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            nodes: BTreeMap::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            stripes: None,
            events: Vec::new(),
        }
    }

    /// Adds a peer and connects it with everyone who is there.
    pub fn add(&mut self, config: Config, access: Access, disk: DiskFn) {
        let peer = config.own.clone();
        let mut seed = [7; 32];
        seed[..peer.as_str().len().min(32)]
            .copy_from_slice(&peer.as_str().as_bytes()[..peer.as_str().len().min(32)]);
        let node = Node {
            machine: Transfers::new(config, seed),
            disk,
            access,
            tamper: None,
            control: VecDeque::new(),
            bulk: BTreeMap::new(),
            turn: None,
            uplink_busy: false,
            downlink_free: self.now,
            wake_at: None,
            disk_takes: Duration::from_micros(200),
            sent_bytes: 0,
        };
        let others: Vec<UserId> = self.nodes.keys().cloned().collect();
        self.nodes.insert(peer.clone(), node);
        for other in others {
            self.connect(&peer, &other);
            self.connect(&other, &peer);
        }
    }

    fn connect(&mut self, peer: &UserId, other: &UserId) {
        self.node(peer).bulk.insert(other.clone(), Channel::default());
        self.input(peer, Input::PeerReady { peer: other.clone() });
        self.grant(peer, other);
    }

    /// The peer is gone without a word; the others notice at once.
    pub fn leave(&mut self, peer: &UserId) {
        self.nodes.remove(peer);
        let others: Vec<UserId> = self.nodes.keys().cloned().collect();
        for other in others {
            self.node(&other).bulk.remove(peer);
            self.input(&other, Input::PeerGone { peer: peer.clone() });
        }
    }

    /// The peer leaves after a while.
    pub fn leave_after(&mut self, after: Duration, peer: &UserId) {
        let at = self.now + after;
        self.schedule(at, Happens::Leaves { peer: peer.clone() });
    }

    pub fn tamper(&mut self, peer: &UserId, tamper: Tamper) {
        self.node(peer).tamper = Some(tamper);
    }

    pub fn command(&mut self, peer: &UserId, command: TransferCommand) {
        self.input(peer, Input::Command(command));
    }

    /// Gives a peer an input after a while.
    pub fn input_after(&mut self, after: Duration, peer: &UserId, input: Input) {
        let at = self.now + after;
        self.schedule(at, Happens::Given { peer: peer.clone(), input });
    }

    pub fn input(&mut self, peer: &UserId, input: Input) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(peer) {
            node.machine.handle(now, input);
            self.drain(peer);
        }
    }

    /// From now on pieces travel on stripes.
    pub fn stripe(&mut self, seed: u64, late: Duration) {
        self.stripes = Some(Stripes { rng: StdRng::seed_from_u64(seed), late });
    }

    /// So many stripes break within a time, between any of these peers.
    pub fn break_stripes(&mut self, peers: Range<usize>, count: usize, within: Duration) {
        for _ in 0..count {
            let rng = &mut self.stripes.as_mut().expect("there are stripes").rng;
            let at = self.now + within.mul_f64(rng.random_range(0.0..1.0));
            let a = rng.random_range(peers.clone());
            let b = (a + rng.random_range(1..peers.len())) % peers.len();
            self.schedule(at, Happens::StripeBreaks { a: id(a), b: id(b) });
        }
    }

    /// Some of the pieces' frames on their way between the two never arrive; each end is told at its own time.
    fn handle_stripe_breaks(&mut self, a: &UserId, b: &UserId) {
        let Some(Stripes { rng, late }) = &mut self.stripes else { return };
        self.queue.retain(|Reverse(entry)| match &entry.happens {
            Happens::Arrives { from, to, sent: Sent::Bulk(frame) } => {
                let is_between = [(from, to), (to, from)].contains(&(a, b));
                !(is_between && frame::may_overtake(frame) && rng.random_ratio(1, 4))
            }
            _ => true,
        });
        for (at, (peer, other)) in
            [(a, b), (b, a)].map(|ends| (late.mul_f64(rng.random_range(0.0..1.0)), ends))
        {
            self.input_after(at, peer, Input::BulkLost { peer: other.clone(), revoked_bytes: 0 });
        }
    }

    /// Bytes a peer put on its uplink, with everything.
    pub fn sent_bytes(&self, peer: &UserId) -> u64 {
        self.nodes.get(peer).map_or(0, |node| node.sent_bytes)
    }

    fn node(&mut self, peer: &UserId) -> &mut Node {
        self.nodes.get_mut(peer).expect("a peer of this world")
    }

    fn schedule(&mut self, at: Instant, happens: Happens) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry { at, sequence: self.sequence, happens }));
    }

    fn drain(&mut self, peer: &UserId) {
        while let Some(output) = self.node(peer).machine.poll() {
            match output {
                Output::Control { peer: to, message } => self.send(peer, to, Sent::Control(message)),
                Output::Bulk { peer: to, frame } => self.send(peer, to, Sent::Bulk(frame)),
                Output::Disk(DiskOp { id: op, job }) => self.disk(peer, op, job),
                Output::Event(event) => self.events.push((self.now - self.start, peer.clone(), event)),
            }
        }
        let wake_at = self.node(peer).machine.poll_timeout().map(|(at, _)| at);
        if let Some(at) = wake_at
            && self.node(peer).wake_at != Some(at)
        {
            self.node(peer).wake_at = Some(at);
            self.schedule(at, Happens::Wake { peer: peer.clone() });
        }
    }

    fn disk(&mut self, peer: &UserId, op: OpId, job: DiskJob) {
        let node = self.nodes.get_mut(peer).expect("a peer of this world");
        let at = self.now + node.disk_takes;
        for done in (node.disk)(job) {
            self.schedule(at, Happens::Disk { peer: peer.clone(), op, done });
        }
    }

    fn send(&mut self, from: &UserId, to: UserId, sent: Sent) {
        let node = self.node(from);
        let bulk_bytes = if let Sent::Bulk(frame) = &sent { frame.len() as i64 } else { 0 };
        let sent = match &mut node.tamper {
            Some(tamper) => tamper(&to, sent),
            None => Some(sent),
        };
        let Some(sent) = sent else {
            // The channel took it.
            if let Some(channel) = node.bulk.get_mut(&to) {
                channel.left -= bulk_bytes;
            }
            return self.grant(from, &to);
        };
        match sent {
            Sent::Control(_) => node.control.push_back((to, sent)),
            Sent::Bulk(_) => {
                if let Some(channel) = node.bulk.get_mut(&to) {
                    channel.bytes += sent.len();
                    channel.left -= sent.len() as i64;
                    channel.queue.push_back(sent);
                }
            }
        }
        self.transmit(from);
    }

    /// Puts the next message on the uplink if that is free: control first, then the channels in turns.
    fn transmit(&mut self, from: &UserId) {
        let now = self.now;
        let node = self.node(from);
        if node.uplink_busy {
            return;
        }
        let next = node.control.pop_front().or_else(|| {
            let after = node.turn.clone();
            let waiting: Vec<&UserId> =
                node.bulk.iter().filter(|(_, c)| !c.queue.is_empty()).map(|(id, _)| id).collect();
            let to =
                waiting.iter().find(|id| Some(**id) > after.as_ref()).or(waiting.first())?.to_owned().clone();
            node.turn = Some(to.clone());
            let sent = node.bulk.get_mut(&to)?.queue.pop_front()?;
            Some((to, sent))
        });
        let Some((to, sent)) = next else { return };
        node.uplink_busy = true;
        let len = sent.len();
        node.sent_bytes += len as u64;
        let gone = now + Duration::from_secs_f64(len as f64 / node.access.up_bps as f64);
        let mut arrives = gone + node.access.delay;
        if let (Some(Stripes { rng, late }), Sent::Bulk(frame)) = (&mut self.stripes, &sent)
            && frame::may_overtake(frame)
        {
            arrives += late.mul_f64(rng.random_range(0.0..1.0));
        }
        self.schedule(gone, Happens::UplinkFree { peer: from.clone() });
        self.schedule(arrives, Happens::Arrives { from: from.clone(), to: to.clone(), sent: sent.clone() });
        if let Sent::Bulk(frame) = &sent {
            self.drained(from, &to, frame.len());
        }
    }

    fn drained(&mut self, from: &UserId, to: &UserId, len: usize) {
        let Some(channel) = self.node(from).bulk.get_mut(to) else { return };
        channel.bytes -= len;
        self.grant(from, to);
    }

    /// Says that the channel takes more, when that is worth saying.
    fn grant(&mut self, from: &UserId, to: &UserId) {
        let Some(channel) = self.nodes.get_mut(from).and_then(|node| node.bulk.get_mut(to)) else { return };
        if channel.bytes > CHANNEL_BYTES / 2 || channel.left >= CHANNEL_BYTES as i64 / 2 {
            return;
        }
        let mut room = CHANNEL_BYTES as i64 - channel.bytes as i64 - channel.left;
        if let Some(Stripes { rng, .. }) = &mut self.stripes {
            room = rng.random_range((16 * 1024 - channel.left).max(1)..=room);
        }
        channel.left += room;
        let input =
            Input::Writable { peer: to.clone(), bytes: usize::try_from(room).expect("there is room") };
        let now = self.now;
        self.schedule(now, Happens::Given { peer: from.clone(), input });
    }

    /// Lets things happen until `is_over` or `limit`; says whether it was over.
    pub fn run(&mut self, limit: Duration, mut is_over: impl FnMut(&Self) -> bool) -> bool {
        while !is_over(self) {
            // What happens later is still to come when it runs on.
            if self.queue.peek().is_none_or(|Reverse(next)| next.at - self.start > limit) {
                return false;
            }
            let Some(Reverse(Entry { at, happens, .. })) = self.queue.pop() else { return false };
            self.now = at;
            self.happen(happens);
        }
        true
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::UplinkFree { peer } if self.nodes.contains_key(&peer) => {
                self.node(&peer).uplink_busy = false;
                self.transmit(&peer);
            }
            Happens::Arrives { from, to, sent } if self.nodes.contains_key(&to) => {
                let now = self.now;
                let node = self.node(&to);
                let takes = Duration::from_secs_f64(sent.len() as f64 / node.access.down_bps as f64);
                node.downlink_free = node.downlink_free.max(now) + takes;
                let at = node.downlink_free;
                self.schedule(at, Happens::Delivered { from, to, sent });
            }
            Happens::Delivered { from, to, sent } => {
                let input = match sent {
                    Sent::Control(message) => Input::Control { peer: from, message: message.to_value() },
                    Sent::Bulk(frame) => Input::Bulk { peer: from, frame },
                };
                self.input(&to, input);
            }
            Happens::Disk { peer, op, done } => self.input(&peer, Input::Disk { op, done }),
            Happens::Given { peer, input } => self.input(&peer, input),
            Happens::StripeBreaks { a, b } => self.handle_stripe_breaks(&a, &b),
            Happens::Leaves { peer } => self.leave(&peer),
            Happens::Wake { peer } => self.wake(&peer),
            Happens::UplinkFree { .. } | Happens::Arrives { .. } => {}
        }
    }

    fn wake(&mut self, peer: &UserId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(peer) else { return };
        // The machine has set another time since: what wakes it then is in the queue.
        if node.wake_at != Some(now) {
            return;
        }
        node.wake_at = None;
        if node.machine.poll_timeout().is_some_and(|(at, _)| at <= now) {
            node.machine.handle_timeout(now);
        }
        self.drain(peer);
    }
}
