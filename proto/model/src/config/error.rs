//! What is wrong with a configuration: Supervisor's words for a person, the place for a program. Decides
//! nothing about exit codes or faults.

use std::path::{Path, PathBuf};

use super::python::repr;

/// Displays as exactly what Supervisor says. The other fields name the place where it is known, also where
/// Supervisor's wording leaves it out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    pub message: String,
    /// As it was opened: relative stays relative.
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<u32>,
    pub section: Option<String>,
    pub option: Option<String>,
}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into(), file: None, line: None, section: None, option: None }
    }

    pub(super) fn in_file(mut self, file: &Path) -> ConfigError {
        self.file.get_or_insert_with(|| file.to_path_buf());
        self
    }

    pub(super) fn in_section(mut self, section: &str) -> ConfigError {
        self.section.get_or_insert_with(|| section.to_owned());
        self
    }

    /// Supervisor's suffix for what is wrong inside a program's section.
    pub(super) fn within(mut self, section: &str, file: &Path) -> ConfigError {
        let shown = file.to_string_lossy();
        self.message = format!("{} in section {} (file: {})", self.message, repr(section), repr(&shown));
        self.in_section(section).in_file(file)
    }
}
