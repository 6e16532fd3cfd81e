use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Server {
    relay: Relay,
    start: Instant,
    now: Instant,
}

fn limits() -> Limits {
    Limits { claims_burst: 2, sockets_per_address: 4, ..Limits::default() }
}

impl Server {
    fn new(limits: Limits) -> Self {
        let start = Instant::now();
        Self { relay: Relay::new(limits, [7; 32]), start, now: start }
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.relay.handle(self.now, input);
        std::iter::from_fn(|| self.relay.poll()).collect()
    }

    fn connect(&mut self, socket: u64, address: u8, standing: Standing) -> Vec<Output> {
        let address = ClientAddress::of(Ipv4Addr::new(192, 0, 2, address).into());
        self.handle(Input::Connected { socket: SocketId(socket), address, standing })
    }

    fn say(&mut self, socket: u64, message: ClientCode) -> Vec<Output> {
        self.handle(Input::Message(SocketId(socket), Some(message)))
    }

    fn lose(&mut self, socket: u64) -> Vec<Output> {
        self.handle(Input::Lost(SocketId(socket)))
    }

    fn wait(&mut self, span: Duration) -> Vec<Output> {
        self.now += span;
        self.relay.handle_timeout(self.now);
        std::iter::from_fn(|| self.relay.poll()).collect()
    }

    /// Opens a code from a socket of its own.
    fn open(&mut self, socket: u64, address: u8) -> CodeNumber {
        assert_eq!(self.connect(socket, address, Standing::Member), []);
        match self.say(socket, ClientCode::CodeOpen).as_slice() {
            [Output::Send(to, ServerCode::CodeOpened { number, secs: 600 })] if *to == SocketId(socket) => {
                *number
            }
            outputs => panic!("{outputs:?}"),
        }
    }

    /// A member, 1, and a newcomer, 2, who have met.
    fn pair(&mut self) -> CodeNumber {
        let number = self.open(1, 1);
        assert_eq!(self.connect(2, 2, Standing::Stranger), []);
        assert_eq!(self.say(2, claim(number)), [passed(1, 9)]);
        number
    }

    /// Nothing is left of anybody, and nothing will happen.
    fn is_empty(&self) -> bool {
        let relay = &self.relay;
        relay.sockets.is_empty()
            && relay.open.is_empty()
            && relay.strangers == 0
            && relay.silent.is_empty()
            && relay.deadlines.is_empty()
            && relay.addresses.values().all(|known| known.sockets == 0)
    }
}

fn message(byte: u8) -> Passed {
    Passed::new(vec![byte])
}

fn claim(number: CodeNumber) -> ClientCode {
    ClientCode::CodeClaim { number, message: message(9) }
}

fn pass(byte: u8) -> ClientCode {
    ClientCode::CodePass { message: message(byte) }
}

fn passed(socket: u64, byte: u8) -> Output {
    Output::Send(SocketId(socket), ServerCode::CodePass { message: message(byte) })
}

fn over(socket: u64, reason: CodeOver) -> [Output; 2] {
    let socket = SocketId(socket);
    [Output::Send(socket, ServerCode::CodeOver { reason }), Output::Close(socket)]
}

/// A number that nobody has.
fn free(server: &Server) -> CodeNumber {
    let numbers = (1..=NUMBER_MAX).filter_map(|number| CodeNumber::new(number).ok());
    numbers.into_iter().find(|number| !server.relay.open.contains_key(number)).expect("half of them are free")
}

#[test]
fn four_messages_bring_an_invite_from_a_member_to_a_newcomer() {
    let mut server = Server::new(limits());
    server.pair();
    assert_eq!(server.say(1, pass(1)), [passed(2, 1)]);
    assert_eq!(server.say(2, pass(2)), [passed(1, 2)]);
    assert_eq!(server.say(1, pass(3)), [passed(2, 3)]);
    assert_eq!(server.lose(1), over(2, CodeOver::Left));
    assert_eq!(server.lose(2), []);
    assert!(server.is_empty());
}

