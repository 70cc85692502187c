//! What `start`, `stop` and `restart` have in common: the call, and results as they come.

use std::process::ExitCode;

use fleetvisor_proto::fleet::{self, RunRequest};

use super::{here, in_fleet, print_json};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::progress::{Run, Say};
use crate::fleet::scope::meant;

pub(super) fn perform(cli: &Cli, verb: fleet::Verb, word: &str, names: &[String]) -> ExitCode {
    if cli.means_fleet(names) {
        in_fleet(cli, on_fleet(cli, verb, word, names))
    } else {
        here::run(cli, [&[word.to_owned()], names].concat())
    }
}

/// With `-o json` the document comes at the end: `{"id", "results": [{"name", "outcome", "text"}], "hosts":
/// [{"host", "result", "reason"}], "unmatched": [target]}`.
async fn on_fleet(cli: &Cli, verb: fleet::Verb, word: &str, names: &[String]) -> Result<Exit, FleetError> {
    if names.is_empty() {
        return Err(FleetError::Usage(format!("{word} requires a process name; all for every process")));
    }
    let meant = meant(&cli.scope, names)?;
    let seconds = cli.access.timeout.map_or(0, |timeout| timeout.as_secs().max(1));
    let request = RunRequest {
        targets: meant.wire_targets(),
        scope: Some(meant.scope),
        verb: verb.into(),
        timeout_seconds: u32::try_from(seconds)
            .map_err(|_| FleetError::Usage("--timeout is too long".to_owned()))?,
    };
    let text = cli.access.form() == Form::Text;
    let mut fleet = connect(&cli.access).await?;
    let mut run = Run::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut events = tokio::select! {
        events = fleet.run(request) => events?.into_inner(),
        _ = &mut interrupted => {
            eprintln!("ctl: {}", run.farewell());
            return Ok(Exit::Interrupted);
        }
    };
    loop {
        let event = tokio::select! {
            event = events.message() => event,
            _ = &mut interrupted => {
                eprintln!("ctl: {}", run.farewell());
                return Ok(Exit::Interrupted);
            }
        };
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(status) => {
                eprintln!("ctl: the answer broke off; what was sent goes on");
                return Err(status.into());
            }
        };
        match event.event.and_then(|event| run.event(event)) {
            Some(Say::Result(line)) if text => print::lines(&[line])?,
            Some(Say::Remark(remark)) => eprintln!("ctl: {remark}"),
            Some(Say::Result(_)) | None => {}
        }
    }
    let lines = run.end();
    let exit = run.exit();
    if run.is_empty() {
        eprintln!("ctl: no host fits");
    }
    if text {
        print::lines(&lines)?;
    } else {
        print_json(&run.into_json())?;
    }
    Ok(exit)
}
