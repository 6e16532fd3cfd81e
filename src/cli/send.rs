//! `swarm send`: offers files to a room, waits for those who take them, and says how it went.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::args::SendArgs;
use super::ask;
use super::code::{self, Codes};
use super::config::{self, RoomConfig};
use super::desk::{Audience, Desk};
use super::exit::{Exit, Failure};
use super::format;
use super::join::exit_of;
use super::room::{self, Files};
use super::session::{Happening, Session, until};
use super::signals::Signals;
use super::term::{Ink, SavedTerminal};
use crate::core::transfer::{SendToken, SourceOptions, TransferEvent};
use crate::node::api::{Event, PeerKind, To};
use crate::wire::code::Code;
use crate::wire::text;
use crate::wire::{TransferId, UserId};

/// Runs `swarm send`.
pub async fn run(args: SendArgs) -> Result<Exit, Failure> {
    let (paths, invite, code) = split_invite(&args.paths);
    if paths.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "there is nothing to send in front of the invite: swarm send PATH… INVITE",
        ));
    }
    look_at(&paths)?;
    let audience = if args.json { Audience::Program } else { Audience::People };
    let invite = code::exchange(&args.room, invite, code, audience).await?;
    let config = RoomConfig::resolve(&args.room, invite.as_ref())?;
    let saved = SavedTerminal::save();
    let signals = Signals::listen(move || saved.restore())?;
    let mut room = room::enter(&config, Files::unwanted()).await?;
    let server = room.server.take();
    let mut desk = Desk::new(audience, config.name.clone(), config.place.is_keyed(), &room.invite.reveal());
    desk.tell_invite(&room, config.telling, "recv")?;
    let mut session = Session::new(room.node.commands, room.node.events, None, signals);
    if args.room.code {
        Codes::new(&config, &room.invite, session.code_news())?.open(None);
    }
    let (options, to) = (args.source.options(), args.source.to.clone());
    let plan = Plan { paths, options, to, receivers: args.receivers };
    let patience = args.timeout.map(Duration::from_secs);
    let result = deliver(&mut session, &mut desk, plan, patience).await;
    desk.close(&result)?;
    if let Some(server) = server {
        server.close().await;
    }
    result
}

/// Nobody is bothered for a file that is not there.
fn look_at(paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths.iter().filter(|path| path.as_os_str() != "-") {
        if let Err(error) = std::fs::symlink_metadata(path) {
            let path = path.to_string_lossy();
            let path = text::line(&path, 300);
            return Err(Failure::new(
                Exit::Failed,
                format!("can't read {path}: {error}; is the name right?"),
            ));
        }
    }
    Ok(())
}

/// The paths, and the invite if the last argument is one, or the server's address and the one-time code if the last two are.
fn split_invite(arguments: &[String]) -> (Vec<PathBuf>, Option<&str>, Option<&str>) {
    if let [paths @ .., server, code] = arguments
        && config::is_invite(server)
        && Code::is_meant(code)
    {
        return (paths.iter().map(PathBuf::from).collect(), Some(server), Some(code));
    }
    let invite = arguments.last().map(String::as_str).filter(|last| config::is_invite(last));
    let count = arguments.len() - usize::from(invite.is_some());
    (arguments[..count].iter().map(PathBuf::from).collect(), invite, None)
}

/// What is to be done.
struct Plan {
    paths: Vec<PathBuf>,
    options: SourceOptions,
    to: Vec<String>,
    receivers: Option<usize>,
}

