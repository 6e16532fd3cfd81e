//! One-time codes: a member makes them, a newcomer has one turned into the invite.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::args::RoomArgs;
use super::config::{self, Given, RoomConfig};
use super::desk::{self, Audience};
use super::exit::{Exit, Failure, OrExit};
use super::format;
use super::json;
use crate::io::ws::client::code::{self, CodeFailure};
use crate::io::ws::client::{ConnectConfig, ConnectError, Trust};
use crate::wire::code::Code;
use crate::wire::{Invite, ServerUrl};

/// What happens to a code that we made.
#[derive(Debug)]
pub struct News {
    /// What.
    pub state: State,
    /// The code, once there is one.
    pub code: Option<Code>,
    /// What the asker called it.
    pub r#ref: Option<serde_json::Value>,
}

/// What became of it.
#[derive(Debug)]
pub enum State {
    /// Somebody may use it.
    Open {
        /// At which server.
        server: ServerUrl,
        /// For how long.
        lifetime: Duration,
    },
    /// Somebody has.
    Used,
    /// It is spent, or there was none.
    Failed(CodeFailure),
}

/// Makes codes for the room that we are in.
#[derive(Debug, Clone)]
pub struct Codes {
    invite: Arc<Invite>,
    connect: Arc<ConnectConfig>,
    news: mpsc::UnboundedSender<News>,
}

impl Codes {
    /// For the room of `invite`. What becomes of each code is told to `news`.
    pub fn new(
        config: &RoomConfig,
        invite: &Invite,
        news: mpsc::UnboundedSender<News>,
    ) -> Result<Self, Failure> {
        let mut connect = connect_config(invite.server(), config.ca.as_deref())?;
        connect.token = invite.token().cloned();
        Ok(Self { invite: Arc::new(invite.clone()), connect: Arc::new(connect), news })
    }

