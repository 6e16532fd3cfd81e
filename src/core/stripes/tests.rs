//! Two ends of one link, and what becomes of the stripes between them.

use super::*;
use crate::core::peer::PeerClosed;
use crate::wire::{Candidate, Sdp};

const LINK: LinkKey = LinkKey(7);
const ROUND_TRIP: Duration = Duration::from_millis(40);

fn sdp(text: &str) -> Sdp {
    Sdp::new(format!("v=0\r\n{text}")).expect("short")
}

fn candidate() -> StripeSignal {
    StripeSignal::Candidate {
        candidate: Some(Candidate {
            candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".to_owned(),
            sdp_mid: Some("0".to_owned()),
            sdp_m_line_index: Some(0),
            username_fragment: None,
        }),
    }
}

fn strain(queue_ms: u64) -> Strain {
    let backlog = Duration::from_millis(30);
    Strain { shortest: ROUND_TRIP, last: ROUND_TRIP + Duration::from_millis(queue_ms), backlog }
}

fn piece(len: usize) -> Bytes {
    let mut frame = vec![0; len];
    frame[0] = 1;
    frame.into()
}

struct End {
    now: Instant,
    stripes: Stripes,
}

impl End {
    fn new(seed: u8) -> Self {
        Self { now: Instant::now(), stripes: Stripes::new([seed; 32]) }
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.stripes.poll()).collect()
    }

    fn pass(&mut self, seconds: u64) -> Vec<Output> {
        self.now += Duration::from_secs(seconds);
        self.stripes.handle_timeout(self.now);
        self.drain()
    }

    /// A second in which bulk data waited and so many bytes were sent. Returns the stripes that are being opened.
    fn strained(&mut self, queue_ms: u64, sent_bytes: usize) -> Vec<LinkKey> {
        self.pass(1);
        self.stripes.add_credit(LINK, sent_bytes);
        self.stripes.route(self.now, LINK, &vec![2; sent_bytes].into());
        self.stripes.handle_strain(self.now, LINK, strain(queue_ms));
        let made = self.drain().into_iter().map(|output| {
            let Output::Peer(key, PeerCommand::CreateOffer) = output else { panic!("{output:?}") };
            key
        });
        made.collect()
    }

    fn hears(&mut self, stripe: u32, signal: StripeSignal) -> Vec<Output> {
        self.stripes.handle_signal(self.now, LINK, stripe, signal);
        self.drain()
    }

    fn connection(&mut self, key: LinkKey, event: PeerEvent) -> Vec<Output> {
        self.stripes.handle_peer(self.now, key, event);
        self.drain()
    }

    fn name_of(&self, key: LinkKey) -> u32 {
        self.stripes.stripes[&key].name
    }

    /// Brings one of our stripes up, as the other end would.
    fn comes_up(&mut self, key: LinkKey) {
        let name = self.name_of(key);
        self.hears(name, StripeSignal::Answer { sdp: sdp("answer") });
        self.connection(key, PeerEvent::ChannelOpen(Channel::Bulk));
    }

    /// Opens stripes on a path without a queue; the other end takes only the first.
    fn opens_one(&mut self) -> LinkKey {
        let made: Vec<LinkKey> = (0..3).flat_map(|_| self.strained(0, 0)).collect();
        let [key, refused @ ..] = &made[..] else { panic!("none is made") };
        for refused in refused {
            self.hears(self.name_of(*refused), StripeSignal::End);
        }
        *key
    }

    /// One open stripe.
    fn striped() -> (Self, LinkKey) {
        let mut end = Self::new(1);
        let key = end.opens_one();
        end.comes_up(key);
        (end, key)
    }
}

