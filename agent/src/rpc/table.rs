//! Every method there is: names, parameters, what it is for, and the function that does it. `system.*`
//! methods describe the interface from this table too.

use std::fmt::Write as _;

use super::args::Args;
use super::call::Pending;
use super::{Api, daemon, groups, info, logs, processes, system, upgrade};

pub(super) struct Method {
    /// The first is the current one, the others are kept for older clients.
    pub(super) names: &'static [&'static str],
    pub(super) params: &'static [Param],
    /// XML-RPC type of the result.
    pub(super) result: &'static str,
    about: &'static str,
    pub(super) when: When,
    pub(super) call: fn(&Api, Args) -> Pending<'_>,
}

/// In which state of the daemon a method works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Not once the daemon is ending.
    Running,
}

pub(super) struct Param {
    pub(super) kind: &'static str,
    name: &'static str,
    is_optional: bool,
}

const fn needs(kind: &'static str, name: &'static str) -> Param {
    Param { kind, name, is_optional: false }
}

const fn may(kind: &'static str, name: &'static str) -> Param {
    Param { kind, name, is_optional: true }
}

const NAME: Param = needs("string", "name");
const WAIT: Param = may("boolean", "wait");
const SIGNAL: Param = needs("string", "signal");
const OFFSET: Param = needs("int", "offset");
const LENGTH: Param = needs("int", "length");

const READ_LOG: &str = "A part of a program's log: length bytes from offset, or everything from there when length \
                        is 0. A negative offset counts from the end, with length 0.";
const TAIL_LOG: &str = "The newest part of a program's log: its last length bytes, its size in bytes, and whether \
                        more was added than offset and length cover.";
const EACH: &str = "Answers a struct per process: name, group, status (80, or a fault's code), description.";

