//! What is said of transfers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{NAME_MAX_CHARS, Shelf, shown_name, size};
use crate::cli::format;
use crate::cli::roster::Roster;
use crate::cli::term::Ink;
use crate::cli::words::Note;
use crate::core::transfer::{OfferInfo, StopReason, TransferEvent};
use crate::wire::UserId;
use crate::wire::path::SafePath;
use crate::wire::text;

/// Files in the way that are named; the others are counted.
const CONFLICTS_NAMED: usize = 3;

/// The longest reason of somebody else's that is shown, in characters.
const REASON_MAX_CHARS: usize = 300;

impl Shelf {
    pub(super) fn words(&self, event: &TransferEvent, roster: &Roster) -> Option<Note> {
        let (ink, text) = match event {
            TransferEvent::Preparing { .. } | TransferEvent::Progress(_) => return None,
            TransferEvent::Prepared { offer, left_out, .. } => {
                (Ink::Good, format!("offering {}{}", what(offer), without(*left_out)))
            }
            TransferEvent::NotPrepared { error, .. } => {
                // It names a file, and whoever made that chose the name.
                let error = error.to_string();
                (Ink::Bad, format!("can't send that: {}", text::line(&error, REASON_MAX_CHARS)))
            }
            TransferEvent::Offered { from, offer, free_bytes } => {
                (Ink::Bold, self.offered(from, offer, *free_bytes, roster))
            }
            TransferEvent::Withdrawn { transfer } => {
                (Ink::Dim, format!("no longer offered: {}", self.name(transfer)))
            }
            TransferEvent::Accepting { from, offer } => {
                (Ink::Good, format!("receiving {} from {}", what(offer), roster.label(from)))
            }
            TransferEvent::Refused { from, offer, reason } => {
                (Ink::Warn, format!("declined {} from {}: {reason}", what(offer), roster.label(from)))
            }
            TransferEvent::Accepted { transfer, peer } => {
                (Ink::Good, format!("{} takes {}", roster.label(peer), self.name(transfer)))
            }
            TransferEvent::Declined { transfer, peer, reason } => {
                (Ink::Warn, format!("{} declined {}: {reason}", roster.label(peer), self.name(transfer)))
            }
            TransferEvent::Conflicts { transfer, paths, count } => {
                (Ink::Warn, format!("of {}, {}", self.name(transfer), in_the_way(paths, *count)))
            }
            TransferEvent::Resumed { transfer, bytes, total } => {
                (Ink::Good, format!("resuming {} {}", self.name(transfer), from_there(*bytes, *total)))
            }
            TransferEvent::Stalled { transfer, missing_bytes } => {
                let missing = format::bytes(*missing_bytes);
                (
                    Ink::Warn,
                    format!("waiting: nobody here has the missing {missing} of {}", self.name(transfer)),
                )
            }
            TransferEvent::Delivered { transfer, peer, .. } => {
                (Ink::Good, format!("{} has {}", roster.label(peer), self.name(transfer)))
            }
            TransferEvent::Undelivered { transfer, peer, reason } => {
                let (name, label) = (self.name(transfer), roster.label(peer));
                (Ink::Bad, format!("{name}: {label} {}", gave_up(reason.as_ref())))
            }
            TransferEvent::Done {
                offer,
                path,
                elapsed,
                skipped,
                from_origin_bytes,
                from_others_bytes,
                ..
            } => {
                let fetched = from_origin_bytes + from_others_bytes;
                (Ink::Good, received(offer, path.as_deref(), fetched, *elapsed, *skipped))
            }
            TransferEvent::Failed { transfer, reason, .. } => {
                let reason = reason.to_string();
                let reason = text::line(&reason, REASON_MAX_CHARS);
                (Ink::Bad, format!("can't complete {}: {reason}", self.name(transfer)))
            }
            TransferEvent::Silent { transfer, peer } => {
                let (name, peer) = (self.name(transfer), roster.label(peer));
                (
                    Ink::Warn,
                    format!("{peer} does not send what it has of {name}; it is asked again now and then"),
                )
            }
            TransferEvent::PeerCutOff { transfer, peer, reason } => {
                let of = transfer.as_ref().map(|transfer| format!(" of {}", self.name(transfer)));
                let (of, peer) = (of.unwrap_or_default(), roster.label(peer));
                (Ink::Bad, format!("nothing more{of} is taken from {peer}: {reason}"))
            }
        };
        Some(Note::new(ink, text))
    }

