//! Asking for pieces and taking what comes.
//!
//! A piece is asked from one peer as a whole, so that a wrong one has one author. Each peer has a window of requests that
//! follows how fast it answers. Near the end, what is late is asked from a
//! second peer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng;

use super::CutOffReason;
use super::exchange::{Asked, Exchange, Fetching, Member, Order};
use super::machine::TICK;
use super::pieces::ones;
use crate::wire::UserId;

/// The largest window of requests to one peer.
pub(super) const WINDOW_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Requests are kept so deep that about so much time passes between asking and having, over the shortest time seen.
const QUEUE_AIM: Duration = Duration::from_millis(250);

/// The most that scattered times add to it: SCTP's shortest time-out is a second (RFC 9260 §6.3.1), and may strike twice.
const SCATTER_MAX: Duration = Duration::from_secs(2);

/// How many candidates are compared before the rarest of them is taken.
const CANDIDATES: usize = 512;

/// How long a request may take before another peer is asked, too, when there is nothing else to ask for.
const LATE: Duration = Duration::from_millis(750);
const LATE_MAX: Duration = Duration::from_secs(10);

/// So many requests that are under way are looked at in one go, for one that is late.
const LOOKED_AT_MAX: usize = 4096;

/// A peer is asked to show more at most so often.
const NUDGE_EVERY: Duration = Duration::from_millis(200);

/// A frame that does not end its piece holds at least so much, so that a piece comes in a thousand parts at most.
const PART_MIN_BYTES: usize = 4096;

/// The most parts of a piece that came several times and was cut differently.
const PARTS_MAX: usize = 4096;

/// A piece of which all parts are here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) piece: u32,
    pub(super) parts: Vec<Bytes>,
}

impl Exchange {
    /// The next piece to ask `peer` for, taken down as asked. `None` if its window is full or it has nothing for us.
    pub(super) fn ask(&mut self, now: Instant, peer: &UserId, rng: &mut impl Rng) -> Option<u32> {
        let member = self.members.get(peer)?;
        if member.retry_at.is_some_and(|at| now < at) || member.asked_bytes >= member.window_bytes {
            return None;
        }
        let rests = member.rests;
        let piece = self.pick(peer, rng).or_else(|| self.pick_late(now, peer))?;
        if !rests {
            (self.stalled, self.quiet_since) = (false, None);
        }
        self.missing.remove(piece);
        self.fetching.entry(piece).or_insert(Fetching { asked: 0, since: now }).asked += 1;
        self.under_way.insert(piece);
        let cost = self.cost(piece);
        let member = self.members.get_mut(peer).expect("it was there above");
        if member.asked.is_empty() {
            member.heard_at = now;
        }
        member.retry_at = None;
        let answered_bytes = member.answered_bytes;
        member.asked.insert(piece, Asked { at: now, answered_bytes, parts: Default::default(), got: 0 });
        member.asked_bytes += cost;
        Some(piece)
    }

    /// Whether `peer` is to be asked to show more, because nothing it has shown is worth asking for. Taken down as asked.
    pub(super) fn nudge(&mut self, now: Instant, peer: &UserId) -> bool {
        if self.missing.is_empty() && self.fetching.is_empty() {
            return false;
        }
        let Some(member) = self.members.get_mut(peer) else { return false };
        let is_resting = member.retry_at.is_some_and(|at| now < at);
        let was_nudged = member.nudged_at.is_some_and(|at| now.saturating_duration_since(at) < NUDGE_EVERY);
        if !member.asked.is_empty() || is_resting || was_nudged || !member.joined || member.has.is_all() {
            return false;
        }
        member.nudged_at = Some(now);
        true
    }

