//! Members who offer, ask and answer in bad faith, towards one machine that follows the rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_rtc_swarm::core::transfer::{
    AcceptPolicy, AcceptScope, Audience, Config, CutOffReason, DeclineReason, DiskDone, DiskError, DiskJob,
    FailReason, Input, OpId, Output, Streams, Summary, Target, TransferCommand, TransferEvent, Transfers,
};
use fast_rtc_swarm::wire::frame::{self, Frame, FrameKind};
use fast_rtc_swarm::wire::manifest::{Entry, EntryKind, MANIFEST_MAX_BYTES, Manifest, PIECE_LOG2_MIN};
use fast_rtc_swarm::wire::path::SafePath;
use fast_rtc_swarm::wire::transfer::{Bits, Offer, StopReason, TransferMessage};
use fast_rtc_swarm::wire::{TransferId, UserId};

use super::swarming::{disk, one_file, send};
use super::world::DiskFn;

const MIB: u64 = 1024 * 1024;

fn user(name: &str) -> UserId {
    UserId::new(name).expect("an id")
}

/// A machine that follows the rules, its disk, and what it said.
struct Victim {
    machine: Transfers,
    disk: DiskFn,
    now: Instant,
    said: Vec<(UserId, TransferMessage)>,
    events: Vec<TransferEvent>,
    reads: usize,
    closed: BTreeSet<TransferId>,
    /// Files that are to get their names, while the disk takes its time.
    finishing: Vec<OpId>,
}

impl Victim {
    fn new(accept: AcceptPolicy, manifest: &Arc<Manifest>, peers: &[&str]) -> Self {
        let config = Config { accept, ..Config::new(user("victim"), "/nowhere".into()) };
        Self::with(config, manifest, peers)
    }

    /// Whose files go to standard output.
    fn streaming(streams: Streams, manifest: &Arc<Manifest>, peers: &[&str]) -> Self {
        let (accept, target) = (AcceptPolicy::Everyone, Target::Stdout);
        let config = Config { accept, target, streams, ..Config::new(user("victim"), "/nowhere".into()) };
        Self::with(config, manifest, peers)
    }

    fn with(config: Config, manifest: &Arc<Manifest>, peers: &[&str]) -> Self {
        let mut victim = Self {
            machine: Transfers::new(config, [7; 32]),
            disk: disk(manifest.clone()),
            now: Instant::now(),
            said: Vec::new(),
            events: Vec::new(),
            reads: 0,
            closed: BTreeSet::new(),
            finishing: Vec::new(),
        };
        for peer in peers {
            victim.hear(Input::PeerReady { peer: user(peer) });
        }
        victim
    }

    fn hear(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Control { peer, message } => self.said.push((peer, message)),
                Output::Event(event) => self.events.push(event),
                Output::Bulk { .. } => {}
                Output::Disk(op) => {
                    self.reads += usize::from(matches!(op.job, DiskJob::Read { .. }));
                    if matches!(op.job, DiskJob::Finish { .. }) {
                        self.finishing.push(op.id);
                        continue;
                    }
                    if let DiskJob::Close { transfer } = op.job {
                        self.closed.insert(transfer);
                    }
                    for done in (self.disk)(op.job) {
                        self.machine.handle(self.now, Input::Disk { op: op.id, done });
                    }
                }
            }
        }
    }

    fn control(&mut self, from: &str, message: &TransferMessage) {
        self.hear(Input::Control { peer: user(from), message: message.to_value() });
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.machine.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = at.max(self.now);
            self.machine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// Sends the manifest as `from`, in as many frames as it takes.
    fn manifest(&mut self, from: &str, manifest: &Manifest) {
        let (id, bytes) = (id_of(manifest), Bytes::from(manifest.to_bytes()));
        for (offset, len) in frame::cut(bytes.len() as u32, u32::MAX) {
            let content = bytes.slice(offset as usize..(offset + len) as usize);
            let frame = Frame { short: id.short(), kind: FrameKind::Manifest, offset, content }.encode();
            self.hear(Input::Bulk { peer: user(from), frame });
        }
    }

    /// Sends a part of a manifest that is made up as whoever offers it.
    fn manifest_part(&mut self, offer: &Offer, start: usize, end: usize) {
        if start < end {
            let (short, content) = (offer.id.short(), Bytes::from(vec![0; end - start]));
            let frame = Frame { short, kind: FrameKind::Manifest, offset: start as u32, content }.encode();
            self.hear(Input::Bulk { peer: offer.origin.clone(), frame });
        }
    }

    /// Sends the first piece as `from`.
    fn first_piece(&mut self, from: &str, manifest: &Manifest) {
        for (offset, len) in frame::cut(manifest.piece_len(0), u32::MAX) {
            let (short, kind) = (id_of(manifest).short(), FrameKind::Piece { piece: 0 });
            let frame = Frame { short, kind, offset, content: Bytes::from(vec![0; len as usize]) };
            self.hear(Input::Bulk { peer: user(from), frame: frame.encode() });
        }
    }

    /// The files have their names.
    fn finish(&mut self) {
        for op in std::mem::take(&mut self.finishing) {
            self.hear(Input::Disk { op, done: DiskDone::Finished(Summary { path: None }) });
        }
    }

    /// The user takes what this peer offers.
    fn accept(&mut self, from: &str, offer: Offer, scope: AcceptScope) {
        let command = TransferCommand::Accept { from: user(from), offer: offer.into(), scope };
        self.hear(Input::Command(command));
    }

    /// The user did not say that anything of this peer is taken.
    fn reject_from(&mut self, from: &str, transfer: TransferId) {
        self.hear(Input::Command(TransferCommand::RejectFrom { transfer, from: user(from) }));
    }

    /// The user does not want what they were told that this peer offers.
    fn pass(&mut self, from: &str, transfer: TransferId) {
        self.hear(Input::Command(TransferCommand::Pass { transfer, from: user(from) }));
    }

    fn offers_of(&self, peer: &str) -> usize {
        let is_theirs = |event: &&TransferEvent| matches!(event, TransferEvent::Offered { from, .. } if *from == user(peer));
        self.events.iter().filter(is_theirs).count()
    }

    /// What ended for this reason.
    fn failed(&self, because: &FailReason) -> BTreeSet<TransferId> {
        let failed = self.events.iter().filter_map(|event| match event {
            TransferEvent::Failed { transfer, reason, .. } if reason == because => Some(*transfer),
            _ => None,
        });
        failed.collect()
    }

    fn has_failed(&self) -> bool {
        self.events.iter().any(|event| matches!(event, TransferEvent::Failed { .. }))
    }

    fn cut_off(&self) -> Vec<(UserId, CutOffReason)> {
        let cut_off = self.events.iter().filter_map(|event| match event {
            TransferEvent::PeerCutOff { peer, reason, .. } => Some((peer.clone(), *reason)),
            _ => None,
        });
        cut_off.collect()
    }

    fn said_to(&self, peer: &str, is: impl Fn(&TransferMessage) -> bool) -> usize {
        self.said.iter().filter(|(to, message)| *to == user(peer) && is(message)).count()
    }
}

fn id_of(manifest: &Manifest) -> TransferId {
    Manifest::id_of(&manifest.to_bytes())
}

fn offer_of(manifest: &Manifest, origin: &str) -> Offer {
    Offer {
        id: id_of(manifest),
        name: manifest.name().to_owned(),
        files: 1,
        folders: 0,
        roots: manifest.root_count(),
        bytes: manifest.total_bytes(),
        manifest_bytes: manifest.to_bytes().len() as u32,
        origin: user(origin),
        audience: None,
    }
}

fn made_up_offer(number: u16, manifest_bytes: u32) -> Offer {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&number.to_be_bytes());
    let origin = user("mallory");
    let name = "free.gift".to_owned();
    let (files, folders, roots, bytes, audience) = (1, 0, 1, 1, None);
    Offer { id: TransferId(id), name, files, folders, roots, bytes, manifest_bytes, origin, audience }
}

fn is_accept(message: &TransferMessage) -> bool {
    matches!(message, TransferMessage::Accept { .. })
}

fn is_request(message: &TransferMessage) -> bool {
    matches!(message, TransferMessage::Request { pieces, .. } if !pieces.is_empty())
}

fn whole(id: TransferId, manifest: &Manifest) -> TransferMessage {
    let words = manifest.piece_count().div_ceil(64);
    let all = (0..words).map(|word| match manifest.piece_count() - word * 64 {
        rest if rest < 64 => (1 << rest) - 1,
        _ => u64::MAX,
    });
    TransferMessage::Have { id, pieces: Vec::new(), bits: Some(Bits::pack(0, all)), complete: true }
}

#[test]
fn what_was_accepted_by_name_arrives_under_that_name_or_not_at_all() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["mallory"]);
    let offer = Offer { name: "holiday.jpg".into(), ..offer_of(&manifest, "mallory") };
    victim.control("mallory", &TransferMessage::Offer(offer));
    victim.manifest("mallory", &manifest);
    assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::BadManifest)]);
}

