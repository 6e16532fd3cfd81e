//! Invites: one string that leads into a room.
//!
//! ```text
//! ws(s)://host[:port][/prefix]/ROOM?token=T#KEY
//!         `-------- ServerUrl ----'    |     `- the room's key, never sent to the server
//!                                      `- lets us in at the server, sent in a header
//! ```
//!
//! An invite is a secret. Nothing here prints one but [`Invite::reveal`], [`Invite::reveal_words`] and [`Invite::qr`];
//! errors never repeat what was typed.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use url::Url;

use super::code::CODE_PATH;
use super::key::KeyError;
use super::{IdError, RoomId, RoomKey, Secret};

/// The longest invite, in bytes. A QR code holds 2,953 (ISO/IEC 18004, version 40-L).
pub const INVITE_MAX_BYTES: usize = 2048;

/// The longest token, in bytes. A signed per-room token has about 300.
pub const TOKEN_MAX_BYTES: usize = 1024;

/// What stands for itself in a path or a query: the unreserved characters of RFC 3986 §2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text is no invite. The sentence ends with the next step to take, and has none of the text in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Nothing there.
    #[error("the invite is empty: paste the whole ws://… or wss://… string")]
    Empty,
    /// Longer than [`INVITE_MAX_BYTES`].
    #[error(
        "an invite has at most {INVITE_MAX_BYTES} bytes, this one has {0}: paste the invite and nothing else"
    )]
    TooLong(usize),
    /// Not an URL.
    #[error("an invite looks like ws://HOST:PORT/ROOM?token=TOKEN#KEY: put ws:// or wss:// in front")]
    NoScheme,
    /// An address for browsers.
    #[error("{0}:// is an address for browsers: write {1}:// instead")]
    WebScheme(&'static str, &'static str),
    /// Any other scheme.
    #[error("an invite begins with ws:// or wss://")]
    OtherScheme,
    /// The URL itself is broken.
    #[error("the server's address is malformed ({0}): it should look like ws://HOST:PORT")]
    Malformed(#[from] url::ParseError),
    /// `user:password@` in front of the host.
    #[error("an invite has no user or password in front of the host: put the token behind ?token=")]
    Userinfo,
    /// Nothing behind the host.
    #[error("the invite names no room: it should end in /ROOM, or give the room with --room")]
    NoRoom,
    /// The room is no id.
    #[error("the room's name does not work: {0}")]
    Room(#[from] IdError),
    /// A room that no path can name (RFC 3986 §5.2.4), or that is no room.
    #[error("a room can't be named ., .. or {CODE_PATH}: choose another name")]
    DotRoom,
    /// A path at which servers tell operators how they are.
    #[error("a room can't be named healthz or metrics, where servers say how they are: choose another name")]
    FiguresRoom,
    /// `?token=` with nothing behind it, too much, or characters no header can carry.
    #[error("the token has 1 to {TOKEN_MAX_BYTES} visible ASCII characters: copy the invite again")]
    Token,
    /// Two tokens.
    #[error("the invite has more than one token: copy it again")]
    TwoTokens,
    /// A URL where only the server's address belongs.
    #[error("the server's address has no ? or # in it: give the invite itself instead, or the address alone")]
    NotBare,
    /// What stands behind the `#` is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Where a signaling server is: `ws://` or `wss://`, a host, perhaps a port and a path in front of the rooms.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

impl ServerUrl {
    /// Parses an address without room, token and key.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        let url = parse_url(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InviteError::NotBare);
        }
        Ok(Self::from_url(url))
    }

    /// The URL of the WebSocket for one-time codes.
    pub fn code_url(&self) -> String {
        format!("{}/{CODE_PATH}", self.as_str())
    }

    /// The URL of a room's WebSocket. It has no secret in it: the token goes into the `Authorization` header.
    pub fn room_url(&self, room: &RoomId) -> String {
        format!("{}/{}", self.0.as_str().trim_end_matches('/'), utf8_percent_encode(room.as_str(), ESCAPED))
    }

    /// Whether the server is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "wss"
    }

    /// The host as it stands in the URL; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.0.host_str().expect("ws and wss URLs have a host (WHATWG URL §4.4)")
    }

    /// The port, 80 or 443 where none is given.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().expect("ws and wss have a default port")
    }

    /// Whether scheme, host and port are the same: who may know what one of them is told, may know what the other is.
    pub fn is_at_same_origin(&self, other: &Self) -> bool {
        self.0.scheme() == other.0.scheme() && self.host() == other.host() && self.port() == other.port()
    }

    /// The address as text, without a trailing slash.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    fn from_url(mut url: Url) -> Self {
        url.set_query(None);
        url.set_fragment(None);
        Self(url)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The way into a room.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    server: ServerUrl,
    room: RoomId,
    token: Option<Secret>,
    key: Option<RoomKey>,
}

