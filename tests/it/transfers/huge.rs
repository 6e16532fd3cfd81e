//! A transfer of 100 GB of which little is missing. The disks are made up; the machines and all they say to each other are real.

use std::sync::Arc;
use std::time::Duration;

use fast_rtc_swarm::core::transfer::{DiskDone, DiskJob, Opened, PieceSet, TransferEvent};
use fast_rtc_swarm::wire::manifest::Manifest;

use super::swarming::{access, config, disk, one_file, send};
use super::world::{DiskFn, World, id};

const SIZE: u64 = 100_000_000_001;

/// The first, those on both sides of 4 GiB, one in the midst of the file, and the last, which is shorter.
const MISSING: [u32; 5] = [0, 1023, 1024, 12_345, 23_841];

/// A disk on which all pieces are but those that are missing.
fn interrupted(manifest: Arc<Manifest>) -> DiskFn {
    let (mut rest, pieces) = (disk(manifest.clone()), manifest.piece_count());
    Box::new(move |job| match job {
        DiskJob::Open { .. } => {
            let mut have = PieceSet::all(pieces);
            MISSING.iter().for_each(|piece| assert!(have.remove(*piece)));
            let unwanted = PieceSet::none(pieces);
            vec![DiskDone::Opened(Opened { have, unwanted, skipped_files: 0 })]
        }
        DiskJob::Write { piece, .. } => {
            assert!(MISSING.contains(&piece), "piece {piece} was there");
            rest(job)
        }
        _ => rest(job),
    })
}

#[test]
fn of_a_transfer_of_100_gb_only_what_is_missing_is_sent() {
    let manifest = one_file(SIZE);
    let missing: u64 = MISSING.iter().map(|piece| u64::from(manifest.piece_len(*piece))).sum();
    // What a peer keeps for each piece: a hash here, and a bit for every other peer.
    assert_eq!((manifest.piece_count(), manifest.piece_bytes()), (23_842, 4 << 20));
    let manifest_bytes = manifest.to_bytes().len() as u64;
    assert!(manifest_bytes < 768 * 1024, "{manifest_bytes}");

    let mut world = World::new();
    world.add(config(&id(0)), access(100, 100), disk(manifest.clone()));
    world.add(config(&id(1)), access(100, 100), interrupted(manifest));
    world.command(&id(0), send());
    let is_done = |event: &TransferEvent| matches!(event, TransferEvent::Done { .. });
    let ended =
        world.run(Duration::from_secs(60), |world| world.events.iter().any(|(_, _, event)| is_done(event)));
    assert!(ended, "{:#?}", world.events.last());

    let (mut resumed, mut done, mut last) = (None, None, None);
    for (_, _, event) in world.events.iter().filter(|(_, who, _)| *who == id(1)) {
        if let TransferEvent::Resumed { bytes, total, .. } = event {
            resumed = Some((*bytes, *total));
        } else if let TransferEvent::Progress(progress) = event {
            last = Some((progress.bytes, progress.total));
        } else if let TransferEvent::Done { offer, from_origin_bytes, .. } = event {
            done = Some((offer.bytes, *from_origin_bytes));
        }
    }
    assert_eq!(resumed, Some((SIZE - missing, SIZE)));
    assert_eq!(last, Some((SIZE, SIZE)));
    assert_eq!(done, Some((SIZE, missing)));
    let sent = world.sent_bytes(&id(0));
    assert!(sent < missing + manifest_bytes + (256 << 10), "{sent} were sent for {missing}");
}
