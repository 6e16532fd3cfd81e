//! Who pays for what others have to say: `alice` at one address, `mallory` at another.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;
use crate::core::room::state::Pair;

/// Of which nothing that was used comes back with time.
fn limits() -> Limits {
    Limits { messages_per_sec: 0, messages_burst: 1_000_000, ..Limits::default() }
}

impl Server {
    /// What the address may still say, and how much of its words others have paid for.
    fn left(&mut self, address: ClientAddress) -> (i64, i64) {
        let Rooms { addresses, limits, .. } = &mut self.rooms;
        let (allowance, credit) = addresses.left(self.now, address, limits);
        (allowance.try_into().expect("few"), credit.try_into().expect("few"))
    }

    /// Both together.
    fn all_left(&mut self, address: ClientAddress) -> i64 {
        let (allowance, credit) = self.left(address);
        allowance + credit
    }

    /// `alice` on socket 1 at `address()`, `mallory` on 2 at `elsewhere()`: linked by `alice-1`.
    fn victim_and_attacker(&mut self) {
        self.ours(1, "alice");
        self.connect_from(elsewhere(), 2);
        self.say(2, init_with("mallory", &[], None));
        self.say(2, offer("mallory-1"));
        self.say(1, offer("alice-2"));
    }
}

/// R33.
#[test]
fn to_ask_for_a_member_costs_what_it_makes_that_member_do() {
    let mut server = Server::with(limits());
    server.victim_and_attacker();
    server.say(2, answer("alice-1"));
    let before = server.left(elsewhere());
    assert_eq!(code_of(&server.say(2, want("alice"))), Some(ErrorCode::LimitExceeded), "too early");
    assert_eq!(before.0 - server.left(elsewhere()).0, 1);
    server.pass(Duration::from_secs(2));
    let (before, of_alice) = (server.left(elsewhere()), server.left(address()));
    assert_eq!(server.say(2, want("alice"))[1], accept(2, "alice-2", "alice", &[]));
    assert_eq!(before.0 - server.left(elsewhere()).0, 11);
    assert_eq!(server.left(address()), (of_alice.0, of_alice.1 + 10));
    server.say(2, want("alice"));
    assert_eq!(before.0 - server.left(elsewhere()).0, 12, "it is on its way");

    for n in 3..6 {
        server.say(1, offer(&format!("alice-{n}")));
    }
    assert_eq!(server.left(address()), (of_alice.0, of_alice.1 + 7), "words that are paid for");
    assert_eq!(server.say(1, want("nobody")), [gone(1, "nobody")]);
    assert_eq!(server.left(address()), (of_alice.0 - 1, of_alice.1 + 7), "and nothing else");
}

/// R33.
#[test]
fn whoever_can_not_pay_for_a_want_is_refused_and_nothing_happens() {
    let mut server = Server::with(limits());
    server.victim_and_attacker();
    server.say(2, answer("alice-1"));
    server.pass(Duration::from_secs(2));
    let Rooms { addresses, limits, .. } = &mut server.rooms;
    let left = addresses.left(server.now, elsewhere(), limits).0;
    assert!(addresses.charge(server.now, elsewhere(), left - 10, limits));
    let outputs = server.say(2, want("alice"));
    assert_eq!((outputs.len(), code_of(&outputs)), (1, Some(ErrorCode::LimitExceeded)));
    assert_eq!(server.rooms.stats().links, 1, "and the connection it has is there");
}

/// R32, R33.
#[test]
fn whoever_is_asked_and_gives_up_loses_nothing_by_it() {
    const TURNS: i64 = 100;
    const CANDIDATES: i64 = 4;
    let mut server = Server::with(limits());
    server.victim_and_attacker();
    server.say(1, ClientSignal::Leave { id: link("alice-1") });
    let (of_alice, of_mallory) = (server.all_left(address()), server.all_left(elsewhere()));
    for turn in 2..TURNS + 2 {
        server.pass(Duration::from_secs(80));
        let (id, next) = (format!("alice-{turn}"), format!("alice-{}", turn + 1));
        assert!(server.say(2, want("alice")).contains(&accepted(1, &id, "mallory")));
        server.say(2, answer(&id));
        server.say(1, offer(&next));
        for _ in 0..CANDIDATES {
            server.say(1, candidate(&next, "x"));
        }
        server.say(1, ClientSignal::Candidate { id: link(&next), candidate: None });
        assert_eq!(server.say(1, ClientSignal::Leave { id: link(&id) }), [leave(2, &id)]);
    }
    let own_words = TURNS * (1 + CANDIDATES + 1 + 1);
    assert_eq!(server.all_left(address()), of_alice + 10 * TURNS - own_words);
    assert_eq!(server.all_left(elsewhere()), of_mallory - 12 * TURNS, "the question, its price, the answer");
}

