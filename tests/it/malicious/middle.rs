//! A server that really stands in the middle: it ends DTLS with each of two members and passes every message on.
//!
//! ```text
//!   Ada ══ DTLS ══ Eve's driver ══ DTLS ══ Bob
//! ```
//!
//! The members are the real mesh on the real driver, over loopback.

use std::collections::BTreeMap;

use fast_rtc_swarm::core::link::CloseReason;
use fast_rtc_swarm::core::mesh::{Event, Input, To};
use fast_rtc_swarm::core::peer::{Channel, Fingerprint, LinkKey, Payload, PeerCommand, PeerEvent};
use fast_rtc_swarm::io::rtc::RtcDriver;
use fast_rtc_swarm::wire::control::Control;
use fast_rtc_swarm::wire::signal::OfferSignal;
use fast_rtc_swarm::wire::{Candidate, ClientSignal, LinkId, RoomKey, Sdp, ServerSignal, UserId};
use tokio::sync::mpsc;

use crate::live::{Member, PATIENCE, driver, next_wake};

const ADA: usize = 0;
const BOB: usize = 1;
const NAMES: [&str; 2] = ["ada", "bob"];

fn user(member: usize) -> UserId {
    UserId::new(NAMES[member]).expect("an id")
}

fn other(member: usize) -> usize {
    1 - member
}

fn refusal(member: &Member) -> Option<(&UserId, CloseReason)> {
    member.told.iter().find_map(|event| match event {
        Event::Failed { peer, reason, .. } => Some((peer, *reason)),
        _ => None,
    })
}

fn heard_line(member: &Member) -> Option<&str> {
    member.told.iter().find_map(|event| match event {
        Event::Text { text, .. } => Some(text.as_str()),
        _ => None,
    })
}

/// What the server does with the descriptions and connections of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Ends DTLS on both sides.
    Middle,
    /// The same, with a description that vouches for the certificate of the one it pretends to be, too.
    MiddleVouchingForBoth,
    /// Passes everything on, with another fingerprint in what the member is told.
    Tamper {
        /// Who is told so.
        victim: usize,
    },
}

/// The server, with one connection to each member: `LinkKey(0)` to Ada, `LinkKey(1)` to Bob.
struct Eve {
    attack: Attack,
    driver: RtcDriver,
    events: mpsc::Receiver<(LinkKey, PeerEvent)>,
    id: Option<LinkId>,
    /// Bob's certificate as Ada should see it, and the reverse.
    certificates: [Fingerprint; 2],
    open: BTreeMap<(usize, Channel), bool>,
    waiting: Vec<(usize, Channel, Payload)>,
    overheard: Vec<(usize, Channel, Payload)>,
}

struct World {
    members: [Member; 2],
    eve: Eve,
}

