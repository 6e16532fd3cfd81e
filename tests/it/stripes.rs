//! Stripes over real connections: two members on loopback, and a server that is away once they have met.

use std::time::Duration;

use bytes::Bytes;
use fast_rtc_swarm::core::mesh::{Event, Input};
use fast_rtc_swarm::core::peer::{LinkKey, PeerCommand, PeerEvent, Strain};
use fast_rtc_swarm::core::stripes::is_stripe;
use fast_rtc_swarm::wire::signal::OfferSignal;
use fast_rtc_swarm::wire::{ClientSignal, LinkId, RoomKey, ServerSignal, UserId};

use crate::live::{Member, PATIENCE, next_wake};

const ADA: usize = 0;
const BOB: usize = 1;
const NAMES: [&str; 2] = ["ada", "bob"];

/// As many as a first strain opens.
const STRIPES: usize = 3;

const FRAMES: u32 = 200;
const FRAME_BYTES: usize = 8 * 1024;

fn user(no: usize) -> UserId {
    UserId::new(NAMES[no]).expect("an id")
}

struct Pair {
    members: [Member; 2],
    /// Ada's offer, which Bob takes.
    id: Option<LinkId>,
}

impl Pair {
    /// Two members with a link, and no server any more.
    async fn alone() -> Self {
        let key = Some(RoomKey::from_random([7; 16]));
        let mut pair = Self { members: NAMES.map(|name| Member::new(name, key.clone())), id: None };
        pair.run_until(|pair| pair.members.iter().all(Member::is_open)).await;
        for member in &mut pair.members {
            member.hear(Input::SignalingDown);
            member.signals.clear();
        }
        pair
    }

    /// Alone, and striped.
    async fn striped() -> Self {
        let mut pair = Self::alone().await;
        let long = Duration::from_millis(40);
        let link = pair.link(ADA);
        for _ in 0..3 {
            let strain = PeerEvent::Strain(Strain { shortest: long, last: long, backlog: long });
            pair.members[ADA].hear(Input::Peer(link, strain));
        }
        // The link and each stripe say once that they take something.
        let is_up = |member: &Member| {
            let grants = member.told.iter().filter(|event| matches!(event, Event::Writable { .. }));
            grants.count() > STRIPES
        };
        pair.run_until(|pair| pair.members.iter().all(is_up)).await;
        pair
    }

    fn link(&self, no: usize) -> LinkKey {
        self.members[no].mesh.ready_link(&user(1 - no)).expect("they have met")
    }

    fn stripes(&self, no: usize) -> Vec<LinkKey> {
        self.members[no].connections.iter().copied().filter(|key| is_stripe(*key)).collect()
    }

    /// Each sends these frames to the other.
    fn exchange(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            for no in [ADA, BOB] {
                self.members[no].hear(Input::Bulk { to: user(1 - no), frame: frame(number) });
            }
        }
    }

    async fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            self.serve();
            let wake_at = next_wake(&self.members).unwrap_or(deadline);
            let [ada, bob] = &mut self.members;
            tokio::select! {
                Some((key, event)) = ada.events.recv() => ada.hear(Input::Peer(key, event)),
                Some((key, event)) = bob.events.recv() => bob.hear(Input::Peer(key, event)),
                () = tokio::time::sleep_until(wake_at.min(deadline)) => {
                    assert!(tokio::time::Instant::now() < deadline, "{:?} and {:?}", ada.told, bob.told);
                    [ada, bob].into_iter().for_each(Member::wake);
                }
            }
        }
    }

    /// Does the server's work: Bob takes Ada's first offer.
    fn serve(&mut self) {
        for no in [ADA, BOB] {
            while let Some(signal) = self.members[no].signals.pop_front() {
                let receiver = &mut self.members[1 - no];
                match signal {
                    ClientSignal::Offer { id, sdp } if no == ADA && self.id.is_none() => {
                        self.id = Some(id.clone());
                        let signals = vec![OfferSignal::Offer { sdp }];
                        receiver.signal(ServerSignal::Accept { id: id.clone(), user_id: user(ADA), signals });
                        self.members[ADA].signal(ServerSignal::OfferAccepted { id, user_id: user(BOB) });
                    }
                    ClientSignal::Answer { id, sdp } => receiver.signal(ServerSignal::Answer { id, sdp }),
                    ClientSignal::Candidate { id, candidate } if Some(&id) == self.id.as_ref() => {
                        receiver.signal(ServerSignal::Candidate { id, candidate });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A frame of a piece.
fn frame(number: u32) -> Bytes {
    let mut frame = vec![1; FRAME_BYTES];
    frame[1..5].copy_from_slice(&number.to_be_bytes());
    frame.into()
}

/// The numbers of the frames that the member heard, in order of their numbers.
fn heard(member: &Member) -> Vec<u32> {
    let number = |event: &Event| match event {
        Event::Bulk { frame, .. } => {
            assert_eq!(frame.len(), FRAME_BYTES);
            Some(u32::from_be_bytes(frame[1..5].try_into().expect("four bytes")))
        }
        _ => None,
    };
    let mut numbers: Vec<u32> = member.told.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn losses(member: &Member) -> usize {
    member.told.iter().filter(|event| matches!(event, Event::BulkLost { .. })).count()
}

fn is_closed(member: &Member) -> bool {
    member.told.iter().any(|event| matches!(event, Event::Closed { .. }))
}

#[tokio::test]
async fn frames_pass_on_several_connections_both_ways_and_each_arrives_once() {
    let mut pair = Pair::striped().await;
    assert_eq!([pair.stripes(ADA).len(), pair.stripes(BOB).len()], [STRIPES; 2]);
    pair.exchange(0..FRAMES);
    pair.run_until(|pair| pair.members.iter().all(|member| heard(member).len() >= FRAMES as usize)).await;
    for member in &pair.members {
        assert_eq!(heard(member), (0..FRAMES).collect::<Vec<_>>());
        assert_eq!(member.bulk_sent.len(), 1 + STRIPES, "{:?}", member.bulk_sent);
        assert_eq!(losses(member), 0);
        assert!(member.signals.is_empty(), "the server is not told: {:?}", member.signals);
    }
}

#[tokio::test]
async fn a_stripe_that_breaks_is_missed_by_both_and_the_link_stays() {
    let mut pair = Pair::striped().await;
    let stripe = pair.stripes(ADA)[1];
    pair.members[ADA].driver.command(stripe, PeerCommand::Close);
    pair.run_until(|pair| pair.members.iter().all(|member| losses(member) > 0)).await;
    pair.exchange(0..FRAMES);
    pair.run_until(|pair| pair.members.iter().all(|member| heard(member).len() >= FRAMES as usize)).await;
    for no in [ADA, BOB] {
        let member = &pair.members[no];
        assert_eq!(heard(member), (0..FRAMES).collect::<Vec<_>>());
        assert_eq!((losses(member), member.mesh.held().stripes), (1, STRIPES - 1));
        assert_eq!(member.bulk_sent.len(), STRIPES, "{:?}", member.bulk_sent);
        assert!(!is_closed(member));
    }
}

#[tokio::test]
async fn with_the_link_all_stripes_are_closed_at_both_ends() {
    let mut pair = Pair::striped().await;
    pair.members[ADA].hear(Input::Drop { peer: user(BOB) });
    pair.run_until(|pair| pair.members.iter().all(is_closed)).await;
    for member in &pair.members {
        assert_eq!(member.mesh.held().stripes, 0);
    }
    pair.run_until(|pair| [ADA, BOB].iter().all(|no| pair.stripes(*no).is_empty())).await;
}
