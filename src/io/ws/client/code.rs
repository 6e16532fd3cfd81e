//! Both ends of a one-time code, each over a WebSocket of its own to the server that passes their messages on.

use std::time::{Duration, SystemTime};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::connect::{self, ConnectConfig, ConnectError, Socket};
use crate::core::code::{HandOverError, Member, Newcomer};
use crate::wire::Invite;
use crate::wire::code::{ClientCode, Code, CodeOver, Passed, ServerCode};

/// How long the server, or the other end, may take to answer. No person is involved.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a server that has codes may take to say so.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a code of ours is good, whatever the server says: it may be in no hurry to let one expire.
const LIFETIME_MAX: Duration = Duration::from_secs(600);

/// A member that waits for a newcomer shows the server, and what is in between, that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Pings without any answer before the server counts as gone.
const PINGS_MAX: u32 = 3;

/// Why a code did not bring an invite over. Each says what to do about it, to either end.
#[derive(Debug, thiserror::Error)]
pub enum CodeFailure {
    /// The server could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server is older than codes, or another program.
    #[error("this server has no one-time codes: pass the invite itself on")]
    NoCodes,
    /// The number is nobody's.
    #[error("there is no code of that number here: it is used or expired, or was misheard; ask for another")]
    Unknown,
    /// Nobody came in time.
    #[error("the code has expired")]
    Expired,
    /// The codes differ.
    #[error("the code was wrong, and nobody can try it again; ask for another")]
    Wrong,
    /// The other end went away.
    #[error("the other side went away; ask for another code")]
    Left,
    /// The other end did not answer in time.
    #[error("the other side did not answer in time; ask for another code")]
    TooSlow,
    /// The server has enough of us.
    #[error("too many codes or attempts at this server: wait a minute")]
    Limit,
    /// The other end, or the server, does not keep to the protocol.
    #[error("the other side is no swarm, or somebody changed what it said; ask for another code")]
    Malformed,
    /// The socket broke off, or the server stops.
    #[error("the connection to the server was lost")]
    Lost,
    /// It ended when the code had been used already, and nobody says who is to blame.
    #[error(
        "it broke off half-way, and the code is spent: if the other side can't say why, somebody may have tried to guess \
         it; ask for another"
    )]
    Spent,
}

impl CodeFailure {
    /// What it means to a newcomer whose claim is on its way: the server may have taken it.
    fn after_claim(self) -> Self {
        match self {
            Self::Lost => Self::Spent,
            Self::Connect(_)
            | Self::NoCodes
            | Self::Unknown
            | Self::Expired
            | Self::Wrong
            | Self::Left
            | Self::TooSlow
            | Self::Limit
            | Self::Malformed
            | Self::Spent => self,
        }
    }

    /// What it means to a newcomer whose proof is on its way. By that a server which plays the member knows whether it has guessed
    /// the words; if not, it says whatever makes a newcomer try the same code again.
    fn after_proof(self) -> Self {
        match self {
            Self::Wrong | Self::Malformed => self,
            Self::Connect(_)
            | Self::NoCodes
            | Self::Unknown
            | Self::Expired
            | Self::Left
            | Self::TooSlow
            | Self::Limit
            | Self::Lost
            | Self::Spent => Self::Spent,
        }
    }
}

impl From<CodeOver> for CodeFailure {
    fn from(reason: CodeOver) -> Self {
        match reason {
            CodeOver::Unknown => Self::Unknown,
            CodeOver::Expired => Self::Expired,
            CodeOver::Wrong => Self::Wrong,
            CodeOver::Left => Self::Left,
            CodeOver::TooSlow => Self::TooSlow,
            CodeOver::Limit => Self::Limit,
            CodeOver::Forbidden => Self::Connect(ConnectError::TokenRefused),
            CodeOver::Malformed | CodeOver::Other => Self::Malformed,
            CodeOver::ShuttingDown => Self::Lost,
        }
    }
}

impl From<HandOverError> for CodeFailure {
    fn from(error: HandOverError) -> Self {
        match error {
            HandOverError::Malformed => Self::Malformed,
            HandOverError::WrongCode => Self::Wrong,
        }
    }
}

