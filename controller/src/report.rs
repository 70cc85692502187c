//! What a host says of itself, checked: names that can be names, counts and lengths within limits. A host is an
//! outsider here: it may be broken or taken over, and costs no more than its share.

use std::collections::{BTreeMap, HashMap};

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::{self, ConvertError};
use fleetvisor_proto::fleet;

/// Most processes of one host.
pub(crate) const PROCESSES_MAX: usize = 5_000;
/// All their names together: what is stored of a host stays one small record.
const NAMES_BYTES_MAX: usize = 512 * 1024;
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;
const VERSION_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    #[error(transparent)]
    Name(#[from] ConvertError),
    #[error("{0} processes are too many (the limit is {PROCESSES_MAX})")]
    TooMany(usize),
    #[error("the names of the processes are too long together (the limit is {NAMES_BYTES_MAX} bytes)")]
    NamesTooLong,
    #[error("its labels are too many or too long (the limits are {LABELS_MAX} and {LABEL_BYTES_MAX} bytes)")]
    Labels,
    #[error("its {0} is too long")]
    TooLong(&'static str),
}

/// Each process by name. Texts that are too long are cut; they are for people.
pub(crate) fn processes(
    reported: Vec<fleet::ProcessStatus>,
) -> Result<Vec<(ProcessName, fleet::ProcessStatus)>, ReportError> {
    if reported.len() > PROCESSES_MAX {
        return Err(ReportError::TooMany(reported.len()));
    }
    let mut bytes = 0;
    let mut processes = Vec::with_capacity(reported.len());
    for mut status in reported {
        let name = convert::process_name(status.name.clone())?;
        bytes += name.group.len() + name.process.len();
        cut(&mut status.description);
        cut(&mut status.spawnerr);
        processes.push((name, status));
    }
    if bytes > NAMES_BYTES_MAX {
        return Err(ReportError::NamesTooLong);
    }
    Ok(processes)
}

pub(crate) fn names(names: Vec<fleet::ProcessName>) -> Result<Vec<ProcessName>, ReportError> {
    if names.len() > PROCESSES_MAX {
        return Err(ReportError::TooMany(names.len()));
    }
    names.into_iter().map(|name| Ok(ProcessName::try_from(name)?)).collect()
}

pub(crate) fn labels(labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, ReportError> {
    let too_long = |text: &String| text.len() > LABEL_BYTES_MAX;
    if labels.len() > LABELS_MAX || labels.iter().any(|(key, value)| too_long(key) || too_long(value)) {
        return Err(ReportError::Labels);
    }
    Ok(labels.into_iter().collect())
}

/// A short text that is kept as it is.
pub(crate) fn short(text: String, what: &'static str) -> Result<String, ReportError> {
    if text.len() > VERSION_BYTES_MAX { Err(ReportError::TooLong(what)) } else { Ok(text) }
}

fn cut(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(process: &str) -> fleet::ProcessStatus {
        fleet::ProcessStatus::unknown(&ProcessName::new("g", process))
    }

    #[test]
    fn what_is_too_much_is_refused() {
        assert_eq!(processes(vec![status("a"); 5_001]), Err(ReportError::TooMany(5_001)));
        assert_eq!(processes(vec![status(&"a".repeat(250)); 5_000]), Err(ReportError::NamesTooLong));
        assert!(matches!(processes(vec![status("")]), Err(ReportError::Name(_))));
        assert_eq!(processes(vec![fleet::ProcessStatus::default()]), Err(ConvertError::NoName.into()));
        let label = |key: &str| HashMap::from([(key.to_owned(), String::new())]);
        assert!(labels(label("a")).is_ok());
        assert_eq!(labels(label(&"a".repeat(257))), Err(ReportError::Labels));
        assert_eq!(short("v".repeat(65), "version"), Err(ReportError::TooLong("version")));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut long = status("a");
        long.description = format!("x{}", "ü".repeat(600));
        let cut = processes(vec![long]).unwrap().remove(0).1.description;
        assert_eq!(cut.len(), 1023);
    }
}
