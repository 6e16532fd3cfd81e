//! Files that are received: what is there already, the part files, and the final names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::folder::{self, Folder, Found};
use super::part_folders::{Claim, PartFolders};
use super::received::{Received, Spool, remove_parts};
use super::{failed, scan};
use crate::core::transfer::{
    Conflict, ConflictPolicy, DiskError, Opened, PieceSet, Summary, Target, TransferId, Written,
};
use crate::wire::manifest::{Entry, EntryKind, Manifest};
use crate::wire::path::{COMPONENT_MAX_BYTES, PART_PREFIX, SafePath};

/// How many names are tried for a file whose own is taken.
const NAMES_MAX: u16 = 10_000;

/// Up to so many files or folders are made durable one by one; for more, one call for the whole file system is quicker.
const SYNC_ONE_BY_ONE: usize = 32;

/// The most part files kept open.
const OPEN_FILES: usize = 64;

/// Where an entry's content is or goes. A stranger says how many there are and how long their paths: no text is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of the manifest.
    Folder,
    /// In its part file, to be called so when it is complete.
    Part { name: FinalName, replace: bool },
    /// Under this name, complete.
    There(FinalName),
    /// Not fetched.
    Skipped,
}

/// Of a long name the extension is what follows the last dot, if it is no longer than this.
const EXTENSION_MAX_BYTES: usize = 32;

/// What a file is called in the folder that the manifest puts it in: as the manifest says, or else with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FinalName(u16);

impl FinalName {
    const OWN: Self = Self(0);

    /// In the order in which they are tried when a file's own is taken.
    fn others() -> impl Iterator<Item = Self> {
        (1..=NAMES_MAX).map(Self)
    }

    /// `report.tar.gz`, `report (1).tar.gz`, `report (2).tar.gz`, …
    fn of(self, path: &SafePath) -> Cow<'_, str> {
        let name = path.last();
        if self == Self::OWN {
            return Cow::Borrowed(name);
        }
        let dot = name.char_indices().skip(1).find(|(_, c)| *c == '.').map_or(name.len(), |(at, _)| at);
        let (mut stem, mut extension) = name.split_at(dot);
        let number = format!(" ({})", self.0);
        if name.len() + number.len() > COMPONENT_MAX_BYTES {
            let last = name.rfind('.').filter(|at| *at > 0 && name.len() - at <= EXTENSION_MAX_BYTES);
            (stem, extension) = name.split_at(last.unwrap_or(name.len()));
        }
        let room = COMPONENT_MAX_BYTES - number.len() - extension.len();
        Cow::Owned(format!("{}{number}{extension}", &stem[..stem.floor_char_boundary(room)]))
    }

    /// The whole path below the target.
    pub(super) fn below(self, root: &Path, path: &SafePath) -> PathBuf {
        root.join(path.as_str()).with_file_name(&*self.of(path))
    }

    /// Opens the file that has the name.
    pub(super) fn open(self, root: &Folder, path: &SafePath) -> Result<File, DiskError> {
        match root.descend(around(path))? {
            Some(folder) => folder.read(&self.of(path)),
            None => Err(DiskError::NotFound { path: self.below(root.path(), path) }),
        }
    }
}

/// A transfer's files on this disk, while they are received.
#[derive(Debug)]
pub(super) struct Destination {
    manifest: Arc<Manifest>,
    root: Folder,
    parts: Claim,
    part_name: String,
    places: Mutex<Vec<Place>>,
    open: Mutex<BTreeMap<u32, Arc<File>>>,
    /// What goes to standard output is not kept.
    spool: Option<Arc<Spool>>,
}

/// What came of preparing.
enum Prepared {
    InTheWay(Vec<Conflict>),
    Ready(Destination),
}

/// What came of opening.
pub(super) enum Attempt {
    /// Somebody has to say what to do; nothing was written.
    InTheWay(Vec<Conflict>),
    /// Ready.
    Open(Arc<Destination>, Opened),
}