impl Invite {
    /// Puts an invite together. Fails where the room can't stand in a path or the token in a header, or where the
    /// whole is longer than [`INVITE_MAX_BYTES`].
    pub fn new(
        server: ServerUrl,
        room: RoomId,
        token: Option<Secret>,
        key: Option<RoomKey>,
    ) -> Result<Self, InviteError> {
        if matches!(room.as_str(), "." | ".." | CODE_PATH) {
            return Err(InviteError::DotRoom);
        }
        // R5: with something before it in the path it is a room.
        if server.0.path() == "/" && matches!(room.as_str(), "healthz" | "metrics") {
            return Err(InviteError::FiguresRoom);
        }
        if token.as_ref().is_some_and(|token| !is_token(token.expose())) {
            return Err(InviteError::Token);
        }
        let invite = Self { server, room, token, key };
        match invite.reveal_words().len() {
            len if len > INVITE_MAX_BYTES => Err(InviteError::TooLong(len)),
            _ => Ok(invite),
        }
    }

    /// Parses an invite of at most [`INVITE_MAX_BYTES`]. Spaces and line breaks around it do not matter. Query
    /// parameters other than `token` are ignored, so that later versions may add some.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        let url = parse_url(text)?;
        let key = match url.fragment() {
            Some(fragment) => Some(RoomKey::parse(&percent_decode_str(fragment).decode_utf8_lossy())?),
            None => None,
        };
        let token = token_in(&url)?;
        let (server, room) = split_room(url)?;
        Self::new(server, room, token, key)
    }

    /// The server.
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// The room.
    pub fn room(&self) -> &RoomId {
        &self.room
    }

    /// What lets us in at the server.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// What the members prove to each other; `None` is an open room.
    pub fn key(&self) -> Option<&RoomKey> {
        self.key.as_ref()
    }

    /// The URL of the room's WebSocket, without any secret.
    pub fn server_url(&self) -> String {
        self.server.room_url(&self.room)
    }

    /// The whole invite with its secrets, to be shown to the person who asked for it, and to nobody else.
    pub fn reveal(&self) -> String {
        let key = self.key.as_ref().map(RoomKey::to_text);
        self.assemble(key.as_ref().map(Secret::expose))
    }

    /// The whole invite with the key as words, joined by dashes, to be read out.
    pub fn reveal_words(&self) -> String {
        let key = self.key.as_ref().map(RoomKey::to_words);
        self.assemble(key.as_ref().map(|words| words.expose().replace(' ', "-")).as_deref())
    }

    /// The whole invite as a QR code in half blocks, light on dark as terminals mostly are, with its quiet zone.
    pub fn qr(&self) -> String {
        let code = QrCode::with_error_correction_level(self.reveal(), EcLevel::L)
            .expect("an invite of INVITE_MAX_BYTES fits");
        code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build()
    }

    /// The invite with an ellipsis for each secret.
    pub fn redacted(&self) -> String {
        let token = self.token.as_ref().map_or("", |_| "?token=…");
        let key = self.key.as_ref().map_or("", |_| "#…");
        format!("{}{token}{key}", self.server_url())
    }

    fn assemble(&self, key: Option<&str>) -> String {
        let mut text = self.server_url();
        if let Some(token) = &self.token {
            text.push_str("?token=");
            text.extend(utf8_percent_encode(token.expose(), ESCAPED));
        }
        if let Some(key) = key {
            text.push('#');
            text.push_str(key);
        }
        text
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invite({})", self.redacted())
    }
}

fn parse_url(text: &str) -> Result<Url, InviteError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(InviteError::Empty);
    }
    if text.len() > INVITE_MAX_BYTES {
        return Err(InviteError::TooLong(text.len()));
    }
    let Some((scheme, _)) = text.split_once("://") else { return Err(InviteError::NoScheme) };
    match scheme.to_ascii_lowercase().as_str() {
        "ws" | "wss" => {}
        "http" => return Err(InviteError::WebScheme("http", "ws")),
        "https" => return Err(InviteError::WebScheme("https", "wss")),
        _ => return Err(InviteError::OtherScheme),
    }
    let url = Url::parse(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InviteError::Userinfo);
    }
    Ok(url)
}

