//! `swarm recv`: takes files that are offered in a room, and ends when they are there.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::Instant;

use super::args::{AcceptArgs, RecvArgs};
use super::ask;
use super::code::{self, Codes};
use super::config::RoomConfig;
use super::consent::{Consent, Decision, could_be_read};
use super::desk::{Audience, Desk};
use super::exit::{Exit, Failure};
use super::format;
use super::input::{self, Input};
use super::join::exit_of;
use super::room::{self, Files};
use super::session::{Happening, Session, until};
use super::shelf::{self, Item, Shelf, State};
use super::signals::Signals;
use super::term::{Ink, SavedTerminal};
use super::values::{Arrival, Resolution, ResolutionError};
use crate::core::transfer::{Direction, OfferInfo, Streams, Target, TransferCommand, TransferEvent};
use crate::node::api::{Command, Event};
use crate::wire::{TransferId, UserId};

/// How long somebody who has the rest may take to come back.
const ALONE_MAX: Duration = Duration::from_secs(30);

/// Runs `swarm recv`.
pub async fn run(args: RecvArgs) -> Result<Exit, Failure> {
    let is_somebody_there = io::stdin().is_terminal() && io::stderr().is_terminal() && !args.json;
    if !is_somebody_there {
        needs_nobody(&args.accept)?;
    }
    // Reading from a terminal stops a program in the background, so it does not where nothing can come to be asked.
    let can_ask = is_somebody_there && !(args.accept.yes && needs_nobody(&args.accept).is_ok());
    let target = target(&args)?;
    let folder = match &target {
        Target::Folder(path) => Some(path.clone()),
        Target::Stdout => None,
    };
    let audience = if args.json { Audience::Program } else { Audience::People };
    let (invite, code) = (args.invite.as_deref(), args.typed_code.as_deref());
    let invite = code::exchange(&args.room, invite, code, audience).await?;
    let config = RoomConfig::resolve(&args.room, invite.as_ref())?;
    let consent = Consent::new(&args.accept, config.place.is_keyed());
    let saved = SavedTerminal::save();
    let signals = Signals::listen(move || saved.restore())?;
    let streams = if args.keep { Streams::InTurns } else { Streams::One };
    let mut room = room::enter(&config, Files { streams, ..Files::new(&args.accept, target) }).await?;
    let server = room.server.take();
    let mut desk = Desk::new(audience, config.name.clone(), config.place.is_keyed(), &room.invite.reveal());
    if let Some(out) = folder {
        desk.shelf = Shelf::receiving_into(out);
    }
    desk.tell_invite(&room, config.telling, "send PATH")?;
    let typed = can_ask.then(input::stdin_lines);
    let session = Session::new(room.node.commands, room.node.events, typed, signals);
    if args.room.code {
        Codes::new(&config, &room.invite, session.code_news())?.open(None);
    }
    let patience = args.timeout.map(Duration::from_secs);
    let (questions, refusals) = (Questions::default(), Refusals::default());
    let mut counter = Counter { session, consent, keep: args.keep, can_ask, questions, refusals };
    let result = counter.serve(&mut desk, patience).await;
    desk.close(&result)?;
    if let Some(server) = server {
        server.close().await;
    }
    result
}

/// Whether everything that could be asked is answered by the arguments.
fn needs_nobody(accept: &AcceptArgs) -> Result<(), Failure> {
    if !accept.yes && accept.accept_from.is_empty() {
        let message = "nobody can be asked here what to accept: say --yes or --accept-from NAME";
        return Err(Failure::new(Exit::Usage, message));
    }
    match accept.on_conflict {
        Arrival::Ask => Err(Arrival::nobody_to_ask()),
        Arrival::Rename | Arrival::Skip | Arrival::Overwrite => Ok(()),
    }
}

fn target(args: &RecvArgs) -> Result<Target, Failure> {
    if args.accept.out.as_os_str() != "-" {
        return Ok(Target::Folder(args.accept.out.clone()));
    }
    if args.json {
        return Err(Failure::new(Exit::Usage, "--json and -o - both want stdout: leave one out"));
    }
    Ok(Target::Stdout)
}

/// Where offers come in and answers go out.
struct Counter {
    session: Session,
    consent: Consent,
    keep: bool,
    can_ask: bool,
    questions: Questions,
    refusals: Refusals,
}

/// What was declined. The end of it is when nobody else offers the same.
#[derive(Debug, Default)]
struct Refusals {
    /// Of which the node has not said yet whether somebody else offers it.
    open: BTreeSet<TransferId>,
    is_any: bool,
}

