//! From a command line to an exit status: one command, or a shell that reads them from a terminal with
//! history and completion, or line by line from anything else.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use super::failure::Failure;
use super::options::{Leave, Options};
use super::output::Output;
use super::server::Server;
use super::session::{Flow, Session};
use super::verb::{Argument, Verb};

/// Commands kept in the history.
const HISTORY: usize = 1000;

/// The whole of the `supervisorctl` program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_else(|| OsString::from("supervisorctl"));
    let args: Vec<OsString> = words.collect();
    match Options::of_this_host(&program, &args) {
        Ok(options) => run(&options),
        Err(leave) => leave.tell(),
    }
}

impl Leave {
    /// Prints it and gives the exit status.
    pub fn tell(&self) -> ExitCode {
        // Nobody is left to tell of an error in writing.
        match self {
            Leave::Help(text) => {
                let _ = io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Leave::Usage(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::from(2)
            }
        }
    }
}

/// Carries out the command of the options, or the shell where there is none.
pub fn run(options: &Options) -> ExitCode {
    let shell = options.words.is_empty();
    let output = if options.json {
        Output::json(Box::new(io::stdout()), Box::new(io::stderr()))
    } else {
        Output::new(Box::new(io::stdout()))
    };
    let session = Session::new(options, output, shell);
    let mut session = match session {
        Ok(session) => session,
        Err(error) => {
            eprintln!("Error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if shell {
        return match interact(&mut session, options) {
            // Supervisor's shell always ends well.
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match session.one(&options.words.join(" ")) {
        Ok(Flow::Continue | Flow::Stop) => {
            ExitCode::from(u8::try_from(session.exitstatus).unwrap_or(u8::MAX))
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn interact(session: &mut Session, options: &Options) -> Result<(), Failure> {
    let ended = if io::stdin().is_terminal() && io::stdout().is_terminal() {
        from_terminal(session, options)
    } else {
        from_lines(session, options)
    };
    match ended {
        Err(Failure::Interrupted) => {
            session.out.line("");
            session.flush()
        }
        ended => ended,
    }
}

fn from_lines(session: &mut Session, options: &Options) -> Result<(), Failure> {
    let prompt = format!("{}> ", options.prompt);
    let mut flow = session.one("status")?;
    while flow == Flow::Continue {
        flow = match session.next_line(&prompt)? {
            Some(line) => session.one(&line)?,
            None => session.one("EOF")?,
        };
    }
    Ok(())
}

fn from_terminal(session: &mut Session, options: &Options) -> Result<(), Failure> {
    let prompt = format!("{}> ", options.prompt);
    let unusable = |error: ReadlineError| Failure::Output(io::Error::other(error.to_string()));
    let server = Server::new(session.server.address.clone(), false).map_err(Failure::Output)?;
    let names = Names { server: RefCell::new(server), known: RefCell::new(None) };
    // As readline does where there is a choice: what all have in common, and a list at the next key.
    let config = Config::builder()
        .auto_add_history(true)
        .max_history_size(HISTORY)
        .map_err(unusable)?
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Names, FileHistory> = Editor::with_config(config).map_err(unusable)?;
    editor.set_helper(Some(names));
    if let Some(file) = &options.history_file {
        load_history(&mut editor, file);
    }
    let mut flow = session.one("status");
    while matches!(flow, Ok(Flow::Continue)) {
        if let Some(names) = editor.helper_mut() {
            names.forget(session);
        }
        flow = match editor.readline(&prompt) {
            Ok(line) => session.one(&line),
            Err(ReadlineError::Eof) => session.one("EOF"),
            Err(ReadlineError::Interrupted) => Err(Failure::Interrupted),
            Err(error) => Err(unusable(error)),
        };
    }
    if let Some(file) = &options.history_file {
        save_history(&editor, file);
    }
    flow.map(|_| ())
}

/// One command a line, as Python's readline keeps it: both clients can share the file.
fn load_history(editor: &mut Editor<Names, FileHistory>, file: &Path) {
    // There is none before the first session ends.
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let _ = editor.add_history_entry(line);
    }
}

fn save_history(editor: &Editor<Names, FileHistory>, file: &Path) {
    let text: String = editor.history().iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    if let Err(error) = std::fs::write(file, text) {
        eprintln!("cannot write {}: {error}", file.display());
    }
}

/// Completes verbs, groups and processes. The names are asked for once between two commands.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Names {
    server: RefCell<Server>,
    known: RefCell<Option<Vec<(String, String)>>>,
}

impl Names {
    fn forget(&mut self, session: &Session) {
        self.server.get_mut().address = session.server.address.clone();
        self.server.get_mut().disconnect();
        *self.known.get_mut() = None;
    }

    /// Group and name of every process; none while the server can't be asked.
    fn known(&self) -> Vec<(String, String)> {
        let mut known = self.known.borrow_mut();
        known
            .get_or_insert_with(|| {
                let answer = self.server.borrow_mut().call("supervisor.getAllProcessInfo", &[]);
                let infos = answer.ok();
                let infos = infos.as_ref().and_then(|infos| infos.as_array()).unwrap_or_default();
                infos
                    .iter()
                    .filter_map(|info| {
                        let text = |name| info.get(name).and_then(|value| value.as_str()).map(str::to_owned);
                        Some((text("group")?, text("name")?))
                    })
                    .collect()
            })
            .clone()
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let start = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        Ok((start, candidates(typed, || self.known())))
    }
}

/// What the last word of `typed` can become, each with a space behind it.
fn candidates(typed: &str, known: impl Fn() -> Vec<(String, String)>) -> Vec<String> {
    let word = typed.rsplit(char::is_whitespace).next().unwrap_or_default();
    let first = typed.split_whitespace().next().unwrap_or_default();
    let verbs = || {
        Verb::ALL
            .into_iter()
            .filter(|verb| *verb != Verb::EndOfFile && !verb.is_own())
            .map(|verb| verb.name().to_owned())
            .collect()
    };
    let all: Vec<String> = if typed.trim_start() == word {
        verbs()
    } else {
        match Verb::from_name(first).map_or(Argument::None, Verb::argument) {
            Argument::None => Vec::new(),
            Argument::Verb => verbs(),
            Argument::Group => known().into_iter().map(|(group, _)| group).collect(),
            Argument::Process => known().into_iter().flat_map(|name| process_words(name, word)).collect(),
        }
    };
    let mut seen = std::collections::HashSet::new();
    all.into_iter()
        .filter(|candidate| candidate.starts_with(word) && seen.insert(candidate.clone()))
        .map(|candidate| candidate + " ")
        .collect()
}

fn process_words((group, name): (String, String), word: &str) -> Vec<String> {
    if word.contains(':') || group != name {
        vec![format!("{group}:{name}"), format!("{group}:*")]
    } else {
        vec![name]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(typed: &str) -> Vec<String> {
        candidates(typed, || {
            [("cat", "cat"), ("web", "web_00"), ("web", "web_01")]
                .map(|(group, name)| (group.to_owned(), name.to_owned()))
                .to_vec()
        })
    }

    #[test]
    fn verbs_groups_and_processes_are_completed() {
        assert_eq!(complete("st"), ["start ", "status ", "stop "]);
        assert_eq!(complete("help re"), ["reload ", "remove ", "reread ", "restart "]);
        assert_eq!(complete("update "), ["cat ", "web "]);
        assert_eq!(complete("stop w"), ["web:web_00 ", "web:* ", "web:web_01 "]);
        assert_eq!(complete("stop cat web:web_01 c"), ["cat "]);
        assert_eq!(complete("stop cat:"), ["cat:cat ", "cat:* "]);
        assert!(complete("version ").is_empty());
        assert!(complete("nosuch x").is_empty());
    }
}
