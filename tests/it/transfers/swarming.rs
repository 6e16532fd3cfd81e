//! The scheduler against the lower bound, on the virtual clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fast_rtc_swarm::core::transfer::{
    AcceptPolicy, Audience, Config, CutOffReason, DiskDone, DiskJob, Input, Opened, PieceSet, Scanned,
    SendToken, SourceOptions, Summary, TransferCommand, TransferEvent, Written,
};
use fast_rtc_swarm::wire::frame::{self, Frame, FrameKind};
use fast_rtc_swarm::wire::manifest::{Entry, EntryKind, Manifest, piece_log2_for, pieces_of};
use fast_rtc_swarm::wire::path::SafePath;
use fast_rtc_swarm::wire::transfer::{Bits, Offer, TransferMessage};
use fast_rtc_swarm::wire::{TransferId, UserId};

use super::world::{Access, DiskFn, Sent, World, id};

/// Wrong bytes, by convention: simulated content is zeros.
const WRONG: u8 = 0xbd;

/// A disk that holds nothing: content is zeros, hashes are made up, and what begins with [`WRONG`] is wrong.
pub(super) fn disk(manifest: Arc<Manifest>) -> DiskFn {
    let bytes = Bytes::from(manifest.to_bytes());
    let transfer = Manifest::id_of(&bytes);
    let zeros = Bytes::from(vec![0; 64 * 1024]);
    Box::new(move |job| {
        vec![match job {
            DiskJob::Scan { .. } => {
                DiskDone::Scanned(Scanned { manifest: manifest.clone(), bytes: bytes.clone(), left_out: 0 })
            }
            DiskJob::Free { .. } => DiskDone::Free(None),
            DiskJob::Open { .. } => {
                let none = PieceSet::none(manifest.piece_count());
                DiskDone::Opened(Opened { have: none.clone(), unwanted: none, skipped_files: 0 })
            }
            DiskJob::Read { piece, frame_bytes, .. } => {
                DiskDone::Frames(frames(&manifest, transfer, piece, frame_bytes, &zeros))
            }
            DiskJob::Write { parts, .. } if parts[0][0] == WRONG => DiskDone::Written(Written::WrongHash),
            DiskJob::Write { .. } => DiskDone::Written(Written::Verified),
            DiskJob::Emit { .. } => DiskDone::Emitted,
            DiskJob::Finish { .. } => DiskDone::Finished(Summary { path: None }),
            DiskJob::Close { .. } => return Vec::new(),
        }]
    })
}

fn frames(
    manifest: &Manifest,
    transfer: TransferId,
    piece: u32,
    frame_bytes: u32,
    zeros: &Bytes,
) -> Vec<Bytes> {
    frame::cut(manifest.piece_len(piece), frame_bytes)
        .map(|(offset, len)| {
            let kind = FrameKind::Piece { piece };
            Frame { short: transfer.short(), kind, offset, content: zeros.slice(..len as usize) }.encode()
        })
        .collect()
}

/// The same for several; what is scanned is named by its place.
fn disks(manifests: &[Arc<Manifest>]) -> DiskFn {
    let ids: Vec<TransferId> =
        manifests.iter().map(|manifest| Manifest::id_of(&manifest.to_bytes())).collect();
    let mut disks: Vec<DiskFn> = manifests.iter().cloned().map(disk).collect();
    Box::new(move |job| {
        let place = match &job {
            DiskJob::Scan { paths, .. } => {
                paths[0].to_str().and_then(|path| path.parse().ok()).expect("a place")
            }
            DiskJob::Free { .. } => 0,
            DiskJob::Open { transfer, .. }
            | DiskJob::Read { transfer, .. }
            | DiskJob::Write { transfer, .. }
            | DiskJob::Emit { transfer, .. }
            | DiskJob::Finish { transfer }
            | DiskJob::Close { transfer } => ids.iter().position(|id| id == transfer).expect("one of them"),
        };
        disks[place](job)
    })
}

/// One file of so many bytes.
pub(super) fn one_file(size: u64) -> Arc<Manifest> {
    let log2 = piece_log2_for(size);
    let path = SafePath::parse("film.mkv").expect("a name");
    let entry = Entry { path, kind: EntryKind::File { size, executable: false }, mtime: 0 };
    let hashes = (0..pieces_of(size, log2)).map(|piece| *blake3::hash(&piece.to_be_bytes()).as_bytes());
    Arc::new(Manifest::new(log2, vec![(entry, hashes.collect())]).expect("a manifest"))
}

