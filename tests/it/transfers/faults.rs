//! Files on a real disk: what arrives, what is resumed, and what never happens.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fast_rtc_swarm::core::transfer::{
    AcceptPolicy, AcceptScope, Audience, Config, ConflictPolicy, DeclineReason, Direction, DiskDone,
    DiskError, DiskJob, FailReason, Input, OfferInfo, SendToken, SourceOptions, StopReason, Streams, Target,
    TransferCommand, TransferEvent,
};
use fast_rtc_swarm::io::disk::Stores;
use fast_rtc_swarm::wire::UserId;
use fast_rtc_swarm::wire::transfer::TransferMessage;
use tempfile::TempDir;

use super::world::{Access, DiskFn, Sent, World, id};

const FAST: Access = Access { up_bps: 1 << 30, down_bps: 1 << 30, delay: Duration::from_millis(1) };
const LIMIT: Duration = Duration::from_secs(600);
const MIB: usize = 1 << 20;

/// The real disk, on this thread.
fn disk() -> DiskFn {
    watched(|_| None)
}

/// The real disk, with somebody who may answer in its place.
fn watched(mut instead: impl FnMut(&DiskJob) -> Option<DiskDone> + 'static) -> DiskFn {
    let stores = Stores::new(std::io::sink());
    Box::new(move |job| {
        let is_close = matches!(job, DiskJob::Close { .. });
        let done = instead(&job).unwrap_or_else(|| stores.run(job, |_| ()));
        if is_close { Vec::new() } else { vec![done] }
    })
}

fn config(number: usize, folder: &Path) -> Config {
    Config { accept: AcceptPolicy::Everyone, ..Config::new(id(number), folder.to_owned()) }
}

fn send(paths: &[&Path]) -> TransferCommand {
    TransferCommand::Send {
        token: SendToken(1),
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        options: SourceOptions::default(),
        audience: Audience::Everyone,
    }
}

/// Bytes that differ from piece to piece.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8).collect()
}

fn write(path: &Path, content: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, content).expect("a file");
    path.to_owned()
}

fn is_done(world: &World, number: usize) -> bool {
    has(world, number, |event| matches!(event, TransferEvent::Done { .. }))
}

fn has(world: &World, number: usize, is: impl Fn(&TransferEvent) -> bool) -> bool {
    world.events.iter().any(|(_, who, event)| *who == id(number) && is(event))
}

fn failure(world: &World, number: usize) -> Option<(Direction, FailReason)> {
    world.events.iter().find_map(|(_, who, event)| match event {
        TransferEvent::Failed { direction, reason, .. } if *who == id(number) => {
            Some((*direction, reason.clone()))
        }
        _ => None,
    })
}

fn resumed(world: &World, number: usize) -> Option<u64> {
    world.events.iter().find_map(|(_, who, event)| match event {
        TransferEvent::Resumed { bytes, .. } if *who == id(number) => Some(*bytes),
        _ => None,
    })
}

/// Bytes that a receiver had from its origin and from others.
fn received(world: &World, number: usize) -> (u64, u64) {
    let done = world.events.iter().find_map(|(_, who, event)| match event {
        TransferEvent::Done { from_origin_bytes, from_others_bytes, .. } if *who == id(number) => {
            Some((*from_origin_bytes, *from_others_bytes))
        }
        _ => None,
    });
    done.expect("it is done")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

/// A sender with these paths and a receiver into this folder.
fn pair(paths: &[&Path], receiver: Config, receiver_disk: DiskFn) -> World {
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(receiver, FAST, receiver_disk);
    world.command(&id(0), send(paths));
    world
}

#[test]
fn a_folder_arrives_as_it_was_sent() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let root = from.path().join("Fotos");
    let script = write(&root.join("tools/run.sh"), b"#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("permissions");
    let large = write(&root.join("ファイル/große.bin"), &content(3 * MIB + 17));
    write(&root.join("empty"), b"");
    fs::create_dir_all(root.join("nothing/here")).expect("a folder");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&large).expect("a file").set_modified(old).expect("a time");
    symlink("/etc/passwd", root.join("link")).expect("a link");

    let mut world = pair(&[&root], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)), "{:?}", world.events.last());

    assert_eq!(names(to.path()), ["Fotos"]);
    assert_eq!(names(&to.path().join("Fotos")), ["empty", "nothing", "tools", "ファイル"]);
    let there = to.path().join("Fotos/ファイル/große.bin");
    assert_eq!(fs::read(&there).expect("a file"), content(3 * MIB + 17));
    assert_eq!(fs::metadata(&there).expect("a file").mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(to.path().join("Fotos/tools/run.sh")).expect("a file").mode() & 0o100, 0o100);
    assert_eq!(fs::metadata(to.path().join("Fotos/empty")).expect("a file").len(), 0);
    assert!(to.path().join("Fotos/nothing/here").is_dir());
    assert!(
        world.run(LIMIT, |world| has(world, 0, |event| matches!(event, TransferEvent::Delivered { .. })))
    );
}

