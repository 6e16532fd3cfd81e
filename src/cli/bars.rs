//! Progress bars on stderr: one for each transfer, and one for each of its receivers where there are several.

use std::collections::BTreeMap;
use std::io;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format;
use super::layout;
use super::roster::Roster;
use super::shelf::Shelf;
use super::term::{self, Ink, Palette};
use super::words::Note;
use crate::core::transfer::{Direction, PeerProgress, Progress};
use crate::wire::{TransferId, UserId};

/// Receivers with a bar of their own; more would not leave room for anything else.
const PEER_BARS_MAX: usize = 12;

/// The columns of a name in front of a bar.
const NAME_COLUMNS: usize = 24;

/// Draws at most so often, times a second.
const DRAWS_PER_SEC: u8 = 8;

/// All bars.
pub struct Bars {
    multi: MultiProgress,
    transfers: BTreeMap<TransferId, Group>,
    palette: Palette,
}

struct Group {
    total: ProgressBar,
    peers: BTreeMap<UserId, ProgressBar>,
}

impl Bars {
    /// None yet. Where stderr is no terminal they are never drawn.
    pub fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SEC);
        let palette = Palette::of(&io::stderr());
        Self { multi: MultiProgress::with_draw_target(target), transfers: BTreeMap::new(), palette }
    }

    /// Prints a line above the bars.
    pub fn note(&self, note: &Note) {
        self.rows(&note.rows(self.palette, term::stderr_columns()));
    }

    /// Prints what somebody said above the bars.
    pub fn said(&self, rows: &[String]) {
        let painted: Vec<String> = rows.iter().map(|row| self.palette.paint(Ink::Dim, row)).collect();
        self.rows(&painted);
    }

    /// All in one: the bars are drawn anew once.
    fn rows(&self, rows: &[String]) {
        self.multi.suspend(|| term::eprint_line(&rows.join("\n")));
    }

    /// Takes the bars away while `question` is asked.
    pub fn suspend<T>(&self, question: impl FnOnce() -> T) -> T {
        self.multi.suspend(question)
    }

    /// Shows how far a transfer is.
    pub fn update(&mut self, progress: &Progress, shelf: &Shelf, roster: &Roster) {
        let name =
            shelf.item(&progress.transfer).map_or_else(|| progress.transfer.brief(), |item| item.name());
        let content = shelf.item(&progress.transfer).map_or(progress.total, |item| item.offer.bytes);
        let group = self.transfers.entry(progress.transfer).or_insert_with(|| {
            let total = self.multi.add(ProgressBar::new(0).with_style(style("━━╌")));
            Group { total, peers: BTreeMap::new() }
        });
        let arrow = match progress.direction {
            Direction::Send => "↑",
            Direction::Receive => "↓",
        };
        group.total.set_prefix(label(&format!("{arrow} {name}")));
        set(&group.total, progress.bytes, progress.total, progress.rate_bps, progress.eta.map(format::clock));
        if progress.direction == Direction::Send && progress.peers.len() > 1 {
            for peer in progress.peers.iter().take(PEER_BARS_MAX) {
                let multi = &self.multi;
                let bar = group.peers.entry(peer.peer.clone()).or_insert_with(|| {
                    multi.insert_after(&group.total, ProgressBar::new(0).with_style(style("──╌")))
                });
                bar.set_prefix(label(&format!("  {}", roster.label(&peer.peer))));
                set_peer(bar, peer, content);
            }
        }
    }

    /// Takes the bars of a transfer away.
    pub fn remove(&mut self, transfer: &TransferId) {
        let Some(group) = self.transfers.remove(transfer) else { return };
        for bar in group.peers.values().chain([&group.total]) {
            bar.finish_and_clear();
            self.multi.remove(bar);
        }
    }

    /// Takes all bars away.
    pub fn clear(&mut self) {
        let all: Vec<TransferId> = self.transfers.keys().copied().collect();
        all.iter().for_each(|transfer| self.remove(transfer));
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

fn style(bar: &str) -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:30} {msg}").expect("our own template").progress_chars(bar)
}

fn label(text: &str) -> String {
    term::pad(&layout::clip(text, NAME_COLUMNS), NAME_COLUMNS)
}

fn set(bar: &ProgressBar, bytes: u64, total: u64, rate_bps: u64, eta: Option<String>) {
    bar.set_length(total);
    bar.set_position(bytes);
    let eta = eta.map(|eta| format!("  {eta} left")).unwrap_or_default();
    let (percent, of) = (format::percent(bytes, total), format::bytes(total));
    bar.set_message(format!("{percent:>3} % of {of}  {}{eta}", format::rate(rate_bps)));
}

fn set_peer(bar: &ProgressBar, peer: &PeerProgress, content: u64) {
    bar.set_length(content);
    bar.set_position(peer.has_bytes);
    let state = match peer.done {
        true => "has it".to_owned(),
        false => format!("{} from here", format::rate(peer.up_bps)),
    };
    bar.set_message(format!("{:>3} %  {state}", format::percent(peer.has_bytes, content)));
}