#[test]
fn what_stands_beside_the_folder_that_was_accepted_was_said_or_is_refused() {
    let entry = |path: &str, kind: EntryKind| {
        (Entry { path: SafePath::parse(path).expect("a path"), kind, mtime: 0 }, Vec::new())
    };
    let empty = EntryKind::File { size: 0, executable: false };
    let entries =
        vec![entry("album", EntryKind::Folder), entry("album/1.jpg", empty), entry("makefile", empty)];
    let manifest = Arc::new(Manifest::new(PIECE_LOG2_MIN, entries).expect("a manifest"));
    let truth = Offer { files: 2, folders: 1, roots: 2, ..offer_of(&manifest, "mallory") };
    for roots in [0, 1, 3] {
        let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["mallory"]);
        victim.control("mallory", &TransferMessage::Offer(Offer { roots, ..truth.clone() }));
        victim.manifest("mallory", &manifest);
        assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::BadManifest)], "{roots}");
    }
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["mallory"]);
    victim.control("mallory", &TransferMessage::Offer(truth));
    victim.manifest("mallory", &manifest);
    assert_eq!(victim.cut_off(), []);
    assert_eq!(victim.finishing.len(), 1, "it is received");
}

#[test]
fn who_lies_about_anothers_offer_first_is_cut_off_and_not_the_other() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    let lie = Offer { bytes: 3, ..offer_of(&manifest, "ada") };
    victim.control("mallory", &TransferMessage::Offer(lie));
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    victim.manifest("mallory", &manifest);
    assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::BadManifest)]);
    assert_eq!(victim.said_to("ada", is_accept), 1);
    victim.manifest("ada", &manifest);
    victim.control("ada", &whole(id_of(&manifest), &manifest));
    assert!(victim.said_to("ada", is_request) > 0);
}

#[test]
fn a_liar_does_not_keep_a_trusted_offer_from_being_accepted() {
    let manifest = one_file(MIB);
    for lie in [offer_of(&manifest, "ada"), Offer { bytes: 3, ..offer_of(&manifest, "ada") }] {
        let trusted = AcceptPolicy::From([user("ada")].into());
        let mut victim = Victim::new(trusted, &manifest, &["ada", "mallory"]);
        victim.control("mallory", &TransferMessage::Offer(lie));
        assert_eq!(victim.said_to("mallory", is_accept), 0);
        victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
        assert_eq!(victim.said_to("ada", is_accept), 1);
    }
}

#[test]
fn nobody_but_the_origin_ends_a_transfer_by_saying_that_the_source_has_changed() {
    let manifest = one_file(MIB);
    let id = id_of(&manifest);
    let mut victim = receiver(&manifest, &["ada", "mallory"]);
    let stop = TransferMessage::Stop { id, reason: StopReason::SourceChanged };
    victim.control("mallory", &TransferMessage::Join { id });
    victim.control("mallory", &stop);
    assert!(!victim.has_failed());
    victim.control("ada", &whole(id, &manifest));
    assert!(victim.said_to("ada", is_request) > 0);
    victim.control("ada", &stop);
    assert!(victim.has_failed());
}

#[test]
fn who_claims_to_be_the_origin_does_not_end_what_others_offer() {
    let manifest = one_file(MIB);
    let id = id_of(&manifest);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    for name in ["mallory", "ada"] {
        victim.control(name, &TransferMessage::Offer(offer_of(&manifest, name)));
    }
    victim.manifest("mallory", &manifest);
    victim.control("mallory", &TransferMessage::Stop { id, reason: StopReason::SourceChanged });
    assert!(!victim.has_failed());
    victim.control("ada", &whole(id, &manifest));
    assert!(victim.said_to("ada", is_request) > 0);
}

/// Ids are sorted, and `eve` comes before `zoe`.
#[test]
fn who_repeats_anothers_offer_is_not_trusted_in_its_place() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["eve", "zoe"]);
    victim.control("zoe", &TransferMessage::Offer(offer_of(&manifest, "zoe")));
    victim.control("eve", &TransferMessage::Offer(offer_of(&manifest, "zoe")));
    victim.accept("zoe", offer_of(&manifest, "zoe"), AcceptScope::Peer);
    victim.control("eve", &TransferMessage::Offer(made_up_offer(1, 100)));
    victim.control("zoe", &TransferMessage::Offer(made_up_offer(2, 100)));
    assert_eq!((victim.said_to("eve", is_accept), victim.said_to("zoe", is_accept)), (0, 2));
}

/// What `ada` offers, and lies about it: the same, other words, and other words that show only in the manifest.
fn truth_and_lies(manifest: &Manifest) -> (Offer, [Offer; 3]) {
    let truth = offer_of(manifest, "ada");
    let lies =
        [truth.clone(), Offer { bytes: 3, ..truth.clone() }, Offer { manifest_bytes: 99, ..truth.clone() }];
    (truth, lies)
}

#[test]
fn everybody_who_offers_what_waits_for_an_answer_is_told_of() {
    let manifest = one_file(MIB);
    let (truth, lies) = truth_and_lies(&manifest);
    for lie in lies {
        let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "bob", "mallory"]);
        victim.control("mallory", &TransferMessage::Offer(lie));
        for _ in 0..2 {
            victim.control("bob", &TransferMessage::Offer(truth.clone()));
            victim.control("ada", &TransferMessage::Offer(truth.clone()));
        }
        let told = ["mallory", "bob", "ada"].map(|name| victim.offers_of(name));
        assert_eq!(told, [1, 1, 1], "and once");
        victim.accept("ada", truth.clone(), AcceptScope::Once);
        assert_eq!(victim.said_to("ada", is_accept), 1);
        victim.manifest("ada", &manifest);
        assert!(victim.said_to("ada", |message| matches!(message, TransferMessage::Join { .. })) > 0);
        assert_eq!(victim.cut_off(), []);
    }
}

#[test]
fn a_no_to_one_peer_is_none_to_others_who_offer_the_same() {
    let manifest = one_file(MIB);
    let (truth, lies) = truth_and_lies(&manifest);
    for lie in lies {
        for comes_before in [true, false] {
            let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "mallory"]);
            victim.control("mallory", &TransferMessage::Offer(lie.clone()));
            if comes_before {
                victim.control("ada", &TransferMessage::Offer(truth.clone()));
            }
            victim.reject_from("mallory", truth.id);
            let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
            assert_eq!(victim.said_to("mallory", is_declined), 1);
            if !comes_before {
                victim.control("ada", &TransferMessage::Offer(truth.clone()));
            }
            assert!(victim.offers_of("ada") > 0);
            assert_eq!(victim.said_to("ada", is_declined), 0);
            victim.accept("ada", truth.clone(), AcceptScope::Once);
            assert_eq!((victim.said_to("ada", is_accept), victim.said_to("mallory", is_accept)), (1, 0));
            victim.reject_from("ada", truth.id);
            assert!(!victim.has_failed(), "what was accepted goes on");
        }
    }
}

#[test]
fn a_persons_no_is_one_to_everybody() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "bob"]);
    let offer = offer_of(&manifest, "ada");
    victim.control("ada", &TransferMessage::Offer(offer.clone()));
    victim.hear(Input::Command(TransferCommand::Reject { transfer: offer.id }));
    victim.control("bob", &TransferMessage::Offer(offer));
    let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
    assert_eq!(["ada", "bob"].map(|name| victim.said_to(name, is_declined)), [1, 1]);
    assert_eq!(victim.offers_of("bob"), 0);
}

#[test]
fn a_persons_no_to_one_who_was_shown_is_followed_by_the_next() {
    let manifest = one_file(MIB);
    let (truth, lies) = truth_and_lies(&manifest);
    for lie in lies {
        let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "bob", "mallory"]);
        let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
        let is_withdrawn = |victim: &Victim| {
            victim.events.iter().any(|event| matches!(event, TransferEvent::Withdrawn { .. }))
        };
        victim.control("mallory", &TransferMessage::Offer(lie.clone()));
        victim.control("ada", &TransferMessage::Offer(truth.clone()));
        let before = victim.offers_of("ada");
        victim.pass("mallory", truth.id);
        assert_eq!(
            victim.offers_of("ada"),
            before + 1,
            "she is told of when somebody can be asked about her"
        );
        assert_eq!((victim.said_to("mallory", is_declined), victim.said_to("ada", is_declined)), (1, 0));

        let asked = victim.offers_of("mallory");
        victim.control("mallory", &TransferMessage::Offer(lie.clone()));
        assert!(!is_withdrawn(&victim));
        victim.pass("ada", truth.id);
        assert!(is_withdrawn(&victim), "nobody else is left");
        victim.control("mallory", &TransferMessage::Offer(lie));
        victim.control("bob", &TransferMessage::Offer(truth.clone()));
        let told = (victim.offers_of("mallory"), victim.offers_of("bob"));
        assert_eq!(told, (asked, 0), "nobody is asked twice, or about who speaks in her stead");
        victim.control("bob", &TransferMessage::Offer(Offer { origin: user("bob"), ..truth.clone() }));
        assert_eq!(victim.offers_of("bob"), 1);
    }
}

