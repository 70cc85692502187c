//! The status page: one row for each process. Its rows, classes and links are those that programs find in
//! Supervisor's page; how it looks and what moves is the style sheet's and the script's.

use std::fmt::Write as _;

use chrono::{Datelike, Local};
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::status::ProcessStatus;

use super::html::{Escaped, banner, head, quote};
use crate::cli::SUPERVISOR_VERSION;
use crate::clock;
use crate::logs::{Failure, Failures};

/// `host` is this machine's name, `message` what came of the action before; `token` is what the page's actions
/// are sent with.
pub(super) fn render(
    statuses: &[ProcessStatus],
    failures: &Failures,
    host: &str,
    message: Option<&str>,
    token: &str,
) -> String {
    let mut page = head("Supervisor Status", token);
    page.push_str("<body>\n");
    page.push_str(&banner(host));
    page.push_str("<main>\n");
    let (class, message) = message.map_or(("hidden", "#"), |message| ("status_msg", message));
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        page,
        "<div id=\"message\" role=\"status\" class=\"{class}\">{}</div>\n\
         <form action=\"index.html\" method=\"post\">\n\
         <input type=\"hidden\" name=\"token\" value=\"{}\">\n\
         <ul id=\"buttons\">\n\
         <li><a href=\"index.html?action=refresh\">Refresh</a></li>\n\
         <li><a href=\"index.html?action=restartall\" data-act=\"all\" role=\"button\">Restart All</a></li>\n\
         <li><a href=\"index.html?action=stopall\" data-act=\"all\" role=\"button\">Stop All</a></li>\n\
         </ul>\n<div id=\"processes\" data-live>\n",
        Escaped(message),
        Escaped(token)
    );
    if let Some(failure) = &failures.daemon {
        trouble(&mut page, failure);
    }
    if statuses.is_empty() {
        page.push_str("<p>No programs to manage</p>\n");
    } else {
        page.push_str(
            "<table>\n<thead><tr><th class=\"state\">State</th><th class=\"desc\">Description</th>\
             <th class=\"name\">Name</th><th class=\"action\">Action</th></tr></thead>\n<tbody>\n",
        );
        for (at, status) in statuses.iter().enumerate() {
            let failures = failures.programs.get(&status.name).map_or(&[][..], Vec::as_slice);
            row(&mut page, status, failures, at % 2 == 1);
        }
        page.push_str("</tbody>\n</table>\n");
    }
    page.push_str("</div>\n</form>\n</main>\n");
    let _ = write!(
        page,
        "<footer id=\"footer\"><p><a href=\"http://supervisord.org\" rel=\"noreferrer\">Supervisor</a> \
         <span>{SUPERVISOR_VERSION}</span></p>\n<p>&copy; 2006-<span>{}</span> \
         <strong><a href=\"http://agendaless.com/\" rel=\"noreferrer\">Agendaless Consulting and Contributors\
         </a></strong></p></footer>\n</body>\n</html>\n",
        Local::now().year()
    );
    page
}

fn row(page: &mut String, status: &ProcessStatus, failures: &[Failure], shaded: bool) {
    let name = status.name.to_string();
    let quoted = quote(&name);
    let state = status.state.name().to_lowercase();
    let _ = write!(
        page,
        "<tr class=\"{}\" data-name=\"{}\" data-state=\"{}\"><td class=\"status\"><span class=\"{}\">{}</span></td>\
         <td class=\"desc\"><span>{}</span>",
        if shaded { "shade" } else { "" },
        Escaped(&name),
        state,
        class(status.state),
        state,
        Escaped(&status.description(clock::local)),
    );
    for failure in failures {
        trouble(page, failure);
    }
    let _ = write!(
        page,
        "</td><td class=\"name\"><a href=\"tail.html?processname={quoted}\" target=\"_blank\" \
         rel=\"noopener\">{}</a></td><td class=\"action\"><ul>",
        Escaped(&name),
    );
    for action in actions(status.state) {
        match action {
            Some((label, action)) => act(page, &name, label, action),
            None => {
                page.push_str("<li class=\"none\"><a class=\"hidden\" href=\"#\" name=\"#\">Action</a></li>")
            }
        }
    }
    act(page, &name, "Clear Log", "clearlog");
    for (label, channel) in [("Tail -f Stdout", ""), ("Tail -f Stderr", "/stderr")] {
        let _ = write!(
            page,
            "<li><a href=\"logtail/{quoted}{channel}\" name=\"{label}\" aria-label=\"{label} {}\" \
             target=\"_blank\" rel=\"noopener\">{label}</a></li>",
            Escaped(&name)
        );
    }
    page.push_str("</ul></td></tr>\n");
}

