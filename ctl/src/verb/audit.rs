//! `ctl audit`: who changed what, and whether the log of it is whole.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use fleetvisor_proto::audit::{Broken, Head};
use fleetvisor_proto::fleet::{AuditRecord, AuditRequest};
use serde::{Deserialize, Serialize};
use tonic::{Request, Streaming};

use super::{in_fleet, print_json, refuse_scope};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::when;

/// Shows who changed what, and when, oldest first
///
/// A line has number, time, who, what, what it was done to, and further words; the outcome stands in front of
/// them where it is not "done". With -o json one document per line: {"seq", "hash", "at", "who", "from", "what",
/// "subject", "hosts", "hosts_total", "detail", "outcome"}; "at" is RFC 3339, "outcome" is "done", "started",
/// "refused" or "failed", and "hosts" is empty with "hosts_total" above 0 where hosts are too many to name.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  ctl audit\n  ctl audit --since 24h --who alice\n  ctl audit --host 'web-*' -f\n  ctl audit verify"
)]
pub(crate) struct Audit {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Subcommand, Debug)]
enum What {
    Verify(Verify),
}

#[derive(Args, Debug)]
struct Filter {
    /// How far back (24h, 7d), or the moment itself: 2026-11-21T10:55:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Only what this one did: alice, 'host web-*'
    #[arg(long, value_name = "GLOB")]
    who: Option<String>,
    /// Only what concerned such a host
    #[arg(long, value_name = "GLOB")]
    host: Option<String>,
    /// The last so many; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// Go on with what is added, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// Checks that no record was changed, removed or slipped in
///
/// Every record's hash covers the one before it. The place printed at the end (NUMBER:HASH) stands for
/// everything up to there: keep it elsewhere, and --contains tells later whether it is still so. With -o json one
/// document: {"whole", "records", "archived", "head", "reason"}. Records that are archived in the controller's
/// directory are checked there, by fleetvisor-controller verify.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl audit verify\n  ctl audit verify --contains \"$(cat last-known-place)\""
)]
struct Verify {
    /// A place that was printed before; its record must still be in the log
    #[arg(long, value_name = "NUMBER:HASH")]
    contains: Option<Head>,
}

#[derive(Clone, Copy, Debug)]
struct Since(i64);

/// What a record says; as the controller wrote it.
#[derive(Debug, Deserialize)]
struct Payload {
    at: i64,
    who: String,
    #[serde(default)]
    from: String,
    what: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    hosts_total: u64,
    #[serde(default)]
    detail: String,
    outcome: String,
}

#[derive(Debug, Serialize)]
struct RecordJson {
    seq: u64,
    hash: String,
    at: String,
    who: String,
    from: Option<String>,
    what: String,
    subject: String,
    hosts: Vec<String>,
    hosts_total: u64,
    detail: String,
    outcome: String,
}

#[derive(Debug, Serialize)]
struct VerifiedJson {
    whole: bool,
    /// How many were found to be whole.
    records: u64,
    /// How many before them are archived.
    archived: u64,
    /// The last of them.
    head: String,
    /// Why the log is not whole.
    reason: Option<String>,
}

impl Audit {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        match &self.what {
            None => in_fleet(cli, self.filter.of_fleet(cli)),
            Some(What::Verify(verify)) => in_fleet(cli, verify.of_fleet(cli)),
        }
    }
}

impl Filter {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = AuditRequest {
            since: self.since.map_or(0, |since| since.0),
            who: self.who.clone().unwrap_or_default(),
            host: self.host.clone().unwrap_or_default(),
            limit: self.limit,
            follow: self.follow,
        };
        let mut records = ask(cli, request).await?;
        while let Some(record) = records.message().await? {
            if record.archived {
                eprintln!("ctl: records up to {} are archived in the controller's directory", record.seq);
                continue;
            }
            let line = match cli.access.form() {
                Form::Text => text(&record),
                Form::Json => json(&record),
            };
            let unreadable = |error| FleetError::Answer(format!("audit record {}: {error}", record.seq));
            print::lines(&[line.map_err(unreadable)?])?;
        }
        Ok(Exit::Done)
    }
}

impl Verify {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let mut records = ask(cli, AuditRequest::default()).await?;
        let mut chain = Chain::new(self.contains);
        let mut reason = None;
        while let Some(record) = records.message().await? {
            if let Err(broken) = chain.add(&record) {
                reason = Some(broken.to_string());
                break;
            }
        }
        let reason = reason.or_else(|| chain.missing());
        let exit = if reason.is_none() { Exit::Done } else { Exit::Failed };
        match (cli.access.form(), reason) {
            (Form::Json, reason) => {
                let (whole, head) = (reason.is_none(), chain.head.to_string());
                let (records, archived) = (chain.head.seq - chain.base.seq, chain.base.seq);
                print_json(&VerifiedJson { whole, records, archived, head, reason })?;
            }
            (Form::Text, None) => {
                print::lines(&[chain.described()])?;
            }
            (Form::Text, Some(reason)) => eprintln!("ctl: the audit log is not whole: {reason}"),
        }
        Ok(exit)
    }
}

/// The chain as far as it was found whole, and the place that has to be in it.
struct Chain {
    /// What is before is archived.
    base: Head,
    head: Head,
    contains: Option<Head>,
    found: bool,
}

impl Chain {
    fn new(contains: Option<Head>) -> Chain {
        let found = contains.is_none_or(|place| place == Head::START);
        Chain { base: Head::START, head: Head::START, contains, found }
    }

    fn described(&self) -> String {
        let (records, last) = (self.head.seq - self.base.seq, self.head);
        match self.base.seq {
            0 => format!("{records} records, whole; the last is {last}"),
            archived => {
                format!("{records} records behind {archived} archived ones, whole; the last is {last}")
            }
        }
    }