#[test]
fn what_was_accepted_is_what_was_told_and_not_what_stands_in_its_place() {
    let manifest = one_file(MIB);
    let other = offer_of(&manifest, "mallory");
    for changed in [
        Offer { name: "a.txt".into(), ..other.clone() },
        Offer { bytes: 10, ..other.clone() },
        Offer { files: 50, ..other.clone() },
        Offer { folders: 7, ..other.clone() },
        Offer { roots: 2, ..other.clone() },
    ] {
        for takes_back in [true, false] {
            let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["mallory"]);
            victim.control("mallory", &TransferMessage::Offer(changed.clone()));
            if takes_back {
                let stop = TransferMessage::Stop { id: other.id, reason: StopReason::Stopped };
                victim.control("mallory", &stop);
            }
            victim.control("mallory", &TransferMessage::Offer(other.clone()));
            victim.accept("mallory", changed.clone(), AcceptScope::Peer);
            assert_eq!(victim.said_to("mallory", is_accept), 0, "{changed:?}");
            victim.accept("mallory", other.clone(), AcceptScope::Once);
            assert_eq!(victim.said_to("mallory", is_accept), 1);
        }
    }
}

#[test]
fn who_is_accepted_in_other_words_than_the_first_is_within_the_limits_too() {
    let manifest = one_file(MIB);
    let truth = offer_of(&manifest, "ada");
    let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "mallory"]);
    victim.control("ada", &TransferMessage::Offer(truth.clone()));
    let lies = [
        Offer { files: u32::MAX, ..truth.clone() },
        Offer { manifest_bytes: MANIFEST_MAX_BYTES + 1, ..truth },
    ];
    for lie in lies {
        victim.control("mallory", &TransferMessage::Offer(lie.clone()));
        victim.accept("mallory", lie, AcceptScope::Once);
    }
    let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
    assert_eq!((victim.said_to("mallory", is_declined), victim.said_to("mallory", is_accept)), (2, 0));
    assert_eq!((victim.offers_of("mallory"), victim.offers_of("ada")), (0, 1));
}

#[test]
fn nobody_takes_all_the_places_of_offers_that_wait() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "mallory"]);
    for number in 0..1000 {
        victim.control("mallory", &TransferMessage::Offer(made_up_offer(number, 100)));
    }
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    assert_eq!(victim.offers_of("ada"), 1);
    assert!(victim.offers_of("mallory") < 100);
}

/// An offer of something that its sender can't have: of its manifest any bytes may be sent, as long as some are missing.
fn large_offer(from: &str, number: u16) -> Offer {
    let id = TransferId(*blake3::hash(format!("{from} {number}").as_bytes()).as_bytes());
    Offer { id, origin: user(from), ..made_up_offer(number, MANIFEST_MAX_BYTES) }
}

/// Where the frames of a manifest end, up to the last MiB: each so long, after a first one.
fn ends(first: usize, each: usize) -> Vec<usize> {
    let before_last = MANIFEST_MAX_BYTES as usize - MIB as usize;
    (0..).map(|number| first + number * each).take_while(|end| *end <= before_last).collect()
}

/// How much was asked for of the manifest that is offered.
fn asked_len(victim: &Victim, offer: &Offer) -> usize {
    let asked = victim.said.iter().filter_map(|(_, message)| match message {
        TransferMessage::Manifest { id, offset } if *id == offer.id => Some(*offset as usize),
        _ => None,
    });
    asked.max().unwrap_or(0) + MIB as usize
}

/// Twenty manifests of ten members come side by side, all but the last MiB of each. How much was asked for of those that were
/// not given up. Whoever pushes does not wait to be asked.
fn take_manifests(first: usize, each: usize, is_pushed: bool) -> Vec<usize> {
    let names: Vec<String> = (0..10).map(|number| format!("mallory{number}")).collect();
    let peers: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut victim = Victim::new(AcceptPolicy::Everyone, &one_file(MIB), &peers);
    let offers: Vec<Offer> =
        peers.iter().flat_map(|name| (0..2).map(|number| large_offer(name, number))).collect();
    for offer in &offers {
        victim.control(offer.origin.as_str(), &TransferMessage::Offer(offer.clone()));
    }
    let starts = [0].into_iter().chain(ends(first, each));
    for (start, end) in starts.zip(ends(first, each)) {
        let chunk_end = (start / MIB as usize + 1) * MIB as usize;
        let stop = if is_pushed { end } else { end.min(chunk_end) };
        for offer in &offers {
            victim.manifest_part(offer, start, stop);
            victim.manifest_part(offer, stop, end);
        }
        let asked: usize = taken(&victim, &offers).into_iter().sum();
        assert!(asked <= 256 * MIB as usize, "{asked} bytes");
    }
    taken(&victim, &offers)
}

fn taken(victim: &Victim, offers: &[Offer]) -> Vec<usize> {
    let failed = victim.failed(&FailReason::NoRoom);
    offers.iter().filter(|offer| !failed.contains(&offer.id)).map(|offer| asked_len(victim, offer)).collect()
}

#[test]
fn manifests_of_what_everybody_may_send_are_bounded_in_memory() {
    for (first, each) in [(32 * 1024, 32 * 1024), (60_000, 60_000), (1, 65_000)] {
        let lens = take_manifests(first, each, false);
        assert!((7..=8).contains(&lens.len()), "{} manifests of 32 MiB in 256 MiB", lens.len());
        assert!(lens.iter().all(|len| *len >= MANIFEST_MAX_BYTES as usize - MIB as usize), "{lens:?}");
    }
}

#[test]
fn of_a_manifest_nothing_is_taken_that_was_not_asked_for() {
    let lens = take_manifests(60_000, 60_000, true);
    assert_eq!(
        lens,
        [2 * MIB as usize; 20],
        "what goes beyond the first MiB is cut off, and what follows has no place"
    );
}

#[test]
fn who_fills_the_memory_for_manifests_does_not_keep_others_from_beginning() {
    let files: Vec<Arc<Manifest>> = (0..3).map(|number| empty_file(&format!("{number}.txt"))).collect();
    let names: Vec<String> = (0..4).map(|number| format!("mallory{number}")).collect();
    let mut victim = Victim::new(AcceptPolicy::Everyone, &files[0], &["ada", "bob", "carol"]);
    for file in &files {
        victim.control("carol", &TransferMessage::Offer(offer_of(file, "carol")));
        victim.manifest("carol", file);
        victim.finish();
    }
    // Some room is left, but for what is complete and then some.
    let manifest_bytes = MANIFEST_MAX_BYTES - 8192;
    let offers = |number| {
        names.iter().map(move |name| Offer { manifest_bytes, ..large_offer(name, number) }).collect()
    };
    let offers: Vec<Offer> = (0..3).flat_map(|number: u16| -> Vec<Offer> { offers(number) }).collect();
    for offer in &offers {
        victim.hear(Input::PeerReady { peer: offer.origin.clone() });
        victim.control(offer.origin.as_str(), &TransferMessage::Offer(offer.clone()));
        victim.now += Duration::from_millis(1);
    }
    let parts: Vec<usize> = (0..=31 * 32).map(|part| part * 32 * 1024).collect();
    for part in parts.windows(2) {
        offers[..8].iter().for_each(|offer| victim.manifest_part(offer, part[0], part[1]));
    }
    let is_at_it = |offer: &Offer| asked_len(&victim, offer) == MANIFEST_MAX_BYTES as usize;
    assert!(offers[..8].iter().all(is_at_it), "eight are nearly here");

    victim.control("ada", &TransferMessage::Offer(large_offer("ada", 0)));
    victim.control("bob", &TransferMessage::Offer(offer_of(&one_file(MIB), "bob")));
    assert_eq!((victim.said_to("ada", is_accept), victim.said_to("bob", is_accept)), (0, 1));
    assert_eq!(victim.closed, BTreeSet::new(), "nothing is forgotten in vain");
    // They send a byte now and then: soon it is somebody else's turn.
    for step in 0..40 {
        let start = 31 * MIB as usize + step;
        offers[..8].iter().for_each(|offer| victim.manifest_part(offer, start, start + 1));
        victim.wait(Duration::from_secs(4));
        if victim.said_to("ada", is_accept) > 0 {
            break;
        }
    }
    assert!(victim.said_to("ada", is_accept) > 0);
    assert_eq!(victim.failed(&FailReason::NoRoom).len(), 1, "what has to go goes");
    assert!(files.iter().all(|file| !victim.closed.contains(&id_of(file))), "what is complete stays");
}

#[test]
fn offers_that_are_accepted_and_never_served_keep_nobody_else_from_offering() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Ask, &manifest, &["ada", "mallory"]);
    for number in 0..8 {
        let offer = large_offer("mallory", number);
        victim.control("mallory", &TransferMessage::Offer(offer.clone()));
        victim.accept("mallory", offer, AcceptScope::Once);
    }
    assert_eq!(victim.offers_of("ada"), 0);
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    assert_eq!(victim.offers_of("ada"), 1);
    victim.hear(Input::PeerGone { peer: user("mallory") });
    for number in 0..8 {
        let offer = large_offer("ada", number);
        victim.control("ada", &TransferMessage::Offer(offer));
    }
    assert_eq!(victim.offers_of("ada"), 9);
}

