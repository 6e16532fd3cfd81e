//! Which of the peer's pieces have come, and what a packet brings beside them.

use std::collections::{BTreeSet, VecDeque};

use super::packet::{Chunk, Kind, chunks, tag_of};

/// What a piece is charged beyond its bytes: about what the engine (rtc-sctp 0.21) needs to keep track of one.
pub(super) const RECORD_BYTES: u64 = 128;

/// Charged so are pieces that are shorter than this, and the last one of a message. An honest peer sends no others of them.
const SHORT_BYTES: usize = 256;

/// How far a piece may be ahead of the first that is missing. The engine keeps all of them, read or not, and the distances in
/// its acknowledgements have 16 bits.
const AHEAD_MAX: u32 = 16 * 1024;

/// Streams that a peer may use. Each costs the engine a step for each piece that comes.
const STREAMS_MAX: usize = 256;

/// Chunks of a packet that are neither data nor an acknowledgement. The engine answers some of them with a packet each.
const OTHERS_MAX: usize = 3;

/// How often an association may be begun before it is up, by either end. The engine makes a new one each time, with a verification tag
/// of its own.
const BEGINNINGS_MAX: usize = 8;

/// Pieces in a row of which none is the last of its message: eight of the largest messages. The engine goes through those of a message
/// with each that comes.
const PARTS_MAX: u32 = 2048;

/// What has come behind something that is missing lies in so many stretches. Each is part of each acknowledgement.
const STRETCHES_MAX: usize = 512;

/// Which of the peer's pieces have come. Those that come again are dropped by the engine.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What packets to our engine must be marked with, by its own word.
    tags: Vec<u32>,
    /// How often the peer has begun an association; and whether it is up, so that there will be no other.
    begun: usize,
    is_up: bool,
    /// How many have come since the last end of a message.
    parts: u32,
    /// What our engine acknowledged last: all up to here; `None` before it acknowledged anything.
    cumulative: Option<u32>,
    /// What was there after it then, from first to last, as distances from it.
    blocks: Vec<(u32, u32)>,
    /// All up to here have come by now.
    reached: u32,
    /// What has come and is not acknowledged, in the order of serial numbers.
    since: VecDeque<Piece>,
    streams: BTreeSet<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    tsn: u32,
    /// Its share of the packet it came in. The engine may have dropped it, and take a copy that came in a larger one.
    share_bytes: u16,
}

/// What an acknowledgement of our engine tells about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// How much it would take now.
    pub(super) window_bytes: u32,
    /// Whether it had everything then that has come by now: it deciphers many packets before it looks at the first.
    pub(super) is_all: bool,
}

/// What the engine may get out of a packet that it did not have before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// How many bytes it may keep. A piece keeps the whole packet it came in.
    pub(super) bytes: u64,
    /// How many of the user's messages end in it.
    pub(super) messages: u64,
    /// Whether a piece is in it that is ahead of all that have come.
    pub(super) goes_on: bool,
    /// Whether streams are to be reset: the engine remembers such requests.
    pub(super) resets: bool,
    /// Whether it ends the association.
    pub(super) ends: bool,
}

impl Seen {
    /// Notes what a packet of our own engine begins with: the tag it wants to see, or an acknowledgement.
    pub(super) fn note_sent(&mut self, packet: &[u8]) -> Option<Acknowledged> {
        let first = chunks(packet).next()?.ok()?;
        match first.kind {
            Kind::Sack => Some(self.note_acknowledged(&first)),
            Kind::Init => {
                if !self.is_up && self.tags.len() < BEGINNINGS_MAX {
                    self.tags.push(first.initiate_tag());
                }
                None
            }
            Kind::Data
            | Kind::Heartbeat
            | Kind::Last
            | Kind::Cookie
            | Kind::Plain
            | Kind::Reconfig
            | Kind::ForwardTsn => None,
        }
    }

    fn note_acknowledged(&mut self, sack: &Chunk<'_>) -> Acknowledged {
        let cumulative = sack.tsn();
        self.cumulative = Some(cumulative);
        self.blocks.clear();
        self.blocks.extend(sack.blocks());
        let mut since = std::mem::take(&mut self.since);
        since.retain(|piece| {
            piece.tsn.wrapping_sub(cumulative) <= AHEAD_MAX && !self.is_acknowledged(piece.tsn)
        });
        self.since = since;
        self.reached = cumulative;
        self.reach_on();
        Acknowledged { window_bytes: sack.window_bytes(), is_all: self.since.is_empty() }
    }

