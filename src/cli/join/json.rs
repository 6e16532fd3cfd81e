//! The face of a program: `docs/json.md`.

mod offers;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::cli::ask::{self, Tokens};
use crate::cli::consent::{Consent, Decision};
use crate::cli::json::{self, ErrorCode, Recipients, Request, Translator};
use crate::cli::roster::Roster;
use crate::cli::session::Answer;
use crate::cli::shelf::{Shelf, State};
use crate::core::transfer::{SendToken, SourceOptions, TransferEvent};
use crate::node::api::{Command, Event, To};
use crate::wire::UserId;
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;
use crate::wire::text::Name;

use offers::{Offers, Words};

/// What the JSON face knows.
pub struct JsonFace {
    translator: Translator,
    roster: Roster,
    shelf: Shelf,
    offers: Offers,
    consent: Consent,
    tokens: Tokens,
    /// What the script calls its requests to send, until they are answered.
    sending: BTreeMap<SendToken, Option<serde_json::Value>>,
}

/// What a line of input asks.
#[derive(Debug)]
pub enum Ask {
    /// This of the node.
    Command(Command),
    /// Who is here, likewise.
    Peers(Option<serde_json::Value>),
    /// For a one-time code.
    Code(Option<serde_json::Value>),
    /// To leave.
    Quit,
}

impl JsonFace {
    /// A fresh face.
    pub fn new(own: Name, invite: Option<String>, consent: Consent) -> Self {
        let (translator, roster) = (Translator::new(own.clone(), invite), Roster::new(own));
        let (tokens, sending) = (Tokens::default(), BTreeMap::new());
        let (shelf, offers) = (Shelf::default(), Offers::default());
        Self { translator, roster, shelf, offers, consent, tokens, sending }
    }

    /// How many peers are here.
    pub fn peers(&self) -> usize {
        self.roster.len()
    }