/// So many files of so many bytes, each of one piece at the most.
fn files(count: u32, size: u64) -> Arc<Manifest> {
    let log2 = piece_log2_for(u64::from(count) * size);
    let file = |number: u32| {
        let path = SafePath::parse(&format!("{number:06}.txt")).expect("a name");
        let hashes = (0..pieces_of(size, log2)).map(|_| *blake3::hash(&number.to_be_bytes()).as_bytes());
        (Entry { path, kind: EntryKind::File { size, executable: false }, mtime: 0 }, hashes.collect())
    };
    Arc::new(Manifest::new(log2, (0..count).map(file).collect()).expect("a manifest"))
}

pub(super) fn config(peer: &UserId) -> Config {
    Config { accept: AcceptPolicy::Everyone, ..Config::new(peer.clone(), "/nowhere".into()) }
}

pub(super) fn send() -> TransferCommand {
    TransferCommand::Send {
        token: SendToken(1),
        paths: vec!["film.mkv".into()],
        options: SourceOptions::default(),
        audience: Audience::Everyone,
    }
}

const MBIT: u64 = 1_000_000 / 8;

pub(super) fn access(up_mbit: u64, down_mbit: u64) -> Access {
    Access { up_bps: up_mbit * MBIT, down_bps: down_mbit * MBIT, delay: Duration::from_millis(10) }
}

/// max(F/u_s, F/d_min, N·F/(u_s+Σu_i)), in seconds.
fn bound(size: u64, accesses: &[Access]) -> f64 {
    let (size, receivers) = (size as f64, (accesses.len() - 1) as f64);
    let up: u64 = accesses.iter().map(|access| access.up_bps).sum();
    let slowest = accesses[1..].iter().map(|access| access.down_bps).min().expect("there are receivers");
    (size / accesses[0].up_bps as f64).max(size / slowest as f64).max(receivers * size / up as f64)
}

fn done_count(world: &World) -> usize {
    world.events.iter().filter(|(_, _, event)| matches!(event, TransferEvent::Done { .. })).count()
}

/// Its parts come more than five seconds apart to each.
#[test]
fn a_long_list_of_files_arrives_on_a_slow_path() {
    let manifest = files(6_000, 0);
    let mut world = World::new();
    let slow = Access { up_bps: 16_000, ..access(1, 100) };
    for (number, access) in [slow, access(10, 10), access(10, 10)].iter().enumerate() {
        world.add(config(&id(number)), *access, disk(manifest.clone()));
    }
    world.command(&id(0), send());
    assert!(manifest.to_bytes().len() > 64 * 1024, "{}", manifest.to_bytes().len());
    let is_over = world.run(Duration::from_secs(60), |world| done_count(world) == 2);
    assert!(is_over, "{:#?}", world.events);
    assert_eq!(cut_off(&world), []);
}

/// They are sent one behind the other, and the last takes minutes to begin. A third peer offers the same and says nothing else.
#[test]
fn several_long_lists_of_files_arrive_on_a_slow_path() {
    let manifests: Vec<_> = (0..8).map(|number| files(10_000 + number, 0)).collect();
    let mut world = World::new();
    let slow = Access { up_bps: 16_000, ..access(1, 100) };
    for (number, access) in [slow, access(10, 10)].iter().enumerate() {
        world.add(config(&id(number)), *access, disks(&manifests));
    }
    let silent = Config { accept: AcceptPolicy::Nobody, ..config(&id(2)) };
    world.add(silent, access(10, 10), disks(&manifests));
    for (number, manifest) in manifests.iter().enumerate() {
        let bytes = manifest.to_bytes();
        let offer = Offer {
            id: Manifest::id_of(&bytes),
            name: "000000.txt".to_owned(),
            files: 10_000 + number as u32,
            folders: 0,
            roots: manifest.root_count(),
            bytes: 0,
            manifest_bytes: bytes.len() as u32,
            origin: id(0),
            audience: None,
        };
        let message = TransferMessage::Offer(offer).to_value();
        world.input_after(Duration::from_secs(5), &id(1), Input::Control { peer: id(2), message });
    }
    for place in 0..manifests.len() {
        let TransferCommand::Send { token, options, audience, .. } = send() else { panic!("it sends") };
        let paths = vec![place.to_string().into()];
        world.command(&id(0), TransferCommand::Send { token, paths, options, audience });
    }
    let is_over = world.run(Duration::from_secs(3_600), |world| done_count(world) == manifests.len());
    assert!(is_over, "{:#?}", world.events);
    assert_eq!(cut_off(&world), []);
}

