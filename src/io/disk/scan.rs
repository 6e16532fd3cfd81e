//! Walking what is to be sent, and hashing it.

use std::fs::{File, Metadata};
use std::io::{self, Seek};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ignore::WalkBuilder;
use ignore::overrides::OverrideBuilder;

use super::source::{Links, Opener, Root, Source, SourceFile};
use super::{failed, folder};
use crate::core::transfer::{DiskDone, DiskError, Scanned, SourceOptions};
use crate::wire::manifest::{
    self, ENTRIES_MAX, Entry, EntryKind, Manifest, PIECES_MAX, PieceHash, PieceHasher, Span,
};
use crate::wire::path::{PART_PREFIX, PathError, SafePath};

/// What standard input is called at the receiver.
const STDIN_NAME: &str = "stdin";

/// Threads that hash: enough to outrun any disk, few enough to leave the machine to others.
const HASHERS_MAX: usize = 4;

const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Something found.
struct Item {
    entry: Entry,
    source: SourceFile,
}

#[derive(Default)]
struct Walked {
    items: Vec<Item>,
    left_out: usize,
    spool: Option<tempfile::NamedTempFile>,
}

/// Walks and hashes `paths`.
pub(super) fn scan(
    paths: &[PathBuf],
    options: &SourceOptions,
    progress: impl FnMut(DiskDone),
) -> Result<(Scanned, Source), DiskError> {
    describe(walk(paths, options)?, progress)
}

fn walk(paths: &[PathBuf], options: &SourceOptions) -> Result<Walked, DiskError> {
    let mut walked = Walked::default();
    for path in paths {
        if path.as_os_str() == "-" { walked.add_stdin()? } else { walked.add(path, options)? }
    }
    Ok(walked)
}

/// Hashes what was walked.
fn describe(walked: Walked, progress: impl FnMut(DiskDone)) -> Result<(Scanned, Source), DiskError> {
    let Walked { mut items, left_out, spool } = walked;
    if items.is_empty() {
        return Err(DiskError::Nothing);
    }
    items.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let total: u64 = items.iter().map(|item| item.entry.size()).sum();
    let log2 = manifest::piece_log2_for(total);
    let pieces: u64 = items.iter().map(|item| manifest::pieces_of(item.entry.size(), log2)).sum();
    if pieces > PIECES_MAX.into() {
        return Err(DiskError::TooLarge {
            reason: format!("it has {pieces} pieces, and {PIECES_MAX} are the most"),
        });
    }
    let mut hashes = hash(&items, log2, total, progress)?.into_iter();
    check_without_pieces(&items)?;
    let (entries, files): (Vec<Entry>, Vec<SourceFile>) =
        items.into_iter().map(|item| (item.entry, item.source)).unzip();
    let with_hashes = entries.into_iter().map(|entry| {
        let count = manifest::pieces_of(entry.size(), log2) as usize;
        let hashes = hashes.by_ref().take(count).collect();
        (entry, hashes)
    });
    let manifest = Manifest::new(log2, with_hashes.collect())
        .map_err(|error| DiskError::TooLarge { reason: error.to_string() })?;
    let manifest = Arc::new(manifest);
    let bytes = manifest.to_bytes().into();
    Ok((Scanned { manifest: manifest.clone(), bytes, left_out }, Source::new(manifest, files, spool)))
}

impl Walked {
    /// Adds a path given by the user. If that is a link, what it points at is meant.
    fn add(&mut self, path: &Path, options: &SourceOptions) -> Result<(), DiskError> {
        let name = name_of(path)?;
        let links = if options.follow_links { Links::Followed } else { Links::Refused };
        let root = Arc::new(Root::new(path, links));
        let path = root.path.as_path();
        let mut builder = WalkBuilder::new(path);
        builder.standard_filters(false).follow_links(options.follow_links);
        if options.gitignore {
            builder.git_ignore(true).git_exclude(true).ignore(true).parents(true).require_git(false);
        }
        builder.overrides(excluded(path, &options.exclude)?);
        for found in builder.build() {
            let found = found.map_err(|error| walk_failed(path, &error))?;
            let inside = found.path().strip_prefix(path).unwrap_or(Path::new(""));
            let is_root = found.depth() == 0;
            // Only the path as given is followed unasked.
            let metadata =
                if is_root { found.path().metadata() } else { link_metadata(&found, options.follow_links) };
            let metadata = metadata.map_err(|error| failed(found.path(), &error))?;
            let is_part = found.file_name().to_str().is_some_and(|name| name.starts_with(PART_PREFIX));
            if !(metadata.is_file() || metadata.is_dir()) || (is_part && !is_root) {
                self.left_out += 1;
                continue;
            }
            let Some(relative) = relative_name(&name, inside)
                .map_err(|reason| DiskError::Name { path: found.path().to_owned(), reason })?
            else {
                self.left_out += 1;
                continue;
            };
            self.push(relative, &root, found.path(), &metadata)?;
        }
        Ok(())
    }