/// A log that can't be written.
fn trouble(page: &mut String, failure: &Failure) {
    let Failure { log, reason, lost } = failure;
    let lost = match lost {
        0 => "nothing is lost yet".to_owned(),
        1 => "1 byte is lost".to_owned(),
        lost => format!("{lost} bytes are lost"),
    };
    let _ = write!(
        page,
        "<p class=\"trouble\">Log {} cannot be written: {}; {lost}</p>",
        Escaped(log),
        Escaped(reason)
    );
}

fn act(page: &mut String, process: &str, label: &str, action: &str) {
    let _ = write!(
        page,
        "<li><a href=\"index.html?processname={}&amp;action={action}\" name=\"{label}\" \
         aria-label=\"{label} {}\" data-act role=\"button\">{label}</a></li>",
        quote(process),
        Escaped(process)
    );
}

/// Two places: what is possible in this state, as its label and its action.
fn actions(state: ProcessState) -> [Option<(&'static str, &'static str)>; 2] {
    match state {
        ProcessState::Running => [Some(("Restart", "restart")), Some(("Stop", "stop"))],
        ProcessState::Stopped | ProcessState::Exited | ProcessState::Fatal => {
            [Some(("Start", "start")), None]
        }
        ProcessState::Starting | ProcessState::Backoff | ProcessState::Stopping | ProcessState::Unknown => {
            [None, None]
        }
    }
}

fn class(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "statusrunning",
        ProcessState::Fatal | ProcessState::Backoff => "statuserror",
        ProcessState::Stopped
        | ProcessState::Starting
        | ProcessState::Stopping
        | ProcessState::Exited
        | ProcessState::Unknown => "statusnominal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testing;

    #[tokio::test]
    async fn every_process_has_a_row_with_what_can_be_done() {
        let folder = tempfile::tempdir().unwrap();
        let mut statuses = testing::api(folder.path()).handle.statuses().await.unwrap();
        let page = render(&statuses, &Failures::default(), "web-01", None, "t0ken");
        assert_eq!(page.matches("<tr class=").count(), 3);
        assert!(
            page.contains("href=\"index.html?processname=g%3Ay&amp;action=start\" name=\"Start\""),
            "{page}"
        );
        assert!(page.contains("href=\"index.html?processname=run&amp;action=stop\" name=\"Stop\""), "{page}");
        assert!(page.contains("pid 99, uptime 0:01:01"), "{page}");
        assert!(page.contains("value=\"t0ken\""), "{page}");
        statuses[0].spawnerr = "<b>".to_owned();
        statuses[0].state = ProcessState::Fatal;
        let page = render(&statuses, &Failures::default(), "<u>", Some("<i>"), "");
        assert!(page.contains("data-name=\"&lt;u&gt;\"") && !page.contains("<u>"), "{page}");
        assert!(page.contains("&lt;b&gt;") && page.contains("\"status_msg\">&lt;i&gt;<"), "{page}");
        assert!(!page.contains("class=\"trouble\""), "{page}");
    }

    #[tokio::test]
    async fn a_log_that_can_not_be_written_is_said_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let statuses = testing::api(folder.path()).handle.statuses().await.unwrap();
        let failure = |log: &str, lost| Failure {
            log: log.to_owned(),
            reason: "No space left on device".to_owned(),
            lost,
        };
        let failures = Failures {
            daemon: Some(failure("/var/s.log", 1)),
            programs: [(statuses[0].name.clone(), vec![failure("/<x>", 17)])].into(),
        };
        let page = render(&statuses, &failures, "web-01", None, "");
        let said = "<p class=\"trouble\">Log /&lt;x&gt; cannot be written: No space left on device; 17 bytes \
            are lost</p></td><td class=\"name\">";
        assert!(page.contains(said), "{page}");
        assert!(page.contains("<p class=\"trouble\">Log /var/s.log cannot be written"), "{page}");
        assert_eq!(page.matches("class=\"trouble\"").count(), 2, "{page}");
    }

    #[test]
    fn a_page_without_processes_says_so() {
        assert!(render(&[], &Failures::default(), "", None, "").contains("No programs to manage"));
    }
}