/// A code that waits for its newcomer.
#[derive(Debug)]
pub struct OpenCode {
    line: Line,
    code: Code,
    lifetime: Duration,
    expires: Instant,
    /// The same by the calendar: the other clock stands still while the machine sleeps.
    expires_on: SystemTime,
}

/// Opens a code at the server, for one newcomer. `config` has the server's [`code_url`](crate::wire::ServerUrl::code_url)
/// and a member's token.
pub async fn open(config: &ConnectConfig) -> Result<OpenCode, CodeFailure> {
    let mut line = Line(connect::open(config).await?);
    line.say(&ClientCode::CodeOpen).await?;
    let (number, secs) = match line.hear(GREETING_TIMEOUT).await {
        Ok(ServerCode::CodeOpened { number, secs }) => (number, secs),
        Ok(ServerCode::CodePass { .. } | ServerCode::CodeOver { .. }) | Err(CodeFailure::TooSlow) => {
            return Err(CodeFailure::NoCodes);
        }
        Err(error) => return Err(error),
    };
    let code = Code::from_random(number, rand::random());
    let lifetime = Duration::from_secs(secs).min(LIFETIME_MAX);
    let (expires, expires_on) = (Instant::now() + lifetime, SystemTime::now() + lifetime);
    Ok(OpenCode { line, code, lifetime, expires, expires_on })
}

impl OpenCode {
    /// The code, to be told to the newcomer.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// How long it is good, from when it was opened.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Waits for the newcomer and hands the invite over. Whatever comes of it, the code is spent.
    pub async fn hand_over(self, invite: &Invite) -> Result<(), CodeFailure> {
        let Self { mut line, code, expires, expires_on, .. } = self;
        let claim = line.wait_for_claim(expires).await?;
        if SystemTime::now() >= expires_on {
            return Err(CodeFailure::Expired);
        }
        let (member, answer) = match Member::new(&code, rand::random()).answer(claim.bytes()) {
            Ok(answered) => answered,
            Err(error) => return line.refuse(error).await,
        };
        let proof = line.ask(&ClientCode::CodePass { message: Passed::new(answer) }).await?;
        match member.hand_over(proof.bytes(), invite) {
            Ok(sealed) => line.say(&ClientCode::CodePass { message: Passed::new(sealed) }).await?,
            Err(error) => return line.refuse(error).await,
        }
        line.close().await;
        Ok(())
    }
}

/// Takes the invite that belongs to a code. `config` has the server's [`code_url`](crate::wire::ServerUrl::code_url), and no
/// token.
pub async fn redeem(config: &ConnectConfig, code: &Code) -> Result<Invite, CodeFailure> {
    let mut line = match connect::open(config).await {
        Ok(socket) => Line(socket),
        // A server that wants a token here takes this for a room.
        Err(ConnectError::TokenRefused) => return Err(CodeFailure::NoCodes),
        Err(error) => return Err(error.into()),
    };
    let (newcomer, claim) = Newcomer::new(code, rand::random());
    let claim = ClientCode::CodeClaim { number: code.number(), message: Passed::new(claim) };
    let answer = line.ask(&claim).await.map_err(CodeFailure::after_claim)?;
    let (newcomer, proof) = match newcomer.prove(answer.bytes()) {
        Ok(proved) => proved,
        Err(error) => return line.refuse(error).await,
    };
    let proof = ClientCode::CodePass { message: Passed::new(proof) };
    let sealed = line.ask(&proof).await.map_err(CodeFailure::after_proof)?;
    match newcomer.receive(sealed.bytes()) {
        Ok(invite) => {
            line.close().await;
            Ok(invite)
        }
        Err(error) => line.refuse(error).await,
    }
}

/// A socket on which both sides speak of one code.
#[derive(Debug)]
struct Line(Socket);