#[test]
fn strangers_from_everywhere_do_not_keep_members_from_opening_codes() {
    let mut server = Server::new(limits());
    let number = free(&server);
    for stranger in 0..=ADDRESSES_MAX as u64 {
        let address = ClientAddress::of(Ipv4Addr::from_bits(0x0a00_0000 + stranger as u32).into());
        let (socket, standing) = (SocketId(100 + stranger), Standing::Stranger);
        server.handle(Input::Connected { socket, address, standing });
        server.say(100 + stranger, claim(number));
    }
    assert_eq!(server.connect(99, 99, Standing::Stranger), over(99, CodeOver::Limit), "no place is left");
    server.open(1, 1);
    server.wait(limits().claim_every);
    assert_eq!(server.connect(98, 98, Standing::Stranger), [], "and it does not last");
}

#[test]
fn a_number_is_claimed_once() {
    let mut server = Server::new(limits());
    let number = server.pair();
    server.connect(3, 3, Standing::Stranger);
    assert_eq!(server.say(3, claim(number)), over(3, CodeOver::Unknown));
    assert_eq!(
        server.say(1, ClientCode::CodeRefuse),
        [&over(2, CodeOver::Wrong)[..], &[Output::Close(SocketId(1))]].concat()
    );
    server.connect(4, 4, Standing::Stranger);
    assert_eq!(server.say(4, claim(number)), over(4, CodeOver::Unknown));
    assert!(server.is_empty());
}

#[test]
fn who_finds_the_code_wrong_says_so_to_the_other() {
    let mut server = Server::new(limits());
    server.pair();
    let outputs = server.say(2, ClientCode::CodeRefuse);
    assert_eq!(outputs, [&over(1, CodeOver::Wrong)[..], &[Output::Close(SocketId(2))]].concat());
    assert!(server.is_empty());
}

#[test]
fn a_stranger_opens_nothing() {
    let mut server = Server::new(limits());
    server.connect(1, 1, Standing::Stranger);
    assert_eq!(server.say(1, ClientCode::CodeOpen), over(1, CodeOver::Forbidden));
    assert!(server.is_empty());
}

#[test]
fn a_code_expires_and_its_number_is_free_again() {
    let mut server = Server::new(limits());
    let number = server.open(1, 1);
    assert_eq!(server.wait(599 * SECOND), []);
    assert_eq!(server.wait(SECOND), over(1, CodeOver::Expired));
    server.connect(2, 2, Standing::Stranger);
    assert_eq!(server.say(2, claim(number)), over(2, CodeOver::Unknown));
    assert!(server.is_empty());
}

#[test]
fn a_member_who_leaves_takes_its_code_along() {
    let mut server = Server::new(limits());
    let number = server.open(1, 1);
    assert_eq!(server.lose(1), []);
    server.connect(2, 2, Standing::Stranger);
    assert_eq!(server.say(2, claim(number)), over(2, CodeOver::Unknown));
    assert!(server.is_empty());
}

#[test]
fn whoever_says_nothing_is_let_go() {
    let mut server = Server::new(limits());
    server.connect(1, 1, Standing::Stranger);
    assert_eq!(server.wait(10 * SECOND), over(1, CodeOver::TooSlow));
    server.pair();
    let outputs = server.wait(30 * SECOND);
    assert_eq!(outputs.len(), 4);
    for end in [1, 2] {
        assert!(over(end, CodeOver::TooSlow).iter().all(|output| outputs.contains(output)), "{outputs:?}");
    }
    assert!(server.is_empty());
}

#[test]
fn a_message_too_many_ends_it_for_both() {
    let mut server = Server::new(limits());
    server.pair();
    server.say(2, pass(2));
    let outputs = server.say(2, pass(2));
    assert_eq!(outputs, [over(1, CodeOver::Left), over(2, CodeOver::Malformed)].concat());
    assert!(server.is_empty());
}

