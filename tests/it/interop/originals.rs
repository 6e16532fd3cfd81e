//! Meshes of the originals alone. Over the minimal server they show what the libraries and their drivers can do; over ours, that
//! our server takes its place.

use crate::scene::Generation::{First, Second};
use crate::scene::{Arrival, Kind, Manner, Scene, Sight};

const NAMES: [&str; 8] = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"];

fn everything_arrives_whole(scene: &mut Scene) {
    scene.everyone_is_heard("hello");
    for name in scene.names() {
        for len in [1, 16_384, 262_144] {
            scene.send_bytes(&name, len);
        }
    }
    for name in scene.names() {
        for len in [1, 16_384, 262_144] {
            scene.others_see(Sight::Bytes(&name, len));
        }
    }
}

/// Meshes of 3 and of 8 of these kinds in turn, one by one and all at once, in one room after another of one server.
fn meshes_form(kinds: &[Kind]) {
    let mut scene = Scene::new();
    for size in [3, 8] {
        for arrival in [Arrival::OneByOne, Arrival::AllAtOnce] {
            let members: Vec<_> = NAMES.into_iter().zip(kinds.iter().copied().cycle()).take(size).collect();
            scene.gather(&members, arrival);
            everything_arrives_whole(&mut scene);
            scene.next_room();
        }
    }
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn second_generation_peers_mesh_over_the_minimal_server_bare_and_wrapped() {
    let mut scene = Scene::with_minimal_server(&[]);
    scene.join("ada", Kind::Node(Second));
    scene.join_as("bob", Kind::Node(Second), Manner { wrapped: true, ..Manner::default() });
    scene.join_as("cyd", Kind::Tab(Second), Manner { late_init: true, ..Manner::default() });
    scene.everyone_meets();
    everything_arrives_whole(&mut scene);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_first_generation_meshes_in_node() {
    meshes_form(&[Kind::Node(First)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_first_generation_meshes_in_chromium() {
    meshes_form(&[Kind::Tab(First)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_first_generation_meshes_in_node_and_chromium() {
    meshes_form(&[Kind::Node(First), Kind::Tab(First)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_second_generation_meshes_in_node() {
    meshes_form(&[Kind::Node(Second)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_second_generation_meshes_in_chromium() {
    meshes_form(&[Kind::Tab(Second)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn the_second_generation_meshes_in_node_and_chromium() {
    meshes_form(&[Kind::Node(Second), Kind::Tab(Second)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn both_generations_mesh_in_one_room() {
    meshes_form(&[Kind::Node(First), Kind::Tab(Second), Kind::Node(Second), Kind::Tab(First)]);
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn wrapped_and_bare_members_mesh_in_one_room() {
    let mut scene = Scene::new();
    let wrapped = Manner { wrapped: true, ..Manner::default() };
    scene.join_as("ada", Kind::Node(Second), wrapped);
    scene.join_as("bob", Kind::Node(First), wrapped);
    scene.join_as("cyd", Kind::Tab(Second), wrapped);
    scene.join_as("dan", Kind::Tab(First), wrapped);
    scene.join("eve", Kind::Node(Second));
    scene.join("fay", Kind::Node(First));
    scene.everyone_meets();
    everything_arrives_whole(&mut scene);
}