    fn add(&mut self, record: &AuditRecord) -> Result<(), Broken> {
        if let Ok(hash) = <[u8; 32]>::try_from(record.hash.as_slice())
            && record.archived
            && self.head == Head::START
        {
            self.base = Head { seq: record.seq, hash };
            self.head = self.base;
        } else {
            self.head.follow(record.seq, &record.hash, &record.payload)?;
        }
        self.found |= self.contains == Some(self.head);
        Ok(())
    }

    /// What the place that had to be there says, if it was not.
    fn missing(&self) -> Option<String> {
        let place = self.contains.filter(|_| !self.found)?;
        Some(match place.seq {
            seq if seq > self.head.seq => format!("it ends with record {}, before {seq}", self.head.seq),
            seq if seq < self.base.seq => format!(
                "record {seq} is archived: look for the line that begins with {place} in the audit/ of the \
                 controller's directory, and check it with fleetvisor-controller verify"
            ),
            _ => format!("record {} is another one than when {place} was noted", place.seq),
        })
    }
}

async fn ask(cli: &Cli, request: AuditRequest) -> Result<Streaming<AuditRecord>, FleetError> {
    let mut fleet = connect(&cli.access).await?;
    // Who follows has all the time there is.
    let request = if request.follow { Request::new(request) } else { reading(request, &cli.access) };
    Ok(fleet.audit(request).await?.into_inner())
}

fn text(record: &AuditRecord) -> serde_json::Result<String> {
    let payload: Payload = serde_json::from_slice(&record.payload)?;
    let mut line = format!(
        "{:<6} {}  {}  {} {}",
        record.seq,
        when::utc(payload.at),
        payload.who,
        payload.what,
        payload.subject
    );
    if payload.outcome != "done" {
        line.push_str(&format!("  {}", payload.outcome));
    }
    if !payload.detail.is_empty() {
        line.push_str(&format!("  {}", payload.detail));
    }
    // Nothing that somebody else worded moves a terminal's cursor.
    Ok(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

fn json(record: &AuditRecord) -> serde_json::Result<String> {
    let payload: Payload = serde_json::from_slice(&record.payload)?;
    serde_json::to_string(&RecordJson {
        seq: record.seq,
        hash: record.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        at: when::rfc3339(payload.at),
        who: payload.who,
        from: Some(payload.from).filter(|from| !from.is_empty()),
        what: payload.what,
        subject: payload.subject,
        hosts: payload.hosts,
        hosts_total: payload.hosts_total,
        detail: payload.detail,
        outcome: payload.outcome,
    })
}

/// `24h` ago, or a moment.
fn since(text: &str) -> Result<Since, String> {
    let moment = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH),
        Err(_) => humantime::parse_rfc3339_weak(text)
            .map_err(|_| "neither a time ago (24h, 7d) nor a moment (2026-11-21T10:55:00Z)".to_owned())?,
    };
    let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(Since(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(head: &mut Head, payload: &str) -> AuditRecord {
        *head = head.next(payload.as_bytes());
        let (hash, payload) = (head.hash.to_vec(), payload.as_bytes().to_vec());
        AuditRecord { seq: head.seq, hash, payload, archived: false }
    }

    #[test]
    fn a_record_is_a_line_for_people_and_a_document_for_programs() {
        let payload = r#"{"at":1795258500000000,"who":"operator alice","from":"10.0.0.7:5","what":"host.revoke","subject":"web-01","hosts":["web-01"],"hosts_total":1,"detail":"lost\u001b[2J","outcome":"refused"}"#;
        let record = record(&mut Head::START.clone(), payload);
        assert_eq!(
            text(&record).unwrap(),
            "1      2026-11-21 10:55:00 UTC  operator alice  host.revoke web-01  refused  lost [2J"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&record).unwrap()).unwrap();
        assert_eq!(json["at"], "2026-11-21T10:55:00Z");
        assert_eq!(json["hosts"][0], "web-01");
        assert_eq!(json["hash"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn a_place_that_was_noted_is_found_again_or_missed() {
        let mut head = Head::START;
        let records = [record(&mut head, "a"), record(&mut head, "b")];
        let noted = head;
        let verify = |records: &[AuditRecord], contains| {
            let mut chain = Chain::new(contains);
            records.iter().try_for_each(|record| chain.add(record)).unwrap();
            chain.missing()
        };
        assert_eq!(verify(&records, None), None);
        assert_eq!(verify(&records, Some(noted)), None);
        assert_eq!(verify(&records, Some(Head::START)), None);
        // What is archived is no part of what is checked here, and the chain goes on behind it.
        let base = AuditRecord { archived: true, payload: Vec::new(), ..records[0].clone() };
        let rest = [base, records[1].clone()];
        assert_eq!(verify(&rest, Some(noted)), None);
        assert!(Chain::new(None).add(&records[1]).is_err());
        // The log was cut off, or written anew as a whole: each is a chain of its own, and not the one it was.
        assert!(verify(&records[..1], Some(noted)).unwrap().contains("ends with record 1"));
        let mut other = Head::START;
        let rewritten = [record(&mut other, "x"), record(&mut other, "y")];
        assert!(verify(&rewritten, Some(noted)).unwrap().contains("another one"));
    }

    #[test]
    fn since_is_a_time_ago_or_a_moment() {
        assert_eq!(since("2026-11-21T10:55:00Z").unwrap().0, 1_795_258_500_000_000);
        assert_eq!(since("2026-11-21 10:55:00").unwrap().0, 1_795_258_500_000_000);
        assert!(since("1h").unwrap().0 > 0);
        assert!(since("yesterday").is_err());
    }
}
