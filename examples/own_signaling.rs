//! A mesh in one process, with signaling of its own: no server, no sockets but WebRTC's.
//!
//! ```text
//! cargo run --release --example own_signaling -- 8
//! ```
//!
//! Every peer gets two queues, one to and one from a room; what the room is made of is up to you. Here it is the
//! room machine of `swarm serve`, driven by a task.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fast_rtc_swarm::core::access::Grant;
use fast_rtc_swarm::core::network::ClientAddress;
use fast_rtc_swarm::core::room::{Input, Limits, Output, Rooms, SocketId};
use fast_rtc_swarm::wire::{ClientSignal, ServerSignal};
use fast_rtc_swarm::{Swarm, SwarmConfig, SwarmEvent};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(4), |n| n.parse::<u64>()).context("how many peers?")?;
    let (to_room, from_peers) = mpsc::channel(1024);
    let started = Instant::now();
    let mut mailboxes = BTreeMap::new();
    let mut peers = Vec::new();
    for no in 0..count {
        let (mailbox, mail) = mpsc::channel(1024);
        mailboxes.insert(SocketId(no), mailbox);
        peers.push(tokio::spawn(peer(SocketId(no), to_room.clone(), mail, count as usize - 1)));
    }
    drop(to_room);
    tokio::spawn(room(from_peers, mailboxes));
    for peer in peers {
        let (id, heard) = peer.await??;
        println!("{id} heard {heard} greetings");
    }
    println!("{count} peers, everyone heard everyone, after {} ms", started.elapsed().as_millis());
    Ok(())
}

/// Greets everyone who opens, and ends once everyone else was heard.
async fn peer(
    socket: SocketId,
    to_room: mpsc::Sender<(SocketId, ClientSignal)>,
    mut mail: mpsc::Receiver<ServerSignal>,
    others: usize,
) -> anyhow::Result<(String, usize)> {
    let (swarm, mut events) = Swarm::new(SwarmConfig::new("example")?)?;
    let swarm = Arc::new(swarm);
    let dispatcher = Arc::clone(&swarm);
    tokio::spawn(async move {
        while let Some(signal) = mail.recv().await {
            if dispatcher.dispatch(signal).await.is_err() {
                return;
            }
        }
    });
    let mut heard = 0;
    let mut open = 0;
    while heard < others {
        match events.recv().await.context("the swarm ended early")? {
            SwarmEvent::Signal(signal) => to_room.send((socket, signal)).await?,
            SwarmEvent::Open(peer) => {
                open += 1;
                swarm.send_to(peer.id, format!("hello from {}", swarm.id())).await?;
            }
            SwarmEvent::Data { .. } => heard += 1,
            SwarmEvent::Close { peer, reason } => {
                bail!("{} closed after {open} were open: {reason:?}", peer.id)
            }
            SwarmEvent::Refused { peer, reason } => bail!("{peer:?} was refused: {reason:?}"),
        }
    }
    // Stay until the slowest has heard us too.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let id = swarm.id().to_string();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(swarm);
    });
    Ok((id, heard))
}

async fn room(
    mut from_peers: mpsc::Receiver<(SocketId, ClientSignal)>,
    mailboxes: BTreeMap<SocketId, mpsc::Sender<ServerSignal>>,
) {
    let mut rooms = Rooms::new(Limits::default(), rand::random());
    for socket in mailboxes.keys() {
        let address = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
        rooms.handle(Instant::now(), Input::Connected { socket: *socket, address, grant: Grant::EveryRoom });
    }
    loop {
        let wake_at = rooms.poll_timeout().map_or(Duration::from_secs(1), |(at, _)| at - Instant::now());
        tokio::select! {
            message = from_peers.recv() => match message {
                Some((socket, signal)) => rooms.handle(Instant::now(), Input::Signal { socket, signal }),
                None => return,
            },
            () = tokio::time::sleep(wake_at) => rooms.handle_timeout(Instant::now()),
        }
        while let Some(output) = rooms.poll() {
            match output {
                Output::Send { socket, signal } => {
                    if let Some(mailbox) = mailboxes.get(&socket) {
                        let _ = mailbox.send(signal).await;
                    }
                }
                Output::Ping(socket) => rooms.handle(Instant::now(), Input::Seen(socket)),
                Output::Close { .. } => {}
            }
        }
    }
}
