//! Files in a chat: what is offered and asked, what is answered, how far it is.

use tokio::time::Instant;

use super::{Ask, BELL, Repl, Step};
use crate::cli::ask;
use crate::cli::consent::{Decision, could_be_read};
use crate::cli::format;
use crate::cli::join::commands::Sending;
use crate::cli::shelf::{Item, State};
use crate::cli::term::Ink;
use crate::cli::values::Resolution;
use crate::core::transfer::{Direction, TransferEvent};
use crate::node::api::To;
use crate::wire::TransferId;

/// What is said to an answer that was typed before its question could be read.
const JUST_ASKED: &str = "that was offered or asked only now: read it, and say that again";

impl Repl {
    /// What one waits for, and what waits for an answer, in a few words each.
    pub(super) fn under_way(&self) -> Vec<String> {
        let mut parts: Vec<String> = self
            .shelf
            .items()
            .into_iter()
            .filter(|item| item.state == State::Running)
            .filter_map(progress)
            .collect();
        let waiting = self.shelf.items().iter().filter(|item| item.awaits_us()).count();
        if waiting > 0 {
            parts.push(format!("{} waiting: /accept", format::count(waiting, "offer")));
        }
        let in_the_way = self.shelf.items().iter().filter(|item| item.state == State::InTheWay).count();
        if in_the_way > 0 {
            parts.push(format!("{} in question: /resolve", format::count(in_the_way, "transfer")));
        }
        parts
    }

    pub(super) fn transfer(&mut self, now: Instant, event: &TransferEvent) -> Step {
        let note = self.shelf.on_event(event, &self.roster);
        let mut step = Step::default();
        if let TransferEvent::Offered { from, offer, .. } = event
            && self.consent.judge(from, &self.roster) == Decision::Accept
        {
            step.asks.push(Ask::Command(ask::accept(from, offer)));
            return step;
        }
        let Some(note) = note else { return step };
        let question = self.question(now, event);
        let asks = question.is_some();
        let answers = question.unwrap_or_default();
        step.lines = self.note(note.ink, &(note.text + &answers));
        if asks && let Some(first) = step.lines.first_mut() {
            first.insert_str(0, BELL);
        }
        if let TransferEvent::Delivered { transfer, .. } | TransferEvent::Undelivered { transfer, .. } = event
        {
            let all_have_it = self.shelf.item(transfer).filter(|item| item.state == State::Done);
            let summary = all_have_it.map(|item| self.note(Ink::Dim, &item.sent_summary()));
            step.lines.extend(summary.into_iter().flatten());
        }
        step
    }

    /// How to answer what an event asks, if it asks anything.
    fn question(&mut self, now: Instant, event: &TransferEvent) -> Option<String> {
        if let TransferEvent::Offered { offer, .. } = event {
            let number = self.put_question(now, &offer.transfer)?;
            Some(format!(": /accept {number} or /reject {number}"))
        } else if let TransferEvent::Conflicts { transfer, .. } = event {
            let number = self.put_question(now, transfer)?;
            Some(format!(": /resolve {number} rename, skip or overwrite"))
        } else {
            None
        }
    }

    fn put_question(&mut self, now: Instant, transfer: &TransferId) -> Option<u32> {
        self.shelf.ask(transfer, now);
        self.shelf.item(transfer).map(|item| item.number)
    }

    pub(super) fn send(&mut self, sending: Sending) -> Step {
        let Sending { source, paths } = sending;
        let to = match source.to.iter().map(|name| self.roster.find(name)).collect::<Result<Vec<_>, _>>() {
            Ok(nobody) if nobody.is_empty() => To::Everyone,
            Ok(peers) => To::Peers(peers),
            Err(error) => return self.complain(&error.to_string()),
        };
        // In a chat, stdin is the keyboard.
        if paths.iter().any(|path| path.as_os_str() == "-") {
            return self.complain("stdin can't be sent from within a chat: use swarm send -");
        }
        let token = self.tokens.fresh();
        Step::ask(Ask::Command(ask::send(token, paths, to, source.options())))
    }

    pub(super) fn accept(&self, now: Instant, which: &str) -> Step {
        match self.answered(now, which, Item::awaits_us) {
            Ok(item) => Step::ask(Ask::Command(item.acceptance())),
            Err(error) => self.complain(&error),
        }
    }

