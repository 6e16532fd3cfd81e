//! Somebody on the way between two peers, who hears everything and can send in the name of either.

use std::net::SocketAddr;
use std::time::Duration;

use fast_rtc_swarm::core::peer::{Channel, PeerCommand, PeerEvent};
use fast_rtc_swarm::wire::{Candidate, Sdp};
use tokio::net::UdpSocket;

use super::{Peer, loopback};

const BINDING_REQUEST: [u8; 2] = [0, 1];
const BINDING_SUCCESS: [u8; 2] = [1, 1];
const USERNAME: u16 = 6;

/// So many are sent before answers count, more than are heard before there is no room for others. It goes on after that.
const FORGED: usize = 2_000;

/// One end, as it looks from the way.
struct End {
    /// Where the other end is, for this one.
    socket: UdpSocket,
    address: SocketAddr,
    ufrag: String,
    /// The first check that was sent to it.
    heard: Option<Vec<u8>>,
    forged: usize,
    /// Checks that were sent to it, and answers from it.
    checks: usize,
    answers: usize,
}

impl End {
    async fn new(candidates: &[Option<Candidate>], sdp: &Sdp) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let candidate = candidates.iter().flatten().next().expect("a candidate");
        let fields: Vec<&str> = candidate.candidate.split(' ').collect();
        let address = format!("{}:{}", fields[4], fields[5]).parse().expect("an address");
        let ufrag = sdp.as_str().lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("a ufrag");
        Self {
            socket,
            address,
            ufrag: ufrag.trim().to_owned(),
            heard: None,
            forged: 0,
            checks: 0,
            answers: 0,
        }
    }

    /// What the other end is told of where this one is.
    fn candidate_at(&self, other: &Self) -> Candidate {
        let port = other.socket.local_addr().expect("bound").port();
        Candidate::of_line(&format!("candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host"))
    }

    async fn pass_on(&mut self, from: &mut Self, datagram: &[u8]) {
        if datagram.starts_with(&BINDING_REQUEST) {
            self.heard.get_or_insert_with(|| datagram.to_vec());
            self.checks += 1;
        }
        let is_again = from.heard.as_ref().is_some_and(|heard| datagram.get(8..20) == Some(&heard[8..20]));
        from.answers += usize::from(datagram.starts_with(&BINDING_SUCCESS) && !is_again);
        self.socket.send_to(datagram, self.address).await.expect("sent");
    }

    /// Sends what anybody can make who knows the names, and once more what was heard.
    async fn deceive(&mut self, other: &str) {
        let name = format!("{}:{other}", self.ufrag);
        let padded = name.len().next_multiple_of(4);
        let mut forged = [&BINDING_REQUEST[..], &(padded as u16 + 4).to_be_bytes()].concat();
        forged.extend([0x21, 0x12, 0xa4, 0x42]);
        forged.extend((self.forged as u128).to_be_bytes()[4..].iter());
        forged.extend(USERNAME.to_be_bytes());
        forged.extend((name.len() as u16).to_be_bytes());
        forged.extend(name.as_bytes());
        forged.resize(24 + padded, 0);
        for datagram in [Some(&forged), self.heard.as_ref()].into_iter().flatten() {
            self.socket.send_to(datagram, self.address).await.expect("sent");
            self.forged += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hears_a_connection_and_forges_its_checks_can_not_close_it() {
    let (mut offerer, mut answerer) = (Peer::with(loopback()), Peer::with(loopback()));
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let mut near = End::new(&offerer.candidates().await, &offer).await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: offer.without_candidates() });
    let answer = answerer.description().await;
    let mut far = End::new(&answerer.candidates().await, &answer).await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer.without_candidates() });
    offerer.ask(PeerCommand::AddCandidate(Some(far.candidate_at(&near))));
    answerer.ask(PeerCommand::AddCandidate(Some(near.candidate_at(&far))));

    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let (mut at_near, mut at_far) = ([0; 2048], [0; 2048]);
    let mut is_open = false;
    let is_enough = |end: &End| end.forged >= FORGED && end.answers > 2;
    let is_heard = |end: &End| end.checks < 10 + end.answers;
    while !is_enough(&near) || !is_enough(&far) {
        tokio::select! {
            Ok((len, _)) = near.socket.recv_from(&mut at_near) => far.pass_on(&mut near, &at_near[..len]).await,
            Ok((len, _)) = far.socket.recv_from(&mut at_far) => near.pass_on(&mut far, &at_far[..len]).await,
            event = offerer.next() => match event {
                PeerEvent::ChannelOpen(Channel::Fast) => is_open = true,
                PeerEvent::Closed(reason) => panic!("{reason:?}"),
                _ => {}
            },
            event = answerer.next() => assert!(!matches!(event, PeerEvent::Closed(_)), "{event:?}"),
            _ = ticks.tick(), if is_open => {
                near.deceive(&far.ufrag).await;
                far.deceive(&near.ufrag).await;
                if near.forged < FORGED {
                    (near.checks, near.answers, far.checks, far.answers) = (0, 0, 0, 0);
                }
                assert!(is_heard(&near) && is_heard(&far), "checks are not answered");
            }
        }
    }
}
