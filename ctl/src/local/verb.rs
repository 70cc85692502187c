//! The commands of `supervisorctl` by name, and their help texts, which are Supervisor's to the letter:
//! people and scripts read them.

/// What may be typed as the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Add,
    Avail,
    Clear,
    EndOfFile,
    Exit,
    Fg,
    Help,
    Maintail,
    Open,
    Pid,
    Quit,
    Reload,
    Remove,
    Reread,
    Restart,
    Shutdown,
    Signal,
    Start,
    Status,
    Stop,
    Tail,
    Update,
    Upgrade,
    Version,
}

/// What can be completed after a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    None,
    Verb,
    Group,
    Process,
}

impl Verb {
    pub(super) const ALL: [Verb; 24] = [
        Verb::Add,
        Verb::Avail,
        Verb::Clear,
        Verb::EndOfFile,
        Verb::Exit,
        Verb::Fg,
        Verb::Help,
        Verb::Maintail,
        Verb::Open,
        Verb::Pid,
        Verb::Quit,
        Verb::Reload,
        Verb::Remove,
        Verb::Reread,
        Verb::Restart,
        Verb::Shutdown,
        Verb::Signal,
        Verb::Start,
        Verb::Status,
        Verb::Stop,
        Verb::Tail,
        Verb::Update,
        Verb::Upgrade,
        Verb::Version,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Verb::Add => "add",
            Verb::Avail => "avail",
            Verb::Clear => "clear",
            Verb::EndOfFile => "EOF",
            Verb::Exit => "exit",
            Verb::Fg => "fg",
            Verb::Help => "help",
            Verb::Maintail => "maintail",
            Verb::Open => "open",
            Verb::Pid => "pid",
            Verb::Quit => "quit",
            Verb::Reload => "reload",
            Verb::Remove => "remove",
            Verb::Reread => "reread",
            Verb::Restart => "restart",
            Verb::Shutdown => "shutdown",
            Verb::Signal => "signal",
            Verb::Start => "start",
            Verb::Status => "status",
            Verb::Stop => "stop",
            Verb::Tail => "tail",
            Verb::Update => "update",
            Verb::Upgrade => "upgrade",
            Verb::Version => "version",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.name() == name)
    }

    pub(super) const fn argument(self) -> Argument {
        match self {
            Verb::Help => Argument::Verb,
            Verb::Add | Verb::Remove | Verb::Update => Argument::Group,
            Verb::Clear
            | Verb::Fg
            | Verb::Pid
            | Verb::Restart
            | Verb::Signal
            | Verb::Start
            | Verb::Status
            | Verb::Stop
            | Verb::Tail => Argument::Process,
            Verb::Avail
            | Verb::EndOfFile
            | Verb::Exit
            | Verb::Maintail
            | Verb::Open
            | Verb::Quit
            | Verb::Reload
            | Verb::Reread
            | Verb::Shutdown
            | Verb::Upgrade
            | Verb::Version => Argument::None,
        }
    }

    /// Lines of `help VERB`; `None` where there is no help.
    pub(super) const fn help(self) -> Option<&'static str> {
        Some(match self {
            Verb::EndOfFile => return None,
            Verb::Add => "add <name> [...]\tActivates any updates in config for process/group",
            Verb::Avail => "avail\t\t\tDisplay all configured processes",
            Verb::Clear => {
                "clear <name>\t\tClear a process' log files.\n\
                 clear <name> <name>\tClear multiple process' log files\n\
                 clear all\t\tClear all process' log files"
            }
            Verb::Exit => "exit\tExit the supervisor shell.",
            Verb::Fg => "fg <process>\tConnect to a process in foreground mode\n\t\tCtrl-C to exit",
            Verb::Help => "help\t\tPrint a list of available actions\nhelp <action>\tPrint help for <action>",
            Verb::Maintail => {
                "maintail -f \tContinuous tail of supervisor main log file (Ctrl-C to exit)\n\
                 maintail -100\tlast 100 *bytes* of supervisord main log file\n\
                 maintail\tlast 1600 *bytes* of supervisor main log file\n"
            }
            Verb::Open => {
                "open <url>\tConnect to a remote supervisord process.\n\
                 \t\t(for UNIX domain socket, use unix:///socket/path)"
            }
            Verb::Pid => {
                "pid\t\t\tGet the PID of supervisord.\n\
                 pid <name>\t\tGet the PID of a single child process by name.\n\
                 pid all\t\t\tGet the PID of every child process, one per line."
            }
            Verb::Quit => "quit\tExit the supervisor shell.",
            Verb::Reload => "reload \t\tRestart the remote supervisord.",
            Verb::Remove => "remove <name> [...]\tRemoves process/group from active config",
            Verb::Reread => "reread \t\t\tReload the daemon's configuration files without add/remove",
            Verb::Restart => {
                "restart <name>\t\tRestart a process\n\
                 restart <gname>:*\tRestart all processes in a group\n\
                 restart <name> <name>\tRestart multiple processes or groups\n\
                 restart all\t\tRestart all processes\n\
                 Note: restart does not reread config files. For that, see reread and update."
            }
            Verb::Shutdown => "shutdown \tShut the remote supervisord down.",
            Verb::Signal => {
                "signal <signal name> <name>\t\tSignal a process\n\
                 signal <signal name> <gname>:*\t\tSignal all processes in a group\n\
                 signal <signal name> <name> <name>\tSignal multiple processes or groups\n\
                 signal <signal name> all\t\tSignal all processes"
            }
            Verb::Start => {
                "start <name>\t\tStart a process\n\
                 start <gname>:*\t\tStart all processes in a group\n\
                 start <name> <name>\tStart multiple processes or groups\n\
                 start all\t\tStart all processes"
            }
            Verb::Status => {
                "status <name>\t\tGet status for a single process\n\
                 status <gname>:*\tGet status for all processes in a group\n\
                 status <name> <name>\tGet status for multiple named processes\n\
                 status\t\t\tGet all process status info"
            }
            Verb::Stop => {
                "stop <name>\t\tStop a process\n\
                 stop <gname>:*\t\tStop all processes in a group\n\
                 stop <name> <name>\tStop multiple processes or groups\n\
                 stop all\t\tStop all processes"
            }
            Verb::Tail => {
                "tail [-f] <name> [stdout|stderr] (default stdout)\n\
                 Ex:\n\
                 tail -f <name>\t\tContinuous tail of named process stdout\n\
                 \t\t\tCtrl-C to exit.\n\
                 tail -100 <name>\tlast 100 *bytes* of process stdout\n\
                 tail <name> stderr\tlast 1600 *bytes* of process stderr"
            }
            Verb::Update => {
                "update\t\t\tReload config and add/remove as necessary, and will restart affected programs\n\
                 update all\t\tReload config and add/remove as necessary, and will restart affected programs\n\
                 update <gname> [...]\tUpdate specific groups"
            }
            Verb::Upgrade => {
                "upgrade\t\t\tReplace the running supervisord by the release that is installed now.\n\
                 \t\t\tPrograms go on; if the new one fails to prove itself, so does the old one."
            }
            Verb::Version => "version\t\t\tShow the version of the remote supervisord process",
        })
    }

    /// Supervisor does not have it: neither its list of commands nor its completion shows it.
    pub(super) const fn is_own(self) -> bool {
        matches!(self, Verb::Upgrade)
    }
}

/// What `help` alone prints, without the line end of its last line.
pub(super) const TOPICS: &str = "
default commands (type help <topic>):
=====================================
add    exit      open  reload  restart   start   tail   
avail  fg        pid   remove  shutdown  status  update 
clear  maintail  quit  reread  signal    stop    version
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_are_all_commands_that_have_help_but_help() {
        let mut topics: Vec<&str> = TOPICS.lines().skip(3).flat_map(str::split_whitespace).collect();
        topics.sort_unstable();
        let mut expected: Vec<&str> = Verb::ALL
            .into_iter()
            .filter(|verb| !matches!(verb, Verb::Help | Verb::EndOfFile) && !verb.is_own())
            .map(Verb::name)
            .collect();
        expected.sort_unstable();
        assert_eq!(topics, expected);
    }

    #[test]
    fn commands_are_found_by_their_exact_name() {
        assert_eq!(Verb::from_name("status"), Some(Verb::Status));
        assert_eq!(Verb::from_name("Status"), None);
        assert_eq!(Verb::from_name("stat"), None);
    }
}
