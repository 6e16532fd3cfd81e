//! What stays open.

use super::*;
use crate::core::transfer::{ConflictPolicy, SourceOptions, Summary, Target, Written};
use crate::wire::manifest::{Entry, EntryKind};
use crate::wire::path::SafePath;

/// More than may be open at once.
const MANY: u8 = 100;

/// How many files and folders are open here whose paths have this in them. Other tests open other files meanwhile.
fn open(part: &str) -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").expect("Linux has it").flatten();
    let paths = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains(part)).count()
}

fn manifest(byte: u8) -> Arc<Manifest> {
    one_file(&format!("{byte}.txt"), byte)
}

/// A file of one byte.
fn one_file(path: &str, byte: u8) -> Arc<Manifest> {
    let path = SafePath::parse(path).expect("a path");
    let entry = Entry { path, kind: EntryKind::File { size: 1, executable: false }, mtime: 0 };
    let manifest = Manifest::new(18, vec![(entry, vec![*blake3::hash(&[byte]).as_bytes()])]);
    Arc::new(manifest.expect("sound"))
}

fn receive(stores: &Stores, byte: u8, target: &Target) -> TransferId {
    let manifest = manifest(byte);
    let transfer = Manifest::id_of(&manifest.to_bytes());
    let (target, conflict) = (target.clone(), ConflictPolicy::Ask);
    let opened = stores.run(DiskJob::Open { transfer, manifest, target, conflict }, drop);
    assert!(matches!(opened, DiskDone::Opened(_)), "{opened:?}");
    let parts = vec![Bytes::copy_from_slice(&[byte])];
    let written = stores.run(DiskJob::Write { transfer, piece: 0, parts }, drop);
    assert_eq!(written, DiskDone::Written(Written::Verified));
    transfer
}

fn finish(stores: &Stores, transfer: TransferId) -> Option<PathBuf> {
    let done = stores.run(DiskJob::Finish { transfer }, drop);
    let DiskDone::Finished(Summary { path }) = done else { panic!("{done:?}") };
    path
}

fn read(stores: &Stores, transfer: TransferId) -> DiskDone {
    let read = stores.run(DiskJob::Read { transfer, piece: 0, frame_bytes: 1 << 16 }, drop);
    let DiskDone::Frames(frames) = read else { return read };
    DiskDone::Frames(frames.into_iter().map(|frame| frame.slice(HEADER_BYTES..)).collect())
}

fn byte(byte: u8) -> DiskDone {
    DiskDone::Frames(vec![Bytes::copy_from_slice(&[byte])])
}

#[test]
fn what_is_closed_while_it_is_being_opened_is_not_opened_and_can_be_received_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::Folder(folder.path().to_owned());
    let here = folder.path().to_str().expect("Unicode");
    let stores = Stores::new(io::sink());
    let manifest = manifest(1);
    let transfer = Manifest::id_of(&manifest.to_bytes());
    let job = || {
        let (manifest, target, conflict) = (manifest.clone(), target.clone(), ConflictPolicy::Ask);
        DiskJob::Open { transfer, manifest, target, conflict }
    };
    // It is closed while a thread looks at its parts, and accepted again before that thread has ended.
    let first = stores.admit(&job());
    let place = stores.opening.alone(transfer);
    stores.close(transfer);
    let second = stores.admit(&job());
    std::thread::scope(|scope| {
        let again = scope.spawn(|| stores.run_admitted(second, job(), drop));
        drop(place);
        let late = stores.run_admitted(first, job(), drop);
        assert_eq!(late, DiskDone::Failed(closed()));
        let opened = again.join().expect("it ends");
        assert!(matches!(opened, DiskDone::Opened(_)), "{opened:?}");
    });
    stores.close(transfer);
    assert_eq!(open(here), 0);
    receive(&stores, 1, &target);
}

#[test]
fn nothing_stays_open_of_what_was_received_and_others_can_still_have_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::Folder(folder.path().to_owned());
    let here = folder.path().to_str().expect("Unicode");
    let stores = Stores::new(io::sink());
    for number in 0..MANY {
        let transfer = receive(&stores, number, &target);
        assert!(open(here) > 0, "it is under way");
        assert_eq!(finish(&stores, transfer), Some(folder.path().join(format!("{number}.txt"))));
        assert_eq!(open(here), 0, "after {number}");
        assert_eq!(read(&stores, transfer), byte(number));
    }
    assert_eq!(open(here), 0);
}

