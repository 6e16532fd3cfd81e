//! The library over real WebRTC, with signaling brought by the test: a room machine in this process.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_rtc_swarm::core::access::Grant;
use fast_rtc_swarm::core::network::ClientAddress;
use fast_rtc_swarm::core::room::{Input, Limits, Output, Rooms, SocketId};
use fast_rtc_swarm::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;
use fast_rtc_swarm::wire::{ClientSignal, RoomKey, ServerSignal, UserId};
use fast_rtc_swarm::{CloseReason, Message, Swarm, SwarmConfig, SwarmError, SwarmEvent};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    signals: mpsc::Sender<(SocketId, Option<ClientSignal>)>,
    sockets: mpsc::Sender<(SocketId, mpsc::Sender<ServerSignal>)>,
    next_socket: u64,
}

impl Server {
    fn start() -> Self {
        let (signals, received) = mpsc::channel(1024);
        let (sockets, opened) = mpsc::channel(16);
        tokio::spawn(serve(received, opened));
        Self { signals, sockets, next_socket: 0 }
    }

    /// A member connected to the room. Signals are carried both ways; what remains are the other events.
    async fn member(&mut self, config: SwarmConfig) -> Member {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        let (swarm, mut events) = Swarm::new(config).expect("WebRTC works here");
        let swarm = std::sync::Arc::new(swarm);
        let (to_member, mut from_server) = mpsc::channel(1024);
        self.sockets.send((socket, to_member)).await.expect("the server runs");
        let dispatcher = std::sync::Arc::clone(&swarm);
        let inlet = tokio::spawn(async move {
            while let Some(signal) = from_server.recv().await {
                if dispatcher.dispatch(signal).await.is_err() {
                    return;
                }
            }
        });
        let (news, told) = mpsc::channel(1024);
        let signals = self.signals.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    SwarmEvent::Signal(signal) => drop(signals.send((socket, Some(signal))).await),
                    event => drop(news.send(event).await),
                }
            }
            let _ = signals.send((socket, None)).await;
        });
        Member { swarm, told, inlet }
    }
}

async fn serve(
    mut signals: mpsc::Receiver<(SocketId, Option<ClientSignal>)>,
    mut opened: mpsc::Receiver<(SocketId, mpsc::Sender<ServerSignal>)>,
) {
    let mut rooms = Rooms::new(Limits::default(), [3; 32]);
    let mut sockets: BTreeMap<SocketId, mpsc::Sender<ServerSignal>> = BTreeMap::new();
    loop {
        let now = Instant::now();
        tokio::select! {
            biased;
            Some((socket, sender)) = opened.recv() => {
                sockets.insert(socket, sender);
                let address = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
                rooms.handle(now, Input::Connected { socket, address, grant: Grant::EveryRoom });
            }
            signal = signals.recv() => match signal {
                Some((socket, Some(signal))) => rooms.handle(now, Input::Signal { socket, signal }),
                Some((socket, None)) => rooms.handle(now, Input::Lost(socket)),
                None => return,
            },
            () = tokio::time::sleep(Duration::from_millis(200)) => rooms.handle_timeout(now),
        }
        while let Some(output) = rooms.poll() {
            match output {
                Output::Send { socket, signal } => {
                    if let Some(sender) = sockets.get(&socket) {
                        let _ = sender.send(signal).await;
                    }
                }
                Output::Ping(socket) => rooms.handle(now, Input::Seen(socket)),
                Output::Close { socket, .. } => {
                    sockets.remove(&socket);
                    rooms.handle(now, Input::Lost(socket));
                }
            }
        }
    }
}

struct Member {
    swarm: std::sync::Arc<Swarm>,
    told: mpsc::Receiver<SwarmEvent>,
    inlet: tokio::task::JoinHandle<()>,
}

impl Member {
    async fn next(&mut self) -> SwarmEvent {
        timeout(PATIENCE, self.told.recv()).await.expect("an event in time").expect("the swarm is open")
    }

    async fn wait_for_peers(&mut self, count: usize) {
        for _ in 0..count {
            match self.next().await {
                SwarmEvent::Open(_) => {}
                event => panic!("expected a peer, got {event:?}"),
            }
        }
    }