/// Requests are answered behind whole lists of files, or behind pieces that take a minute each.
#[test]
fn on_a_slow_path_nobody_is_taken_for_one_that_never_answers() {
    for (count, size, up_bps) in [(3_000, 100, 4_000), (8, 100_000, 3_000)] {
        let manifest = files(count, size);
        let mut world = World::new();
        let slow = Access { up_bps, ..access(1, 100) };
        for (number, access) in [slow, access(10, 10), access(10, 10), access(10, 10)].iter().enumerate() {
            world.add(config(&id(number)), *access, disk(manifest.clone()));
        }
        world.command(&id(0), send());
        let is_over = world.run(Duration::from_secs(3_600), |world| done_count(world) == 3);
        assert!(is_over, "{count} files of {size} bytes: {:?}", cut_off(&world));
        assert_eq!(cut_off(&world), []);
    }
}

/// A sender and receivers; the time until all are done, and the world after.
fn share(size: u64, accesses: &[Access], prepare: impl FnOnce(&mut World)) -> (f64, World) {
    let manifest = one_file(size);
    let mut world = World::new();
    for (number, access) in accesses.iter().enumerate() {
        world.add(config(&id(number)), *access, disk(manifest.clone()));
    }
    world.command(&id(0), send());
    prepare(&mut world);
    let receivers = accesses.len() - 1;
    let limit = Duration::from_secs_f64(bound(size, accesses) * 5.0 + 120.0);
    let mut seen = (0, 0);
    let finished = world.run(limit, |world| {
        // Counting from where the last count ended keeps a long run quick.
        seen.1 +=
            world.events[seen.0..].iter().filter(|(_, _, e)| matches!(e, TransferEvent::Done { .. })).count();
        seen.0 = world.events.len();
        seen.1 == receivers
    });
    let last: Vec<_> = world.events.iter().rev().take(8).collect();
    let done = done_count(&world);
    assert!(finished, "only {done} of {receivers} are done after {:?}: {last:#?}", world.now - world.start);
    ((world.now - world.start).as_secs_f64(), world)
}

fn ratio(name: &str, size: u64, accesses: &[Access]) -> f64 {
    let (took, world) = share(size, accesses, |_| {});
    let bound = bound(size, accesses);
    let sent = world.sent_bytes(&id(0)) as f64 / size as f64;
    eprintln!(
        "{name}: {took:.2} s, bound {bound:.2} s, ratio {:.3}, sender sent {sent:.2} times the file",
        took / bound
    );
    took / bound
}

fn equal(receivers: usize, up: u64, down: u64) -> Vec<Access> {
    vec![access(up, down); receivers + 1]
}

/// Uplinks of 10 to 100 Mbit/s, downlinks of four times that.
fn mixed(receivers: usize) -> Vec<Access> {
    let rates = [100, 10, 50, 20, 100, 40, 10, 80, 30, 60];
    let receivers = (0..receivers).map(|number| access(rates[number % 10], 4 * rates[number % 10].max(50)));
    std::iter::once(access(50, 200)).chain(receivers).collect()
}

const MIB: u64 = 1024 * 1024;

#[test]
fn one_receiver_is_served_at_the_senders_rate() {
    assert!(ratio("1 to 1, 100 Mbit/s", 64 * MIB, &equal(1, 100, 100)) < 1.03);
}

#[test]
fn receivers_exchange_what_the_sender_sends_once() {
    assert!(ratio("1 to 4, 100 Mbit/s, 128 MiB", 128 * MIB, &equal(4, 100, 1000)) < 1.08);
    assert!(ratio("1 to 8, 100 Mbit/s, 128 MiB", 128 * MIB, &equal(8, 100, 1000)) < 1.09);
}

#[test]
fn slow_downlinks_do_not_hold_up_the_others() {
    let mut accesses = equal(6, 50, 200);
    accesses[3].down_bps = 20 * MBIT;
    assert!(ratio("1 to 6, one with a slow downlink", 32 * MIB, &accesses) < 1.10);
}

#[test]
fn slow_uplinks_do_not_hold_up_the_others() {
    assert!(ratio("1 to 10, mixed uplinks of 10 to 100 Mbit/s, 64 MiB", 64 * MIB, &mixed(10)) < 1.35);
}