    fn pick(&self, peer: &UserId, rng: &mut impl Rng) -> Option<u32> {
        let member = self.members.get(peer)?;
        let has = &member.has;
        let words = has.word_count();
        // Nobody waits for what is asked of one that may not answer.
        let order = if member.rests { Order::Rarest } else { self.order };
        let (start, limit) = match order {
            Order::Sequential => (0, 1),
            Order::Rarest if words == 0 => return None,
            Order::Rarest => (rng.next_u32() as usize % words, CANDIDATES),
        };
        let mut best: Option<(u16, u32)> = None;
        let candidates = (0..words)
            .map(|step| (start + step) % words)
            .flat_map(|at| ones(self.missing.word(at) & has.word(at)).map(move |bit| at as u32 * 64 + bit))
            .take(limit);
        let mut ties = 0;
        for piece in candidates {
            let copies = self.copies[piece as usize];
            ties = match best {
                Some((fewest, _)) if copies > fewest => continue,
                Some((fewest, _)) if copies == fewest => ties + 1,
                _ => 1,
            };
            if rng.next_u32().is_multiple_of(ties) {
                best = Some((copies, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// The end game: when every piece is asked for, one that this peer has, that others were asked for and that is late. There
    /// may be many thousands under way, and who has none of them costs next to nothing.
    fn pick_late(&mut self, now: Instant, peer: &UserId) -> Option<u32> {
        let member = self.members.get_mut(peer).filter(|member| member.asked.is_empty())?;
        let was_looked_at = member.looked_at.is_some_and(|at| now.saturating_duration_since(at) < TICK);
        if was_looked_at || !self.missing.is_empty() {
            return None;
        }
        // Who took long for a piece is no measure.
        let late = LATE.max((member.quickest.unwrap_or(LATE) * 2).min(LATE_MAX));
        // Those who were asked may be slow on purpose: for each of them more patience is lost, but never all.
        let patience = |asked: u32| late * 4u32.saturating_pow(asked.saturating_sub(1).min(8));
        let under_way: Vec<u32> =
            self.under_way.common(&member.has, member.look_from).take(LOOKED_AT_MAX).collect();
        member.look_from = under_way.last().map_or(0, |piece| *piece as usize / 64);
        let oldest = under_way
            .into_iter()
            .filter_map(|piece| Some((piece, self.fetching.get(&piece)?)))
            .filter(|(_, it)| now.saturating_duration_since(it.since) >= patience(it.asked))
            .min_by_key(|(_, it)| it.since)
            .map(|(piece, _)| piece);
        member.looked_at = oldest.is_none().then_some(now);
        oldest
    }

    /// Takes a part of a piece. A piece that is complete is handed out and counted as being written.
    pub(super) fn take_part(
        &mut self,
        now: Instant,
        peer: &UserId,
        piece: u32,
        offset: u32,
        content: Bytes,
    ) -> Result<Option<Arrived>, CutOffReason> {
        if piece >= self.manifest.piece_count() {
            return Err(CutOffReason::Protocol);
        }
        let (len, cost) = (self.manifest.piece_len(piece), self.cost(piece));
        let Some(member) = self.members.get_mut(peer) else { return Ok(None) };
        let part_len = content.len() as u64;
        let new_bytes = match member.asked.get_mut(&piece) {
            Some(asked) => asked.add(len, offset, content)?,
            None => 0,
        };
        member.forgiven_bytes =
            member.forgiven_bytes.checked_sub(part_len - new_bytes).ok_or(CutOffReason::Protocol)?;
        // What was asked for before and taken back since shows that more is on its way, too.
        member.heard_at = now;
        self.wake(peer);
        let Some(member) = self.members.get_mut(peer).filter(|_| new_bytes > 0) else { return Ok(None) };
        if member.asked[&piece].got < len {
            return Ok(None);
        }
        let asked = member.asked.remove(&piece).expect("it was there above");
        member.silences = 0;
        member.asked_bytes -= cost;
        member.resize_window(now, &asked, cost);
        Ok(self.arrived(peer, piece, asked))
    }

    fn arrived(&mut self, peer: &UserId, piece: u32, asked: Asked) -> Option<Arrived> {
        let fresh = !self.have.contains(piece) && !self.writing.contains_key(&piece);
        if fresh {
            self.writing.insert(piece, peer.clone());
            self.writing_bytes += self.cost(piece);
        }
        self.release(piece);
        fresh.then(|| Arrived { piece, parts: asked.parts.into_values().collect() })
    }

    /// The disk verified and wrote a piece. Returns the peers that were asked for it, too; their requests are taken back.
    pub(super) fn written(&mut self, now: Instant, piece: u32, from_origin: bool) -> Vec<UserId> {
        let Some(from) = self.writing.remove(&piece) else { return Vec::new() };
        let len = self.len(piece);
        self.writing_bytes -= self.cost(piece);
        if !self.have.insert(piece) {
            return Vec::new();
        }
        self.have_bytes += len;
        self.left -= 1;
        self.left_bytes -= len;
        self.down.add(now, len);
        if from_origin {
            self.from_origin_bytes += len;
        } else {
            self.from_others_bytes += len;
        }
        if let Some(member) = self.members.get_mut(&from) {
            member.down.add(now, len);
        }
        self.unannounced.push(piece);
        let also: Vec<UserId> = self
            .members
            .iter()
            .filter(|(_, m)| m.asked.contains_key(&piece))
            .map(|(id, _)| id.clone())
            .collect();
        also.iter().for_each(|peer| self.unask(peer, piece));
        also
    }

    /// The disk found a piece wrong: it is missing again. Returns who sent it.
    pub(super) fn wrong(&mut self, piece: u32) -> Option<UserId> {
        let from = self.writing.remove(&piece)?;
        self.writing_bytes -= self.cost(piece);
        if !self.fetching.contains_key(&piece) {
            self.missing.insert(piece);
        }
        Some(from)
    }

    /// A verified piece turned out not to be on disk any more: somebody changed the part file.
    pub(super) fn lost(&mut self, piece: u32) {
        if self.have.remove(piece) {
            let len = self.len(piece);
            self.have_bytes -= len;
            self.left += 1;
            self.left_bytes += len;
            self.missing.insert(piece);
        }
    }
}

impl Member {
    /// After an answer: as many requests as the peer answers in the shortest time it took, [`QUEUE_AIM`], and what times
    /// scatter: where packets are lost, one answer takes a second longer than another, and those behind it must not wait.
    fn resize_window(&mut self, now: Instant, asked: &Asked, cost: u64) {
        self.answered_bytes += cost;
        let took = now.saturating_duration_since(asked.at).max(Duration::from_micros(100));
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        self.quickest = Some(quickest);
        let off = took.abs_diff(self.mean_took);
        self.scatter = (self.scatter * 3 + off) / 4;
        self.mean_took = (self.mean_took * 7 + took) / 8;
        let spare = QUEUE_AIM + (self.scatter * 4).min(SCATTER_MAX);
        let rate = (self.answered_bytes - asked.answered_bytes) as f64 / took.as_secs_f64();
        self.answer_bps = rate.max(self.answer_bps * 0.9 + rate * 0.1);
        let window = (self.answer_bps * (quickest + spare).as_secs_f64()) as u64;
        self.window_bytes = window.clamp(1, WINDOW_MAX_BYTES.max(2 * cost));
    }
}

impl Asked {
    /// Takes what of a part is not here yet, and returns how much that is. The parts of a request that was taken back and made
    /// again come twice, and may be cut differently.
    fn add(&mut self, len: u32, offset: u32, content: Bytes) -> Result<u64, CutOffReason> {
        let end = offset
            .checked_add(content.len() as u32)
            .filter(|end| *end <= len)
            .ok_or(CutOffReason::Protocol)?;
        if end < len && content.len() < PART_MIN_BYTES || self.parts.len() >= PARTS_MAX {
            return Err(CutOffReason::Protocol);
        }
        let (mut at, mut new_bytes) = (offset, 0);
        while at < end {
            let before = self.parts.range(..=at).next_back().map_or(0, |(at, part)| at + part.len() as u32);
            if before > at {
                at = before;
                continue;
            }
            let gap_end = self.parts.range(at..).next().map_or(end, |(next, _)| end.min(*next));
            let new = (at - offset) as usize..(gap_end - offset) as usize;
            // A slice keeps the whole message in memory.
            let is_most = new.len() * 2 >= content.len();
            let part = if is_most { content.slice(new) } else { Bytes::copy_from_slice(&content[new]) };
            self.parts.insert(at, part);
            new_bytes += gap_end - at;
            at = gap_end;
        }
        self.got += new_bytes;
        Ok(u64::from(new_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::pieces::PieceSet;
    use super::*;
    use crate::wire::frame::cut;
    use crate::wire::manifest::{Entry, EntryKind, Manifest};
    use crate::wire::path::SafePath;

    fn asked() -> Asked {
        Asked { at: Instant::now(), answered_bytes: 0, got: 0, parts: Default::default() }
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("an id")
    }

    /// Where everything is missing of so many files of so many bytes.
    fn exchange(files: u32, size: u32) -> Exchange {
        let file = |number: u32| {
            let path = SafePath::parse(&number.to_string()).expect("a name");
            let kind = EntryKind::File { size: size.into(), executable: false };
            (Entry { path, kind, mtime: 0 }, vec![[0; 32]])
        };
        let manifest = Manifest::new(22, (0..files).map(file).collect()).expect("a manifest");
        let none = PieceSet::none(files);
        let mut exchange = Exchange::new(Arc::new(manifest), Bytes::new(), none.clone(), Order::Rarest);
        exchange.want_all_but(&none);
        exchange
    }

    /// Who has everything is asked for as much as its window takes.
    fn ask(exchange: &mut Exchange, now: Instant, peer: &UserId, window_bytes: u64) {
        exchange.member(now, peer).window_bytes = window_bytes;
        for piece in 0..exchange.manifest.piece_count() {
            exchange.note_has(now, peer, piece);
        }
        while exchange.ask(now, peer, &mut StdRng::seed_from_u64(7)).is_some() {}
    }

    #[test]
    fn of_many_pieces_under_way_nothing_is_looked_at_that_a_member_has_not() {
        let mut exchange = exchange(15_000, 1);
        let (mut now, ada, mallory) = (Instant::now(), user("ada"), user("mallory"));
        ask(&mut exchange, now, &ada, u64::MAX);
        assert_eq!(exchange.fetching.len(), 15_000);
        exchange.member(now, &mallory);
        let under_way_of = |exchange: &Exchange, peer: &UserId| {
            exchange.under_way.common(&exchange.members[peer].has, 0).count()
        };
        assert_eq!((under_way_of(&exchange, &ada), under_way_of(&exchange, &mallory)), (15_000, 0));
        now += 2 * LATE;
        assert_eq!(exchange.ask(now, &mallory, &mut StdRng::seed_from_u64(7)), None);
        exchange.note_has(now, &mallory, 9_999);
        assert_eq!(under_way_of(&exchange, &mallory), 1);
        now += TICK;
        assert_eq!(exchange.ask(now, &mallory, &mut StdRng::seed_from_u64(7)), Some(9_999));
    }

    #[test]
    fn of_what_is_under_way_some_is_looked_at_in_one_go_and_in_time_all() {
        let mut exchange = exchange(15_000, 1);
        let (start, ada, bob) = (Instant::now(), user("ada"), user("bob"));
        ask(&mut exchange, start, &ada, u64::MAX);
        exchange.member(start, &bob);
        assert!((0..15_000).all(|piece| exchange.note_has(start, &bob, piece)));
        // All but one were asked for just now.
        let mut now = start + 2 * LATE;
        let late = 14_999;
        exchange.fetching.iter_mut().filter(|(piece, _)| **piece != late).for_each(|(_, it)| it.since = now);
        let looks = (1..).find(|_| {
            let asked = exchange.ask(now, &bob, &mut StdRng::seed_from_u64(7));
            now += TICK;
            asked.inspect(|piece| assert_eq!(*piece, late)).is_some()
        });
        assert_eq!(looks, Some(15_000_usize.div_ceil(LOOKED_AT_MAX)));
    }

    #[test]
    fn what_may_still_come_is_bounded_however_often_a_peer_says_that_it_is_busy() {
        let mut exchange = exchange(4, 4 * 1024 * 1024);
        let (now, mallory) = (Instant::now(), user("mallory"));
        for _ in 0..100 {
            ask(&mut exchange, now, &mallory, u64::MAX);
            assert_eq!(exchange.take_back(&mallory).len(), 4);
        }
        assert!(exchange.members[&mallory].forgiven_bytes <= 32 * 1024 * 1024);
    }

    /// A message that is counted as long as any of it is kept.
    struct Message {
        content: Vec<u8>,
        _counted: Arc<()>,
    }

    impl AsRef<[u8]> for Message {
        fn as_ref(&self) -> &[u8] {
            &self.content
        }
    }

    #[test]
    fn a_piece_of_which_little_is_new_in_each_message_does_not_keep_the_messages() {
        const PIECE: u32 = 4 * 1024 * 1024;
        const MESSAGE: u32 = 64_000;
        let (mut asked, kept) = (asked(), Arc::new(()));
        let mut add = |offset: u32, len: u32| {
            let message = Message { content: vec![0; len as usize], _counted: kept.clone() };
            asked.add(PIECE, offset, Bytes::from_owner(message)).expect("a part")
        };
        // A byte is left out between any two, and comes at the end of a long message, but for the last.
        for at in 0..1_000 {
            add(at * 4_097, 4_096);
        }
        for at in 15..998 {
            assert!(add((at + 1) * 4_097 - MESSAGE, MESSAGE) > 0);
        }
        let messages = Arc::strong_count(&kept) - 1;
        assert!(messages <= 1_000, "{messages} messages are kept");
    }

    #[test]
    fn who_sends_a_piece_by_the_byte_at_the_end_of_what_is_here_is_cut_off() {
        const PIECE: u32 = 4 * 1024 * 1024;
        let mut asked = asked();
        let mut sent = (0..5_000).map(|at| asked.add(PIECE, at, Bytes::from(vec![0; 4_096])));
        assert_eq!(sent.find_map(Result::err), Some(CutOffReason::Protocol));
    }

    proptest! {
        #[test]
        fn parts_of_answers_that_were_cut_differently_make_a_whole(
            len in 1_u32..200_000,
            cuts in prop::collection::vec(8192_u32..66_000, 1..4),
            order in any::<u64>(),
        ) {
            let content = Bytes::from((0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
            let answers = cuts.iter().flat_map(|max| cut(len, *max));
            let mut parts: Vec<(u32, u32)> = answers.collect();
            parts.sort_by_key(|part| blake3::hash(format!("{order} {part:?}").as_bytes()).to_hex());
            let mut asked = asked();
            let new_bytes: u64 = parts
                .into_iter()
                .map(|(at, part)| {
                    asked.add(len, at, content.slice(at as usize..(at + part) as usize)).expect("a part")
                })
                .sum();
            prop_assert_eq!((asked.got, new_bytes), (len, u64::from(len)));
            let whole: Vec<u8> = asked.parts.into_values().flatten().collect();
            prop_assert!(whole == content);
        }
    }
}
