//! An open folder. Names are looked up relative to it and never through a link.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::core::transfer::DiskError;

use super::failed;
use super::part_folders::PartFolders;
use super::source::Links;

/// An open folder, and the path by which it was reached, for messages.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a folder is whatever it is called: its file system and its number there.
pub(super) type Identity = (u64, u64);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    File {
        size: u64,
    },
    Folder,
    /// A link, a device, a pipe, a socket.
    Other,
}

/// How a file gets a name that nothing else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// A rename that never replaces.
    Rename,
    /// A second name, which never replaces either, and then the first is removed.
    Link,
    /// An empty file of that name, which is then replaced. Whoever is stopped in between leaves it there.
    Reserve,
}

const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A pipe put in the way must not hold us up.
const OPEN_FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a folder that the user named; links in that path are the user's own.
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let fd = rustix::fs::open(path, OPEN_FOLDER, Mode::empty()).map_err(|e| failed(path, &e.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens a folder that the user named and that was no link then.
    pub(super) fn open_unlinked(path: &Path) -> Result<Self, DiskError> {
        match rustix::fs::open(path, OPEN_FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(DiskError::NotAFolder { path: path.to_owned() }),
            Err(error) => Err(failed(path, &error.into())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of that name, which must not be a link.
    pub(super) fn child(&self, name: &str) -> Result<Self, DiskError> {
        let path = self.path.join(name);
        match rustix::fs::openat(&self.fd, name, OPEN_FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(DiskError::NotAFolder { path }),
            Err(error) => Err(failed(&path, &error.into())),
        }
    }

    /// The folder of that name, made if there is nothing of that name.
    pub(super) fn make_child(&self, name: &str, mode: u32) -> Result<Self, DiskError> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => self.child(name),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// The folder of that name, made for us alone. Where others may write, too, one of theirs may be there already, and they
    /// could read and change what is put into it.
    pub(super) fn make_private_child(&self, name: &str) -> Result<Self, DiskError> {
        let child = self.make_child(name, 0o700)?;
        if child.is_ours()? { Ok(child) } else { Err(DiskError::NotOurs { path: child.path }) }
    }

    /// Whether the folder belongs to the same user as a file that we make in it. Asking that, and not for our own number,
    /// is right on file systems that know one owner or map them, too.
    fn is_ours(&self) -> Result<bool, DiskError> {
        const PROBE: &str = "owner";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&self.fd, PROBE, flags, Mode::from_raw_mode(0o600));
        let probe = match make() {
            // Left behind by a process that was killed.
            Err(Errno::EXIST) => {
                self.remove_file(PROBE)?;
                make()
            }
            made => made,
        };
        let owner_of_file = probe.and_then(|file| rustix::fs::fstat(&file)).map(|stat| stat.st_uid);
        let owner_of_folder = rustix::fs::fstat(&self.fd).map(|stat| stat.st_uid);
        let _ = self.remove_file(PROBE);
        match (owner_of_file, owner_of_folder) {
            (Ok(of_file), Ok(of_folder)) => Ok(of_file == of_folder),
            // Nothing can be put there.
            (Err(Errno::ACCESS | Errno::PERM), Ok(_)) => Ok(false),
            (Err(error), _) | (_, Err(error)) => Err(self.failed(PROBE, error)),
        }
    }

    /// The folder some names below, if it is there.
    pub(super) fn descend<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Self>, DiskError> {
        let mut folder = self.again()?;
        for name in names {
            folder = match folder.child(name) {
                Ok(child) => child,
                Err(DiskError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(Some(folder))
    }

    /// The folder some names below, made where it is not there. None of them may be one for parts.
    pub(super) fn make<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        parts: &PartFolders,
    ) -> Result<Self, DiskError> {
        let enter = |folder: Self, name| parts.keep_out(folder.make_child(name, 0o777)?);
        names.into_iter().try_fold(self.again()?, enter)
    }

    pub(super) fn identity(&self) -> Result<Identity, DiskError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|error| failed(&self.path, &error.into()))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn again(&self) -> Result<Self, DiskError> {
        let fd = self.fd.try_clone().map_err(|error| failed(&self.path, &error))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    pub(super) fn find(&self, name: &str) -> Result<Found, DiskError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                Ok(if kind.is_file() {
                    Found::File { size: u64::try_from(stat.st_size).unwrap_or(0) }
                } else if kind.is_dir() {
                    Found::Folder
                } else {
                    Found::Other
                })
            }
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Opens a regular file to be read.
    pub(super) fn read(&self, name: &str) -> Result<File, DiskError> {
        let fd = rustix::fs::openat(&self.fd, name, OPEN_FILE | OFlags::NOFOLLOW, Mode::empty());
        regular(fd).map_err(|error| self.failed(name, error))
    }

    /// Opens a file to be read and written, made if there is none, not through a link.
    pub(super) fn write(&self, name: &str, mode: u32) -> Result<File, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|error| self.failed(name, error))
    }

    /// Gives a file its final name; `false` if that is taken.
    pub(super) fn rename_new(&self, name: &str, to: &Self, new: &str) -> Result<bool, DiskError> {
        match by_what_works(|naming| self.name_by(naming, name, to, new)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(to.failed(new, error)),
        }
    }

    fn name_by(&self, naming: Naming, name: &str, to: &Self, new: &str) -> Result<(), Errno> {
        match naming {
            Naming::Rename => rustix::fs::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE),
            Naming::Link => {
                rustix::fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty())?;
                // If that fails, the folder for parts still goes, with all that is in it.
                let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
                Ok(())
            }
            Naming::Reserve => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // Closed at once: some file systems replace no file that is open.
                drop(rustix::fs::openat(&to.fd, new, flags, Mode::from_raw_mode(0o600))?);
                rustix::fs::renameat(&self.fd, name, &to.fd, new).inspect_err(|_| {
                    let _ = rustix::fs::unlinkat(&to.fd, new, AtFlags::empty());
                })
            }
        }
    }

    /// Gives a file its final name in place of what has it.
    pub(super) fn rename_over(&self, name: &str, to: &Self, new: &str) -> Result<(), DiskError> {
        rustix::fs::renameat(&self.fd, name, &to.fd, new).map_err(|error| to.failed(new, error))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), DiskError> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(|error| self.failed(name, error))
    }

    pub(super) fn remove_folder(&self, name: &str) -> Result<(), DiskError> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(|error| self.failed(name, error))
    }

    /// The names in it.
    pub(super) fn names(&self) -> Result<Vec<String>, DiskError> {
        let entries = rustix::fs::Dir::read_from(&self.fd).map_err(|e| failed(&self.path, &e.into()))?;
        let names = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        Ok(names.filter(|name| name != "." && name != "..").collect())
    }

    /// Locks the folder for this process; `false` if another holds it.
    pub(super) fn lock(&self) -> Result<bool, DiskError> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            // A file system without locks: one process at a time is the user's business there.
            Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => Ok(true),
            Err(error) => Err(failed(&self.path, &error.into())),
        }
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        as_far_as_it_can(rustix::fs::fsync(&self.fd)).map_err(|error| failed(&self.path, &error.into()))
    }

    /// Makes all data of its file system durable.
    pub(super) fn sync_all(&self) -> Result<(), DiskError> {
        as_far_as_it_can(rustix::fs::syncfs(&self.fd)).map_err(|error| failed(&self.path, &error.into()))
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Sets when the folder's content was last changed.
    pub(super) fn set_mtime(&self, seconds: i64) {
        // A time that can't be set is not worth failing a transfer for.
        let _ = rustix::fs::futimens(&self.fd, &times(seconds));
    }

    fn failed(&self, name: &str, error: Errno) -> DiskError {
        failed(&self.path.join(name), &error.into())
    }
}

