//! Whatever happens to meshes and a server, in the simulator.
//!
//! `SWARM_SIM_CASES` and `SWARM_SIM_SEED` make the search longer or different; the usual run is always the same.

use std::collections::BTreeSet;
use std::time::Duration;

use fast_rtc_swarm::core::link::HOST_OFFER_MAX_AGE;
use fast_rtc_swarm::wire::UserId;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::sim::{Break, Key, Newcomer, PeerNo, World};

const KEY: Key = [1; 16];
const ROOMS: [&str; 2] = ["lobby", "attic"];
const MEMBERS_MAX: usize = 12;

/// Something that happens to the world.
#[derive(Debug, Clone)]
enum Happening {
    Join,
    /// Several at the same moment.
    JoinTogether(usize),
    /// An original, where the scene has any.
    JoinOriginal,
    /// Under the id of one who crashed.
    Rejoin(usize),
    /// Under the id of one who is there, without the room's key.
    Impostor(usize),
    Leave(usize),
    Crash(usize),
    BreakSocket(usize, u8),
    RestartServer,
    /// Several times in quick succession.
    RestartServerOften(u8),
    Freeze(usize, u64),
    CutPath(usize, usize),
    HealPaths,
    Slow(u64),
    /// Bulk data meets a long path: stripes are opened.
    Strain(usize, usize),
    /// One breaks, perhaps while it comes up, amid frames that were asked for.
    BreakStripe(usize, usize, u64),
    AskFrames(usize, usize),
    Say(usize),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Join),
        1 => (2..5usize).prop_map(Happening::JoinTogether),
        1 => Just(Happening::JoinOriginal),
        1 => any::<usize>().prop_map(Happening::Rejoin),
        1 => any::<usize>().prop_map(Happening::Impostor),
        1 => any::<usize>().prop_map(Happening::Leave),
        1 => any::<usize>().prop_map(Happening::Crash),
        3 => any::<(usize, u8)>().prop_map(|(no, how)| Happening::BreakSocket(no, how)),
        1 => Just(Happening::RestartServer),
        1 => (2..5u8).prop_map(Happening::RestartServerOften),
        1 => (any::<usize>(), 1..40_000u64).prop_map(|(no, ms)| Happening::Freeze(no, ms)),
        1 => any::<(usize, usize)>().prop_map(|(a, b)| Happening::CutPath(a, b)),
        1 => Just(Happening::HealPaths),
        1 => (20..3_000u64).prop_map(Happening::Slow),
        3 => any::<(usize, usize)>().prop_map(|(no, which)| Happening::Strain(no, which)),
        3 => (any::<usize>(), any::<usize>(), 0..500u64)
            .prop_map(|(no, which, ms)| Happening::BreakStripe(no, which, ms)),
        3 => any::<(usize, usize)>().prop_map(|(no, which)| Happening::AskFrames(no, which)),
        2 => any::<usize>().prop_map(Happening::Say),
        4 => (0..5_000u64).prop_map(Happening::Pass),
    ]
}

/// Who may be in the rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Our peers, with a key.
    Keyed,
    /// Our peers and originals, without a key.
    Open,
    /// Our peers with a key that let originals in.
    KeyedWithOriginals,
    /// Our peers with a key, and originals who try to enter.
    KeyedAgainstOriginals,
}

fn scene() -> impl Strategy<Value = Scene> {
    prop_oneof![
        3 => Just(Scene::Keyed),
        1 => Just(Scene::Open),
        1 => Just(Scene::KeyedWithOriginals),
        1 => Just(Scene::KeyedAgainstOriginals),
    ]
}

struct Chaos {
    scene: Scene,
    world: World,
    cut: Vec<(PeerNo, PeerNo)>,
    /// By number: in which of the rooms, and as what.
    cast: Vec<Role>,
}

#[derive(Debug, Clone)]
struct Role {
    room: &'static str,
    id: String,
    is_impostor: bool,
}

impl Chaos {
    fn new(scene: Scene, seed: u64) -> Self {
        Self { scene, world: World::new(seed), cut: Vec::new(), cast: Vec::new() }
    }