impl Line {
    async fn say(&mut self, message: &ClientCode) -> Result<(), CodeFailure> {
        let write = self.0.send(Message::Text(message.to_text().into()));
        match timeout(ANSWER_TIMEOUT, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CodeFailure::Lost),
        }
    }

    /// Says something, and hears what the other end says to it.
    async fn ask(&mut self, message: &ClientCode) -> Result<Passed, CodeFailure> {
        self.say(message).await?;
        passed(self.hear(ANSWER_TIMEOUT).await?)
    }

    /// The server's next message. That it is over is an error; so is a message that no server with codes sends.
    async fn hear(&mut self, patience: Duration) -> Result<ServerCode, CodeFailure> {
        let heard = async {
            loop {
                if let Some(heard) = self.next().await {
                    return heard;
                }
            }
        };
        timeout(patience, heard).await.unwrap_or(Err(CodeFailure::TooSlow))
    }

    /// The next frame, if it says something.
    async fn next(&mut self) -> Option<Result<ServerCode, CodeFailure>> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Some(match ServerCode::parse(&text) {
                Some(ServerCode::CodeOver { reason }) => Err(reason.into()),
                Some(message) => Ok(message),
                None => Err(CodeFailure::NoCodes),
            }),
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Some(Err(CodeFailure::Lost)),
        }
    }

    /// People take their time, and pings show meanwhile that the server is there.
    async fn wait_for_claim(&mut self, expires: Instant) -> Result<Passed, CodeFailure> {
        let mut ping_at = Instant::now() + PING_EVERY;
        let mut unanswered = 0;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(expires) => return Err(CodeFailure::Expired),
                heard = self.next() => match heard {
                    Some(heard) => return passed(heard?),
                    None => unanswered = 0,
                },
                () = sleep_until(ping_at) => {
                    unanswered += 1;
                    let ping = self.0.send(Message::Ping(Bytes::new()));
                    if unanswered > PINGS_MAX || !matches!(timeout(ANSWER_TIMEOUT, ping).await, Ok(Ok(()))) {
                        return Err(CodeFailure::Lost);
                    }
                    ping_at = Instant::now() + PING_EVERY;
                }
            }
        }
    }

    /// Tells the other end that the codes differ, and that is what this end says, too.
    async fn refuse<T>(&mut self, error: HandOverError) -> Result<T, CodeFailure> {
        // The other end finds out anyway, when nothing more comes.
        let _ = self.say(&ClientCode::CodeRefuse).await;
        self.close().await;
        Err(error.into())
    }

    /// Goes once what was said is on its way.
    async fn close(&mut self) {
        let closing = async {
            self.0.close(None).await.ok();
            while let Some(Ok(_)) = self.0.next().await {}
        };
        let _ = timeout(Duration::from_secs(1), closing).await;
    }
}

fn passed(message: ServerCode) -> Result<Passed, CodeFailure> {
    match message {
        ServerCode::CodePass { message } => Ok(message),
        ServerCode::CodeOpened { .. } | ServerCode::CodeOver { .. } => Err(CodeFailure::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;
    use crate::io::ws::client::Trust;

    #[tokio::test]
    async fn a_code_expires_while_the_machine_sleeps() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("ws://{}/.code", listener.local_addr().expect("bound"));
        let config = ConnectConfig { url, token: None, trust: Trust::none(), wrapped: false, init: None };
        let serving = async {
            let (stream, _) = listener.accept().await.expect("the member comes");
            let mut member = accept_async(stream).await.expect("it upgrades");
            member.next().await.expect("open").expect("open");
            let number = "7-guitar-bacon".parse::<Code>().expect("a code").number();
            let opened = ServerCode::CodeOpened { number, secs: 600 }.to_text();
            member.send(Message::text(opened)).await.expect("sent");
            member
        };
        let (code, mut server) = tokio::join!(open(&config), serving);
        let mut code = code.expect("a number was given");
        // Ten minutes of sleep, of which tokio's clock knows nothing.
        code.expires_on -= code.lifetime();
        let (_, claim) = Newcomer::new(code.code(), [1; 32]);
        let claim = ServerCode::CodePass { message: Passed::new(claim) };
        server.send(Message::text(claim.to_text())).await.expect("sent");
        let invite = Invite::parse("ws://h/attic").expect("sound");
        let result = code.hand_over(&invite).await;
        assert!(matches!(result, Err(CodeFailure::Expired)), "{result:?}");
    }
}