/// How many bytes are free where files would go.
pub(super) fn free_bytes(target: &Target) -> Option<u64> {
    let path = match target {
        Target::Folder(path) => path.clone(),
        Target::Stdout => scan::spool_folder(),
    };
    // The folder may not have been made yet: then its file system is that of the first one above it that was.
    let there = path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Folder::open(path).ok()
    })?;
    there.free_bytes()
}

impl Destination {
    pub(super) fn open(
        transfer: TransferId,
        manifest: Arc<Manifest>,
        target: &Target,
        conflict: ConflictPolicy,
        part_folders: &Arc<PartFolders>,
    ) -> Result<Attempt, DiskError> {
        let destination = match Self::prepare(transfer, manifest, target, conflict, part_folders)? {
            Prepared::InTheWay(conflicts) => return Ok(Attempt::InTheWay(conflicts)),
            Prepared::Ready(destination) => destination,
        };
        let opened = destination.look()?;
        destination.check_space(&opened)?;
        Ok(Attempt::Open(Arc::new(destination), opened))
    }

    /// Everything but looking at what the part files hold.
    fn prepare(
        transfer: TransferId,
        manifest: Arc<Manifest>,
        target: &Target,
        conflict: ConflictPolicy,
        part_folders: &Arc<PartFolders>,
    ) -> Result<Prepared, DiskError> {
        let is_stream = *target == Target::Stdout;
        let path = match target {
            Target::Folder(path) => path.clone(),
            Target::Stdout if manifest.file_count() == 1 && manifest.entries().len() == 1 => {
                scan::spool_folder()
            }
            Target::Stdout => return Err(DiskError::NotAStream),
        };
        std::fs::create_dir_all(&path).map_err(|error| failed(&path, &error))?;
        let root = Folder::open(&path)?;
        let places = if is_stream {
            vec![Place::Part { name: FinalName::OWN, replace: false }]
        } else {
            match find_places(&root, &manifest, conflict)? {
                Ok(places) => places,
                Err(conflicts) => return Ok(Prepared::InTheWay(conflicts)),
            }
        };
        let suffix = if is_stream { format!("-{}", std::process::id()) } else { String::new() };
        let part_name = format!("{PART_PREFIX}{}{suffix}.part", &transfer.to_string()[..16]);
        let parts = part_folders.claim(&root, &part_name)?;
        let spool = is_stream.then(|| Arc::new(Spool { root: path, name: part_name.clone() }));
        let (places, open) = (Mutex::new(places), Mutex::default());
        Ok(Prepared::Ready(Self { manifest, root, parts, part_name, places, open, spool }))
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a piece's file is, for messages.
    pub(super) fn path(&self, piece: u32) -> PathBuf {
        let entry = self.manifest.span(piece).entry;
        match self.places()[entry as usize] {
            Place::There(name) => name.below(self.root.path(), self.path_of(entry)),
            Place::Folder | Place::Part { .. } | Place::Skipped => self.parts.path().join(part_file(entry)),
        }
    }

    pub(super) fn open_to_read(&self, piece: u32) -> Result<Arc<File>, DiskError> {
        let entry = self.manifest.span(piece).entry;
        if let Some(file) = self.open_files().get(&entry) {
            return Ok(file.clone());
        }
        let place = self.places()[entry as usize];
        let file = match place {
            Place::There(name) => name.open(&self.root, self.path_of(entry))?,
            Place::Part { .. } => self.parts.read(&part_file(entry))?,
            Place::Folder | Place::Skipped => {
                return Err(DiskError::NotFound { path: self.path(piece) });
            }
        };
        Ok(Arc::new(file))
    }

    /// Checks a piece and writes it into its part file.
    pub(super) fn write(&self, piece: u32, parts: &[Bytes]) -> Result<Written, DiskError> {
        if !self.manifest.verify(piece, parts.iter().map(|part| &part[..])) {
            return Ok(Written::WrongHash);
        }
        let span = self.manifest.span(piece);
        let file = self.part(span.entry)?;
        let mut offset = span.offset;
        for part in parts {
            folder::write_all_at(&file, part, offset)
                .map_err(|error| self.write_failed(span.entry, &error))?;
            offset += part.len() as u64;
        }
        Ok(Written::Verified)
    }

    /// The open part file of an entry, made with its full length if it is new.
    fn part(&self, entry: u32) -> Result<Arc<File>, DiskError> {
        let mut open = self.open_files();
        if let Some(file) = open.get(&entry) {
            return Ok(file.clone());
        }
        let (size, mode) = match self.manifest.entries()[entry as usize].kind {
            EntryKind::File { size, executable: true } => (size, 0o777),
            EntryKind::File { size, executable: false } => (size, 0o666),
            EntryKind::Folder => unreachable!("folders have no pieces"),
        };
        let file = self.parts.write(&part_file(entry), mode)?;
        let length = file.metadata().map_err(|error| self.write_failed(entry, &error))?.len();
        if length != size {
            file.set_len(size).map_err(|error| self.write_failed(entry, &error))?;
        }
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(file);
        open.insert(entry, file.clone());
        Ok(file)
    }

    /// Finds the pieces that are on disk.
    fn look(&self) -> Result<Opened, DiskError> {
        let pieces = self.manifest.piece_count();
        let mut opened =
            Opened { have: PieceSet::none(pieces), unwanted: PieceSet::none(pieces), skipped_files: 0 };
        for (entry, place) in self.places().iter().enumerate() {
            let entry = entry as u32;
            match place {
                Place::Folder => {}
                // Its hash was taken a moment ago, and it is taken again whenever a piece of it is served.
                Place::There(_) => opened.have.extend(self.manifest.pieces(entry)),
                Place::Skipped => {
                    opened.skipped_files += 1;
                    opened.unwanted.extend(self.manifest.pieces(entry));
                }
                Place::Part { .. } => self.look_at_part(entry, &mut opened.have)?,
            }
        }
        Ok(opened)
    }

    fn look_at_part(&self, entry: u32, have: &mut PieceSet) -> Result<(), DiskError> {
        let name = part_file(entry);
        let size = match self.parts.find(&name)? {
            Found::File { size } => size,
            Found::Nothing => return Ok(()),
            Found::Folder | Found::Other => {
                return Err(DiskError::NotAFolder { path: self.parts.path().join(name) });
            }
        };
        let file = self.parts.read(&name)?;
        for piece in self.manifest.pieces(entry) {
            let span = self.manifest.span(piece);
            let end = span.offset + u64::from(span.len);
            if end > size || folder::next_data(&file, span.offset).is_none_or(|data| data >= end) {
                continue;
            }
            if is_piece(&self.manifest, piece, &file)
                .map_err(|error| failed(&self.parts.path().join(&name), &error))?
            {
                have.insert(piece);
            }
        }
        Ok(())
    }

    fn check_space(&self, opened: &Opened) -> Result<(), DiskError> {
        let pieces = 0..self.manifest.piece_count();
        let missing =
            pieces.filter(|piece| !opened.have.contains(*piece) && !opened.unwanted.contains(*piece));
        let needed: u64 = missing.map(|piece| u64::from(self.manifest.piece_len(piece))).sum();
        match self.root.free_bytes() {
            Some(free) if free < needed => Err(DiskError::Full { needed_bytes: needed - free }),
            Some(_) | None => Ok(()),
        }
    }

    /// Makes everything durable and gives the files their names.
    pub(super) fn finish(&self) -> Result<(Summary, Received), DiskError> {
        if self.spool.is_some() {
            return Ok((Summary { path: None }, self.received()));
        }
        self.sync_parts()?;
        let mut touched = BTreeSet::new();
        for (at, entry) in self.manifest.entries().iter().enumerate() {
            let place = self.places()[at];
            if let Place::Part { name, replace } = place {
                let name = self.name_file(at as u32, name, replace)?;
                touch(&mut touched, entry.path.parent());
                self.places()[at] = Place::There(name);
            } else if place == Place::Folder {
                self.root.make(entry.path.components(), self.parts.all())?;
                touch(&mut touched, Some(entry.path.as_str()));
            }
        }
        self.open_files().clear();
        self.set_folder_times()?;
        self.sync_folders(&touched)?;
        remove_parts(&self.root, &self.parts, &self.part_name)?;
        self.root.sync()?;
        Ok((Summary { path: Some(self.result_path()) }, self.received()))
    }

    fn received(&self) -> Received {
        let (manifest, root) = (self.manifest.clone(), self.root.path().to_owned());
        Received { manifest, root, places: self.places().clone(), spool: self.spool.clone() }
    }

    fn sync_parts(&self) -> Result<(), DiskError> {
        let places = self.places().clone();
        let fetched = || places.iter().enumerate().filter(|(_, place)| matches!(place, Place::Part { .. }));
        let one_by_one = fetched().count() <= SYNC_ONE_BY_ONE;
        for (at, _) in fetched() {
            let file = self.part(at as u32)?;
            folder::set_mtime(&file, self.manifest.entries()[at].mtime);
            if one_by_one {
                folder::sync_file(&file).map_err(|error| self.write_failed(at as u32, &error))?;
            }
        }
        if one_by_one { self.parts.sync() } else { self.parts.sync_all() }
    }

    /// Makes the names in them durable, from the innermost.
    fn sync_folders(&self, paths: &BTreeSet<&str>) -> Result<(), DiskError> {
        if paths.len() > SYNC_ONE_BY_ONE {
            return self.root.sync_all();
        }
        for path in paths.iter().rev() {
            if let Some(folder) = self.root.descend(path.split('/').filter(|name| !name.is_empty()))? {
                folder.sync()?;
            }
        }
        Ok(())
    }

    /// Moves a part file to its final name, or to the next free one if somebody took it meanwhile.
    fn name_file(&self, entry: u32, name: FinalName, replace: bool) -> Result<FinalName, DiskError> {
        let path = self.path_of(entry);
        let folder = self.root.make(around(path), self.parts.all())?;
        let part = part_file(entry);
        if replace {
            self.parts.rename_over(&part, &folder, &name.of(path))?;
            return Ok(name);
        }
        for candidate in std::iter::once(name).chain(FinalName::others()) {
            if self.parts.rename_new(&part, &folder, &candidate.of(path))? {
                return Ok(candidate);
            }
        }
        Err(every_name_is_taken(&folder, path))
    }

    /// After everything in them is in place, from the innermost.
    fn set_folder_times(&self) -> Result<(), DiskError> {
        for entry in self.manifest.entries().iter().rev().filter(|entry| entry.kind == EntryKind::Folder) {
            if let Some(folder) = self.root.descend(entry.path.components())? {
                folder.set_mtime(entry.mtime);
            }
        }
        Ok(())
    }

    fn result_path(&self) -> PathBuf {
        let places = self.places();
        match (&places[..], self.manifest.root_count()) {
            ([Place::There(name)], _) => name.below(self.root.path(), self.path_of(0)),
            (_, 1) => self.root.path().join(self.manifest.name()),
            (_, _) => self.root.path().to_owned(),
        }
    }

    fn write_failed(&self, entry: u32, error: &io::Error) -> DiskError {
        failed(&self.root.path().join(self.path_of(entry).as_str()), error)
    }

    fn path_of(&self, entry: u32) -> &SafePath {
        &self.manifest.entries()[entry as usize].path
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_files(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a folder and those around it, down to the nameless outermost one.
fn touch<'a>(touched: &mut BTreeSet<&'a str>, folder: Option<&'a str>) {
    let around =
        |path: &&'a str| (!path.is_empty()).then(|| path.rsplit_once('/').map_or("", |(around, _)| around));
    // Around one that is known, all are.
    for path in std::iter::successors(Some(folder.unwrap_or("")), around) {
        if !touched.insert(path) {
            return;
        }
    }
}

/// The names of the folders around a file.
fn around(path: &SafePath) -> impl Iterator<Item = &str> {
    path.parent().into_iter().flat_map(|parent| parent.split('/'))
}

pub(super) fn part_file(entry: u32) -> String {
    format!("{entry:06}")
}

/// Decides for every entry where it goes. The inner error is what is in the way when the policy is to ask.
fn find_places(
    root: &Folder,
    manifest: &Manifest,
    policy: ConflictPolicy,
) -> Result<Result<Vec<Place>, Vec<Conflict>>, DiskError> {
    let (mut places, mut conflicts) = (Vec::new(), Vec::new());
    // Entries come in the order of their paths: mostly the folder is the one of the entry before.
    let mut last: Option<(&str, Option<Folder>)> = None;
    for (index, entry) in (0u32..).zip(manifest.entries()) {
        if entry.kind == EntryKind::Folder {
            root.descend(entry.path.components())?;
            places.push(Place::Folder);
            continue;
        }
        let parent = entry.path.parent().unwrap_or("");
        if last.as_ref().is_none_or(|(path, _)| *path != parent) {
            last = Some((parent, root.descend(around(&entry.path))?));
        }
        let folder = last.as_ref().and_then(|(_, folder)| folder.as_ref());
        let place = match folder {
            Some(folder) => find_place(folder, manifest, index, entry, policy)?,
            None => Some(Place::Part { name: FinalName::OWN, replace: false }),
        };
        match place {
            Some(place) => places.push(place),
            None => conflicts.push(Conflict { path: entry.path.clone() }),
        }
    }
    Ok(if conflicts.is_empty() { Ok(places) } else { Err(conflicts) })
}

/// Where a file goes in a folder that is there. `None` if somebody has to be asked.
fn find_place(
    folder: &Folder,
    manifest: &Manifest,
    index: u32,
    entry: &Entry,
    policy: ConflictPolicy,
) -> Result<Option<Place>, DiskError> {
    let own = FinalName::OWN;
    match state_of(folder, entry.path.last(), manifest, index)? {
        State::Free => return Ok(Some(Place::Part { name: own, replace: false })),
        State::Same => return Ok(Some(Place::There(own))),
        State::Taken => {}
    }
    Ok(match policy {
        ConflictPolicy::Ask => None,
        ConflictPolicy::Skip => Some(Place::Skipped),
        ConflictPolicy::Overwrite if folder.find(entry.path.last())? == Found::Folder => {
            return Err(DiskError::Io {
                path: folder.path().join(entry.path.last()),
                message: "a folder is in the way of a file".to_owned(),
            });
        }
        ConflictPolicy::Overwrite => Some(Place::Part { name: own, replace: true }),
        ConflictPolicy::Rename => Some(other_place(folder, manifest, index, entry)?),
    })
}

fn other_place(folder: &Folder, manifest: &Manifest, index: u32, entry: &Entry) -> Result<Place, DiskError> {
    for name in FinalName::others() {
        match state_of(folder, &name.of(&entry.path), manifest, index)? {
            State::Free => return Ok(Place::Part { name, replace: false }),
            State::Same => return Ok(Place::There(name)),
            State::Taken => {}
        }
    }
    Err(every_name_is_taken(folder, &entry.path))
}

fn every_name_is_taken(folder: &Folder, path: &SafePath) -> DiskError {
    DiskError::Io { path: folder.path().join(path.last()), message: "every name is taken".to_owned() }
}

/// What a name is to the file that should have it.
enum State {
    Free,
    Same,
    Taken,
}

fn state_of(folder: &Folder, name: &str, manifest: &Manifest, index: u32) -> Result<State, DiskError> {
    let expected = manifest.entries()[index as usize].size();
    match folder.find(name)? {
        Found::Nothing => Ok(State::Free),
        Found::File { size } if size == expected => {
            // A file that can't be read is not known to be the same.
            let Ok(file) = folder.read(name) else { return Ok(State::Taken) };
            let same = manifest.pieces(index).try_fold(true, |same, piece| {
                if same { is_piece(manifest, piece, &file) } else { Ok(false) }
            });
            let same = same.map_err(|error| failed(&folder.path().join(name), &error))?;
            Ok(if same { State::Same } else { State::Taken })
        }
        Found::File { .. } | Found::Folder | Found::Other => Ok(State::Taken),
    }
}

/// Whether a file has the piece at its place.
fn is_piece(manifest: &Manifest, piece: u32, file: &File) -> io::Result<bool> {
    let span = manifest.span(piece);
    let mut content = vec![0; span.len as usize];
    match folder::read_exact_at(file, &mut content, span.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| manifest.verify(piece, [&content[..]])),
    }
}

/// A file of 100 GB, sparse: there need not be room for it. Only a few of its pieces are known; the others match nothing.
#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::source::{Links, Root, Source, SourceFile};
    use super::super::{Store, Stores};
    use super::*;
    use crate::core::transfer::{DiskDone, DiskJob};
    use crate::wire::frame::HEADER_BYTES;
    use crate::wire::manifest::{PieceHasher, Span, piece_log2_for, pieces_of};

    const SIZE: u64 = 100_000_000_001;
    const NAME: &str = "huge.img";

    #[test]
    fn a_name_with_a_number_is_no_longer_than_names_may_be() {
        let numbered = |name: &str| FinalName(12).of(&SafePath::parse(name).expect("a name")).into_owned();
        assert_eq!(numbered("a/report.tar.gz"), "report (12).tar.gz");
        let long = numbered(&format!("{}.txt", "ä".repeat(125)));
        assert!(long.len() > 250 && long.len() <= COMPONENT_MAX_BYTES, "{}", long.len());
        assert!(long.ends_with("ä (12).txt"), "{long}");
        let title = "あ".repeat(45);
        assert_eq!(numbered(&format!("01. {title}.mkv")), format!("01 (12). {title}.mkv"));
        let long = numbered(&format!("01. {}.mkv", "あ".repeat(82)));
        assert!(long.len() <= COMPONENT_MAX_BYTES && long.ends_with("あ (12).mkv"), "{long}");
        let odd = numbered(&format!("a.{}", "b".repeat(253)));
        assert!(
            odd.len() == COMPONENT_MAX_BYTES && odd.starts_with("a.b") && odd.ends_with("b (12)"),
            "{odd}"
        );
    }

    /// The first, those on both sides of 4 GiB, one in the midst of the file, and the last, which is shorter.
    const KNOWN: [u32; 5] = [0, 1023, 1024, 12_345, 23_841];

    fn span(piece: u32) -> Span {
        let log2 = piece_log2_for(SIZE);
        let offset = u64::from(piece) << log2;
        Span { entry: 0, offset, len: (SIZE - offset).min(1 << log2) as u32, whole: false }
    }

    fn content(piece: u32) -> Bytes {
        let len = span(piece).len as usize;
        Bytes::from(piece.to_be_bytes().repeat(len.div_ceil(4))).slice(..len)
    }

    fn manifest() -> Arc<Manifest> {
        let log2 = piece_log2_for(SIZE);
        let mut hashes = vec![[0; 32]; pieces_of(SIZE, log2) as usize];
        for piece in KNOWN {
            let mut hasher = PieceHasher::new(&span(piece));
            hasher.update(&content(piece));
            hashes[piece as usize] = hasher.finish();
        }
        let kind = EntryKind::File { size: SIZE, executable: false };
        let entry = Entry { path: SafePath::parse(NAME).expect("a name"), kind, mtime: 0 };
        Arc::new(Manifest::new(log2, vec![(entry, hashes)]).expect("sound"))
    }

    #[test]
    fn where_files_go_takes_a_few_bytes_each_however_long_their_paths_are() {
        assert!(!std::mem::needs_drop::<Place>(), "no text is kept");
        assert!(size_of::<Place>() <= 8, "{}", size_of::<Place>());
    }

    #[test]
    fn a_folder_is_made_durable_once_and_after_those_in_it() {
        let mut touched = BTreeSet::new();
        for folder in [Some("a/b/c"), Some("a/b"), Some("a-b"), None] {
            touch(&mut touched, folder);
        }
        assert_eq!(touched.iter().rev().copied().collect::<Vec<_>>(), ["a/b/c", "a/b", "a-b", "a", ""]);
    }

    /// What a store reads of a piece.
    fn read(stores: &Stores, transfer: TransferId, piece: u32) -> Result<Vec<u8>, DiskError> {
        let job = DiskJob::Read { transfer, piece, frame_bytes: 64 * 1024 };
        let done = stores.run(job, drop);
        if let DiskDone::Failed(error) = done {
            return Err(error);
        }
        let DiskDone::Frames(frames) = done else { panic!("{done:?}") };
        Ok(frames.iter().flat_map(|frame| frame[HEADER_BYTES..].to_vec()).collect())
    }

    #[test]
    fn the_pieces_of_a_file_of_100_gb_are_sent_from_where_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        let file = File::create_new(&path).expect("made");
        file.set_len(SIZE).expect("a sparse file");
        for piece in KNOWN {
            folder::write_all_at(&file, &content(piece), span(piece).offset).expect("written");
        }
        let (manifest, mtime) = (manifest(), file.metadata().expect("there").modified().ok());
        let transfer = Manifest::id_of(&manifest.to_bytes());
        let files = vec![SourceFile {
            root: Arc::new(Root::new(&path, Links::Refused)),
            path: path.clone(),
            size: SIZE,
            mtime,
        }];
        let stores = Stores::new(io::sink());
        stores.lock().insert(transfer, Store::Source(Arc::new(Source::new(manifest, files, None))));
        for piece in KNOWN {
            assert_eq!(read(&stores, transfer, piece).expect("readable"), content(piece), "{piece}");
        }
        assert_eq!(read(&stores, transfer, 20_000), Err(DiskError::Changed { path }), "not what was hashed");
    }

