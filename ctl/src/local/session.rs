//! A session with one supervisord: reads a command line, carries it out, keeps the exit status. The commands
//! themselves are in [`super::commands`], the interactive loop is in [`super::shell`].

use std::io;

use fleetvisor_proto::fault::FaultCode;
use fleetvisor_proto::xmlrpc::Value;
use nix::errno::Errno;

use super::commands;
use super::exit;
use super::failure::Failure;
use super::input::{Awaited, Input, Line};
use super::options::Options;
use super::output::Output;
use super::password;
use super::server::{Address, Server};
use super::verb::{TOPICS, Verb};

/// The version of the API that this client speaks, as `getVersion` answers it.
const API_VERSION: &str = "3.0";

pub(super) struct Session {
    pub(super) server: Server,
    pub(super) out: Output,
    pub(super) input: Input,
    pub(super) interactive: bool,
    pub(super) exitstatus: i32,
}

/// Whether the shell goes on after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Stop,
}

impl Session {
    /// `shell` tells whether Ctrl-C ends a command rather than the program.
    pub(super) fn new(options: &Options, out: Output, shell: bool) -> io::Result<Session> {
        let address = Address {
            serverurl: options.serverurl.clone(),
            username: options.username.clone(),
            password: options.password.clone(),
        };
        Ok(Session {
            server: Server::new(address, shell)?,
            out,
            input: Input::default(),
            interactive: options.interactive,
            exitstatus: exit::SUCCESS,
        })
    }

