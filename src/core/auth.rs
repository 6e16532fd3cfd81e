//! The end-to-end proof: both ends of a link show that they know the room's key, and that nobody stands between them.
//!
//! ```text
//! proof = HMAC-SHA-256(k, role ‖ room ‖ link ‖ offerer's id ‖ answerer's id
//!                           ‖ offerer's fingerprint ‖ answerer's fingerprint)
//! k     = HKDF-SHA-256(ikm = the room's key, salt = "fast-rtc-swarm", info = "link proof v1")
//! ```
//!
//! Each part stands behind its length in bytes, as a 64-bit big-endian number, so that no two sessions have the same
//! bytes. The fingerprints are those of the live DTLS session. Whoever ends DTLS in the middle shows each side a
//! certificate of its own, and the two sides then speak of different fingerprints. The role keeps a proof from being
//! sent back to the one who made it; the ids and the link keep it from serving anywhere else.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::core::peer::Fingerprint;
use crate::wire::{LinkId, RoomId, RoomKey, UserId};

const SALT: &[u8] = b"fast-rtc-swarm";
const INFO: &[u8] = b"link proof v1";

/// Who of the two made the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Was there first, and made the offer.
    Offerer,
    /// Answered it.
    Answerer,
}

impl Role {
    /// The other end's role.
    pub fn other(self) -> Self {
        match self {
            Self::Offerer => Self::Answerer,
            Self::Answerer => Self::Offerer,
        }
    }

    fn label(self) -> &'static [u8] {
        match self {
            Self::Offerer => b"offerer",
            Self::Answerer => b"answerer",
        }
    }
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// The member.
    pub user: &'a UserId,
    /// The member's certificate in the live DTLS session.
    pub fingerprint: Fingerprint,
}

/// What a proof speaks of. Both ends fill it alike: the offerer is the offerer on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// The connection.
    pub link: &'a LinkId,
    /// The end that made the offer.
    pub offerer: End<'a>,
    /// The end that answered.
    pub answerer: End<'a>,
}

impl<'a> Session<'a> {
    /// The session as the end that plays `role` sees it.
    pub fn new(room: &'a RoomId, link: &'a LinkId, role: Role, ours: End<'a>, theirs: End<'a>) -> Self {
        match role {
            Role::Offerer => Self { room, link, offerer: ours, answerer: theirs },
            Role::Answerer => Self { room, link, offerer: theirs, answerer: ours },
        }
    }

    /// What the end that plays `role` must say.
    pub fn prove(&self, key: &RoomKey, role: Role) -> Proof {
        Proof(self.mac(key, role).finalize().into_bytes().into())
    }

    /// Whether the end that plays `role` said the right thing. Takes the same time whatever it said.
    #[must_use]
    pub fn verify(&self, key: &RoomKey, role: Role, proof: &Proof) -> bool {
        self.mac(key, role).verify_slice(&proof.0).is_ok()
    }

