//! Entering a room: the server of our own, if there is none yet, then the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::args::AcceptArgs;
use super::config::{Place, RoomConfig};
use super::exit::{Exit, Failure, OrExit};
use crate::core::access::Access;
use crate::core::link::Identity;
use crate::core::mesh;
use crate::core::transfer::{self, AcceptPolicy, ConflictPolicy, Streams, Target};
use crate::io::open_files;
use crate::io::rtc::RtcConfig;
use crate::io::ws::client::{ConnectConfig, Trust};
use crate::io::ws::server::{Capacity, Server, ServerConfig};
use crate::node::{self, Handle, NodeConfig, signaling};
use crate::wire::invite::ServerUrl;
use crate::wire::{Init, Invite, RoomId, RoomKey, Secret, UserId};

/// Offers kept waiting at the server for newcomers, and the most peers in a room: the server's own default limit.
const PEER_BUFFER: usize = 1;
const PEERS_MAX: usize = 100;

/// Which files are received, and where they go.
#[derive(Debug, Clone)]
pub struct Files {
    /// A folder, or stdout.
    pub target: Target,
    /// How many, where it is stdout.
    pub streams: Streams,
    /// What to do with files that are there already.
    pub conflict: ConflictPolicy,
    /// The most bytes taken in one transfer.
    pub max_bytes: Option<u64>,
    /// The most files and folders taken in one transfer.
    pub max_entries: Option<u32>,
}

impl Files {
    /// What the arguments say.
    pub fn new(args: &AcceptArgs, target: Target) -> Self {
        let (conflict, max_bytes) = (args.on_conflict.into(), args.max_size.map(|size| size.0));
        Self { target, streams: Streams::One, conflict, max_bytes, max_entries: args.max_files }
    }

    /// For whoever only sends: nothing is ever accepted.
    pub fn unwanted() -> Self {
        let target = Target::Folder(".".into());
        let (streams, conflict) = (Streams::One, ConflictPolicy::Skip);
        Self { target, streams, conflict, max_bytes: None, max_entries: None }
    }
}

/// A room that was entered.
pub struct Room {
    /// The node.
    pub node: Handle,
    /// The invite that leads here.
    pub invite: Invite,
    /// Who else knows the invite.
    pub origin: Origin,
    /// Our own server, if the room is at one.
    pub server: Option<OwnServer>,
}

/// How we came by the invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Somebody gave it to us.
    Given,
    /// We made it, and others need it. `reach`: from where they can come.
    Made {
        /// Whether only this machine can reach the server.
        reach: Reach,
    },
}

/// From where a server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From this machine.
    Machine,
    /// From wherever its address leads.
    Network,
}

/// A server of our own, for as long as we stay.
#[derive(Debug)]
pub struct OwnServer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl OwnServer {
    /// Tells everyone that the server ends, and waits until they are gone or a moment has passed.
    pub async fn close(self) {
        drop(self.stop);
        // A server that panicked is closed, too.
        let _ = self.task.await;
    }
}

/// Enters the room: starts a server if it is to be our own, and a node.
pub async fn enter(config: &RoomConfig, files: Files) -> Result<Room, Failure> {
    // Each link takes some, and so does each transfer under way.
    open_files::raise();
    let (invite, origin, server) = match &config.place {
        Place::Invited(invite) => (invite.clone(), Origin::Given, None),
        Place::New(invite) => (invite.clone(), Origin::Made { reach: Reach::Network }, None),
        Place::Own { listen, room, key } => {
            let (invite, reach, server) = start_server(*listen, room, key).await?;
            (invite, Origin::Made { reach }, Some(server))
        }
    };
    let node = start_node(config, &invite, files)?;
    Ok(Room { node, invite, origin, server })
}

async fn start_server(
    listen: SocketAddr,
    room: &RoomId,
    key: &RoomKey,
) -> Result<(Invite, Reach, OwnServer), Failure> {
    let token = Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()));
    let access = Access::Guarded { tokens: vec![token.clone()], keys: Vec::new() };
    let mut config = ServerConfig::new(listen, access);
    // The other half is for links and files.
    config.capacity = Capacity::of(open_files::limit() / 2);
    let server = Server::bind(config)
        .await
        .with_context(|| format!("can't listen on {listen}; another --listen address or port may be free"))?;
    let address = server.local_addr();
    let host = SocketAddr::new(outward_address(address.ip()), address.port());
    let url = ServerUrl::parse(&format!("ws://{host}")).context("our own address")?;
    let invite = Invite::new(url, room.clone(), Some(token), Some(key.clone())).or_exit(Exit::Usage)?;
    let reach = if host.ip().is_loopback() { Reach::Machine } else { Reach::Network };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        // Nothing is ever sent: the other end is dropped.
        let _ = stopped.await;
    }));
    Ok((invite, reach, OwnServer { stop, task }))
}

/// The address under which others reach a server that listens on `listening`.
pub(super) fn outward_address(listening: IpAddr) -> IpAddr {
    if !listening.is_unspecified() {
        return listening;
    }
    // Connecting a UDP socket sends nothing; it only asks the system which of its addresses it would send from. The
    // destinations are for documentation (RFC 5737, RFC 3849) and stand for "somewhere else".
    let from = |bind: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    let v4 = from(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = || {
        let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        from(Ipv6Addr::UNSPECIFIED.into(), elsewhere.into()).filter(|_| listening.is_ipv6())
    };
    v4.or_else(v6).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn start_node(config: &RoomConfig, invite: &Invite, files: Files) -> Result<Handle, Failure> {
    let me = UserId::from_random(rand::random());
    let defaults = transfer::Config::new(me.clone(), ".".into());
    let trust = match invite.server().is_tls() {
        true => Trust::system(config.ca.as_deref()).or_exit(Exit::Usage)?,
        false => Trust::none(),
    };
    let init =
        Init { user_id: me.clone(), room_id: invite.room().clone(), have: Some(Vec::new()), resume: None };
    let signaling = signaling::start(ConnectConfig {
        url: invite.server_url(),
        token: invite.token().cloned(),
        trust,
        wrapped: config.wrapped,
        init: Some(init),
    });
    let node = NodeConfig {
        mesh: mesh::Config {
            identity: Identity {
                me: me.clone(),
                name: config.name.to_string(),
                room: invite.room().clone(),
                key: invite.key().cloned(),
                allow_unverified: config.allow_unverified,
            },
            peer_buffer: PEER_BUFFER,
            max_peers: PEERS_MAX,
            seed: rand::random(),
        },
        rtc: RtcConfig {
            ice_servers: config.ice_servers.clone(),
            relay_only: config.relay_only,
            ..RtcConfig::default()
        },
        transfers: transfer::Config {
            target: files.target,
            streams: files.streams,
            // The faces judge each offer: they know the names.
            accept: AcceptPolicy::Ask,
            conflict: files.conflict,
            up_bps: config.up.map(|rate| rate.0),
            down_bps: config.down.map(|rate| rate.0),
            max_bytes: files.max_bytes.unwrap_or(defaults.max_bytes),
            max_entries: files.max_entries.unwrap_or(defaults.max_entries),
            ..defaults
        },
    };
    node::spawn(node, signaling).context("can't start WebRTC").map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_one_stays() {
        let address: IpAddr = "192.0.2.7".parse().expect("an address");
        assert_eq!(outward_address(address), address);
        assert!(!outward_address(Ipv4Addr::UNSPECIFIED.into()).is_unspecified());
    }
}
