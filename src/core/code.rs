//! One-time codes: a member hands the whole invite to a newcomer who knows two words, over a server that knows neither.
//!
//! ```text
//!  member (A)                        server                      newcomer (B)
//!    | ◀──────────── Y ◀── its number only ◀── claim 7, Y ──────────  |  Y = y·G + w·N
//!    | ────────────▶ X ──────────────────────▶ X ─────────────────▶   |  X = x·G + w·M
//!    | ◀──────── proof(B) ◀──────────────── proof(B) ◀────────────    |  the newcomer first
//!    | ─▶ proof(A), sealed invite ────────▶ as it is ─────────────▶   |
//! ```
//!
//! `w` comes from the words. The exchange is SPAKE2 on edwards25519, in the variant of the crate `spake2`, which is that of
//! Python's; `docs/codes.md` says what that means. Whoever listens learns nothing to try words against. Whoever takes part,
//! the server included, tries one pair of words, and is found out unless it was the right one: the member speaks under the
//! key only after the newcomer has proved to have the same one, and it never answers a second claim.
//!
//! ```text
//! k        = SPAKE2(words, A = LABEL ‖ " member " ‖ number, B = LABEL ‖ " newcomer " ‖ number)
//! key(i)   = HKDF-SHA-256(ikm = k, salt = "fast-rtc-swarm", info = LABEL ‖ i)
//! proof(e) = HMAC-SHA-256(key(" proof of the " ‖ e), transcript)
//! sealed   = ChaCha20-Poly1305(key(" invite"), nonce = 0, aad = transcript, the invite)
//! ```
//!
//! The transcript is label, number, X and Y, each behind its length. A key seals one message, so its nonce may be fixed.
//!
//! Each step takes the state before it and gives the one behind it: nothing can be done twice or out of order.

pub mod relay;

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::Sha256;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use crate::wire::Invite;
use crate::wire::code::{Code, CodeNumber};

const LABEL: &str = "fast-rtc-swarm code v1";
const SALT: &[u8] = b"fast-rtc-swarm";
const PROOF_BYTES: usize = 32;

/// Why an invite was not handed over. Whatever the cause, this code is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// What came is no message of the exchange: another program, or somebody who changes messages on their way.
    #[error("the other side sent something that is no part of the exchange")]
    Malformed,
    /// The other end used other words, or somebody in the middle guessed wrong. Make another code.
    #[error("the other side used another code")]
    WrongCode,
}

/// The end that has the invite.
pub struct Member(End);

impl Member {
    /// `seed` must come from the system's randomness, and serve for this one code.
    pub fn new(code: &Code, seed: [u8; 32]) -> Self {
        Self(End::new(code, Role::Member, seed))
    }

    /// Answers the one claim there can be.
    pub fn answer(self, claim: &[u8]) -> Result<(Doubting, Vec<u8>), HandOverError> {
        let answer = self.0.message.clone();
        Ok((Doubting(self.0.finish(claim)?), answer))
    }
}

/// The member, before the newcomer has proved anything.
pub struct Doubting(Secrets);

impl Doubting {
    /// Seals the invite if the newcomer knew the words.
    pub fn hand_over(self, proof: &[u8], invite: &Invite) -> Result<Vec<u8>, HandOverError> {
        self.0.verify(Role::Newcomer, proof)?;
        let mut message = self.0.prove(Role::Member);
        message.extend(self.0.seal(invite.reveal()));
        Ok(message)
    }
}

/// The end that has only the code.
pub struct Newcomer(End);

impl Newcomer {
    /// The newcomer, and its claim. `seed` must come from the system's randomness, and serve for this one attempt.
    pub fn new(code: &Code, seed: [u8; 32]) -> (Self, Vec<u8>) {
        let end = End::new(code, Role::Newcomer, seed);
        let claim = end.message.clone();
        (Self(end), claim)
    }

    /// Proves to the member that we know the words.
    pub fn prove(self, answer: &[u8]) -> Result<(Waiting, Vec<u8>), HandOverError> {
        let secrets = self.0.finish(answer)?;
        let proof = secrets.prove(Role::Newcomer);
        Ok((Waiting(secrets), proof))
    }
}

/// The newcomer, before the member has proved anything.
pub struct Waiting(Secrets);

impl Waiting {
    /// Opens what the member sealed.
    pub fn receive(self, message: &[u8]) -> Result<Invite, HandOverError> {
        let (proof, sealed) = message.split_at_checked(PROOF_BYTES).ok_or(HandOverError::Malformed)?;
        self.0.verify(Role::Member, proof)?;
        self.0.open(sealed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Member,
    Newcomer,
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Newcomer => "newcomer",
        }
    }
}

/// One end of the exchange, with its own message.
struct End {
    role: Role,
    number: CodeNumber,
    exchange: Spake2<Ed25519Group>,
    message: Vec<u8>,
}

