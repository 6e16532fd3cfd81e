//! What the command line means: arguments, environment and defaults, resolved once.

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::args::RoomArgs;
use super::exit::{Exit, Failure, OrExit};
use super::values::Rate;
use crate::io::rtc::IceServer;
use crate::wire::invite::ServerUrl;
use crate::wire::text::Name;
use crate::wire::{Invite, RoomId, RoomKey, Secret};

/// The longest invite, token or list of ICE servers that is read from a file, in bytes.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Where and as who, for every command that enters a room.
#[derive(Debug, Clone)]
pub struct RoomConfig {
    /// Which room.
    pub place: Place,
    /// What we are called.
    pub name: Name,
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// Connects through TURN servers only.
    pub relay_only: bool,
    /// Lets peers in that can't prove the room's key.
    pub allow_unverified: bool,
    /// How people are told of a new invite.
    pub telling: Telling,
    /// A certificate authority for `wss`, in PEM.
    pub ca: Option<PathBuf>,
    /// Wraps what is said to the server, for hosts that hear nothing else.
    pub wrapped: bool,
    /// Upload limit for files.
    pub up: Option<Rate>,
    /// Download limit for files.
    pub down: Option<Rate>,
}

/// How people are told of a new invite.
#[derive(Debug, Clone, Copy, Default)]
pub struct Telling {
    /// With the key as words.
    pub words: bool,
    /// As a QR code, too.
    pub qr: bool,
}

impl Telling {
    /// The whole invite, for whoever asked for it.
    pub fn text(self, invite: &Invite) -> String {
        if self.words { invite.reveal_words() } else { invite.reveal() }
    }
}

/// Which room.
#[derive(Debug, Clone)]
pub enum Place {
    /// The one of an invite, which somebody gave us.
    Invited(Invite),
    /// A new one at a server that is there; the invite is ours to give out.
    New(Invite),
    /// A new one, with a server of our own.
    Own {
        /// Where the server listens.
        listen: SocketAddr,
        /// The room.
        room: RoomId,
        /// Its key.
        key: RoomKey,
    },
}

impl Place {
    /// Whether members prove a key to each other.
    pub fn is_keyed(&self) -> bool {
        match self {
            Self::Invited(invite) | Self::New(invite) => invite.key().is_some(),
            Self::Own { .. } => true,
        }
    }
}

/// What stands where an invite belongs.
#[derive(Debug, Clone)]
pub struct Given {
    /// The invite, `@FILE`, or `-`.
    pub text: String,
    /// The server whose one-time code brought it; `None` if it was typed.
    pub brought_from: Option<ServerUrl>,
}

impl Given {
    /// As a person typed it.
    pub fn typed(text: impl Into<String>) -> Self {
        Self { text: text.into(), brought_from: None }
    }

    /// Whether a token file beside it may be for this server. What was typed stands for the whole of it; what a code brought leads
    /// where its maker likes.
    fn may_have_token_for(&self, server: &ServerUrl) -> bool {
        self.brought_from.as_ref().is_none_or(|typed| typed.is_at_same_origin(server))
    }
}

/// What the environment says besides what clap reads from it.
#[derive(Debug, Default)]
struct Environment {
    invite: Option<String>,
    url: Option<String>,
    token: Option<Secret>,
}

impl Environment {
    fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        Self {
            invite: variable("SWARM_INVITE"),
            url: variable("SWARM_URL"),
            token: variable("SWARM_TOKEN").map(Secret::new),
        }
    }
}

/// The server that is named, and where: typed, or else in the environment.
struct Named<'a> {
    url: &'a str,
    source: &'static str,
}

impl<'a> Named<'a> {
    /// Whoever types where a server of his own listens means none that is elsewhere.
    fn of(environment: &'a Environment, args: &'a RoomArgs) -> Option<Self> {
        let typed = args.url.as_deref().map(|url| Self { url, source: "--url" });
        typed.or_else(|| {
            let url = environment.url.as_deref().filter(|_| args.listen.is_none())?;
            Some(Self { url, source: "SWARM_URL" })
        })
    }

    /// Whether this is the server.
    fn is(&self, server: &ServerUrl) -> bool {
        ServerUrl::parse(self.url).is_ok_and(|named| named.is_at_same_origin(server))
    }
}

/// The server of `--url`, or else of `SWARM_URL`.
pub fn server_of(args: &RoomArgs) -> Option<String> {
    Named::of(&Environment::of_process(), args).map(|named| named.url.to_owned())
}

impl RoomConfig {
    /// What `args` and the environment mean.
    pub fn resolve(args: &RoomArgs, invite: Option<&Given>) -> Result<Self, Failure> {
        Self::resolve_in(Environment::of_process(), args, invite)
    }