#[test]
fn what_does_not_fit_ends_the_socket() {
    let number = CodeNumber::new(1).expect("a number");
    for first in [None, Some(pass(1)), Some(ClientCode::CodeRefuse)] {
        let mut server = Server::new(limits());
        server.connect(1, 1, Standing::Member);
        assert_eq!(server.handle(Input::Message(SocketId(1), first)), over(1, CodeOver::Malformed));
        assert!(server.is_empty());
    }
    for second in [ClientCode::CodeOpen, pass(1), claim(number), ClientCode::CodeRefuse] {
        let mut server = Server::new(limits());
        server.open(1, 1);
        assert_eq!(server.say(1, second), over(1, CodeOver::Malformed));
        assert!(server.is_empty());
    }
}

#[test]
fn a_stranger_can_not_burn_codes_en_masse() {
    let mut server = Server::new(limits());
    let mut tries = 0..;
    let mut attempt = |server: &mut Server, address: u8| {
        let socket = 1_000 + tries.next().expect("without end");
        assert_eq!(server.connect(socket, address, Standing::Stranger), []);
        let number = free(server);
        match server.say(socket, claim(number)).as_slice() {
            [Output::Send(_, ServerCode::CodeOver { reason }), Output::Close(_)] => *reason,
            outputs => panic!("{outputs:?}"),
        }
    };
    let said: Vec<CodeOver> = (0..4).map(|_| attempt(&mut server, 1)).collect();
    assert_eq!(said, [CodeOver::Unknown, CodeOver::Unknown, CodeOver::Limit, CodeOver::Limit]);
    assert_eq!(attempt(&mut server, 2), CodeOver::Unknown, "others are not concerned");
    server.now += 30 * SECOND;
    assert_eq!(attempt(&mut server, 1), CodeOver::Unknown);
    assert_eq!(attempt(&mut server, 1), CodeOver::Limit);
    server.now += 600 * SECOND;
    let said: Vec<CodeOver> = (0..3).map(|_| attempt(&mut server, 1)).collect();
    assert_eq!(said, [CodeOver::Unknown, CodeOver::Unknown, CodeOver::Limit]);
}

#[test]
fn sockets_and_codes_have_a_limit() {
    let mut server = Server::new(Limits { codes: 2, strangers: 3, ..limits() });
    server.open(1, 1);
    server.open(2, 1);
    server.connect(3, 1, Standing::Member);
    assert_eq!(server.say(3, ClientCode::CodeOpen), over(3, CodeOver::Limit));
    for socket in 4..6 {
        assert_eq!(server.connect(socket, 1, Standing::Stranger), []);
    }
    assert_eq!(server.connect(6, 1, Standing::Member), over(6, CodeOver::Limit), "four of one address");
    assert_eq!(server.connect(7, 2, Standing::Stranger), []);
    assert_eq!(server.connect(8, 3, Standing::Stranger), over(8, CodeOver::Limit), "three strangers");
    assert_eq!(server.connect(9, 3, Standing::Member), [], "members have their own places");
}

#[test]
fn strangers_who_say_nothing_give_way_to_a_newcomer() {
    let mut server = Server::new(Limits { strangers: 3, ..limits() });
    let numbers = [server.open(1, 1), server.open(2, 1)];
    for socket in [13, 12, 11] {
        assert_eq!(server.connect(socket, socket as u8, Standing::Stranger), []);
        server.wait(SECOND / 100);
    }
    assert_eq!(server.say(13, claim(numbers[0])), [passed(1, 9)]);
    server.wait(SECOND - SECOND / 10);
    assert_eq!(server.connect(14, 14, Standing::Stranger), over(14, CodeOver::Limit), "they had no second");
    server.wait(SECOND / 10);
    for socket in 15..19 {
        assert_eq!(server.connect(socket, 2, Standing::Member), [], "members have their own places");
    }
    assert_eq!(server.connect(20, 2, Standing::Stranger), over(20, CodeOver::Limit), "its address has four");

    assert_eq!(server.connect(21, 21, Standing::Stranger), over(12, CodeOver::Limit), "the oldest goes");
    assert_eq!(server.say(21, claim(numbers[1])), [passed(2, 9)]);
    assert_eq!(server.connect(22, 22, Standing::Stranger), over(11, CodeOver::Limit));
    server.wait(SECOND);
    assert_eq!(server.say(13, pass(2)), [passed(1, 2)], "who has met somebody stays");
    assert_eq!(server.say(21, pass(2)), [passed(2, 2)]);
    assert_eq!(server.connect(23, 23, Standing::Stranger), over(22, CodeOver::Limit));
    assert_eq!(server.lose(23), []);
    assert!(server.relay.silent.is_empty());
}