/// How long the first receiver takes, against what it would take if it were alone with the sender, while others do what
/// `prepare` makes them do.
fn first_receivers_ratio(accesses: &[Access], prepare: impl FnOnce(&mut World)) -> f64 {
    let size = 32 * MIB;
    let manifest = one_file(size);
    let mut world = World::new();
    for (number, access) in accesses.iter().enumerate() {
        world.add(config(&id(number)), *access, disk(manifest.clone()));
    }
    prepare(&mut world);
    world.command(&id(0), send());
    let is_done =
        |(_, who, event): &(_, UserId, _)| *who == id(1) && matches!(event, TransferEvent::Done { .. });
    let finished = world.run(Duration::from_secs(120), |world| world.events.iter().any(is_done));
    let left = world.events.iter().rev().find(|(_, who, _)| *who == id(1));
    assert!(finished, "the first receiver is not done: {left:?}");
    let ratio = (world.now - world.start).as_secs_f64() / bound(size, &accesses[..2]);
    eprintln!("the first receiver: ratio {ratio:.3}");
    ratio
}

#[test]
fn members_that_take_nothing_do_not_hold_up_the_only_one_that_does() {
    let ratio = first_receivers_ratio(&equal(3, 50, 200), |world| {
        for number in 2..4 {
            let says_nothing = |sent: &Sent| {
                let control = match sent {
                    Sent::Control(control) => control,
                    Sent::Bulk(_) => return true,
                };
                matches!(control, TransferMessage::Have { .. } | TransferMessage::Request { .. })
            };
            world.tamper(&id(number), Box::new(move |_, sent| (!says_nothing(&sent)).then_some(sent)));
        }
    });
    assert!(ratio < 1.1, "ratio {ratio:.3}");
}

#[test]
fn members_that_take_a_piece_now_and_then_do_not_hold_up_the_others() {
    let ratio = first_receivers_ratio(&equal(3, 50, 200), |world| {
        for number in 2..4 {
            let mut asked = 0;
            let asks_seldom = move |_: &UserId, sent| match sent {
                Sent::Control(TransferMessage::Request { id, mut pieces }) => {
                    asked += 1;
                    pieces.truncate(1);
                    let request = TransferMessage::Request { id, pieces };
                    (asked % 8 == 1).then_some(Sent::Control(request))
                }
                Sent::Control(TransferMessage::Have { .. }) | Sent::Bulk(_) => None,
                control @ Sent::Control(_) => Some(control),
            };
            world.tamper(&id(number), Box::new(asks_seldom));
        }
    });
    assert!(ratio < 1.2, "ratio {ratio:.3}");
}

#[test]
fn a_member_with_a_slow_downlink_does_not_hold_up_the_only_other() {
    let accesses = [access(50, 200), access(50, 200), access(50, 1)];
    let ratio = first_receivers_ratio(&accesses, |_| {});
    assert!(ratio < 1.2, "ratio {ratio:.3}");
}

#[test]
fn a_member_that_takes_all_the_time_and_never_says_what_it_has_leaves_the_only_other_its_share() {
    let manifest = one_file(32 * MIB);
    let transfer = Manifest::id_of(&manifest.to_bytes());
    let pieces: Vec<u32> = (0..manifest.piece_count()).collect();
    let ratio = first_receivers_ratio(&equal(2, 50, 200), |world| {
        for round in 0..600 {
            let message = TransferMessage::Request { id: transfer, pieces: pieces.clone() }.to_value();
            let input = Input::Control { peer: id(2), message };
            world.input_after(Duration::from_millis(100 * round), &id(0), input);
        }
        let is_kept_back = |sent: &Sent| match sent {
            Sent::Bulk(_) | Sent::Control(TransferMessage::Have { .. } | TransferMessage::Done { .. }) => {
                true
            }
            Sent::Control(_) => false,
        };
        world.tamper(&id(2), Box::new(move |_, sent| (!is_kept_back(&sent)).then_some(sent)));
    });
    assert!(ratio < 2.3, "ratio {ratio:.3}");
}

/// Others exchange what the sender shows them, and it passes nothing on.
#[test]
fn a_member_that_reaches_the_sender_only_is_shown_a_piece_now_and_then() {
    let accesses = equal(3, 2, 8);
    let (_, world) = share(48 * MIB, &accesses, |world| {
        let is_cut = |to: &UserId| *to != id(0);
        world.tamper(&id(1), Box::new(move |to, sent| (!is_cut(to)).then_some(sent)));
        for number in 2..4 {
            world.tamper(&id(number), Box::new(|to, sent| (*to != id(1)).then_some(sent)));
        }
    });
    let stalled = world.events.iter().filter(|(.., event)| matches!(event, TransferEvent::Stalled { .. }));
    assert_eq!(stalled.count(), 0);
}

