//! From a `methodCall` document to the method and back. Reading and checking is the same for every method:
//! name, number of parameters, the daemon's state, and only then the method itself.

use std::future::Future;
use std::pin::Pin;

use fleetvisor_model::config::{LogLevel, repr};
use fleetvisor_model::state::DaemonState;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::{Limits, Value, XmlRpcError, parse_call, write_fault, write_response};

use super::Api;
use super::args::Args;
use super::table::{self, When};
use crate::inbox::Gone;

const LIMITS: Limits = Limits { bytes: 16 << 20, ..Limits::REQUEST };

/// As much of a bad document as the log repeats, in characters.
const SHOWN: usize = 1000;

/// What whoever has waited is told when another agent takes over.
const LEAVING: &str = "the daemon is being upgraded, and what was asked for may have been done: ask again";

/// Why a method has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A parameter that Supervisor does not expect: it ends the request without a fault, with an internal
    /// error, and so do we.
    #[error("{0}")]
    Unexpected(String),
}

impl From<FaultCode> for Failure {
    fn from(code: FaultCode) -> Failure {
        Failure::Fault(code.into())
    }
}

pub(super) type Answer = Result<Value, Failure>;
pub(super) type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What has no XML-RPC answer, not even a fault. The daemon's log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    Malformed,
    Unexpected,
}

impl Api {
    /// The document that answers a document.
    pub(crate) async fn answer(&self, document: &[u8]) -> Result<String, Unanswerable> {
        let call = parse_call(document, &LIMITS).map_err(|error| {
            let why = match error {
                XmlRpcError::NoMethod => "no method name",
                _ => "unmarshallable",
            };
            let line = format!("XML-RPC request data {} is invalid: {why}", shown(document));
            self.logs.line(LogLevel::Error, line);
            Unanswerable::Malformed
        })?;
        match self.call(&call.method, call.params).await {
            Ok(value) => Ok(write_response(&value)),
            Err(Failure::Fault(fault)) => Ok(write_fault(&fault)),
            Err(Failure::Unexpected(why)) => {
                let line = format!(
                    "Handling XML-RPC request with data {} raised an unexpected exception: {why}",
                    shown(document)
                );
                self.logs.line(LogLevel::Critical, line);
                Err(Unanswerable::Unexpected)
            }
        }
    }

    pub(super) async fn call(&self, method: &str, params: Vec<Value>) -> Answer {
        let method = table::find(method).ok_or(FaultCode::UnknownMethod)?;
        if !method.takes(params.len()) {
            return Err(FaultCode::IncorrectParameters.into());
        }
        match method.when {
            When::Running if self.is_ending() => return Err(FaultCode::ShutdownState.into()),
            When::Running | When::Always => {}
        }
        (method.call)(self, Args::new(params)).await
    }

    fn is_ending(&self) -> bool {
        self.handle.state().code() < DaemonState::Running.code()
    }

    /// What a caller hears when the loop has not answered.
    pub(super) fn gone(&self, _: Gone) -> Failure {
        if self.handle.is_leaving() {
            return Fault::with(FaultCode::Failed, LEAVING).into();
        }
        if self.is_ending() { FaultCode::ShutdownState.into() } else { FaultCode::Failed.into() }
    }
}