    /// Keeps standard input in a file, so that pieces can be served more than once.
    fn add_stdin(&mut self) -> Result<(), DiskError> {
        let folder = spool_folder();
        let mut spool = tempfile::NamedTempFile::new_in(&folder).map_err(|error| failed(&folder, &error))?;
        let path = spool.path().to_owned();
        io::copy(&mut io::stdin().lock(), spool.as_file_mut()).map_err(|error| failed(&path, &error))?;
        spool.rewind().map_err(|error| failed(&path, &error))?;
        let metadata = spool.as_file().metadata().map_err(|error| failed(&path, &error))?;
        self.spool = Some(spool);
        let root = Arc::new(Root::new(&path, Links::Refused));
        self.push(SafePath::parse(STDIN_NAME).expect("a plain name"), &root, &path, &metadata)
    }

    fn push(
        &mut self,
        name: SafePath,
        root: &Arc<Root>,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<(), DiskError> {
        if self.items.len() >= ENTRIES_MAX as usize {
            let reason = format!("it has more than {ENTRIES_MAX} files and folders");
            return Err(DiskError::TooLarge { reason });
        }
        let kind = if metadata.is_dir() {
            EntryKind::Folder
        } else {
            EntryKind::File { size: metadata.len(), executable: is_executable(metadata) }
        };
        let mtime = metadata.modified().ok();
        let (root, path) = (root.clone(), path.to_owned());
        let source = SourceFile { root, path, size: metadata.len(), mtime };
        self.items.push(Item { entry: Entry { path: name, kind, mtime: mtime.map_or(0, seconds) }, source });
        Ok(())
    }
}

/// Where streams are kept: a place on disk rather than in memory, if the system has one.
pub(super) fn spool_folder() -> PathBuf {
    let var_tmp = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && var_tmp.is_dir() {
        var_tmp.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// The name a path has at the receiver.
fn name_of(path: &Path) -> Result<String, DiskError> {
    let named = match path.file_name() {
        Some(name) => name.to_owned(),
        None => {
            let whole = path.canonicalize().map_err(|error| failed(path, &error))?;
            let name = whole.file_name().map(ToOwned::to_owned);
            name.ok_or_else(|| DiskError::Name {
                path: path.to_owned(),
                reason: "it has no name".to_owned(),
            })?
        }
    };
    named
        .into_string()
        .map_err(|_| DiskError::Name { path: path.to_owned(), reason: "it is not Unicode".to_owned() })
}

/// `None` for what lies in a part folder of ours.
fn relative_name(root: &str, inside: &Path) -> Result<Option<SafePath>, String> {
    let mut text = root.to_owned();
    for name in inside {
        text.push('/');
        text.push_str(name.to_str().ok_or("it is not Unicode")?);
    }
    match SafePath::normalise(&text) {
        Ok(path) => Ok(Some(path)),
        Err(PathError::Part) if !inside.as_os_str().is_empty() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn excluded(root: &Path, globs: &[String]) -> Result<ignore::overrides::Override, DiskError> {
    let invalid = |error: ignore::Error| DiskError::Name { path: root.to_owned(), reason: error.to_string() };
    let mut builder = OverrideBuilder::new(root);
    for glob in globs {
        // In overrides a plain glob selects and `!` leaves out.
        builder.add(&format!("!{glob}")).map_err(invalid)?;
    }
    builder.build().map_err(invalid)
}

fn link_metadata(found: &ignore::DirEntry, follow: bool) -> io::Result<Metadata> {
    if follow { found.path().metadata() } else { found.path().symlink_metadata() }
}

fn walk_failed(path: &Path, error: &ignore::Error) -> DiskError {
    match error.io_error() {
        Some(io) => {
            let at = if let ignore::Error::WithPath { path, .. } = error { path.as_path() } else { path };
            failed(at, io)
        }
        None => DiskError::Io { path: path.to_owned(), message: error.to_string() },
    }
}

fn is_executable(metadata: &Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// Hashes all pieces, in order of the items, on a few threads.
fn hash(
    items: &[Item],
    log2: u8,
    total: u64,
    mut progress: impl FnMut(DiskDone),
) -> Result<Vec<PieceHash>, DiskError> {
    let mut work: Vec<(usize, Span)> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let count = manifest::pieces_of(item.entry.size(), log2);
        work.extend((0..count).map(|piece| {
            let offset = piece << log2;
            let len = (item.entry.size() - offset).min(1 << log2) as u32;
            (at, Span { entry: at as u32, offset, len, whole: count == 1 })
        }));
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).clamp(1, HASHERS_MAX);
    let next = AtomicUsize::new(0);
    let (results, hashed) = mpsc::sync_channel(threads * 4);
    let mut hashes = vec![[0; 32]; work.len()];
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (results, next, work) = (results.clone(), &next, &work);
            scope.spawn(move || hash_some(items, work, next, &results));
        }
        drop(results);
        let (mut bytes, mut reported) = (0, Instant::now());
        for result in hashed {
            let (at, hash): (usize, PieceHash) = result?;
            hashes[at] = hash;
            bytes += u64::from(work[at].1.len);
            if reported.elapsed() >= PROGRESS_EVERY {
                reported = Instant::now();
                progress(DiskDone::Scanning { bytes, total });
            }
        }
        Ok(hashes)
    })
}

fn hash_some(
    items: &[Item],
    work: &[(usize, Span)],
    next: &AtomicUsize,
    results: &mpsc::SyncSender<Result<(usize, PieceHash), DiskError>>,
) {
    let mut buffer = Vec::new();
    let mut open: Option<(usize, File)> = None;
    let mut opener = Opener::default();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some((item, span)) = work.get(at) else { return };
        let hash = file_of(&items[*item].source, *item, &mut open, &mut opener)
            .and_then(|file| hash_piece(&items[*item].source, file, span, &mut buffer));
        // The first error ends the scan; the others find nobody listening.
        if results.send(hash.map(|hash| (at, hash))).is_err() {
            return;
        }
    }
}

/// The file of an item; the one that was used last is open already.
fn file_of<'a>(
    source: &SourceFile,
    item: usize,
    open: &'a mut Option<(usize, File)>,
    opener: &mut Opener,
) -> Result<&'a File, DiskError> {
    if open.as_ref().is_none_or(|(of, _)| *of != item) {
        *open = Some((item, source.open(opener)?));
    }
    Ok(&open.as_ref().expect("it is open now").1)
}

