//! Meshes of the originals alone. Over the minimal server they show what the drivers and the libraries can do; over ours,
//! that our server takes its place.

use super::scene::Generation::Second;
use super::scene::{Kind, Manner, Scene, Sight};

fn everything_arrives_whole(scene: &mut Scene) {
    scene.everyone_is_heard("hello");
    for id in scene.ids() {
        for len in [1, 16_384, 262_144] {
            scene.send_bytes(&id, len);
            scene.others_see(&id, Sight::Bytes(&id, len));
        }
    }
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn second_generation_peers_mesh_over_the_minimal_server_bare_and_wrapped() {
    let mut scene = Scene::with_minimal_server();
    scene.join("ada", Kind::Node(Second));
    scene.join_as("bob", Kind::Node(Second), Manner { wrapped: true, ..Manner::default() });
    scene.join_as("cyd", Kind::Tab(Second), Manner { late_init: true, ..Manner::default() });
    scene.everyone_meets();
    everything_arrives_whole(&mut scene);
}