impl End {
    fn new(code: &Code, role: Role, seed: [u8; 32]) -> Self {
        let identity = |role: Role| {
            let text = format!("{LABEL} {} {}", role.label(), code.number());
            Identity::new(text.as_bytes())
        };
        let (member, newcomer) = (identity(Role::Member), identity(Role::Newcomer));
        let password = Password::new(code.words().expose());
        let random = Drawn(StdRng::from_seed(seed));
        let (exchange, message) = match role {
            Role::Member => Spake2::start_a_with_rng(&password, &member, &newcomer, random),
            Role::Newcomer => Spake2::start_b_with_rng(&password, &member, &newcomer, random),
        };
        Self { role, number: code.number(), exchange, message }
    }

    fn finish(self, theirs: &[u8]) -> Result<Secrets, HandOverError> {
        // It refuses what has another length, is no point of the curve, or was made for its own side.
        let key = self.exchange.finish(theirs).map_err(|_| HandOverError::Malformed)?;
        let (member, newcomer) = match self.role {
            Role::Member => (self.message.as_slice(), theirs),
            Role::Newcomer => (theirs, self.message.as_slice()),
        };
        let mut transcript = Vec::new();
        for part in [LABEL.as_bytes(), &u16::from(self.number).to_be_bytes(), member, newcomer] {
            transcript.extend((part.len() as u64).to_be_bytes());
            transcript.extend(part);
        }
        Ok(Secrets { key: Zeroizing::new(key), transcript })
    }
}

/// What both ends have if they used the same words, and each has another of if not.
struct Secrets {
    key: Zeroizing<Vec<u8>>,
    transcript: Vec<u8>,
}

impl Secrets {
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(SALT), &self.key)
            .expand_multi_info(&[LABEL.as_bytes(), purpose.as_bytes()], &mut *derived)
            .expect("32 bytes are no more than 255 hashes (RFC 5869 §2.3)");
        derived
    }

    fn mac(&self, role: Role) -> Hmac<Sha256> {
        let key = self.derive(&format!(" proof of the {}", role.label()));
        let mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes keys of any length");
        mac.chain_update(&self.transcript)
    }

    fn prove(&self, role: Role) -> Vec<u8> {
        self.mac(role).finalize().into_bytes().to_vec()
    }

    /// Takes the same time whatever the other end sent.
    fn verify(&self, role: Role, proof: &[u8]) -> Result<(), HandOverError> {
        self.mac(role).verify_slice(proof).map_err(|_| HandOverError::WrongCode)
    }

    fn sealing_key(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.derive(" invite"));
        LessSafeKey::new(key.expect("the cipher's keys have 32 bytes"))
    }

    /// Consumes itself: the nonce is good for one message under this key.
    fn seal(self, invite: String) -> Vec<u8> {
        let mut sealed = invite.into_bytes();
        self.sealing_key()
            .seal_in_place_append_tag(once(), Aad::from(&self.transcript), &mut sealed)
            .expect("an invite is far below the cipher's limit of 256 GiB (RFC 8439 §2.8)");
        sealed
    }

    fn open(self, sealed: &[u8]) -> Result<Invite, HandOverError> {
        let mut text = Zeroizing::new(sealed.to_vec());
        let opened = self.sealing_key().open_in_place(once(), Aad::from(&self.transcript), &mut text);
        let invite = opened.map_err(|_| HandOverError::WrongCode)?;
        let invite = std::str::from_utf8(invite).map_err(|_| HandOverError::Malformed)?;
        Invite::parse(invite).map_err(|_| HandOverError::Malformed)
    }
}

fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Randomness of `rand` 0.10 for a crate that takes it from `rand_core` 0.6.
struct Drawn(StdRng);

impl rand_core::RngCore for Drawn {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl rand_core::CryptoRng for Drawn {}

macro_rules! hide {
    ($($state:ident)*) => {$(
        impl fmt::Debug for $state {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($state), "(…)"))
            }
        }
    )*};
}

