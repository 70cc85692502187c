//! What is told of an operation, to those who follow it and to those who ask what it is like.

use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{
    self, BatchBegun, HostDone, OperationState, RunProgress, RunStarted, run_event,
};

use super::super::record::{self, Stage, State};
use super::Driver;

impl Driver {
    pub(super) fn announce(&mut self, batch: usize) {
        if self.ends.len() > 1 && self.announced != Some(batch) {
            self.announced = Some(batch);
            let begin = if batch == 0 { 0 } else { self.ends[batch - 1] };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            self.tell(run_event::Event::Batch(BatchBegun {
                batch: count(batch + 1),
                batches: count(self.ends.len()),
                hosts: count(self.ends[batch] - begin),
            }));
        }
    }

    /// What has happened so far, as it was told to those who listened.
    pub(in crate::operations) fn replay(&self) -> Vec<run_event::Event> {
        let hosts = self.members.iter().map(|member| member.planned.host.clone()).collect();
        let applied = self.record.applied.as_ref();
        let mut events = vec![run_event::Event::Started(RunStarted {
            id: self.id.clone(),
            hosts,
            unmatched: Vec::new(),
            bundle: applied.map(|applied| applied.bundle.clone()).unwrap_or_default(),
            bundle_revision: applied.map_or(0, |applied| applied.revision),
        })];
        for member in &self.members {
            if !member.results.is_empty() {
                let (host, results) = (member.planned.host.clone(), member.results.clone());
                events.push(run_event::Event::Progress(RunProgress { host, results }));
            }
            if let Stage::Done { result, reason, .. } = &member.stage {
                events.push(run_event::Event::HostDone(HostDone {
                    host: Some(member.host.describe()),
                    result: record::result(result).into(),
                    reason: reason.clone(),
                }));
            }
        }
        events
    }

    /// What is told last: the hosts that are not done, and the state.
    pub(in crate::operations) fn farewell(&self) -> Vec<run_event::Event> {
        let stopped = matches!(self.record.state, State::Stopped | State::Cancelled);
        let expires = Wall(self.record.expires);
        let unfinished = self.members.iter().filter(|member| !member.is_done());
        let mut events: Vec<run_event::Event> = unfinished
            .map(|member| {
                let (result, reason) = member.unfinished(self.verb, stopped, expires);
                let host = Some(member.host.describe());
                run_event::Event::HostDone(HostDone { host, result: result.into(), reason })
            })
            .collect();
        if self.record.state == State::Running {
            events.push(run_event::Event::Operation(self.now.borrow().clone()));
        }
        events
    }

    /// The operation, as it is `now` if it is under way elsewhere, and its hosts.
    pub(in crate::operations) fn parts(&self, now: Option<fleet::Operation>) -> Vec<fleet::OperationPart> {
        use fleet::operation_part::Part;
        let batch = |at: usize| self.ends.iter().take_while(|end| **end <= at).count() + 1;
        let hosts = self.members.iter().enumerate();
        let hosts = hosts.map(|(at, member)| Part::Host(member.shown(batch(at))));
        let operation = Part::Operation(now.unwrap_or_else(|| self.now.borrow().clone()));
        std::iter::once(operation)
            .chain(hosts)
            .map(|part| fleet::OperationPart { part: Some(part) })
            .collect()
    }

    pub(super) fn tell(&mut self, event: run_event::Event) {
        self.callers.retain(|caller| caller.tell(event.clone()));
    }

    /// Those who listen are told what is left, and that there is nothing more to hear for now.
    pub(super) fn dismiss(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        for event in self.farewell() {
            self.tell(event);
        }
        self.callers.clear();
    }

    pub(super) fn show(&self) {
        let (ok, failed) = self.counts();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut shown = self.record.shown(&self.id);
        if self.record.state == State::Running && self.is_settled() {
            shown.state = OperationState::Waiting.into();
        }
        shown.ok = count(ok);
        shown.failed = count(failed);
        shown.under_way = count(self.under_way());
        shown.batch = count((self.batch + 1).min(self.ends.len()));
        shown.batches = count(self.ends.len());
        self.now.send_replace(shown);
    }
}