    fn resolve_in(
        environment: Environment,
        args: &RoomArgs,
        invite: Option<&Given>,
    ) -> Result<Self, Failure> {
        let elsewhere = args.url.is_some() || args.room.is_some() || args.listen.is_some();
        let named = Named::of(&environment, args);
        let place = match (invite, &environment.invite) {
            (Some(given), _) => Self::invited(args, named.as_ref(), environment.token.clone(), given)?,
            (None, Some(text)) if !elsewhere => {
                let given = Given::typed(text);
                let place = Self::invited(args, named.as_ref(), environment.token.clone(), &given)?;
                check_environment(named.as_ref(), &place)?;
                place
            }
            (None, _) => Self::place(args, named.as_ref(), environment.token.clone())?,
        };
        if args.relay_only
            && !args.ice_server.iter().any(|server| server.urls.iter().any(|url| url.starts_with("turn")))
        {
            return Err(Failure::new(
                Exit::Usage,
                "--relay-only needs a TURN server: --ice-server turn:USER:PASSWORD@HOST",
            ));
        }
        Ok(Self {
            place,
            name: own_name(args.name.as_deref())?,
            ice_servers: args.ice_server.clone(),
            relay_only: args.relay_only,
            allow_unverified: args.allow_unverified,
            telling: Telling { words: args.words, qr: args.qr },
            ca: args.ca.clone(),
            wrapped: args.wrapped,
            up: args.up,
            down: args.down,
        })
    }

    fn invited(
        args: &RoomArgs,
        named: Option<&Named<'_>>,
        token: Option<Secret>,
        given: &Given,
    ) -> Result<Place, Failure> {
        // SWARM_URL may be set for good and is not a contradiction; the others can only have been typed.
        for (is_given, option) in [(args.room.is_some(), "--room"), (args.listen.is_some(), "--listen")] {
            if is_given {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("an invite says where to go: leave {option} out"),
                ));
            }
        }
        let text = match given.text.strip_prefix('@') {
            Some(path) => read_secret(Path::new(path)).or_exit(Exit::Usage)?,
            None if given.text == "-" => ask_secret("invite: ")?,
            None => given.text.clone(),
        };
        let invite = Invite::parse(&text).or_exit(Exit::Usage)?;
        // Whoever wrote the invite chose the server: it gets a token only if that was meant for it.
        let from_environment = token.filter(|_| named.is_some_and(|named| named.is(invite.server())));
        let token = match invite.token() {
            Some(token) => Some(token.clone()),
            None if given.may_have_token_for(invite.server()) => access_token(args, from_environment)?,
            None => from_environment,
        };
        let whole = Invite::new(invite.server().clone(), invite.room().clone(), token, invite.key().cloned());
        Ok(Place::Invited(whole.or_exit(Exit::Usage)?))
    }

    fn place(args: &RoomArgs, named: Option<&Named<'_>>, token: Option<Secret>) -> Result<Place, Failure> {
        let room = match &args.room {
            Some(room) => {
                Some(RoomId::new(room).map_err(|error| anyhow!("--room: {error}")).or_exit(Exit::Usage)?)
            }
            None => None,
        };
        let Some(Named { url, source }) = named else {
            let listen = args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
            let room = room.unwrap_or_else(fresh_room);
            return Ok(Place::Own { listen, room, key: RoomKey::from_random(rand::random()) });
        };
        if args.listen.is_some() {
            return Err(Failure::new(
                Exit::Usage,
                "--listen starts a server and --url goes to one: leave one of them out",
            ));
        }
        let server =
            ServerUrl::parse(url).map_err(|error| anyhow!("{source}: {error}")).or_exit(Exit::Usage)?;
        let token = access_token(args, token)?;
        match room {
            Some(room) => Ok(Place::Invited(Invite::new(server, room, token, None).or_exit(Exit::Usage)?)),
            None => {
                let key = RoomKey::from_random(rand::random());
                Ok(Place::New(Invite::new(server, fresh_room(), token, Some(key)).or_exit(Exit::Usage)?))
            }
        }
    }
}

/// The server's token: from the file, else from the environment.
fn access_token(args: &RoomArgs, from_environment: Option<Secret>) -> Result<Option<Secret>, Failure> {
    match &args.token_file {
        Some(path) => Ok(Some(Secret::new(read_secret(path).or_exit(Exit::Usage)?))),
        None => Ok(from_environment),
    }
}

/// Nothing tells which of two servers in the environment is meant.
fn check_environment(named: Option<&Named<'_>>, place: &Place) -> Result<(), Failure> {
    match (named, place) {
        (Some(named), Place::Invited(invite)) if !named.is(invite.server()) => Err(Failure::new(
            Exit::Usage,
            "SWARM_INVITE is for another server than SWARM_URL: unset one of them, or type the invite or --url",
        )),
        (_, Place::Invited(_) | Place::New(_) | Place::Own { .. }) => Ok(()),
    }
}

