//! Connections of holders of certificates, and how they are ended when a certificate is void: at once, with the
//! reason. Streams end with it as their status ([`crate::access`] wraps them), and what is left of a connection is
//! cut a moment later ([`crate::connection`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use fleetvisor_proto::principal::Principal;
use tokio::sync::watch;

use crate::grant::Grant;

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u64, Open>,
    last: u64,
}

#[derive(Debug)]
struct Open {
    /// As a principal is displayed, so without an operator's role: `operator alice`.
    holder: String,
    grant: Option<Grant>,
    end: watch::Sender<Option<String>>,
}

/// One connection; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    sessions: Arc<Sessions>,
    id: u64,
    end: watch::Receiver<Option<String>>,
}

/// Tells of a session's end.
#[derive(Clone, Debug)]
pub(crate) struct Ended(watch::Receiver<Option<String>>);

impl Sessions {
    pub(crate) fn open(self: &Arc<Sessions>, principal: &Principal, grant: Option<Grant>) -> Session {
        let (sender, end) = watch::channel(None);
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.open.insert(id, Open { holder: principal.to_string(), grant, end: sender });
        Session { sessions: self.clone(), id, end }
    }

    /// Ends all sessions of `holder` but those of a certificate with the grant `keep`.
    pub(crate) fn end(&self, holder: &str, keep: Option<Grant>, reason: &str) {
        for open in self.state().open.values() {
            if open.holder == holder && (keep.is_none() || open.grant != keep) {
                open.end.send_replace(Some(reason.to_owned()));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the sessions")
    }
}

impl Session {
    pub(crate) fn ended(&self) -> Ended {
        Ended(self.end.clone())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.state().open.remove(&self.id);
    }
}

impl Ended {
    /// Waits for the end; gives the reason. Of a session that is closed otherwise there is none.
    pub(crate) async fn reason(mut self) -> String {
        let ended = self.0.wait_for(Option::is_some).await;
        let reason = ended.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_sessions_of_one_holder_end_and_no_others() {
        let sessions = Arc::new(Sessions::default());
        let (old, new) = (Grant::new().unwrap(), Grant::new().unwrap());
        let host = |name: &str| Principal::Host(name.to_owned());
        let first = sessions.open(&host("a"), Some(old));
        let second = sessions.open(&host("a"), Some(new));
        let other = sessions.open(&host("b"), Some(old));
        sessions.end("host a", Some(new), "enrolled anew");
        assert_eq!(first.ended().reason().now_or_never().as_deref(), Some("enrolled anew"));
        assert_eq!(second.ended().reason().now_or_never(), None);
        sessions.end("host a", None, "revoked");
        assert_eq!(second.ended().reason().now_or_never().as_deref(), Some("revoked"));
        assert_eq!(other.ended().reason().now_or_never(), None);
        drop((first, second, other));
        assert!(sessions.state().open.is_empty());
    }
}