    /// The node says something: what is printed, and what is asked of the node at once.
    pub fn on_event(&mut self, event: &Event) -> (Option<json::Event>, Option<Command>) {
        self.roster.learn(event);
        self.roster.forget(event);
        let mut ask = None;
        if let Event::Transfer(event) = event {
            self.shelf.on_event(event, &self.roster);
            if let TransferEvent::Offered { from, offer, .. } = event {
                self.offers.tell(from, offer);
                let decision = self.consent.judge(from, &self.roster);
                ask = (decision == Decision::Accept).then(|| ask::accept(from, offer));
            }
            if let TransferEvent::Prepared { token, offer, left_out } = event {
                let r#ref = self.sending.remove(token).flatten();
                return (Some(Translator::sending(offer, *left_out, r#ref)), None);
            }
            if let TransferEvent::NotPrepared { token, error } = event {
                let r#ref = self.sending.remove(token).flatten();
                let message = error.to_string();
                return (Some(json::Event::Error { code: ErrorCode::CanNotSend, message, r#ref }), None);
            }
        }
        (self.translator.event(event), ask)
    }

    /// The node answers a question.
    pub fn on_answer(&self, answer: Answer) -> json::Event {
        let Answer { r#ref, peers } = answer;
        json::Event::Peers { peers: peers.iter().map(json::Peer::from).collect(), r#ref }
    }

    /// A line came in: what it asks, or the error to print.
    pub fn on_line(&mut self, line: &str) -> Result<Option<Ask>, Box<json::Event>> {
        if line.trim().is_empty() {
            return Ok(None);
        }
        let Request { command, r#ref } = Request::parse(line)?;
        self.ask(command, r#ref.clone())
            .map(Some)
            .map_err(|(code, message)| Box::new(json::Event::Error { code, message, r#ref }))
    }

    fn ask(
        &mut self,
        command: json::Command,
        r#ref: Option<serde_json::Value>,
    ) -> Result<Ask, (ErrorCode, String)> {
        Ok(Ask::Command(match command {
            json::Command::Say { text, to } => Command::Say { text, to: self.to(to)? },
            json::Command::Data { base64, to } => Command::Data { bytes: decode(&base64)?, to: self.to(to)? },
            json::Command::Send { paths, to, exclude, gitignore, follow } => {
                if paths.is_empty() || paths.iter().any(|path| path.as_os_str() == "-") {
                    return Err((
                        ErrorCode::BadCommand,
                        "paths must name at least one file, and not -".to_owned(),
                    ));
                }
                let to = self.to(to)?;
                let token = self.tokens.fresh();
                self.sending.insert(token, r#ref);
                ask::send(token, paths, to, SourceOptions { follow_links: follow, exclude, gitignore })
            }
            json::Command::Accept { transfer, from, name, files, folders, roots, bytes } => {
                let transfer = self.transfer(&transfer)?;
                let words = Words { from, name, files, folders, roots, bytes };
                let meant = self.offers.meant(&transfer, &words);
                let (from, offer) = meant.map_err(|error| (ErrorCode::BadCommand, error.to_string()))?;
                ask::accept(from, offer)
            }
            json::Command::Reject { transfer, from: None } => {
                let transfer = self.transfer(&transfer)?;
                self.shelf.decline(&transfer);
                ask::reject(transfer)
            }
            json::Command::Reject { transfer, from: Some(from) } => {
                let transfer = self.transfer(&transfer)?;
                let from = UserId::new(from).map_err(|error| (ErrorCode::NoSuchPeer, error.to_string()))?;
                ask::reject_from(&from, transfer)
            }
            json::Command::Resolve { transfer, conflict } => {
                let transfer = self.transfer(&transfer)?;
                if self.shelf.item(&transfer).is_none_or(|item| item.state != State::InTheWay) {
                    let message = "nothing is in the way of that transfer".to_owned();
                    return Err((ErrorCode::BadCommand, message));
                }
                ask::resolve(transfer, conflict)
            }
            json::Command::Name { name } => {
                let name: Name = name.parse().map_err(|error| (ErrorCode::BadCommand, format!("{error}")))?;
                self.roster.rename_self(name.clone());
                Command::Rename { name: name.to_string() }
            }
            json::Command::Ignore { peer, ignored } => Command::Ignore { peer: self.peer(&peer)?, ignored },
            json::Command::Peers => return Ok(Ask::Peers(r#ref)),
            json::Command::Code => return Ok(Ask::Code(r#ref)),
            json::Command::Quit => return Ok(Ask::Quit),
        }))
    }

    fn to(&self, to: Recipients) -> Result<To, (ErrorCode, String)> {
        let names = match to {
            Recipients::Everyone => return Ok(To::Everyone),
            Recipients::One(name) => vec![name],
            Recipients::Some(names) => names,
        };
        names.iter().map(|name| self.peer(name)).collect::<Result<_, _>>().map(To::Peers)
    }

    fn peer(&self, typed: &str) -> Result<crate::wire::UserId, (ErrorCode, String)> {
        self.roster.find_exactly(typed).map_err(|error| (ErrorCode::NoSuchPeer, error.to_string()))
    }

    fn transfer(&self, typed: &str) -> Result<crate::wire::TransferId, (ErrorCode, String)> {
        let unknown = || (ErrorCode::NoSuchTransfer, "that transfer is not known here".to_owned());
        let transfer = typed.parse().map_err(|_| unknown())?;
        self.shelf.item(&transfer).map(|_| transfer).ok_or_else(unknown)
    }
}

fn decode(base64: &str) -> Result<Bytes, (ErrorCode, String)> {
    let bytes = BASE64.decode(base64).map_err(|error| (ErrorCode::BadCommand, format!("base64: {error}")))?;
    if bytes.len() > CHANNEL_MESSAGE_MAX_BYTES {
        let message = format!("data has at most {CHANNEL_MESSAGE_MAX_BYTES} bytes, this has {}", bytes.len());
        return Err((ErrorCode::BadCommand, message));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::consent::tests::consent;
    use crate::cli::roster::tests::peer;
    use crate::cli::shelf::tests::{id, offer};
    use crate::core::transfer::{ConflictPolicy, OfferInfo, TransferCommand};
    use crate::wire::path::SafePath;

    fn face() -> JsonFace {
        let mut face = JsonFace::new("me".parse().expect("a name"), None, consent(false, &[], true));
        face.on_event(&Event::Opened(peer("1111", "ada")));
        face
    }

    fn asked(line: &str) -> String {
        match face().on_line(line) {
            Ok(Some(Ask::Command(command))) => format!("{command:?}"),
            Ok(ask) => format!("{ask:?}"),
            Err(event) => json::to_line(&event),
        }
    }

    #[test]
    fn commands_are_asked_of_the_node() {
        assert_eq!(asked(r#"{"cmd":"say","text":"hi"}"#), r#"Say { text: "hi", to: Everyone }"#);
        assert_eq!(
            asked(r#"{"cmd":"say","text":"hi","to":"ada"}"#),
            r#"Say { text: "hi", to: Peers(["1111"]) }"#
        );
        assert_eq!(
            asked(r#"{"cmd":"say","text":"hi","to":["1111"]}"#),
            r#"Say { text: "hi", to: Peers(["1111"]) }"#
        );
        assert_eq!(
            asked(r#"{"cmd":"data","base64":"AAEC"}"#),
            r#"Data { bytes: b"\0\x01\x02", to: Everyone }"#
        );
        assert_eq!(asked(r#"{"cmd":"peers","ref":7}"#), "Some(Peers(Some(Number(7))))");
        assert_eq!(asked(r#"{"cmd":"quit"}"#), "Some(Quit)");
        assert_eq!(asked(""), "None");
    }

    #[test]
    fn what_is_for_a_peer_that_left_is_for_nobody_else() {
        let mut face = face();
        face.on_event(&Event::Opened(peer("1111x", "eve")));
        let ignore = r#"{"cmd":"ignore","peer":"1111"}"#;
        let Ok(Some(Ask::Command(command))) = face.on_line(ignore) else { panic!("she is here") };
        assert_eq!(format!("{command:?}"), r#"Ignore { peer: "1111", ignored: true }"#);
        let reason = crate::node::api::CloseReason::Left;
        face.on_event(&Event::Closed { peer: peer("1111", "ada"), reason });
        for line in [ignore, r#"{"cmd":"say","text":"psst","to":"1111"}"#] {
            let error = face.on_line(line).expect_err("she is gone");
            assert!(matches!(*error, json::Event::Error { code: ErrorCode::NoSuchPeer, .. }), "{line}");
        }
    }

    #[test]
    fn a_bad_command_gets_an_error_under_its_name() {
        let error = |line: &str, code: &str| {
            let said = asked(line);
            assert!(said.starts_with(&format!(r#"{{"event":"error","code":"{code}""#)), "{line}: {said}");
            said
        };
        error("hello", "bad_command");
        error("[]", "bad_command");
        error(r#"{"cmd":"fly"}"#, "bad_command");
        // A misspelt `to` must not make a private line public.
        error(r#"{"cmd":"say","text":"psst","too":"ada"}"#, "bad_command");
        error(r#"{"cmd":"data","base64":"!"}"#, "bad_command");
        error(r#"{"cmd":"send","paths":["-"]}"#, "bad_command");
        error(r#"{"cmd":"name","name":"<>"}"#, "bad_command");
        error(r#"{"cmd":"accept","transfer":"00"}"#, "no_such_transfer");
        assert!(
            error(r#"{"cmd":"say","text":"hi","to":"eve","ref":"a"}"#, "no_such_peer")
                .ends_with(r#""ref":"a"}"#)
        );
    }

    #[test]
    fn an_offer_is_printed_and_can_be_accepted_by_its_id() {
        let mut face = face();
        let offered = TransferEvent::Offered {
            from: id("1111"),
            offer: offer(7, "a\u{202e}b", "1111"),
            free_bytes: None,
        };
        let (event, ask) = face.on_event(&Event::Transfer(offered));
        assert!(ask.is_none());
        let line = json::to_line(&event.expect("an offer is news"));
        assert!(line.contains(r#""name":"a\u202eb""#), "{line}");
        let accept = format!(r#"{{"cmd":"accept","transfer":"{}"}}"#, "07".repeat(32));
        let asked = face.on_line(&accept);
        assert!(matches!(asked, Ok(Some(Ask::Command(Command::Transfer(TransferCommand::Accept { .. }))))));
    }

    fn offered(face: &mut JsonFace, from: &str, offer: OfferInfo) {
        let offered = TransferEvent::Offered { from: id(from), offer, free_bytes: None };
        let (event, _) = face.on_event(&Event::Transfer(offered));
        assert!(matches!(event, Some(json::Event::Offer { .. })), "each offer is printed");
    }

    /// What a line of an `accept` with these fields takes: from whom, and under which name.
    fn accepted(face: &mut JsonFace, fields: &str) -> Result<(String, String), String> {
        let line = format!(r#"{{"cmd":"accept","transfer":"{}"{fields}}}"#, "07".repeat(32));
        match face.on_line(&line) {
            Ok(Some(Ask::Command(Command::Transfer(TransferCommand::Accept { from, offer, .. })))) => {
                Ok((from.to_string(), offer.name))
            }
            Ok(ask) => panic!("{ask:?}"),
            Err(error) => Err(json::to_line(&error)),
        }
    }

    #[test]
    fn an_answer_to_one_offer_is_none_to_another_that_took_its_place() {
        let mut face = face();
        let transfer = crate::wire::TransferId([7; 32]);
        offered(&mut face, "1111", offer(7, "a.txt", "1111"));
        let taken = |from: &str, name: &str| Ok((from.to_owned(), name.to_owned()));
        assert_eq!(accepted(&mut face, ""), taken("1111", "a.txt"));
        face.on_event(&Event::Transfer(TransferEvent::Withdrawn { transfer }));
        offered(&mut face, "1111", OfferInfo { bytes: 5_000_000_000, ..offer(7, ".bashrc", "1111") });
        let error = accepted(&mut face, "").expect_err("the script may have read the first only");
        assert!(error.contains("repeat the name and bytes that are meant"), "{error}");
        let old = accepted(&mut face, r#","name":"a.txt","bytes":1048576"#);
        assert!(old.is_err(), "that is not offered any more: {old:?}");
        let new = r#","name":".bashrc","bytes":5000000000"#;
        assert_eq!(accepted(&mut face, new), taken("1111", ".bashrc"));
    }

    #[test]
    fn of_offers_that_contradict_each_other_one_can_be_named() {
        let mut face = face();
        offered(&mut face, "1111", offer(7, "a.txt", "1111"));
        offered(&mut face, "2222", OfferInfo { folders: 9, ..offer(7, "a.txt", "2222") });
        let words = r#","name":"a.txt","bytes":1048576"#;
        let error = accepted(&mut face, words).expect_err("both fit");
        assert!(error.contains("several offers fit"), "{error}");
        let taken = |from: &str| Ok((from.to_owned(), "a.txt".to_owned()));
        assert_eq!(accepted(&mut face, &format!(r#"{words},"folders":9"#)), taken("2222"));
        assert_eq!(accepted(&mut face, &format!(r#"{words},"from":"1111""#)), taken("1111"));
    }

    #[test]
    fn of_those_who_say_the_same_the_first_is_meant() {
        let mut face = face();
        offered(&mut face, "1111", offer(7, "a.txt", "1111"));
        offered(&mut face, "!", offer(7, "a.txt", "1111"));
        let taken = |from: &str| Ok((from.to_owned(), "a.txt".to_owned()));
        assert_eq!(accepted(&mut face, ""), taken("1111"));
        assert_eq!(accepted(&mut face, r#","from":"!""#), taken("!"));
        offered(&mut face, "1111", offer(7, "b.txt", "1111"));
        offered(&mut face, "1111", offer(7, "a.txt", "1111"));
        let words = r#","name":"a.txt","bytes":1048576"#;
        assert_eq!(accepted(&mut face, words), taken("!"), "who changes its words is not first any more");
    }

    #[test]
    fn an_offer_can_be_rejected_because_of_its_peer() {
        let mut face = face();
        offered(&mut face, "1111", offer(7, "a.txt", "1111"));
        let line = format!(r#"{{"cmd":"reject","transfer":"{}","from":"1111"}}"#, "07".repeat(32));
        let asked = face.on_line(&line);
        let Ok(Some(Ask::Command(Command::Transfer(TransferCommand::RejectFrom { from, .. })))) = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!(from, id("1111"));
        assert_eq!(accepted(&mut face, "").map(|(from, _)| from), Ok("1111".to_owned()));
    }

    #[test]
    fn what_is_in_the_way_is_printed_and_resolved() {
        let mut face = face();
        let transfer = crate::wire::TransferId([7; 32]);
        let resolve = format!(r#"{{"cmd":"resolve","transfer":"{transfer}","conflict":"skip"}}"#);
        let accepting = TransferEvent::Accepting { from: id("1111"), offer: offer(7, "a", "1111") };
        face.on_event(&Event::Transfer(accepting));
        assert!(face.on_line(&resolve).is_err(), "nothing is in the way yet");
        let paths = vec![SafePath::parse("a").expect("a path")];
        let (event, ask) =
            face.on_event(&Event::Transfer(TransferEvent::Conflicts { transfer, paths, count: 1 }));
        assert!(ask.is_none());
        let line = json::to_line(&event.expect("it is news"));
        assert!(line.ends_with(r#""paths":["a"],"count":1}"#), "{line}");
        assert!(face.on_line(&resolve.replace("skip", "ask")).is_err(), "that is no answer");
        let asked = face.on_line(&resolve);
        let Ok(Some(Ask::Command(Command::Transfer(TransferCommand::Resolve { conflict, .. })))) = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!(conflict, ConflictPolicy::Skip);
    }

    #[test]
    fn files_are_sent_with_the_options_of_the_command_line() {
        let line = r#"{"cmd":"send","paths":["photos"],"exclude":["*.tmp"],"gitignore":true,"follow":true}"#;
        let said = asked(line);
        let options = r#"SourceOptions { follow_links: true, exclude: ["*.tmp"], gitignore: true }"#;
        assert!(said.contains(options), "{said}");
    }

    #[test]
    fn files_are_announced_under_the_name_of_the_request() {
        let mut face = face();
        let asked = face.on_line(r#"{"cmd":"send","paths":["film.mkv"],"ref":"f"}"#);
        let Ok(Some(Ask::Command(Command::Transfer(TransferCommand::Send { token, .. })))) = asked else {
            panic!("{asked:?}")
        };
        let prepared =
            Event::Transfer(TransferEvent::Prepared { token, offer: offer(7, "film.mkv", "0"), left_out: 0 });
        let Some(json::Event::Sending { r#ref, .. }) = face.on_event(&prepared).0 else {
            panic!("no answer")
        };
        assert_eq!(r#ref, Some("f".into()));
    }

    #[test]
    fn nothing_that_a_terminal_could_obey_is_printed_and_nothing_is_lost() {
        let text = "\u{1b}[2J\u{9b}1A\u{202e}\u{e0041}\u{7f}é😀\n";
        let (event, _) =
            face().on_event(&Event::Message { from: peer("1111", "ada"), text: text.into(), direct: false });
        let line = json::to_line(&event.expect("a message is news"));
        assert!(!line.contains(crate::wire::text::is_harmful), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(read["text"], text);
    }
}