/// A plus sign stands for itself here, not for a space as in forms: a token has no spaces.
fn token_in(url: &Url) -> Result<Option<Secret>, InviteError> {
    let pairs = url.query().into_iter().flat_map(|query| query.split('&'));
    let mut tokens = pairs.filter_map(|pair| pair.strip_prefix("token="));
    let token = tokens.next().map(|token| Secret::new(percent_decode_str(token).decode_utf8_lossy()));
    match tokens.next() {
        Some(_) => Err(InviteError::TwoTokens),
        None => Ok(token),
    }
}

/// Takes the last segment of the path for the room; a slash behind it does not matter.
fn split_room(mut url: Url) -> Result<(ServerUrl, RoomId), InviteError> {
    let path = url.path().trim_end_matches('/').to_owned();
    let (prefix, room) = path.rsplit_once('/').ok_or(InviteError::NoRoom)?;
    let room = RoomId::new(percent_decode_str(room).decode_utf8_lossy())?;
    url.set_path(prefix.trim_end_matches('/'));
    Ok((ServerUrl::from_url(url), room))
}

/// What an `Authorization` header can carry, and a query too.
fn is_token(text: &str) -> bool {
    (1..=TOKEN_MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> RoomKey {
        RoomKey::from_random([9; 16])
    }

    fn parse(text: &str) -> Invite {
        Invite::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_invite_comes_apart_into_its_parts() {
        let key_text = key().to_text();
        let text = format!("ws://Example.org:8080/rooms/attic?token=s/c+ret#{}", key_text.expose());
        let invite = parse(&text);
        assert_eq!(invite.server().as_str(), "ws://example.org:8080/rooms");
        assert_eq!((invite.server().host(), invite.server().port()), ("example.org", 8080));
        assert_eq!(invite.room().as_str(), "attic");
        assert_eq!(invite.token(), Some(&Secret::new("s/c+ret")));
        assert_eq!(invite.key(), Some(&key()));
        assert_eq!(invite.server_url(), "ws://example.org:8080/rooms/attic");
        let shown = format!("ws://example.org:8080/rooms/attic?token=s%2Fc%2Bret#{}", key_text.expose());
        assert_eq!(invite.reveal(), shown);
    }

    #[test]
    fn token_and_key_may_be_absent() {
        let invite = parse(" wss://[::1]/r/\n");
        assert_eq!((invite.token(), invite.key()), (None, None));
        assert_eq!((invite.server().host(), invite.server().port()), ("[::1]", 443));
        assert!(invite.server().is_tls());
        assert_eq!(invite.reveal(), "wss://[::1]/r");
    }

    #[test]
    fn slashes_behind_the_room_do_not_matter() {
        for text in ["ws://h/p/r", "ws://h/p/r/", "ws://h/p/r//", "ws://h/p//r"] {
            assert_eq!(parse(text), parse("ws://h/p/r"), "{text}");
        }
    }

    #[test]
    fn the_key_may_be_spoken() {
        let spoken = parse("ws://h/r").server().clone();
        let invite = Invite::new(spoken, RoomId::new("r").expect("an id"), None, Some(key())).expect("sound");
        assert_eq!(parse(&invite.reveal_words()), invite);
        assert_eq!(parse(&invite.reveal_words().replacen('-', " ", 11)), invite);
    }

    #[test]
    fn rooms_of_any_script_and_sign_are_the_same_on_both_sides() {
        for room in ["zoë", "a/b", "50%", "what?", "#1", "+", "%2e", "日本"] {
            let room = RoomId::new(room).expect("an id");
            let server = ServerUrl::parse("ws://h:1/p").expect("an address");
            let invite = Invite::new(server, room.clone(), None, None).expect("sound");
            assert_eq!(parse(&invite.reveal()).room(), &room);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_next_step() {
        let cases = [
            ("", InviteError::Empty),
            ("attic", InviteError::NoScheme),
            ("example.org:8080/attic", InviteError::NoScheme),
            ("http://h/r", InviteError::WebScheme("http", "ws")),
            ("HTTPS://h/r", InviteError::WebScheme("https", "wss")),
            ("ftp://h/r", InviteError::OtherScheme),
            ("ws://h", InviteError::NoRoom),
            ("ws://h/?token=t", InviteError::NoRoom),
            ("ws://h:99999/r", InviteError::Malformed(url::ParseError::InvalidPort)),
            ("ws://", InviteError::Malformed(url::ParseError::EmptyHost)),
            ("ws://me:secret@h/r", InviteError::Userinfo),
            ("ws://h/a%20b", InviteError::Room(IdError::Character(0x20))),
            ("ws://h/r?token=", InviteError::Token),
            ("ws://h/r?token=a%0Ab", InviteError::Token),
            ("ws://h/r?token=a&token=b", InviteError::TwoTokens),
            ("ws://h/r#", InviteError::Key(KeyError::Empty)),
            (
                "ws://h/r#AAECAwQFBgcICQoLDA0ODw",
                InviteError::Key(KeyError::Length(crate::wire::key::Count::Characters(22))),
            ),
            ("ws://h/r#AAECAwQFBgcICQoLDA0ODwAA", InviteError::Key(KeyError::Checksum)),
        ];
        for (text, error) in cases {
            assert_eq!(Invite::parse(text), Err(error), "{text}");
        }
        assert_eq!(Invite::parse(&format!("ws://h/{}", "r".repeat(3000))), Err(InviteError::TooLong(3007)));
        assert_eq!(ServerUrl::parse("ws://h/?token=t"), Err(InviteError::NotBare));
    }

    #[test]
    fn the_longest_invite_fits_into_a_qr_code() {
        let invite = |token_bytes: usize| {
            let server = ServerUrl::parse("ws://h").expect("an address");
            let token = Secret::new("/".repeat(token_bytes));
            Invite::new(server, RoomId::new("r").expect("an id"), Some(token), Some(key()))
        };
        let longest =
            (1..TOKEN_MAX_BYTES).rev().find_map(|bytes| invite(bytes).ok()).expect("some token fits");
        assert!(longest.reveal_words().len() > INVITE_MAX_BYTES - 3);
        assert!(!longest.qr().is_empty());
        assert!(matches!(invite(TOKEN_MAX_BYTES), Err(InviteError::TooLong(_))));
    }

    #[test]
    fn a_room_that_no_path_can_name_is_refused() {
        let server = ServerUrl::parse("ws://h").expect("an address");
        for room in ["..", ".code"] {
            let room = RoomId::new(room).expect("an id");
            assert_eq!(Invite::new(server.clone(), room, None, None), Err(InviteError::DotRoom));
        }
        assert_eq!(Invite::parse("ws://h/%2e%2E"), Err(InviteError::NoRoom));
        for text in ["ws://h/metrics", "ws://h//healthz/", "ws://h/metrics?token=t"] {
            assert_eq!(Invite::parse(text), Err(InviteError::FiguresRoom), "{text}");
        }
        assert!(Invite::parse("ws://h/p/metrics").is_ok() && Invite::parse("ws://h/metric").is_ok());
    }

    #[test]
    fn secrets_are_shown_on_purpose_only() {
        let text = format!("ws://h/r?token=hunter2#{}", key().to_text().expose());
        let invite = parse(&text);
        assert_eq!(invite.redacted(), "ws://h/r?token=…#…");
        assert_eq!(format!("{invite:?}"), "Invite(ws://h/r?token=…#…)");
        assert_eq!(invite.server_url(), "ws://h/r");
        assert_eq!(invite.reveal(), text);
    }

    #[test]
    fn the_qr_code_is_a_square_with_a_light_border() {
        let qr = parse("ws://192.168.1.17:7000/attic").qr();
        let lines: Vec<&str> = qr.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width), "{qr}");
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines[0].chars().chain(lines[1].chars()).all(|c| c == '█'), "{qr}");
    }

    fn any_invite() -> impl Strategy<Value = Invite> {
        let server = prop_oneof![
            Just("ws://h"),
            Just("wss://example.org/rooms"),
            Just("ws://[2001:db8::1]:7000/a/b"),
            Just("ws://10.0.0.1:1")
        ];
        let room = "\\PC{1,20}".prop_filter_map("an id", |text| RoomId::new(text).ok());
        let token = proptest::option::of("[!-~]{1,60}".prop_map(Secret::new));
        let key = proptest::option::of(any::<[u8; 16]>().prop_map(RoomKey::from_random));
        (server, room, token, key).prop_filter_map("no dots", |(server, room, token, key)| {
            Invite::new(ServerUrl::parse(server).expect("an address"), room, token, key).ok()
        })
    }

    proptest! {
        #[test]
        fn an_invite_survives_being_shown_and_typed(invite in any_invite()) {
            prop_assert_eq!(&parse(&invite.reveal()), &invite);
            prop_assert_eq!(&parse(&invite.reveal_words()), &invite);
        }

        #[test]
        fn no_text_makes_the_parser_panic_or_lose_anything(text in "(wss?://)?\\PC{0,80}") {
            if let Ok(invite) = Invite::parse(&text) {
                prop_assert_eq!(&parse(&invite.reveal()), &invite);
            }
        }
    }
}
