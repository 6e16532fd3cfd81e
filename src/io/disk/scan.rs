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

use super::source::{Source, SourceFile};
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
    let mut walked = Walked::default();
    for path in paths {
        if path.as_os_str() == "-" { walked.add_stdin()? } else { walked.add(path, options)? }
    }
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
        let root = name_of(path)?;
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
            let Some(relative) = relative_name(&root, inside)
                .map_err(|reason| DiskError::Name { path: found.path().to_owned(), reason })?
            else {
                self.left_out += 1;
                continue;
            };
            self.push(relative, found.path(), &metadata)?;
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
        self.push(SafePath::parse(STDIN_NAME).expect("a plain name"), &path, &metadata)
    }

    fn push(&mut self, path: SafePath, source: &Path, metadata: &Metadata) -> Result<(), DiskError> {
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
        let source = SourceFile { path: source.to_owned(), size: metadata.len(), mtime };
        self.items.push(Item { entry: Entry { path, kind, mtime: mtime.map_or(0, seconds) }, source });
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
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some((item, span)) = work.get(at) else { return };
        let hash = hash_piece(&items[*item].source, *item, span, &mut open, &mut buffer);
        // The first error ends the scan; the others find nobody listening.
        if results.send(hash.map(|hash| (at, hash))).is_err() {
            return;
        }
    }
}

fn hash_piece(
    source: &SourceFile,
    item: usize,
    span: &Span,
    open: &mut Option<(usize, File)>,
    buffer: &mut Vec<u8>,
) -> Result<PieceHash, DiskError> {
    let file = match open {
        Some((of, file)) if *of == item => file,
        _ => {
            let file = File::open(&source.path).map_err(|error| failed(&source.path, &error))?;
            &mut open.insert((item, file)).1
        }
    };
    buffer.resize(span.len as usize, 0);
    match folder::read_exact_at(file, buffer, span.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(DiskError::Changed { path: source.path.clone() });
        }
        read => read.map_err(|error| failed(&source.path, &error))?,
    }
    let mut hasher = PieceHasher::new(span);
    hasher.update(buffer);
    Ok(hasher.finish())
}