#[test]
fn what_nobody_sends_the_list_of_files_of_is_given_up() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["bob", "mallory"]);
    victim.control("mallory", &TransferMessage::Offer(large_offer("mallory", 0)));
    victim.control("bob", &TransferMessage::Offer(large_offer("bob", 0)));
    victim.hear(Input::PeerGone { peer: user("bob") });
    victim.wait(Duration::from_secs(110));
    assert!(!victim.has_failed(), "somebody may come back, or be slow");
    victim.wait(Duration::from_secs(11));
    let given_up = |event: &&TransferEvent| {
        matches!(event, TransferEvent::Failed { reason: FailReason::NoManifest, .. })
    };
    assert_eq!(victim.events.iter().filter(given_up).count(), 2);
    let is_told = |message: &TransferMessage| {
        matches!(message, TransferMessage::Stop { reason: StopReason::GaveUp, .. })
    };
    assert_eq!(victim.said_to("mallory", is_told), 1);
    let before = victim.said.len();
    victim.wait(Duration::from_secs(60));
    assert_eq!(victim.said.len(), before, "nobody is asked any more");
}

#[test]
fn whoever_comes_back_with_the_list_of_files_is_asked_for_it() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada"]);
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    victim.hear(Input::PeerGone { peer: user("ada") });
    victim.wait(Duration::from_secs(119));
    victim.hear(Input::PeerReady { peer: user("ada") });
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    victim.wait(Duration::from_secs(4));
    victim.manifest("ada", &manifest);
    assert!(victim.said_to("ada", |message| matches!(message, TransferMessage::Join { .. })) > 0);
}

#[test]
fn one_member_has_so_many_transfers_under_way_and_the_others_wait_for_their_turn() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    for number in 0..300 {
        victim.control("mallory", &TransferMessage::Offer(made_up_offer(number, 100)));
    }
    let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
    let accepts = victim.said_to("mallory", is_accept);
    assert_eq!((accepts, victim.said_to("mallory", is_declined)), (8, 300 - 8 - 256));
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    assert_eq!(victim.said_to("ada", is_accept), 1);

    let stopped = TransferId(made_up_offer(0, 100).id.0);
    victim.hear(Input::Command(TransferCommand::Reject { transfer: stopped }));
    victim.wait(Duration::from_secs(1));
    assert_eq!(victim.said_to("mallory", is_accept), 9, "the next");
}

#[test]
fn large_lists_of_one_member_come_one_after_the_other() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["mallory"]);
    for number in 0..8 {
        victim.control("mallory", &TransferMessage::Offer(large_offer("mallory", number)));
    }
    assert_eq!(victim.said_to("mallory", is_accept), 2);
}

#[test]
fn many_members_together_do_not_take_the_turn_of_one_who_has_nothing_under_way() {
    let manifest = one_file(MIB);
    let names: Vec<String> = (0..20).map(|number| format!("mallory{number}")).collect();
    let mut peers: Vec<&str> = names.iter().map(String::as_str).collect();
    peers.push("ada");
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &peers);
    for name in &names {
        for number in 0..200 {
            let id = TransferId(*blake3::hash(format!("{name} {number}").as_bytes()).as_bytes());
            let offer = Offer { id, ..made_up_offer(number, 100) };
            victim.control(name, &TransferMessage::Offer(offer));
        }
    }
    let accepts: usize = names.iter().map(|name| victim.said_to(name, is_accept)).sum();
    assert!((64..=64 + names.len()).contains(&accepts), "{accepts} at once");
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    assert_eq!(victim.said_to("ada", is_accept), 1);
}

#[test]
fn who_repeats_anothers_offer_does_not_make_it_wait() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    for number in 0..9 {
        victim.control("mallory", &TransferMessage::Offer(made_up_offer(number, 100)));
    }
    victim.control("mallory", &TransferMessage::Offer(offer_of(&manifest, "mallory")));
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    let is_the_file = |message: &TransferMessage| matches!(message, TransferMessage::Accept { id } if *id == id_of(&manifest));
    let asked = victim.said_to("ada", is_the_file) + victim.said_to("mallory", is_the_file);
    assert_eq!(asked, 1);
}

#[test]
fn what_waits_for_its_turn_ends_when_it_is_rejected_or_everyone_who_offered_it_left() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["mallory"]);
    for number in 0..10 {
        victim.control("mallory", &TransferMessage::Offer(made_up_offer(number, 100)));
    }
    let transfer = made_up_offer(8, 100).id;
    victim.hear(Input::Command(TransferCommand::Reject { transfer }));
    let is_declined = |message: &TransferMessage| matches!(message, TransferMessage::Decline { .. });
    assert_eq!(victim.said_to("mallory", is_declined), 1);
    victim.hear(Input::PeerGone { peer: user("mallory") });
    let failed = victim.events.iter().filter_map(|event| match event {
        TransferEvent::Failed { transfer, reason, .. } => Some((transfer.0[1], reason.clone())),
        _ => None,
    });
    let expected = [(8, FailReason::Stopped), (9, FailReason::NoManifest)];
    assert_eq!(failed.collect::<Vec<_>>(), expected);
}

/// One file of this name, without content.
fn empty_file(name: &str) -> Arc<Manifest> {
    let path = SafePath::parse(name).expect("a name");
    let kind = EntryKind::File { size: 0, executable: false };
    Arc::new(Manifest::new(18, vec![(Entry { path, kind, mtime: 0 }, Vec::new())]).expect("a manifest"))
}

#[test]
fn of_what_was_received_the_oldest_is_forgotten_and_not_received_again() {
    let files: Vec<Arc<Manifest>> = (0..200).map(|number| empty_file(&format!("{number}.txt"))).collect();
    let mut victim = Victim::new(AcceptPolicy::Everyone, &files[0], &["ada", "bob"]);
    for file in &files {
        victim.control("ada", &TransferMessage::Offer(offer_of(file, "ada")));
        victim.manifest("ada", file);
        victim.finish();
        victim.now += Duration::from_millis(1);
    }
    let count = |victim: &Victim| {
        victim.events.iter().filter(|event| matches!(event, TransferEvent::Done { .. })).count()
    };
    assert_eq!(count(&victim), files.len());
    let forgotten: BTreeSet<TransferId> = files[..200 - 128].iter().map(|file| id_of(file)).collect();
    assert_eq!(victim.closed, forgotten, "the disk is told to forget the oldest, too");
    let is_done = |message: &TransferMessage| matches!(message, TransferMessage::Done { .. });
    let before = victim.said_to("bob", is_done);
    for file in &files {
        victim.control("bob", &TransferMessage::Offer(offer_of(file, "ada")));
    }
    assert_eq!((victim.said_to("bob", is_done) - before, victim.said_to("bob", is_accept)), (200, 0));
    assert_eq!(count(&victim), files.len());
}

#[test]
fn of_what_nobody_has_the_rest_of_the_oldest_is_given_up_when_there_is_too_much() {
    let manifests: Vec<Arc<Manifest>> = (1..=140).map(|size| one_file(size * MIB / 4)).collect();
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifests[0], &[]);
    for (number, manifest) in manifests.iter().enumerate() {
        victim.disk = disk(manifest.clone());
        let name = format!("mallory{number}");
        victim.hear(Input::PeerReady { peer: user(&name) });
        victim.control(&name, &TransferMessage::Offer(offer_of(manifest, &name)));
        victim.manifest(&name, manifest);
        victim.hear(Input::PeerGone { peer: user(&name) });
        victim.now += Duration::from_millis(1);
    }
    let abandoned = victim.events.iter().filter_map(|event| match event {
        TransferEvent::Failed { transfer, reason: FailReason::Abandoned, .. } => Some(*transfer),
        _ => None,
    });
    let oldest = manifests.iter().map(|manifest| id_of(manifest)).take(11);
    assert!(abandoned.eq(oldest), "{:?}", victim.closed.len());
    assert_eq!(victim.closed.len(), 11);
}

/// A transfer of the victim's own, for `audience`.
fn sender(manifest: &Arc<Manifest>, audience: Audience, peers: &[&str]) -> Victim {
    let mut victim = Victim::new(AcceptPolicy::Ask, manifest, peers);
    let TransferCommand::Send { token, paths, options, .. } = send() else { panic!("it sends") };
    victim.hear(Input::Command(TransferCommand::Send { token, paths, options, audience }));
    victim
}

#[test]
fn who_is_not_meant_gets_nothing_by_offering_it_back() {
    let manifest = one_file(MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Peers([user("bob")].into()), &["bob", "mallory"]);
    for message in [
        TransferMessage::Offer(offer_of(&manifest, "mallory")),
        TransferMessage::Accept { id },
        TransferMessage::Join { id },
        whole(id, &manifest),
        TransferMessage::Request { id, pieces: vec![0] },
        TransferMessage::Manifest { id, offset: 0 },
    ] {
        victim.control("mallory", &message);
    }
    assert_eq!((victim.said_to("mallory", |_| true), victim.reads), (0, 0));
}