    /// What somebody is asked to take: `album (3 files, 12 MiB; into the folder album, which is there already)`.
    pub fn described(&self, offer: &OfferInfo) -> String {
        format!("{} ({}{})", shown_name(offer), size(offer), self.what_is_there(offer))
    }

    fn offered(&self, from: &UserId, offer: &OfferInfo, free_bytes: Option<u64>, roster: &Roster) -> String {
        let label = roster.label(from);
        let origin = match offer.origin == *from {
            true => String::new(),
            false => format!(", first sent by {}", roster.label(&offer.origin)),
        };
        let room = match free_bytes {
            Some(free) if free < offer.bytes => format!("; only {} are free here", format::bytes(free)),
            Some(_) | None => String::new(),
        };
        let there = self.what_is_there(offer);
        format!("{label} offers {} ({}{origin}{there}{room})", shown_name(offer), size(offer))
    }

    /// Files go into folders that are there without a question, so it is said before: they may be any, in any folder below.
    fn what_is_there(&self, offer: &OfferInfo) -> String {
        let path = SafePath::parse(&offer.name).ok().filter(|path| path.parent().is_none());
        let place = path.zip(self.out.as_ref()).map(|(path, out)| out.join(path.as_str()));
        let found = place.and_then(|place| fs::symlink_metadata(place).ok());
        if !found.is_some_and(|found| found.is_dir()) {
            return String::new();
        }
        let name = text::line(&offer.name, NAME_MAX_CHARS);
        // Alone in an offer, that may be a file, which would get another name; of several, it may be a file, too.
        match (offer.roots, offer.files.saturating_add(offer.folders)) {
            (1, 2..) => format!("; into the folder {name}, which is there already"),
            (_, _) => format!("; a folder {name} is there already"),
        }
    }
}

/// `photos (3 files, 12 MiB)`.
pub fn what(offer: &OfferInfo) -> String {
    format!("{} ({})", shown_name(offer), size(offer))
}

/// `at 45 % (115 MiB are here already)`.
fn from_there(bytes: u64, total: u64) -> String {
    format!("at {} % ({} are here already)", format::percent(bytes, total), format::bytes(bytes))
}

fn gave_up(reason: Option<&StopReason>) -> String {
    match reason {
        Some(reason) => format!("gave up: {}", text::line(&reason.to_string(), REASON_MAX_CHARS)),
        None => "left before everything was there".to_owned(),
    }
}

/// `2 files are there already: a.txt, b.txt`.
fn in_the_way(paths: &[SafePath], count: usize) -> String {
    let named = paths.iter().take(CONFLICTS_NAMED).map(|path| text::line(path.as_str(), NAME_MAX_CHARS));
    let named: Vec<_> = named.collect();
    let more = match count.saturating_sub(named.len()) {
        0 => String::new(),
        some => format!(" and {some} more"),
    };
    let are = if count == 1 { "is" } else { "are" };
    format!("{} {are} there already: {}{more}", format::count(count, "file"), named.join(", "))
}

/// `received film.mkv (256 MiB) in 2.3 s, 111 MiB/s into ./film.mkv`; what was here already does not count as fast.
fn received(
    offer: &OfferInfo,
    path: Option<&Path>,
    fetched: u64,
    elapsed: Duration,
    skipped: usize,
) -> String {
    let rate = (fetched as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    let place = path.map(|path| format!(" into {}", text::whole_line(&path.display().to_string())));
    let skipped = match skipped {
        0 => String::new(),
        some => format!("; {} left out, because of what was there", format::count(some, "file")),
    };
    format!(
        "received {} ({}) in {}, {}{}{skipped}",
        shown_name(offer),
        size(offer),
        format::took(elapsed),
        format::rate(rate),
        place.unwrap_or_default()
    )
}

/// What was found in a folder and is not sent.
fn without(left_out: usize) -> String {
    match left_out {
        0 => String::new(),
        1 => " without 1 link or special file (--follow sends what links lead to)".to_owned(),
        more => format!(" without {more} links or special files (--follow sends what links lead to)"),
    }
}
