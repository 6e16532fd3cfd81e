//! The mesh and the room together, in the simulator.

use std::time::Duration;

use fast_rtc_swarm::core::link::CloseReason;
use fast_rtc_swarm::core::mesh::{self, Event};
use fast_rtc_swarm::core::stripes::STRIPES_MAX;
use fast_rtc_swarm::wire::{ClientSignal, Init, RoomId, Secret, UserId};

use crate::sim::{Break, Newcomer, PeerNo, World, was_told_of};

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
    world.run_for(seconds(6));
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
        resume: Some(Secret::new("guessed")),
    };
    world.raw_signal(socket, ClientSignal::Init(init));
    world.raw_signal(socket, ClientSignal::Close);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn a_newcomer_whose_welcome_is_lost_is_let_in_again_at_once() {
    let (mut world, mut peers) = world_of(2, 18);
    let newcomer = world.join("newcomer", "lobby", KEY);
    // Its `init` arrives; the answer does not.
    world.run_for(Duration::from_millis(90));
    world.break_socket(newcomer, Break::Clean);
    world.run_for(seconds(8));
    assert_eq!(world.peers[newcomer].ready_peers().len(), 2, "long before the grace is over");
    peers.push(newcomer);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn a_peer_is_back_before_the_server_knows_that_it_was_away() {
    let (mut world, peers) = world_of(4, 19);
    world.break_socket(peers[1], Break::ServerLate);
    world.run_for(seconds(5));
    assert_eq!(world.rooms.stats().counters.resumed, 1);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn an_id_is_free_again_when_the_grace_of_its_crashed_owner_is_over() {
    let (mut world, peers) = world_of(3, 20);
    world.crash(peers[1]);
    world.run_for(seconds(1));
    let refused = world.join("peer-1", "lobby", KEY);
    world.run_for(seconds(5));
    assert!(world.peers[refused].events.iter().any(|event| matches!(event, Event::Refused { .. })));
    let stubborn = world.enter(Newcomer::new("peer-1", "lobby", KEY).insisting());
    world.settle();
    world.assert_full_mesh(&[peers[0], stubborn, peers[2]]);
}

#[test]
fn originals_and_ours_meet_in_an_open_room() {
    let mut world = World::new(21);
    let mut peers = Vec::new();
    for round in 0..3 {
        peers.push(world.join(&format!("ours-{round}"), "lobby", None));
        world.run_for(seconds(1));
        peers.push(world.enter(Newcomer::original(&format!("original-{round}"), "lobby")));
        world.run_for(seconds(1));
    }
    world.settle();
    world.assert_full_mesh(&peers);
    world.assert_everyone_hears_everyone(&peers);
    world.assert_quiet();
}

#[test]
fn originals_and_ours_all_at_once_meet_too() {
    let mut world = World::new(22);
    let mut peers: Vec<PeerNo> = Vec::new();
    for round in 0..5 {
        peers.push(world.enter(Newcomer::original(&format!("original-{round}"), "lobby")));
        peers.push(world.join(&format!("ours-{round}"), "lobby", None));
    }
    world.settle();
    world.assert_full_mesh(&peers);
    world.assert_everyone_hears_everyone(&peers);
}

#[test]
fn an_original_that_leaves_is_gone_at_once_for_everyone() {
    let mut world = World::new(23);
    let ours = [world.join("a", "lobby", None), world.join("b", "lobby", None)];
    let original = world.enter(Newcomer::original("o", "lobby"));
    world.run_for(seconds(3));
    world.leave(original);
    world.run_for(seconds(1));
    world.assert_full_mesh(&ours);
}

#[test]
fn an_original_whose_socket_breaks_takes_its_links_down_and_nobody_asks_for_it() {
    let mut world = World::new(24);
    let ours = [world.join("a", "lobby", None), world.join("b", "lobby", None)];
    let original = world.enter(Newcomer::original("o", "lobby"));
    world.run_for(seconds(3));
    let wants = world.wants_sent;
    world.break_socket(original, Break::Clean);
    world.settle();
    world.assert_full_mesh(&ours);
    assert_eq!(world.wants_sent, wants);
}

#[test]
fn originals_stay_outside_a_room_with_a_key_and_peace_returns() {
    let mut world = World::new(25);
    let first = world.join("first", "lobby", KEY);
    world.run_for(seconds(1));
    let originals = [1, 2, 3].map(|no| world.enter(Newcomer::original(&format!("original-{no}"), "lobby")));
    world.run_for(seconds(1));
    let second = world.join("second", "lobby", KEY);
    world.run_for(seconds(5));
    for original in originals {
        let id = &world.peers[original].id;
        assert!(was_told_of(&world.peers[first], id, CloseReason::Unverified), "as the offerer");
        assert!(was_told_of(&world.peers[second], id, CloseReason::Unverified), "as the answerer");
        assert_eq!(world.peers[original].ready_peers().len(), 2, "the originals have each other");
    }
    world.assert_full_mesh(&[first, second]);
    world.assert_quiet();
}

#[test]
fn originals_are_let_into_a_room_with_a_key_by_those_who_allow_it() {
    let mut world = World::new(26);
    let open = world.enter(Newcomer::new("open", "lobby", KEY).allowing_unverified());
    let strict = world.join("strict", "lobby", KEY);
    let original = world.enter(Newcomer::original("original", "lobby"));
    world.settle();
    let ids = |peers: &[PeerNo]| peers.iter().map(|no| world.peers[*no].id.clone()).collect();
    world.assert_connected_to(open, &ids(&[strict, original]));
    world.assert_connected_to(strict, &ids(&[open]));
    assert_eq!(world.peers[original].ready_peers(), ids(&[open]));
    let is_verified = |event: &Event| matches!(event, Event::Opened { peer, verified: true, .. } if *peer == world.peers[original].id);
    assert!(!world.peers[open].events.iter().any(is_verified));
}

#[test]
fn a_peer_that_has_as_many_links_as_it_may_is_left_alone() {
    let mut world = World::new(27);
    let small = world.enter(Newcomer::new("small", "lobby", KEY).with_max_peers(2));
    world.run_for(seconds(1));
    let others: Vec<PeerNo> = (0..4).map(|no| world.join(&format!("peer-{no}"), "lobby", KEY)).collect();
    world.run_for(seconds(600));
    assert_eq!(world.peers[small].ready_peers().len(), 2);
    for &other in &others {
        assert!(world.peers[other].ready_peers().len() >= 3);
    }
    world.assert_quiet();
}

#[test]
fn a_pair_without_a_path_gives_up_in_the_end() {
    let (mut world, peers) = world_of(3, 28);
    world.set_path(peers[0], peers[1], false);
    world.run_for(seconds(1_200));
    world.assert_quiet();
    assert_eq!(world.peers[peers[0]].ready_peers().len(), 1);
}

#[test]
fn a_pair_that_gave_up_is_tried_again_when_one_of_them_reconnects() {
    let (mut world, peers) = world_of(2, 29);
    world.set_path(peers[0], peers[1], false);
    world.run_for(seconds(1_200));
    world.set_path(peers[0], peers[1], true);
    world.break_socket(peers[0], Break::Clean);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn a_peer_stopped_while_it_connects_is_tried_again() {
    for ms in (0..400).step_by(20) {
        let (mut world, mut peers) = world_of(2, 30 + ms);
        let newcomer = world.join("newcomer", "lobby", KEY);
        world.run_for(Duration::from_millis(ms));
        world.freeze(newcomer, seconds(14));
        world.settle();
        peers.push(newcomer);
        world.assert_full_mesh(&peers);
    }
}

#[test]
fn a_line_said_as_soon_as_a_peer_is_ready_is_heard_by_it() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let peers = [world.join("a", "lobby", KEY), world.join("b", "lobby", KEY)];
        let mut first = None;
        while first.is_none() {
            world.run_for(Duration::from_millis(1));
            first = peers.into_iter().find(|peer| !world.peers[*peer].ready_peers().is_empty());
        }
        let speaker = first.expect("the loop ended");
        world.say(speaker, "hello");
        world.run_for(seconds(2));
        let listener = peers[usize::from(speaker == peers[0])];
        assert_eq!(world.lines(listener).len(), 1, "seed {seed}");
    }
}

#[test]
fn after_everybody_left_the_server_holds_nothing() {
    let (mut world, peers) = world_of(5, 31);
    world.leave(peers[0]);
    world.break_socket(peers[1], Break::MidMessage);
    world.crash(peers[2]);
    world.assert_server_forgets();
}

#[test]
fn a_peer_that_left_makes_no_more_links() {
    let (mut world, peers) = world_of(3, 32);
    let newcomer = world.join("newcomer", "lobby", KEY);
    // Offers of all three travel towards it as it leaves.
    world.run_for(Duration::from_millis(60));
    world.input(newcomer, mesh::Input::Close);
    world.run_for(seconds(2));
    assert_eq!(world.peers[newcomer].mesh().held().links, 0);
    world.crash(newcomer);
    world.settle();
    world.assert_full_mesh(&peers);
}

#[test]
fn stripes_come_and_go_without_the_server_and_the_link_stays() {
    let (mut world, peers) = world_of(2, 33);
    let [ada, bob] = [peers[0], peers[1]];
    let told: Vec<usize> = peers.iter().map(|no| world.peers[*no].events.len()).collect();
    let said = world.sent_to_server;
    for stripes in [3, STRIPES_MAX] {
        world.strain(ada, 0);
        world.run_for(seconds(2));
        assert_eq!([world.stripes(ada), world.stripes(bob)], [stripes; 2]);
    }
    assert_eq!(world.sent_to_server, said);
    world.ask_frames(ada, 0, 100);
    world.ask_frames(bob, 0, 100);
    world.run_for(seconds(2));
    assert_eq!([world.frames_heard(ada), world.frames_heard(bob)], [100; 2]);
    world.break_stripe(bob, 0);
    world.ask_frames(bob, 0, 100);
    world.run_for(seconds(2));
    assert_eq!([world.stripes(ada), world.stripes(bob)], [STRIPES_MAX - 1; 2]);
    assert_eq!(world.frames_heard(bob), 200, "the other end hears of the break before it is asked again");
    world.settle();
    world.assert_full_mesh(&peers);
    let is_about_the_link = |event: &&Event| matches!(event, Event::Opened { .. } | Event::Closed { .. });
    for (no, told) in peers.into_iter().zip(told) {
        assert_eq!(world.peers[no].events[told..].iter().find(is_about_the_link), None);
    }
}

/// Whenever a stripe breaks, and at whichever end: soon after, before idle ones are closed.
#[test]
fn frames_that_were_asked_for_arrive_or_are_missed_soon() {
    for ms in (0..300).step_by(5) {
        for breaker in [0, 1] {
            let (mut world, peers) = world_of(2, ms);
            world.strain(peers[0], 0);
            world.run_for(Duration::from_millis(ms));
            for pause in [ms / 8, 0] {
                for &no in &peers {
                    world.ask_frames(no, 0, 8);
                }
                world.run_for(Duration::from_millis(pause));
                world.break_stripe(peers[breaker], 2);
            }
            world.run_for(seconds(3));
            world.assert_no_frame_vanished();
        }
    }
}
