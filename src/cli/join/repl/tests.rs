//! Events and typed lines in; lines to show and things to ask out.

use std::ops::{Deref, DerefMut};

use super::*;
use crate::cli::consent::REACTION;
use crate::cli::consent::tests::consent;
use crate::cli::roster::tests::{peer, roster};
use crate::cli::shelf::tests::{id, offer};
use crate::core::transfer::{ConflictPolicy, Direction, OfferInfo, Progress, TransferCommand, TransferEvent};
use crate::node::api::CloseReason;
use crate::wire::TransferId;
use crate::wire::path::SafePath;

/// Somebody who reads everything before they type.
struct Reader {
    repl: Repl,
    now: Instant,
}

impl Reader {
    fn on_event(&mut self, event: &Event) -> Step {
        self.repl.on_event(self.now, event)
    }

    fn on_line(&mut self, line: &str) -> Step {
        self.now += REACTION;
        self.repl.on_line(self.now, line)
    }

    /// Types without having read what came last.
    fn blurt(&mut self, line: &str) -> Step {
        self.repl.on_line(self.now, line)
    }
}

impl Deref for Reader {
    type Target = Repl;

    fn deref(&self) -> &Repl {
        &self.repl
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Repl {
        &mut self.repl
    }
}

fn repl(accept_from: &[&str]) -> Reader {
    let repl = Repl::new(Settings {
        roster: roster(&[("1111", "ada"), ("2222", "bob")]),
        shelf: Shelf::default(),
        consent: consent(false, accept_from, true),
        palette: Palette::PLAIN,
        keyed: true,
        invite: Some("ws://h/r#k".into()),
        now: || "12:01".into(),
    });
    Reader { repl, now: Instant::now() }
}

fn message(text: &str, direct: bool) -> Event {
    Event::Message { from: peer("1111", "ada"), text: text.into(), direct }
}

#[test]
fn lines_stand_behind_the_time_and_the_name() {
    let mut repl = repl(&[]);
    assert_eq!(
        repl.on_event(&message("hello\nworld", false)).lines,
        ["12:01 <ada> hello", "            world"]
    );
    assert_eq!(repl.on_event(&message("/me waves", false)).lines, ["12:01 * <ada> waves"]);
    assert_eq!(repl.on_event(&message("psst", true)).lines, ["\x0712:01 (to you) <ada> psst"]);
    assert_eq!(repl.on_event(&message("hi me!", false)).lines, ["\x0712:01 <ada> hi me!"]);
}

#[test]
fn nothing_that_a_peer_says_can_pretend_to_be_another_line() {
    let mut repl = repl(&[]);
    repl.set_columns(40);
    let forged = format!("hi{}12:02 <bob> I owe you", " ".repeat(38));
    for line in repl.on_event(&message(&forged, false)).lines.iter().skip(1) {
        assert!(line.starts_with("            "), "{line:?}");
    }
    let escapes = repl.on_event(&message("\x1b[1A\r12:02 <bob> hi", false)).lines;
    assert_eq!(escapes, ["12:01 <ada> ␛[1A␍12:02 <bob> hi"]);
}

/// All rows but the first begin with a space, and none is wrapped by the terminal.
fn assert_folded(lines: &[String], columns: usize) {
    assert!(lines.len() > 1 && lines[1..].iter().all(|line| line.starts_with("  ")), "{lines:?}");
    assert!(lines.iter().all(|line| term::width(line.trim_start_matches(BELL)) <= columns), "{lines:?}");
}

#[test]
fn no_name_of_an_offer_begins_a_row_of_its_own() {
    let mut repl = repl(&[]);
    let forged = format!("{}12:02 <bob> take number 2, it is mine", " ".repeat(9));
    for (byte, name) in [(1, "a name of thirty characters .txt"), (2, &forged)] {
        assert_folded(&repl.on_event(&offered(byte, name)).lines, 80);
    }
    assert_folded(&repl.on_line("/accept").lines, 80);
    repl.set_columns(40);
    let lines = repl.on_line("/transfers").lines;
    assert_folded(&lines[..2], 40);
    assert_folded(&lines[2..], 40);
}

#[test]
fn of_many_offers_that_wait_three_are_named() {
    let mut repl = repl(&[]);
    for byte in 1..=5 {
        repl.on_event(&offered(byte, &format!("{byte}.txt")));
    }
    let asked =
        "more than one waits; say which: 1 (1.txt), 2 (2.txt), 3 (3.txt) and 2 more; /transfers shows them";
    repl.set_columns(200);
    assert_eq!(repl.on_line("/accept").lines, [asked]);
}

#[test]
fn however_long_a_name_is_nothing_that_is_said_begins_a_row_of_its_own() {
    for (columns, name) in
        [40, 80].into_iter().flat_map(|columns| ["a", "你"].map(|c| (columns, c.repeat(32))))
    {
        let mut repl = repl(&[]);
        repl.set_columns(columns);
        for text in ["12:02 <bob> I owe you 100 euros", "/me waves\nand says 12:02 <bob> hi"] {
            let event = Event::Message { from: peer("1111", &name), text: text.into(), direct: true };
            assert_folded(&repl.on_event(&event).lines, columns);
        }
    }
}

#[test]
fn the_table_of_peers_is_folded_where_it_is_wider_than_the_terminal() {
    let mut repl = repl(&[]);
    let ada = peer("12:02<bob>hi", &"你".repeat(32));
    repl.on_event(&Event::Opened(ada.clone()));
    let lines = repl.peers(&[ada]);
    assert_folded(&lines[..2], 80);
    assert_folded(&lines[2..], 80);
}

#[test]
fn who_is_not_verified_is_marked_in_every_line() {
    let mut repl = repl(&[]);
    let mut ada = peer("1111", "ada");
    ada.verified = false;
    let event = Event::Message { from: ada, text: "hi".into(), direct: false };
    assert_eq!(repl.on_event(&event).lines, ["12:01 <ada #?> hi"]);
}

/// What a line says of where it came from: direct, an action, by whom, in doubt.
fn head(line: &str) -> (bool, bool, String, bool) {
    let rest = line.trim_start_matches(BELL).strip_prefix("12:01 ").expect("a time");
    let (direct, rest) = rest.strip_prefix("(to you) ").map_or((false, rest), |rest| (true, rest));
    let (action, rest) = rest.strip_prefix("* ").map_or((false, rest), |rest| (true, rest));
    let (speaker, _) = rest.strip_prefix('<').and_then(|rest| rest.split_once("> ")).expect("a border");
    let (label, doubt) = speaker.strip_suffix(" #?").map_or((speaker, false), |label| (label, true));
    (direct, action, label.to_owned(), doubt)
}

#[test]
fn whatever_names_peers_take_each_line_shows_who_said_it_and_to_whom() {
    let names =
        ["ada", "ada to you", "(to you) ada", "ada approves", "* ada", "ada?", "ada #?", "", "you", "me"];
    let ids = ["1111", "1111>", "#?", "1111>x", "<ada>", "(to", "*"];
    let texts = ["hi", "> hi", "/me waves", "(to you) psst", "#?> hi", "/me > you"];
    for (name, id) in names.into_iter().flat_map(|name| ids.map(|id| (name, id))) {
        let mut repl = repl(&[]);
        repl.set_columns(200);
        for (text, direct, verified) in texts.into_iter().flat_map(|text| {
            [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| (text, a, b))
        }) {
            let mut from = peer(id, name);
            from.verified = verified;
            let event = Event::Message { from, text: text.into(), direct };
            let line = repl.on_event(&event).lines.join("\n");
            let label = repl.roster.label(&UserId::new(id).expect("an id"));
            assert_eq!(head(&line), (direct, text.starts_with("/me"), label, !verified), "{line}");
        }
    }
}

#[test]
fn a_peer_that_leaves_is_named_one_last_time() {
    let mut repl = repl(&[]);
    let closed = Event::Closed { peer: peer("1111", "ada"), reason: CloseReason::Left };
    assert_eq!(repl.on_event(&closed).lines, ["12:01 - ada left"]);
    assert_eq!(repl.labels(), ["bob"]);
}

#[test]
fn what_is_typed_is_asked_of_the_node() {
    let mut repl = repl(&[]);
    let asked = |step: Step| match step.asks.as_slice() {
        [Ask::Command(command)] => format!("{command:?}"),
        asks => format!("{asks:?} {:?}", step.lines),
    };
    assert_eq!(asked(repl.on_line("hi")), r#"Say { text: "hi", to: Everyone }"#);
    assert_eq!(asked(repl.on_line("/nick eve")), r#"Rename { name: "eve" }"#);
    assert_eq!(repl.prompt(), "eve> ");
    assert_eq!(asked(repl.on_line("/ignore bob")), r#"Ignore { peer: "2222", ignored: true }"#);
    assert!(asked(repl.on_line("/send a b")).contains(r#"paths: ["a", "b"]"#));
    assert_eq!(asked(repl.on_line("/quit")), "[Quit] []");
    assert_eq!(
        asked(repl.on_line("/msg eve hi")),
        r#"[] ["nobody here is called eve; /peers shows who is here"]"#
    );
    assert_eq!(asked(repl.on_line("/accept")), r#"[] ["nothing waits for an answer"]"#);
}

#[test]
fn what_is_said_to_one_is_shown_with_whom_it_went_to() {
    let mut repl = repl(&[]);
    let step = repl.on_line("/msg ada hi you");
    assert_eq!(step.lines, ["12:01 (to ada) <me> hi you"]);
    let [Ask::Command(command)] = step.asks.as_slice() else { panic!("{:?}", step.asks) };
    assert_eq!(format!("{command:?}"), r#"Say { text: "hi you", to: Peers(["1111"]) }"#);
    assert_eq!(repl.on_line("/msg 2222 /me waves").lines, ["12:01 (to bob) * <me> waves"]);

    repl.on_event(&Event::Opened(peer("3333", "ada the")));
    repl.set_columns(100);
    let step = repl.on_line("/msg ada the password is hunter2");
    assert!(step.asks.is_empty());
    let way_out = "write 1111 for ada, 3333 for ada the";
    assert_eq!(step.lines, [format!("that can be for more than one: instead of the name, {way_out}")]);
    assert_eq!(
        repl.on_line("/msg 1111 the password is hunter2").lines,
        ["12:01 (to ada) <me> the password is hunter2"]
    );
}

#[test]
fn an_offer_is_accepted_by_number_or_by_who_sends_it() {
    let offered = |from: &str| {
        let offer = offer(7, "film.mkv", from);
        Event::Transfer(TransferEvent::Offered { from: id(from), offer, free_bytes: None })
    };
    let mut careful = repl(&["bob"]);
    let step = careful.on_event(&offered("1111"));
    assert_eq!(step.lines, ["\x0712:01 - ada offers film.mkv (1.0 MiB): /accept 1 or /reject 1"]);
    assert!(step.asks.is_empty());
    let accepted = careful.on_line("/accept").asks;
    assert!(matches!(accepted.as_slice(), [Ask::Command(Command::Transfer(TransferCommand::Accept { .. }))]));
    let step = repl(&["bob"]).on_event(&offered("2222"));
    let asks = step.asks.as_slice();
    assert!(matches!(asks, [Ask::Command(Command::Transfer(TransferCommand::Accept { .. }))]), "{asks:?}");
}

fn offered(byte: u8, name: &str) -> Event {
    let offer = offer(byte, name, "1111");
    Event::Transfer(TransferEvent::Offered { from: id("1111"), offer, free_bytes: None })
}

#[test]
fn an_offer_of_a_folder_that_is_there_says_so_before_it_is_accepted() {
    let out = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(out.path().join("album")).expect("made");
    let mut repl = repl(&[]);
    repl.shelf = Shelf::receiving_into(out.path().to_owned());
    repl.set_columns(200);
    let offer = OfferInfo { files: 2, folders: 1, ..offer(1, "album", "1111") };
    let offered = TransferEvent::Offered { from: id("1111"), offer, free_bytes: None };
    let said = "ada offers album (2 files, 1.0 MiB; into the folder album, which is there already)";
    let lines = repl.on_event(&Event::Transfer(offered)).lines;
    assert_eq!(lines, [format!("\x0712:01 - {said}: /accept 1 or /reject 1")]);
}

/// What a step accepts or resolves, and what it says.
fn outcome(step: Step) -> (Vec<TransferId>, Vec<String>) {
    let meant = |ask: Ask| {
        let Ask::Command(Command::Transfer(
            TransferCommand::Accept { offer: OfferInfo { transfer, .. }, .. }
            | TransferCommand::Resolve { transfer, .. },
        )) = ask
        else {
            panic!("{ask:?}")
        };
        transfer
    };
    (step.asks.into_iter().map(meant).collect(), step.lines)
}

#[test]
fn no_answer_means_an_offer_that_could_not_be_read_yet() {
    let just_now = || vec!["that was offered or asked only now: read it, and say that again".to_owned()];
    let (first, second) = (TransferId([1; 32]), TransferId([2; 32]));
    let mut repl = repl(&[]);
    repl.on_event(&offered(1, "small.txt"));
    for typed in ["/accept", "/accept 1", "/accept all"] {
        assert_eq!(outcome(repl.blurt(typed)), (vec![], just_now()), "{typed}");
    }
    repl.now += REACTION;
    repl.on_event(&offered(2, "other.txt"));
    assert_eq!(outcome(repl.blurt("/accept all")), (vec![first], just_now()));
    assert_eq!(outcome(repl.blurt("/accept 1")), (vec![first], vec![]));
    assert_eq!(outcome(repl.on_line("/accept all")), (vec![first, second], vec![]));

    let accepting = TransferEvent::Accepting { from: id("1111"), offer: offer(1, "small.txt", "1111") };
    repl.on_event(&Event::Transfer(accepting));
    let conflicts = TransferEvent::Conflicts { transfer: first, paths: Vec::new(), count: 1 };
    repl.on_event(&Event::Transfer(conflicts));
    assert_eq!(outcome(repl.blurt("/resolve overwrite")), (vec![], just_now()));
    assert_eq!(outcome(repl.on_line("/resolve overwrite")), (vec![first], vec![]));
}

#[test]
fn an_offer_in_other_words_has_another_number() {
    let mut repl = repl(&[]);
    repl.on_event(&offered(1, "small.txt"));
    repl.on_event(&Event::Transfer(TransferEvent::Withdrawn { transfer: TransferId([1; 32]) }));
    let step = repl.on_event(&offered(1, "small.txt"));
    assert_eq!(
        step.lines,
        ["\x0712:01 - ada offers small.txt (1.0 MiB): /accept 1 or /reject 1"],
        "the same"
    );
    repl.on_event(&Event::Transfer(TransferEvent::Withdrawn { transfer: TransferId([1; 32]) }));
    let step = repl.on_event(&offered(1, ".profile"));
    assert_eq!(step.lines, ["\x0712:01 - ada offers .profile (1.0 MiB): /accept 2 or /reject 2"]);
    assert_eq!(repl.on_line("/accept 1").lines, ["there is no transfer 1; /transfers shows them"]);
    assert_eq!(outcome(repl.on_line("/accept 2")).0, [TransferId([1; 32])]);
}

#[test]
fn an_offer_that_others_make_too_is_asked_about_once_in_the_words_of_the_first() {
    let mut repl = repl(&["bob"]);
    let offered = |from: &str, name: &str| {
        let offer = offer(7, name, from);
        Event::Transfer(TransferEvent::Offered { from: id(from), offer, free_bytes: None })
    };
    repl.on_event(&offered("1111", "small.txt"));
    for name in ["small.txt", ".profile"] {
        assert!(repl.on_event(&offered("3333", name)).lines.is_empty());
    }
    let asks = repl.on_line("/accept").asks;
    let [Ask::Command(Command::Transfer(TransferCommand::Accept { from, offer, .. }))] = &asks[..] else {
        panic!("{asks:?}")
    };
    assert_eq!((from, &offer.name[..]), (&id("1111"), "small.txt"));
    let asks = repl.on_event(&offered("2222", "small.txt")).asks;
    let [Ask::Command(Command::Transfer(TransferCommand::Accept { from, .. }))] = &asks[..] else {
        panic!("{asks:?}")
    };
    assert_eq!(*from, id("2222"), "bob is trusted, whoever came first");
}

#[test]
fn what_is_in_the_way_is_asked_and_resolved() {
    let mut repl = repl(&[]);
    let transfer = TransferId([7; 32]);
    let accepting = TransferEvent::Accepting { from: id("1111"), offer: offer(7, "photos", "1111") };
    repl.on_event(&Event::Transfer(accepting));
    let paths = ["photos/a.jpg", "b"].map(|path| SafePath::parse(path).expect("a path")).to_vec();
    let conflicts = Event::Transfer(TransferEvent::Conflicts { transfer, paths, count: 9 });
    let lines = repl.on_event(&conflicts).lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let asked = "- of photos, 9 files are there already: photos/a.jpg, b and 7 more: /resolve 1 rename, skip or overwrite";
    assert!(lines.ends_with(asked), "{lines}");
    assert!(lines.starts_with(BELL));
    assert!(repl.status().contains("1 transfer in question: /resolve"));
    let asks = repl.on_line("/resolve skip").asks;
    let [Ask::Command(Command::Transfer(TransferCommand::Resolve { conflict, .. }))] = asks[..] else {
        panic!("{asks:?}")
    };
    assert_eq!(conflict, ConflictPolicy::Skip);
    repl.on_event(&Event::Transfer(TransferEvent::Resumed { transfer, bytes: 1, total: 2 }));
    assert_eq!(repl.on_line("/resolve skip").lines, ["nothing waits for an answer"]);
}

#[test]
fn what_was_rejected_waits_no_more() {
    let mut repl = repl(&[]);
    let offer = offer(7, "film.mkv", "1111");
    let offered = TransferEvent::Offered { from: id("1111"), offer, free_bytes: None };
    repl.on_event(&Event::Transfer(offered));
    assert!(repl.status().contains("1 offer waiting"));
    assert!(matches!(
        repl.on_line("/reject").asks.as_slice(),
        [Ask::Command(Command::Transfer(TransferCommand::Pass { .. }))]
    ));
    assert_eq!(repl.status(), "  2 others here");
    assert_eq!(repl.on_line("/accept").lines, ["nothing waits for an answer"]);
}

#[test]
fn a_no_to_one_who_offers_something_is_followed_by_the_question_about_the_next() {
    let mut repl = repl(&[]);
    let offered = |from: &str| {
        let offer = offer(7, "holiday.zip", "1111");
        Event::Transfer(TransferEvent::Offered { from: id(from), offer, free_bytes: None })
    };
    repl.on_event(&offered("3333"));
    assert!(repl.on_event(&offered("1111")).lines.is_empty(), "one question at a time");
    for who in ["3333", "1111"] {
        let asks = repl.on_line("/reject").asks;
        let [Ask::Command(Command::Transfer(TransferCommand::Pass { from, .. }))] = &asks[..] else {
            panic!("{asks:?}")
        };
        assert_eq!(*from, id(who));
        if who == "3333" {
            let step = repl.on_event(&offered("1111"));
            let asked = ["\x0712:01 - ada offers holiday.zip (1.0 MiB): /accept 2 or /reject 2"];
            assert_eq!(step.lines, asked, "the node tells of her again");
        }
    }
    let withdrawn = TransferEvent::Withdrawn { transfer: TransferId([7; 32]) };
    assert!(repl.on_event(&Event::Transfer(withdrawn)).lines.is_empty(), "that is no news");
}

#[test]
fn what_is_under_way_is_stopped_by_a_no_whoever_sends_it() {
    let mut repl = repl(&[]);
    let accepting = TransferEvent::Accepting { from: id("1111"), offer: offer(7, "film.mkv", "1111") };
    repl.on_event(&Event::Transfer(accepting));
    assert!(matches!(
        repl.on_line("/reject").asks.as_slice(),
        [Ask::Command(Command::Transfer(TransferCommand::Reject { .. }))]
    ));
}

#[test]
fn the_status_line_shows_what_one_waits_for() {
    let mut repl = repl(&[]);
    assert_eq!(repl.status(), "  2 others here");
    let transfer = TransferId([7; 32]);
    let offer = offer(7, "film.mkv", "1111");
    repl.on_event(&Event::Transfer(TransferEvent::Accepting { from: id("1111"), offer }));
    repl.on_event(&Event::Transfer(TransferEvent::Progress(Progress {
        transfer,
        direction: Direction::Receive,
        bytes: 1 << 19,
        total: 1 << 20,
        rate_bps: 1 << 17,
        eta: Some(std::time::Duration::from_secs(4)),
        uploaded_bytes: 0,
        peers: Vec::new(),
    })));
    assert_eq!(repl.status(), "  ↓ film.mkv 50 % 128 KiB/s 0:04 · 2 others here");
    repl.set_columns(20);
    assert_eq!(repl.status(), "  ↓ film.mkv 50 % …");
}

#[test]
fn the_table_of_peers_says_how_each_is_connected() {
    let mut ada = peer("1111", "ada");
    ada.received_bytes = 4096;
    ada.path = Some(crate::core::peer::Path {
        kind: crate::core::peer::PathKind::Relayed,
        local: "[::1]:1".parse().expect("an address"),
        remote: "[::1]:2".parse().expect("an address"),
        rtt: Some(std::time::Duration::from_millis(42)),
    });
    let lines = repl(&[]).peers(&[ada]);
    assert_eq!(
        lines,
        [
            "NAME  TRUST     PATH          RTT    SENT  RECEIVED  ID",
            "ada   verified  relayed IPv6  42 ms  0 B   4.0 KiB   1111",
        ]
    );
}