/// Tries one way after the other for as long as the file system can't: shared folders of virtual machines and much that is mounted
/// by programs have no more than the last.
fn by_what_works(mut name_by: impl FnMut(Naming) -> Result<(), Errno>) -> Result<(), Errno> {
    match name_by(Naming::Rename) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        named => return named,
    }
    match name_by(Naming::Link) {
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK) => name_by(Naming::Reserve),
        named => named,
    }
}

/// A file system that makes nothing durable when it is asked to is not worth failing a transfer for.
fn as_far_as_it_can(synced: Result<(), Errno>) -> Result<(), Errno> {
    match synced {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(()),
        synced => synced,
    }
}

/// Makes a file's content durable.
pub(super) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all().or_else(|error| match Errno::from_io_error(&error) {
        Some(errno) => Ok(as_far_as_it_can(Err(errno))?),
        None => Err(error),
    })
}

/// Opens a regular file that the user named to be read.
pub(super) fn open_file(path: &Path, links: Links) -> Result<File, DiskError> {
    let flags = match links {
        Links::Followed => OPEN_FILE,
        Links::Refused => OPEN_FILE | OFlags::NOFOLLOW,
    };
    match regular(rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => Ok(file),
        // It was a file when it was walked.
        Err(Errno::LOOP | Errno::INVAL) => Err(DiskError::Changed { path: path.to_owned() }),
        Err(error) => Err(failed(path, &error.into())),
    }
}