#[test]
fn leaving_and_joining_again_does_not_start_the_count_of_requests_anew() {
    let manifest = one_file(16 * MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["mallory"]);
    for _ in 0..100 {
        victim.control("mallory", &TransferMessage::Join { id });
        for piece in 0..manifest.piece_count() {
            victim.hear(Input::Writable { peer: user("mallory"), bytes: MIB as usize });
            victim.control("mallory", &TransferMessage::Request { id, pieces: vec![piece] });
        }
        victim.control("mallory", &TransferMessage::Stop { id, reason: StopReason::Stopped });
    }
    assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::EndlessRequests)]);
}

#[test]
fn who_asks_for_the_manifest_without_end_is_cut_off() {
    let manifest = one_file(MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["mallory"]);
    for _ in 0..1_000_000 {
        victim.hear(Input::Writable { peer: user("mallory"), bytes: 4096 });
        victim.control("mallory", &TransferMessage::Manifest { id, offset: 0 });
        if !victim.cut_off().is_empty() {
            break;
        }
    }
    assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::EndlessRequests)]);
}

#[test]
fn joining_again_and_again_is_answered_once() {
    let manifest = one_file(9 * 1024 * MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["mallory"]);
    victim.control("mallory", &TransferMessage::Join { id });
    victim.control("mallory", &whole(id, &manifest));
    let before = victim.said.len();
    for _ in 0..1000 {
        victim.control("mallory", &TransferMessage::Join { id });
    }
    assert_eq!(victim.said.len(), before);
}

#[test]
fn who_leaves_and_joins_without_end_is_cut_off() {
    let manifest = one_file(8 * MIB);
    let id = id_of(&manifest);
    let rounds = 2 * (2 * manifest.total_bytes() + 64 * MIB) / (64 * 1024);
    let joining = [
        TransferMessage::Accept { id },
        TransferMessage::Join { id },
        whole(id, &manifest),
        TransferMessage::Done { id, from_origin: 0, from_others: 0 },
    ];
    for message in joining {
        let mut victim = sender(&manifest, Audience::Everyone, &["mallory"]);
        for _ in 0..rounds {
            victim.control("mallory", &message);
            victim.control("mallory", &TransferMessage::Stop { id, reason: StopReason::Stopped });
        }
        assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::EndlessRequests)], "{message:?}");
    }
}

#[test]
fn peers_that_ask_and_take_nothing_do_not_keep_others_from_being_served() {
    let manifest = one_file(9 * 1024 * MIB);
    let id = id_of(&manifest);
    let names: Vec<String> = (0..8).map(|number| format!("mallory{number}")).collect();
    let mut peers: Vec<&str> = names.iter().map(String::as_str).collect();
    peers.push("ada");
    let mut victim = sender(&manifest, Audience::Everyone, &peers);
    for name in &names {
        victim.control(name, &TransferMessage::Join { id });
        victim.hear(Input::Writable { peer: user(name), bytes: 1 });
        victim.control(name, &TransferMessage::Manifest { id, offset: 0 });
        victim.control(name, &TransferMessage::Request { id, pieces: (0..8).collect() });
        victim.wait(Duration::from_secs(1));
    }
    let before = victim.reads;
    victim.control("ada", &TransferMessage::Join { id });
    victim.control("ada", &TransferMessage::Request { id, pieces: vec![100] });
    assert_eq!(victim.reads, before + 1);
}

#[test]
fn who_asks_for_much_and_takes_nothing_does_not_take_the_others_places_in_the_queue() {
    let manifest = one_file(1024 * MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["ada", "mallory"]);
    victim.control("ada", &TransferMessage::Join { id });
    victim.control("mallory", &TransferMessage::Join { id });
    for piece in 0..8 {
        victim.hear(Input::Writable { peer: user("ada"), bytes: 8 * MIB as usize });
        victim.control("ada", &TransferMessage::Request { id, pieces: vec![piece] });
    }
    let all: Vec<u32> = (0..manifest.piece_count()).collect();
    victim.control("mallory", &TransferMessage::Request { id, pieces: all });
    let is_busy = |message: &TransferMessage| matches!(message, TransferMessage::Busy { .. });
    assert_eq!(victim.said_to("mallory", is_busy), 1);
    victim.control("ada", &TransferMessage::Request { id, pieces: (8..16).collect() });
    assert_eq!(victim.said_to("ada", is_busy), 0);
}

/// With a look at each missing piece for each of them this would take minutes.
#[test]
fn who_stops_without_end_what_it_takes_no_part_in_costs_next_to_nothing() {
    let file = |number: u32| {
        let path = SafePath::parse(&number.to_string()).expect("a name");
        (Entry { path, kind: EntryKind::File { size: 1, executable: false }, mtime: 0 }, vec![[0; 32]])
    };
    let manifest = Arc::new(Manifest::new(18, (0..15_000).map(file).collect()).expect("a manifest"));
    let mut victim = receiver(&manifest, &["ada", "mallory"]);
    victim.hear(Input::PeerGone { peer: user("ada") });
    let before = (victim.said.len(), victim.events.len());
    let stop = TransferMessage::Stop { id: id_of(&manifest), reason: StopReason::Stopped };
    for _ in 0..60_000 {
        victim.control("mallory", &stop);
    }
    assert_eq!((victim.said.len(), victim.events.len()), before);
    let one = TransferMessage::Have { id: id_of(&manifest), pieces: vec![0], bits: None, complete: false };
    for _ in 0..500 {
        victim.control("mallory", &one);
        victim.control("mallory", &stop);
    }
    assert_eq!(victim.events.len(), before.1);
}

#[test]
fn who_fell_silent_is_taken_for_one_that_answers_once_it_sends_a_part_or_says_that_it_is_busy() {
    let manifest = one_file(16 * MIB);
    let id = id_of(&manifest);
    let silences = |victim: &Victim| {
        victim.events.iter().filter(|event| matches!(event, TransferEvent::Silent { .. })).count()
    };
    for is_busy in [false, true] {
        let mut victim = receiver(&manifest, &["ada"]);
        victim.control("ada", &whole(id, &manifest));
        victim.wait(Duration::from_secs(1_000));
        assert_eq!(silences(&victim), 1);
        let asked = victim.said_to("ada", is_request);
        while victim.said_to("ada", is_request) == asked {
            victim.wait(Duration::from_secs(1));
        }
        let piece = victim.said.iter().rev().find_map(|(_, message)| match message {
            TransferMessage::Request { pieces, .. } => pieces.first().copied(),
            _ => None,
        });
        let piece = piece.expect("it was asked for one");
        if is_busy {
            victim.control("ada", &TransferMessage::Busy { id, pieces: vec![piece] });
        } else {
            let (short, kind) = (id.short(), FrameKind::Piece { piece });
            let (offset, len) = frame::cut(manifest.piece_len(piece), u32::MAX).next().expect("a part");
            let frame = Frame { short, kind, offset, content: Bytes::from(vec![0; len as usize]) };
            victim.hear(Input::Bulk { peer: user("ada"), frame: frame.encode() });
        }
        victim.wait(Duration::from_secs(1_000));
        assert_eq!(silences(&victim), 2, "is busy: {is_busy}");
    }
}

/// Four others take what they asked for by the frame, and keep all turns.
#[test]
fn who_waits_for_its_turn_and_asks_again_has_not_asked_without_end() {
    let path = SafePath::parse("film.mkv").expect("a name");
    let entry = Entry { path, kind: EntryKind::File { size: 16 * MIB, executable: false }, mtime: 0 };
    let manifest = Arc::new(Manifest::new(22, vec![(entry, vec![[0; 32]; 4])]).expect("a manifest"));
    let id = id_of(&manifest);
    let slow = ["m0", "m1", "m2", "m3"];
    let mut victim = sender(&manifest, Audience::Everyone, &["m0", "m1", "m2", "m3", "bob"]);
    for peer in slow.iter().chain(&["bob"]) {
        victim.control(peer, &TransferMessage::Join { id });
    }
    let is_busy = |message: &TransferMessage| matches!(message, TransferMessage::Busy { .. });
    for second in 0..300 {
        for peer in slow {
            victim.hear(Input::Writable { peer: user(peer), bytes: 8 * 1024 });
            if second % 4 == 0 {
                victim.control(peer, &TransferMessage::Request { id, pieces: (0..4).collect() });
            }
        }
        if second % 5 == 0 {
            victim.control("bob", &TransferMessage::Request { id, pieces: vec![3] });
        }
        for _ in 0..3 {
            victim.wait(Duration::from_millis(333));
            slow.iter().for_each(|peer| victim.hear(Input::Writable { peer: user(peer), bytes: 8 * 1024 }));
        }
    }
    assert!(victim.said_to("bob", is_busy) > 50, "{}", victim.said_to("bob", is_busy));
    assert_eq!(victim.cut_off(), []);
}