    fn mac(&self, key: &RoomKey, role: Role) -> Hmac<Sha256> {
        let mut derived = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(SALT), key.bytes())
            .expand(INFO, &mut *derived)
            .expect("32 bytes are no more than 255 hashes (RFC 5869 §2.3)");
        let mut mac = Hmac::<Sha256>::new_from_slice(&*derived).expect("HMAC takes keys of any length");
        let parts = [
            role.label(),
            self.room.as_str().as_bytes(),
            self.link.as_str().as_bytes(),
            self.offerer.user.as_str().as_bytes(),
            self.answerer.user.as_str().as_bytes(),
            &self.offerer.fingerprint.0,
            &self.answerer.fingerprint.0,
        ];
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// A proof, as it travels in [`crate::wire::control::Control::Hello`].
///
/// Not comparable: [`Session::verify`] is the one place where two of them meet.
#[derive(Clone)]
pub struct Proof([u8; 32]);

impl Proof {
    /// Parses 43 characters of base64url without padding; `None` is a proof that cannot hold.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(32) => Some(Self(bytes)),
            Ok(_) | Err(_) => None,
        }
    }

    /// The proof as 43 characters of base64url.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything a session is made of, to be changed one by one.
    #[derive(Clone)]
    struct Facts {
        room: RoomId,
        link: LinkId,
        offerer: UserId,
        answerer: UserId,
        offerer_fingerprint: Fingerprint,
        answerer_fingerprint: Fingerprint,
    }

    impl Facts {
        fn new() -> Self {
            Self {
                room: RoomId::new("room").expect("an id"),
                link: LinkId::new("link").expect("an id"),
                offerer: UserId::new("ada").expect("an id"),
                answerer: UserId::new("bob").expect("an id"),
                offerer_fingerprint: Fingerprint([1; 32]),
                answerer_fingerprint: Fingerprint([2; 32]),
            }
        }

        fn session(&self) -> Session<'_> {
            Session {
                room: &self.room,
                link: &self.link,
                offerer: End { user: &self.offerer, fingerprint: self.offerer_fingerprint },
                answerer: End { user: &self.answerer, fingerprint: self.answerer_fingerprint },
            }
        }
    }

    fn key() -> RoomKey {
        RoomKey::from_random([7; 16])
    }

    #[test]
    fn both_ends_agree() {
        let facts = Facts::new();
        let ada = End { user: &facts.offerer, fingerprint: facts.offerer_fingerprint };
        let bob = End { user: &facts.answerer, fingerprint: facts.answerer_fingerprint };
        let at_ada = Session::new(&facts.room, &facts.link, Role::Offerer, ada, bob);
        let at_bob = Session::new(&facts.room, &facts.link, Role::Answerer, bob, ada);
        for role in [Role::Offerer, Role::Answerer] {
            assert!(at_bob.verify(&key(), role, &at_ada.prove(&key(), role)));
        }
    }

    /// Computed by Python's `hmac` and `hashlib`, from the definition at the head of this file.
    #[test]
    fn proofs_have_the_values_of_another_implementation() {
        let facts = Facts::new();
        let session = facts.session();
        assert_eq!(
            session.prove(&key(), Role::Offerer).to_text(),
            "IjBCM8XfjHnLlgLuojlWhWT8RN-W9kphC830_JMEiks"
        );
        assert_eq!(
            session.prove(&key(), Role::Answerer).to_text(),
            "U1IPGxgpMLThllTPUUgOWl2uDbehSs8kCIy0W3GeXSQ"
        );
    }

    #[test]
    fn a_proof_speaks_of_everything_in_its_session() {
        type Change = fn(&mut Facts);
        let changes: [(&str, Change); 8] = [
            ("room", |facts| facts.room = RoomId::new("moor").expect("an id")),
            ("link", |facts| facts.link = LinkId::new("knil").expect("an id")),
            ("offerer", |facts| facts.offerer = UserId::new("eve").expect("an id")),
            ("answerer", |facts| facts.answerer = UserId::new("eve").expect("an id")),
            ("offerer's fingerprint", |facts| facts.offerer_fingerprint.0[31] ^= 1),
            ("answerer's fingerprint", |facts| facts.answerer_fingerprint.0[0] ^= 0x80),
            ("ids swapped", |facts| std::mem::swap(&mut facts.offerer, &mut facts.answerer)),
            ("fingerprints swapped", |facts| {
                std::mem::swap(&mut facts.offerer_fingerprint, &mut facts.answerer_fingerprint);
            }),
        ];
        let facts = Facts::new();
        for role in [Role::Offerer, Role::Answerer] {
            let proof = facts.session().prove(&key(), role);
            assert!(facts.session().verify(&key(), role, &proof));
            for (name, change) in changes {
                let mut other = facts.clone();
                change(&mut other);
                assert!(!other.session().verify(&key(), role, &proof), "{name}");
            }
        }
    }

    #[test]
    fn a_proof_sent_back_to_its_maker_does_not_hold() {
        let facts = Facts::new();
        let session = facts.session();
        for role in [Role::Offerer, Role::Answerer] {
            assert!(!session.verify(&key(), role.other(), &session.prove(&key(), role)));
        }
    }

    #[test]
    fn each_bit_of_the_key_counts() {
        let facts = Facts::new();
        let session = facts.session();
        let proof = session.prove(&key(), Role::Offerer);
        for bit in 0..128 {
            let mut bytes = *key().bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!session.verify(&RoomKey::from_random(bytes), Role::Offerer, &proof), "bit {bit}");
        }
    }

    #[test]
    fn ids_that_run_together_to_the_same_text_are_told_apart() {
        let ids = |offerer: &str, answerer: &str| Facts {
            offerer: UserId::new(offerer).expect("an id"),
            answerer: UserId::new(answerer).expect("an id"),
            ..Facts::new()
        };
        let proof = ids("ab", "c").session().prove(&key(), Role::Offerer);
        assert!(!ids("a", "bc").session().verify(&key(), Role::Offerer, &proof));
    }

    #[test]
    fn a_proof_survives_the_wire_and_nothing_else_is_one() {
        let facts = Facts::new();
        let session = facts.session();
        let text = session.prove(&key(), Role::Offerer).to_text();
        let proof = Proof::parse(&text).expect("its own text");
        assert!(session.verify(&key(), Role::Offerer, &proof));
        for other in ["", &text[1..], &format!("{text}A"), &format!("{text}="), &"A".repeat(60_000), "…"] {
            assert!(Proof::parse(other).is_none());
        }
    }

    #[test]
    fn debug_output_has_no_proof() {
        let facts = Facts::new();
        assert_eq!(format!("{:?}", facts.session().prove(&key(), Role::Offerer)), "Proof(…)");
    }
}