impl World {
    fn new(attack: Attack, key: Option<RoomKey>) -> Self {
        let (driver, events) = driver();
        let members = [ADA, BOB].map(|no| Member::new(NAMES[no], key.clone()));
        let certificates = [members[BOB].driver.fingerprint(), members[ADA].driver.fingerprint()];
        let eve = Eve {
            attack,
            driver,
            events,
            id: None,
            certificates,
            open: BTreeMap::new(),
            waiting: Vec::new(),
            overheard: Vec::new(),
        };
        Self { members, eve }
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
                Some((LinkKey(to), event)) = self.eve.events.recv() => self.eve_hears(to as usize, event),
                () = tokio::time::sleep_until(wake_at) => for member in &mut self.members { member.wake() },
                () = tokio::time::sleep_until(deadline) => {
                    panic!("nothing came of it: Ada was told {:?}, Bob {:?}", self.members[ADA].told, self.members[BOB].told);
                }
            }
        }
    }

    /// Does the server's work with what the members said.
    fn serve(&mut self) {
        for no in [ADA, BOB] {
            while let Some(signal) = self.members[no].signals.pop_front() {
                match self.eve.attack {
                    Attack::Middle | Attack::MiddleVouchingForBoth => self.take(no, signal),
                    Attack::Tamper { victim } => self.pass_on(no, victim, signal),
                }
            }
        }
    }

    /// Connects with both: Ada's offer is taken, Bob gets one of Eve's own.
    fn take(&mut self, no: usize, signal: ClientSignal) {
        let key = LinkKey(no as u64);
        match signal {
            ClientSignal::Offer { id, sdp } if no == ADA && self.eve.id.is_none() => {
                self.eve.id = Some(id);
                self.eve.driver.command(key, PeerCommand::AcceptOffer { sdp });
                self.eve.driver.command(LinkKey(BOB as u64), PeerCommand::CreateOffer);
                for channel in [Channel::Control, Channel::Bulk] {
                    self.eve.driver.command(LinkKey(BOB as u64), PeerCommand::OpenChannel(channel));
                }
            }
            ClientSignal::Answer { sdp, .. } => {
                self.eve.driver.command(key, PeerCommand::AcceptAnswer { sdp })
            }
            ClientSignal::Candidate { id, candidate } if Some(&id) == self.eve.id.as_ref() => {
                self.eve.driver.command(key, PeerCommand::AddCandidate(candidate));
            }
            _ => {}
        }
    }

    /// Pairs the two honestly, but for the fingerprint that `victim` is told.
    fn pass_on(&mut self, no: usize, victim: usize, signal: ClientSignal) {
        let receiver = &mut self.members[other(no)];
        let bent = |sdp: Sdp| if other(no) == victim { with_another_fingerprint(&sdp) } else { sdp };
        match signal {
            ClientSignal::Offer { id, sdp } if no == ADA && self.eve.id.is_none() => {
                self.eve.id = Some(id.clone());
                let signals = vec![OfferSignal::Offer { sdp: bent(sdp) }];
                receiver.signal(ServerSignal::Accept { id: id.clone(), user_id: user(ADA), signals });
                self.members[ADA].signal(ServerSignal::OfferAccepted { id, user_id: user(BOB) });
            }
            ClientSignal::Answer { id, sdp } => receiver.signal(ServerSignal::Answer { id, sdp: bent(sdp) }),
            ClientSignal::Candidate { id, candidate } if Some(&id) == self.eve.id.as_ref() => {
                receiver.signal(ServerSignal::Candidate { id, candidate });
            }
            _ => {}
        }
    }

    fn eve_hears(&mut self, to: usize, event: PeerEvent) {
        match event {
            PeerEvent::Description(sdp) => self.describe(to, &sdp),
            PeerEvent::Candidate(candidate) => self.candidate(to, candidate),
            PeerEvent::ChannelOpen(channel) => drop(self.eve.open.insert((to, channel), true)),
            PeerEvent::Message { channel, payload } => {
                self.eve.overheard.push((to, channel, payload.clone()));
                self.eve.waiting.push((other(to), channel, payload));
            }
            _ => {}
        }
        self.eve.relay();
    }

    fn describe(&mut self, to: usize, sdp: &Sdp) {
        let id = self.eve.id.clone().expect("Ada's offer was taken first");
        let sdp = match self.eve.attack {
            Attack::MiddleVouchingForBoth => vouching_for(sdp, self.eve.certificates[to]),
            Attack::Middle | Attack::Tamper { .. } => sdp.clone(),
        };
        let member = &mut self.members[to];
        if to == ADA {
            member.signal(ServerSignal::OfferAccepted { id: id.clone(), user_id: user(BOB) });
            member.signal(ServerSignal::Answer { id, sdp });
        } else {
            let signals = vec![OfferSignal::Offer { sdp }];
            member.signal(ServerSignal::Accept { id, user_id: user(ADA), signals });
        }
    }

    fn candidate(&mut self, to: usize, candidate: Option<Candidate>) {
        let id = self.eve.id.clone().expect("Ada's offer was taken first");
        self.members[to].signal(ServerSignal::Candidate { id, candidate });
    }
}

impl Eve {
    /// Passes on what can be passed on.
    fn relay(&mut self) {
        for (to, channel, payload) in std::mem::take(&mut self.waiting) {
            if self.open.contains_key(&(to, channel)) {
                self.driver.command(LinkKey(to as u64), PeerCommand::Send { channel, payload });
            } else {
                self.waiting.push((to, channel, payload));
            }
        }
    }

    /// The types of the control messages that came from the member.
    fn controls_from(&self, member: usize) -> Vec<&'static str> {
        let control = |(from, _, payload): &(usize, Channel, Payload)| match payload {
            Payload::Text(text) if *from == member => match Control::parse(text) {
                Ok(Control::Hello { .. }) => Some("hello"),
                Ok(Control::Bye { .. }) => Some("bye"),
                Ok(_) | Err(_) => Some("something else"),
            },
            _ => None,
        };
        self.overheard.iter().filter_map(control).collect()
    }
}