/// R32.
#[test]
fn who_gave_another_up_is_offered_to_it_ever_more_seldom_until_it_asks_itself() {
    let mut server = Server::new();
    server.victim_and_attacker();
    server.say(2, ClientSignal::Leave { id: link("alice-1") });
    let start = server.now;
    let mut made = 1;
    let mut ask = |server: &mut Server, millis: u64| {
        server.now = start + Duration::from_millis(millis);
        let outputs = server.say(1, want("mallory"));
        assert_eq!(code_of(&outputs), None);
        let id = format!("mallory-{made}");
        let is_handed_out = outputs.contains(&accept(1, &id, "mallory", &[]));
        if is_handed_out {
            made += 1;
            server.say(1, answer(&id));
            server.say(2, offer(&format!("mallory-{made}")));
            server.say(2, ClientSignal::Leave { id: link(&id) });
        }
        is_handed_out
    };
    // As our client asks.
    let times = [2_000, 4_100, 6_500, 12_200, 23_900, 43_000, 80_000];
    let handed_out = times.map(|millis| ask(&mut server, millis));
    assert_eq!(handed_out, [false, false, false, true, false, true, false]);
    let seldom = [83_000, 162_000, 164_000, 243_000].map(|millis| ask(&mut server, millis));
    assert_eq!(seldom, [true, false, true, false]);

    let outputs = server.say(2, want("alice"));
    assert!(
        outputs.contains(&accept(2, "alice-2", "alice", &[])),
        "who gave up may ask as ever: {outputs:?}"
    );
    server.say(2, answer("alice-2"));
    server.seen(1);
    assert!(ask(&mut server, 245_100), "and once it did, the other may, too");
}

/// R33.
#[test]
fn whoever_comes_back_pays_for_all_that_it_makes_others_do() {
    let mut server = Server::with(limits());
    server.connect_from(elsewhere(), 1);
    let welcome = server.say(1, init_with("mallory", &[], None));
    let [Output::Send { signal: ServerSignal::Welcome { resume, .. }, .. }, ..] = &welcome[..] else {
        panic!()
    };
    server.say(1, offer("mallory-1"));
    server.ours(2, "alice");
    let (of_alice, of_mallory) = (server.left(address()), server.left(elsewhere()));
    server.lose(1);
    server.connect_from(elsewhere(), 3);
    server.say(3, init_with("mallory", &[], Some(resume.expose())));
    let outputs = server.say(3, offer("mallory-2"));
    assert!(outputs.contains(&accept(2, "mallory-2", "mallory", &[])), "{outputs:?}");
    assert_eq!(server.left(address()), (of_alice.0, of_alice.1 + 10));
    // The credit is of when alice entered; both members of the room count, itself included.
    assert_eq!(server.left(elsewhere()), (of_mallory.0 - 1 - 50 - 2 * 10, of_mallory.1 - 1));
}

/// R24, R33.
#[test]
fn whoever_renegotiates_pays_for_what_it_makes_the_other_say() {
    let mut server = Server::with(limits());
    server.victim_and_attacker();
    server.say(2, answer("alice-1"));
    for _ in 0..100 {
        server.pass(Duration::from_secs(1));
        let (of_alice, of_mallory) = (server.all_left(address()), server.all_left(elsewhere()));
        let offered = send(1, ServerSignal::Offer { id: link("alice-1"), sdp: sdp() });
        assert_eq!(server.say(2, offer("alice-1")), [offered]);
        assert_eq!(code_of(&server.say(1, answer("alice-1"))), None);
        for _ in 1..WORDS {
            server.say(1, candidate("alice-1", "x"));
        }
        assert!(server.all_left(address()) >= of_alice);
        assert_eq!(server.all_left(elsewhere()), of_mallory - 11);
    }

    let Rooms { addresses, limits, .. } = &mut server.rooms;
    let left = addresses.left(server.now, elsewhere(), limits).0;
    assert!(addresses.charge(server.now, elsewhere(), left - 10, limits));
    let outputs = server.say(2, offer("alice-1"));
    assert_eq!((outputs.len(), code_of(&outputs)), (1, Some(ErrorCode::LimitExceeded)));
    assert_eq!(code_of(&server.say(1, offer("alice-1"))), None, "there is no offer to answer first");
}

