//! Whose files are taken without asking, and what counts as an answer where somebody is asked.

use std::time::Duration;

use tokio::time::Instant;

use super::args::AcceptArgs;
use super::roster::Roster;
use crate::wire::UserId;
use crate::wire::text::Name;

/// How long it takes to see that another question is asked. Whoever offers can choose the moment.
pub const REACTION: Duration = Duration::from_secs(1);

/// Whether what is typed now can be meant for a question that was asked then.
pub fn could_be_read(asked_at: Instant, now: Instant) -> bool {
    now >= asked_at + REACTION
}

/// What was said about offers on the command line.
#[derive(Debug, Clone)]
pub struct Consent {
    policy: Policy,
    /// Whether peers must have proved the room's key to be known by their name.
    keyed: bool,
}

#[derive(Debug, Clone)]
enum Policy {
    Everyone,
    /// These names, in lower case.
    From(Vec<String>),
}

/// What to do with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Take it.
    Accept,
    /// Ask whoever can be asked.
    Ask,
}

impl Consent {
    /// What the arguments say, for a room with or without a key.
    pub fn new(args: &AcceptArgs, keyed: bool) -> Self {
        let names = args.accept_from.iter().map(|name| name.to_lowercase()).collect();
        let policy = if args.yes { Policy::Everyone } else { Policy::From(names) };
        Self { policy, keyed }
    }

    /// What to do with an offer of this peer. A name counts only where the room's key was proved, if there is one, and only
    /// while nobody else's looks like it.
    pub fn judge(&self, from: &UserId, roster: &Roster) -> Decision {
        let named = match &self.policy {
            Policy::Everyone => return Decision::Accept,
            Policy::From(names) => names,
        };
        let Some(info) = roster.info(from).filter(|info| info.verified || !self.keyed) else {
            return Decision::Ask;
        };
        let Some(name) = Name::from_remote(&info.name) else { return Decision::Ask };
        let unmistakable = roster.label(from) == name.as_str();
        if unmistakable && named.contains(&name.as_str().to_lowercase()) {
            Decision::Accept
        } else {
            Decision::Ask
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::roster::tests::{peer, roster};
    use crate::cli::values::Arrival;

    pub(crate) fn consent(yes: bool, names: &[&str], keyed: bool) -> Consent {
        let accept_from = names.iter().map(|name| (*name).to_owned()).collect();
        let args = AcceptArgs {
            out: ".".into(),
            yes,
            accept_from,
            max_size: None,
            max_files: None,
            on_conflict: Arrival::Rename,
        };
        Consent::new(&args, keyed)
    }

    fn id(text: &str) -> UserId {
        UserId::new(text).expect("an id")
    }

    #[test]
    fn a_name_is_trusted_only_while_it_is_unmistakable() {
        let mut room = roster(&[("1111", "Ada"), ("2222", "bob")]);
        let from_ada = consent(false, &["ada"], true);
        assert_eq!(from_ada.judge(&id("1111"), &room), Decision::Accept);
        assert_eq!(from_ada.judge(&id("2222"), &room), Decision::Ask);
        room.upsert(&peer("3333", "аda"));
        assert_eq!(from_ada.judge(&id("1111"), &room), Decision::Ask);
    }

    #[test]
    fn without_a_proof_a_name_is_worth_nothing_in_a_room_with_a_key() {
        let mut ada = peer("1111", "ada");
        ada.verified = false;
        let mut room = roster(&[]);
        room.upsert(&ada);
        assert_eq!(consent(false, &["ada"], true).judge(&id("1111"), &room), Decision::Ask);
        assert_eq!(consent(false, &["ada"], false).judge(&id("1111"), &room), Decision::Accept);
    }

    #[test]
    fn yes_is_yes_to_everyone() {
        assert_eq!(consent(true, &[], true).judge(&id("9"), &roster(&[])), Decision::Accept);
    }
}
