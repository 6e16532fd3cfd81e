//! Bursts, frozen members, and clients that lie.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::scene::Generation::{First, Second};
use crate::scene::{Arrival, Kind, Manner, Scene, Sight, browser};

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn sixteen_originals_whose_offers_precede_their_init_join_at_once() {
    let mut scene = Scene::new();
    scene.use_browser(browser(&[]).0);
    for n in 0..16 {
        let kind = if n % 4 == 3 { Kind::Tab(Second) } else { Kind::Node(Second) };
        scene.join_as(&format!("peer-{n:02}"), kind, Manner { late_init: true, wrapped: false });
    }
    scene.everyone_meets();
    scene.everyone_is_heard("hello");
}

/// A frozen owner's offer is claimed by a newcomer of each kind.
#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn a_frozen_member_delays_nobody_and_is_met_when_it_wakes() {
    for frozen in [Kind::Alone(First), Kind::Alone(Second), Kind::Tab(First), Kind::Tab(Second), Kind::Ours] {
        let mut scene = Scene::new();
        let here = [("ann", Kind::Ours), ("bob", Kind::Node(Second)), ("ice", frozen)];
        scene.gather(&here, Arrival::OneByOne);
        // All tabs of a browser freeze together: another one is used from here on. It is up before, for the server has done
        // with whoever is frozen for a minute.
        let elsewhere = browser(&[]).0;
        scene.process("ice").signal("STOP");
        scene.use_browser(elsewhere);
        let newcomers = [
            ("cyd", Kind::Node(First)),
            ("dan", Kind::Tab(Second)),
            ("eve", Kind::Ours),
            ("fay", Kind::Node(Second)),
        ];
        for (name, kind) in newcomers {
            scene.join(name, kind);
        }
        for (newcomer, _) in newcomers {
            for other in ["ann", "bob"] {
                scene.sees(newcomer, Sight::Opened(other));
            }
            for other in
                ["ann", "bob", "cyd", "dan", "eve", "fay"].into_iter().filter(|other| *other != newcomer)
            {
                scene.sees(other, Sight::Opened(newcomer));
            }
        }
        scene.process("ice").signal("CONT");
        for (name, _) in newcomers {
            scene.sees(name, Sight::Opened("ice"));
            scene.sees("ice", Sight::Opened(name));
        }
    }
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn a_duplicate_id_is_refused_and_its_owner_keeps_every_link() {
    let tried = [
        (Kind::Node(First), Kind::Node(Second)),
        (Kind::Node(Second), Kind::Tab(Second)),
        (Kind::Tab(First), Kind::Node(Second)),
        (Kind::Tab(Second), Kind::Tab(Second)),
    ];
    for (owner, impostor) in tried {
        let mut scene = Scene::new();
        let here = [("ada", owner), ("bob", Kind::Node(First)), ("cyd", Kind::Ours)];
        scene.gather(&here, Arrival::OneByOne);
        scene.join_under("ada", "impostor", impostor, Manner::default());
        assert_eq!(scene.is_signalled("impostor", "signal_error")["code"], "duplicate_id");
        let told = scene.told("impostor");
        assert!(told.iter().all(|said| said["type"] != "accept"), "the impostor was given offers: {told:?}");
        scene.forget("impostor");
        scene.join("dan", Kind::Node(Second));
        scene.meets_everyone("dan");
        scene.everyone_is_heard("still here");
    }
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn nobody_takes_a_place_back_without_its_secret() {
    let mut scene = Scene::new();
    let here = [("ann", Kind::Ours), ("bob", Kind::Node(Second)), ("dan", Kind::Tab(First))];
    scene.gather(&here, Arrival::OneByOne);
    for owner in ["ann", "bob", "dan"] {
        let init = json!({
            "type": "init", "userId": scene.id(owner), "roomId": scene.room_name(), "have": [], "resume": "a good guess",
        });
        let mut impostor = Raw::connect(&scene.room_url());
        impostor.say(&init);
        assert_eq!(impostor.hear()["code"], "duplicate_id");
    }
    scene.join("cyd", Kind::Node(First));
    scene.meets_everyone("cyd");
    scene.everyone_is_heard("still here");
}

/// The forger knows every id, also that of a link between two others.
#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn what_only_a_server_may_say_is_refused_from_a_client() {
    for kind in [Kind::Node(Second), Kind::Tab(Second)] {
        forgeries_are_refused(kind);
    }
}