fn shown(document: &[u8]) -> String {
    let text = String::from_utf8_lossy(document);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", repr(&text[..end])),
        None => repr(&text),
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::xmlrpc::{parse_response, write_call};
    use tempfile::TempDir;

    use super::*;
    use crate::rpc::testing;

    fn api() -> (Api, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (testing::api(folder.path()), folder)
    }

    async fn value(api: &Api, method: &str, params: Vec<Value>) -> Value {
        let document = api.answer(write_call(method, &params).as_bytes()).await.unwrap();
        parse_response(document.as_bytes(), &Limits::RESPONSE).unwrap().unwrap()
    }

    async fn fault(api: &Api, method: &str, params: Vec<Value>) -> String {
        let document = api.answer(write_call(method, &params).as_bytes()).await.unwrap();
        parse_response(document.as_bytes(), &Limits::RESPONSE).unwrap().unwrap_err().text
    }

    #[tokio::test]
    async fn methods_are_found_by_their_whole_name_only() {
        let (api, _folder) = api();
        for name in ["supervisor.noSuchMethod", "method", "supervisor._update", "a.b.c", "supervisor."] {
            assert_eq!(fault(&api, name, vec![]).await, "UNKNOWN_METHOD");
        }
        assert_eq!(fault(&api, "supervisor.getVersion", vec![1.into()]).await, "INCORRECT_PARAMETERS");
        assert_eq!(fault(&api, "supervisor.getProcessInfo", vec![]).await, "INCORRECT_PARAMETERS");
        assert_eq!(value(&api, "supervisor.getVersion", vec![]).await, "3.0".into());
        assert_eq!(value(&api, "supervisor.getIdentification", vec![]).await, "me".into());
    }

    #[tokio::test]
    async fn what_is_no_call_has_no_answer() {
        let (api, _folder) = api();
        for document in ["", "not xml", "<methodCall>", "<a/>", "<methodCall><params/></methodCall>"] {
            assert_eq!(api.answer(document.as_bytes()).await, Err(Unanswerable::Malformed));
        }
        assert_eq!(api.answer(b"\xff").await, Err(Unanswerable::Malformed));
        let odd = write_call("supervisor.getProcessInfo", &[5.into()]);
        assert_eq!(api.answer(odd.as_bytes()).await, Err(Unanswerable::Unexpected));
    }

    #[tokio::test]
    async fn process_info_has_supervisors_keys_in_order() {
        let (api, folder) = api();
        let Value::Struct(info) = value(&api, "supervisor.getProcessInfo", vec!["run".into()]).await else {
            panic!("a struct");
        };
        let keys: Vec<&str> = info.iter().map(|(key, _)| key.as_ref()).collect();
        let expected = "name group start stop now state statename spawnerr exitstatus logfile stdout_logfile \
                        stderr_logfile pid description";
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
        let info = Value::Struct(info);
        let log = folder.path().join("run.log").display().to_string();
        assert_eq!(info.get("logfile"), Some(&log.into()));
        assert_eq!(info.get("stderr_logfile"), Some(&"".into()));
        assert_eq!(info.get("start"), Some(&i32::MAX.into()));
        assert_eq!(info.get("description"), Some(&"pid 99, uptime 0:01:01".into()));
    }

    #[tokio::test]
    async fn faults_name_what_was_asked_for() {
        let (api, _folder) = api();
        for (method, params, text) in [
            ("supervisor.getProcessInfo", vec!["g:*".into()], "BAD_NAME: g:*"),
            ("supervisor.startProcess", vec!["run:run".into()], "ALREADY_STARTED: run:run"),
            ("supervisor.startProcess", vec!["no:*".into()], "BAD_NAME: no:*"),
            ("supervisor.stopProcess", vec!["g:y".into(), 0.into()], "NOT_RUNNING: g:y"),
            ("supervisor.stopProcessGroup", vec!["g:".into()], "BAD_NAME: g:"),
            ("supervisor.addProcessGroup", vec![vec![1.into(), "a".into()].into()], "BAD_NAME: [1, 'a']"),
            ("supervisor.addProcessGroup", vec!["run".into()], "ALREADY_ADDED: run"),
            ("supervisor.removeProcessGroup", vec!["run".into()], "STILL_RUNNING: run"),
            ("supervisor.signalProcess", vec!["no".into(), "NO".into()], "BAD_NAME: no"),
            ("supervisor.signalProcess", vec!["g:y".into(), "NO".into()], "BAD_SIGNAL: NO"),
            ("supervisor.signalProcess", vec!["g:y".into(), "HUP".into()], "NOT_RUNNING: g:y"),
            ("supervisor.sendProcessStdin", vec!["no".into(), 5.into()], "INCORRECT_PARAMETERS: 5"),
            ("supervisor.sendProcessStdin", vec!["g:y".into(), "x".into()], "NOT_RUNNING: g:y"),
            ("supervisor.readProcessStderrLog", vec!["run".into(), 0.into(), 0.into()], "NO_FILE"),
            ("system.methodHelp", vec![5.into()], "SIGNATURE_UNSUPPORTED"),
        ] {
            assert_eq!(fault(&api, method, params).await, text, "{method}");
        }
    }

    #[tokio::test]
    async fn methods_for_several_answer_for_each() {
        let (api, _folder) = api();
        let all = value(&api, "supervisor.startProcess", vec!["g:*".into()]).await;
        let started = Value::record([
            ("name", Value::from("y")),
            ("group", "g".into()),
            ("status", 80.into()),
            ("description", "OK".into()),
        ]);
        assert_eq!(all, vec![started].into());
        let all = value(&api, "supervisor.signalAllProcesses", vec!["NO".into()]).await;
        let texts: Vec<_> =
            all.as_array().unwrap().iter().map(|each| each.get("description").unwrap()).collect();
        assert_eq!(texts, [&Value::from("BAD_SIGNAL: NO"), &Value::from("BAD_SIGNAL: NO")]);
    }

    #[tokio::test]
    async fn logs_are_read_and_emptied() {
        let (api, folder) = api();
        let part = |offset: i32, length: i32| vec!["run".into(), offset.into(), length.into()];
        let log = folder.path().join("run.log");
        assert!(fault(&api, "supervisor.readProcessLog", part(0, 0)).await.starts_with("NO_FILE: /"));
        assert_eq!(
            value(&api, "supervisor.tailProcessLog", part(7, 3)).await,
            vec!["".into(), 0.into(), false.into()].into()
        );
        std::fs::write(&log, "01234\u{fc}").unwrap();
        assert_eq!(value(&api, "supervisor.readProcessLog", part(0, 6)).await, "01234\u{fffd}".into());
        assert_eq!(
            value(&api, "supervisor.tailProcessStdoutLog", part(0, 3)).await,
            vec!["4\u{fc}".into(), 7.into(), true.into()].into()
        );
        assert_eq!(fault(&api, "supervisor.readProcessLog", part(-1, 1)).await, "BAD_ARGUMENTS");
        assert_eq!(value(&api, "supervisor.clearProcessLogs", vec!["run".into()]).await, true.into());
        assert_eq!(value(&api, "supervisor.readProcessLog", part(0, 0)).await, "".into());
    }

    #[tokio::test]
    async fn many_calls_in_one_are_made_in_order() {
        let (api, _folder) = api();
        let call = |name: &str, params: Vec<Value>| {
            Value::record([("methodName", Value::from(name)), ("params", params.into())])
        };
        let calls = vec![
            call("supervisor.getIdentification", vec![]),
            call("supervisor.getProcessInfo", vec!["zzz".into()]),
            Value::record([("methodName", "supervisor.getAPIVersion")].map(|(k, v)| (k, v.into()))),
            call("system.multicall", vec![]),
            Value::record([("params", Value::from(Vec::new()))]),
            Value::record([("methodName", Value::from("supervisor.getPID")), ("params", 5.into())]),
        ];
        let results = value(&api, "system.multicall", vec![calls.into()]).await;
        let shown: Vec<String> = results
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result.get("faultString").unwrap_or(result).as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            shown,
            [
                "me",
                "BAD_NAME: zzz",
                "3.0",
                "INCORRECT_PARAMETERS: Recursive system.multicall forbidden",
                "INCORRECT_PARAMETERS: No methodName",
                "INCORRECT_PARAMETERS",
            ]
        );
        assert_eq!(value(&api, "system.multicall", vec!["".into()]).await, Vec::new().into());
        assert_eq!(fault(&api, "system.multicall", vec![5.into()]).await, "INCORRECT_PARAMETERS");
    }

    #[tokio::test]
    async fn an_ending_daemon_refuses_all_but_a_few() {
        let (api, _folder) = api();
        assert_eq!(value(&api, "supervisor.shutdown", vec![]).await, true.into());
        assert_eq!(fault(&api, "supervisor.getState", vec![]).await, "SHUTDOWN_STATE");
        assert_eq!(fault(&api, "supervisor.getState", vec![1.into()]).await, "INCORRECT_PARAMETERS");
        let event = vec!["kind".into(), "data".into()];
        assert_eq!(value(&api, "supervisor.sendRemoteCommEvent", event).await, true.into());
        assert_eq!(value(&api, "system.listMethods", vec![]).await.as_array().unwrap().len(), 41);
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_be_read_says_why() {
        let (api, folder) = api();
        std::fs::write(folder.path().join("s.conf"), "[program:x]\n").unwrap();
        let text = fault(&api, "supervisor.reloadConfig", vec![]).await;
        assert_eq!(text, "CANT_REREAD: .ini file does not include supervisord section");
    }
}
