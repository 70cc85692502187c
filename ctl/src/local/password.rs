//! Asks for a password on the terminal without showing it, as Python's `getpass` does.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Asks on the controlling terminal. An error where there is none.
pub(super) fn ask(prompt: &str) -> io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
    let answer = write_and_read(&mut terminal, prompt);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before)?;
    terminal.write_all(b"\n")?;
    answer
}

fn write_and_read(terminal: &mut std::fs::File, prompt: &str) -> io::Result<String> {
    terminal.write_all(prompt.as_bytes())?;
    let mut line = String::new();
    BufReader::new(&*terminal).read_line(&mut line)?;
    Ok(line.trim_end_matches('\n').to_owned())
}
