//! One stay in a room: what the node says, what is typed, what interrupts, in one stream; what is asked, in one queue.
//!
//! ```text
//! stdin  ── lines ──┐
//! node   ── events ─┼──▶ Session::next ──▶ face
//! signals ──────────┘                       │
//! node   ◀── commands, in order ── Session ◀┘
//! ```
//!
//! A face never waits for the node to take a command: while it did, the node might wait for the face to take an event. Input
//! is read only while all earlier commands are on their way, so a fast typist or a big file on stdin is slowed down and
//! nothing is lost.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::code::News;
use super::input::Input;
use super::signals::Signals;
use crate::node::api::{Command, Ended, Event, PeerInfo};

/// How long leaving may take: what was said is delivered, the others are told. Then the program ends all the same.
const LEAVING_MAX: Duration = Duration::from_secs(5);

/// A stay in a room.
pub struct Session {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    input: Option<mpsc::Receiver<Input>>,
    signals: Signals,
    waiting: VecDeque<Command>,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    codes: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    is_finishing: bool,
    leave_by: Option<Instant>,
}

/// What happens next.
#[derive(Debug)]
pub enum Happening {
    /// The node says something.
    Event(Event),
    /// A line was typed or piped in.
    Input(Input),
    /// The node answers a question.
    Answer(Answer),
    /// A one-time code of ours is open, used or spent.
    Code(News),
    /// Ctrl-C, or a request to end.
    Interrupted,
    /// The node has ended; without a word if something is wrong with it.
    Ended(Option<Ended>),
}

/// Who is here, with what the asker called the question.
#[derive(Debug)]
pub struct Answer {
    /// What the asker called it.
    pub r#ref: Option<serde_json::Value>,
    /// Everyone.
    pub peers: Vec<PeerInfo>,
}

impl Session {
    /// A stay with a node that is running, with lines from `input`.
    pub fn new(
        commands: mpsc::Sender<Command>,
        events: mpsc::Receiver<Event>,
        input: Option<mpsc::Receiver<Input>>,
        signals: Signals,
    ) -> Self {
        let (waiting, answers, codes) =
            (VecDeque::new(), mpsc::unbounded_channel(), mpsc::unbounded_channel());
        Self {
            commands,
            events,
            input,
            signals,
            waiting,
            answers,
            codes,
            is_finishing: false,
            leave_by: None,
        }
    }

    /// Asks something of the node, after everything asked before.
    pub fn ask(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    /// Asks who is here; answered by [`Happening::Answer`].
    pub fn ask_peers(&mut self, r#ref: Option<serde_json::Value>) {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Peers { reply });
        let answers = self.answers.0.clone();
        tokio::spawn(async move {
            if let Ok(peers) = answer.await {
                // Nobody listens any more: the program is ending.
                let _ = answers.send(Answer { r#ref, peers });
            }
        });
    }

    /// Where one-time codes tell what becomes of them: [`Happening::Code`].
    pub fn code_news(&self) -> mpsc::UnboundedSender<News> {
        self.codes.0.clone()
    }

    /// Leaves as [`Session::leave`] does, but not before what was said has arrived, as long as it moves.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_finishing, true) && self.leave_by.is_none() {
            self.ask(Command::Finish);
        }
    }

    /// Leaves, once everything asked before is done. Asked twice, it is done once.
    pub fn leave(&mut self) {
        if self.leave_by.is_none() {
            self.leave_by = Some(Instant::now() + LEAVING_MAX);
            self.ask(Command::Quit);
        }
    }

    /// Whether we are on our way out.
    pub fn is_leaving(&self) -> bool {
        self.leave_by.is_some()
    }

    /// What happens next. After [`Happening::Ended`] nothing does.
    pub async fn next(&mut self, reading: bool) -> Happening {
        loop {
            let may_read =
                reading && self.waiting.is_empty() && !self.is_finishing && self.leave_by.is_none();
            let leave_by = self.leave_by;
            tokio::select! {
                biased;
                () = self.signals.next() => return Happening::Interrupted,
                permit = self.commands.reserve(), if !self.waiting.is_empty() => match (permit, self.waiting.pop_front()) {
                    (Ok(permit), Some(command)) => permit.send(command),
                    (Err(_), _) | (_, None) => self.waiting.clear(),
                },
                event = self.events.recv() => return match event {
                    Some(Event::Ended(ended)) => Happening::Ended(Some(ended)),
                    Some(event) => Happening::Event(event),
                    None => Happening::Ended(None),
                },
                Some(answer) = self.answers.1.recv() => return Happening::Answer(answer),
                Some(news) = self.codes.1.recv() => return Happening::Code(news),
                input = receive(&mut self.input), if may_read => return Happening::Input(input),
                () = until(leave_by) => return Happening::Ended(Some(Ended::Quit)),
            }
        }
    }
}

async fn receive(input: &mut Option<mpsc::Receiver<Input>>) -> Input {
    match input {
        Some(lines) => lines.recv().await.unwrap_or(Input::End),
        None => std::future::pending().await,
    }
}

/// Waits until then; for ever if there is no such time.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> (Session, mpsc::Receiver<Command>, mpsc::Sender<Event>, mpsc::Sender<Input>) {
        let (commands, asked) = mpsc::channel(1);
        let (tell, events) = mpsc::channel(1);
        let (keys, input) = mpsc::channel(8);
        (Session::new(commands, events, Some(input), Signals::none()), asked, tell, keys)
    }

    #[tokio::test]
    async fn input_waits_until_the_node_has_taken_what_was_asked() {
        let (mut session, mut asked, tell, keys) = session();
        for number in 0..3 {
            session.ask(Command::Rename { name: number.to_string() });
        }
        keys.send(Input::Line("next".into())).await.expect("room for it");
        let node = tokio::spawn(async move {
            let mut names = Vec::new();
            while names.len() < 3 {
                let Some(Command::Rename { name }) = asked.recv().await else { panic!("another command") };
                names.push(name);
            }
            (names, asked)
        });
        let Happening::Input(Input::Line(line)) = session.next(true).await else { panic!("no line") };
        assert_eq!(line, "next");
        assert_eq!(node.await.expect("it ends").0, ["0", "1", "2"]);
        drop(tell);
    }

    #[tokio::test]
    async fn a_question_is_answered_under_its_name() {
        let (mut session, mut asked, _tell, _keys) = session();
        session.ask_peers(Some("q".into()));
        let node = tokio::spawn(async move {
            let Some(Command::Peers { reply }) = asked.recv().await else { panic!("another command") };
            reply.send(Vec::new()).expect("somebody listens");
            asked
        });
        let Happening::Answer(Answer { r#ref, peers }) = session.next(true).await else {
            panic!("no answer")
        };
        assert_eq!((r#ref, peers.len()), (Some("q".into()), 0));
        drop(node);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_let_go_is_left_anyway() {
        let (mut session, asked, tell, _keys) = session();
        session.leave();
        session.leave();
        assert!(matches!(session.next(true).await, Happening::Ended(Some(Ended::Quit))));
        drop((asked, tell));
    }
}