#[test]
fn many_small_files_arrive() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let root = from.path().join("many");
    for number in 0..700 {
        write(&root.join(format!("{}/{number}.txt", number % 7)), format!("file {number}").as_bytes());
    }
    let mut world = pair(&[&root], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    for number in 0..700 {
        let path = to.path().join(format!("many/{}/{number}.txt", number % 7));
        assert_eq!(fs::read_to_string(path).expect("a file"), format!("file {number}"));
    }
}

#[test]
fn everything_that_one_peer_sends_arrives_however_much_of_it_at_once() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(config(1, to.path()), FAST, disk());
    for number in 0..200 {
        let name = format!("{number:03}.txt");
        let file = write(&from.path().join(&name), name.as_bytes());
        world.command(&id(0), send(&[&file]));
    }
    let done = |world: &World, is: fn(&TransferEvent) -> bool| {
        world.events.iter().filter(|(_, _, event)| is(event)).count()
    };
    let is_over =
        |world: &World| done(world, |event| matches!(event, TransferEvent::Delivered { .. })) == 200;
    assert!(world.run(LIMIT, is_over), "{:?}", world.events.last());
    assert_eq!(done(&world, |event| matches!(event, TransferEvent::Done { .. })), 200);
    assert_eq!(names(to.path()).len(), 200);
}

/// One peer has sent so many files when another comes, and somebody takes each offer a while after being told of it.
fn all_are_taken(count: usize) {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    for number in 0..count {
        let name = format!("{number:04}.txt");
        let file = write(&from.path().join(&name), name.as_bytes());
        world.command(&id(0), send(&[&file]));
    }
    let mut heard = Heard::default();
    assert!(world.run(LIMIT, |world| heard.listen(world).prepared == count));
    world.add(Config::new(id(1), to.path().to_owned()), FAST, disk());
    while heard.delivered < count {
        let is_news = world.run(LIMIT, |world| {
            heard.listen(world);
            heard.delivered == count || !heard.offered.is_empty()
        });
        assert!(is_news, "{} of {count} arrived, then nothing more", heard.delivered);
        for (from, offer) in std::mem::take(&mut heard.offered) {
            let accept = TransferCommand::Accept { from, offer, scope: AcceptScope::Once };
            world.input_after(Duration::from_millis(20), &id(1), Input::Command(accept));
        }
    }
    assert_eq!((names(to.path()).len(), heard.declined), (count, 0));
}

/// What was said, as far as it was listened to.
#[derive(Default)]
struct Heard {
    events: usize,
    prepared: usize,
    offered: Vec<(UserId, OfferInfo)>,
    declined: usize,
    delivered: usize,
}

impl Heard {
    fn listen(&mut self, world: &World) -> &Self {
        for (_, _, event) in &world.events[self.events..] {
            match event {
                TransferEvent::Prepared { .. } => self.prepared += 1,
                TransferEvent::Offered { from, offer, .. } => {
                    self.offered.push((from.clone(), offer.clone()));
                }
                TransferEvent::Declined { .. } | TransferEvent::Refused { .. } => self.declined += 1,
                TransferEvent::Delivered { .. } => self.delivered += 1,
                _ => {}
            }
        }
        self.events = world.events.len();
        self
    }
}

#[test]
fn everything_that_somebody_takes_one_by_one_arrives_however_much_was_offered_at_once() {
    all_are_taken(300);
    all_are_taken(2000);
}