#[test]
fn who_asks_to_be_shown_more_without_end_is_shown_it_now_and_then() {
    let manifest = one_file(9 * 1024 * MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["ada", "mallory"]);
    let is_have = |message: &TransferMessage| matches!(message, TransferMessage::Have { .. });
    victim.control("mallory", &TransferMessage::Join { id });
    for _ in 0..10 {
        let before = victim.said_to("mallory", is_have);
        for _ in 0..1000 {
            victim.control("mallory", &TransferMessage::Request { id, pieces: Vec::new() });
        }
        assert_eq!(victim.said_to("mallory", is_have), before + 1);
        victim.wait(Duration::from_millis(50));
    }
}

#[test]
fn who_has_everything_is_told_once_of_all_that_we_have() {
    let manifest = one_file(9 * 1024 * MIB);
    let id = id_of(&manifest);
    let mut victim = sender(&manifest, Audience::Everyone, &["bob"]);
    victim.control("bob", &TransferMessage::Join { id });
    for _ in 0..10 {
        victim.control("bob", &whole(id, &manifest));
        victim.control("bob", &TransferMessage::Request { id, pieces: Vec::new() });
        victim.wait(Duration::from_millis(50));
    }
    let mut told = BTreeSet::new();
    for (_, message) in &victim.said {
        if let TransferMessage::Have { pieces, .. } = message {
            assert!(pieces.iter().all(|piece| told.insert(*piece)), "a piece was told twice");
        }
    }
    assert_eq!(told.len() as u32, manifest.piece_count());
}

#[test]
fn however_many_offers_come_the_disk_is_asked_once_for_its_room() {
    let manifest = one_file(MIB);
    let config = Config { accept: AcceptPolicy::Ask, ..Config::new(user("victim"), "/nowhere".into()) };
    let mut machine = Transfers::new(config, [7; 32]);
    let now = Instant::now();
    machine.handle(now, Input::PeerReady { peer: user("mallory") });
    let mut asked = Vec::new();
    let mut poll = |machine: &mut Transfers| {
        let mut offered = BTreeSet::new();
        while let Some(output) = machine.poll() {
            match output {
                Output::Disk(op) if matches!(op.job, DiskJob::Free { .. }) => asked.push(op.id),
                Output::Event(TransferEvent::Offered { offer, .. }) => {
                    offered.insert(offer.transfer);
                }
                Output::Disk(_) | Output::Event(_) | Output::Control { .. } | Output::Bulk { .. } => {}
            }
        }
        (asked.clone(), offered)
    };
    let (first, second) = (offer_of(&manifest, "mallory"), made_up_offer(2, 100));
    for bytes in 0..10_000 {
        let offer = Offer { bytes, ..first.clone() };
        let message = TransferMessage::Offer(offer).to_value();
        machine.handle(now, Input::Control { peer: user("mallory"), message });
    }
    let offer = TransferMessage::Offer(second.clone()).to_value();
    machine.handle(now, Input::Control { peer: user("mallory"), message: offer });
    let (ops, offered) = poll(&mut machine);
    assert_eq!((ops.len(), offered.len()), (1, 0));
    machine.handle(now, Input::Disk { op: ops[0], done: DiskDone::Free(Some(MIB)) });
    let (ops, offered) = poll(&mut machine);
    assert_eq!((ops.len(), offered), (1, BTreeSet::from([first.id, second.id])));
}

/// A receiver that knows the manifest, from `ada`.
fn receiver(manifest: &Arc<Manifest>, peers: &[&str]) -> Victim {
    let mut victim = Victim::new(AcceptPolicy::Everyone, manifest, peers);
    victim.control("ada", &TransferMessage::Offer(offer_of(manifest, "ada")));
    let chunks = manifest.to_bytes().len().div_ceil(MIB as usize);
    assert_eq!(chunks, 1, "a manifest in one chunk keeps this simple");
    victim.manifest("ada", manifest);
    victim
}

#[test]
fn who_leaves_and_offers_without_end_is_cut_off() {
    let manifest = one_file(8 * MIB);
    let id = id_of(&manifest);
    let mut victim = receiver(&manifest, &["ada", "mallory"]);
    let rounds = 2 * (2 * manifest.total_bytes() + 64 * MIB) / (64 * 1024);
    for _ in 0..rounds {
        victim.control("mallory", &TransferMessage::Offer(offer_of(&manifest, "ada")));
        victim.control("mallory", &TransferMessage::Stop { id, reason: StopReason::Stopped });
    }
    assert_eq!(victim.cut_off(), [(user("mallory"), CutOffReason::EndlessRequests)]);
}

/// A receiver that got the only piece; its files have not their names yet, and its disk finds nothing any more.
fn receiver_that_can_not_read(manifest: &Arc<Manifest>) -> Victim {
    let id = id_of(manifest);
    let mut victim = receiver(manifest, &["ada", "bob"]);
    victim.control("ada", &whole(id, manifest));
    victim.first_piece("ada", manifest);
    assert_eq!(victim.finishing.len(), 1);
    let gone = DiskDone::Failed(DiskError::NotFound { path: "film.mkv".into() });
    victim.disk = Box::new(move |_| vec![gone.clone()]);
    victim.control("bob", &TransferMessage::Join { id });
    victim
}

#[test]
fn a_part_that_just_got_its_name_is_asked_for_again_and_nothing_fails() {
    let manifest = one_file(MIB / 4);
    let id = id_of(&manifest);
    let mut victim = receiver_that_can_not_read(&manifest);
    victim.control("bob", &TransferMessage::Request { id, pieces: vec![0] });
    let is_busy = |message: &TransferMessage| matches!(message, TransferMessage::Busy { .. });
    assert_eq!((victim.reads, victim.said_to("bob", is_busy)), (1, 1));
    victim.finish();
    assert!(!victim.has_failed());
    assert!(victim.events.iter().any(|event| matches!(event, TransferEvent::Done { .. })));
}

#[test]
fn what_was_received_and_then_moved_is_served_no_more_and_has_not_failed() {
    let manifest = one_file(MIB / 4);
    let id = id_of(&manifest);
    let mut victim = receiver_that_can_not_read(&manifest);
    victim.finish();
    for _ in 0..2 {
        victim.control("bob", &TransferMessage::Request { id, pieces: vec![0] });
    }
    assert!(!victim.has_failed());
    let is_stop = |message: &TransferMessage| matches!(message, TransferMessage::Stop { .. });
    assert_eq!((victim.reads, victim.said_to("bob", is_stop)), (1, 1));
}

/// A manifest that others than the honest one, who comes last in every order, offered first.
fn offered_by_mallories(manifest: &Arc<Manifest>) -> Victim {
    let names = ["mallory1", "mallory2", "zoe"];
    let mut victim = Victim::new(AcceptPolicy::Everyone, manifest, &names);
    for name in names {
        victim.control(name, &TransferMessage::Offer(offer_of(manifest, name)));
    }
    assert_eq!(victim.said_to("mallory1", is_accept), 1);
    victim
}

#[test]
fn peers_that_never_send_the_manifest_do_not_keep_another_from_being_asked() {
    let manifest = one_file(9 * 1024 * MIB);
    let mut victim = offered_by_mallories(&manifest);
    victim.wait(Duration::from_secs(30));
    assert!(victim.said_to("zoe", is_accept) > 0, "{:?}", victim.said);
}

#[test]
fn who_sends_the_manifest_by_the_byte_does_not_keep_another_from_being_asked() {
    let manifest = one_file(9 * 1024 * MIB);
    let mut victim = offered_by_mallories(&manifest);
    let (id, bytes) = (id_of(&manifest), Bytes::from(manifest.to_bytes()));
    let mut offsets = [0, 0];
    for _ in 0..60 {
        victim.wait(Duration::from_secs(1));
        if victim.said_to("zoe", is_accept) > 0 {
            break;
        }
        for (name, offset) in ["mallory1", "mallory2"].into_iter().zip(&mut offsets) {
            let content = bytes.slice(*offset..*offset + 1);
            let frame =
                Frame { short: id.short(), kind: FrameKind::Manifest, offset: *offset as u32, content };
            victim.hear(Input::Bulk { peer: user(name), frame: frame.encode() });
            *offset += usize::from(victim.said_to(name, is_accept) > 0);
        }
    }
    assert!(victim.said_to("zoe", is_accept) > 0, "{:?}", victim.said);
    victim.manifest("zoe", &manifest);
    assert!(victim.said_to("zoe", |message| matches!(message, TransferMessage::Join { .. })) > 0);
}

/// Sends the beginning of a manifest by the byte as `mallory`, one a second.
fn drip(victim: &mut Victim, id: TransferId, seconds: u32, is_over: impl Fn(&Victim) -> bool) -> bool {
    for second in 0..seconds {
        if is_over(victim) {
            return true;
        }
        victim.wait(Duration::from_secs(1));
        let content = Bytes::from_static(b"x");
        let frame = Frame { short: id.short(), kind: FrameKind::Manifest, offset: second, content };
        victim.hear(Input::Bulk { peer: user("mallory"), frame: frame.encode() });
    }
    is_over(victim)
}

