//! How many connections a server can hold.

/// Files and sockets that are no client's: the listener, the runtime's, logs, certificates, and one just accepted.
const RESERVED_FILES: usize = 64;

/// With no more files than this a quarter is for those who only come.
const FEW: usize = 1_024;

const PENDING_MAX: usize = 2_048;
/// The default for sockets of one address: everybody behind one address may come at the same moment.
const PENDING_PER_ADDRESS_MAX: usize = 256;
/// More than one-time codes take.
const STRANGERS_MAX: usize = 2_048;

/// How many connections a server holds, so that it never runs out of files (`accept` would fail for everybody).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Connections that are no WebSockets yet.
    pub pending: usize,
    /// Connections of one address that are no WebSockets yet.
    pub pending_per_address: usize,
    /// WebSockets of those that the server lets in.
    pub sockets: usize,
    /// WebSockets of newcomers with one-time codes, who need no token.
    pub strangers: usize,
}

impl Capacity {
    /// What fits into so many open files. Those who only come and strangers get small parts of many, but what a busy address
    /// needs if there are few.
    pub fn of(open_files: usize) -> Self {
        let files = open_files.saturating_sub(RESERVED_FILES);
        let pending = (files / 8).max(files.min(FEW) / 4).clamp(1, PENDING_MAX);
        let strangers = (files / 16).clamp(1, STRANGERS_MAX);
        Self {
            pending,
            pending_per_address: pending.min(PENDING_PER_ADDRESS_MAX),
            sockets: files.saturating_sub(pending + strangers).max(1),
            strangers,
        }
    }

    /// How many strangers are listened to. The other places are for those who are told that there is none, or that it is over.
    pub fn strangers_heard(&self) -> usize {
        self.strangers - self.strangers / 4
    }

    /// So that as many may come at once from one address as it may have sockets, which the operator can raise.
    pub fn with_address_max(self, sockets_per_address: usize) -> Self {
        let wanted = self.pending_per_address.max(sockets_per_address);
        Self { pending_per_address: wanted.min(self.pending), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_fit_into_the_open_files() {
        for open_files in [128, 256, 1_024, 4_096, 65_536, 1 << 20] {
            let Capacity { pending, pending_per_address, sockets, strangers } = Capacity::of(open_files);
            assert!(pending + sockets + strangers + RESERVED_FILES <= open_files, "{open_files}");
            assert!(pending_per_address <= pending && sockets >= 2 * (pending + strangers), "{open_files}");
        }
    }

    #[test]
    fn a_server_with_hardly_any_files_still_serves() {
        let one = Capacity { pending: 1, pending_per_address: 1, sockets: 1, strangers: 1 };
        assert_eq!(Capacity::of(0), one);
        assert_eq!(one.strangers_heard(), 1);
    }

    #[test]
    fn a_stranger_for_whom_there_is_no_place_can_be_told_so() {
        let codes = crate::core::code::relay::Limits::default();
        for open_files in [128, 1_024, 65_536] {
            let capacity = Capacity::of(open_files);
            assert!(capacity.strangers_heard() < capacity.strangers, "{open_files}");
        }
        assert!(Capacity::of(65_536).strangers_heard() >= codes.strangers, "many files bind nobody");
    }

    #[test]
    fn everybody_behind_one_address_may_come_at_once() {
        let limits = crate::core::room::Limits::default();
        let capacity = Capacity::of(4_096);
        assert!(capacity.pending_per_address >= limits.sockets_per_address);
        assert_eq!(capacity.with_address_max(1), capacity);
        assert_eq!(capacity.with_address_max(500).pending_per_address, 500);
        assert_eq!(capacity.with_address_max(usize::MAX).pending_per_address, capacity.pending);
    }
}