    async fn message(&mut self) -> (UserId, Message) {
        match self.next().await {
            SwarmEvent::Data { from, message } => (from.id, message),
            event => panic!("expected a message, got {event:?}"),
        }
    }

    async fn close(self) {
        self.inlet.abort();
        let _ = self.inlet.await;
        let swarm = std::sync::Arc::into_inner(self.swarm).expect("the dispatcher has ended");
        swarm.close().await;
    }
}

fn config(id: &str, key: Option<u8>) -> SwarmConfig {
    let mut config = SwarmConfig::new("lobby").expect("a room");
    config.id = UserId::new(id).expect("an id");
    config.key = key.map(|byte| RoomKey::from_random([byte; 16]));
    config
}

async fn room_of(members: usize) -> (Server, Vec<Member>) {
    let mut server = Server::start();
    let mut room = Vec::new();
    for no in 0..members {
        let mut newcomer = server.member(config(&format!("peer-{no}"), Some(1))).await;
        newcomer.wait_for_peers(no).await;
        for member in &mut room {
            Member::wait_for_peers(member, 1).await;
        }
        room.push(newcomer);
    }
    (server, room)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_members_hear_each_other() {
    let (_server, mut room) = room_of(4).await;
    room[2].swarm.broadcast("hello").await.expect("open");
    let bytes = Bytes::from(vec![0x5a; CHANNEL_MESSAGE_MAX_BYTES]);
    room[2].swarm.broadcast(bytes.clone()).await.expect("open");
    let sender = room[2].swarm.id().clone();
    for no in [0, 1, 3] {
        assert_eq!(room[no].message().await, (sender.clone(), Message::Text("hello".into())));
        assert_eq!(room[no].message().await, (sender.clone(), Message::Binary(bytes.clone())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_said_right_before_leaving_arrives_and_the_leave_is_seen() {
    let (_server, mut room) = room_of(3).await;
    let leaver = room.remove(1);
    leaver.swarm.broadcast("bye").await.expect("open");
    leaver.close().await;
    for member in &mut room {
        assert_eq!(member.message().await.1, Message::Text("bye".into()));
        match member.next().await {
            SwarmEvent::Close { peer, reason } => {
                assert_eq!((peer.id.as_str(), reason), ("peer-1", CloseReason::Left));
            }
            event => panic!("expected the leave, got {event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_key_is_refused_on_both_sides() {
    let mut server = Server::start();
    let mut right = server.member(config("right", Some(1))).await;
    let mut wrong = server.member(config("wrong", Some(2))).await;
    for member in [&mut right, &mut wrong] {
        match member.next().await {
            SwarmEvent::Refused { reason, .. } => assert_eq!(reason, CloseReason::KeyMismatch),
            event => panic!("expected a refusal, got {event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_is_refused_to_its_sender() {
    let (_server, room) = room_of(1).await;
    let bytes = Bytes::from(vec![0; CHANNEL_MESSAGE_MAX_BYTES + 1]);
    let refused = room[0].swarm.broadcast(bytes).await;
    assert!(matches!(refused, Err(SwarmError::MessageTooLarge(len)) if len == CHANNEL_MESSAGE_MAX_BYTES + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_listen_holds_nobody_up_for_long() {
    let (_server, mut room) = room_of(3).await;
    let deaf = room.remove(0);
    let speaker = room.remove(0);
    let mut listener = room.remove(0);
    // More than all queues of the deaf one hold.
    const MESSAGES: usize = 6_000;
    let speaking = tokio::spawn(async move {
        for no in 0..MESSAGES {
            let mut bytes = vec![0; 16 * 1024];
            bytes[..8].copy_from_slice(&(no as u64).to_le_bytes());
            speaker.swarm.broadcast(Bytes::from(bytes)).await.expect("open");
        }
        speaker
    });
    for no in 0..MESSAGES as u64 {
        match listener.message().await.1 {
            Message::Binary(bytes) => assert_eq!(bytes[..8], no.to_le_bytes()),
            Message::Text(text) => panic!("expected bytes, got {text:?}"),
        }
    }
    let mut speaker = speaking.await.expect("the speaker does not fail");
    match speaker.next().await {
        SwarmEvent::Close { peer, .. } => assert_eq!(&peer.id, deaf.swarm.id()),
        event => panic!("expected the deaf member to be cut off, got {event:?}"),
    }
}