impl Refusals {
    fn add(&mut self, transfer: TransferId) {
        self.open.insert(transfer);
        self.is_any = true;
    }

    fn heard(&mut self, event: &TransferEvent) {
        if let TransferEvent::Offered { offer: OfferInfo { transfer, .. }, .. }
        | TransferEvent::Accepting { offer: OfferInfo { transfer, .. }, .. }
        | TransferEvent::Withdrawn { transfer }
        | TransferEvent::Failed { transfer, .. } = event
        {
            self.open.remove(transfer);
        }
    }

    /// Whether something was declined, and nobody else offers any of it.
    fn are_all(&self) -> bool {
        self.is_any && self.open.is_empty()
    }
}

/// What somebody is asked, the first one now.
#[derive(Debug, Default)]
struct Questions {
    queue: VecDeque<Question>,
    /// Since when the first one is that.
    asked_at: Option<Instant>,
}

impl Questions {
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn first(&self) -> Option<Question> {
        self.queue.front().copied()
    }

    /// Asks another one, unless that is asked already. Says whether it is the first.
    fn add(&mut self, now: Instant, question: Question) -> bool {
        !self.queue.contains(&question) && self.change(now, |queue| queue.push_back(question))
    }

    /// Forgets what is asked about a transfer. Says whether another question is the first now.
    fn forget(&mut self, now: Instant, transfer: TransferId) -> bool {
        self.change(now, |queue| queue.retain(|question| question.transfer() != transfer))
    }

    /// The first one was answered.
    fn pop(&mut self, now: Instant) {
        self.change(now, |queue| {
            queue.pop_front();
        });
    }

    fn change(&mut self, now: Instant, change: impl FnOnce(&mut VecDeque<Question>)) -> bool {
        let before = self.first();
        change(&mut self.queue);
        let is_another = self.first() != before;
        if is_another {
            self.asked_at = Some(now);
        }
        is_another
    }

    /// What is answered by a line typed now.
    fn answered(&self, now: Instant) -> Option<Question> {
        let is_seen = self.asked_at.is_some_and(|at| could_be_read(at, now));
        self.first().filter(|_| is_seen)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Whether to take it.
    Take(TransferId),
    /// What to do with the files that are there already.
    InTheWay(TransferId),
}

impl Question {
    fn transfer(self) -> TransferId {
        match self {
            Self::Take(transfer) | Self::InTheWay(transfer) => transfer,
        }
    }
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
                // Always read: a line that was typed before a question came is no answer to it.
                happening = self.session.next(true) => happening,
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
                        if is_news(event, self.can_ask) {
                            active_at = Instant::now();
                        }
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
                    self.answer(&line, desk);
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

    fn on_transfer(&mut self, event: &TransferEvent, desk: &mut Desk) {
        self.refusals.heard(event);
        if let TransferEvent::Offered { from, offer, .. } = event {
            self.on_offer(from, offer, desk);
        } else if let TransferEvent::Conflicts { transfer, .. } = event {
            self.queue(Question::InTheWay(*transfer), desk);
        } else if let TransferEvent::Accepting { offer: OfferInfo { transfer, .. }, .. }
        | TransferEvent::Withdrawn { transfer }
        | TransferEvent::Failed { transfer, .. } = event
            && self.questions.forget(Instant::now(), *transfer)
        {
            self.put_question(desk);
        }
    }

    fn on_offer(&mut self, from: &UserId, offer: &OfferInfo, desk: &mut Desk) {
        match self.consent.judge(from, &desk.roster) {
            Decision::Accept => self.session.ask(ask::accept(from, offer)),
            Decision::Ask if self.can_ask => self.queue(Question::Take(offer.transfer), desk),
            Decision::Ask => {
                let (what, label) = (shelf::what(offer), desk.roster.label(from));
                desk.note(Ink::Warn, format!("declined {what} from {label}"));
                desk.shelf.decline(&offer.transfer);
                self.session.ask(ask::reject_from(from, offer.transfer));
            }
        }
    }

    fn queue(&mut self, question: Question, desk: &Desk) {
        if self.questions.add(Instant::now(), question) {
            self.put_question(desk);
        }
    }

    fn put_question(&self, desk: &Desk) {
        let Some(question) = self.questions.first() else { return };
        let Some(item) = desk.shelf.item(&question.transfer()) else { return };
        desk.ask(&match question {
            Question::Take(_) => format!("Take {}? [Y/n] ", desk.shelf.described(&item.offer)),
            Question::InTheWay(_) => {
                let what = shelf::what(&item.offer);
                format!("For {what}: rename the new, skip it, or overwrite the old? [R/s/o] ")
            }
        });
    }