#[test]
fn what_was_too_much_is_offered_again_when_there_is_room_and_not_in_a_storm() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(Config::new(id(1), to.path().to_owned()), FAST, disk());
    let offers = Rc::new(RefCell::new(0));
    let sent = offers.clone();
    let count_offers = move |_: &UserId, sent_now| {
        *sent.borrow_mut() += usize::from(matches!(sent_now, Sent::Control(TransferMessage::Offer(_))));
        Some(sent_now)
    };
    world.tamper(&id(0), Box::new(count_offers));
    for number in 0..100 {
        let name = format!("{number:02}.txt");
        let file = write(&from.path().join(&name), name.as_bytes());
        world.command(&id(0), send(&[&file]));
    }
    let mut heard = Heard::default();
    world.run(Duration::from_secs(60), |world| {
        heard.listen(world);
        false
    });
    assert_eq!((heard.offered.len(), heard.declined), (32, 0));
    let tried = *offers.borrow();
    assert!((100..=100 + 12 * 8).contains(&tried), "{tried} offers in a minute in which nobody answers");

    let transfer = heard.offered[0].1.transfer;
    world.command(&id(1), TransferCommand::Reject { transfer });
    assert!(world.run(LIMIT, |world| heard.listen(world).offered.len() == 33));
}

#[test]
fn nothing_is_written_before_acceptance() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("a.txt"), b"hello");
    let mut world = pair(&[&file], Config::new(id(1), to.path().to_owned()), disk());
    assert!(world.run(LIMIT, |world| has(world, 1, |event| matches!(event, TransferEvent::Offered { .. }))));
    let offered = world.events.iter().find_map(|(_, _, event)| match event {
        TransferEvent::Offered { offer, free_bytes, .. } => Some((offer.clone(), *free_bytes)),
        _ => None,
    });
    let (offer, free_bytes) = offered.expect("it was offered");
    assert_eq!((offer.name.as_str(), offer.files, offer.bytes), ("a.txt", 1, 5));
    assert!(free_bytes.is_some());
    world.run(Duration::from_secs(60), |_| false);
    assert_eq!(names(to.path()), [""; 0]);

    world.command(&id(1), TransferCommand::Accept { from: id(0), offer, scope: AcceptScope::Once });
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(fs::read(to.path().join("a.txt")).expect("a file"), b"hello");
}

#[test]
fn what_is_too_large_is_declined_and_the_sender_is_told() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("a.txt"), b"hello");
    let mut world = pair(&[&file], Config { max_bytes: 4, ..config(1, to.path()) }, disk());
    let declined = |event: &TransferEvent| {
        matches!(event, TransferEvent::Declined { reason: DeclineReason::TooLarge, .. })
    };
    assert!(world.run(LIMIT, |world| has(world, 0, declined)));
    assert_eq!(names(to.path()), [""; 0]);
}

#[test]
fn a_receiver_killed_at_any_moment_resumes_and_asks_for_nothing_twice() {
    const SIZE: usize = 2 * MIB + 5;
    let from = TempDir::new().expect("a folder");
    let file = write(&from.path().join("film.mkv"), &content(SIZE));
    for survived in 0..9 {
        let to = TempDir::new().expect("a folder");
        let written = Rc::new(RefCell::new(0_u64));
        let count = written.clone();
        let mut world = pair(
            &[&file],
            config(1, to.path()),
            watched(move |job| {
                *count.borrow_mut() += u64::from(matches!(job, DiskJob::Write { .. }));
                None
            }),
        );
        assert!(world.run(LIMIT, |_| *written.borrow() >= survived));
        drop(world);
        assert!(!to.path().join("film.mkv").exists(), "a file under its final name after {survived} pieces");

        let mut world = pair(&[&file], config(1, to.path()), disk());
        assert!(world.run(LIMIT, |world| is_done(world, 1)), "after {survived} pieces");
        assert_eq!(fs::read(to.path().join("film.mkv")).expect("a file"), content(SIZE));
        let kept = resumed(&world, 1).unwrap_or(0);
        assert_eq!(received(&world, 1), (SIZE as u64 - kept, 0), "after {survived} pieces");
        // One of the pieces has five bytes only.
        assert!(kept + 256 * 1024 > survived * 256 * 1024, "{kept} bytes kept after {survived} pieces");
        assert_eq!(names(to.path()), ["film.mkv"]);
    }
}