    fn happen(&mut self, happening: Happening) {
        self.world.trace(&happening);
        let alive = self.world.alive();
        let pick = |index: usize| (!alive.is_empty()).then(|| alive[index % alive.len()]);
        match happening {
            Happening::Join => self.join(),
            Happening::JoinTogether(count) => (0..count).for_each(|_| self.join()),
            Happening::JoinOriginal => self.join_original(),
            Happening::Rejoin(no) => self.rejoin(no),
            Happening::Impostor(no) => pick(no).into_iter().for_each(|no| self.join_impostor(no)),
            Happening::Leave(no) => pick(no).into_iter().for_each(|no| self.world.leave(no)),
            Happening::Crash(no) => pick(no).into_iter().for_each(|no| self.world.crash(no)),
            Happening::BreakSocket(no, how) => {
                let hows = [Break::Clean, Break::ServerLate, Break::PeerLate, Break::MidMessage];
                let how = hows[usize::from(how) % hows.len()];
                pick(no).into_iter().for_each(|no| self.world.break_socket(no, how));
            }
            Happening::RestartServer => self.world.restart_server(),
            Happening::RestartServerOften(times) => {
                for _ in 0..times {
                    self.world.restart_server();
                    self.world.run_for(Duration::from_millis(1_500));
                }
            }
            Happening::Freeze(no, ms) => {
                pick(no).into_iter().for_each(|no| self.world.freeze(no, Duration::from_millis(ms)));
            }
            Happening::CutPath(a, b) => {
                if let (Some(a), Some(b)) = (pick(a), pick(b)) {
                    self.world.set_path(a, b, false);
                    self.cut.push((a, b));
                }
            }
            Happening::HealPaths => self.heal(),
            Happening::Slow(ms) => self.world.set_max_delay(Duration::from_millis(ms)),
            Happening::Strain(no, which) => {
                pick(no).into_iter().for_each(|no| self.world.strain(no, which));
            }
            Happening::BreakStripe(no, which, ms) => {
                pick(no).into_iter().for_each(|no| self.break_stripe(no, which, Duration::from_millis(ms)));
            }
            Happening::AskFrames(no, which) => {
                pick(no).into_iter().for_each(|no| self.world.ask_frames(no, which, 8));
            }
            Happening::Say(no) => pick(no).into_iter().for_each(|no| self.world.say(no, self.cast[no].room)),
            Happening::Pass(ms) => self.world.run_for(Duration::from_millis(ms)),
        }
    }

    fn break_stripe(&mut self, no: PeerNo, which: usize, time: Duration) {
        self.world.strain(no, which);
        self.world.run_for(time);
        for pause in [time / 8, Duration::ZERO] {
            for no in self.world.alive() {
                self.world.ask_frames(no, which, 8);
            }
            self.world.run_for(pause);
            self.world.break_stripe(no, which);
        }
    }

    /// It insists on its id: an impostor may have been faster.
    fn newcomer(&self, id: &str, room: &str) -> Newcomer {
        match self.scene {
            Scene::Keyed | Scene::KeyedAgainstOriginals => Newcomer::new(id, room, Some(KEY)),
            Scene::Open => Newcomer::new(id, room, None),
            Scene::KeyedWithOriginals => Newcomer::new(id, room, Some(KEY)).allowing_unverified(),
        }
        .insisting()
    }

    fn enter(&mut self, role: Role, who: Newcomer) {
        let no = self.world.enter(who);
        assert_eq!(no, self.cast.len());
        self.cast.push(role);
    }

    fn next_role(&self) -> Option<Role> {
        let no = self.cast.len();
        let room = ROOMS[usize::from(no % 4 == 3)];
        let role = Role { room, id: format!("peer-{no}"), is_impostor: false };
        (self.world.alive().len() < MEMBERS_MAX).then_some(role)
    }

    fn join(&mut self) {
        if let Some(role) = self.next_role() {
            let who = self.newcomer(&role.id, role.room);
            self.enter(role, who);
        }
    }

    fn join_original(&mut self) {
        if let Some(role) = self.next_role().filter(|_| self.scene != Scene::Keyed) {
            let who = Newcomer::original(&role.id, role.room);
            self.enter(role, who);
        }
    }