    #[test]
    fn a_file_of_100_gb_is_resumed_and_named_and_takes_no_more_room_than_what_came() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::Folder(folder.path().to_owned());
        let manifest = manifest();
        let transfer = Manifest::id_of(&manifest.to_bytes());
        let stores = Stores::new(io::sink());
        let prepare = || {
            let prepared = Destination::prepare(
                transfer,
                manifest.clone(),
                &target,
                ConflictPolicy::Ask,
                &stores.part_folders,
            );
            let Ok(Prepared::Ready(destination)) = prepared else { panic!("nothing is in the way") };
            let destination = Arc::new(destination);
            stores.lock().insert(transfer, Store::Destination(destination.clone()));
            destination
        };
        assert!(prepare().look().expect("readable").have.is_empty());
        let write =
            |piece, content| stores.run(DiskJob::Write { transfer, piece, parts: vec![content] }, drop);
        for piece in KNOWN {
            assert_eq!(write(piece, content(piece)), DiskDone::Written(Written::Verified));
        }
        // The same bytes elsewhere are another piece.
        assert_eq!(write(1024, content(1023)), DiskDone::Written(Written::WrongHash));

        stores.close(transfer);
        let resumed = prepare();
        let opened = resumed.look().expect("readable");
        assert_eq!(opened.have.iter().collect::<Vec<_>>(), KNOWN);
        for piece in KNOWN {
            assert_eq!(read(&stores, transfer, piece).expect("readable"), content(piece), "{piece}");
        }
        let missing = SIZE - KNOWN.iter().map(|piece| u64::from(span(*piece).len)).sum::<u64>();
        let (free, short) = (resumed.root.free_bytes().expect("known"), resumed.check_space(&opened));
        assert_eq!(free < missing, short.is_err(), "{free} are free, {missing} are missing: {short:?}");

        resumed.finish().expect("named");
        let file = std::fs::metadata(folder.path().join(NAME)).expect("in its place");
        assert_eq!(file.len(), SIZE);
        assert!(file.blocks() * 512 <= 5 * (4 << 20) + (1 << 20), "{} blocks", file.blocks());
    }
}