#[rustfmt::skip]
pub(super) static METHODS: &[Method] = &[
    Method { names: &["supervisor.getAPIVersion", "supervisor.getVersion"], params: &[], result: "string",
        about: "Version of this interface.",
        when: When::Running, call: |_, _| Box::pin(daemon::api_version()) },
    Method { names: &["supervisor.getSupervisorVersion"], params: &[], result: "string",
        about: "Version of Supervisor that this daemon behaves as.",
        when: When::Running, call: |_, _| Box::pin(daemon::supervisor_version()) },
    Method { names: &["supervisor.getIdentification"], params: &[], result: "string",
        about: "The daemon's identifier, from its configuration.",
        when: When::Running, call: |api, _| Box::pin(daemon::identification(api)) },
    Method { names: &["supervisor.getState"], params: &[], result: "struct",
        about: "The daemon's state: statecode and statename.",
        when: When::Running, call: |api, _| Box::pin(daemon::state(api)) },
    Method { names: &["supervisor.getPID"], params: &[], result: "int",
        about: "The daemon's process id.",
        when: When::Running, call: |api, _| Box::pin(daemon::pid(api)) },
    Method { names: &["supervisor.shutdown"], params: &[], result: "boolean",
        about: "Stops all programs, then the daemon.",
        when: When::Running, call: |api, _| Box::pin(daemon::shutdown(api)) },
    Method { names: &["supervisor.restart"], params: &[], result: "boolean",
        about: "Stops all programs, reads the configuration and starts over.",
        when: When::Running, call: |api, _| Box::pin(daemon::restart(api)) },
    Method { names: &["supervisor.sendRemoteCommEvent"], params: &[needs("string", "type"), needs("string", "data")],
        result: "boolean",
        about: "Sends an event to the listeners that subscribe to REMOTE_COMMUNICATION.",
        when: When::Always, call: |api, args| Box::pin(daemon::send_remote_event(api, args)) },

    Method { names: &["supervisor.reloadConfig"], params: &[], result: "array",
        about: "Reads the configuration file and compares it with what runs, changing nothing. Answers [[added, \
                changed, removed]], each an array of names of groups.",
        when: When::Running, call: |api, _| Box::pin(groups::reload(api)) },
    Method { names: &["supervisor.addProcessGroup"], params: &[NAME], result: "boolean",
        about: "Brings a group of the configuration to life.",
        when: When::Running, call: |api, args| Box::pin(groups::add(api, args)) },
    Method { names: &["supervisor.removeProcessGroup"], params: &[NAME], result: "boolean",
        about: "Forgets a group, all of whose processes must have stopped.",
        when: When::Running, call: |api, args| Box::pin(groups::remove(api, args)) },

    Method { names: &["supervisor.getProcessInfo"], params: &[NAME], result: "struct",
        about: "What is known about one process: state, times, pid, log files.",
        when: When::Running, call: |api, args| Box::pin(info::one(api, args)) },
    Method { names: &["supervisor.getAllProcessInfo"], params: &[], result: "array",
        about: "What is known about every process, sorted by group and name.",
        when: When::Running, call: |api, _| Box::pin(info::all(api)) },
    Method { names: &["supervisor.getAllConfigInfo"], params: &[], result: "array",
        about: "The configuration of every process as it was last read, sorted by name.",
        when: When::Running, call: |api, _| Box::pin(info::configs(api)) },

    Method { names: &["supervisor.startProcess"], params: &[NAME, WAIT], result: "boolean",
        about: "Starts a process, or all of a group (group:*). With wait, which is the default, answers when it \
                is RUNNING.",
        when: When::Running, call: |api, args| Box::pin(processes::start(api, args)) },
    Method { names: &["supervisor.startProcessGroup"], params: &[NAME, WAIT], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::start_group(api, args)) },
    Method { names: &["supervisor.startAllProcesses"], params: &[WAIT], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::start_all(api, args)) },
    Method { names: &["supervisor.stopProcess"], params: &[NAME, WAIT], result: "boolean",
        about: "Stops a process, or all of a group (group:*). With wait, which is the default, answers when it \
                has ended.",
        when: When::Running, call: |api, args| Box::pin(processes::stop(api, args)) },
    Method { names: &["supervisor.stopProcessGroup"], params: &[NAME, WAIT], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::stop_group(api, args)) },
    Method { names: &["supervisor.stopAllProcesses"], params: &[WAIT], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::stop_all(api, args)) },
    Method { names: &["supervisor.signalProcess"], params: &[NAME, SIGNAL], result: "boolean",
        about: "Sends a process, or all of a group (group:*), a signal by name (HUP) or number.",
        when: When::Running, call: |api, args| Box::pin(processes::signal(api, args)) },
    Method { names: &["supervisor.signalProcessGroup"], params: &[NAME, SIGNAL], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::signal_group(api, args)) },
    Method { names: &["supervisor.signalAllProcesses"], params: &[SIGNAL], result: "array",
        about: EACH,
        when: When::Running, call: |api, args| Box::pin(processes::signal_all(api, args)) },
    Method { names: &["supervisor.sendProcessStdin"], params: &[NAME, needs("string", "chars")], result: "boolean",
        about: "Writes text, as UTF-8, to a running process's stdin.",
        when: When::Running, call: |api, args| Box::pin(processes::send_stdin(api, args)) },

    Method { names: &["supervisor.readLog", "supervisor.readMainLog"], params: &[OFFSET, LENGTH], result: "string",
        about: "A part of the daemon's own log: length bytes from offset, or everything from there when length \
                is 0. A negative offset counts from the end, with length 0.",
        when: When::Running, call: |api, args| Box::pin(logs::read_main(api, args)) },
    Method { names: &["supervisor.clearLog"], params: &[], result: "boolean",
        about: "Empties the daemon's own log.",
        when: When::Running, call: |api, _| Box::pin(logs::clear_main(api)) },
    Method { names: &["supervisor.readProcessStdoutLog", "supervisor.readProcessLog"],
        params: &[NAME, OFFSET, LENGTH], result: "string",
        about: READ_LOG,
        when: When::Running, call: |api, args| Box::pin(logs::read_stdout(api, args)) },
    Method { names: &["supervisor.readProcessStderrLog"], params: &[NAME, OFFSET, LENGTH], result: "string",
        about: READ_LOG,
        when: When::Running, call: |api, args| Box::pin(logs::read_stderr(api, args)) },
    Method { names: &["supervisor.tailProcessStdoutLog", "supervisor.tailProcessLog"],
        params: &[NAME, OFFSET, LENGTH], result: "array",
        about: TAIL_LOG,
        when: When::Running, call: |api, args| Box::pin(logs::tail_stdout(api, args)) },
    Method { names: &["supervisor.tailProcessStderrLog"], params: &[NAME, OFFSET, LENGTH], result: "array",
        about: TAIL_LOG,
        when: When::Running, call: |api, args| Box::pin(logs::tail_stderr(api, args)) },
    Method { names: &["supervisor.clearProcessLogs", "supervisor.clearProcessLog"], params: &[NAME],
        result: "boolean",
        about: "Empties a process's stdout and stderr logs.",
        when: When::Running, call: |api, args| Box::pin(logs::clear(api, args)) },
    Method { names: &["supervisor.clearAllProcessLogs"], params: &[], result: "array",
        about: EACH,
        when: When::Running, call: |api, _| Box::pin(logs::clear_all(api)) },

    Method { names: &["system.listMethods"], params: &[], result: "array",
        about: "The names of all methods.",
        when: When::Always, call: |_, _| Box::pin(system::list_methods()) },
    Method { names: &["system.methodHelp"], params: &[NAME], result: "string",
        about: "What a method is for.",
        when: When::Always, call: |_, args| Box::pin(system::method_help(args)) },
    Method { names: &["system.methodSignature"], params: &[NAME], result: "array",
        about: "The types of a method's result and parameters.",
        when: When::Always, call: |_, args| Box::pin(system::method_signature(args)) },
    Method { names: &["system.multicall"], params: &[needs("array", "calls")], result: "array",
        about: "Makes calls one after the other, each a struct of methodName and params. Answers their results; \
                for a fault a struct of faultCode and faultString.",
        when: When::Always, call: |api, args| Box::pin(system::multicall(api, args)) },
];

