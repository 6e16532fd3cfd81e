//! `swarm join`: chat, with three faces.

pub mod commands;
pub mod editor;
pub mod json;
pub mod pipe;
pub mod repl;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::args::JoinArgs;
use super::code::{self, Codes};
use super::config::RoomConfig;
use super::consent::Consent;
use super::desk::Audience;
use super::exit::{Exit, Failure};
use super::input::{self, Input};
use super::json::{ErrorCode, Event as JsonEvent, to_line};
use super::room::{self, Files, Room};
use super::roster::Roster;
use super::session::{Happening, Session};
use super::shelf::Shelf;
use super::signals::Signals;
use super::term::{self, Palette, RestoredAtEnd, SavedTerminal};
use super::values::Arrival;
use super::{invite, layout, log, words};
use crate::core::transfer::Target;
use crate::node::api::Ended;
use crate::wire::Invite;

use editor::{History, Prompter};
use json::JsonFace;
use pipe::PipeFace;
use repl::{Ask, Repl, Settings, Step};

/// How often the status line is looked at while nothing happens.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Runs `swarm join`.
pub async fn run(args: JoinArgs) -> Result<Exit, Failure> {
    if args.accept.out.as_os_str() == "-" {
        return Err(Failure::new(
            Exit::Usage,
            "a chat can't be mixed with a file on stdout: swarm recv -o - does that",
        ));
    }
    let face = if args.json {
        Face::Json
    } else if term::is_interactive() {
        Face::Terminal
    } else if args.accept.on_conflict == Arrival::Ask {
        return Err(Arrival::nobody_to_ask());
    } else {
        Face::Pipe
    };
    let audience = if args.json { Audience::Program } else { Audience::People };
    let (invite, code) = (args.invite.as_deref(), args.typed_code.as_deref());
    let invite = code::exchange(&args.room, invite, code, audience).await?;
    let config = RoomConfig::resolve(&args.room, invite.as_ref())?;
    let consent = Consent::new(&args.accept, config.place.is_keyed());
    let files = Files::new(&args.accept, Target::Folder(args.accept.out.clone()));
    let saved = SavedTerminal::save();
    let signals = Signals::listen(move || saved.restore())?;
    let mut room = room::enter(&config, files).await?;
    let server = room.server.take();
    let result = match face {
        Face::Json => speak_json(room, &config, consent, &args, signals).await,
        Face::Pipe => pipe_lines(room, &config, consent, &args, signals).await,
        Face::Terminal => chat(room, &config, consent, &args, signals).await,
    };
    if let Some(server) = server {
        server.close().await;
    }
    result
}

#[derive(Debug, Clone, Copy)]
enum Face {
    Json,
    Pipe,
    Terminal,
}

/// How a stay ended, for the shell.
pub(super) fn exit_of(ended: Option<&Ended>) -> Result<Exit, Failure> {
    let exit = match ended {
        Some(Ended::Quit) => return Ok(Exit::Done),
        Some(Ended::Undelivered { .. }) => Exit::Incomplete,
        Some(Ended::Refused { .. }) => Exit::Refused,
        Some(Ended::Unreachable { .. }) => Exit::Unreachable,
        None => Exit::Failed,
    };
    Err(Failure::new(exit, words::ended(ended).unwrap_or_default()))
}

/// The terminal.
async fn chat(
    room: Room,
    config: &RoomConfig,
    consent: Consent,
    args: &JoinArgs,
    signals: Signals,
) -> Result<Exit, Failure> {
    let _restored = RestoredAtEnd(SavedTerminal::save());
    let history = if args.no_history { History::Forgotten } else { History::Kept };
    let (prompter, typed) = editor::start(history)?;
    let printer = prompter.printer().clone();
    log::redirect(Some(Arc::new(move |line| printer.print(line))));
    for line in invite::lines(&room, config.telling, "join") {
        term::print_line(&line)?;
    }
    let mut repl = Repl::new(Settings {
        roster: Roster::new(config.name.clone()),
        shelf: Shelf::receiving_into(args.accept.out.clone()),
        consent,
        palette: Palette::of(&io::stdout()),
        keyed: config.place.is_keyed(),
        invite: Some(room.invite.reveal()),
        now: || jiff::Zoned::now().strftime("%H:%M").to_string(),
    });
    let node = room.node;
    let mut session = Session::new(node.commands, node.events, Some(typed), signals);
    let codes = codes(&session, config, &room.invite, args)?;
    prompter.prompt(Vec::new(), repl.prompt());
    let ended = converse(&mut session, &mut repl, &prompter, &codes).await;
    log::redirect(None);
    exit_of(ended.as_ref())
}

async fn converse(
    session: &mut Session,
    repl: &mut Repl,
    prompter: &Prompter,
    codes: &Codes,
) -> Option<Ended> {
    loop {
        repl.set_columns(terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0)));
        prompter.set_labels(repl.labels());
        prompter.set_status(repl.status());
        let happening = match tokio::time::timeout(STATUS_EVERY, session.next(true)).await {
            Ok(happening) => happening,
            Err(_) => continue,
        };
        let step = match happening {
            // What breaks off because we leave is no news.
            Happening::Event(_) if session.is_leaving() => continue,
            Happening::Event(event) => repl.on_event(Instant::now(), &event),
            Happening::Answer(answer) => Step { lines: repl.peers(&answer.peers), asks: Vec::new() },
            Happening::Code(news) => Step { lines: repl.code(&news), asks: Vec::new() },
            Happening::Input(Input::Line(line)) => {
                let step = repl.on_line(Instant::now(), &line);
                if !step.asks.iter().any(|ask| matches!(ask, Ask::Quit)) {
                    prompter.prompt(step.lines, repl.prompt());
                }
                Step { lines: Vec::new(), asks: step.asks }
            }
            Happening::Interrupted if session.is_leaving() => return Some(Ended::Quit),
            Happening::Input(Input::Interrupt | Input::End) | Happening::Interrupted => {
                Step { lines: Vec::new(), asks: vec![Ask::Quit] }
            }
            Happening::Ended(ended) => return ended,
        };
        step.lines.into_iter().for_each(|line| prompter.printer().print(line));
        for ask in step.asks {
            match ask {
                Ask::Command(command) => session.ask(command),
                Ask::Peers => session.ask_peers(None),
                Ask::Code => codes.open(None),
                Ask::Quit => session.leave(),
            }
        }
    }
}