#[test]
fn who_says_the_same_of_another_list_of_files_and_sends_it_by_the_byte_is_not_waited_for() {
    let manifest = one_file(9 * 1024 * MIB);
    let truth = offer_of(&manifest, "ada");
    let is_joined = |message: &TransferMessage| matches!(message, TransferMessage::Join { .. });
    for goes in [false, true] {
        let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
        let lie = Offer { manifest_bytes: truth.manifest_bytes + 1, ..truth.clone() };
        victim.control("mallory", &TransferMessage::Offer(lie));
        victim.control("ada", &TransferMessage::Offer(truth.clone()));
        assert_eq!((victim.said_to("mallory", is_accept), victim.said_to("ada", is_accept)), (1, 0));
        if goes {
            victim.hear(Input::PeerGone { peer: user("mallory") });
        }
        let is_asked = |victim: &Victim| victim.said_to("ada", is_accept) > 0;
        assert!(drip(&mut victim, truth.id, 30, is_asked), "{:?}", victim.said);
        victim.manifest("ada", &manifest);
        assert!(victim.said_to("ada", is_joined) > 0 && !victim.has_failed());
    }
}

#[test]
fn who_says_the_same_of_another_list_of_files_does_not_make_it_wait_for_a_turn() {
    let manifest = one_file(MIB);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    for number in 0..8 {
        victim.control("mallory", &TransferMessage::Offer(made_up_offer(number, 100)));
    }
    let truth = offer_of(&manifest, "ada");
    let lie = Offer { manifest_bytes: truth.manifest_bytes + 1, ..truth.clone() };
    victim.control("mallory", &TransferMessage::Offer(lie));
    assert_eq!(victim.said_to("mallory", is_accept), 8, "it waits for its turn");
    victim.control("ada", &TransferMessage::Offer(truth));
    victim.wait(Duration::from_secs(1));
    assert_eq!(victim.said_to("ada", is_accept), 1);
    victim.manifest("ada", &manifest);
    assert!(victim.said_to("ada", |message| matches!(message, TransferMessage::Join { .. })) > 0);
}

#[test]
fn who_lies_and_sends_the_list_of_files_by_the_byte_is_not_waited_for_without_end() {
    let manifest = one_file(9 * 1024 * MIB);
    let truth = offer_of(&manifest, "ada");
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifest, &["ada", "mallory"]);
    victim.control("mallory", &TransferMessage::Offer(Offer { bytes: 3, ..truth.clone() }));
    victim.control("ada", &TransferMessage::Offer(truth.clone()));
    let is_asked = |victim: &Victim| victim.said_to("ada", is_accept) > 0;
    assert!(drip(&mut victim, truth.id, 200, is_asked), "{:?}", victim.said);
    let is_stopped = |message: &TransferMessage| matches!(message, TransferMessage::Stop { .. });
    assert_eq!(victim.said_to("ada", is_stopped), 0);
    victim.manifest("ada", &manifest);
    assert!(victim.said_to("ada", |message| matches!(message, TransferMessage::Join { .. })) > 0);
    assert_eq!(victim.cut_off(), []);
}

#[test]
fn peers_that_are_asked_and_send_nothing_do_not_keep_others_from_being_asked() {
    let manifest = one_file(9 * 1024 * MIB);
    let id = id_of(&manifest);
    let names: Vec<String> = (0..8).map(|number| format!("mallory{number}")).collect();
    let mut peers: Vec<&str> = names.iter().map(String::as_str).collect();
    peers.push("ada");
    let mut victim = receiver(&manifest, &peers);
    for name in &names {
        victim.control(name, &whole(id, &manifest));
    }
    victim.control("ada", &whole(id, &manifest));
    assert!(victim.said_to("ada", is_request) > 0);
}

/// One file of a single piece of this length.
fn one_piece(len: u32) -> Arc<Manifest> {
    let path = SafePath::parse("film.mkv").expect("a name");
    let kind = EntryKind::File { size: len.into(), executable: false };
    let entry = Entry { path, kind, mtime: 0 };
    Arc::new(Manifest::new(22, vec![(entry, vec![[7; 32]])]).expect("a manifest"))
}

#[test]
fn one_peer_has_no_more_under_way_in_many_transfers_than_in_one() {
    const PIECE: u32 = 4 * MIB as u32;
    let manifests: Vec<Arc<Manifest>> = (0..40).map(|less| one_piece(PIECE - less)).collect();
    let mut victim = Victim::new(AcceptPolicy::Everyone, &manifests[0], &["ada"]);
    let names: Vec<String> = (0..5).map(|number| format!("mallory{number}")).collect();
    // Each has eight under way; one of them takes part in all.
    for (name, manifests) in names.iter().zip(manifests.chunks(8)) {
        victim.hear(Input::PeerReady { peer: user(name) });
        for manifest in manifests {
            victim.control(name, &TransferMessage::Offer(offer_of(manifest, name)));
            victim.manifest(name, manifest);
            victim.control("ada", &whole(id_of(manifest), manifest));
        }
    }
    let asked = |victim: &Victim| victim.said_to("ada", is_request);
    assert_eq!(asked(&victim), 8, "32 MiB");
    // What comes by the drop is a sign of life, and takes memory.
    for step in 0..4 {
        for manifest in &manifests {
            let (short, content) = (id_of(manifest).short(), Bytes::from(vec![0; 4096]));
            let frame = Frame { short, kind: FrameKind::Piece { piece: 0 }, offset: step * 4096, content };
            victim.hear(Input::Bulk { peer: user("ada"), frame: frame.encode() });
        }
        victim.wait(Duration::from_secs(9));
    }
    assert_eq!((asked(&victim), victim.cut_off()), (8, vec![]));
    victim.control("mallory0", &whole(id_of(&manifests[7]), &manifests[7]));
    victim.wait(Duration::from_millis(100));
    let all: Vec<usize> = names.iter().map(|name| victim.said_to(name, is_request)).collect();
    for (name, manifests) in names.iter().zip(manifests.chunks(8)) {
        manifests.iter().for_each(|manifest| victim.control(name, &whole(id_of(manifest), manifest)));
    }
    let more: Vec<usize> = names.iter().map(|name| victim.said_to(name, is_request)).collect();
    assert_eq!((all, more), (vec![1, 0, 0, 0, 0], vec![1; 5]), "one piece of each other peer");
}

#[test]
fn slow_peers_do_not_keep_the_last_piece_to_themselves() {
    let manifest = one_file(MIB / 4);
    let id = id_of(&manifest);
    let mut victim = receiver(&manifest, &["ada", "mallory1", "mallory2", "mallory3"]);
    for (number, name) in ["mallory1", "mallory2", "mallory3"].into_iter().enumerate() {
        victim.control(name, &whole(id, &manifest));
        victim.wait(Duration::from_secs(number as u64 * 5 + 1));
    }
    victim.control("ada", &whole(id, &manifest));
    // A part now and then is a sign of life, and keeps them from being cut off.
    let mut steps = 0..20;
    while victim.said_to("ada", is_request) == 0 {
        let step = steps.next().expect("ada is asked in time");
        for name in ["mallory1", "mallory2", "mallory3"] {
            let content = Bytes::from(vec![0; 4096]);
            let kind = FrameKind::Piece { piece: 0 };
            let frame = Frame { short: id.short(), kind, offset: step * 4096, content }.encode();
            victim.hear(Input::Bulk { peer: user(name), frame });
        }
        victim.wait(Duration::from_secs(4));
    }
    assert_eq!(victim.cut_off(), []);
}

fn is_other_stream(message: &TransferMessage) -> bool {
    matches!(message, TransferMessage::Decline { reason: DeclineReason::Streaming, .. })
}

#[test]
fn what_goes_to_standard_output_is_one_transfer_and_the_others_are_told() {
    let (ours, other, third) = (one_file(MIB / 4), one_file(MIB), one_file(2 * MIB));
    let mut victim = Victim::streaming(Streams::One, &ours, &["ada", "mallory"]);
    victim.control("ada", &TransferMessage::Offer(offer_of(&ours, "ada")));
    victim.control("mallory", &TransferMessage::Offer(offer_of(&other, "mallory")));
    assert_eq!((victim.said_to("ada", is_accept), victim.said_to("mallory", is_accept)), (1, 0));
    assert_eq!(victim.said_to("mallory", is_other_stream), 1);
    victim.manifest("ada", &ours);
    victim.control("ada", &whole(id_of(&ours), &ours));
    victim.first_piece("ada", &ours);
    victim.finish();
    assert!(victim.events.iter().any(|event| matches!(event, TransferEvent::Done { .. })));
    victim.control("mallory", &TransferMessage::Offer(offer_of(&third, "mallory")));
    assert_eq!((victim.said_to("mallory", is_accept), victim.said_to("mallory", is_other_stream)), (0, 2));
}