/// Methods that Supervisor does not have. `system.listMethods` leaves them out: its answer is Supervisor's.
#[rustfmt::skip]
static OWN: &[Method] = &[
    Method { names: &["fleetvisor.getAgentInfo"], params: &[], result: "struct",
        about: "Which agent this is: version, pid, keeper_pid (the daemon's pid), executable (where an upgrade looks), \
                and upgrades: the latest one, if there was one, with from_pid, from_version, version and error, which \
                is empty where it has succeeded.",
        when: When::Always, call: |api, _| Box::pin(upgrade::agent_info(api)) },
    Method { names: &["fleetvisor.upgrade"], params: &[], result: "struct",
        about: "Has the agent replaced in place by the program that is at its path now. Answers pid and from_version of \
                the agent that leaves, executable and version of the program that follows; no version where that is \
                the one that runs already. A fault says why this agent goes on instead. How it came out is in \
                getAgentInfo once another pid answers.",
        when: When::Running, call: |api, _| Box::pin(upgrade::upgrade(api)) },
];

pub(super) fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().chain(OWN).find(|method| method.names.contains(&name))
}

impl Method {
    /// Whether it can be called with this many parameters.
    pub(super) fn takes(&self, count: usize) -> bool {
        let needed = self.params.iter().filter(|param| !param.is_optional).count();
        (needed..=self.params.len()).contains(&count)
    }

    /// Its description, with types in the form that documentation tools know from Supervisor.
    pub(super) fn help(&self) -> String {
        let mut help = format!("{}\n\n", self.about);
        for Param { kind, name, .. } in self.params {
            writeln!(help, "@param {kind} {name}").expect("a String takes everything");
        }
        writeln!(help, "@return {} result", self.result).expect("a String takes everything");
        help
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Supervisor 4.3.0 answers to `system.listMethods`, each with what `system.methodSignature` says.
    const SUPERVISORS: [&str; 41] = [
        "supervisor.addProcessGroup boolean string",
        "supervisor.clearAllProcessLogs array",
        "supervisor.clearLog boolean",
        "supervisor.clearProcessLog boolean string",
        "supervisor.clearProcessLogs boolean string",
        "supervisor.getAPIVersion string",
        "supervisor.getAllConfigInfo array",
        "supervisor.getAllProcessInfo array",
        "supervisor.getIdentification string",
        "supervisor.getPID int",
        "supervisor.getProcessInfo struct string",
        "supervisor.getState struct",
        "supervisor.getSupervisorVersion string",
        "supervisor.getVersion string",
        "supervisor.readLog string int int",
        "supervisor.readMainLog string int int",
        "supervisor.readProcessLog string string int int",
        "supervisor.readProcessStderrLog string string int int",
        "supervisor.readProcessStdoutLog string string int int",
        "supervisor.reloadConfig array",
        "supervisor.removeProcessGroup boolean string",
        "supervisor.restart boolean",
        "supervisor.sendProcessStdin boolean string string",
        "supervisor.sendRemoteCommEvent boolean string string",
        "supervisor.shutdown boolean",
        "supervisor.signalAllProcesses array string",
        "supervisor.signalProcess boolean string string",
        "supervisor.signalProcessGroup array string string",
        "supervisor.startAllProcesses array boolean",
        "supervisor.startProcess boolean string boolean",
        "supervisor.startProcessGroup array string boolean",
        "supervisor.stopAllProcesses array boolean",
        "supervisor.stopProcess boolean string boolean",
        "supervisor.stopProcessGroup array string boolean",
        "supervisor.tailProcessLog array string int int",
        "supervisor.tailProcessStderrLog array string int int",
        "supervisor.tailProcessStdoutLog array string int int",
        "system.listMethods array",
        "system.methodHelp string string",
        "system.methodSignature array string",
        "system.multicall array array",
    ];

    #[test]
    fn every_method_of_supervisor_is_here_with_its_signature() {
        let mut ours: Vec<String> = METHODS
            .iter()
            .flat_map(|method| {
                let params = method.params.iter().map(|param| format!(" {}", param.kind));
                let types = format!("{}{}", method.result, params.collect::<String>());
                method.names.iter().map(move |name| format!("{name} {types}"))
            })
            .collect();
        ours.sort();
        assert_eq!(ours, SUPERVISORS);
    }

    #[test]
    fn optional_parameters_come_last() {
        for method in METHODS {
            assert!(method.params.is_sorted_by_key(|param| param.is_optional), "{}", method.names[0]);
        }
        let start = find("supervisor.startProcess").unwrap();
        assert_eq!([0, 1, 2, 3].map(|count| start.takes(count)), [false, true, true, false]);
    }

    #[test]
    fn help_names_what_a_method_takes_and_gives() {
        let help = find("supervisor.signalProcess").unwrap().help();
        assert!(
            help.ends_with("\n\n@param string name\n@param string signal\n@return boolean result\n"),
            "{help}"
        );
    }
}
