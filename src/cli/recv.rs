//! `swarm recv`: takes files that are offered in a room, and ends when they are there.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::Instant;

use super::args::RecvArgs;
use super::ask;
use super::code::{self, Codes};
use super::config::RoomConfig;
use super::consent::{Consent, Decision};
use super::desk::{self, Audience, Desk};
use super::exit::{Exit, Failure};
use super::format;
use super::input::{self, Input};
use super::join::exit_of;
use super::room::{self, Files};
use super::session::{Happening, Session};
use super::shelf::{Item, State};
use super::signals::Signals;
use super::term::{Ink, SavedTerminal};
use crate::core::transfer::{Direction, Target, TransferEvent};
use crate::node::api::Event;
use crate::wire::TransferId;

/// How long somebody who has the rest may take to come back.
const ALONE_MAX: Duration = Duration::from_secs(30);

/// Runs `swarm recv`.
pub async fn run(args: RecvArgs) -> Result<Exit, Failure> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal() && !args.json;
    if !can_ask && !args.accept.yes && args.accept.accept_from.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "nobody can be asked here what to accept: say --yes or --accept-from NAME",
        ));
    }
    let target = match args.accept.out.as_os_str() == "-" {
        true if args.json => {
            return Err(Failure::new(Exit::Usage, "--json and -o - both want stdout: leave one out"));
        }
        true => Target::Stdout,
        false => Target::Folder(args.accept.out.clone()),
    };
    let audience = if args.json { Audience::Program } else { Audience::People };
    let (invite, code) = (args.invite.as_deref(), args.typed_code.as_deref());
    let invite = code::exchange(&args.room, invite, code, audience).await?;
    let config = RoomConfig::resolve(&args.room, invite.as_deref())?;
    let consent = Consent::new(&args.accept, config.place.is_keyed());
    let signals = Signals::listen(|| drop(SavedTerminal::save()))?;
    let mut room = room::enter(&config, Files { target, conflict: args.accept.on_conflict.into() }).await?;
    let server = room.server.take();
    let mut desk = Desk::new(audience, config.name.clone(), config.place.is_keyed(), &room.invite.reveal());
    desk.tell_invite(&room, config.telling, "send PATH")?;
    let typed = can_ask.then(input::stdin_lines);
    let session = Session::new(room.node.commands, room.node.events, typed, signals);
    if args.room.code {
        Codes::new(&config, &room.invite, session.code_news())?.open(None);
    }
    let patience = args.timeout.map(Duration::from_secs);
    let mut counter = Counter { session, consent, keep: args.keep, can_ask, questions: VecDeque::new() };
    let result = counter.serve(&mut desk, patience).await;
    desk.close(&result)?;
    if let Some(server) = server {
        server.close().await;
    }
    result
}

/// Where offers come in and answers go out.
struct Counter {
    session: Session,
    consent: Consent,
    keep: bool,
    can_ask: bool,
    /// Offers that somebody is asked about, the first one now.
    questions: VecDeque<TransferId>,
}

impl Counter {
    async fn serve(&mut self, desk: &mut Desk, patience: Option<Duration>) -> Result<Exit, Failure> {
        let mut verdict: Option<Result<Exit, Failure>> = None;
        let mut active_at = Instant::now();
        let mut alone_since = None;
        loop {
            let give_up_at = patience.map(|patience| active_at + patience);
            let lost_at = alone_since.map(|since: Instant| since + ALONE_MAX);
            let deadline = give_up_at.into_iter().chain(lost_at).min();
            let happening = tokio::select! {
                happening = self.session.next(!self.questions.is_empty()) => happening,
                () = until(deadline), if !self.session.is_leaving() => {
                    verdict = Some(given_up(desk));
                    self.session.leave();
                    continue;
                }
            };
            match happening {
                Happening::Event(event) => {
                    desk.tell(&event)?;
                    if let Event::Transfer(event) = &event {
                        active_at = Instant::now();
                        self.on_transfer(event, desk);
                    }
                    alone_since =
                        self.is_stranded(desk).then(|| alone_since.unwrap_or_else(|| tell_alone(desk)));
                    if verdict.is_none()
                        && let Some(result) = self.verdict(desk)
                    {
                        verdict = Some(result);
                        self.session.leave();
                    }
                }
                Happening::Input(Input::Line(line)) => {
                    if let Some(result) = self.answer(&line, desk) {
                        verdict = Some(result);
                        self.session.leave();
                    }
                }
                Happening::Interrupted if self.session.is_leaving() => return Ok(Exit::Incomplete),
                Happening::Input(Input::End | Input::Interrupt) | Happening::Interrupted => {
                    verdict.get_or_insert_with(|| interrupted(desk));
                    self.session.leave();
                }
                Happening::Answer(_) => {}
                Happening::Code(news) => desk.tell_code(&news, "send PATH")?,
                Happening::Ended(ended) => return verdict.unwrap_or_else(|| exit_of(ended.as_ref())),
            }
        }
    }