    /// An answer was typed.
    fn answer(&mut self, line: &str, desk: &mut Desk) {
        let Some(question) = self.questions.answered(Instant::now()) else {
            return self.put_question(desk);
        };
        let Some(item) = desk.shelf.item(&question.transfer()) else {
            self.questions.pop(Instant::now());
            return self.put_question(desk);
        };
        let command = match command_for(question, item, line.trim()) {
            Ok(command) => command,
            Err(please) => return desk.ask(&format!("Please {please}: ")),
        };
        if let Command::Transfer(TransferCommand::Pass { transfer, .. }) = &command {
            desk.shelf.decline(transfer);
            self.refusals.add(*transfer);
        }
        self.session.ask(command);
        self.questions.pop(Instant::now());
        self.put_question(desk);
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
        if let Some(item) = items.iter().find(failed) {
            let message = format!("{} is incomplete; run this again to go on", item.name());
            return Some(Err(Failure::new(Exit::Incomplete, message)));
        }
        let declined = || Err(Failure::new(Exit::Refused, "declined; nothing was received"));
        self.refusals.are_all().then(declined)
    }
}

/// What an answer means, or what would be one. Nothing typed means what is in capitals.
fn command_for(question: Question, item: &Item, answer: &str) -> Result<Command, String> {
    match (question, answer.to_lowercase().as_str()) {
        (Question::Take(_), "" | "y" | "yes") => Ok(item.acceptance()),
        (Question::Take(_), "n" | "no") => Ok(item.refusal()),
        (Question::Take(_), _) => Err("say y or n".to_owned()),
        (Question::InTheWay(transfer), "") => Ok(ask::resolve(transfer, Resolution::Rename)),
        (Question::InTheWay(transfer), word) => {
            let resolution = word.parse().map_err(|error: ResolutionError| error.to_string())?;
            Ok(ask::resolve(transfer, resolution))
        }
    }
}

/// Whether something goes on, or was offered to somebody who can take it. Offers that are declined, or taken back, are none.
fn is_news(event: &TransferEvent, can_ask: bool) -> bool {
    let is_offer = matches!(
        event,
        TransferEvent::Offered { .. } | TransferEvent::Withdrawn { .. } | TransferEvent::Refused { .. }
    );
    can_ask || !is_offer
}

/// A transfer that we are receiving.
fn running(desk: &Desk) -> Option<&Item> {
    let items = desk.shelf.items();
    items.into_iter().find(|item| item.is_being_received())
}

fn tell_alone(desk: &Desk) -> Instant {
    let wait = format::took(ALONE_MAX);
    desk.note(Ink::Warn, format!("everyone who has it is gone; waiting {wait} for somebody to come back"));
    Instant::now()
}

fn given_up(desk: &Desk) -> Result<Exit, Failure> {
    if let Some(item) = running(desk) {
        return Err(incomplete(item));
    }
    let any = |state: State| desk.shelf.items().iter().any(|item| item.state == state);
    match (any(State::Done), any(State::Declined)) {
        (true, _) => Ok(Exit::Done),
        (false, true) => Err(Failure::new(Exit::Refused, "all that was offered was declined")),
        (false, false) => Err(Failure::new(Exit::Failed, "nothing was offered in time")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::consent::REACTION;
    use crate::cli::shelf::tests::{id, offer};
    use crate::core::transfer::{ConflictPolicy, DeclineReason};
    use crate::wire::path::SafePath;

    const TRANSFER: TransferId = TransferId([1; 32]);

    /// How it ends if nothing more comes.
    fn story(events: &[TransferEvent]) -> Result<Exit, String> {
        let mut desk = Desk::new(Audience::People, "me".parse().expect("a name"), true, "");
        for event in events {
            desk.tell(&Event::Transfer(event.clone())).expect("stderr");
        }
        given_up(&desk).map_err(|failure| format!("{:?} {failure}", failure.exit()))
    }

    #[test]
    fn what_was_declined_is_told_from_what_never_came() {
        assert_eq!(story(&[]), Err("Failed swarm: nothing was offered in time".into()));
        let (from, reason) = (id("1111"), DeclineReason::TooLarge);
        let refused = TransferEvent::Refused { from, offer: offer(1, "film.mkv", "1111"), reason };
        assert_eq!(story(&[refused]), Err("Refused swarm: all that was offered was declined".into()));
    }

    #[test]
    fn offers_that_nobody_takes_do_not_keep_it_from_giving_up() {
        let (from, offer) = (id("1111"), offer(1, "film.mkv", "1111"));
        let offered = TransferEvent::Offered { from: from.clone(), offer: offer.clone(), free_bytes: None };
        let withdrawn = TransferEvent::Withdrawn { transfer: TRANSFER };
        assert!(!is_news(&offered, false) && !is_news(&withdrawn, false));
        assert!(is_news(&offered, true), "somebody is asked");
        assert!(is_news(&TransferEvent::Accepting { from, offer }, false));
    }

    #[test]
    fn a_transfer_that_waits_for_an_answer_about_files_in_the_way_is_incomplete() {
        let accepting = TransferEvent::Accepting { from: id("1111"), offer: offer(1, "film.mkv", "1111") };
        let paths = vec![SafePath::parse("film.mkv").expect("a path")];
        let conflicts = TransferEvent::Conflicts { transfer: TRANSFER, paths, count: 1 };
        let ended = story(&[accepting, conflicts]).expect_err("incomplete");
        assert!(ended.starts_with("Incomplete swarm: 0 B of 1.0 MiB of film.mkv are here"), "{ended}");
    }

    #[test]
    fn an_answer_counts_only_for_a_question_that_was_there_to_be_read() {
        let (asked, next) = (Question::Take(TRANSFER), Question::Take(TransferId([2; 32])));
        let now = Instant::now();
        let mut questions = Questions::default();
        assert!(questions.add(now, asked), "it is asked at once");
        assert!(!questions.add(now, asked), "and once, however many offer it");
        assert_eq!(questions.answered(now + REACTION / 2), None, "typed before it was seen");
        assert_eq!(questions.answered(now + REACTION), Some(asked));
        assert!(!questions.add(now + REACTION, next), "one after the other");
        assert_eq!(questions.answered(now + REACTION), Some(asked));

        let later = now + 2 * REACTION;
        assert!(questions.forget(later, TRANSFER), "it took the other's place");
        assert_eq!(questions.answered(later), None);
        assert_eq!(questions.answered(later + REACTION), Some(next));
        assert!(!questions.forget(later, TRANSFER), "it is not there any more");
    }

    #[test]
    fn the_answer_to_one_question_is_none_to_the_next() {
        let (asked, next) = (Question::Take(TRANSFER), Question::InTheWay(TRANSFER));
        let now = Instant::now();
        let mut questions = Questions::default();
        questions.add(now, asked);
        questions.add(now, next);
        questions.pop(now + REACTION);
        assert_eq!(questions.answered(now + REACTION), None);
        assert_eq!(questions.answered(now + 2 * REACTION), Some(next));
    }

    #[test]
    fn it_ends_with_a_no_only_when_nobody_else_offers_what_was_declined() {
        let mut refusals = Refusals::default();
        assert!(!refusals.are_all(), "nothing was declined");
        refusals.add(TRANSFER);
        refusals.add(TransferId([2; 32]));
        refusals.heard(&TransferEvent::Withdrawn { transfer: TRANSFER });
        assert!(!refusals.are_all(), "of the other nothing was heard");
        let (from, offer) = (id("2222"), offer(2, "film.mkv", "1111"));
        refusals.heard(&TransferEvent::Offered { from, offer, free_bytes: None });
        assert!(refusals.are_all(), "that is asked about");
    }

    #[test]
    fn answers_may_be_short_and_none_is_the_harmless_one() {
        let mut desk = Desk::new(Audience::People, "me".parse().expect("a name"), true, "");
        let offer = offer(1, "film.mkv", "1111");
        let offered = TransferEvent::Offered { from: id("1111"), offer, free_bytes: None };
        desk.tell(&Event::Transfer(offered)).expect("stderr");
        let item = desk.shelf.item(&TRANSFER).expect("it was offered");
        let take =
            |answer| command_for(Question::Take(TRANSFER), item, answer).map(|asked| format!("{asked:?}"));
        assert!(take("").expect("yes").contains("Accept"));
        assert!(take("NO").expect("no").contains("Pass"));
        assert_eq!(take("maybe"), Err("say y or n".into()));
        let resolved = |answer| match command_for(Question::InTheWay(TRANSFER), item, answer) {
            Ok(Command::Transfer(TransferCommand::Resolve { conflict, .. })) => Ok(conflict),
            Ok(other) => panic!("{other:?}"),
            Err(please) => Err(please),
        };
        assert_eq!(resolved(""), Ok(ConflictPolicy::Rename));
        assert_eq!(resolved("s"), Ok(ConflictPolicy::Skip));
        assert_eq!(resolved("Overwrite"), Ok(ConflictPolicy::Overwrite));
        assert_eq!(resolved("yes"), Err("say rename, skip or overwrite".into()));
    }
}
