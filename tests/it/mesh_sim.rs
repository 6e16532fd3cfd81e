//! The mesh and the room together, in the simulator.

use std::time::Duration;

use fast_rtc_swarm::core::link::CloseReason;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::wire::{ClientSignal, Init, RoomId, UserId};

use crate::sim::{Break, PeerNo, World, was_told_of};

const KEY: Option<[u8; 16]> = Some([1; 16]);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn world_of(members: usize, seed: u64) -> (World, Vec<PeerNo>) {
    let mut world = World::new(seed);
    let peers: Vec<PeerNo> = (0..members)
        .map(|no| {
            let peer = world.join(&format!("peer-{no}"), "lobby", KEY);
            world.run_for(seconds(2));
            peer
        })
        .collect();
    world.settle();
    world.assert_full_mesh(&peers);
    (world, peers)
}

#[test]
fn a_newcomer_meets_everyone() {
    let (mut world, peers) = world_of(8, 1);
    world.say(peers[7], "hello");
    world.run_for(seconds(1));
    for &peer in &peers[..7] {
        assert_eq!(world.lines(peer), ["peer-7: hello"]);
    }
}

#[test]
fn everyone_joins_at_once() {
    let mut world = World::new(2);
    let peers: Vec<PeerNo> = (0..16).map(|no| world.join(&format!("peer-{no}"), "lobby", KEY)).collect();
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn rooms_do_not_mix() {
    let mut world = World::new(3);
    let red: Vec<PeerNo> = (0..4).map(|no| world.join(&format!("red-{no}"), "red", KEY)).collect();
    let blue: Vec<PeerNo> = (0..4).map(|no| world.join(&format!("blue-{no}"), "blue", KEY)).collect();
    world.settle();
    world.assert_full_mesh(&red);
    world.assert_full_mesh(&blue);
    world.say(red[0], "psst");
    world.run_for(seconds(1));
    assert!(blue.iter().all(|peer| world.lines(*peer).is_empty()));
}

#[test]
fn a_leaving_peer_is_gone_at_once_and_not_asked_for_again() {
    let (mut world, peers) = world_of(4, 4);
    world.leave(peers[1]);
    world.run_for(seconds(1));
    let rest = [peers[0], peers[2], peers[3]];
    for peer in rest {
        let left = Event::Closed { peer: UserId::new("peer-1").expect("an id"), reason: CloseReason::Left };
        assert!(world.peers[peer].events.contains(&left));
    }
    world.settle();
    world.assert_full_mesh(&rest);
}

#[test]
fn a_killed_peer_is_noticed_within_seconds() {
    let (mut world, peers) = world_of(5, 5);
    world.crash(peers[2]);
    world.run_for(seconds(4));
    let survivors = [peers[0], peers[1], peers[3], peers[4]];
    for peer in survivors {
        assert_eq!(world.peers[peer].ready_peers().len(), 3);
    }
    world.settle();
    world.assert_full_mesh(&survivors);
}

#[test]
fn a_killed_peer_is_noticed_without_the_server_too() {
    let (mut world, peers) = world_of(3, 6);
    for &peer in &peers {
        world.break_socket(peer, Break::Clean);
    }
    world.crash(peers[2]);
    world.run_for(seconds(15));
    let survivors = [peers[0], peers[1]];
    for peer in survivors {
        assert_eq!(world.peers[peer].ready_peers().len(), 1);
    }
    world.settle();
    world.assert_full_mesh(&survivors);
}

#[test]
fn a_lost_socket_closes_no_link() {
    let (mut world, peers) = world_of(6, 7);
    let before: Vec<usize> = world.peers.iter().map(|peer| peer.events.len()).collect();
    for _ in 0..5 {
        world.break_socket(peers[0], Break::Clean);
        world.break_socket(peers[3], Break::Clean);
        world.run_for(seconds(45));
    }
    world.settle();
    world.assert_full_mesh(&peers);
    for (peer, before) in world.peers.iter().zip(before) {
        let news = &peer.events[before..];
        assert!(
            !news.iter().any(|event| matches!(event, Event::Closed { .. } | Event::Opened { .. })),
            "{news:?}"
        );
    }
}

#[test]
fn the_mesh_outlives_the_server_and_heals_with_the_next() {
    let (mut world, mut peers) = world_of(5, 8);
    world.restart_server();
    world.say(peers[0], "still here");
    world.run_for(Duration::from_millis(300));
    for &peer in &peers[1..] {
        assert_eq!(world.lines(peer), ["peer-0: still here"]);
    }
    peers.push(world.join("late", "lobby", KEY));
    world.settle();
    world.assert_full_mesh(&peers);
    let closed = |peer: &PeerNo| {
        world.peers[*peer].events.iter().filter(|event| matches!(event, Event::Closed { .. })).count()
    };
    assert_eq!(peers.iter().map(closed).sum::<usize>(), 0);
}

#[test]
fn a_crashed_peer_comes_back_under_its_own_id() {
    let (mut world, peers) = world_of(4, 9);
    world.crash(peers[1]);
    // The server keeps the place of a member for 30 s: nobody but its owner could take it earlier.
    world.run_for(seconds(40));
    let back = world.join("peer-1", "lobby", KEY);
    world.settle();
    world.assert_full_mesh(&[peers[0], back, peers[2], peers[3]]);
}

#[test]
fn a_second_peer_with_the_same_id_is_refused_and_harms_nobody() {
    let (mut world, peers) = world_of(3, 10);
    let twin = world.join("peer-1", "lobby", KEY);
    world.settle();
    world.assert_full_mesh(&peers);
    assert!(world.peers[twin].events.iter().any(|event| matches!(event, Event::Refused { .. })));
    assert_eq!(world.peers[twin].ready_peers().len(), 0);
}

#[test]
fn a_frozen_member_holds_nobody_up() {
    let (mut world, mut peers) = world_of(4, 11);
    world.freeze(peers[0], seconds(60));
    world.run_for(seconds(1));
    let newcomer = world.join("newcomer", "lobby", KEY);
    world.run_for(seconds(3));
    assert_eq!(world.peers[newcomer].ready_peers().len(), 3, "everyone but the frozen one, at once");
    world.settle();
    peers.push(newcomer);
    world.assert_full_mesh(&peers);
}

#[test]
fn another_key_is_said_to_both_and_nothing_is_shown() {
    let mut world = World::new(12);
    let right = world.join("right", "lobby", KEY);
    let wrong = world.join("wrong", "lobby", Some([2; 16]));
    world.run_for(seconds(5));
    let (right_id, wrong_id) = (world.peers[right].id.clone(), world.peers[wrong].id.clone());
    assert!(was_told_of(&world.peers[right], &wrong_id, CloseReason::KeyMismatch));
    assert!(was_told_of(&world.peers[wrong], &right_id, CloseReason::KeyMismatch));
    world.say(wrong, "let me in");
    world.settle();
    world.assert_full_mesh(&[right]);
    assert!(world.lines(right).is_empty());
}

#[test]
fn a_pair_without_a_path_is_tried_again_and_heals() {
    let mut world = World::new(13);
    let first = world.join("first", "lobby", KEY);
    world.run_for(seconds(1));
    let second = world.join("second", "lobby", KEY);
    world.set_path(first, second, false);
    world.run_for(seconds(30));
    assert_eq!(world.peers[first].ready_peers().len(), 0);
    world.set_path(first, second, true);
    world.settle();
    world.assert_full_mesh(&[first, second]);
}

#[test]
fn a_pair_that_loses_its_path_and_gets_it_back_is_linked_again() {
    let (mut world, peers) = world_of(3, 14);
    world.set_path(peers[0], peers[1], false);
    world.run_for(seconds(20));
    assert_eq!(world.peers[peers[0]].ready_peers().len(), 1);
    world.set_path(peers[0], peers[1], true);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn an_ignored_peer_is_not_heard() {
    let (mut world, peers) = world_of(3, 15);
    let ignored = world.peers[peers[1]].id.clone();
    world.input(peers[0], mesh::Input::Ignore { peer: ignored.clone(), ignored: true });
    world.say(peers[1], "noise");
    world.run_for(seconds(1));
    assert!(world.lines(peers[0]).is_empty());
    assert_eq!(world.lines(peers[2]), ["peer-1: noise"]);
    world.input(peers[0], mesh::Input::Ignore { peer: ignored, ignored: false });
    world.say(peers[1], "music");
    world.run_for(seconds(1));
    assert_eq!(world.lines(peers[0]), ["peer-1: music"]);
}

#[test]
fn a_mesh_of_a_hundred_is_complete() {
    let mut world = World::new(16);
    let peers: Vec<PeerNo> = (0..100)
        .map(|no| {
            let peer = world.join(&format!("peer-{no}"), "lobby", KEY);
            world.run_for(Duration::from_millis(200));
            peer
        })
        .collect();
    world.settle();
    world.assert_full_mesh(&peers);
    assert_eq!(world.rooms.stats().links, 100 * 99 / 2);
}

#[test]
fn an_init_under_a_members_name_does_not_touch_that_member() {
    let (mut world, peers) = world_of(3, 17);
    let socket = world.raw_socket();
    let init = Init {
        user_id: world.peers[peers[0]].id.clone(),
        room_id: RoomId::new("lobby").expect("a room"),
        have: Some(Vec::new()),
        resume: Some("guessed".into()),
    };
    world.raw_signal(socket, ClientSignal::Init(init));
    world.raw_signal(socket, ClientSignal::Close);
    world.settle();
    world.assert_full_mesh(&peers);
}