    /// Notes the pieces of a packet that the engine gets.
    pub(super) fn note_received(&mut self, packet: &[u8]) {
        let share_bytes = self.share_bytes(packet);
        self.settle(packet);
        for piece in chunks(packet).map_while(Result::ok).filter(|chunk| chunk.kind == Kind::Data) {
            self.streams.insert(piece.stream());
            self.parts = if piece.ends() { 0 } else { self.parts.saturating_add(1) };
            let tsn = piece.tsn();
            if self.is_acknowledged(tsn) {
                continue;
            }
            match self.find(tsn) {
                Ok(at) => self.since[at].share_bytes = self.since[at].share_bytes.max(share_bytes),
                Err(at) => self.since.insert(at, Piece { tsn, share_bytes }),
            }
        }
        self.reach_on();
    }

    /// What a peer says that has our tag is about the one association that there is.
    fn settle(&mut self, packet: &[u8]) {
        if self.is_up {
            return;
        }
        for chunk in chunks(packet).map_while(Result::ok) {
            self.begun += usize::from(chunk.kind == Kind::Init);
            self.is_up |= matches!(chunk.kind, Kind::Cookie | Kind::Data);
        }
        if self.is_up {
            self.tags.retain(|tag| tag_of(packet) == Some(*tag));
        }
    }

    fn reach_on(&mut self) {
        let Some(cumulative) = self.cumulative else { return };
        let mut at = self.find(self.reached.wrapping_add(1)).unwrap_or_else(|at| at);
        loop {
            let next = self.reached.wrapping_add(1);
            if self.since.get(at).is_some_and(|piece| piece.tsn == next) {
                at += 1;
                self.reached = next;
            } else if let Some((_, last)) = self.block_of(next) {
                self.reached = cumulative.wrapping_add(last);
            } else {
                return;
            }
        }
    }

    /// What a packet brings; `None` if the engine must not get it, because no honest peer sends such a one, or not now: it
    /// comes again then, like one that got lost.
    pub(super) fn judge(&self, packet: &[u8]) -> Option<News> {
        if !self.is_for_us(packet) {
            return None;
        }
        let share_bytes = self.share_bytes(packet);
        let (mut is_kept, mut records, mut news) = (false, 0, News::default());
        let (mut sacks, mut others) = (0, 0);
        for chunk in chunks(packet) {
            let chunk = chunk.ok()?;
            others += usize::from(!matches!(chunk.kind, Kind::Data | Kind::Sack));
            sacks += usize::from(chunk.kind == Kind::Sack);
            if others > OTHERS_MAX || sacks > 1 || !self.may_come(&chunk) {
                return None;
            }
            match chunk.kind {
                Kind::Data => {
                    let before = self.share_of(chunk.tsn());
                    if before.is_none_or(|before| before < share_bytes) {
                        is_kept = true;
                        records += u64::from(chunk.ends() || chunk.len() < SHORT_BYTES);
                    }
                    let is_news = before.is_none() && chunk.ends() && !chunk.is_about_channels();
                    news.messages += u64::from(is_news);
                    news.goes_on |= before.is_none() && self.is_ahead_of_all(chunk.tsn());
                }
                Kind::Sack | Kind::Heartbeat => {}
                Kind::Init | Kind::Last | Kind::Cookie | Kind::Plain | Kind::Reconfig | Kind::ForwardTsn => {
                    is_kept = true;
                    records += 1;
                    news.resets |= chunk.resets_streams();
                    news.ends |= chunk.kind == Kind::Last;
                }
            }
        }
        if is_kept {
            news.bytes = packet.len() as u64 + records * RECORD_BYTES;
        }
        Some(news)
    }

    /// The engine drops what is not, and it would seem to have come.
    fn is_for_us(&self, packet: &[u8]) -> bool {
        let begins =
            || chunks(packet).next().is_some_and(|chunk| chunk.is_ok_and(|it| it.kind == Kind::Init));
        tag_of(packet).is_some_and(|tag| self.tags.contains(&tag) || (tag == 0 && begins()))
    }

    /// What each of its pieces is charged of a packet that may be kept as long as one of them is.
    fn share_bytes(&self, packet: &[u8]) -> u16 {
        let is_new = |chunk: &Chunk<'_>| chunk.kind == Kind::Data && !self.is_acknowledged(chunk.tsn());
        let pieces = chunks(packet).map_while(Result::ok).filter(is_new).count();
        u16::try_from(packet.len() / pieces.max(1)).unwrap_or(u16::MAX)
    }