async fn deliver(
    session: &mut Session,
    desk: &mut Desk,
    mut plan: Plan,
    patience: Option<Duration>,
) -> Result<Exit, Failure> {
    let mut delivery = Delivery::new(plan.receivers);
    let mut verdict: Option<Result<Exit, Failure>> = None;
    let mut give_up_at = patience.map(|patience| Instant::now() + patience);
    loop {
        let happening = tokio::select! {
            happening = session.next(false) => happening,
            () = until(give_up_at) => {
                give_up_at = None;
                verdict.get_or_insert_with(|| delivery.given_up(desk));
                session.leave();
                continue;
            }
        };
        match happening {
            Happening::Event(event) => {
                desk.tell(&event)?;
                if delivery.on_event(&event) {
                    give_up_at = patience.map(|patience| Instant::now() + patience);
                }
                if let Some(to) = audience(&plan, desk) {
                    if let To::Peers(peers) = &to {
                        delivery.only(peers);
                    }
                    let token = SendToken(1);
                    let options = std::mem::take(&mut plan.options);
                    session.ask(ask::send(token, std::mem::take(&mut plan.paths), to, options));
                }
                if verdict.is_none()
                    && let Some(result) = delivery.verdict(desk)
                {
                    verdict = Some(result);
                    session.leave();
                }
            }
            Happening::Interrupted if session.is_leaving() => return Ok(Exit::Incomplete),
            Happening::Interrupted => {
                verdict.get_or_insert_with(|| delivery.given_up(desk));
                session.leave();
            }
            Happening::Code(news) => desk.tell_code(&news, "recv")?,
            Happening::Input(_) | Happening::Answer(_) => {}
            Happening::Ended(ended) => return verdict.unwrap_or_else(|| exit_of(ended.as_ref())),
        }
    }
}

/// To whom, once everyone who is named is here; `None` while somebody is missing, or when it is on its way already.
fn audience(plan: &Plan, desk: &Desk) -> Option<To> {
    if plan.paths.is_empty() {
        return None;
    }
    if plan.to.is_empty() {
        return Some(To::Everyone);
    }
    plan.to.iter().map(|name| desk.roster.find_exactly(name).ok()).collect::<Option<Vec<_>>>().map(To::Peers)
}

/// What became of one peer that could take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    /// Has not answered.
    Asked,
    Taking,
    Has,
    Declined,
    /// Left or failed while it was taking.
    Lost,
}

/// Who takes it, and whether that is enough.
#[derive(Debug)]
struct Delivery {
    receivers: Option<usize>,
    transfer: Option<TransferId>,
    failed: Option<String>,
    /// Those who are meant, where not everyone is.
    only: Option<BTreeSet<UserId>>,
    parties: BTreeMap<UserId, Party>,
}

impl Delivery {
    fn new(receivers: Option<usize>) -> Self {
        Self { receivers, transfer: None, failed: None, only: None, parties: BTreeMap::new() }
    }

    /// Only these peers are meant.
    fn only(&mut self, peers: &[UserId]) {
        let only: BTreeSet<UserId> = peers.iter().cloned().collect();
        self.parties.retain(|id, _| only.contains(id));
        self.only = Some(only);
    }

