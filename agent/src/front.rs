//! The thread of everything that talks to the outside: HTTP servers and the fleet's link. It holds handles,
//! never state, so nothing that goes on here delays the loop.

use std::io;
use std::time::Duration;

use fleetvisor_model::config::FleetSection;
use tokio::sync::oneshot;

use crate::fleet::Member;
use crate::http::{self, Bound, Parting};
use crate::inbox::Handle;
use crate::logs::Logs;
use fleetvisor_link::Wishes;

/// How long answers that are under way may take once the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Front {
    stop: oneshot::Sender<Parting>,
    stopped: oneshot::Receiver<()>,
}

impl Front {
    pub(crate) fn start(
        servers: Vec<Bound>,
        handle: Handle,
        logs: Logs,
        fleet: Option<(FleetSection, Wishes)>,
    ) -> io::Result<Front> {
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("front".to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Some((section, wishes)) = fleet {
                    let member = Member { handle: handle.clone(), logs: logs.clone() };
                    tokio::spawn(fleetvisor_link::run(section, wishes, member));
                }
                http::serve(servers, handle, logs, stopping, LAST_ANSWERS).await;
            });
            // What is left of slow work is not waited for.
            runtime.shutdown_background();
            let _ = done.send(());
        })?;
        Ok(Front { stop, stopped })
    }

    /// Ends everything; the sockets are gone when this returns.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(Parting::Close);
        let _ = self.stopped.await;
    }

    /// Finishes the answers that are under way, and leaves the sockets to another agent.
    pub(crate) async fn hand_over(self) {
        let _ = self.stop.send(Parting::HandOver);
        let _ = self.stopped.await;
    }
}
