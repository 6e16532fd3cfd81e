//! What is typed at the prompt, parsed.

use std::path::PathBuf;

use crate::wire::text::{self, Name, NameError};

/// The commands, as `/help` and the completion show them: name, arguments, meaning.
pub const COMMANDS: [(&str, &str, &str); 14] = [
    ("/peers", "", "who is here, and how each is connected"),
    ("/msg", "NAME TEXT", "say something to one peer only"),
    ("/me", "TEXT", "say what you do"),
    ("/nick", "NAME", "take another name"),
    ("/send", "[@NAME] PATH…", "offer files and folders to everyone, or to one peer"),
    ("/accept", "[N|all]", "take what is offered"),
    ("/reject", "[N]", "decline an offer, or stop a transfer"),
    ("/transfers", "", "all transfers and how far they are"),
    ("/ignore", "NAME", "hear nothing more from a peer"),
    ("/unignore", "NAME", "listen to it again"),
    ("/invite", "", "print the invite to this room"),
    ("/code", "", "make a one-time code that lets one person in"),
    ("/help", "", "this list"),
    ("/quit", "", "leave the room"),
];

/// A line, as it is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed<'a> {
    /// Nothing.
    Nothing,
    /// To be said to everyone.
    Say(&'a str),
    /// `/msg`: name and text, not yet told apart, since names may have spaces.
    Direct(&'a str),
    /// `/nick`.
    Rename(Name),
    /// `/peers`.
    Peers,
    /// `/send`.
    Send {
        /// To one peer only.
        to: Option<String>,
        /// What.
        paths: Vec<PathBuf>,
    },
    /// `/accept`: which; nothing means the only one.
    Accept(&'a str),
    /// `/reject`: which; nothing means the only one.
    Reject(&'a str),
    /// `/transfers`.
    Transfers,
    /// `/ignore`.
    Ignore(&'a str),
    /// `/unignore`.
    Unignore(&'a str),
    /// `/invite`.
    Invite,
    /// `/code`.
    Code,
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
}

/// Why a line makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// Not a command.
    #[error("there is no {0}; /help shows what there is (a line that begins with / is sent with //)")]
    Unknown(String),
    /// Something is missing behind it.
    #[error("usage: {0} {1}")]
    Usage(&'static str, &'static str),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A quotation mark without its other half.
    #[error("a quotation mark is missing")]
    Quote,
}

/// Parses a line.
pub fn parse(line: &str) -> Result<Typed<'_>, TypedError> {
    if line.trim().is_empty() {
        return Ok(Typed::Nothing);
    }
    if line.starts_with("//") {
        return Ok(Typed::Say(&line[1..]));
    }
    if !line.starts_with('/') {
        return Ok(Typed::Say(line));
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match command {
        // As on IRC and in other chats, an action is a line that begins so; each face shows it in its own way.
        "/me" => needed("/me", rest).map(|_| Typed::Say(line)),
        "/msg" => needed("/msg", rest).map(Typed::Direct),
        "/nick" => Ok(Typed::Rename(needed("/nick", rest)?.parse()?)),
        "/peers" => Ok(Typed::Peers),
        "/send" => send(needed("/send", rest)?),
        "/accept" => Ok(Typed::Accept(rest)),
        "/reject" => Ok(Typed::Reject(rest)),
        "/transfers" => Ok(Typed::Transfers),
        "/ignore" => needed("/ignore", rest).map(Typed::Ignore),
        "/unignore" => needed("/unignore", rest).map(Typed::Unignore),
        "/invite" => Ok(Typed::Invite),
        "/code" => Ok(Typed::Code),
        "/help" => Ok(Typed::Help),
        "/quit" => Ok(Typed::Quit),
        unknown => Err(TypedError::Unknown(text::line(unknown, 40).into_owned())),
    }
}

/// What a line says if it is an action: `/me waves`.
pub fn action(line: &str) -> Option<&str> {
    line.strip_prefix("/me ").map(str::trim_start).filter(|what| !what.is_empty())
}

fn needed<'a>(command: &'static str, rest: &'a str) -> Result<&'a str, TypedError> {
    if !rest.is_empty() {
        return Ok(rest);
    }
    let usage = COMMANDS.iter().find(|(name, _, _)| *name == command).map_or("", |(_, usage, _)| usage);
    Err(TypedError::Usage(command, usage))
}

fn send(rest: &str) -> Result<Typed<'static>, TypedError> {
    let mut words = split_words(rest)?;
    let to = match words.first() {
        Some(first) if first.starts_with('@') => Some(words.remove(0)[1..].to_owned()),
        Some(_) | None => None,
    };
    if words.is_empty() {
        needed("/send", "")?;
    }
    Ok(Typed::Send { to, paths: words.iter().map(|word| expand_home(word)).collect() })
}

/// Words as in a shell: apart by spaces, kept together by quotation marks or backslashes.
fn split_words(text: &str) -> Result<Vec<String>, TypedError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(TypedError::Quote);
    }
    words.extend(word);
    Ok(words)
}

fn expand_home(path: &str) -> PathBuf {
    let home = || directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    match path.strip_prefix("~/") {
        Some(rest) => home().map_or_else(|| path.into(), |home| home.join(rest)),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_unless_it_begins_with_a_slash() {
        assert_eq!(parse("hello /quit"), Ok(Typed::Say("hello /quit")));
        assert_eq!(parse("//quit is a command"), Ok(Typed::Say("/quit is a command")));
        assert_eq!(parse("/me waves"), Ok(Typed::Say("/me waves")));
        assert_eq!(parse("@fast hello"), Ok(Typed::Say("@fast hello")));
        assert_eq!(parse("   "), Ok(Typed::Nothing));
    }

    #[test]
    fn commands_are_parsed() {
        assert_eq!(parse("/msg Ada Lovelace hi"), Ok(Typed::Direct("Ada Lovelace hi")));
        assert_eq!(parse("/accept"), Ok(Typed::Accept("")));
        assert_eq!(parse("/accept 3 "), Ok(Typed::Accept("3")));
        assert_eq!(parse("/nick ada"), Ok(Typed::Rename("ada".parse().expect("a name"))));
        assert_eq!(parse("/quit"), Ok(Typed::Quit));
    }

    #[test]
    fn every_command_of_the_list_is_known() {
        for (name, _, _) in COMMANDS {
            assert!(!matches!(parse(&format!("{name} x")), Err(TypedError::Unknown(_))), "{name}");
        }
    }

    #[test]
    fn files_may_have_spaces_in_their_names() {
        let send = |to: Option<&str>, paths: &[&str]| {
            let paths = paths.iter().map(PathBuf::from).collect();
            Ok(Typed::Send { to: to.map(str::to_owned), paths })
        };
        assert_eq!(parse(r#"/send a\ b "c d" e'f g'"#), send(None, &["a b", "c d", "ef g"]));
        assert_eq!(parse("/send '@Ada Lovelace' x"), send(Some("Ada Lovelace"), &["x"]));
        assert_eq!(parse("/send \"x"), Err(TypedError::Quote));
        assert_eq!(parse("/send @ada"), Err(TypedError::Usage("/send", "[@NAME] PATH…")));
    }

    #[test]
    fn what_makes_no_sense_says_what_would() {
        let message = |line| parse(line).expect_err("no sense").to_string();
        assert_eq!(message("/msg"), "usage: /msg NAME TEXT");
        assert_eq!(message("/nick a\u{202e}"), "a name can't contain the invisible character U+202E");
        assert!(message("/\x1b[2J").starts_with("there is no /␛[2J;"));
    }
}