    fn rejoin(&mut self, index: usize) {
        let alive: Vec<&String> = self.world.alive().into_iter().map(|no| &self.cast[no].id).collect();
        let is_free =
            |no: &PeerNo| !alive.contains(&&self.cast[*no].id) && !self.world.peers[*no].is_original();
        let gone: Vec<PeerNo> = (0..self.cast.len()).filter(is_free).collect();
        if gone.is_empty() || alive.len() >= MEMBERS_MAX {
            return;
        }
        let role = Role { is_impostor: false, ..self.cast[gone[index % gone.len()]].clone() };
        let who = self.newcomer(&role.id, role.room);
        self.enter(role, who);
    }

    /// It takes no part in the end, but it may take a place for a while: after a restart the server knows nobody.
    fn join_impostor(&mut self, no: PeerNo) {
        if self.world.alive().len() < MEMBERS_MAX
            && self.scene != Scene::Open
            && !self.world.peers[no].is_original()
        {
            let role = Role { is_impostor: true, ..self.cast[no].clone() };
            let who = Newcomer::new(&role.id, role.room, Some([66; 16]));
            self.enter(role, who);
        }
    }

    fn heal(&mut self) {
        for (a, b) in self.cut.drain(..) {
            self.world.set_path(a, b, true);
        }
    }

    fn settle(&mut self) {
        self.heal();
        for no in self.world.alive() {
            if self.cast[no].is_impostor {
                self.world.crash(no);
            }
        }
        self.world.set_max_delay(Duration::from_millis(80));
        self.world.settle();
        // Offers that were made for members who did not stay grow old.
        self.world.run_for(HOST_OFFER_MAX_AGE);
    }

    fn check(mut self) {
        for room in ROOMS {
            let members: Vec<PeerNo> =
                self.world.alive().into_iter().filter(|no| self.cast[*no].room == room).collect();
            let (originals, ours): (Vec<PeerNo>, Vec<PeerNo>) =
                members.into_iter().partition(|no| self.world.peers[*no].is_original());
            self.check_room(&ours, &originals);
        }
        self.check_lines();
        self.world.assert_no_frame_vanished();
        self.world.assert_quiet();
        self.world.assert_server_forgets();
    }

    /// Ours are connected to each other, and to those originals that are connected to them.
    fn check_room(&mut self, ours: &[PeerNo], originals: &[PeerNo]) {
        let admits_originals = matches!(self.scene, Scene::Open | Scene::KeyedWithOriginals);
        for &no in ours {
            let me = &self.world.peers[no].id;
            let is_connected = |original: &&PeerNo| {
                admits_originals && self.world.peers[**original].ready_peers().contains(me)
            };
            let others = ours.iter().filter(|other| **other != no);
            let expected: BTreeSet<UserId> = others
                .chain(originals.iter().filter(is_connected))
                .map(|other| self.world.peers[*other].id.clone())
                .collect();
            self.world.assert_connected_to(no, &expected);
        }
        if originals.is_empty() {
            self.world.assert_everyone_hears_everyone(ours);
            self.world.assert_links_outlive_the_server(ours);
        }
    }

    /// Nobody was shown a line of another room.
    fn check_lines(&self) {
        for (no, role) in self.cast.iter().enumerate() {
            for line in self.world.lines(no) {
                assert!(line.ends_with(role.room) || line.ends_with("roll call"), "{} heard {line}", role.id);
            }
        }
    }
}

fn config() -> ProptestConfig {
    let from_env = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    ProptestConfig {
        cases: from_env("SWARM_SIM_CASES").map_or(100, |cases| u32::try_from(cases).expect("a count")),
        rng_seed: RngSeed::Fixed(from_env("SWARM_SIM_SEED").unwrap_or(20)),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_each_pair_ends_with_exactly_one_link(
        scene in scene(),
        seed in any::<u64>(),
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let mut chaos = Chaos::new(scene, seed);
        for happening in happenings {
            chaos.happen(happening);
        }
        chaos.settle();
        chaos.check();
    }
}