#[test]
fn a_part_file_tampered_with_is_found_out() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("film.mkv"), &content(2 * MIB));
    let mut world = pair(&[&file], config(1, to.path()), disk());
    world.run(LIMIT, |world| {
        has(world, 1, |event| matches!(event, TransferEvent::Progress(p) if p.bytes > 0))
    });
    drop(world);
    let part = to.path().join(&names(to.path())[0]).join("000000");
    let mut bytes = fs::read(&part).expect("a part file");
    bytes[5] ^= 1;
    bytes.extend_from_slice(b"and more");
    fs::write(&part, bytes).expect("a part file");

    let mut world = pair(&[&file], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(fs::read(to.path().join("film.mkv")).expect("a file"), content(2 * MIB));
}

#[test]
fn a_source_that_changes_fails_on_both_sides() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("film.mkv"), &content(4 * MIB));
    let changed = file.clone();
    let reads = Rc::new(RefCell::new(0));
    let mut world = World::new();
    let changing = watched(move |job| {
        *reads.borrow_mut() += usize::from(matches!(job, DiskJob::Read { .. }));
        if *reads.borrow() == 3 {
            let mut open = fs::File::options().append(true).open(&changed).expect("a file");
            open.write_all(b"x").expect("one more byte");
        }
        None
    });
    world.add(config(0, Path::new("/nonexistent")), FAST, changing);
    world.add(config(1, to.path()), FAST, disk());
    world.command(&id(0), send(&[&file]));
    assert!(world.run(LIMIT, |world| failure(world, 0).is_some() && failure(world, 1).is_some()));
    assert_eq!(failure(&world, 0), Some((Direction::Send, FailReason::SourceChanged)));
    assert_eq!(failure(&world, 1), Some((Direction::Receive, FailReason::SourceChanged)));
    assert!(!to.path().join("film.mkv").exists());
}

#[test]
fn a_full_disk_keeps_the_parts_for_later() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("film.mkv"), &content(2 * MIB));
    let mut writes = 0;
    let full = watched(move |job| {
        writes += usize::from(matches!(job, DiskJob::Write { .. }));
        let is_full = matches!(job, DiskJob::Write { .. }) && writes > 3;
        is_full.then_some(DiskDone::Failed(DiskError::Full { needed_bytes: 0 }))
    });
    let mut world = pair(&[&file], config(1, to.path()), full);
    assert!(world.run(LIMIT, |world| failure(world, 1).is_some()));
    let full = FailReason::Disk(DiskError::Full { needed_bytes: 0 });
    assert_eq!(failure(&world, 1), Some((Direction::Receive, full)));
    let told = |event: &TransferEvent| {
        matches!(event, TransferEvent::Undelivered { reason: Some(StopReason::DiskFull), .. })
    };
    assert!(world.run(LIMIT, |world| has(world, 0, told)));
    drop(world);
    assert!(!to.path().join("film.mkv").exists());

    let mut world = pair(&[&file], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(resumed(&world, 1), Some(3 * 256 * 1024));
}

#[test]
fn what_is_there_already_is_not_fetched() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let root = from.path().join("photos");
    write(&root.join("a.jpg"), &content(MIB));
    write(&root.join("b.jpg"), &content(MIB / 2));
    write(&to.path().join("photos/a.jpg"), &content(MIB));
    let mut world = pair(&[&root], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(received(&world, 1), (MIB as u64 / 2, 0));
    assert_eq!(names(&to.path().join("photos")), ["a.jpg", "b.jpg"]);
}

fn with_conflict(policy: ConflictPolicy) -> (World, TempDir, TempDir) {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("report.tar.gz"), b"new");
    write(&to.path().join("report.tar.gz"), b"old one");
    let world = pair(&[&file], Config { conflict: policy, ..config(1, to.path()) }, disk());
    (world, from, to)
}

