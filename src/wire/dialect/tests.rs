use super::*;
use crate::wire::limits::{CANDIDATE_MAX_BYTES, CANDIDATES_MAX, ID_MAX_BYTES, SIGNAL_ERROR_MAX_BYTES};
use crate::wire::signal::OfferSignal;

fn lobby() -> ServerDialect {
    ServerDialect::new(RoomId::new(DEFAULT_ROOM).expect("a good id"))
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good id")
}

fn link(id: &str) -> LinkId {
    LinkId::new(id).expect("a good id")
}

fn sdp(text: &str) -> Sdp {
    Sdp::new(text).expect("short")
}

fn line(text: &str) -> Option<Candidate> {
    Some(Candidate {
        candidate: text.into(),
        sdp_mid: Some("0".into()),
        sdp_m_line_index: Some(0),
        username_fragment: None,
    })
}

fn init(name: &str, room: &str) -> ClientSignal {
    let room_id = RoomId::new(room).expect("a good id");
    ClientSignal::Init(Init { user_id: user(name), room_id, have: None, resume: None })
}

fn code(dialect: &mut ServerDialect, text: &str) -> Option<ErrorCode> {
    dialect.parse(text).err().map(|error| error.code)
}

fn accept() -> ServerSignal {
    ServerSignal::Accept {
        id: link("L"),
        user_id: user("alice"),
        signals: vec![
            OfferSignal::Offer { sdp: sdp("O") },
            OfferSignal::Candidate { candidate: line("one") },
            OfferSignal::Candidate { candidate: None },
        ],
    }
}