    fn on_transfer(&mut self, event: &TransferEvent, desk: &Desk) {
        match event {
            TransferEvent::Offered { from, offer, .. } => match self.consent.judge(from, &desk.roster) {
                Decision::Accept => self.session.ask(ask::accept(offer.transfer)),
                Decision::Ask if self.can_ask => {
                    self.questions.push_back(offer.transfer);
                    if self.questions.len() == 1 {
                        self.put_question(desk);
                    }
                }
                Decision::Ask => {
                    let item = desk.shelf.item(&offer.transfer);
                    let what = item.map(desk::what).unwrap_or_default();
                    desk.note(Ink::Warn, format!("declined {what} from {}", desk.roster.label(from)));
                    self.session.ask(ask::reject(offer.transfer));
                }
            },
            TransferEvent::Withdrawn { transfer } => {
                let was_asked = self.questions.front() == Some(transfer);
                self.questions.retain(|question| question != transfer);
                if was_asked {
                    self.put_question(desk);
                }
            }
            TransferEvent::Preparing { .. }
            | TransferEvent::Prepared { .. }
            | TransferEvent::NotPrepared { .. }
            | TransferEvent::Accepting { .. }
            | TransferEvent::Refused { .. }
            | TransferEvent::Accepted { .. }
            | TransferEvent::Declined { .. }
            | TransferEvent::Conflicts { .. }
            | TransferEvent::Resumed { .. }
            | TransferEvent::Progress(_)
            | TransferEvent::Stalled { .. }
            | TransferEvent::Delivered { .. }
            | TransferEvent::Undelivered { .. }
            | TransferEvent::Done { .. }
            | TransferEvent::Failed { .. }
            | TransferEvent::PeerCutOff { .. } => {}
        }
    }

    fn put_question(&self, desk: &Desk) {
        let asked = self.questions.front().and_then(|transfer| desk.shelf.item(transfer));
        if let Some(item) = asked {
            desk.ask(&format!("Take {}? [Y/n] ", desk::what(item)));
        }
    }

    /// An answer was typed. `Some` if that ends it.
    fn answer(&mut self, line: &str, desk: &Desk) -> Option<Result<Exit, Failure>> {
        let transfer = self.questions.front().copied()?;
        match line.trim().to_lowercase().as_str() {
            "" | "y" | "yes" => self.session.ask(ask::accept(transfer)),
            "n" | "no" => self.session.ask(ask::reject(transfer)),
            _ => {
                desk.ask("Please say y or n: ");
                return None;
            }
        }
        self.questions.pop_front();
        self.put_question(desk);
        let refused = line.trim().to_lowercase().starts_with('n');
        let last = self.questions.is_empty() && running(desk).is_none() && !self.keep;
        (refused && last).then(|| Err(Failure::new(Exit::Refused, "declined; nothing was received")))
    }

    /// Whether nobody is here who could give us what is missing.
    fn is_stranded(&self, desk: &Desk) -> bool {
        desk.roster.is_empty() && running(desk).is_some() && !self.keep
    }

    /// Whether it is over, and how.
    fn verdict(&self, desk: &Desk) -> Option<Result<Exit, Failure>> {
        if self.keep || running(desk).is_some() || !self.questions.is_empty() {
            return None;
        }
        let items = desk.shelf.items();
        let failed = |item: &&&Item| item.direction() == Direction::Receive && item.state == State::Failed;
        if items.iter().any(|item| item.state == State::Done) {
            return Some(Ok(Exit::Done));
        }
        items.iter().find(failed).map(|item| {
            Err(Failure::new(
                Exit::Incomplete,
                format!("{} is incomplete; run this again to go on", item.name()),
            ))
        })
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A transfer that we are receiving.
fn running(desk: &Desk) -> Option<&Item> {
    let items = desk.shelf.items();
    items.into_iter().find(|item| item.state == State::Running && item.direction() == Direction::Receive)
}

fn tell_alone(desk: &Desk) -> Instant {
    let wait = format::took(ALONE_MAX);
    desk.note(Ink::Warn, format!("everyone who has it is gone; waiting {wait} for somebody to come back"));
    Instant::now()
}

fn given_up(desk: &Desk) -> Result<Exit, Failure> {
    match running(desk) {
        Some(item) => Err(incomplete(item)),
        None if desk.shelf.items().iter().any(|item| item.state == State::Done) => Ok(Exit::Done),
        None => Err(Failure::new(Exit::Failed, "nothing was offered in time")),
    }
}

fn interrupted(desk: &Desk) -> Result<Exit, Failure> {
    match running(desk) {
        Some(item) => Err(incomplete(item)),
        None => Ok(Exit::Done),
    }
}

fn incomplete(item: &Item) -> Failure {
    let here = item.progress.as_ref().map_or(0, |progress| progress.bytes);
    let (here, all) = (format::bytes(here), format::bytes(item.offer.bytes));
    Failure::new(
        Exit::Incomplete,
        format!("{} of {all} of {} are here; run this again to go on", here, item.name()),
    )
}