fn fingerprint_line(fingerprint: Fingerprint) -> String {
    let hex: Vec<String> = fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("a=fingerprint:sha-256 {}", hex.join(":"))
}

fn with_another_fingerprint(sdp: &Sdp) -> Sdp {
    let bend = |line: &str| match line.starts_with("a=fingerprint:") {
        true => fingerprint_line(Fingerprint([0xee; 32])),
        false => line.to_owned(),
    };
    let lines: Vec<String> = sdp.as_str().lines().map(bend).collect();
    Sdp::new(lines.join("\r\n") + "\r\n").expect("as short as before")
}

/// The description with one more fingerprint, behind its own: DTLS is content with the first.
fn vouching_for(sdp: &Sdp, fingerprint: Fingerprint) -> Sdp {
    let at = sdp.as_str().find("a=fingerprint:").expect("a description has a fingerprint");
    let end = at + sdp.as_str()[at..].find("\r\n").expect("lines end") + 2;
    let (before, after) = sdp.as_str().split_at(end);
    Sdp::new(format!("{before}{}\r\n{after}", fingerprint_line(fingerprint))).expect("not much longer")
}

fn key() -> Option<RoomKey> {
    Some(RoomKey::from_random([7; 16]))
}

/// Both users are told that the key did not fit, and of nothing else.
#[track_caller]
fn both_were_told(world: &World) {
    for no in [ADA, BOB] {
        let told = &world.members[no].told;
        assert_eq!(
            refusal(&world.members[no]),
            Some((&user(other(no)), CloseReason::KeyMismatch)),
            "{told:?}"
        );
        assert!(!world.members[no].is_open(), "{told:?}");
        assert!(heard_line(&world.members[no]).is_none(), "{told:?}");
    }
}

fn both_refused(world: &World) -> bool {
    world.members.iter().all(|member| refusal(member).is_some())
}

/// The attack works where there is nothing to prove: so it is the proof that stops it elsewhere.
#[tokio::test]
async fn in_an_open_room_a_server_in_the_middle_reads_everything() {
    let mut world = World::new(Attack::Middle, None);
    world.run_until(|world| world.members.iter().all(Member::is_open)).await;
    world.members[ADA].hear(Input::Say { text: "the password is swordfish".into(), to: To::Everyone });
    world.run_until(|world| heard_line(&world.members[BOB]).is_some()).await;
    assert_eq!(heard_line(&world.members[BOB]), Some("the password is swordfish"));
    let line = Payload::Text("the password is swordfish".into());
    assert!(world.eve.overheard.contains(&(ADA, Channel::Fast, line)));
}

#[tokio::test]
async fn a_server_that_ends_dtls_in_the_middle_is_found_out_on_both_sides() {
    let mut world = World::new(Attack::Middle, key());
    for member in &mut world.members {
        member.hear(Input::Say { text: "the password is swordfish".into(), to: To::Everyone });
    }
    world.run_until(both_refused).await;
    both_were_told(&world);
    // Both connections were up, so that it was the proof that failed.
    let heard = |no| world.eve.controls_from(no);
    assert!(heard(ADA).contains(&"hello") || heard(BOB).contains(&"hello"));
    for no in [ADA, BOB] {
        assert!(!heard(no).contains(&"something else"), "{:?}", heard(no));
    }
}

/// What is written in a description is not what is proven.
#[tokio::test]
async fn the_fingerprints_in_a_proof_are_those_of_the_live_session() {
    let mut world = World::new(Attack::MiddleVouchingForBoth, key());
    world.run_until(both_refused).await;
    both_were_told(&world);
    let heard = [ADA, BOB].map(|no| world.eve.controls_from(no));
    assert!(heard.iter().any(|controls| controls.contains(&"hello")), "DTLS was up: {heard:?}");
}

#[tokio::test]
async fn an_sdp_with_another_fingerprint_is_refused() {
    let tamper = async |victim| {
        let mut world = World::new(Attack::Tamper { victim }, key());
        world.run_until(both_refused).await;
        both_were_told(&world);
    };
    tokio::join!(tamper(ADA), tamper(BOB));
}
