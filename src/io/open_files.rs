//! How many files and sockets this process may have open at once.

/// As many as anything here makes use of, where the system sets no limit.
const ENOUGH: u64 = 1 << 20;

/// The limit now.
#[cfg(unix)]
pub fn limit() -> usize {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH).min(ENOUGH);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Raises the limit as far as the system lets this process, and returns it. Where it can't be raised it stays as it is.
#[cfg(unix)]
pub fn raise() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// macOS takes no more, whatever it says the hard limit is.
    const OPEN_MAX: u64 = 10_240;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    for wanted in [ENOUGH, OPEN_MAX] {
        let wanted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if current.is_none_or(|current| current >= wanted) {
            break;
        }
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, wanted, "could not raise the limit on open files"),
        }
    }
    limit()
}

/// The limit now: Windows has none worth mentioning.
#[cfg(not(unix))]
pub fn limit() -> usize {
    usize::try_from(ENOUGH).unwrap_or(usize::MAX)
}

/// There is nothing to raise.
#[cfg(not(unix))]
pub fn raise() -> usize {
    limit()
}
