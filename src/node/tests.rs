//! A node on the virtual clock. The test is its server, its peer and its face.

use std::net::{IpAddr, Ipv4Addr};

use tokio::time::sleep;

use super::*;
use crate::core::link::{CloseReason, Identity, PROBE_TIMEOUT};
use crate::core::peer::{Channel, Fingerprint, Payload};
use crate::io::rtc::Bind;
use crate::wire::control::Control;
use crate::wire::signal::OfferSignal;
use crate::wire::{LinkId, RoomId, Sdp, Secret, UserId};

const SECOND: Duration = Duration::from_secs(1);

/// Connections get their numbers in turn, and questions theirs.
const LINK: LinkKey = LinkKey(1);
const FIRST_PROBE: u64 = 1;

struct World {
    news: mpsc::Sender<SignalingNews>,
    peer: mpsc::Sender<(LinkKey, PeerEvent)>,
    told: mpsc::Receiver<Event>,
    _signals: mpsc::Receiver<ClientSignal>,
    _disk: mpsc::Sender<(OpId, transfer::DiskDone)>,
    _commands: mpsc::Sender<Command>,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good id")
}

impl World {
    /// A node whose face takes one event at a time, with a link to `bob` that the driver knows nothing of.
    async fn with_a_link() -> Self {
        let room = RoomId::new("den").expect("a good id");
        let identity =
            Identity { me: user("me"), name: "me".into(), room, key: None, allow_unverified: false };
        let mesh = mesh::Config { identity, peer_buffer: 0, max_peers: 4, seed: [1; 32] };
        let transfers = transfer::Config::new(user("me"), std::env::temp_dir());
        let bind = Bind::Addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let config = RtcConfig { bind, mdns: false, ..RtcConfig::default() };
        let (rtc, _) = RtcDriver::new(config).expect("loopback is there");
        let (signals, _signals) = mpsc::channel(QUEUE);
        let (completions, disk_done) = mpsc::channel(QUEUE);
        let (peer, rtc_events) = mpsc::channel(QUEUE);
        let (news, received) = mpsc::channel(QUEUE);
        let (_commands, asked) = mpsc::channel(1);
        let (events, told) = mpsc::channel(1);
        let node = Node::new(mesh, transfers, rtc, Disk::new(completions.clone()), signals);
        tokio::spawn(
            node.run(Inlets { rtc_events, troubles: None, disk_done, asked, news: received }, events),
        );
        let mut world = Self { news, peer, told, _signals, _disk: completions, _commands };
        world.link().await;
        world
    }

    async fn link(&mut self) {
        let signals = vec![OfferSignal::Offer { sdp: Sdp::new("v=0\r\n").expect("short").with_marker() }];
        let id = LinkId::new("x").expect("a good id");
        self.hear(SignalingNews::Up).await;
        let welcome = ServerSignal::Welcome { resume: Secret::new("secret"), members: 1 };
        self.hear(SignalingNews::Signal(welcome)).await;
        assert!(matches!(self.next().await, Event::Signaling(SignalingState::Up)));
        assert!(matches!(self.next().await, Event::Ready { .. }));
        self.hear(SignalingNews::Signal(ServerSignal::Accept { id, user_id: user("bob"), signals })).await;
        let (local, remote) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        self.peer(PeerEvent::Connected { local, remote }).await;
        self.peer(PeerEvent::ChannelOpen(Channel::Control)).await;
        self.peer(PeerEvent::ChannelOpen(Channel::Fast)).await;
        self.says(&Control::Hello { version: 1, name: "bob".into(), proof: None }).await;
        assert!(matches!(self.next().await, Event::Opened(_)));
    }

    /// What the way to the server says. Returns once the node has taken it.
    async fn hear(&self, news: SignalingNews) {
        self.news.send(news).await.expect("the node lives");
        self.news.reserve_many(QUEUE).await.expect("the node lives").for_each(drop);
    }

    async fn refuse(&self, times: usize) {
        for _ in 0..times {
            let refusal = ServerSignal::SignalError { code: Some(ErrorCode::Other), message: "no".into() };
            self.hear(SignalingNews::Signal(refusal)).await;
        }
    }

    async fn gone(&self) {
        self.hear(SignalingNews::Signal(ServerSignal::Gone { user_id: user("bob") })).await;
    }

    async fn peer(&self, event: PeerEvent) {
        self.peer.send((LINK, event)).await.expect("the node lives");
    }

    async fn says(&self, control: &Control) {
        let payload = Payload::Text(control.to_text());
        self.peer(PeerEvent::Message { channel: Channel::Control, payload }).await;
    }

    async fn next(&mut self) -> Event {
        self.told.recv().await.expect("the node lives")
    }

    /// Reads up to the first event that is no refusal. Returns it, and how many refusals came before.
    async fn after_refusals(&mut self) -> (usize, Event) {
        let mut refusals = 0;
        loop {
            let event = self.next().await;
            let Event::Signaling(SignalingState::Refused { .. }) = event else { return (refusals, event) };
            refusals += 1;
        }
    }
}

/// Somebody at a terminal pressed Ctrl-S, and the server makes use of it.
#[tokio::test(start_paused = true)]
async fn a_server_cannot_close_a_link_that_works_while_the_face_stands_still() {
    let mut world = World::with_a_link().await;
    world.refuse(1000).await;
    world.gone().await;
    world.says(&Control::Alive { nonce: FIRST_PROBE }).await;
    sleep(3 * SECOND).await;
    world.peer(PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text("hi".into()) }).await;
    let (refusals, event) = world.after_refusals().await;
    assert!(refusals <= 17, "{refusals} of 1,000 refusals were told");
    assert!(matches!(&event, Event::Message { text, .. } if text == "hi"), "{event:?}");

    sleep(2 * PROBE_TIMEOUT).await;
    world.peer(PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text("again".into()) }).await;
    let event = world.next().await;
    assert!(matches!(&event, Event::Message { text, .. } if text == "again"), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_is_found_out_when_the_face_takes_something_again() {
    let mut world = World::with_a_link().await;
    world.refuse(1000).await;
    world.gone().await;
    world.peer(PeerEvent::Disconnected).await;
    sleep(3 * SECOND).await;
    let resumed_at = now();
    let (_, event) = world.after_refusals().await;
    let lost = matches!(&event, Event::Closed { peer, reason: CloseReason::Lost } if peer.id == user("bob"));
    assert!(lost, "{event:?}");
    let waited = now() - resumed_at;
    assert!(waited > Duration::ZERO && waited <= PROBE_TIMEOUT, "{waited:?}");
}

/// Its program waits for its own face, or for what was said to it before.
#[tokio::test(start_paused = true)]
async fn a_server_cannot_close_a_link_whose_other_end_is_busy() {
    let mut world = World::with_a_link().await;
    world.gone().await;
    sleep(4 * PROBE_TIMEOUT).await;
    world.peer(PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text("hi".into()) }).await;
    let event = world.next().await;
    assert!(matches!(&event, Event::Message { text, .. } if text == "hi"), "{event:?}");
}