    fn may_come(&self, chunk: &Chunk<'_>) -> bool {
        match chunk.kind {
            Kind::Data => {
                let is_near = self.cumulative.is_none() || self.is_near(chunk.tsn());
                is_near
                    && (self.streams.len() < STREAMS_MAX || self.streams.contains(&chunk.stream()))
                    && (self.parts < PARTS_MAX || chunk.ends())
                    // The engine goes through all of those with each that comes; no channel of ours has any.
                    && !chunk.is_unordered_part()
                    && (self.blocks.len() < STRETCHES_MAX || !self.stands_alone(chunk.tsn()))
            }
            // The engine goes to it step by step.
            Kind::ForwardTsn => self.cumulative.is_some() && self.is_near(chunk.tsn()),
            // It would be put off, and looked at again with each piece that comes.
            Kind::Reconfig => {
                chunk.resets().all(|last| self.cumulative.is_some() && !is_before(self.reached, last))
            }
            // An association begins once, if not at the first attempt.
            Kind::Init => !self.is_up && self.cumulative.is_none() && self.begun < BEGINNINGS_MAX,
            Kind::Sack | Kind::Heartbeat | Kind::Last | Kind::Cookie | Kind::Plain => true,
        }
    }

    /// Whether a new stretch would begin with a piece.
    fn stands_alone(&self, tsn: u32) -> bool {
        let is_there = |tsn| !is_before(self.reached, tsn) || self.share_of(tsn).is_some();
        !is_there(tsn) && !is_there(tsn.wrapping_sub(1)) && !is_there(tsn.wrapping_add(1))
    }

    fn is_ahead_of_all(&self, tsn: u32) -> bool {
        let acknowledged = self.cumulative.zip(self.blocks.last());
        let acknowledged = acknowledged.map(|(cumulative, (_, last))| cumulative.wrapping_add(*last));
        let last = self.since.back().map(|piece| piece.tsn);
        [acknowledged, last, self.cumulative].into_iter().flatten().all(|last| is_before(last, tsn))
    }

    /// Not far ahead, or behind.
    fn is_near(&self, tsn: u32) -> bool {
        tsn.wrapping_sub(self.reached) <= AHEAD_MAX || is_before(tsn, self.reached)
    }

    /// As what a piece is taken down that has come; what is acknowledged never counts again.
    fn share_of(&self, tsn: u32) -> Option<u16> {
        match self.is_acknowledged(tsn) {
            true => Some(u16::MAX),
            false => self.find(tsn).ok().map(|at| self.since[at].share_bytes),
        }
    }

    fn is_acknowledged(&self, tsn: u32) -> bool {
        self.cumulative.is_some_and(|cumulative| !is_before(cumulative, tsn)) || self.block_of(tsn).is_some()
    }

    /// Where a piece is among those that are not acknowledged, or belongs.
    fn find(&self, tsn: u32) -> Result<usize, usize> {
        let at = self.since.partition_point(|piece| is_before(piece.tsn, tsn));
        if self.since.get(at).is_some_and(|piece| piece.tsn == tsn) { Ok(at) } else { Err(at) }
    }

    fn block_of(&self, tsn: u32) -> Option<(u32, u32)> {
        let ahead = tsn.wrapping_sub(self.cumulative?);
        let at = self.blocks.partition_point(|(_, last)| *last < ahead);
        self.blocks.get(at).copied().filter(|(first, _)| *first <= ahead)
    }
}

