//! A program on a terminal of its own: what a person types, and what a person sees.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::pty::{Winsize, openpty};

use crate::wait::{LIMIT, wait_for};

/// Ctrl-C and Ctrl-D, as a keyboard sends them.
pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";
pub const UP: &str = "\x1b[A";

/// The program ends with it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    raw: Vec<u8>,
    /// How much of what can be read has been waited for.
    read: usize,
}

impl Terminal {
    /// Runs the command with its environment and no more, as leader of a session.
    ///
    /// # Panics
    /// When it can't be started.
    #[track_caller]
    pub fn start(command: &Command) -> Terminal {
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("there are terminals");
        let keyboard = File::from(pair.master);
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor can be cloned"));
        session.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = session.spawn().expect("setsid runs");
        let mut master = keyboard.try_clone().expect("a descriptor can be cloned");
        let (sender, screen) = channel();
        // Ends when nobody has the other side open any more; `session` and `pair` do, up to here.
        drop(session);
        drop(pair.slave);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count) = master.read(&mut chunk) {
                if count == 0 || sender.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, keyboard, screen, raw: Vec::new(), read: 0 }
    }

    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until this appears behind everything that was waited for before, and gives what came up to its end.
    #[track_caller]
    pub fn wait(&mut self, part: &str) -> String {
        let mut found = String::new();
        let end = wait_for(&format!("{part:?} on the terminal"), || {
            self.raw.extend(self.screen.try_iter().flatten());
            found = readable(&self.raw)[self.read..].to_owned();
            found.find(part).map(|at| at + part.len()).ok_or_else(|| format!("{found:?}"))
        });
        self.read += end;
        found.truncate(end);
        found
    }

    /// Waits for the program's end; what came since the last wait, and how it ended.
    #[track_caller]
    pub fn end(&mut self) -> (String, ExitStatus) {
        let status = wait_for("the program's end", || {
            self.child.try_wait().expect("an own child").ok_or_else(|| "it still runs".to_owned())
        });
        while let Ok(bytes) = self.screen.recv_timeout(LIMIT) {
            self.raw.extend(bytes);
        }
        (readable(&self.raw)[self.read..].to_owned(), status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Without what moves the cursor or changes colours. An unfinished sequence at the end counts as nothing.
fn readable(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                if rest.next() == Some('[') {
                    rest.by_ref().find(|c| c.is_ascii_alphabetic() || *c == '~');
                }
            }
            '\r' | '\x07' | '\x08' => {}
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reach_the_program_and_interrupt_it() {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "trap 'echo caught; exit 7' INT; read -r line; echo \"[$line]\"; while :; do sleep 1; done",
        ]);
        command.env("PATH", "/usr/bin:/bin");
        let mut terminal = Terminal::start(&command);
        terminal.type_in("hello\r");
        terminal.wait("[hello]\n");
        terminal.type_in(CTRL_C);
        let (rest, status) = terminal.end();
        assert!(rest.ends_with("caught\n"), "{rest:?}");
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn what_moves_the_cursor_is_not_read() {
        assert_eq!(readable(b"\x1b[?2004h\x1b[1;32mok\x1b[0m\r\n\x07\x1b["), "ok\n");
    }
}
