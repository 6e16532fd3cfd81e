//! The invite to a room that we made, told to those who pass it on. Nothing is told of one that somebody gave us.

use super::config::Telling;
use super::json::{Event, VERSION};
use super::room::{Origin, Reach, Room};

/// For people; `command` is what others use the invite with.
pub fn lines(room: &Room, told: Telling, command: &str) -> Vec<String> {
    let Origin::Made { reach } = room.origin else { return Vec::new() };
    let mut lines = vec![
        format!("The room is {}. Others join with this; whoever has it can read along:", room.invite.room()),
        String::new(),
        format!("  swarm {command} '{}'", told.text(&room.invite)),
        String::new(),
    ];
    if told.qr {
        lines.extend(room.invite.qr().lines().map(str::to_owned));
        lines.push(String::new());
    }
    if reach == Reach::Machine {
        lines.push("It works on this machine only; --listen 0.0.0.0:0 opens it to your network.".to_owned());
        lines.push(String::new());
    }
    lines
}

/// For programs.
pub fn event(room: &Room) -> Option<Event> {
    match room.origin {
        Origin::Made { .. } => {
            let (invite, room) = (room.invite.reveal(), room.invite.room().clone());
            Some(Event::Invite { version: VERSION, invite, room })
        }
        Origin::Given => None,
    }
}