fn forgeries_are_refused(kind: Kind) {
    let mut scene = Scene::new();
    scene.gather(&[("ada", kind), ("bob", kind)], Arrival::OneByOne);
    // Whoever's socket was first has offered: either of the two was told of the one link.
    let is_link = |said: &&Value| said["event"] == "signal" && said["id"].is_string();
    let link = scene.told("bob").iter().find(is_link).expect("they have met")["id"].clone();
    scene.join("mallory", kind);
    scene.meets_everyone("mallory");
    let forged = [
        json!({ "type": "accept", "id": "x", "userId": "ada", "signals": [] }),
        json!({ "type": "offerAccepted", "id": link, "userId": "mallory", "to": "ada" }),
        json!({ "type": "offerRequest", "to": "ada" }),
        json!({ "type": "leaveSwarm", "id": link }),
        json!({ "type": "answer", "id": link, "sdp": "v=0", "from": "bob", "to": "ada" }),
        json!({ "type": "candidate", "id": link, "candidate": null, "to": "ada" }),
    ];
    let before: Vec<_> = ["ada", "bob"].map(|name| signals(&scene.told(name), &link)).to_vec();
    for signal in &forged {
        scene.command("mallory", json!({ "cmd": "signal", "signal": signal }));
        scene.is_signalled("mallory", "signal_error");
    }
    // The newcomer's signals come after the forged ones, and from the same server.
    scene.join("cyd", Kind::Node(Second));
    scene.meets_everyone("cyd");
    let after: Vec<_> = ["ada", "bob"].map(|name| signals(&scene.told(name), &link)).to_vec();
    assert_eq!(before, after);
    scene.everyone_is_heard("still here");
}

/// The same in the first generation, which names members where the second names links, and is told of no refusal.
#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn what_only_a_server_may_say_is_not_passed_on_from_a_first_generation_client() {
    for kind in [Kind::Node(First), Kind::Tab(First)] {
        let mut scene = Scene::new();
        scene.gather(&[("ada", kind), ("bob", kind), ("mallory", kind)], Arrival::OneByOne);
        let between_them = |scene: &mut Scene| {
            ["ada", "bob"].map(|name| {
                let told = scene.told(name);
                let is_between =
                    |said: &&Value| ["ada", "bob", "mallory"].iter().any(|name| said["from"] == *name);
                told.iter()
                    .filter(|said| said["event"] == "signal" && said["type"] != "candidate")
                    .filter(is_between)
                    .cloned()
                    .collect::<Vec<_>>()
            })
        };
        let before = between_them(&mut scene);
        let forged = [
            json!({ "type": "offerAccepted", "id": "x", "from": "bob", "to": "ada" }),
            json!({ "type": "offerRequest", "from": "bob", "to": "ada" }),
            json!({ "type": "accept", "id": "x", "userId": "ada", "signals": [], "from": "bob", "to": "ada" }),
            json!({ "type": "leaveSwarm", "id": "x", "from": "bob", "to": "ada" }),
            json!({ "type": "answer", "sdp": "v=0", "from": "bob", "to": "ada" }),
            json!({ "type": "candidate", "candidate": null, "from": "bob", "to": "ada" }),
        ];
        for signal in &forged {
            scene.command("mallory", json!({ "cmd": "signal", "signal": signal }));
        }
        // Whoever comes first takes an offer that the forger left before, whoever comes second one that it left after.
        for newcomer in ["cyd", "dan"] {
            scene.join(newcomer, kind);
            scene.meets_everyone(newcomer);
        }
        assert_eq!(before, between_them(&mut scene));
        scene.everyone_is_heard("still here");
    }
}

/// What the server told somebody about a link. Late candidates of the link's own ends do not count.
fn signals(told: &[Value], link: &Value) -> Vec<String> {
    let about = told.iter().filter(|said| said["event"] == "signal" && said["id"] == *link);
    about.map(|said| said["type"].to_string()).filter(|kind| kind != "\"candidate\"").collect()
}

/// A WebSocket client that says what it likes.
struct Raw(tungstenite::WebSocket<tungstenite::stream::MaybeTlsStream<std::net::TcpStream>>);

impl Raw {
    fn connect(url: &str) -> Self {
        Self(tungstenite::connect(url).expect("the server is there").0)
    }

    fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).expect("the socket is open");
    }

    fn hear(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.0.read().expect("the socket is open") {
                return serde_json::from_str(&text).expect("the server speaks JSON");
            }
        }
    }
}
