//! Links put in the way of a transfer, at every moment: nothing is written outside the folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fast_rtc_swarm::core::transfer::{ConflictPolicy, DiskDone, DiskJob, Target, Written};
use fast_rtc_swarm::io::disk::Stores;
use fast_rtc_swarm::wire::manifest::{Entry, EntryKind, Manifest};
use fast_rtc_swarm::wire::path::SafePath;
use tempfile::TempDir;

const CONTENT: &[u8] = b"hello";
const PRECIOUS: &[u8] = b"precious";

/// A folder that receives `docs/note.txt`, and one outside that must stay as it is.
struct Scene {
    home: TempDir,
    stores: Stores,
    manifest: Arc<Manifest>,
}

impl Scene {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        for folder in ["target", "outside"] {
            fs::create_dir(home.path().join(folder)).expect("it is ours");
        }
        fs::write(home.path().join("outside/note.txt"), PRECIOUS).expect("it is ours");
        let path = SafePath::parse("docs/note.txt").expect("a path");
        let kind = EntryKind::File { size: CONTENT.len() as u64, executable: false };
        let entry = Entry { path, kind, mtime: 0 };
        let manifest = Manifest::new(18, vec![(entry, vec![*blake3::hash(CONTENT).as_bytes()])]);
        Self { home, stores: Stores::new(Vec::new()), manifest: Arc::new(manifest.expect("sound")) }
    }

    fn target(&self) -> PathBuf {
        self.home.path().join("target")
    }

    fn outside(&self) -> PathBuf {
        self.home.path().join("outside")
    }

    fn open(&self, conflict: ConflictPolicy) -> DiskDone {
        let target = Target::Folder(self.target());
        let transfer = Manifest::id_of(&self.manifest.to_bytes());
        self.stores.run(DiskJob::Open { transfer, manifest: self.manifest.clone(), target, conflict }, drop)
    }

    fn write(&self, content: &'static [u8]) -> DiskDone {
        let transfer = Manifest::id_of(&self.manifest.to_bytes());
        self.stores.run(DiskJob::Write { transfer, piece: 0, parts: vec![Bytes::from_static(content)] }, drop)
    }

    fn finish(&self) -> DiskDone {
        let transfer = Manifest::id_of(&self.manifest.to_bytes());
        self.stores.run(DiskJob::Finish { transfer }, drop)
    }

    /// The folder of the parts, once it is open.
    fn parts(&self) -> PathBuf {
        let names =
            fs::read_dir(self.target()).expect("it is ours").map(|entry| entry.expect("readable").path());
        let is_parts = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".swarm-"))
        };
        names.into_iter().find(is_parts).expect("the parts have a folder")
    }

    #[track_caller]
    fn outside_is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.outside())
            .expect("it is ours")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(names, ["note.txt"]);
        assert_eq!(fs::read(self.outside().join("note.txt")).expect("it is ours"), PRECIOUS);
    }
}

#[track_caller]
fn assert_failed(done: &DiskDone) {
    assert!(matches!(done, DiskDone::Failed(_)), "{done:?}");
}

#[test]
fn a_file_arrives_where_nothing_is_in_the_way() {
    let scene = Scene::new();
    assert!(matches!(scene.open(ConflictPolicy::Ask), DiskDone::Opened(_)));
    assert_eq!(scene.write(b"hellO"), DiskDone::Written(Written::WrongHash));
    assert_eq!(scene.write(CONTENT), DiskDone::Written(Written::Verified));
    assert!(!scene.target().join("docs").exists(), "not before it is whole");
    assert!(matches!(scene.finish(), DiskDone::Finished(_)));
    assert_eq!(fs::read(scene.target().join("docs/note.txt")).expect("it arrived"), CONTENT);
}

#[test]
fn a_folder_that_is_a_link_leads_nowhere() {
    let scene = Scene::new();
    symlink(scene.outside(), scene.target().join("docs")).expect("it is ours");
    for conflict in
        [ConflictPolicy::Ask, ConflictPolicy::Overwrite, ConflictPolicy::Rename, ConflictPolicy::Skip]
    {
        assert_failed(&scene.open(conflict));
        scene.outside_is_untouched();
    }
}

#[test]
fn a_folder_that_becomes_a_link_at_the_last_moment_leads_nowhere() {
    for conflict in [ConflictPolicy::Ask, ConflictPolicy::Overwrite] {
        let scene = Scene::new();
        scene.open(conflict);
        scene.write(CONTENT);
        symlink(scene.outside(), scene.target().join("docs")).expect("it is ours");
        assert_failed(&scene.finish());
        scene.outside_is_untouched();
    }
}

#[test]
fn a_file_that_is_a_link_is_replaced_itself_and_not_written_through() {
    let scene = Scene::new();
    fs::create_dir(scene.target().join("docs")).expect("it is ours");
    symlink(scene.outside().join("note.txt"), scene.target().join("docs/note.txt")).expect("it is ours");
    scene.open(ConflictPolicy::Overwrite);
    scene.write(CONTENT);
    assert!(matches!(scene.finish(), DiskDone::Finished(_)));
    scene.outside_is_untouched();
    let arrived = scene.target().join("docs/note.txt");
    assert!(!arrived.is_symlink());
    assert_eq!(fs::read(arrived).expect("it arrived"), CONTENT);
}

#[test]
fn parts_behind_a_link_are_not_written() {
    let scene = Scene::new();
    scene.open(ConflictPolicy::Ask);
    let parts = scene.parts();
    symlink(scene.outside().join("note.txt"), parts.join("000000")).expect("it is ours");
    assert_failed(&scene.write(CONTENT));
    scene.outside_is_untouched();

    let again = Scene::new();
    let name = parts.file_name().expect("a name");
    symlink(again.outside(), again.target().join(name)).expect("it is ours");
    assert_failed(&again.open(ConflictPolicy::Ask));
    again.outside_is_untouched();
}

/// The time of a file is the sender's to choose; it must not be ours to fall over.
#[test]
fn times_beyond_all_reason_do_no_harm() {
    for mtime in [i64::MIN, -1, i64::MAX] {
        let mut scene = Scene::new();
        let path = SafePath::parse("note.txt").expect("a path");
        let kind = EntryKind::File { size: CONTENT.len() as u64, executable: true };
        let manifest =
            Manifest::new(18, vec![(Entry { path, kind, mtime }, vec![*blake3::hash(CONTENT).as_bytes()])]);
        scene.manifest = Arc::new(manifest.expect("sound"));
        scene.open(ConflictPolicy::Ask);
        scene.write(CONTENT);
        assert!(matches!(scene.finish(), DiskDone::Finished(_)));
        assert!(Path::new(&scene.target().join("note.txt")).exists());
    }
}