fn hash_piece(
    source: &SourceFile,
    file: &File,
    span: &Span,
    buffer: &mut Vec<u8>,
) -> Result<PieceHash, DiskError> {
    buffer.resize(span.len as usize, 0);
    match folder::read_exact_at(file, buffer, span.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(source.changed()),
        read => read.map_err(|error| failed(&source.path, &error))?,
    }
    let mut hasher = PieceHasher::new(span);
    hasher.update(buffer);
    Ok(hasher.finish())
}

/// Looks at what is not read: a walk that was led elsewhere must not tell the names of what is there either.
fn check_without_pieces(items: &[Item]) -> Result<(), DiskError> {
    let mut opener = Opener::default();
    let mut without_pieces = items.iter().filter(|item| item.entry.size() == 0);
    without_pieces.try_for_each(|item| opener.check(&item.source, item.entry.kind))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use tempfile::TempDir;

    /// `shared`, in which others may write, and `private`, which they can't read; both hold a `note` and an empty `name`, and
    /// differ only in what the note says.
    fn scene() -> TempDir {
        let home = tempfile::tempdir().expect("a folder");
        for (folder, note) in [("shared/inner", "nothing"), ("private/inner", "secrets")] {
            let folder = home.path().join(folder);
            fs::create_dir_all(&folder).expect("it is ours");
            for (name, content) in [("note", note), ("name", "")] {
                fs::write(folder.join(name), content).expect("it is ours");
                let file = File::options().write(true).open(folder.join(name)).expect("it is ours");
                file.set_modified(UNIX_EPOCH).expect("it is ours");
            }
        }
        home
    }

    /// What comes of sending `path` if `swap` happens between the walk and the reading.
    fn scan_around(
        path: &Path,
        follow_links: bool,
        swap: impl FnOnce(),
    ) -> Result<(Scanned, Source), DiskError> {
        let options = SourceOptions { follow_links, ..SourceOptions::default() };
        let walked = walk(&[path.to_owned()], &options)?;
        swap();
        describe(walked, drop)
    }

    fn replace_by_link(path: &Path, to: &Path) {
        fs::rename(path, path.with_extension("old")).expect("it is there");
        symlink(to, path).expect("it is ours");
    }

    #[track_caller]
    fn assert_changed(result: &Result<(Scanned, Source), DiskError>) {
        assert!(matches!(result, Err(DiskError::Changed { .. })), "{result:?}");
    }

    #[test]
    fn a_link_put_in_the_way_after_the_walk_leads_nowhere() {
        for swapped in ["inner/note", "inner/name", "inner", ""] {
            let home = scene();
            let (shared, private) = (home.path().join("shared"), home.path().join("private"));
            assert!(scan_around(&shared, false, || ()).is_ok());
            let times =
                |folder: &Path| fs::metadata(folder.join("inner/note")).expect("there").modified().ok();
            assert_eq!(times(&shared), times(&private));
            let swap = || replace_by_link(&components(&shared, swapped), &components(&private, swapped));
            assert_changed(&scan_around(&shared, false, swap));
        }
    }

    fn components(root: &Path, below: &str) -> PathBuf {
        root.join(below).components().collect()
    }

    #[test]
    fn a_file_that_was_named_is_not_read_through_a_link_that_came_later() {
        let home = scene();
        let (note, other) = (home.path().join("shared/inner/note"), home.path().join("private/inner/note"));
        assert_changed(&scan_around(&note, false, || replace_by_link(&note, &other)));
    }

    #[test]
    fn a_pipe_put_in_the_way_after_the_walk_holds_nobody_up() {
        for (path, follow) in [("shared", false), ("shared", true), ("shared/inner/note", false)] {
            let home = scene();
            let note = home.path().join("shared/inner/note");
            let swap = || {
                fs::remove_file(&note).expect("it is ours");
                let made = Command::new("mkfifo").arg(&note).status();
                assert!(made.is_ok_and(|status| status.success()));
            };
            assert_changed(&scan_around(&home.path().join(path), follow, swap));
        }
    }

    #[test]
    fn links_that_were_named_or_wanted_are_followed() {
        let home = scene();
        let link = home.path().join("link");
        symlink(home.path().join("shared"), &link).expect("it is ours");
        symlink(home.path().join("private"), home.path().join("shared/inner/more")).expect("it is ours");
        let count = |path: &Path, follow| {
            let (scanned, source) = scan_around(path, follow, || ()).expect("sound");
            (0..scanned.manifest.piece_count()).for_each(|piece| {
                let opened = source.open(Manifest::id_of(&scanned.bytes), piece, &Default::default());
                assert!(opened.is_ok(), "{opened:?}");
            });
            scanned.manifest.file_count()
        };
        for path in [link.clone(), link.join(""), home.path().join("shared"), home.path().join("shared/.")] {
            assert_eq!(count(&path, false), 2, "{path:?}");
            assert_eq!(count(&path, true), 4, "{path:?}");
        }
    }

    #[test]
    fn what_is_replaced_after_it_was_offered_is_not_read() {
        for pipe in [false, true] {
            let home = scene();
            let (note, other) =
                (home.path().join("shared/inner/note"), home.path().join("private/inner/note"));
            let (scanned, source) = scan_around(&note, false, || ()).expect("sound");
            if pipe {
                fs::remove_file(&note).expect("it is ours");
                assert!(Command::new("mkfifo").arg(&note).status().is_ok_and(|status| status.success()));
            } else {
                replace_by_link(&note, &other);
            }
            let opened = source.open(Manifest::id_of(&scanned.bytes), 0, &Default::default());
            assert_eq!(opened.map(drop), Err(DiskError::Changed { path: note }));
        }
    }
}