#[test]
fn a_name_that_is_taken_is_never_overwritten_silently() {
    let (mut world, _from, to) = with_conflict(ConflictPolicy::Rename);
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(fs::read(to.path().join("report.tar.gz")).expect("a file"), b"old one");
    assert_eq!(fs::read(to.path().join("report (1).tar.gz")).expect("a file"), b"new");

    let (mut world, _from, to) = with_conflict(ConflictPolicy::Skip);
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(names(to.path()), ["report.tar.gz"]);
    assert_eq!(fs::read(to.path().join("report.tar.gz")).expect("a file"), b"old one");

    let (mut world, _from, to) = with_conflict(ConflictPolicy::Overwrite);
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(fs::read(to.path().join("report.tar.gz")).expect("a file"), b"new");
}

#[test]
fn a_person_may_say_what_to_do_with_what_is_in_the_way() {
    let (mut world, _from, to) = with_conflict(ConflictPolicy::Ask);
    assert!(
        world.run(LIMIT, |world| has(world, 1, |event| matches!(event, TransferEvent::Conflicts { .. })))
    );
    assert_eq!(names(to.path()), ["report.tar.gz"]);
    let transfer = world.events.iter().find_map(|(_, _, event)| match event {
        TransferEvent::Conflicts { transfer, count: 1, .. } => Some(*transfer),
        _ => None,
    });
    let transfer = transfer.expect("one conflict");
    world.command(&id(1), TransferCommand::Resolve { transfer, conflict: ConflictPolicy::Overwrite });
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(fs::read(to.path().join("report.tar.gz")).expect("a file"), b"new");
}