    /// Makes a code. It is good until it is used, for as long as the server keeps it and this program runs.
    pub fn open(&self, r#ref: Option<serde_json::Value>) {
        let Self { invite, connect, news } = self.clone();
        tokio::spawn(async move {
            // Nobody listens any more: the program is ending.
            let tell = |state, code| drop(news.send(News { state, code, r#ref: r#ref.clone() }));
            let open = match code::open(&connect).await {
                Ok(open) => open,
                Err(failure) => return tell(State::Failed(failure), None),
            };
            let code = Some(open.code().clone());
            let server = invite.server().clone();
            tell(State::Open { server, lifetime: open.lifetime() }, code.clone());
            match open.hand_over(&invite).await {
                Ok(()) => tell(State::Used, code),
                Err(failure) => tell(State::Failed(failure), code),
            }
        });
    }
}

impl News {
    /// For people: what `command` the newcomer uses a code with, and what makes `another`.
    pub fn lines(&self, command: &str, another: &str) -> Vec<String> {
        let it = self.code.as_ref().map(|code| format!("the code {}", code.reveal())).unwrap_or_default();
        match (&self.state, &self.code) {
            (State::Open { server, lifetime }, Some(code)) => vec![
                format!(
                    "A code for one person, one try and {}; whoever gets it right has the invite:",
                    format::count(lifetime.as_secs().div_ceil(60) as usize, "minute")
                ),
                String::new(),
                format!("  swarm {command} {server} {}", code.reveal()),
                String::new(),
            ],
            (State::Used, _) => vec![format!("{it} was used: the invite is handed over")],
            (State::Failed(CodeFailure::Wrong), _) => {
                vec![format!("{it} is burnt: somebody tried a wrong one; {another}")]
            }
            (State::Failed(CodeFailure::Expired), _) => vec![format!("{it} has expired; {another}")],
            (State::Failed(failure), Some(_)) => {
                vec![format!("{it} is spent: {}; {another}", brief(failure))]
            }
            (State::Open { .. } | State::Failed(_), None) => {
                vec![format!("no code: {}", self.failure().unwrap_or_default())]
            }
        }
    }

    /// For programs.
    pub fn event(&self) -> json::Event {
        let (state, server, secs) = match &self.state {
            State::Open { server, lifetime } => {
                (json::CodeState::Open, Some(server.to_string()), Some(lifetime.as_secs()))
            }
            State::Used => (json::CodeState::Used, None, None),
            State::Failed(CodeFailure::Wrong) => (json::CodeState::Wrong, None, None),
            State::Failed(CodeFailure::Expired) => (json::CodeState::Expired, None, None),
            State::Failed(_) => (json::CodeState::Failed, None, None),
        };
        let code = self.code.as_ref().map(Code::reveal);
        json::Event::Code { state, code, server, secs, reason: self.failure(), r#ref: self.r#ref.clone() }
    }

    fn failure(&self) -> Option<String> {
        match &self.state {
            State::Open { .. } | State::Used => None,
            State::Failed(failure @ CodeFailure::Connect(_)) => Some(described(failure)),
            State::Failed(failure) => Some(brief(failure).to_owned()),
        }
    }
}

/// What happened, in the words of the one who made the code: the next step is another than the newcomer's.
fn brief(failure: &CodeFailure) -> &'static str {
    match failure {
        CodeFailure::Connect(_) => "the server could not be reached",
        CodeFailure::NoCodes => "this server has no one-time codes",
        CodeFailure::Unknown | CodeFailure::Malformed => "somebody said what is no part of the exchange",
        CodeFailure::Expired => "nobody came in time",
        CodeFailure::Wrong => "somebody tried a wrong code",
        CodeFailure::Left => "somebody began to use it and went away",
        CodeFailure::TooSlow => "somebody began to use it and did not go on",
        CodeFailure::Limit => "too many codes at this server, or from this address: wait a minute",
        CodeFailure::Lost => "the connection to the server was lost",
        CodeFailure::Spent => "it broke off half-way",
    }
}

/// With its cause.
fn described(failure: &CodeFailure) -> String {
    match failure.source() {
        Some(cause) => format!("{failure}: {cause}"),
        None => failure.to_string(),
    }
}

/// The invite: as it was typed, or the one that a typed code brings. A code is spent only if nothing else is wrong with the
/// command line.
pub async fn exchange(
    args: &RoomArgs,
    invite: Option<&str>,
    code: Option<&str>,
    audience: Audience,
) -> Result<Option<Given>, Failure> {
    let named = config::server_of(args);
    let (server, code) = match (invite, code) {
        (Some(server), Some(code)) => (server, code),
        (Some(code), None) if Code::is_meant(code) => match &named {
            Some(server) => (server.as_str(), code),
            None => {
                let next = "say at which server the code is: swarm join ws://HOST:PORT CODE";
                return Err(Failure::new(Exit::Usage, next));
            }
        },
        (invite, _) => return Ok(invite.map(Given::typed)),
    };
    let code = Code::parse(code).or_exit(Exit::Usage)?;
    let server = ServerUrl::parse(server).or_exit(Exit::Usage)?;
    // Any room will do to find out what is wrong.
    RoomConfig::resolve(args, Some(&Given::typed(format!("{}/room", server.as_str()))))?;
    let connect = connect_config(&server, args.ca.as_deref())?;
    match code::redeem(&connect, &code).await {
        Ok(invite) => Ok(Some(Given { text: invite.reveal(), brought_from: Some(server) })),
        Err(failure) => {
            let failure = Failure::with(exit_of(&failure), failure);
            if audience == Audience::Program {
                desk::tell_end(Some(&failure), failure.exit())?;
            }
            Err(failure)
        }
    }
}

fn connect_config(server: &ServerUrl, ca: Option<&std::path::Path>) -> Result<ConnectConfig, Failure> {
    let trust = match server.is_tls() {
        true => Trust::system(ca).or_exit(Exit::Usage)?,
        false => Trust::none(),
    };
    Ok(ConnectConfig { url: server.code_url(), token: None, trust, wrapped: false, init: None })
}

fn exit_of(failure: &CodeFailure) -> Exit {
    match failure {
        CodeFailure::Connect(ConnectError::TokenRefused)
        | CodeFailure::NoCodes
        | CodeFailure::Unknown
        | CodeFailure::Expired
        | CodeFailure::Wrong
        | CodeFailure::Limit
        | CodeFailure::Malformed
        | CodeFailure::Spent => Exit::Refused,
        CodeFailure::Left | CodeFailure::TooSlow => Exit::Failed,
        CodeFailure::Connect(_) | CodeFailure::Lost => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(state: State, code: Option<&str>) -> News {
        News { state, code: code.map(|code| code.parse().expect("a code")), r#ref: None }
    }

    fn lines(state: State, code: Option<&str>) -> String {
        news(state, code).lines("recv", "/code makes another").join("\n")
    }

    #[test]
    fn a_code_is_told_as_the_command_that_uses_it() {
        let server = ServerUrl::parse("wss://example.org").expect("an address");
        let open = State::Open { server, lifetime: Duration::from_secs(600) };
        assert_eq!(
            lines(open, Some("7-guitar-bacon")),
            "A code for one person, one try and 10 minutes; whoever gets it right has the invite:\n\n  \
             swarm recv wss://example.org 7-guitar-bacon\n"
        );
    }

    #[test]
    fn what_became_of_a_code_is_told_with_the_next_step() {
        let code = Some("7-guitar-bacon");
        let cases = [
            (State::Used, code, "the code 7-guitar-bacon was used: the invite is handed over"),
            (
                State::Failed(CodeFailure::Wrong),
                code,
                "the code 7-guitar-bacon is burnt: somebody tried a wrong one; /code makes another",
            ),
            (
                State::Failed(CodeFailure::Expired),
                code,
                "the code 7-guitar-bacon has expired; /code makes another",
            ),
            (
                State::Failed(CodeFailure::Left),
                code,
                "the code 7-guitar-bacon is spent: somebody began to use it and went away; /code makes another",
            ),
            (State::Failed(CodeFailure::NoCodes), None, "no code: this server has no one-time codes"),
        ];
        for (state, code, expected) in cases {
            assert_eq!(lines(state, code), expected);
        }
    }

    #[test]
    fn a_refusal_is_told_from_a_server_that_is_away() {
        assert_eq!(exit_of(&CodeFailure::Wrong), Exit::Refused);
        assert_eq!(exit_of(&CodeFailure::Unknown), Exit::Refused);
        assert_eq!(exit_of(&CodeFailure::Lost), Exit::Unreachable);
        let away = CodeFailure::Connect(ConnectError::Timeout { host: "h:1".into() });
        assert_eq!(exit_of(&away), Exit::Unreachable);
    }
}