/// A pipe.
async fn pipe_lines(
    room: Room,
    config: &RoomConfig,
    consent: Consent,
    args: &JoinArgs,
    signals: Signals,
) -> Result<Exit, Failure> {
    invite::lines(&room, config.telling, "join").iter().for_each(|line| term::eprint_line(line));
    let mut face = PipeFace::new(Roster::new(config.name.clone()), consent, config.place.is_keyed());
    let node = room.node;
    let mut session = Session::new(node.commands, node.events, Some(input::stdin_lines()), signals);
    codes(&session, config, &room.invite, args)?;
    let wait = args.wait.unwrap_or(1);
    let mut reading = wait == 0;
    loop {
        match session.next(reading).await {
            Happening::Event(event) => {
                let step = face.on_event(&event);
                let rows = step.err.iter().flat_map(|line| layout::hang(line, term::stderr_columns()));
                rows.for_each(|row| term::eprint_line(&row));
                // Whoever closed the pipe has read enough.
                if step.out.iter().try_for_each(|line| term::print_line(line)).is_err() {
                    session.leave();
                }
                step.ask.into_iter().for_each(|command| session.ask(command));
                reading = reading || face.peers() >= wait;
            }
            Happening::Input(Input::Line(line)) => session.ask(face.on_line(line)),
            Happening::Input(Input::End | Input::Interrupt) if args.keep => reading = false,
            Happening::Interrupted if session.is_leaving() => return Ok(Exit::Done),
            Happening::Input(Input::End) => session.finish(),
            Happening::Input(Input::Interrupt) | Happening::Interrupted => session.leave(),
            Happening::Answer(_) => {}
            Happening::Code(news) => {
                let lines = news.lines("join", "--code makes one at the start");
                lines.iter().for_each(|line| term::eprint_line(line));
            }
            Happening::Ended(ended) => return exit_of(ended.as_ref()),
        }
    }
}

/// A program.
async fn speak_json(
    room: Room,
    config: &RoomConfig,
    consent: Consent,
    args: &JoinArgs,
    signals: Signals,
) -> Result<Exit, Failure> {
    if let Some(event) = invite::event(&room) {
        term::print_line(&to_line(&event))?;
    }
    let mut face = JsonFace::new(config.name.clone(), Some(room.invite.reveal()), consent);
    let node = room.node;
    let mut session = Session::new(node.commands, node.events, Some(input::stdin_lines()), signals);
    let codes = codes(&session, config, &room.invite, args)?;
    let wait = args.wait.unwrap_or(0);
    let mut reading = wait == 0;
    loop {
        let mut shown = None;
        match session.next(reading).await {
            Happening::Event(event) => {
                let (event, ask) = face.on_event(&event);
                shown = event;
                ask.into_iter().for_each(|command| session.ask(command));
                reading = reading || face.peers() >= wait;
            }
            Happening::Answer(answer) => shown = Some(face.on_answer(answer)),
            Happening::Code(news) => shown = Some(news.event()),
            Happening::Input(Input::Line(line)) => match face.on_line(&line) {
                Ok(Some(json::Ask::Command(command))) => session.ask(command),
                Ok(Some(json::Ask::Peers(r#ref))) => session.ask_peers(r#ref),
                Ok(Some(json::Ask::Code(r#ref))) => codes.open(r#ref),
                Ok(Some(json::Ask::Quit)) => session.finish(),
                Ok(None) => {}
                Err(event) => shown = Some(*event),
            },
            Happening::Input(Input::End | Input::Interrupt) if args.keep => reading = false,
            Happening::Interrupted if session.is_leaving() => return Ok(Exit::Done),
            Happening::Input(Input::End) => session.finish(),
            Happening::Input(Input::Interrupt) | Happening::Interrupted => session.leave(),
            Happening::Ended(ended) => return end_json(ended.as_ref()),
        }
        if let Some(event) = shown
            && term::print_line(&to_line(&event)).is_err()
        {
            session.leave();
        }
    }
}

/// One-time codes for this room; the first at once if `--code` was given.
fn codes(session: &Session, config: &RoomConfig, invite: &Invite, args: &JoinArgs) -> Result<Codes, Failure> {
    let codes = Codes::new(config, invite, session.code_news())?;
    if args.room.code {
        codes.open(None);
    }
    Ok(codes)
}

/// Says why it is over, where nobody asked for it, and that it is over.
pub(super) fn end_json(ended: Option<&Ended>) -> Result<Exit, Failure> {
    let result = exit_of(ended);
    let (exit, code) = match &result {
        Ok(exit) => (*exit, None),
        Err(failure) => (failure.exit(), Some(ErrorCode::from(failure.exit()))),
    };
    if let Some(code) = code {
        let message = words::ended(ended).unwrap_or_default();
        term::print_line(&to_line(&JsonEvent::Error { code, message, r#ref: None }))?;
    }
    term::print_line(&to_line(&JsonEvent::End { exit: exit as u8 }))?;
    result
}