/// R24, R33.
#[test]
fn whoever_is_offered_to_without_end_keeps_its_socket() {
    let mut server = Server::with(Limits { messages_per_sec: 1, messages_burst: 200, ..Limits::default() });
    server.victim_and_attacker();
    server.say(2, answer("alice-1"));
    for _ in 0..100 {
        server.pass(Duration::from_secs(1));
        server.say(2, offer("alice-1"));
        assert_eq!(code_of(&server.say(1, answer("alice-1"))), None);
        for _ in 1..WORDS {
            assert_eq!(code_of(&server.say(1, candidate("alice-1", "x"))), None);
        }
    }
}

/// R33.
#[test]
fn what_others_paid_for_is_no_more_than_an_address_may_say_at_once() {
    const MEMBERS: u64 = 20;
    let mut server =
        Server::with(Limits { messages_per_sec: 1_000_000, messages_burst: 10, ..Limits::default() });
    for n in 0..MEMBERS {
        server.ours(n, &format!("m{n}"));
        server.pass(Duration::from_millis(1));
    }
    server.connect(MEMBERS);
    for round in 0..50 {
        for n in 0..MEMBERS {
            server.say(n, offer(&format!("r{round}-{n}")));
            server.pass(Duration::from_millis(1));
        }
        assert_eq!(code_of(&server.say(MEMBERS, init("guest"))), None);
        server.say(MEMBERS, ClientSignal::Close);
        let (_, credit) = server.left(address());
        assert!(credit <= 1_280, "{credit} after round {round}");
    }
    assert_eq!(server.left(address()).1, 1_280);
}

/// R25, R33.
#[test]
fn a_claim_that_comes_to_nothing_is_paid_by_the_end_that_failed_it() {
    let mut server = Server::with(limits());
    server.victim_and_attacker();
    server.seen(1);
    server.seen(2);
    let (of_alice, of_mallory) = (server.left(address()), server.left(elsewhere()));
    // Alive, and says nothing.
    server.pass(Duration::from_secs(1));
    server.seen(2);
    assert!(server.wait(Duration::from_secs(9)).contains(&accept(2, "alice-2", "alice", &[])));
    assert_eq!(server.left(address()), (of_alice.0, of_alice.1 + 10));
    assert_eq!(server.left(elsewhere()), (of_mallory.0 - 10, of_mallory.1));

    // Of one address nothing is lost and nothing won.
    let mut server = Server::with(limits());
    server.ours(1, "alice");
    server.ours(2, "bob");
    server.say(1, offer("alice-2"));
    server.seen(1);
    let before = server.all_left(address());
    server.pass(Duration::from_secs(1));
    server.seen(2);
    assert!(server.wait(Duration::from_secs(9)).contains(&accept(2, "alice-2", "alice", &[])));
    assert_eq!(server.all_left(address()), before);
}

/// What a member may do.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Enter,
    Resume,
    Close,
    Lose,
    Offer,
    Withdraw,
    Answer,
    Candidate,
    Leave,
    Want(usize),
    Renegotiate,
    Seen,
    /// What an honest client does.
    Obey,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Do(usize, Deed),
    Pass(u64),
}

/// The first two behind `address()`, the others behind `elsewhere()`.
const ACTORS: usize = 6;
const HONEST: usize = 2;
/// What an honest client says of its own about one link, with the description; less than the price.
const WORDS: i64 = 6;

