//! Who is let in: tokens and origins, as a browser knows them. A page can't send headers of its own with a WebSocket.

use crate::process::{Process, swarm};
use crate::scene::Generation::{First, Second};
use crate::scene::{Arrival, Kind, Manner, Scene, browser};

/// Long enough to be taken.
const TOKEN: &str = "the-right-one-of-all";

fn serve(args: &[&str]) -> Process {
    swarm("serve", &[&["serve", "--listen", "127.0.0.1:0", "--json"], args].concat())
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn a_token_in_the_url_lets_a_tab_in_and_a_wrong_one_does_not() {
    let mut scene = Scene::with_server(serve(&["--token", TOKEN]));
    for token in [None, Some(""), Some("wrong")] {
        scene.token = token.map(str::to_owned);
        scene.join_as("eve", Kind::Tab(Second), Manner::default());
        scene.is_shut_out("eve");
        scene.leave("eve");
        scene.forget("eve");
    }
    scene.token = Some(TOKEN.into());
    scene.gather(
        &[("ann", Kind::Ours), ("bob", Kind::Tab(First)), ("cyd", Kind::Tab(Second))],
        Arrival::AllAtOnce,
    );
    scene.everyone_is_heard("hello");
}

#[test]
#[ignore = "needs the originals: scripts/test interop"]
fn pages_of_other_origins_are_kept_out_and_programs_are_not() {
    let (home, origin) = browser(&[]);
    let (elsewhere, _) = browser(&[]);
    let mut scene = Scene::with_server(serve(&["--open", "--origin", &origin]));
    scene.use_browser(elsewhere);
    scene.join("eve", Kind::Tab(Second));
    scene.is_shut_out("eve");
    scene.forget("eve");

    scene.use_browser(home);
    let welcome = [
        ("ann", Kind::Ours),
        ("bob", Kind::Tab(Second)),
        ("cyd", Kind::Node(First)),
        ("dan", Kind::Tab(First)),
    ];
    scene.gather(&welcome, Arrival::AllAtOnce);
    scene.everyone_is_heard("hello");
}