/// The figures of `docs/benchmarks.md`. Minutes without optimisation: `cargo test --release -- --ignored figures`.
#[test]
#[ignore = "takes minutes"]
fn figures_of_whole_swarms() {
    let size = 256 * MIB;
    assert!(ratio("1 to 1, 100 Mbit/s", size, &equal(1, 100, 100)) < 1.02);
    assert!(ratio("1 to 4, 100 Mbit/s", size, &equal(4, 100, 1000)) < 1.05);
    assert!(ratio("1 to 8, 100 Mbit/s", size, &equal(8, 100, 1000)) < 1.05);
    assert!(ratio("1 to 32, 100 Mbit/s", size, &equal(32, 100, 1000)) < 1.10);
    assert!(ratio("1 to 10, mixed uplinks of 10 to 100 Mbit/s", size, &mixed(10)) < 1.10);
    assert!(ratio("1 to 30, mixed uplinks of 10 to 100 Mbit/s", size, &mixed(30)) < 1.18);
    assert!(ratio("1 to 99, 100 Mbit/s", size, &equal(99, 100, 1000)) < 1.20);
}

#[test]
fn peers_come_and_go_and_everyone_who_stays_is_served() {
    let manifest = one_file(32 * MIB);
    let mut world = World::new();
    for number in 0..8 {
        world.add(config(&id(number)), access(50, 200), disk(manifest.clone()));
    }
    world.command(&id(0), send());
    for number in 5..8 {
        world.leave_after(Duration::from_millis(900 * (number as u64 - 4)), &id(number));
    }
    let is_done = |world: &World, number| {
        world
            .events
            .iter()
            .any(|(_, who, event)| *who == id(number) && matches!(event, TransferEvent::Done { .. }))
    };
    world.run(Duration::from_secs(3), |_| false);
    world.add(config(&id(9)), access(50, 200), disk(manifest));
    assert!(
        world.run(Duration::from_secs(60), |world| [1, 2, 3, 4, 9].into_iter().all(|n| is_done(world, n)))
    );
}

#[test]
fn frames_that_overtake_each_other_or_vanish_with_a_stripe_cost_little_and_nobody_is_cut_off() {
    let accesses = equal(4, 50, 200);
    let size = 16 * MIB;
    for seed in 0..10 {
        let (took, world) = share(size, &accesses, |world| {
            world.stripe(seed, Duration::from_millis(200));
            world.break_stripes(0..accesses.len(), 40, Duration::from_secs(4));
        });
        assert_eq!(cut_off(&world), [], "seed {seed}");
        // Nobody waits for what will not come: that would take ten seconds.
        assert!(took < 10.0, "seed {seed}: {took:.2} s");
    }
}

/// A receiver that says that it has everything and then does what `tamper` makes of its messages.
fn with_liar(tamper: impl FnMut(&UserId, Sent) -> Option<Sent> + 'static) -> World {
    let manifest = one_file(16 * MIB);
    let mut world = World::new();
    for number in 0..4 {
        world.add(config(&id(number)), access(50, 200), disk(manifest.clone()));
    }
    world.tamper(&id(3), Box::new(tamper));
    world.command(&id(0), send());
    let honest = |world: &World| {
        [1, 2].into_iter().all(|number| {
            let is_done = |(_, who, event): &(_, UserId, _)| {
                *who == id(number) && matches!(event, TransferEvent::Done { .. })
            };
            world.events.iter().any(is_done)
        })
    };
    assert!(world.run(Duration::from_secs(300), honest), "the honest receivers are not done");
    world
}

fn cut_off(world: &World) -> Vec<(UserId, UserId, CutOffReason)> {
    let cut_off = world.events.iter().filter_map(|(_, who, event)| match event {
        TransferEvent::PeerCutOff { peer, reason, .. } => Some((who.clone(), peer.clone(), *reason)),
        _ => None,
    });
    cut_off.collect()
}

#[test]
fn a_peer_that_sends_wrong_bytes_is_cut_off_and_named() {
    let world = with_liar(|_, sent| match sent {
        Sent::Bulk(frame) => {
            let frame = Frame::parse(frame).expect("our own frame");
            let content = Bytes::from(vec![WRONG; frame.content.len()]);
            Some(Sent::Bulk(Frame { content, ..frame }.encode()))
        }
        control @ Sent::Control(_) => Some(control),
    });
    let named = cut_off(&world);
    assert!(
        !named.is_empty()
            && named.iter().all(|(_, liar, reason)| *liar == id(3) && *reason == CutOffReason::WrongBytes)
    );
}