/// A room that nobody is in and everybody can say aloud: two words and three digits.
fn fresh_room() -> RoomId {
    const HOW: [&str; 32] = [
        "amber", "brisk", "calm", "clear", "cosy", "crisp", "early", "fair", "fleet", "fresh", "gentle",
        "glad", "golden", "green", "happy", "jolly", "keen", "kind", "light", "lively", "lucky", "mellow",
        "merry", "neat", "quick", "quiet", "rapid", "silver", "sunny", "swift", "warm", "wild",
    ];
    const WHO: [&str; 32] = [
        "badger", "bee", "crane", "dolphin", "falcon", "finch", "fox", "gecko", "hare", "heron", "ibis",
        "jay", "kestrel", "koala", "lark", "lemur", "lynx", "marten", "mole", "newt", "otter", "owl",
        "panda", "puffin", "raven", "robin", "seal", "stork", "swan", "tern", "vole", "wren",
    ];
    let bits: u32 = rand::random();
    let (how, who) = (HOW[(bits & 31) as usize], WHO[(bits >> 5 & 31) as usize]);
    let digits = (bits >> 10) % 1000;
    RoomId::new(format!("{how}-{who}-{digits:03}")).expect("words, dashes and digits are an id")
}

/// Whether an argument of `swarm send` is an invite and not a path.
pub fn is_invite(text: &str) -> bool {
    let is_url =
        |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let in_file =
        || text.strip_prefix('@').is_some_and(|path| Path::new(path).is_file() && !Path::new(text).exists());
    is_url("ws://") || is_url("wss://") || in_file()
}

/// What the user is called: as told, else the user's name, else `peer`.
fn own_name(told: Option<&str>) -> Result<Name, Failure> {
    if let Some(told) = told {
        return told.parse::<Name>().or_exit(Exit::Usage);
    }
    let user = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = user.and_then(|user| Name::from_remote(&user));
    Ok(name.unwrap_or_else(|| "peer".parse().expect("`peer` is a name")))
}

/// A secret from a file: its first line that is not empty.
pub fn read_secret(path: &Path) -> anyhow::Result<String> {
    let shown = || format!("can't read {}", path.display());
    let file = fs::File::open(path).with_context(shown)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, SECRET_FILE_MAX_BYTES), &mut text)
        .with_context(shown)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned).with_context(|| format!("{} is empty", path.display()))
}