#[test]
fn nothing_stays_open_of_what_went_to_standard_output_and_it_is_removed_in_the_end() {
    let stores = Stores::new(io::sink());
    let transfer = receive(&stores, 200, &Target::Stdout);
    let parts = format!("{}{}", crate::wire::path::PART_PREFIX, &transfer.to_string()[..16]);
    let is_there = || {
        let names = std::fs::read_dir(scan::spool_folder()).expect("readable").flatten();
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&parts))
    };
    assert!(open(&parts) > 0, "it is under way");
    assert_eq!(finish(&stores, transfer), None);
    assert_eq!(read(&stores, transfer), byte(200));
    assert_eq!(open(&parts), 0);
    assert!(is_there());
    stores.close(transfer);
    assert!(!is_there());
}

#[test]
fn of_what_is_offered_the_files_read_last_are_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path().to_str().expect("Unicode");
    let stores = Stores::new(io::sink());
    let transfers: Vec<TransferId> = (0..MANY)
        .map(|number| {
            let path = folder.path().join(format!("{number}.txt"));
            std::fs::write(&path, [number]).expect("written");
            let scan = DiskJob::Scan { paths: vec![path], options: SourceOptions::default() };
            let scanned = stores.run(scan, drop);
            let DiskDone::Scanned(scanned) = scanned else { panic!("{scanned:?}") };
            Manifest::id_of(&scanned.bytes)
        })
        .collect();
    assert_eq!(open(here), 0, "nobody has asked");
    for _ in 0..2 {
        for (number, transfer) in (0..MANY).zip(&transfers) {
            assert_eq!(read(&stores, *transfer), byte(number));
            assert!(open(here) <= recent::OPEN_FILES);
        }
    }
    assert_eq!(open(here), recent::OPEN_FILES);
    transfers.into_iter().for_each(|transfer| stores.close(transfer));
    assert_eq!(open(here), 0);
}

#[test]
fn what_others_have_the_name_of_gets_the_next_free_number_and_is_found_under_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("a/b");
    std::fs::create_dir_all(&inside).expect("made");
    let take = |name: &str| std::fs::write(inside.join(name), "of others").expect("written");
    let stores = Stores::new(io::sink());
    let manifest = one_file("a/b/notes.tar.gz", 7);
    let transfer = Manifest::id_of(&manifest.to_bytes());
    let open = || {
        let (manifest, target) = (manifest.clone(), Target::Folder(folder.path().to_owned()));
        let job = DiskJob::Open { transfer, manifest, target, conflict: ConflictPolicy::Rename };
        let DiskDone::Opened(opened) = stores.run(job, drop) else { panic!("it can be opened") };
        opened.have.is_all()
    };
    take("notes.tar.gz");
    assert!(!open());
    let write = DiskJob::Write { transfer, piece: 0, parts: vec![Bytes::from_static(&[7])] };
    assert_eq!(stores.run(write, drop), DiskDone::Written(Written::Verified));
    take("notes (1).tar.gz");
    assert_eq!(finish(&stores, transfer), Some(inside.join("notes (2).tar.gz")));
    assert_eq!(read(&stores, transfer), byte(7));

    stores.close(transfer);
    assert!(open(), "it is here already");
    assert_eq!(read(&stores, transfer), byte(7));
    assert_eq!(finish(&stores, transfer), Some(inside.join("notes (2).tar.gz")));
    assert_eq!(std::fs::read_dir(&inside).expect("readable").count(), 3);
}

#[test]
fn a_folder_for_parts_is_not_entered_under_another_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let stores = Stores::new(io::sink());
    let manifest = one_file("SWARM-~1.PAR/000042/x", 7);
    let transfer = Manifest::id_of(&manifest.to_bytes());
    let (target, conflict) = (Target::Folder(folder.path().to_owned()), ConflictPolicy::Overwrite);
    let opened = stores.run(DiskJob::Open { transfer, manifest, target, conflict }, drop);
    assert!(matches!(opened, DiskDone::Opened(_)), "{opened:?}");
    let write = DiskJob::Write { transfer, piece: 0, parts: vec![Bytes::from_static(&[7])] };
    assert_eq!(stores.run(write, drop), DiskDone::Written(Written::Verified));

    // As FAT calls the first of them.
    let root = folder::Folder::open(folder.path()).expect("it is there");
    let others = stores.part_folders.claim(&root, "SWARM-~1.PAR").expect("nobody has it");
    let path = folder.path().join("SWARM-~1.PAR");
    let refused = stores.run(DiskJob::Finish { transfer }, drop);
    assert_eq!(refused, DiskDone::Failed(DiskError::NotAFolder { path: path.clone() }));
    assert_eq!(others.names(), Ok(Vec::new()));

    drop(others);
    assert_eq!(finish(&stores, transfer), Some(path.join("000042/x")), "now it is a folder like any other");
}