/// Serial numbers (RFC 1982): half of them are ahead.
fn is_before(first: u32, second: u32) -> bool {
    (1..=u32::MAX / 2).contains(&second.wrapping_sub(first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::seal;
    use super::super::packet::tests::{
        TAG, cookie, data, forward, heartbeat, init, packet, packet_with_tag, reconfig, sack, unordered,
    };
    use super::*;

    fn kept(chunks: &[Vec<u8>]) -> Option<u64> {
        begun().judge(&packet(chunks)).map(|news| news.bytes)
    }

    fn begun() -> Seen {
        let mut seen = Seen::default();
        seen.note_sent(&packet(&[init(TAG)]));
        seen
    }

    /// After an acknowledgement of all up to here.
    fn seen(cumulative: u32) -> Seen {
        let mut seen = begun();
        seen.note_sent(&packet(&[sack(cumulative, &[], 0)]));
        seen
    }

    fn admits(seen: &Seen, chunks: &[Vec<u8>]) -> bool {
        seen.judge(&packet(chunks)).is_some()
    }

    #[test]
    fn of_acknowledgements_and_heartbeats_nothing_is_kept() {
        assert_eq!(kept(&[sack(1, &[(2, 3)], 1)]), Some(0));
        assert_eq!(kept(&[sack(1, &[], 0), heartbeat()]), Some(0));
        assert_eq!(kept(&[]), Some(0));
    }

    #[test]
    fn a_piece_keeps_the_packet_it_came_in() {
        assert_eq!(kept(&[data(1, false, 1000)]), Some(12 + 16 + 1000));
        assert_eq!(
            kept(&[data(1, false, 1)]),
            Some(12 + 20 + RECORD_BYTES),
            "a short one has a record of its own"
        );
        assert_eq!(
            kept(&[data(1, true, 1000)]),
            Some(12 + 16 + 1000 + RECORD_BYTES),
            "and the last of a message"
        );
        let beside = sack(1, &[], 200);
        assert_eq!(kept(&[beside, data(1, false, 1)]), Some(12 + 816 + 20 + RECORD_BYTES));
    }

    #[test]
    fn what_makes_no_sense_does_not_come_in() {
        assert_eq!(kept(&[vec![0; 40]]), None);
        assert_eq!(kept(&[data(1, true, 9), vec![0xff; 40]]), None);
        assert_eq!(kept(&[vec![heartbeat(); 4].concat()]), None, "each has an answer");
        assert_eq!(kept(&[sack(1, &[], 0), sack(1, &[], 0)]), None);
    }

    #[test]
    fn a_piece_that_came_before_is_no_news() {
        let mut seen = begun();
        let acknowledged = seen.note_sent(&packet(&[sack(u32::MAX, &[(3, 4), (7, 7)], 2)]));
        assert_eq!(acknowledged, Some(Acknowledged { window_bytes: 0, is_all: true }));
        let news = |seen: &Seen| -> Vec<u32> {
            let is_news = |tsn: &u32| seen.judge(&packet(&[data(*tsn, true, 1)])).expect("fine").messages > 0;
            [u32::MAX - 1, u32::MAX, 0, 1, 2, 3, 4, 5, 6, 7].into_iter().filter(is_news).collect()
        };
        assert_eq!(
            news(&seen),
            [0, 1, 4, 5, 7],
            "after {}, the third, fourth and seventh are there",
            u32::MAX
        );
        seen.note_received(&packet(&[data(5, true, 1), data(0, false, 1)]));
        assert_eq!(news(&seen), [1, 4, 7]);
        let half = seen.judge(&packet(&[data(2, true, 1), data(4, true, 1)]));
        assert_eq!(half, Some(News { bytes: 12 + 20 + 20 + RECORD_BYTES, messages: 1, ..News::default() }));
        seen.note_received(&packet(&[data(1, true, 1)]));
        assert_eq!(seen.reached, 3, "over what was acknowledged");
        seen.note_sent(&packet(&[sack(0, &[(1, 7)], 0)]));
        assert_eq!((news(&seen), seen.since.len()), (vec![], 0));
    }

    #[test]
    fn messages_are_counted_where_they_end_and_those_about_channels_are_none() {
        let dcep = |flags| {
            let mut chunk = data(3, true, 20);
            chunk[1] = flags;
            chunk[12..17].copy_from_slice(&[0, 0, 0, 50, 2]);
            chunk
        };
        let chunks = [data(1, false, 20), data(2, true, 20), dcep(3), data(4, true, 20)];
        assert_eq!(begun().judge(&packet(&chunks)).expect("fine").messages, 2);
        assert!(!admits(&begun(), &[dcep(1)]), "the last piece of one that began as something else");
    }

    /// Otherwise it would seem to have come, and what really comes in its place would be no news.
    #[test]
    fn what_the_engine_would_drop_does_not_come_in() {
        let piece = [data(1, true, 9)];
        assert!(begun().judge(&packet(&piece)).is_some());
        assert!(begun().judge(&packet_with_tag(TAG + 1, &piece)).is_none());
        assert!(begun().judge(&packet_with_tag(0, &piece)).is_none());
        assert!(Seen::default().judge(&packet(&piece)).is_none(), "before our engine has begun");
        let mut damaged = packet(&piece);
        *damaged.last_mut().expect("it has bytes") ^= 1;
        assert!(begun().judge(&damaged).is_none());
        seal(&mut damaged);
        assert!(begun().judge(&damaged).is_some());
    }

    /// The engine may have dropped the first copy, for want of room.
    #[test]
    fn a_larger_copy_is_charged_for_and_is_no_other_message() {
        let mut seen = seen(0);
        let copies = [data(1, true, 1), data(1, true, 400), data(1, true, 4)];
        let mut charge = |chunks: &[Vec<u8>]| {
            let news = seen.judge(&packet(chunks)).expect("fine");
            seen.note_received(&packet(chunks));
            (news.bytes, news.messages)
        };
        let [small, large, medium] = copies;
        assert_eq!(charge(std::slice::from_ref(&small)), (12 + 20 + RECORD_BYTES, 1));
        assert_eq!(charge(&[sack(1, &[], 200), small]), (12 + 816 + 20 + RECORD_BYTES, 0));
        assert_eq!(
            charge(&[large, data(2, false, 400)]),
            (12 + 2 * 416, 0),
            "its share is less, and the other's new"
        );
        assert_eq!(charge(&[medium]), (0, 0));
    }

    #[test]
    fn an_acknowledgement_tells_whether_the_engine_has_seen_everything() {
        let mut seen = seen(0);
        for tsn in [1, 2, 4] {
            seen.note_received(&packet(&[data(tsn, true, 1)]));
        }
        let mut is_all = |sack| seen.note_sent(&packet(&[sack])).map(|it| it.is_all);
        assert_eq!(is_all(sack(1, &[], 0)), Some(false));
        assert_eq!(is_all(sack(1, &[], 0)), Some(false));
        assert_eq!(is_all(sack(2, &[], 0)), Some(false));
        assert_eq!(is_all(sack(2, &[(2, 2)], 0)), Some(true));
        assert_eq!(is_all(data(9, true, 1)), None);
    }

    /// The engine keeps what comes behind a piece that never comes, even when it has been read.
    #[test]
    fn a_piece_may_not_be_far_ahead_of_the_first_that_is_missing() {
        let mut seen = seen(100);
        assert!(admits(&seen, &[data(100 + AHEAD_MAX, true, 1)]));
        assert!(!admits(&seen, &[data(101 + AHEAD_MAX, true, 1)]));
        assert!(!admits(&seen, &[data(100 + (1 << 31), true, 1)]));
        assert!(admits(&seen, &[data(99, true, 1)]), "an old one is dropped by the engine");
        for tsn in 101..=100 + 2 * AHEAD_MAX {
            let next = packet(&[data(tsn, true, 1)]);
            assert!(seen.judge(&next).is_some(), "{tsn} comes in its turn, acknowledged or not");
            seen.note_received(&next);
        }
        seen.note_sent(&packet(&[sack(100, &[], 0)]));
        assert_eq!(seen.since.len(), AHEAD_MAX as usize, "what is further is forgotten");
    }

    /// The engine goes to where a FORWARD-TSN leads step by step, and there are two thousand million steps.
    #[test]
    fn what_is_given_up_may_not_be_far_ahead() {
        assert!(!admits(&begun(), &[forward(1)]), "nothing was sent yet");
        assert!(admits(&seen(100), &[forward(100 + AHEAD_MAX)]));
        assert!(admits(&seen(100), &[forward(90)]));
        assert!(!admits(&seen(100), &[forward(101 + AHEAD_MAX)]));
        assert!(!admits(&seen(100), &[forward(100 + (1 << 31) - 1)]));
    }

    /// The engine looks at each request that waits with each piece that comes.
    #[test]
    fn streams_are_reset_when_all_before_has_come() {
        let mut seen = seen(100);
        assert_eq!(seen.judge(&packet(&[reconfig(100)])).map(|news| news.resets), Some(true));
        assert!(!admits(&seen, &[reconfig(101)]));
        seen.note_received(&packet(&[data(101, true, 1)]));
        assert!(admits(&seen, &[reconfig(101)]), "although it is not acknowledged yet");
    }

    #[test]
    fn an_association_begins_once_if_not_at_the_first_attempt() {
        assert!(!admits(&seen(1), &[init(1)]));
        let mut seen = begun();
        for attempt in 0..BEGINNINGS_MAX {
            assert!(admits(&seen, &[init(1)]), "{attempt}");
            seen.note_received(&packet(&[init(1)]));
        }
        assert!(!admits(&seen, &[init(1)]));
    }

    /// The engine would keep each of them, and what one has acknowledged would seem to have come in another.
    #[test]
    fn there_is_one_association() {
        for first in [cookie(), data(1, true, 9)] {
            let mut seen = begun();
            seen.note_sent(&packet(&[init(TAG + 1)]));
            let another = packet_with_tag(TAG + 1, &[data(1, true, 9)]);
            assert!(seen.judge(&another).is_some(), "either may be the one");
            seen.note_received(&packet(&[first]));
            assert!(seen.judge(&another).is_none());
            assert!(admits(&seen, &[data(1, true, 9)]));
            assert!(!admits(&seen, &[init(1)]));
        }
    }

    /// The engine goes through all pieces of a message with each that comes.
    #[test]
    fn a_message_has_a_bounded_number_of_pieces() {
        let mut seen = seen(0);
        for tsn in 1..=PARTS_MAX {
            assert!(admits(&seen, &[data(tsn, false, 900)]), "{tsn}");
            seen.note_received(&packet(&[data(tsn, false, 900)]));
        }
        assert!(!admits(&seen, &[data(PARTS_MAX + 1, false, 900)]));
        assert!(admits(&seen, &[data(PARTS_MAX + 1, true, 900)]), "its last");
        seen.note_received(&packet(&[data(PARTS_MAX + 1, true, 900)]));
        assert!(admits(&seen, &[data(PARTS_MAX + 2, false, 900)]));
    }

    #[test]
    fn messages_that_may_overtake_others_have_one_piece() {
        assert!(admits(&seen(0), &[unordered(1, true, true)]));
        for (begins, ends) in [(true, false), (false, false), (false, true)] {
            assert!(!admits(&seen(0), &[unordered(1, begins, ends)]));
        }
    }

    /// Each is part of each acknowledgement.
    #[test]
    fn what_has_come_has_a_bounded_number_of_gaps() {
        let blocks: Vec<(u16, u16)> = (1..=STRETCHES_MAX as u16).map(|at| (3 * at, 3 * at)).collect();
        let mut seen = begun();
        seen.note_sent(&packet(&[sack(0, &blocks, 0)]));
        let last = 3 * STRETCHES_MAX as u32;
        assert!(!admits(&seen, &[data(last + 2, true, 9)]));
        for tsn in [1, 2, 4, last, last + 1] {
            assert!(admits(&seen, &[data(tsn, true, 9)]), "{tsn} makes no other");
        }
        seen.note_sent(&packet(&[sack(0, &blocks[1..], 0)]));
        assert!(admits(&seen, &[data(last + 2, true, 9)]));
    }

    #[test]
    fn a_peer_uses_a_bounded_number_of_streams() {
        let mut seen = seen(0);
        let on = |stream: u16| {
            let mut piece = data(1, true, 1);
            piece[8..10].copy_from_slice(&stream.to_be_bytes());
            packet(&[piece])
        };
        for stream in 0..STREAMS_MAX as u16 {
            assert!(seen.judge(&on(stream)).is_some());
            seen.note_received(&on(stream));
        }
        assert!(seen.judge(&on(7)).is_some());
        assert!(seen.judge(&on(STREAMS_MAX as u16)).is_none());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ours in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut seen = begun();
            seen.note_sent(&ours);
            if let Some(news) = seen.judge(&bytes) {
                prop_assert!(news.bytes <= (bytes.len() as u64 / 4 + 1) * (RECORD_BYTES + 4));
                seen.note_received(&bytes);
                prop_assert_eq!(seen.judge(&bytes).map_or(0, |news| news.messages), 0);
            }
        }

        /// What is known to have come, told by an acknowledgement and by the pieces themselves.
        #[test]
        fn each_piece_is_news_once(
            tsns in prop::collection::vec(1..60_u32, 1..120),
            acknowledged in prop::collection::btree_set(1..40_u32, 0..3),
            base in any::<u32>(),
        ) {
            let blocks: Vec<(u16, u16)> = acknowledged.iter().map(|tsn| (*tsn as u16 + 1, *tsn as u16 + 1)).collect();
            let mut seen = begun();
            seen.note_sent(&packet(&[sack(base, &blocks, 0)]));
            let mut there: BTreeSet<u32> = acknowledged.iter().map(|tsn| tsn + 1).collect();
            for tsn in tsns {
                let piece = packet(&[data(base.wrapping_add(tsn), true, 1)]);
                prop_assert_eq!(seen.judge(&piece).expect("near").messages == 1, there.insert(tsn));
                seen.note_received(&piece);
            }
            let reached = (1..).take_while(|tsn| there.contains(tsn)).last().unwrap_or(0);
            prop_assert_eq!(seen.reached, base.wrapping_add(reached));
        }
    }
}
