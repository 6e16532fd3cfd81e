//! What the two ends of a link say to each other: the hello, the messages, the goodbye.

use std::time::Instant;

use super::{
    BYE_TIMEOUT, CloseReason, Deadline, Event, Fingerprints, Hello, Identity, Link, Message, PeerKind, State,
};
use crate::core::auth::{self, End, Proof};
use crate::core::chat::{self, FastMessage};
use crate::core::peer::{Channel, Payload, PeerCommand};
use crate::wire::control::{CONTROL_VERSION, Control};
use crate::wire::limits::{CHANNEL_MESSAGE_MAX_BYTES, NAME_MAX_CHARS};

/// Most bytes kept from a peer that is not ready yet: four of the largest messages.
const EARLY_BYTES_MAX: usize = 4 * CHANNEL_MESSAGE_MAX_BYTES;

/// What one early message is charged beyond its bytes.
const EARLY_MESSAGE_BYTES: usize = 64;

impl Link {
    pub(super) fn say_hello(&mut self, identity: &Identity) {
        let prove = |session: auth::Session<'_>| {
            identity.key.as_ref().map(|key| session.prove(key, self.role).to_text())
        };
        let proof = self.proven_session(identity).and_then(prove);
        let hello = Control::Hello { version: CONTROL_VERSION, name: identity.name.clone(), proof };
        self.command(PeerCommand::Send {
            channel: Channel::Control,
            payload: Payload::Text(hello.to_text()),
        });
    }

    /// What the proofs of both ends speak of: the live session.
    fn proven_session<'a>(&'a self, identity: &'a Identity) -> Option<auth::Session<'a>> {
        let State::Connecting(session) = &self.state else { return None };
        let Fingerprints { local, remote } = session.fingerprints?;
        let ours = End { user: &identity.me, fingerprint: local };
        let theirs = End { user: &session.peer, fingerprint: remote };
        Some(auth::Session::new(&identity.room, &self.id, self.role, ours, theirs))
    }

    /// Whether the peer's proof holds. In a room without a key nothing is proven.
    fn verify(&self, identity: &Identity, proof: Option<&str>) -> bool {
        let (Some(key), Some(proof)) = (&identity.key, proof.and_then(Proof::parse)) else { return false };
        self.proven_session(identity).is_some_and(|session| session.verify(key, self.role.other(), &proof))
    }

    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        identity: &Identity,
        channel: Channel,
        payload: Payload,
    ) {
        let (State::Connecting(session) | State::Ready(session)) = &self.state else { return };
        if session.kind == PeerKind::Original && channel != Channel::Fast {
            return;
        }
        let len_bytes = payload.len_bytes();
        let message = match (channel, payload) {
            (Channel::Fast, Payload::Text(text)) => Message::Text(text),
            (Channel::Fast, Payload::Binary(bytes)) => Message::Data(bytes),
            (Channel::Control, Payload::Text(text)) => match Control::parse(&text) {
                Ok(control) => Message::Control(control),
                Err(_) => return self.close(CloseReason::Misbehaved),
            },
            (Channel::Bulk, Payload::Binary(frame)) => Message::Bulk(frame),
            (Channel::Control, Payload::Binary(_)) | (Channel::Bulk, Payload::Text(_)) => {
                return self.close(CloseReason::Misbehaved);
            }
        };
        if self.is_ready() {
            self.hear(now, message);
        } else {
            self.hear_early(now, identity, message, len_bytes);
        }
    }

    /// Only the hello and the goodbye are listened to; the rest is kept for `Ready`.
    fn hear_early(&mut self, now: Instant, identity: &Identity, message: Message, len_bytes: usize) {
        let State::Connecting(session) = &mut self.state else { return };
        match message {
            Message::Control(Control::Hello { version: _, name, proof }) => {
                self.handle_hello(now, identity, name, proof.as_deref());
            }
            Message::Control(Control::Bye { reason }) => {
                let is_proven = identity.key.is_none() || session.hello.is_some();
                let reason = bye_reason(&reason);
                // Peers say hello first. Somebody in between must not end an attempt without a word to anybody.
                let holds = is_proven || reason == CloseReason::KeyMismatch;
                self.close(if holds { reason } else { CloseReason::Lost });
            }
            // Nothing of the control channel overtakes the hello: parsed JSON of strangers is not kept.
            Message::Control(_) if session.hello.is_none() => {}
            Message::Text(_) | Message::Data(_) | Message::Control(_) | Message::Bulk(_) => {
                session.early_bytes += len_bytes + EARLY_MESSAGE_BYTES;
                if session.early_bytes > EARLY_BYTES_MAX {
                    return self.close(CloseReason::Misbehaved);
                }
                session.early.push(message);
            }
        }
    }

    /// A message of a ready peer.
    fn hear(&mut self, now: Instant, message: Message) {
        match message {
            Message::Text(text) => self.handle_fast_text(&text),
            Message::Data(bytes) => self.event(Event::Data(bytes)),
            Message::Control(control) => self.handle_control(now, control),
            Message::Bulk(frame) => self.event(Event::Bulk(frame)),
        }
    }

    fn handle_fast_text(&mut self, text: &str) {
        let State::Ready(session) = &self.state else { return };
        match chat::parse(session.kind, text) {
            FastMessage::Line(text) => self.event(Event::Text { text, direct: false }),
            FastMessage::Close => self.close(CloseReason::Left),
            FastMessage::Internal => {}
        }
    }

    fn handle_control(&mut self, now: Instant, control: Control) {
        match control {
            Control::Name { name } => self.event(Event::Renamed(clip(name))),
            Control::Direct { text } => self.event(Event::Text { text, direct: true }),
            Control::Probe { nonce } => self.send_control(&Control::Alive { nonce }),
            Control::Alive { nonce } => self.handle_alive(nonce),
            Control::Transfer { message } => self.event(Event::Transfer(message)),
            Control::Stripe { stripe, signal } => self.event(Event::Stripe { stripe, signal }),
            Control::Bye { reason } => self.handle_bye(now, bye_reason(&reason)),
            // A second hello means nothing.
            Control::Hello { .. } | Control::Unknown => {}
        }
    }

    /// What the peer said last on the other channels may still be on its way: the end is the end of the connection.
    fn handle_bye(&mut self, now: Instant, reason: CloseReason) {
        if let State::Ready(session) = &mut self.state
            && session.bye.is_none()
        {
            session.bye = Some(reason);
            self.deadline = Some((now + BYE_TIMEOUT, Deadline::Bye));
        }
    }

    pub(super) fn end_after_bye(&mut self) {
        self.command(PeerCommand::Close);
        self.end(self.bye().unwrap_or(CloseReason::Left));
    }

    pub(super) fn bye(&self) -> Option<CloseReason> {
        match &self.state {
            State::Ready(session) => session.bye,
            State::Offered { .. } | State::Claimed { .. } | State::Connecting(_) | State::Closed { .. } => {
                None
            }
        }
    }

    fn handle_hello(&mut self, now: Instant, identity: &Identity, name: String, proof: Option<&str>) {
        let verified = self.verify(identity, proof);
        if identity.key.is_some() && !verified {
            return self.close(CloseReason::KeyMismatch);
        }
        self.accept_hello(now, Hello { name: clip(name), verified });
    }

    fn accept_hello(&mut self, now: Instant, hello: Hello) {
        if let State::Connecting(session) = &mut self.state {
            session.hello.get_or_insert(hello);
        }
        self.settle(now);
    }

    fn handle_alive(&mut self, nonce: u64) {
        if let State::Ready(session) = &mut self.state
            && session.probe == Some(nonce)
        {
            session.probe = None;
            self.deadline = self.deadline.filter(|(_, reason)| *reason != Deadline::Probe);
        }
    }

    /// Moves to `Ready` as soon as everything it needs is there.
    pub(super) fn settle(&mut self, now: Instant) {
        let State::Connecting(session) = &mut self.state else { return };
        if !session.fast_open {
            return;
        }
        let hello = match session.kind {
            PeerKind::Original => Hello { name: String::new(), verified: false },
            PeerKind::Swarm => match session.hello.take() {
                Some(hello) => hello,
                None => return,
            },
        };
        let closed = State::Closed { peer: None, handshake_failed: false };
        let State::Connecting(mut session) = std::mem::replace(&mut self.state, closed) else { return };
        let (kind, path, writable) = (session.kind, session.path.take(), session.writable.take());
        let early = std::mem::take(&mut session.early);
        session.verified = hello.verified;
        self.state = State::Ready(session);
        self.deadline = None;
        self.event(Event::Ready { kind, verified: hello.verified, name: hello.name });
        for event in path.map(Event::Path).into_iter().chain(writable.map(Event::Writable)) {
            self.event(event);
        }
        for message in early {
            // One of them may have been the end.
            if self.is_ready() {
                self.hear(now, message);
            }
        }
    }
}

/// Names travel with everything that is told of a peer. One with many marks still has a name's worth of letters in here.
fn clip(name: String) -> String {
    match name.char_indices().nth(16 * NAME_MAX_CHARS) {
        Some((at, _)) => name[..at].to_owned(),
        None => name,
    }
}

pub(super) fn bye_word(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Left | CloseReason::Local => "left",
        CloseReason::Replaced => "replaced",
        CloseReason::Misbehaved => "misbehaved",
        CloseReason::KeyMismatch => "key_mismatch",
        CloseReason::Lost
        | CloseReason::NoPath
        | CloseReason::Unverified
        | CloseReason::GivenBack
        | CloseReason::TakenId => "closed",
    }
}

fn bye_reason(word: &str) -> CloseReason {
    match word {
        "replaced" => CloseReason::Replaced,
        "misbehaved" => CloseReason::Misbehaved,
        "key_mismatch" => CloseReason::KeyMismatch,
        "closed" => CloseReason::Lost,
        _ => CloseReason::Left,
    }
}
