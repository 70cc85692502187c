//! What the status page's links and buttons do, and what is said about it afterwards, in Supervisor's words.
//! Whether somebody may act is decided before.

use chrono::Local;
use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;
use hyper::header::HeaderValue;

use super::html::{Escaped, head};
use crate::rpc::Api;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<'a> {
    Refresh,
    StopAll,
    RestartAll,
    One(Deed, &'a str),
}

/// What is done to one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Start,
    Stop,
    Restart,
    ClearLog,
}

impl Deed {
    const ALL: [Deed; 4] = [Deed::Start, Deed::Stop, Deed::Restart, Deed::ClearLog];

    fn name(self) -> &'static str {
        match self {
            Deed::Start => "start",
            Deed::Stop => "stop",
            Deed::Restart => "restart",
            Deed::ClearLog => "clearlog",
        }
    }
}

impl<'a> Action<'a> {
    /// `None` where there is no such action, or none without a process.
    pub(super) fn read(action: &str, process: Option<&'a str>) -> Option<Action<'a>> {
        match action {
            "refresh" => Some(Action::Refresh),
            "stopall" => Some(Action::StopAll),
            "restartall" => Some(Action::RestartAll),
            _ => {
                let deed = Deed::ALL.into_iter().find(|deed| deed.name() == action)?;
                process.map(|process| Action::One(deed, process))
            }
        }
    }

    pub(super) fn is_harmless(self) -> bool {
        match self {
            Action::Refresh => true,
            Action::StopAll | Action::RestartAll | Action::One(..) => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Action::Refresh => "refresh",
            Action::StopAll => "stopall",
            Action::RestartAll => "restartall",
            Action::One(deed, _) => deed.name(),
        }
    }

    /// Does it and tells what came of it; waits as long as Supervisor's methods do.
    pub(super) async fn perform(self, api: &Api) -> String {
        match self {
            Action::Refresh => format!("Page refreshed at {}", now()),
            Action::StopAll => match super::call(api, "supervisor.stopAllProcesses", &[]).await {
                Ok(_) => format!("All stopped at {}", now()),
                Err(fault) => unexpected(&fault),
            },
            Action::RestartAll => {
                // Stopping may be refused where starting is not needed: what is left undone, rows show.
                let _ = super::call(api, "supervisor.stopAllProcesses", &[]).await;
                let _ = super::call(api, "supervisor.startAllProcesses", &[]).await;
                format!("All restarted at {}", now())
            }
            Action::One(deed, process) => one(api, deed, process).await,
        }
    }

    /// A page that asks a person whether they meant it, in place of what they may not have asked for.
    pub(super) fn confirmation(self, token: &str) -> String {
        let (of, field) = match self {
            Action::One(_, process) => (
                format!(" of <b>{}</b>", Escaped(process)),
                format!("<input type=\"hidden\" name=\"processname\" value=\"{}\">\n", Escaped(process)),
            ),
            Action::Refresh | Action::StopAll | Action::RestartAll => Default::default(),
        };
        let name = self.name();
        format!(
            "{}<body>\n<main class=\"confirm\">\n<h1>Nothing has been done yet</h1>\n\
             <p>This browser asked for <b>{name}</b>{of}, but not by a button of the status page as it is now: \
             another site may have made it ask, or the page was opened before the daemon was started anew.</p>\n\
             <form action=\"index.html\" method=\"post\">\n\
             <input type=\"hidden\" name=\"token\" value=\"{}\">\n\
             <input type=\"hidden\" name=\"action\" value=\"{name}\">\n{field}\
             <button type=\"submit\" class=\"button\">Do it: {name}</button> \
             <a class=\"button\" href=\"./\">Back</a>\n</form>\n</main>\n</body>\n</html>\n",
            head("Confirm", token),
            Escaped(token)
        )
    }
}

/// A page that says why nothing is done under the name that a browser has for this server.
pub(super) fn foreign_name(host: Option<&HeaderValue>) -> String {
    let host = host.map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default();
    format!(
        "{}<body>\n<main class=\"confirm\">\n<h1>Nothing has been done</h1>\n\
         <p>This server asks for no password, so a browser may act only where it is opened by its address or as \
         localhost: any site could let <b>{}</b> point here. Open it so, or give it <code>username</code> and \
         <code>password</code> in <code>[inet_http_server]</code>.</p>\n\
         <a class=\"button\" href=\"./\">Back</a>\n</main>\n</body>\n</html>\n",
        head("Forbidden", ""),
        Escaped(&host)
    )
}

async fn one(api: &Api, deed: Deed, process: &str) -> String {
    let (group, name) = process.split_once(':').unwrap_or((process, process));
    match api.handle.status(ProcessName::new(group, name)).await {
        Ok(Some(_)) => {}
        Ok(None) => return format!("No such process named {process}"),
        Err(gone) => return format!("ERROR: Process {process}: {gone}"),
    }
    let params = [Value::from(process)];
    let call = async |method| super::call(api, method, &params).await;
    match deed {
        Deed::Start => match call("supervisor.startProcess").await {
            Ok(_) => format!("Process {process} started"),
            Err(fault) => format!("ERROR: Process {process}: {}", why_not_started(&fault)),
        },
        Deed::Stop => match call("supervisor.stopProcess").await {
            Ok(_) => format!("Process {process} stopped"),
            Err(fault) => unexpected(&fault),
        },
        Deed::Restart => {
            // One that does not run is started, and what cannot be started is shown by its row.
            let _ = call("supervisor.stopProcess").await;
            let _ = call("supervisor.startProcess").await;
            format!("Process {process} restarted")
        }
        Deed::ClearLog => match call("supervisor.clearProcessLogs").await {
            Ok(_) => format!("Log for {process} cleared"),
            Err(fault) => unexpected(&fault),
        },
    }
}

fn why_not_started(fault: &Fault) -> String {
    let known = [
        (FaultCode::NoFile, "no such file"),
        (FaultCode::NotExecutable, "file not executable"),
        (FaultCode::AlreadyStarted, "already started"),
        (FaultCode::SpawnError, "spawn error"),
        (FaultCode::AbnormalTermination, "abnormal termination"),
    ];
    let found = known.into_iter().find(|(code, _)| code.code() == fault.code);
    found.map_or_else(|| unexpected(fault), |(_, why)| why.to_owned())
}

fn unexpected(fault: &Fault) -> String {
    format!("unexpected rpc fault [{}] {}", fault.code, fault.text)
}

/// As C's `ctime` writes it.
fn now() -> String {
    Local::now().format("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testing;

    #[tokio::test]
    async fn actions_say_what_came_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let api = testing::api(folder.path());
        for (action, process, expected) in [
            ("start", "g:y", "Process g:y started"),
            ("start", "run", "ERROR: Process run: already started"),
            ("stop", "run", "Process run stopped"),
            ("stop", "g:y", "unexpected rpc fault [70] NOT_RUNNING: g:y"),
            ("restart", "run", "Process run restarted"),
            ("start", "g:*", "No such process named g:*"),
            ("stop", "<b>", "No such process named <b>"),
        ] {
            let message = Action::read(action, Some(process)).unwrap().perform(&api).await;
            assert_eq!(message, expected);
        }
        let message = Action::StopAll.perform(&api).await;
        assert!(message.starts_with("All stopped at "), "{message}");
    }

    #[test]
    fn what_is_no_action_is_none() {
        assert_eq!(Action::read("start", None), None);
        assert_eq!(Action::read("explode", Some("run")), None);
        assert_eq!(Action::read("stopall", None), Some(Action::StopAll));
    }

    #[test]
    fn a_confirmation_repeats_the_action_with_the_token() {
        let page = Action::One(Deed::Stop, "\"><script>").confirmation("t0ken");
        assert!(page.contains("name=\"token\" value=\"t0ken\""), "{page}");
        assert!(page.contains("value=\"&quot;&gt;&lt;script&gt;\"") && !page.contains("<script>"), "{page}");
    }
}