fn regular(opened: Result<OwnedFd, Errno>) -> Result<File, Errno> {
    let file = File::from(opened?);
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file { Ok(file) } else { Err(Errno::INVAL) }
}

/// Sets when a file's content was last changed.
pub(super) fn set_mtime(file: &File, seconds: i64) {
    // See above.
    let _ = rustix::fs::futimens(file, &times(seconds));
}

fn times(seconds: i64) -> Timestamps {
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }, last_modification }
}

pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

pub(super) fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(buffer, offset)
}

/// Where the next data of a sparse file begin; `None` if there are none from `offset` on.
pub(super) fn next_data(file: &File, offset: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(at) => Some(at),
        Err(Errno::NXIO) => None,
        // The file system knows no holes.
        Err(_) => Some(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_and_replaces_nothing_whatever_the_file_system_can() {
        let neither = [Err(Errno::INVAL), Err(Errno::PERM)];
        for unable in [&[][..], &neither[..1], &neither] {
            let home = tempfile::tempdir().expect("a folder");
            let file = |name: &str| home.path().join(name);
            std::fs::write(file("part"), "ours").expect("written");
            std::fs::write(file("taken"), "theirs").expect("written");
            let folder = Folder::open(home.path()).expect("it is there");
            let name = |new: &str| {
                let mut answers = unable.iter();
                by_what_works(|naming| match answers.next() {
                    Some(answer) => *answer,
                    None => folder.name_by(naming, "part", &folder, new),
                })
            };
            assert_eq!(name("taken"), Err(Errno::EXIST), "{unable:?}");
            assert_eq!(name("new"), Ok(()), "{unable:?}");
            assert_eq!(name("newer"), Err(Errno::NOENT), "{unable:?}");
            let content = |name: &str| std::fs::read_to_string(file(name)).ok();
            assert_eq!(
                ["part", "taken", "new", "newer"].map(content),
                [None, Some("theirs".to_owned()), Some("ours".to_owned()), None],
                "{unable:?}"
            );
        }
    }

    /// Nothing in `/proc` can be made durable.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_system_that_makes_nothing_durable_will_do() {
        let proc = Folder::open(Path::new("/proc")).expect("Linux has it");
        assert_eq!(rustix::fs::fsync(&proc.fd), Err(Errno::INVAL));
        assert_eq!((proc.sync(), proc.sync_all()), (Ok(()), Ok(())));
        let file = proc.read("version").expect("Linux has it");
        assert_eq!(rustix::fs::fsync(&file), Err(Errno::INVAL));
        assert!(sync_file(&file).is_ok());
    }

    /// A folder of another user: root can make one, and everybody else has root's.
    #[test]
    fn a_part_folder_that_another_user_put_there_is_not_used() {
        let home = tempfile::tempdir().expect("a folder");
        let trap = home.path().join("trap");
        std::fs::create_dir(&trap).expect("it is ours");
        let is_root = std::os::unix::fs::chown(&trap, Some(65_534), None).is_ok();
        let (around, name) = if is_root { (home.path(), "trap") } else { (Path::new("/"), "usr") };
        let around = Folder::open(around).expect("it is there");
        let refused = around.make_private_child(name);
        assert!(matches!(refused, Err(DiskError::NotOurs { .. })), "{refused:?}");
        let ours = Folder::open(home.path()).expect("it is there");
        for _ in 0..2 {
            let made = ours.make_private_child("parts").expect("it is ours");
            assert!(made.names().expect("readable").is_empty());
        }
    }
}