fn step(honest_obey: bool) -> impl Strategy<Value = Step> {
    let deed = prop_oneof![
        2 => Just(Deed::Enter),
        2 => Just(Deed::Resume),
        1 => Just(Deed::Close),
        2 => Just(Deed::Lose),
        4 => Just(Deed::Offer),
        1 => Just(Deed::Withdraw),
        3 => Just(Deed::Answer),
        1 => Just(Deed::Candidate),
        3 => Just(Deed::Leave),
        4 => (0..ACTORS).prop_map(Deed::Want),
        4 => Just(Deed::Renegotiate),
        4 => Just(Deed::Seen),
        3 => Just(Deed::Obey),
    ];
    let strangers = if honest_obey { HONEST..ACTORS } else { 0..ACTORS };
    prop_oneof![
        8 => (strangers, deed).prop_map(|(actor, deed)| Step::Do(actor, deed)),
        1 => (0..HONEST).prop_map(|actor| Step::Do(actor, Deed::Enter)),
        2 => (0..15_000_u64).prop_map(Step::Pass),
    ]
}

#[derive(Debug, Default)]
struct Actor {
    socket: Option<u64>,
    secret: Option<String>,
    inbox: VecDeque<Output>,
    /// Those it was told of, answered or not, and its own.
    links: Vec<LinkId>,
}

struct World {
    server: Server,
    actors: Vec<Actor>,
    honest_obey: bool,
    made: u64,
    /// What the honest ones' address has used for what is its own doing.
    own_doing: i64,
}