/// A secret that the user types or pipes in.
fn ask_secret(prompt: &str) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let mut editor = rustyline::DefaultEditor::new()?;
        return Ok(editor.readline(prompt)?.trim().to_owned());
    }
    let mut line = String::new();
    io::Read::take(io::stdin().lock(), SECRET_FILE_MAX_BYTES).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn resolve(line: &str) -> Result<RoomConfig, String> {
        resolve_in(Environment::default(), line)
    }

    fn resolve_in(environment: Environment, line: &str) -> Result<RoomConfig, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Join(args) = cli.command else { panic!("{line} is no join") };
        let invite = args.invite.map(Given::typed);
        RoomConfig::resolve_in(environment, &args.room, invite.as_ref())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn without_an_invite_there_is_a_room_of_our_own() {
        let config = resolve("swarm join --name ada").expect("fine");
        let Place::Own { listen, .. } = &config.place else { panic!("{config:?}") };
        assert_eq!(listen.to_string(), "127.0.0.1:0");
        assert!(config.place.is_keyed());
        let config = resolve("swarm join --listen 0.0.0.0:7000 --room attic").expect("fine");
        let Place::Own { listen, room, .. } = config.place else { panic!("{config:?}") };
        assert_eq!((listen.port(), room.as_str()), (7000, "attic"));
    }

    #[test]
    fn a_server_without_a_room_gets_a_new_one_with_a_key() {
        let config = resolve("swarm join --url wss://example.org").expect("fine");
        let Place::New(invite) = config.place else { panic!("{config:?}") };
        assert!(invite.key().is_some());
        let config = resolve("swarm join --url wss://example.org --room attic").expect("fine");
        let Place::Invited(invite) = config.place else { panic!("{config:?}") };
        assert_eq!(invite.reveal(), "wss://example.org/attic");
    }

    #[test]
    fn the_token_of_the_environment_goes_to_the_server_that_it_is_for() {
        let token = |line: &str, invite: Option<&str>| {
            let token = Some(Secret::new("s3cret"));
            let environment = Environment { invite: invite.map(str::to_owned), url: None, token };
            let config = resolve_in(environment, line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let (Place::Invited(invite) | Place::New(invite)) = config.place else { panic!("{line}") };
            invite.token().map(|token| token.expose().to_owned())
        };
        let named = [
            "swarm join ws://h/r --url ws://h",
            "swarm join ws://H:80/deep/r --url ws://h/",
            "swarm join --url ws://h --room r",
            "swarm join --url ws://h",
        ];
        for line in named {
            assert_eq!(token(line, None).as_deref(), Some("s3cret"), "{line}");
        }
        let strange = [
            "swarm join ws://h/r",
            "swarm join ws://h/r --url wss://h",
            "swarm join wss://h/r --url ws://h",
            "swarm join ws://h:81/r --url ws://h",
            "swarm join ws://h.example/r --url ws://h",
            "swarm join ws://h/r --url nonsense",
        ];
        for line in strange {
            assert_eq!(token(line, None), None, "{line}");
        }
        assert_eq!(token("swarm join", Some("ws://h/r")), None);
        assert_eq!(token("swarm join ws://h/r?token=t --url ws://h", None).as_deref(), Some("t"));
    }

    #[test]
    fn what_is_typed_wins_over_the_environment_which_must_not_contradict_itself() {
        let place = |line: &str, invite: &str, url: &str| {
            let environment = Environment {
                invite: Some(invite.to_owned()),
                url: Some(url.to_owned()),
                token: Some(Secret::new("s3cret")),
            };
            resolve_in(environment, line).map(|config| match config.place {
                Place::Invited(invite) => invite.reveal(),
                Place::New(invite) => format!("a new one at {}", invite.server().as_str()),
                Place::Own { listen, .. } => format!("a new one at {listen}"),
            })
        };
        let right = [
            ("swarm join", "ws://h/r", "ws://H:80/", "ws://h/r?token=s3cret"),
            ("swarm join", "ws://h/r?token=t", "ws://h", "ws://h/r?token=t"),
            ("swarm join ws://h/x", "ws://h/r", "ws://h", "ws://h/x?token=s3cret"),
            ("swarm join ws://g/x", "ws://h/r", "ws://h", "ws://g/x"),
            ("swarm join --url ws://h", "ws://h/r", "ws://h", "a new one at ws://h"),
            ("swarm join --url ws://g", "ws://h/r", "ws://f", "a new one at ws://g"),
            ("swarm join --room x", "ws://h/r", "ws://f", "ws://f/x?token=s3cret"),
            ("swarm join --listen 127.0.0.1:7", "ws://h/r", "ws://f", "a new one at 127.0.0.1:7"),
        ];
        for (line, invite, url, expected) in right {
            assert_eq!(place(line, invite, url).as_deref(), Ok(expected), "{line}, {invite}, {url}");
        }
        for url in ["ws://f", "wss://h", "ws://h:81", "nonsense"] {
            let error = place("swarm join", "ws://h/r", url).expect_err(url);
            assert!(error.contains("unset one of them"), "{error}");
        }
        let error = place("swarm join --room x", "ws://h/r", "http://h").expect_err("no such scheme");
        assert!(error.contains("SWARM_URL: "), "{error}");
    }

    #[test]
    fn a_token_file_is_for_whatever_stands_beside_it() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        io::Write::write_all(&mut file, b"s3cret").expect("written");
        let config = resolve(&format!("swarm join ws://h/r --token-file {}", file.path().display()));
        let Place::Invited(invite) = config.expect("fine").place else { panic!("there is an invite") };
        assert_eq!(invite.token(), Some(&Secret::new("s3cret")));
    }

    #[test]
    fn contradictions_are_told() {
        let wrong = [
            ("swarm join ws://h/r --room attic", "leave --room out"),
            ("swarm join --url ws://h --listen 127.0.0.1:0", "leave one of them out"),
            ("swarm join --relay-only", "needs a TURN server"),
            ("swarm join http://h/r", "write ws:// instead"),
            ("swarm join --name a<b", "a name can't contain '<'"),
            ("swarm join --room ../x\u{7f}", "--room: "),
            ("swarm join @/nowhere", "can't read /nowhere"),
        ];
        for (line, expected) in wrong {
            let error = resolve(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_last_argument_of_send_is_an_invite_if_it_looks_like_one() {
        assert!(is_invite("ws://h/r#k") && is_invite("WSS://h/r"));
        assert!(!is_invite("photos") && !is_invite("@nowhere") && !is_invite("-") && !is_invite("wsé"));
    }

    #[test]
    fn a_secret_is_the_first_line_with_something_in_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        fs::write(&path, "\n  s3cret \nmore\n").expect("written");
        assert_eq!(read_secret(&path).expect("readable"), "s3cret");
        fs::write(&path, "\n\n").expect("written");
        assert!(read_secret(&path).is_err());
    }
}