#[test]
fn no_link_leads_out_of_the_folder() {
    let (from, to, outside) =
        (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let root = from.path().join("photos");
    write(&root.join("inner/a.jpg"), b"picture");
    fs::create_dir(to.path().join("photos")).expect("a folder");
    symlink(outside.path(), to.path().join("photos/inner")).expect("a link");
    let mut world = pair(&[&root], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| failure(world, 1).is_some()));
    let not_a_folder = FailReason::Disk(DiskError::NotAFolder { path: to.path().join("photos/inner") });
    assert_eq!(failure(&world, 1), Some((Direction::Receive, not_a_folder)));
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn a_link_put_in_the_way_while_receiving_leads_nowhere() {
    let (from, to, outside) =
        (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let root = from.path().join("photos");
    write(&root.join("a.jpg"), b"picture");
    let (link, target) = (to.path().join("photos"), outside.path().to_owned());
    let attacked = watched(move |job| {
        if matches!(job, DiskJob::Finish { .. }) {
            symlink(&target, &link).expect("a link");
        }
        None
    });
    let mut world = pair(&[&root], config(1, to.path()), attacked);
    assert!(world.run(LIMIT, |world| failure(world, 1).is_some()));
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn a_part_folder_that_is_a_link_is_refused() {
    let (from, to, outside) =
        (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let file = write(&from.path().join("a.txt"), b"hello");
    let mut world = pair(&[&file], Config::new(id(1), to.path().to_owned()), disk());
    assert!(world.run(LIMIT, |world| has(world, 1, |event| matches!(event, TransferEvent::Offered { .. }))));
    let offer = world.events.iter().find_map(|(_, _, event)| match event {
        TransferEvent::Offered { offer, .. } => Some(offer.clone()),
        _ => None,
    });
    let offer = offer.expect("it was offered");
    let part = format!(".swarm-{}.part", &offer.transfer.to_string()[..16]);
    symlink(outside.path(), to.path().join(part)).expect("a link");
    world.command(&id(1), TransferCommand::Accept { from: id(0), offer, scope: AcceptScope::Once });
    assert!(world.run(LIMIT, |world| failure(world, 1).is_some()));
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn two_programs_do_not_receive_the_same_into_one_folder() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("film.mkv"), &content(4 * MIB));
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(config(1, to.path()), FAST, disk());
    world.add(config(2, to.path()), FAST, disk());
    world.command(&id(0), send(&[&file]));
    assert!(world.run(LIMIT, |world| is_done(world, 1) || is_done(world, 2)));
    let in_use = FailReason::Disk(DiskError::InUse { path: to.path().to_owned() });
    let refused: Vec<_> = [1, 2].into_iter().filter_map(|number| failure(&world, number)).collect();
    assert_eq!(refused, [(Direction::Receive, in_use)]);
}

#[test]
fn a_late_joiner_gets_it_from_whoever_has_it() {
    let (from, to, late) =
        (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let file = write(&from.path().join("film.mkv"), &content(3 * MIB));
    let mut world = pair(&[&file], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    world.leave(&id(0));
    world.add(config(2, late.path()), FAST, disk());
    assert!(world.run(LIMIT, |world| is_done(world, 2)));
    assert_eq!(fs::read(late.path().join("film.mkv")).expect("a file"), content(3 * MIB));
    assert_eq!(received(&world, 2), (0, 3 * MIB as u64));
}

#[test]
fn two_halves_make_a_whole_after_the_sender_left() {
    let (from, a, b) = (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let file = write(&from.path().join("film.mkv"), &content(8 * MIB));
    let slow = Access { up_bps: 4 << 20, ..FAST };
    let written = Rc::new(RefCell::new([BTreeSet::new(), BTreeSet::new()]));
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), slow, disk());
    for (number, folder) in [(1, &a), (2, &b)] {
        let written = written.clone();
        let noting = watched(move |job| {
            if let DiskJob::Write { piece, .. } = job {
                written.borrow_mut()[number - 1].insert(*piece);
            }
            None
        });
        world.add(config(number, folder.path()), FAST, noting);
    }
    world.command(&id(0), send(&[&file]));
    let is_all_there = |_: &World| {
        let [a, b] = &*written.borrow();
        a.union(b).count() == 32
    };
    assert!(world.run(LIMIT, is_all_there));
    assert!(!is_done(&world, 1) && !is_done(&world, 2));
    world.leave(&id(0));
    assert!(world.run(LIMIT, |world| is_done(world, 1) && is_done(world, 2)));
    assert_eq!(fs::read(a.path().join("film.mkv")).expect("a file"), content(8 * MIB));
    assert_eq!(fs::read(b.path().join("film.mkv")).expect("a file"), content(8 * MIB));
}

#[test]
fn when_the_sender_dies_the_receiver_waits_and_goes_on_when_it_is_back() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = write(&from.path().join("film.mkv"), &content(4 * MIB));
    let mut world = pair(&[&file], config(1, to.path()), disk());
    assert!(world.run(LIMIT, |world| has(
        world,
        1,
        |event| matches!(event, TransferEvent::Progress(p) if p.bytes > 0)
    )));
    world.leave(&id(0));
    assert!(world.run(LIMIT, |world| has(world, 1, |event| matches!(event, TransferEvent::Stalled { .. }))));
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.command(&id(0), send(&[&file]));
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(received(&world, 1), (4 * MIB as u64, 0));
    assert_eq!(fs::read(to.path().join("film.mkv")).expect("a file"), content(4 * MIB));
}

#[test]
fn a_liar_is_named_and_the_file_comes_from_the_others() {
    let (from, a, b) = (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let file = write(&from.path().join("film.mkv"), &content(4 * MIB));
    let mut world = pair(&[&file], config(1, a.path()), disk());
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    // From now on the first receiver flips a bit in everything it serves.
    world.tamper(
        &id(1),
        Box::new(|_, sent| {
            Some(match sent {
                Sent::Bulk(frame) => {
                    let mut bytes = frame.to_vec();
                    *bytes.last_mut().expect("a frame is not empty") ^= 1;
                    Sent::Bulk(bytes.into())
                }
                control @ Sent::Control(_) => control,
            })
        }),
    );
    // Two halves of the uplink: the newcomer asks both.
    world.add(config(2, b.path()), FAST, disk());
    world.input(&id(1), Input::PeerGone { peer: id(0) });
    assert!(world.run(LIMIT, |world| is_done(world, 2)));
    assert_eq!(fs::read(b.path().join("film.mkv")).expect("a file"), content(4 * MIB));
    let cut_off =
        |event: &TransferEvent| matches!(event, TransferEvent::PeerCutOff { peer, .. } if *peer == id(1));
    let (_, from_others) = received(&world, 2);
    assert_eq!((has(&world, 2, cut_off), from_others), (true, 0));
}

/// What was written to standard output.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_is_written_in_order() {
    let from = TempDir::new().expect("a folder");
    let file = write(&from.path().join("film.mkv"), &content(5 * MIB + 1));
    let pipe = Pipe::default();
    let receiver = Config { target: Target::Stdout, ..config(1, Path::new("/nonexistent")) };
    let mut world = pair(&[&file], receiver, to_pipe(&pipe));
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert!(*pipe.0.lock().expect("no panic") == content(5 * MIB + 1));
}

fn to_pipe(pipe: &Pipe) -> DiskFn {
    let stores = Stores::new(pipe.clone());
    Box::new(move |job| {
        let is_close = matches!(job, DiskJob::Close { .. });
        let done = stores.run(job, |_| ());
        if is_close { Vec::new() } else { vec![done] }
    })
}

#[test]
fn two_who_send_to_a_stream_are_not_mixed_in_it() {
    let from = TempDir::new().expect("a folder");
    let contents = [content(3 * MIB + 1), vec![7; 2 * MIB]];
    let files = ["a", "b"].map(|name| from.path().join(name));
    files.iter().zip(&contents).for_each(|(file, content)| drop(write(file, content)));
    for (streams, count) in [(Streams::One, 1), (Streams::InTurns, 2)] {
        let pipe = Pipe::default();
        let mut world = World::new();
        world.add(config(0, Path::new("/nonexistent")), FAST, disk());
        world.add(config(2, Path::new("/nonexistent")), FAST, disk());
        let receiver = Config { target: Target::Stdout, streams, ..config(1, Path::new("/nonexistent")) };
        world.add(receiver, FAST, to_pipe(&pipe));
        // Nobody but the receiver takes what the other sends.
        world.command(&id(0), TransferCommand::SetAccept(AcceptPolicy::Nobody));
        world.command(&id(2), TransferCommand::SetAccept(AcceptPolicy::Nobody));
        world.command(&id(0), send(&[&files[0]]));
        world.command(&id(2), send(&[&files[1]]));
        world.run(Duration::from_secs(60), |_| false);
        let is_done =
            |(_, _, event): &&(Duration, UserId, TransferEvent)| matches!(event, TransferEvent::Done { .. });
        assert_eq!(world.events.iter().filter(is_done).count(), count);
        let written = pipe.0.lock().expect("no panic");
        let [a, b] = &contents;
        let in_turns = [[&a[..], b].concat(), [&b[..], a].concat()];
        assert!(if count == 1 { contents.contains(&*written) } else { in_turns.contains(&*written) });
    }
}

#[test]
fn what_is_left_out_stays_out() {
    let (from, to) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let root = from.path().join("project");
    write(&root.join("src/main.rs"), b"fn main() {}");
    write(&root.join("target/debug/x"), b"large");
    write(&root.join("notes.log"), b"log");
    write(&root.join(".gitignore"), b"target/\n");
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(config(1, to.path()), FAST, disk());
    let options = SourceOptions { follow_links: false, exclude: vec!["*.log".into()], gitignore: true };
    let command = TransferCommand::Send {
        token: SendToken(1),
        paths: vec![root],
        options,
        audience: Audience::Peers([id(1)].into()),
    };
    world.command(&id(0), command);
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    assert_eq!(names(&to.path().join("project")), [".gitignore", "src"]);
}

#[test]
fn a_transfer_for_one_is_not_offered_to_others() {
    let (from, a, b) = (TempDir::new().expect("a"), TempDir::new().expect("b"), TempDir::new().expect("c"));
    let file = write(&from.path().join("secret"), b"for one");
    let mut world = World::new();
    world.add(config(0, Path::new("/nonexistent")), FAST, disk());
    world.add(config(1, a.path()), FAST, disk());
    world.add(config(2, b.path()), FAST, disk());
    let audience = Audience::Peers([id(1)].into());
    let options = SourceOptions::default();
    world
        .command(&id(0), TransferCommand::Send { token: SendToken(1), paths: vec![file], options, audience });
    assert!(world.run(LIMIT, |world| is_done(world, 1)));
    world.leave(&id(0));
    world.run(Duration::from_secs(60), |_| false);
    let to_other = |(_, who, _): &&(Duration, UserId, TransferEvent)| *who == id(2);
    assert_eq!(world.events.iter().filter(to_other).count(), 0);
    assert_eq!(names(b.path()), [""; 0]);
}