impl World {
    fn new(honest_obey: bool) -> Self {
        let actors = (0..ACTORS).map(|_| Actor::default()).collect();
        Self { server: Server::with(limits()), actors, honest_obey, made: 0, own_doing: 0 }
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let (Output::Send { socket, .. } | Output::Ping(socket) | Output::Close { socket, .. }) = &output;
            let to = self.actors.iter_mut().find(|actor| actor.socket == Some(socket.0));
            match (to, &output) {
                (Some(actor), Output::Close { .. }) => actor.socket = None,
                (Some(actor), _) => actor.inbox.push_back(output.clone()),
                (None, _) => {}
            }
            if let Output::Close { socket, .. } = output {
                self.server.lose(socket.0);
            }
        }
    }

    fn say(&mut self, n: usize, signal: ClientSignal) {
        let Some(socket) = self.actors[n].socket else { return };
        let outputs = self.server.say(socket, signal);
        self.take(outputs);
    }

    fn say_all(&mut self, n: usize, id: &LinkId, first: ClientSignal) {
        self.say(n, first);
        for _ in 1..WORDS {
            self.say(n, candidate(id.as_str(), "x"));
        }
    }

    fn offer(&mut self, n: usize) {
        self.made += 1;
        let id = link(&format!("l{}", self.made));
        self.actors[n].links.push(id.clone());
        self.say_all(n, &id.clone(), ClientSignal::Offer { id, sdp: sdp() });
    }

    fn enter(&mut self, n: usize, resume: bool) {
        if self.actors[n].socket.is_some() {
            return;
        }
        let (is_honest, others) = (n < HONEST, self.server.rooms.stats().members as i64);
        self.made += 1;
        let socket = self.made;
        let actor = &mut self.actors[n];
        actor.socket = Some(socket);
        actor.inbox.clear();
        let secret = actor.secret.clone().filter(|_| resume);
        let outputs = self.server.connect_from(if is_honest { address() } else { elsewhere() }, socket);
        self.take(outputs);
        self.say(n, init_with(&format!("u{n}"), &[], secret.as_deref()));
        if is_honest {
            // To ask, to enter, and to answer everybody or to give it up; and the first offer.
            self.own_doing += 1 + 50 + 10 * others + (WORDS + 1) * others + WORDS;
            self.offer(n);
        }
    }

    fn obey(&mut self, n: usize) {
        let Some(output) = self.actors[n].inbox.pop_front() else { return };
        match output {
            Output::Ping(_) => self.act(n, Deed::Seen),
            Output::Send { signal: ServerSignal::Accept { id, .. }, .. } => {
                self.actors[n].links.push(id.clone());
                self.say_all(n, &id.clone(), ClientSignal::Answer { id: id.clone(), sdp: sdp() });
                self.perhaps_give_up(n, id);
            }
            Output::Send { signal: ServerSignal::OfferAccepted { id, .. }, .. } => {
                self.perhaps_give_up(n, id)
            }
            Output::Send { signal: ServerSignal::Offer { id, .. }, .. } => {
                self.say_all(n, &id.clone(), ClientSignal::Answer { id, sdp: sdp() });
            }
            Output::Send { signal: ServerSignal::OfferRequest, .. } => self.offer(n),
            Output::Send { signal: ServerSignal::Welcome { resume, .. }, .. } => {
                self.actors[n].secret = Some(resume.expose().to_owned());
            }
            Output::Send { .. } | Output::Close { .. } => {}
        }
    }

    /// As our client does where the other end has not the key.
    fn perhaps_give_up(&mut self, n: usize, id: LinkId) {
        if self.made.is_multiple_of(3) {
            self.say(n, ClientSignal::Leave { id });
        }
    }

    fn act(&mut self, n: usize, deed: Deed) {
        let newest = self.actors[n].links.last().cloned();
        match (deed, newest) {
            (Deed::Enter, _) => self.enter(n, false),
            (Deed::Resume, _) => self.enter(n, true),
            (Deed::Close, _) => self.say(n, ClientSignal::Close),
            (Deed::Lose, _) => {
                if let Some(socket) = self.actors[n].socket.take() {
                    let outputs = self.server.lose(socket);
                    self.take(outputs);
                }
            }
            (Deed::Offer, _) => self.offer(n),
            (Deed::Want(other), _) => self.say(n, want(&format!("u{other}"))),
            (Deed::Seen, _) => {
                if let Some(socket) = self.actors[n].socket {
                    let outputs = self.server.seen(socket);
                    self.take(outputs);
                }
            }
            (Deed::Obey, _) => self.obey(n),
            (Deed::Renegotiate, Some(id)) => self.say(n, ClientSignal::Offer { id, sdp: sdp() }),
            (Deed::Withdraw, Some(id)) => self.say(n, ClientSignal::Withdraw { id }),
            (Deed::Answer, Some(id)) => self.say(n, ClientSignal::Answer { id, sdp: sdp() }),
            (Deed::Candidate, Some(id)) => self.say(n, candidate(id.as_str(), "x")),
            (Deed::Leave, Some(id)) => self.say(n, ClientSignal::Leave { id }),
            (Deed::Renegotiate | Deed::Withdraw | Deed::Answer | Deed::Candidate | Deed::Leave, None) => {}
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Do(n, deed) => self.act(n, deed),
            Step::Pass(millis) => {
                let outputs = self.server.pass(Duration::from_millis(millis));
                self.take(outputs);
            }
        }
        let waits = |world: &Self| (0..HONEST).find(|n| !world.actors[*n].inbox.is_empty());
        while let Some(n) = waits(self).filter(|_| self.honest_obey) {
            self.obey(n);
        }
    }

    fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.server.rooms.rooms.values()
    }

    /// What is paid for hand-outs that are to come.
    fn paid_in_advance(&self) -> i64 {
        let pairs = self.rooms().flat_map(|room| room.pairs.values());
        10 * pairs.filter(|pair| matches!(pair, Pair::Waiting { paid: Some(_), .. })).count() as i64
    }

    /// Words that are said already, for offers that others will take and pay for.
    fn words_in_store(&self) -> i64 {
        let members = self.rooms().flat_map(|room| room.members.values());
        let honest = members.filter(|member| member.address == address());
        honest.map(|member| WORDS * (member.pool.len() as i64 - 1)).sum()
    }
}

fn config() -> Config {
    Config { cases: 300, rng_seed: RngSeed::Fixed(23), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    /// R33.
    #[test]
    fn an_address_that_only_answers_never_loses_and_none_ever_gains(steps in vec(step(true), 0..200)) {
        let mut world = World::new(true);
        let all = world.server.left(address()).0;
        let mut of_stranger = all;
        for step in steps {
            world.apply(step);
            let lost = all - world.server.all_left(address());
            prop_assert!(lost <= world.own_doing + world.words_in_store(), "{lost} after {step:?}");
            let left = world.server.left(elsewhere()).0;
            prop_assert!(left <= of_stranger, "{of_stranger}, then {left} after {step:?}");
            of_stranger = left;
        }
    }

    /// R33.
    #[test]
    fn nothing_is_given_that_nobody_paid(steps in vec(step(false), 0..200)) {
        let mut world = World::new(false);
        let mut all = i64::MAX;
        for step in steps {
            world.apply(step);
            let left = world.server.all_left(address())
                + world.server.all_left(elsewhere())
                + world.paid_in_advance();
            prop_assert!(left <= all, "{all}, then {left} after {step:?}");
            all = left;
        }
    }
}