    pub(super) fn accept_all(&self, now: Instant) -> Step {
        let items = self.shelf.items().into_iter().filter(|item| item.awaits_us());
        let (read, unread): (Vec<&Item>, Vec<&Item>) = items.partition(|item| was_read(item, now));
        let mut step = match (read.is_empty(), unread.is_empty()) {
            (true, true) => self.complain("nothing waits for an answer"),
            (_, false) => self.complain(JUST_ASKED),
            (false, true) => Step::default(),
        };
        step.asks = read.into_iter().map(|item| Ask::Command(item.acceptance())).collect();
        step
    }

    pub(super) fn reject(&mut self, which: &str) -> Step {
        let transfer = match self.shelf.pick(which, |item| item.awaits_us() || item.is_being_received()) {
            Ok(transfer) => transfer,
            Err(error) => return self.complain(&error.to_string()),
        };
        let refusal = self.shelf.item(&transfer).map(|item| Ask::Command(item.refusal()));
        self.shelf.decline(&transfer);
        Step { lines: Vec::new(), asks: refusal.into_iter().collect() }
    }

    pub(super) fn resolve(&self, now: Instant, which: &str, how: Resolution) -> Step {
        match self.answered(now, which, |item| item.state == State::InTheWay) {
            Ok(item) => Step::ask(Ask::Command(ask::resolve(item.offer.transfer, how))),
            Err(error) => self.complain(&error),
        }
    }

    /// The transfer that is meant, if what is asked about it could be read before that was typed.
    fn answered(&self, now: Instant, which: &str, fits: impl Fn(&Item) -> bool) -> Result<&Item, String> {
        let transfer = self.shelf.pick(which, fits).map_err(|error| error.to_string())?;
        let item = self.shelf.item(&transfer).filter(|item| was_read(item, now));
        item.ok_or_else(|| JUST_ASKED.to_owned())
    }

    pub(super) fn transfers(&self) -> Vec<String> {
        let items = self.shelf.items();
        if items.is_empty() {
            return self.note(Ink::Dim, "no transfers yet; /send PATH offers something");
        }
        let mut lines = Vec::new();
        for item in items {
            lines.extend(self.folded(&self.transfer_line(item), None));
            let parts = item.progress.iter().flat_map(|progress| &progress.peers);
            let running = item.state == State::Running;
            lines.extend(parts.filter(|_| running).flat_map(|peer| {
                let has = format::percent(peer.has_bytes, item.offer.bytes);
                let (down, up) = (format::rate(peer.down_bps), format::rate(peer.up_bps));
                let label = self.roster.label(&peer.peer);
                self.folded(&format!("     {label} has {has} %, ↓ {down} ↑ {up}"), Some(Ink::Dim))
            }));
        }
        lines
    }

    fn transfer_line(&self, item: &Item) -> String {
        let (arrow, who) = match &item.from {
            Some(from) => ("↓", format!(" from {}", self.roster.label(from))),
            None => ("↑", String::new()),
        };
        let state = match item.state {
            State::Waiting if item.from.is_some() => "waiting for /accept".to_owned(),
            State::Waiting => "offered".to_owned(),
            State::Running => progress(item).unwrap_or_else(|| "starting".to_owned()),
            State::Done => "done".to_owned(),
            State::Failed => "failed".to_owned(),
            State::InTheWay => "waiting for /resolve".to_owned(),
            State::Declined => "declined".to_owned(),
            State::Withdrawn => "withdrawn".to_owned(),
        };
        format!("{:>3}. {arrow} {} ({}){who}: {state}", item.number, item.name(), item.size())
    }
}

/// Whether nothing about it is asked that could not be read yet.
fn was_read(item: &Item, now: Instant) -> bool {
    item.asked_at.is_none_or(|at| could_be_read(at, now))
}

/// `↓ film.mkv 45 % 11.2 MiB/s 0:12`.
fn progress(item: &Item) -> Option<String> {
    let progress = item.progress.as_ref()?;
    let arrow = match progress.direction {
        Direction::Send => "↑",
        Direction::Receive => "↓",
    };
    let eta = progress.eta.map(|eta| format!(" {}", format::clock(eta))).unwrap_or_default();
    let (percent, rate) = (format::percent(progress.bytes, progress.total), format::rate(progress.rate_bps));
    Some(format!("{arrow} {} {percent} % {rate}{eta}", item.name()))
}