    fn is_meant(&self, id: &UserId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(id))
    }

    /// Takes news in. `true` if something moved.
    fn on_event(&mut self, event: &Event) -> bool {
        match event {
            Event::Opened(peer) if peer.kind == PeerKind::Swarm && self.is_meant(&peer.id) => {
                let party = self.parties.entry(peer.id.clone()).or_insert(Party::Asked);
                // Somebody who comes back takes it up again.
                if *party == Party::Lost {
                    *party = Party::Asked;
                }
                true
            }
            Event::Closed { peer, .. } => {
                self.parties.retain(|id, party| *id != peer.id || *party != Party::Asked);
                false
            }
            Event::Transfer(event) => self.on_transfer(event),
            Event::Ready { .. }
            | Event::Signaling(_)
            | Event::Opened(_)
            | Event::Renamed { .. }
            | Event::Message { .. }
            | Event::Data { .. }
            | Event::PeerFailed { .. }
            | Event::IceServer(_)
            | Event::Ended(_) => false,
        }
    }

    fn on_transfer(&mut self, event: &TransferEvent) -> bool {
        match event {
            TransferEvent::Prepared { offer, .. } => self.transfer = Some(offer.transfer),
            TransferEvent::NotPrepared { error, .. } => self.failed = Some(error.to_string()),
            TransferEvent::Failed { reason, .. } => self.failed = Some(reason.to_string()),
            TransferEvent::Accepted { peer, .. } => drop(self.parties.insert(peer.clone(), Party::Taking)),
            TransferEvent::Delivered { peer, .. } => drop(self.parties.insert(peer.clone(), Party::Has)),
            TransferEvent::Declined { peer, .. } => drop(self.parties.insert(peer.clone(), Party::Declined)),
            TransferEvent::Undelivered { peer, .. } => drop(self.parties.insert(peer.clone(), Party::Lost)),
            TransferEvent::Preparing { .. } | TransferEvent::Progress(_) => {}
            TransferEvent::Offered { .. }
            | TransferEvent::Withdrawn { .. }
            | TransferEvent::Accepting { .. }
            | TransferEvent::Refused { .. }
            | TransferEvent::Conflicts { .. }
            | TransferEvent::Resumed { .. }
            | TransferEvent::Stalled { .. }
            | TransferEvent::Done { .. }
            | TransferEvent::Silent { .. }
            | TransferEvent::PeerCutOff { .. } => return false,
        }
        true
    }

    fn count(&self, party: Party) -> usize {
        self.parties.values().filter(|one| **one == party).count()
    }

    /// Whether it is over, and how.
    fn verdict(&self, desk: &Desk) -> Option<Result<Exit, Failure>> {
        if let Some(reason) = &self.failed {
            return Some(Err(Failure::new(Exit::Failed, format!("can't send that: {reason}"))));
        }
        self.transfer?;
        let has = self.count(Party::Has);
        let enough = match self.receivers {
            Some(wanted) => has >= wanted,
            None => {
                let open = self.count(Party::Asked) + self.count(Party::Taking);
                open == 0 && !self.parties.is_empty()
            }
        };
        enough.then(|| self.outcome(desk))
    }

    /// How it went, told in one line.
    fn outcome(&self, desk: &Desk) -> Result<Exit, Failure> {
        let item = self.transfer.and_then(|transfer| desk.shelf.item(&transfer));
        let summary = item.map(|item| item.sent_summary()).unwrap_or_default();
        let (has, lost, declined) = (
            self.count(Party::Has),
            self.count(Party::Lost) + self.count(Party::Taking),
            self.count(Party::Declined),
        );
        match (has, lost, declined) {
            (0, 0, 0) => Err(Failure::new(Exit::Failed, "nobody came to take it")),
            (0, 0, _) => {
                Err(Failure::new(Exit::Refused, format!("declined by {}", format::count(declined, "peer"))))
            }
            (_, 0, _) => {
                desk.note(Ink::Good, summary);
                Ok(Exit::Done)
            }
            (_, _, _) => Err(Failure::new(Exit::Incomplete, format!("{summary}; send it again to go on"))),
        }
    }

    /// How it went if it ends now.
    fn given_up(&self, desk: &Desk) -> Result<Exit, Failure> {
        let missing = self.receivers.is_some_and(|wanted| self.count(Party::Has) < wanted);
        match self.outcome(desk) {
            Ok(_) if missing || self.count(Party::Asked) > 0 => {
                Err(Failure::new(Exit::Incomplete, "not everyone has it; send it again to go on"))
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::roster::tests::peer;
    use crate::cli::shelf::tests::{id, offer};
    use crate::core::transfer::DeclineReason;
    use crate::node::api::CloseReason;

    const TRANSFER: TransferId = TransferId([1; 32]);

    fn feed(receivers: Option<usize>, events: &[Event]) -> Option<Result<Exit, String>> {
        let mut desk = Desk::new(Audience::People, "me".parse().expect("a name"), true, "");
        let mut delivery = Delivery::new(receivers);
        for event in events {
            desk.tell(event).expect("stderr");
            delivery.on_event(event);
        }
        delivery
            .verdict(&desk)
            .map(|result| result.map_err(|failure| format!("{:?} {failure}", failure.exit())))
    }

    fn opened(who: &str) -> Event {
        Event::Opened(peer(who, who))
    }

    fn prepared() -> Event {
        Event::Transfer(TransferEvent::Prepared {
            token: SendToken(1),
            offer: offer(1, "film.mkv", "0"),
            left_out: 0,
        })
    }

    fn accepted(who: &str) -> Event {
        Event::Transfer(TransferEvent::Accepted { transfer: TRANSFER, peer: id(who) })
    }

    fn delivered(who: &str) -> Event {
        let (from_origin_bytes, from_others_bytes) = (1 << 20, 0);
        Event::Transfer(TransferEvent::Delivered {
            transfer: TRANSFER,
            peer: id(who),
            from_origin_bytes,
            from_others_bytes,
        })
    }

    fn declined(who: &str) -> Event {
        let reason = DeclineReason::NotWanted;
        Event::Transfer(TransferEvent::Declined { transfer: TRANSFER, peer: id(who), reason })
    }

    #[test]
    fn it_is_over_when_everyone_who_is_here_has_it_or_said_no() {
        let mut story = vec![prepared()];
        assert_eq!(feed(None, &story), None, "nobody is here yet");
        story.extend([opened("1111"), opened("2222"), accepted("1111"), delivered("1111")]);
        assert_eq!(feed(None, &story), None, "2222 has not answered");
        story.push(declined("2222"));
        assert_eq!(feed(None, &story), Some(Ok(Exit::Done)));
    }

    #[test]
    fn who_leaves_without_an_answer_is_not_waited_for() {
        let left = Event::Closed { peer: peer("2222", "2222"), reason: CloseReason::Left };
        let story = [prepared(), opened("1111"), opened("2222"), accepted("1111"), delivered("1111"), left];
        assert_eq!(feed(None, &story), Some(Ok(Exit::Done)));
    }

    #[test]
    fn a_number_of_receivers_is_waited_for() {
        let story = [prepared(), opened("1111"), accepted("1111"), delivered("1111")];
        assert_eq!(feed(Some(2), &story), None);
        assert_eq!(feed(Some(1), &story), Some(Ok(Exit::Done)));
    }

    #[test]
    fn who_is_not_meant_is_not_waited_for() {
        let mut delivery = Delivery::new(None);
        delivery.on_event(&opened("1111"));
        delivery.on_event(&opened("2222"));
        delivery.only(&[id("1111")]);
        delivery.on_event(&opened("3333"));
        for event in [prepared(), accepted("1111"), delivered("1111")] {
            delivery.on_event(&event);
        }
        let desk = Desk::new(Audience::People, "me".parse().expect("a name"), true, "");
        assert!(matches!(delivery.verdict(&desk), Some(Ok(Exit::Done))));
    }

    #[test]
    fn files_for_an_id_wait_for_that_id() {
        let mut desk = Desk::new(Audience::People, "me".parse().expect("a name"), true, "");
        let (paths, to) = (vec!["film.mkv".into()], vec!["1111".to_owned()]);
        let plan = Plan { paths, options: SourceOptions::default(), to, receivers: None };
        desk.tell(&opened("1111x")).expect("stderr");
        assert!(audience(&plan, &desk).is_none(), "it only begins so");
        desk.tell(&opened("1111")).expect("stderr");
        let Some(To::Peers(peers)) = audience(&plan, &desk) else { panic!("it is here") };
        assert_eq!(peers, [id("1111")]);
    }

    #[test]
    fn a_no_from_everyone_is_a_refusal() {
        let story = [prepared(), opened("1111"), declined("1111")];
        assert_eq!(feed(None, &story), Some(Err("Refused swarm: declined by 1 peer".into())));
    }

    #[test]
    fn a_receiver_that_is_lost_makes_it_incomplete() {
        let lost = Event::Transfer(TransferEvent::Undelivered {
            transfer: TRANSFER,
            peer: id("2222"),
            reason: None,
        });
        let mut story = vec![prepared(), opened("1111"), opened("2222"), accepted("1111"), accepted("2222")];
        story.extend([delivered("1111"), lost]);
        let verdict = feed(None, &story).expect("over").expect_err("incomplete");
        assert!(verdict.starts_with("Incomplete swarm: film.mkv was delivered to 1 of 2"), "{verdict}");
    }

    #[test]
    fn the_last_argument_may_be_the_invite() {
        let arguments =
            |list: &[&str]| list.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
        let both = arguments(&["a", "b", "ws://h/r"]);
        assert_eq!(split_invite(&both), (vec!["a".into(), "b".into()], Some("ws://h/r"), None));
        assert_eq!(split_invite(&arguments(&["a"])), (vec!["a".into()], None, None));
        let code = arguments(&["a", "ws://h", "7-guitar-bacon"]);
        assert_eq!(split_invite(&code), (vec!["a".into()], Some("ws://h"), Some("7-guitar-bacon")));
        let two_files = arguments(&["a", "7-guitar-bacon"]);
        assert_eq!(split_invite(&two_files), (vec!["a".into(), "7-guitar-bacon".into()], None, None));
    }
}