#[test]
fn of_two_offers_that_are_accepted_at_once_one_goes_to_standard_output() {
    let (ours, other) = (one_file(MIB / 4), one_file(MIB));
    let mut victim = Victim::streaming(Streams::One, &ours, &["ada", "mallory"]);
    victim.hear(Input::Command(TransferCommand::SetAccept(AcceptPolicy::Ask)));
    let (ours, other) = (offer_of(&ours, "ada"), offer_of(&other, "mallory"));
    victim.control("ada", &TransferMessage::Offer(ours.clone()));
    victim.control("mallory", &TransferMessage::Offer(other.clone()));
    victim.accept("ada", ours, AcceptScope::Once);
    victim.accept("mallory", other, AcceptScope::Once);
    assert_eq!((victim.said_to("ada", is_accept), victim.said_to("mallory", is_other_stream)), (1, 1));
}

#[test]
fn a_stream_that_never_began_keeps_no_other_out() {
    let (ours, other) = (one_file(MIB / 4), one_file(MIB));
    let mut victim = Victim::streaming(Streams::One, &ours, &["ada", "mallory"]);
    victim.control("mallory", &TransferMessage::Offer(offer_of(&other, "mallory")));
    victim.wait(Duration::from_secs(121));
    assert!(victim.has_failed());
    victim.control("ada", &TransferMessage::Offer(offer_of(&ours, "ada")));
    assert_eq!(victim.said_to("ada", is_accept), 1);
}

#[test]
fn a_stream_that_broke_off_is_not_begun_again_in_the_middle() {
    let ours = one_file(MIB);
    let mut victim = Victim::streaming(Streams::One, &ours, &["ada"]);
    let offer = TransferMessage::Offer(offer_of(&ours, "ada"));
    victim.control("ada", &offer);
    victim.manifest("ada", &ours);
    victim.control("ada", &whole(id_of(&ours), &ours));
    victim.first_piece("ada", &ours);
    victim.control("ada", &TransferMessage::Stop { id: id_of(&ours), reason: StopReason::SourceChanged });
    assert!(victim.has_failed());
    victim.control("ada", &offer);
    assert_eq!((victim.said_to("ada", is_accept), victim.said_to("ada", is_other_stream)), (1, 1));
}

#[test]
fn streams_come_one_after_the_other_and_one_that_nobody_goes_on_with_gives_way() {
    let manifests = [one_file(MIB / 4), one_file(MIB), one_file(2 * MIB)];
    let names = ["ada", "mallory", "zoe"];
    let mut victim = Victim::streaming(Streams::InTurns, &manifests[0], &names);
    for (name, manifest) in names.iter().zip(&manifests) {
        victim.now += Duration::from_millis(1);
        victim.control(name, &TransferMessage::Offer(offer_of(manifest, name)));
    }
    let accepts = |victim: &Victim| names.map(|name| victim.said_to(name, is_accept));
    assert_eq!(accepts(&victim), [1, 0, 0]);
    victim.manifest("ada", &manifests[0]);
    victim.control("ada", &whole(id_of(&manifests[0]), &manifests[0]));
    victim.first_piece("ada", &manifests[0]);
    victim.finish();
    victim.wait(Duration::from_secs(1));
    assert_eq!(accepts(&victim), [1, 1, 0]);
    victim.disk = disk(manifests[1].clone());
    victim.manifest("mallory", &manifests[1]);
    victim.control("mallory", &whole(id_of(&manifests[1]), &manifests[1]));
    victim.first_piece("mallory", &manifests[1]);
    victim.hear(Input::PeerGone { peer: user("mallory") });
    victim.wait(Duration::from_secs(1));
    assert_eq!(accepts(&victim), [1, 1, 1]);
    let given_up =
        |event: &TransferEvent| matches!(event, TransferEvent::Failed { reason: FailReason::Abandoned, .. });
    assert!(victim.events.iter().any(given_up));
}

/// A file of `zoe`, who left in the middle, that `bob` has a part of and offers.
fn offer_half(victim: &mut Victim, manifest: &Arc<Manifest>) {
    let id = id_of(manifest);
    victim.disk = disk(manifest.clone());
    victim.control("bob", &TransferMessage::Offer(offer_of(manifest, "zoe")));
    victim.manifest("bob", manifest);
    victim.control("bob", &TransferMessage::Have { id, pieces: vec![0], bits: None, complete: false });
    victim.first_piece("bob", manifest);
}

#[test]
fn what_nobody_has_the_rest_of_does_not_keep_its_turn() {
    let halves: Vec<Arc<Manifest>> = (2..10).map(|pieces| one_file(pieces * MIB / 4)).collect();
    let whole_file = one_file(MIB / 4);
    let mut victim = Victim::new(AcceptPolicy::Everyone, &whole_file, &["bob"]);
    for manifest in &halves {
        offer_half(&mut victim, manifest);
        victim.now += Duration::from_millis(1);
    }
    victim.control("bob", &TransferMessage::Offer(offer_of(&whole_file, "zoe")));
    let is_the_file = |message: &TransferMessage| matches!(message, TransferMessage::Accept { id } if *id == id_of(&whole_file));
    assert_eq!(victim.said_to("bob", is_the_file), 0, "eight come first");
    // That bob still takes part in them, or says so again, makes no difference.
    for _ in 0..32 {
        for id in halves.iter().map(|manifest| id_of(manifest)) {
            let nothing = TransferMessage::Have { id, pieces: Vec::new(), bits: None, complete: false };
            victim.control("bob", &nothing);
        }
        victim.wait(Duration::from_secs(1));
    }
    assert!(victim.said_to("bob", is_the_file) > 0);
    let is_stalled = |event: &&TransferEvent| matches!(event, TransferEvent::Stalled { .. });
    assert_eq!(victim.events.iter().filter(is_stalled).count(), 8, "and said once");
    victim.disk = disk(whole_file.clone());
    victim.manifest("bob", &whole_file);
    victim.control("bob", &whole(id_of(&whole_file), &whole_file));
    victim.first_piece("bob", &whole_file);
    victim.finish();
    assert!(victim.events.iter().any(|event| matches!(event, TransferEvent::Done { .. })));
    assert_eq!(victim.cut_off(), []);
}

#[test]
fn who_has_nothing_to_show_does_not_keep_a_stream_from_giving_way() {
    let (first, second) = (one_file(MIB), one_file(2 * MIB));
    let id = id_of(&first);
    for complete in [false, true] {
        for says_so_before in [false, true] {
            let mut victim = Victim::streaming(Streams::InTurns, &first, &["ada", "mallory"]);
            let nothing = TransferMessage::Have { id, pieces: Vec::new(), bits: None, complete };
            victim.control("ada", &TransferMessage::Offer(offer_of(&first, "ada")));
            victim.manifest("ada", &first);
            victim.control("ada", &whole(id, &first));
            victim.first_piece("ada", &first);
            if says_so_before {
                victim.control("mallory", &nothing);
            }
            victim.control("ada", &TransferMessage::Stop { id, reason: StopReason::Stopped });
            victim.control("mallory", &nothing);
            victim.control("ada", &TransferMessage::Offer(offer_of(&second, "ada")));
            victim.wait(Duration::from_secs(if complete { 122 } else { 32 }));
            let is_second = |message: &TransferMessage| matches!(message, TransferMessage::Accept { id } if *id == id_of(&second));
            assert!(victim.said_to("ada", is_second) > 0, "{complete} {says_so_before}");
        }
    }
}

#[test]
fn what_a_slow_limit_holds_back_is_not_taken_for_something_nobody_has() {
    let manifest = one_file(MIB);
    let config = Config {
        accept: AcceptPolicy::Everyone,
        down_bps: Some(1024),
        ..Config::new(user("victim"), "/nowhere".into())
    };
    let mut victim = Victim::with(config, &manifest, &["ada"]);
    victim.control("ada", &TransferMessage::Offer(offer_of(&manifest, "ada")));
    victim.manifest("ada", &manifest);
    let pieces = (0..manifest.piece_count()).collect();
    let shown = TransferMessage::Have { id: id_of(&manifest), pieces, bits: None, complete: false };
    victim.control("ada", &shown);
    let is_asked = |piece: u32| move |message: &TransferMessage| matches!(message, TransferMessage::Request { pieces, .. } if pieces.contains(&piece));
    let piece = (0..4).find(|piece| victim.said_to("ada", is_asked(*piece)) > 0).expect("one is asked for");
    for (offset, len) in frame::cut(manifest.piece_len(piece), u32::MAX) {
        let (short, kind) = (id_of(&manifest).short(), FrameKind::Piece { piece });
        let frame = Frame { short, kind, offset, content: Bytes::from(vec![0; len as usize]) };
        victim.hear(Input::Bulk { peer: user("ada"), frame: frame.encode() });
    }
    victim.wait(Duration::from_secs(60));
    assert_eq!(victim.said_to("ada", is_request), 1, "the limit holds");
    assert!(!victim.events.iter().any(|event| matches!(event, TransferEvent::Stalled { .. })));
}