#[test]
fn a_peer_that_never_sends_what_it_has_does_not_hold_up_the_others() {
    let all = Bits::pack(0, std::iter::once(u64::MAX));
    let world = with_liar(move |_, sent| match sent {
        Sent::Bulk(_) | Sent::Control(TransferMessage::Busy { .. }) => None,
        Sent::Control(TransferMessage::Have { id, .. }) => Some(Sent::Control(TransferMessage::Have {
            id,
            pieces: Vec::new(),
            bits: Some(all.clone()),
            complete: false,
        })),
        control @ Sent::Control(_) => Some(control),
    });
    let others = [id(1), id(2)];
    assert_eq!(cut_off(&world), []);
    assert!(others.iter().all(|who| world.sent_bytes(who) > 0));
}

/// A sender whose pieces and refusals are held back, from five seconds on and for so long.
fn with_pause(seconds: u64) -> World {
    let manifest = one_file(256 * MIB);
    let mut world = World::new();
    for number in 0..2 {
        world.add(config(&id(number)), access(100, 100), disk(manifest.clone()));
    }
    world.command(&id(0), send());
    world.run(Duration::from_secs(5), |_| false);
    pause(&mut world, seconds);
    world
}

fn pause(world: &mut World, seconds: u64) {
    let is_answer = |sent: &Sent| match sent {
        Sent::Bulk(frame) => frame::may_overtake(frame),
        Sent::Control(message) => matches!(message, TransferMessage::Busy { .. }),
    };
    world.tamper(&id(0), Box::new(move |_, sent| (!is_answer(&sent)).then_some(sent)));
    let until = world.now - world.start + Duration::from_secs(seconds);
    world.run(until, |_| false);
    world.tamper(&id(0), Box::new(|_, sent| Some(sent)));
}

#[test]
fn a_peer_of_which_nothing_comes_is_told_of_once_and_taken_for_one_that_has_nothing() {
    let mut world = with_pause(1_000);
    let told = |world: &World, is: fn(&TransferEvent) -> bool| {
        world.events.iter().filter(|(.., event)| is(event)).count()
    };
    let is_silent =
        |event: &TransferEvent| matches!(event, TransferEvent::Silent { peer, .. } if *peer == id(0));
    let is_stalled = |event: &TransferEvent| matches!(event, TransferEvent::Stalled { .. });
    assert_eq!((told(&world, is_silent), told(&world, is_stalled)), (1, 1));
    // It sends some, and then nothing again.
    let until = world.now - world.start + Duration::from_secs(125);
    let sent_bytes = world.sent_bytes(&id(0));
    world.run(until, |world| world.sent_bytes(&id(0)) > sent_bytes + 8 * MIB);
    pause(&mut world, 1_000);
    assert_eq!((told(&world, is_silent), told(&world, is_stalled)), (2, 2));
    assert_eq!(cut_off(&world), []);
}

#[test]
fn a_peer_that_stood_still_for_minutes_goes_on_where_it_was() {
    for seconds in [60, 200, 1_000] {
        let mut world = with_pause(seconds);
        let is_over = world.run(Duration::from_secs(seconds + 400), |world| done_count(world) == 1);
        assert!(is_over, "after {seconds} s");
        assert_eq!(cut_off(&world), []);
    }
}

#[test]
fn a_peer_that_asks_without_end_is_cut_off() {
    let mut world = with_liar(|_, sent| Some(sent));
    let everything: Vec<u32> = (0..64).collect();
    let transfer = Manifest::id_of(&one_file(16 * MIB).to_bytes());
    for round in 0..2000 {
        let message = TransferMessage::Request { id: transfer, pieces: everything.clone() }.to_value();
        let input = Input::Control { peer: id(3), message };
        world.input_after(Duration::from_millis(20 * round), &id(0), input);
    }
    // The other gets what somebody asks for in its name, and has enough of that, too.
    let by_sender = |world: &World| cut_off(world).into_iter().find(|(who, ..)| *who == id(0));
    world.run(Duration::from_secs(300), |world| by_sender(world).is_some());
    assert_eq!(by_sender(&world), Some((id(0), id(3), CutOffReason::EndlessRequests)));
}