#[test]
fn no_address_uses_up_the_codes() {
    let mut server = Server::new(Limits::default());
    let numbers: Vec<CodeNumber> = (0..8).map(|socket| server.open(socket, 1)).collect();
    server.connect(8, 1, Standing::Member);
    assert_eq!(server.say(8, ClientCode::CodeOpen), over(8, CodeOver::Limit));
    server.open(9, 2);
    server.connect(10, 3, Standing::Stranger);
    assert_eq!(server.say(10, claim(numbers[0])), [passed(0, 9)]);
    server.open(11, 1);
    assert_eq!(server.lose(1), []);
    server.open(12, 1);
}

#[test]
fn everyone_is_told_when_the_server_stops() {
    let mut server = Server::new(limits());
    server.pair();
    let outputs = server.handle(Input::Shutdown);
    assert_eq!(outputs, [over(1, CodeOver::ShuttingDown), over(2, CodeOver::ShuttingDown)].concat());
    assert!(server.is_empty());
}

#[test]
fn addresses_are_remembered_as_long_as_they_have_used_something() {
    let mut server = Server::new(limits());
    server.connect(1, 1, Standing::Stranger);
    server.lose(1);
    assert!(server.relay.addresses.is_empty());
    let Limits { claims_burst, claim_every, .. } = server.relay.limits;
    server.relay.addresses = (0..ADDRESSES_MAX as u32)
        .map(|n| {
            let mut claims = Allowance::new(claims_burst, claim_every);
            while claims.take(server.start) {}
            (ClientAddress::of(IpAddr::V4(Ipv4Addr::from(n))), Address { sockets: 0, claims })
        })
        .collect();
    server.now += 60 * SECOND - SECOND / 2;
    assert_eq!(server.connect(2, 2, Standing::Stranger), over(2, CodeOver::Limit));
    server.now += SECOND / 2;
    assert_eq!(
        server.connect(2, 2, Standing::Stranger),
        over(2, CodeOver::Limit),
        "all were just looked through"
    );
    server.now += SECOND / 2;
    assert_eq!(server.connect(3, 2, Standing::Stranger), []);
    assert_eq!(server.relay.addresses.len(), 1);
}

#[derive(Debug, Clone)]
enum Act {
    Connect(u64, u8, Standing),
    Open(u64),
    Claim(u64, usize),
    Pass(u64),
    Refuse(u64),
    Garbage(u64),
    Lose(u64),
    Wait(u32),
    Shutdown,
}

fn act() -> impl Strategy<Value = Act> {
    let standing = prop_oneof![Just(Standing::Member), Just(Standing::Stranger)];
    prop_oneof![
        4 => (0..8_u64, 0..3_u8, standing).prop_map(|(socket, address, standing)| Act::Connect(socket, address, standing)),
        3 => (0..8_u64).prop_map(Act::Open),
        3 => (0..8_u64, any::<usize>()).prop_map(|(socket, which)| Act::Claim(socket, which)),
        3 => (0..8_u64).prop_map(Act::Pass),
        1 => (0..8_u64).prop_map(Act::Refuse),
        1 => (0..8_u64).prop_map(Act::Garbage),
        2 => (0..8_u64).prop_map(Act::Lose),
        2 => (0..700_u32).prop_map(Act::Wait),
        1 => Just(Act::Shutdown),
    ]
}