    /// Carries out one line. A failure without words of its own becomes the `error:` line; only an interrupt
    /// and output that can't be written come back.
    pub(super) fn one(&mut self, line: &str) -> Result<Flow, Failure> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(Flow::Continue);
        }
        let Some((verb, arg)) = split(line) else {
            self.out.line(&format!("*** Unknown syntax: {line}"));
            self.exitstatus = exit::GENERIC;
            self.flush()?;
            return Ok(Flow::Continue);
        };
        let done = self.perform(verb, &arg);
        let flow = match done {
            Ok(flow) => flow,
            Err(failure @ (Failure::Interrupted | Failure::Output(_))) => return Err(failure),
            Err(failure) if failure.is_unauthorized() => {
                self.out.line("Server requires authentication");
                if self.interactive {
                    match self.log_in() {
                        Ok(()) => return self.one(line),
                        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                        Err(failure) => self.out.line(&failure.line()),
                    }
                } else {
                    self.out.line(&failure.line());
                }
                self.exitstatus = exit::GENERIC;
                Flow::Continue
            }
            Err(failure) => {
                self.out.line(&failure.line());
                self.exitstatus = exit::GENERIC;
                Flow::Continue
            }
        };
        self.flush()?;
        Ok(flow)
    }

    fn perform(&mut self, verb: Verb, arg: &str) -> Result<Flow, Failure> {
        // Supervisor's client connects anew for each command, so an idle server may close in between.
        self.server.disconnect();
        match verb {
            Verb::Add => commands::config::add(self, arg)?,
            Verb::Avail => commands::config::avail(self, arg)?,
            Verb::Clear => commands::logs::clear(self, arg)?,
            Verb::Fg => commands::fg::fg(self, arg)?,
            Verb::Help => self.help(arg),
            Verb::Maintail => commands::logs::maintail(self, arg)?,
            Verb::Open => commands::daemon::open(self, arg)?,
            Verb::Pid => commands::daemon::pid(self, arg)?,
            Verb::Reload => commands::daemon::reload(self, arg)?,
            Verb::Remove => commands::config::remove(self, arg)?,
            Verb::Reread => commands::config::reread(self, arg)?,
            Verb::Restart => commands::run::restart(self, arg)?,
            Verb::Shutdown => commands::daemon::shutdown(self, arg)?,
            Verb::Signal => commands::run::signal(self, arg)?,
            Verb::Start => commands::run::start(self, arg)?,
            Verb::Status => commands::status::status(self, arg)?,
            Verb::Stop => commands::run::stop(self, arg)?,
            Verb::Tail => commands::logs::tail(self, arg)?,
            Verb::Update => commands::config::update(self, arg)?,
            Verb::Upgrade => commands::upgrade::upgrade(self, arg)?,
            Verb::Version => commands::daemon::version(self, arg)?,
            Verb::EndOfFile | Verb::Exit | Verb::Quit => {
                self.out.line("");
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    fn help(&mut self, arg: &str) {
        if arg.is_empty() {
            self.out.line(TOPICS);
            return;
        }
        match Verb::from_name(arg).and_then(Verb::help) {
            Some(help) => self.out.line(help),
            None => self.out.line(&format!("*** No help on {arg}")),
        }
    }

    /// A complaint about a command's arguments, and its help.
    pub(super) fn complain(&mut self, message: &str, verb: Verb, status: i32) {
        self.out.line(message);
        self.exitstatus = status;
        if let Some(help) = verb.help() {
            self.out.line(help);
        }
    }

    /// Calls a method of the `supervisor` namespace. What was printed so far is shown first.
    pub(super) fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Failure> {
        self.flush()?;
        self.server.call(&format!("supervisor.{method}"), params)
    }

    /// Whether a server of the right version answers; if not, that was said and the exit status is set.
    pub(super) fn upcheck(&mut self) -> Result<bool, Failure> {
        let version = self.call("getVersion", &[]);
        self.checked(version)
    }

    /// Judges what `getVersion` answered.
    pub(super) fn checked(&mut self, version: Result<Value, Failure>) -> Result<bool, Failure> {
        let serverurl = &self.server.address.serverurl;
        match version {
            Ok(version) if version.as_str() == Some(API_VERSION) => Ok(true),
            Ok(version) => {
                let version = version.as_str().unwrap_or_default();
                self.out.line(&format!(
                    "Sorry, this version of supervisorctl expects to talk to a server with API version \
                     {API_VERSION}, but the remote version is {version}."
                ));
                self.exitstatus = exit::NOT_INSTALLED;
                Ok(false)
            }
            Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::UnknownMethod) => {
                self.out.line(
                    "Sorry, supervisord responded but did not recognize the supervisor namespace commands \
                     that supervisorctl uses to control it.  Please check that the \
                     [rpcinterface:supervisor] section is enabled in the configuration file (see \
                     sample.conf).",
                );
                self.exitstatus = exit::UNIMPLEMENTED_FEATURE;
                Ok(false)
            }
            Err(failure) if failure.connect_errno() == Some(Errno::ECONNREFUSED as i32) => {
                self.out.line(&format!("{serverurl} refused connection"));
                self.exitstatus = exit::INSUFFICIENT_PRIVILEGES;
                Ok(false)
            }
            Err(failure) if failure.connect_errno() == Some(Errno::ENOENT as i32) => {
                self.out.line(&format!("{serverurl} no such file"));
                self.exitstatus = exit::NOT_RUNNING;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Asks a question on stdout and reads a line of stdin.
    pub(super) fn ask(&mut self, question: &str) -> Result<String, Failure> {
        match self.next_line(question)? {
            Some(answer) => Ok(answer),
            None => Err(Failure::EndOfInput),
        }
    }

    /// A line of stdin behind a prompt; `None` at its end.
    pub(super) fn next_line(&mut self, prompt: &str) -> Result<Option<String>, Failure> {
        self.out.text(prompt);
        self.flush()?;
        let mut awaited = Awaited::start(std::mem::take(&mut self.input)).map_err(Failure::Output)?;
        let line = self.server.block_on(async {
            tokio::select! {
                line = awaited.line() => Ok(line),
                _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
            }
        })?;
        self.input = self.server.block_on(awaited.give_up());
        match line {
            Ok(Line::Text(line)) => Ok(Some(line)),
            Ok(Line::End | Line::GivenUp) | Err(_) => Ok(None),
        }
    }

    fn log_in(&mut self) -> Result<(), Failure> {
        let username = self.ask("Username:")?;
        let password = match password::ask("Password:") {
            Ok(password) => password,
            // No terminal: the password comes the way the name came.
            Err(_) => {
                eprintln!("Warning: Password input may be echoed.");
                eprint!("Password:");
                self.ask("")?
            }
        };
        self.out.line("");
        self.server.address.username = Some(username);
        self.server.address.password = Some(password);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }

    /// What a fault, or a status among results, does to the exit status.
    pub(super) fn note(&mut self, code: i64, ignored: Option<FaultCode>) {
        if let Some(status) = exit::of_fault(code, ignored) {
            self.exitstatus = status;
        }
    }
}

/// Verb and argument as Python's `cmd` splits them: the verb is letters, digits and `_`; `?` is `help`.
fn split(line: &str) -> Option<(Verb, String)> {
    let line = match line.strip_prefix('?') {
        Some(topic) => format!("help {topic}"),
        None => line.to_owned(),
    };
    let end = line.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(line.len());
    let verb = Verb::from_name(&line[..end])?;
    Some((verb, line[end..].trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_pythons_cmd_splits_them() {
        for (line, verb, arg) in [
            ("status", Verb::Status, ""),
            ("stop  a b ", Verb::Stop, "a b"),
            ("?start", Verb::Help, "start"),
            ("?", Verb::Help, ""),
            ("tail-f web", Verb::Tail, "-f web"),
        ] {
            assert_eq!(split(line), Some((verb, arg.to_owned())), "{line}");
        }
        for line in ["foo", "!ls", "*", "statusx", "Status"] {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