#[test]
fn two_ends_set_a_stripe_up_and_frames_go_both_ways() {
    let (mut ada, mut bob) = (End::new(1), End::new(2));
    let adas = ada.opens_one();
    let mut from_ada = ada.connection(adas, PeerEvent::Description(sdp("offer")));
    from_ada.extend(ada.connection(adas, PeerEvent::Candidate(None)));
    let mut heard = Vec::new();
    for output in from_ada {
        let Output::Control { link: LINK, stripe, signal } = output else { panic!("{output:?}") };
        heard.extend(bob.hears(stripe, signal));
    }
    let [
        Output::Peer(bobs, PeerCommand::AcceptOffer { .. }),
        Output::Peer(_, PeerCommand::AddCandidate(None)),
    ] = heard[..]
    else {
        panic!("{heard:?}")
    };
    let answer = bob.connection(bobs, PeerEvent::Description(sdp("answer")));
    let [Output::Control { stripe, signal: StripeSignal::Answer { sdp: answer }, .. }] = &answer[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(
        ada.hears(*stripe, StripeSignal::Answer { sdp: answer.clone() }),
        [
            Output::Peer(adas, PeerCommand::AcceptAnswer { sdp: answer.clone() }),
            Output::Peer(adas, PeerCommand::OpenChannel(Channel::Bulk)),
        ]
    );
    for (end, key) in [(&mut ada, adas), (&mut bob, bobs)] {
        end.connection(key, PeerEvent::ChannelOpen(Channel::Bulk));
        let writable = end.connection(key, PeerEvent::Writable { bytes: 1000 });
        assert_eq!(writable, [Output::Writable(LINK, 1000)]);
        assert_eq!(end.stripes.route(end.now, LINK, &piece(100)), Some(key));
        let payload = Payload::Binary(piece(100));
        let message = PeerEvent::Message { channel: Channel::Bulk, payload };
        assert_eq!(end.connection(key, message), [Output::Bulk(LINK, piece(100))]);
    }
}

#[test]
fn what_a_stripe_takes_counts_from_when_it_is_open() {
    let mut end = End::new(1);
    let key = end.opens_one();
    let name = end.name_of(key);
    end.hears(name, StripeSignal::Answer { sdp: sdp("answer") });
    assert_eq!(end.connection(key, PeerEvent::Writable { bytes: 1000 }), []);
    assert_eq!(end.stripes.route(end.now, LINK, &piece(100)), None);
    let open = end.connection(key, PeerEvent::ChannelOpen(Channel::Bulk));
    assert_eq!(open, [Output::Writable(LINK, 1000)]);
}

#[test]
fn a_frame_goes_where_the_most_room_is_and_a_manifest_stays_on_the_link() {
    let (mut end, key) = End::striped();
    end.stripes.add_credit(LINK, 500);
    end.connection(key, PeerEvent::Writable { bytes: 900 });
    let mut route = |frame: Bytes| end.stripes.route(end.now, LINK, &frame);
    assert_eq!(route(vec![2; 100].into()), None, "a manifest");
    assert_eq!(route(piece(300)), Some(key));
    assert_eq!(route(piece(300)), Some(key));
    assert_eq!(route(piece(300)), None, "the link has 400 and the stripe 300");
    assert_eq!(route(piece(300)), Some(key));
}

#[test]
fn a_path_without_a_queue_gets_four_times_as_many_connections_each_time() {
    let mut end = End::new(1);
    let (mut connections, mut counts) = (1, vec![1]);
    for _ in 0..40 {
        for key in end.strained(5, 300_000 * connections) {
            end.comes_up(key);
            connections += 1;
        }
        if counts.last() != Some(&connections) {
            counts.push(connections);
        }
    }
    assert_eq!(counts, [1, 4, 1 + STRIPES_MAX]);
}

#[test]
fn a_path_that_is_full_or_short_or_not_used_gets_none() {
    let mut end = End::new(1);
    for _ in 0..20 {
        assert_eq!(end.strained(30, 1_000_000), []);
    }
    let short = Duration::from_millis(2);
    let short = Strain { shortest: short, last: short, ..strain(0) };
    let window_too_small = Strain { backlog: Duration::from_millis(10), ..strain(0) };
    for strain in [short, window_too_small].into_iter().flat_map(|strain| [strain; 20]) {
        end.pass(1);
        end.stripes.handle_strain(end.now, LINK, strain);
        assert_eq!(end.drain(), []);
    }
}

#[test]
fn a_path_that_was_full_gets_none_for_a_while() {
    let mut end = End::new(1);
    end.strained(30, 1_000_000);
    for _ in 0..9 {
        assert_eq!(end.strained(0, 10_000), [], "it recovers from what it lost");
    }
    assert!((0..10).any(|_| !end.strained(0, 10_000).is_empty()));
}

#[test]
fn what_brought_nothing_is_not_done_again_for_a_while() {
    let mut end = End::new(1);
    let mut opened_at = Vec::new();
    for second in 0..120 {
        for key in end.strained(5, 300_000) {
            end.comes_up(key);
            opened_at.push(second);
        }
    }
    let (first, again) = opened_at.split_at(3);
    assert!(again.first().is_some_and(|again| again - first[0] >= 60), "{opened_at:?}");
}

#[test]
fn a_stripe_that_does_not_come_up_is_given_up_and_no_other_is_tried_for_a_while() {
    let mut end = End::new(1);
    let key = end.opens_one();
    let name = end.name_of(key);
    assert_eq!(
        end.pass(20),
        [
            Output::Control { link: LINK, stripe: name, signal: StripeSignal::End },
            Output::Peer(key, PeerCommand::Close),
        ]
    );
    for _ in 0..30 {
        assert_eq!(end.strained(0, 0), []);
    }
    assert!((0..60).any(|_| !end.strained(0, 0).is_empty()));
}

#[test]
fn an_idle_stripe_is_closed_by_whoever_opened_it() {
    let (mut end, key) = End::striped();
    end.pass(20);
    end.stripes.add_credit(LINK, 1);
    end.connection(key, PeerEvent::Writable { bytes: 1000 });
    assert_eq!(end.stripes.route(end.now, LINK, &piece(100)), Some(key));
    assert_eq!(end.pass(20), [], "it was used meanwhile");
    let name = end.name_of(key);
    assert_eq!(
        end.pass(20),
        [
            Output::Control { link: LINK, stripe: name, signal: StripeSignal::End },
            Output::Peer(key, PeerCommand::Close),
            Output::Lost { link: LINK, revoked_bytes: 900 },
        ],
        "something may have been on its way to us"
    );
    assert!(end.stripes.is_empty());
}

#[test]
fn frames_may_be_lost_with_a_stripe_that_breaks() {
    let (mut end, key) = End::striped();
    let name = end.name_of(key);
    assert_eq!(
        end.connection(key, PeerEvent::Closed(PeerClosed::IceFailed)),
        [
            // Before anything that is asked for again.
            Output::Control { link: LINK, stripe: name, signal: StripeSignal::End },
            Output::Lost { link: LINK, revoked_bytes: 0 },
        ]
    );
    assert_eq!(end.stripes.route(end.now, LINK, &piece(100)), None);
}

#[test]
fn what_was_granted_for_a_stripe_that_is_gone_is_taken_back() {
    for (sent_bytes, revoked_bytes) in [(0, 1000), (700, 300), (1300, -300)] {
        let (mut end, key) = End::striped();
        end.connection(key, PeerEvent::Writable { bytes: 1000 });
        if sent_bytes > 0 {
            assert_eq!(end.stripes.route(end.now, LINK, &piece(sent_bytes)), Some(key));
        }
        let gone = end.connection(key, PeerEvent::Closed(PeerClosed::IceFailed));
        assert_eq!(gone.last(), Some(&Output::Lost { link: LINK, revoked_bytes }));
    }
}

#[test]
fn stripes_end_with_their_link() {
    let (mut end, key) = End::striped();
    end.stripes.handle_link_closed(LINK);
    assert_eq!(end.drain(), [Output::Peer(key, PeerCommand::Close)]);
    assert_eq!(end.connection(key, PeerEvent::Closed(PeerClosed::Local)), []);
    assert_eq!(end.stripes.poll_timeout(), None);
}

#[test]
fn a_peer_that_opens_stripes_without_end_is_refused() {
    let mut end = End::new(1);
    for name in 0..STRIPES_MAX as u32 {
        let made = end.hears(name, StripeSignal::Offer { sdp: sdp("offer") });
        assert!(matches!(made[..], [Output::Peer(_, PeerCommand::AcceptOffer { .. })]), "{made:?}");
    }
    assert_eq!(
        end.hears(99, StripeSignal::Offer { sdp: sdp("offer") }),
        [Output::Control { link: LINK, stripe: 99, signal: StripeSignal::End }]
    );
    let more = (0..2 * CANDIDATES_MAX).map(|_| end.hears(0, candidate()).len()).sum::<usize>();
    assert_eq!(more, CANDIDATES_MAX);
}

#[test]
fn a_peer_that_opens_and_ends_stripes_without_end_is_refused() {
    let mut end = End::new(1);
    let mut made = 0;
    for name in 0..10_000 {
        end.now += Duration::from_millis(1);
        let heard = end.hears(name, StripeSignal::Offer { sdp: sdp("offer") });
        made += usize::from(matches!(heard[..], [Output::Peer(_, PeerCommand::AcceptOffer { .. })]));
        end.hears(name, StripeSignal::End);
    }
    assert_eq!(made, OFFERS_BURST as usize + 4, "and one more every two of the ten seconds");
    end.pass(3600);
    for name in 0..STRIPES_MAX as u32 {
        let heard = end.hears(name, StripeSignal::Offer { sdp: sdp("offer") });
        assert!(matches!(heard[..], [Output::Peer(_, PeerCommand::AcceptOffer { .. })]), "{heard:?}");
    }
}

#[test]
fn many_peers_together_open_a_bounded_number_of_stripes() {
    let mut end = End::new(1);
    for link in 100..200 {
        for name in 0..STRIPES_MAX as u32 {
            end.stripes.handle_signal(
                end.now,
                LinkKey(link),
                name,
                StripeSignal::Offer { sdp: sdp("offer") },
            );
        }
    }
    assert_eq!(end.stripes.len(), ALL_LINKS_MAX);
}

#[test]
fn many_peers_together_make_us_open_a_bounded_number_of_stripes() {
    let mut end = End::new(1);
    for _ in 0..3 {
        end.now += Duration::from_secs(1);
        for link in 100..200 {
            end.stripes.handle_strain(end.now, LinkKey(link), strain(0));
        }
    }
    assert_eq!(end.stripes.len(), ALL_LINKS_MAX);
}

#[test]
fn a_stripe_that_a_peer_opened_and_does_not_use_is_closed_in_the_end() {
    let mut end = End::new(1);
    let made = end.hears(5, StripeSignal::Offer { sdp: sdp("offer") });
    let [Output::Peer(key, PeerCommand::AcceptOffer { .. })] = made[..] else { panic!("{made:?}") };
    end.connection(key, PeerEvent::ChannelOpen(Channel::Bulk));
    assert_eq!(end.pass(59), []);
    let closed = end.pass(1);
    assert!(closed.contains(&Output::Peer(key, PeerCommand::Close)), "{closed:?}");
    assert!(end.stripes.is_empty());
}

#[test]
fn what_fits_no_stripe_is_ignored() {
    let (mut end, key) = End::striped();
    let name = end.name_of(key);
    for signal in [
        StripeSignal::Answer { sdp: sdp("again") },
        StripeSignal::Offer { sdp: sdp("its name is taken") },
        StripeSignal::Unknown,
    ] {
        assert_eq!(end.hears(name, signal), []);
    }
    for signal in [
        StripeSignal::Answer { sdp: sdp("nobody asked") },
        candidate(),
        StripeSignal::End,
        StripeSignal::Unknown,
    ] {
        assert_eq!(end.hears(name.wrapping_add(1), signal), []);
    }
}

#[test]
fn chat_on_a_stripe_ends_it() {
    let (mut end, key) = End::striped();
    let payload = Payload::Text("hello".to_owned());
    let outputs = end.connection(key, PeerEvent::Message { channel: Channel::Fast, payload });
    assert!(outputs.contains(&Output::Peer(key, PeerCommand::Close)), "{outputs:?}");
}