/// What must hold between two inputs.
fn check(relay: &Relay) {
    for (number, socket) in &relay.open {
        let known = relay.sockets.get(socket).expect("a code has its member");
        assert!(matches!(known.stage, Stage::Open(own) if own == *number));
        assert_eq!(known.standing, Standing::Member, "strangers open nothing");
    }
    let mut by_address: BTreeMap<ClientAddress, usize> = BTreeMap::new();
    for (socket, known) in &relay.sockets {
        *by_address.entry(known.address).or_default() += 1;
        assert!(relay.deadlines.contains(socket), "nobody stays without a deadline");
        match known.stage {
            Stage::Silent { since } => {
                let gives_way = relay.silent.contains(&(since, *socket));
                assert_eq!(gives_way, known.standing == Standing::Stranger);
            }
            Stage::Open(number) => assert_eq!(relay.open.get(&number), Some(socket)),
            Stage::Paired { with, .. } => {
                let other = relay.sockets.get(&with).expect("both ends are here");
                assert!(matches!(other.stage, Stage::Paired { with, .. } if with == *socket));
            }
        }
    }
    assert_eq!(relay.deadlines.len(), relay.sockets.len());
    let strangers = relay.sockets.values().filter(|known| known.standing == Standing::Stranger);
    assert_eq!(strangers.count(), relay.strangers);
    let silent = relay.sockets.values().filter(|known| matches!(known.stage, Stage::Silent { .. }));
    assert_eq!(silent.filter(|known| known.standing == Standing::Stranger).count(), relay.silent.len());
    for (address, known) in &relay.addresses {
        assert_eq!(by_address.get(address).copied().unwrap_or(0), known.sockets);
        assert!(
            known.sockets <= relay.limits.sockets_per_address
                && known.claims.left() <= relay.limits.claims_burst
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: ends are paired two by two, messages go to the other end only, and nothing is
    /// left when everybody is gone.
    #[test]
    fn whoever_does_what_pairs_stay_pairs(acts in prop::collection::vec(act(), 0..80)) {
        let mut server = Server::new(limits());
        // A socket's number is used once: the next of the same slot is another.
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        let mut fresh = 100;
        for act in acts {
            let numbers: Vec<CodeNumber> = server.relay.open.keys().copied().collect();
            let at = |slot: u64| live.get(&slot).copied().unwrap_or(slot);
            let outputs = match act {
                Act::Connect(slot, address, standing) if !live.contains_key(&slot) => {
                    fresh += 1;
                    live.insert(slot, fresh);
                    server.connect(fresh, address, standing)
                }
                Act::Connect(..) => Vec::new(),
                Act::Open(slot) => server.say(at(slot), ClientCode::CodeOpen),
                Act::Claim(slot, which) => {
                    let number = match numbers.len() {
                        0 => free(&server),
                        len => numbers[which % len],
                    };
                    server.say(at(slot), claim(number))
                }
                Act::Pass(slot) => {
                    let from = SocketId(at(slot));
                    let with = match server.relay.sockets.get(&from).map(|known| known.stage) {
                        Some(Stage::Paired { with, .. }) => Some(with),
                        Some(Stage::Silent { .. } | Stage::Open(_)) | None => None,
                    };
                    let outputs = server.say(from.0, pass(1));
                    for output in &outputs {
                        if let Output::Send(to, ServerCode::CodePass { .. }) = output {
                            prop_assert_eq!(Some(*to), with);
                        }
                    }
                    outputs
                }
                Act::Refuse(slot) => server.say(at(slot), ClientCode::CodeRefuse),
                Act::Garbage(slot) => server.handle(Input::Message(SocketId(at(slot)), None)),
                Act::Lose(slot) => {
                    let socket = at(slot);
                    live.remove(&slot);
                    server.lose(socket)
                }
                Act::Wait(secs) => server.wait(secs * SECOND),
                Act::Shutdown => server.handle(Input::Shutdown),
            };
            for output in outputs {
                if let Output::Close(SocketId(closed)) = output {
                    live.retain(|_, socket| *socket != closed);
                }
            }
            check(&server.relay);
        }
        server.wait(3_600 * SECOND);
        prop_assert!(server.is_empty());
    }
}