/// R10.
#[test]
fn the_second_generation_is_recognised_and_answered_bare() {
    let mut dialect = lobby();
    let parsed = dialect.parse(r#"{"type":"init","userId":"bob","roomId":"den"}"#);
    assert_eq!(parsed, Ok(vec![init("bob", "den")]));
    assert_eq!(
        dialect.write(&accept()).expect("known to all"),
        concat!(
            r#"{"type":"accept","id":"L","userId":"alice","signals":[{"type":"offer","sdp":"O"},"#,
            r#"{"type":"candidate","candidate":{"candidate":"one","sdpMid":"0","sdpMLineIndex":0}},"#,
            r#"{"type":"candidate","candidate":null}]}"#
        )
    );
}

/// R10.
#[test]
fn a_wrapping_host_is_answered_in_kind() {
    let mut dialect = lobby();
    let parsed =
        dialect.parse(r#"{"type":"WRTC_SIGNAL","signal":{"type":"init","userId":"bob","roomId":7}}"#);
    assert_eq!(parsed, Ok(vec![init("bob", "7")]));
    assert_eq!(
        dialect.write(&ServerSignal::OfferRequest).expect("known to all"),
        r#"{"type":"WRTC_SIGNAL","signal":{"type":"offerRequest"}}"#
    );
}

/// R5.
#[test]
fn the_published_default_room_is_empty_and_means_the_room_of_the_url() {
    let mut dialect = ServerDialect::new(RoomId::new("attic").expect("a good id"));
    let parsed = dialect.parse(r#"{"type":"init","userId":"bob","roomId":""}"#);
    assert_eq!(parsed, Ok(vec![init("bob", "attic")]));
}

/// R11.
#[test]
fn the_first_generation_names_users_where_the_second_names_connections() {
    let mut dialect = lobby();
    let parsed = dialect.parse(r#"{"type":"init","sdp":"B","offerId":"b1","from":"bob"}"#);
    let offer = ClientSignal::Offer { id: link("b1"), sdp: sdp("B") };
    assert_eq!(parsed, Ok(vec![init("bob", DEFAULT_ROOM), offer]));

    assert_eq!(
        dialect.write(&accept()).expect("known to all"),
        concat!(
            r#"{"candidates":[{"candidate":"one","sdpMLineIndex":0,"sdpMid":"0"}],"#,
            r#""from":"alice","sdp":"O","type":"offer"}"#
        )
    );
    assert_eq!(
        dialect.parse(r#"{"type":"answer","sdp":"A","to":"alice"}"#),
        Ok(vec![ClientSignal::Answer { id: link("L"), sdp: sdp("A") }])
    );
    let text =
        r#"{"type":"candidate","candidate":{"candidate":"two","sdpMid":"0","sdpMLineIndex":0},"to":"alice"}"#;
    let candidate = ClientSignal::Candidate { id: link("L"), candidate: line("two") };
    assert_eq!(dialect.parse(text), Ok(vec![candidate]));

    let accepted = ServerSignal::OfferAccepted { id: link("b1"), user_id: user("carol") };
    assert_eq!(
        dialect.write(&accepted).expect("known to all"),
        r#"{"from":"carol","id":"b1","type":"offerAccepted"}"#
    );
    let answer = ServerSignal::Answer { id: link("b1"), sdp: sdp("C") };
    assert_eq!(
        dialect.write(&answer).expect("known to all"),
        r#"{"from":"carol","sdp":"C","type":"answer"}"#
    );
}

/// R12.
#[test]
fn the_first_generation_is_never_told_what_it_does_not_know() {
    let mut dialect = lobby();
    dialect.parse(r#"{"type":"init","sdp":"B","offerId":"b1","from":"bob"}"#).expect("well formed");
    let accepted = ServerSignal::OfferAccepted { id: link("b1"), user_id: user("carol") };
    dialect.write(&accepted).expect("known to all");
    let unknown = [
        ServerSignal::Candidate { id: link("b1"), candidate: None },
        ServerSignal::Candidate { id: link("other"), candidate: line("x") },
        ServerSignal::Answer { id: link("other"), sdp: sdp("x") },
        ServerSignal::Offer { id: link("b1"), sdp: sdp("x") },
        ServerSignal::Gone { user_id: user("carol") },
        ServerSignal::SignalError { code: None, message: "no".into() },
        ServerSignal::LeaveSwarm { id: link("b1") },
    ];
    for signal in unknown {
        assert_eq!(dialect.write(&signal), None, "{signal:?}");
    }
    let late = r#"{"type":"candidate","candidate":{"candidate":"x"},"to":"carol"}"#;
    assert_eq!(code(&mut dialect, late), Some(ErrorCode::NotAllowed));
}

/// R11.
#[test]
fn a_late_answer_is_not_taken_for_the_answer_to_the_next_offer() {
    let mut dialect = lobby();
    dialect.parse(r#"{"type":"init","sdp":"B","offerId":"b1","from":"bob"}"#).expect("well formed");
    let accept_of = |id: &str| ServerSignal::Accept {
        id: link(id),
        user_id: user("alice"),
        signals: vec![OfferSignal::Offer { sdp: sdp("O") }],
    };
    dialect.write(&accept_of("L1"));
    dialect.write(&ServerSignal::LeaveSwarm { id: link("L1") });
    dialect.write(&accept_of("L2"));
    for id in ["L1", "L2"] {
        assert_eq!(
            dialect.parse(r#"{"type":"answer","sdp":"A","to":"alice"}"#),
            Ok(vec![ClientSignal::Answer { id: link(id), sdp: sdp("A") }])
        );
    }
}

/// R4. The originals pass these on (defect 5).
#[test]
fn a_client_cannot_speak_for_the_server() {
    for kind in ["accept", "offerAccepted", "offerRequest", "leaveSwarm", "welcome", "gone", "signal_error"] {
        let text = format!(r#"{{"type":"{kind}","id":"L","userId":"bob","signals":[],"message":"x"}}"#);
        assert_eq!(code(&mut lobby(), &text), Some(ErrorCode::NotAllowed), "{kind}");
    }
}

/// R2, R3, R4.
#[test]
fn what_is_no_signal_is_refused_with_a_reason() {
    let cases = [
        ("", ErrorCode::Malformed),
        ("[]", ErrorCode::Malformed),
        ("{}", ErrorCode::Malformed),
        (r#"{"type":7}"#, ErrorCode::Malformed),
        (r#"{"type":"dance"}"#, ErrorCode::UnknownType),
        (r#"{"type":"init"}"#, ErrorCode::Malformed),
        (r#"{"type":"init","userId":"a b","roomId":"den"}"#, ErrorCode::Malformed),
        (r#"{"type":"init","userId":"bob","roomId":"d en"}"#, ErrorCode::Malformed),
        (r#"{"type":"offer","id":"L"}"#, ErrorCode::Malformed),
        (r#"{"type":"answer","sdp":"A"}"#, ErrorCode::Malformed),
        (r#"{"type":"WRTC_SIGNAL"}"#, ErrorCode::Malformed),
        (r#"{"type":"WRTC_SIGNAL","signal":{"type":"WRTC_SIGNAL"}}"#, ErrorCode::UnknownType),
    ];
    for (text, expected) in cases {
        assert_eq!(code(&mut lobby(), text), Some(expected), "{text}");
    }
    let deep = "[".repeat(SIGNAL_MAX_BYTES);
    assert_eq!(code(&mut lobby(), &deep), Some(ErrorCode::Malformed));
    let long = "x".repeat(SIGNAL_MAX_BYTES + 1);
    assert_eq!(code(&mut lobby(), &long), Some(ErrorCode::LimitExceeded));
}

/// R4, R13.
#[test]
fn unknown_fields_are_ignored_and_all_ends_of_candidates_are_one() {
    let mut dialect = lobby();
    for end in
        [r#""candidate":null"#, r#""candidate":"""#, r#""candidate":{"candidate":""}"#, r#""extra":[1]"#]
    {
        let text = format!(r#"{{"type":"candidate","id":"L",{end}}}"#);
        let expected = ClientSignal::Candidate { id: link("L"), candidate: None };
        assert_eq!(dialect.parse(&text), Ok(vec![expected]), "{end}");
    }
}

#[test]
fn our_peer_and_the_server_understand_each_other() {
    let (mut client, mut server) = (ClientDialect::new(false), lobby());
    let init = ClientSignal::Init(Init {
        user_id: user("bob"),
        room_id: RoomId::new("den").expect("a good id"),
        have: Some(vec![user("alice")]),
        resume: Some(Secret::new("secret")),
    });
    let id = || link("L");
    let said = [
        init,
        ClientSignal::Offer { id: id(), sdp: sdp("O") },
        ClientSignal::Answer { id: id(), sdp: sdp("A") },
        ClientSignal::Candidate { id: id(), candidate: line("one") },
        ClientSignal::Candidate { id: id(), candidate: None },
        ClientSignal::Want { user_id: user("alice") },
        ClientSignal::Withdraw { id: id() },
        ClientSignal::Leave { id: id() },
        ClientSignal::Close,
    ];
    for signal in said {
        assert_eq!(server.parse(&client.write(&signal)), Ok(vec![signal]));
    }
    let signals = [
        accept(),
        ServerSignal::Welcome { resume: Secret::new("secret"), members: 2 },
        ServerSignal::Gone { user_id: user("alice") },
        ServerSignal::SignalError { code: Some(ErrorCode::RoomFull), message: "full".into() },
    ];
    for signal in signals {
        let text = server.write(&signal).expect("known to all");
        assert_eq!(client.parse(&text), Ok(signal));
    }
}

/// R14.
#[test]
fn our_peer_wraps_as_soon_as_its_server_does() {
    let mut client = ClientDialect::default();
    assert_eq!(client.write(&ClientSignal::Close), r#"{"type":"close"}"#);
    let text = r#"{"type":"WRTC_SIGNAL","signal":{"type":"offerRequest"}}"#;
    assert_eq!(client.parse(text), Ok(ServerSignal::OfferRequest));
    assert_eq!(client.write(&ClientSignal::Close), r#"{"type":"WRTC_SIGNAL","signal":{"type":"close"}}"#);
}

#[test]
fn signals_inside_an_accept_may_carry_the_id_or_not() {
    let text = concat!(
        r#"{"type":"accept","id":"L","userId":"alice","signals":[{"type":"offer","sdp":"O","id":"L"},"#,
        r#"{"type":"candidate","id":"L","candidate":{"candidate":"one","sdpMid":"0","sdpMLineIndex":0}},"#,
        r#"{"type":"candidate","candidate":""}]}"#
    );
    assert_eq!(ClientDialect::default().parse(text), Ok(accept()));
}

#[test]
fn a_server_of_the_published_kind_may_say_what_we_do_not_know() {
    let mut client = ClientDialect::default();
    assert!(client.parse(r#"{"type":"hologram"}"#).is_err());
    let text = r#"{"type":"signal_error","code":"later_word","message":"no"}"#;
    let expected = ServerSignal::SignalError { code: Some(ErrorCode::Other), message: "no".into() };
    assert_eq!(client.parse(text), Ok(expected));
}

/// A client that answers nobody, and an accomplice who comes and goes under new names: what is kept of them is bounded.
#[test]
fn offers_that_nobody_answers_are_forgotten_in_time() {
    let mut first = FirstGeneration::default();
    for no in 0..10_000 {
        let (id, user_id) = (link(&format!("L{no}")), user(&format!("u{no}")));
        let signals = vec![OfferSignal::Offer { sdp: sdp("O") }];
        first.write(&ServerSignal::Accept { id: id.clone(), user_id, signals });
        first.write(&ServerSignal::LeaveSwarm { id });
        assert!(first.len() <= 300, "{} after {no}", first.len());
    }
}

/// R2.
#[test]
fn the_largest_offer_with_the_most_candidates_fits_and_nothing_longer_is_written() {
    let (mut client, mut server) = (ClientDialect::new(true), lobby());
    let longest = "x".repeat(ID_MAX_BYTES);
    // As JSON a control character takes six bytes and a quote two; both come in as they go out.
    let controls = (SIGNAL_MAX_BYTES - 2 * ID_MAX_BYTES) / 6;
    let offer = ClientSignal::Offer { id: link(&longest), sdp: sdp(&"\u{1}".repeat(controls)) };
    let candidate = line(&"\"".repeat(CANDIDATE_MAX_BYTES - 1));
    let candidate = ClientSignal::Candidate { id: link(&longest), candidate };
    let [Ok(offer), Ok(candidate)] = [offer, candidate].map(|signal| server.parse(&client.write(&signal)))
    else {
        panic!("a client may say so")
    };
    let (Some(ClientSignal::Offer { id, sdp }), Some(ClientSignal::Candidate { candidate, .. })) =
        (offer.into_iter().next(), candidate.into_iter().next())
    else {
        panic!("what was said")
    };
    let mut signals = vec![OfferSignal::Offer { sdp }];
    signals.resize(1 + CANDIDATES_MAX, OfferSignal::Candidate { candidate: candidate.clone() });
    let accept = ServerSignal::Accept { id: id.clone(), user_id: user(&longest), signals: signals.clone() };
    let text = server.write(&accept).expect("short enough");
    assert_eq!(client.parse(&text), Ok(accept));

    signals.resize(2 * CANDIDATES_MAX, OfferSignal::Candidate { candidate });
    let accept = ServerSignal::Accept { id, user_id: user(&longest), signals };
    assert_eq!(server.write(&accept), None);
}

#[test]
fn a_client_keeps_no_more_of_a_message_than_it_has_use_for() {
    let mut client = ClientDialect::default();
    let long = ServerSignal::SignalError { code: None, message: "é".repeat(100_000) };
    let Ok(ServerSignal::SignalError { message, .. }) = client.parse(&to_text(&long)) else {
        panic!("it is understood")
    };
    assert_eq!(message, "é".repeat(SIGNAL_ERROR_MAX_BYTES / 2));

    let signals = vec![OfferSignal::Candidate { candidate: None }; 3 * CANDIDATES_MAX];
    let many = ServerSignal::Accept { id: link("l"), user_id: user("ada"), signals };
    let Ok(ServerSignal::Accept { signals, .. }) = client.parse(&to_text(&many)) else {
        panic!("it is understood")
    };
    assert_eq!(signals.len(), 1 + CANDIDATES_MAX);
}

#[test]
fn no_field_costs_more_than_other_text() {
    use crate::wire::limits::{HAVE_MAX, SIGNAL_MAX_BYTES};
    let ones = vec!["1"; (SIGNAL_MAX_BYTES - 200) / 2].join(",");
    let init = format!(r#"{{"type":"init","userId":"ada","roomId":"den","have":[{ones}]}}"#);
    let signals = lobby().parse(&init).expect("long, but within the limit");
    let [ClientSignal::Init(Init { have: Some(have), .. })] = &signals[..] else { panic!("{signals:?}") };
    assert_eq!(have.len(), HAVE_MAX);

    let nested = (0..30).fold(String::from("null"), |inner, _| {
        format!(r#"{{"type":"x","signal":{inner},"have":[{}]}}"#, &ones[..2_001])
    });
    let brackets = vec![format!("{}{}", "[".repeat(100), "]".repeat(100)); SIGNAL_MAX_BYTES / 210].join(",");
    let line_and_more = format!(r#"{{"candidate":"","x":[{brackets}]}}"#);
    for (field, rest, is_good) in [
        ("have", format!("[{ones}]"), true),
        ("signal", nested, true),
        ("candidate", format!("[{brackets}]"), false),
        ("candidate", line_and_more, true),
    ] {
        let time = |name: &str| {
            let text = format!(r#"{{"type":"withdraw","id":"x","{name}":{rest}}}"#);
            let time = |_| {
                let start = std::time::Instant::now();
                let is_read = lobby().parse(std::hint::black_box(&text)).is_ok();
                assert_eq!(is_read, is_good || name != field, "{field}");
                start.elapsed()
            };
            (0..9).map(time).min().expect("nine times")
        };
        let (known, unknown) = (time(field), time("nothing"));
        assert!(known < unknown * 4, "`{field}` takes {known:?}, an unknown name {unknown:?}");
    }
}