hide! { Member Doubting Newcomer Waiting }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::code::PASS_MAX_BYTES;
    use crate::wire::invite::INVITE_MAX_BYTES;

    const MEMBER: [u8; 32] = [1; 32];
    const NEWCOMER: [u8; 32] = [2; 32];
    const MIDDLE: [u8; 32] = [3; 32];

    fn code(text: &str) -> Code {
        Code::parse(text).expect("a code")
    }

    fn invite() -> Invite {
        let key = crate::wire::RoomKey::from_random([9; 16]);
        Invite::parse(&format!("ws://h:7700/attic?token=secret#{}", key.to_text().expose())).expect("sound")
    }

    /// Both ends up to the last message, which is the member's.
    fn meet(member: &str, newcomer: &str) -> (Result<Vec<u8>, HandOverError>, Waiting) {
        let (newcomer, claim) = Newcomer::new(&code(newcomer), NEWCOMER);
        let (member, answer) = Member::new(&code(member), MEMBER).answer(&claim).expect("a claim");
        let (newcomer, proof) = newcomer.prove(&answer).expect("an answer");
        (member.hand_over(&proof, &invite()), newcomer)
    }

    #[test]
    fn whoever_knows_the_code_gets_the_invite() {
        let (sealed, newcomer) = meet("7-guitar-bacon", "7 GUITAR bacon");
        let sealed = sealed.expect("the same code");
        assert!(!sealed.windows(6).any(|window| window == b"secret"), "it is sealed");
        assert_eq!(newcomer.receive(&sealed), Ok(invite()));
    }

    #[test]
    fn a_wrong_code_is_found_out_before_anything_is_sealed() {
        for wrong in ["7-guitar-bag", "7-bacon-guitar", "7-bacon-bacon"] {
            let (sealed, _) = meet("7-guitar-bacon", wrong);
            assert_eq!(sealed.err(), Some(HandOverError::WrongCode), "{wrong}");
        }
    }

    #[test]
    fn words_that_were_moved_to_another_number_do_not_fit() {
        let (sealed, _) = meet("7-guitar-bacon", "8-guitar-bacon");
        assert_eq!(sealed.err(), Some(HandOverError::WrongCode));
    }

    /// What the server can do that answers in the member's place, then claims in the newcomer's, with one guess for each.
    #[test]
    fn a_server_in_the_middle_with_a_wrong_guess_gets_nothing_and_both_ends_know() {
        let truth = code("7-guitar-bacon");
        let guess = code("7-zebra-zoo");
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let (as_member, answer) = Member::new(&guess, MIDDLE).answer(&claim).expect("a claim");
        let (newcomer, proof) = newcomer.prove(&answer).expect("an answer");
        assert_eq!(as_member.hand_over(&proof, &invite()).err(), Some(HandOverError::WrongCode));
        for forged in [vec![0; PROOF_BYTES + 60], proof.clone(), [proof.clone(), vec![0; 60]].concat()] {
            let newcomer =
                Waiting(Secrets { key: newcomer.0.key.clone(), transcript: newcomer.0.transcript.clone() });
            assert_eq!(newcomer.receive(&forged), Err(HandOverError::WrongCode));
        }

        let (as_newcomer, claim) = Newcomer::new(&guess, MIDDLE);
        let (member, answer) = Member::new(&truth, MEMBER).answer(&claim).expect("a claim");
        let (_, wrong) = as_newcomer.prove(&answer).expect("an answer");
        // The proof the real newcomer gave is about another exchange.
        assert_ne!(wrong, proof);
        assert_eq!(member.hand_over(&proof, &invite()).err(), Some(HandOverError::WrongCode));
    }

    #[test]
    fn a_message_that_is_sent_back_to_its_maker_is_refused() {
        let truth = code("7-guitar-bacon");
        let claimed = |claim: &[u8]| Member::new(&truth, MEMBER).answer(claim).map(|(_, answer)| answer);
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let answer = claimed(&claim).expect("a claim");
        assert_eq!(claimed(&answer).err(), Some(HandOverError::Malformed), "the member's own");
        // The same point under the other side's name is another exchange.
        let mut renamed = answer.clone();
        renamed[0] = claim[0];
        let (member, _) = Member::new(&truth, MEMBER).answer(&renamed).expect("it is a point");
        let proof = Newcomer::new(&truth, NEWCOMER).0.prove(&answer).expect("an answer").1;
        assert_eq!(member.hand_over(&proof, &invite()).err(), Some(HandOverError::WrongCode));
        assert_eq!(newcomer.prove(&claim).err(), Some(HandOverError::Malformed), "the newcomer's own");
    }

    #[test]
    fn a_proof_sent_back_to_the_newcomer_is_not_the_members() {
        let truth = code("7-guitar-bacon");
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let (_, answer) = Member::new(&truth, MEMBER).answer(&claim).expect("a claim");
        let (newcomer, mut proof) = newcomer.prove(&answer).expect("an answer");
        proof.extend([0; 64]);
        assert_eq!(newcomer.receive(&proof), Err(HandOverError::WrongCode));
    }

    #[test]
    fn a_replayed_exchange_does_not_fit_the_next() {
        let truth = code("7-guitar-bacon");
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let (_, answer) = Member::new(&truth, MEMBER).answer(&claim).expect("a claim");
        let (_, proof) = newcomer.prove(&answer).expect("an answer");
        let (again, _) = Member::new(&truth, [4; 32]).answer(&claim).expect("the same claim");
        assert_eq!(again.hand_over(&proof, &invite()).err(), Some(HandOverError::WrongCode));
    }

    #[test]
    fn what_is_no_point_is_malformed() {
        let truth = code("7-guitar-bacon");
        let (_, claim) = Newcomer::new(&truth, NEWCOMER);
        // y = 2 is on no point of edwards25519: (y² - 1) / (d·y² + 1) is no square.
        let mut off_curve = vec![claim[0]];
        off_curve.extend([2].into_iter().chain([0; 31]));
        let short = claim[..32].to_vec();
        let long = [claim.clone(), vec![0]].concat();
        for wrong in [Vec::new(), short, long, off_curve, vec![claim[0]; PASS_MAX_BYTES]] {
            let result = Member::new(&truth, MEMBER).answer(&wrong).map(|(_, answer)| answer);
            assert_eq!(result.err(), Some(HandOverError::Malformed), "{wrong:?}");
        }
    }

    /// The neutral element, and the points of order 2 and 4: whoever sends one knows no more of the key than before.
    #[test]
    fn points_of_small_order_open_nothing() {
        let truth = code("7-guitar-bacon");
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let mut one = [0; 32];
        one[0] = 1;
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let (_, answer) = Member::new(&truth, MEMBER).answer(&claim).expect("a claim");
        let (_, proof) = newcomer.prove(&answer).expect("an answer");
        for point in [one, minus_one, [0; 32]] {
            let (member, _) =
                Member::new(&truth, MEMBER).answer(&[&claim[..1], &point].concat()).expect("it is a point");
            assert_eq!(member.hand_over(&proof, &invite()).err(), Some(HandOverError::WrongCode));
        }
    }

    #[test]
    fn a_changed_bit_is_found_out_wherever_it_is() {
        let (sealed, _) = meet("7-guitar-bacon", "7-guitar-bacon");
        let sealed = sealed.expect("the same code");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let (_, newcomer) = meet("7-guitar-bacon", "7-guitar-bacon");
            assert_eq!(newcomer.receive(&changed), Err(HandOverError::WrongCode), "byte {at}");
        }
        for len in 0..sealed.len() {
            let (_, newcomer) = meet("7-guitar-bacon", "7-guitar-bacon");
            assert!(newcomer.receive(&sealed[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_longest_invite_fits_into_a_message() {
        let token = "t".repeat(1024);
        let fixed = Invite::parse(&format!("ws://h/r?token={token}")).expect("sound").reveal().len();
        let path = "p".repeat(INVITE_MAX_BYTES - fixed - 1);
        let long = Invite::parse(&format!("ws://h/{path}/r?token={token}")).expect("sound");
        assert_eq!(long.reveal().len(), INVITE_MAX_BYTES);
        let truth = code("7-guitar-bacon");
        let (newcomer, claim) = Newcomer::new(&truth, NEWCOMER);
        let (member, answer) = Member::new(&truth, MEMBER).answer(&claim).expect("a claim");
        let (newcomer, proof) = newcomer.prove(&answer).expect("an answer");
        let sealed = member.hand_over(&proof, &long).expect("the same code");
        assert_eq!(sealed.len(), PASS_MAX_BYTES);
        assert_eq!(newcomer.receive(&sealed), Ok(long));
    }

    /// The newcomer's part, computed by Python's `spake2`, `hmac` and `cryptography` from the definition at the head of this
    /// file. The member's half is drawn by `StdRng`, which another version of `rand` may make another generator.
    #[test]
    fn the_exchange_has_the_values_of_another_implementation() {
        let member = Member::new(&code("7-guitar-bacon"), MEMBER);
        let x = "41fcb193c347fc88ac76e73edd7b8ae1b1dbd4487ce63004e4a6775044bc82221f";
        assert_eq!(member.0.message, bytes(x));
        let y = bytes("424f90c0cf036523e6e9d4d7f38b28f5ad1a1e21f9140b6b526ec226e749a91723");
        let proof = bytes("eeb19032da6fff0c6e25191ce355c0a0195cb4c28480434599a453477e88fa8d");
        let sealed = bytes(
            "c0d514647656bf8c8dba543737157e32f542cab5fbde55a29212952b9dc25f33\
             2835d49e69c9983af51383c4e0b4cf2cb5043906a677b749769de85d98aba53b9d5b0b6b1576c5f4ee5387e25cdf",
        );
        let (member, _) = member.answer(&y).expect("a claim");
        let invite = Invite::parse("ws://h:7700/attic?token=secret").expect("sound");
        assert_eq!(member.hand_over(&proof, &invite), Ok(sealed));
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("ASCII"));
        digits.map(|two| u8::from_str_radix(two, 16).expect("hexadecimal")).collect()
    }

    #[test]
    fn debug_output_has_no_secret_of_the_exchange() {
        assert_eq!(format!("{:?}", Member::new(&code("7-guitar-bacon"), MEMBER)), "Member(…)");
    }
}
