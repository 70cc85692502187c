//! The files of one configuration read together, and the values of their options with names expanded. It
//! knows `[include]`; what every other section means is for the files beside this one.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::expand::{Names, Scope};
use super::host::{Host, MAX_CONFIG_BYTES};
use super::ini::Document;
use super::path::{absolute, dirname, join};
use super::pattern::glob;

/// What all processes of a configuration may take together, in bytes of their texts and some for each.
const MAX_PROCESS_BYTES: usize = 64 << 20;
const BYTES_OF_A_PROCESS: usize = 512;

pub(super) struct Source<'a> {
    pub(super) document: Document,
    pub(super) host: &'a dyn Host,
    /// As given.
    pub(super) path: PathBuf,
    /// The folder of the main file.
    pub(super) here: String,
    pub(super) node_name: String,
    /// `ENV_X` of the environment; `[supervisord] environment` is added to it.
    pub(super) env: Names,
    pub(super) infos: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// Bytes of `[supervisord] environment`, which every process gets.
    pub(super) common_bytes: usize,
    spent: Cell<usize>,
}

impl<'a> Source<'a> {
    /// The one file; nothing is included.
    pub(super) fn open(path: &Path, here: String, host: &'a dyn Host) -> Result<Source<'a>, ConfigError> {
        let shown = path.display();
        if !host.exists(path) {
            return Err(ConfigError::new(format!("could not find config file {shown}")).in_file(path));
        }
        let unreadable = |_| ConfigError::new(format!("could not read config file {shown}")).in_file(path);
        let text = host.read(path).map_err(unreadable)?;
        let mut source = Source { here, ..Source::empty(path.to_path_buf(), host) };
        source.add(path, &text, &mut 0)?;
        Ok(source)
    }

    /// Without any file.
    pub(super) fn empty(path: PathBuf, host: &'a dyn Host) -> Source<'a> {
        Source {
            document: Document::default(),
            host,
            path,
            here: String::new(),
            node_name: host.node_name(),
            env: Names::from_env(host.env()),
            infos: Vec::new(),
            warnings: Vec::new(),
            common_bytes: 0,
            spent: Cell::new(0),
        }
    }

    /// One more file, with its own folder as `here`.
    pub(super) fn add_file(&mut self, path: &Path, text: &[u8]) -> Result<(), ConfigError> {
        self.add(path, text, &mut 0)?;
        self.here = absolute(dirname(&path.to_string_lossy()), self.host);
        self.document.expand_here(&self.here);
        Ok(())
    }

    /// The file and what its `[include]` names. An included file's own `[include]` does nothing.
    pub(super) fn open_with_includes(path: &Path, host: &'a dyn Host) -> Result<Source<'a>, ConfigError> {
        let here = absolute(dirname(&path.to_string_lossy()), host);
        let mut source = Source::open(path, here.clone(), host)?;
        if source.document.has_section("include") {
            source.document.expand_here(&here);
            source.include(&here)?;
        }
        Ok(source)
    }

    fn include(&mut self, base: &str) -> Result<(), ConfigError> {
        let Some(files) = self.document.get("include", "files").map(str::to_owned) else {
            let message = ".ini file has [include] section, but no files setting";
            return Err(ConfigError::new(message).in_file(&self.path).in_section("include"));
        };
        let local = self.local_names();
        let scope = Scope(&[&local, &self.env]);
        let expanded = scope.expand(&files, "include.files");
        let files = expanded.map_err(|message| self.error("include", "files", message))?;
        let mut total = 0;
        for pattern in files.split(super::python::is_space).filter(|pattern| !pattern.is_empty()) {
            let pattern = join(base, pattern);
            let found = glob(&pattern, self.host);
            if found.is_empty() {
                self.warnings.push(format!("No file matches via include \"{pattern}\""));
            }
            for file in found {
                self.infos.push(format!("Included extra file \"{file}\" during parsing"));
                // Supervisor goes on without a file that it can't open.
                if let Ok(text) = self.host.read(Path::new(&file)) {
                    self.add(Path::new(&file), &text, &mut total)?;
                    self.document.expand_here(&absolute(dirname(&file), self.host));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, text: &[u8], total: &mut usize) -> Result<(), ConfigError> {
        *total += text.len();
        if *total > MAX_CONFIG_BYTES {
            let message =
                format!("config file {} is too large: the limit is {MAX_CONFIG_BYTES} bytes", path.display());
            return Err(ConfigError::new(message).in_file(path));
        }
        self.document.read(path, text)
    }

    /// `here` and `host_node_name`.
    pub(super) fn local_names(&self) -> Names {
        Names::default().with("here", &self.here).with("host_node_name", &self.node_name)
    }

    /// An error at the place where this option's value was written.
    pub(super) fn error(&self, section: &str, option: &str, message: impl Into<String>) -> ConfigError {
        let origin = self.document.origin(section, option);
        ConfigError {
            message: message.into(),
            file: origin.map(|(file, _)| file).or(self.document.section_file(section)).map(Path::to_path_buf),
            line: origin.map(|(_, line)| line),
            section: Some(section.to_owned()),
            option: Some(option.to_owned()),
        }
    }

    /// Counts one process with this much text of its own; a short file may ask for very many.
    pub(super) fn spend(&self, bytes: usize) -> Result<(), ConfigError> {
        self.spent.set(self.spent.get() + bytes + self.common_bytes + BYTES_OF_A_PROCESS);
        match self.spent.get() {
            ..=MAX_PROCESS_BYTES => Ok(()),
            _ => Err(ConfigError::new(format!(
                "programs are too many or too large: the limit is {MAX_PROCESS_BYTES} bytes"
            ))),
        }
    }

    /// An error about a section's header.
    pub(super) fn section_error(&self, section: &str, message: String) -> ConfigError {
        let error = ConfigError::new(message).in_section(section);
        match self.document.section_file(section) {
            Some(file) => error.in_file(file),
            None => error,
        }
    }

    /// Names of all sections that start so, in their order.
    pub(super) fn sections_with_prefix(&self, prefix: &str) -> Vec<String> {
        self.document.sections().filter(|section| section.starts_with(prefix)).map(str::to_owned).collect()
    }

    pub(super) fn section<'s>(&'s self, name: &'s str, names: &'s [&'s Names]) -> Section<'s> {
        Section { source: self, name, names }
    }
}

/// One section's options. In their values, `names` may be used and every `ENV_X`.
#[derive(Clone, Copy)]
pub(super) struct Section<'s> {
    pub(super) source: &'s Source<'s>,
    pub(super) name: &'s str,
    names: &'s [&'s Names],
}

impl<'s> Section<'s> {
    /// As written.
    pub(super) fn raw(&self, option: &str) -> Option<&'s str> {
        self.source.document.get(self.name, option)
    }

    /// Expanded.
    pub(super) fn text(&self, option: &str) -> Result<Option<String>, ConfigError> {
        self.value(option, |text| Ok(text.to_owned()))
    }

    /// Expanded, then converted.
    pub(super) fn value<T>(
        &self,
        option: &str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.raw(option) else { return Ok(None) };
        let converted = if raw.contains('%') {
            let mut layers = Vec::with_capacity(self.names.len() + 1);
            layers.push(&self.source.env);
            layers.extend_from_slice(self.names);
            let expanded = Scope(&layers).expand(raw, &format!("{}.{option}", self.name));
            expanded.and_then(|text| convert(&text))
        } else {
            convert(raw)
        };
        converted.map(Some).map_err(|message| self.error(option, message))
    }

    /// [`Section::value`], or what Supervisor takes where nothing is written.
    pub(super) fn value_or<T>(
        &self,
        option: &str,
        default: T,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        Ok(self.value(option, convert)?.unwrap_or(default))
    }

    pub(super) fn error(&self, option: &str, message: impl Into<String>) -> ConfigError {
        self.source.error(self.name, option, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use crate::config::load;

    #[test]
    fn included_files_come_sorted_and_have_their_own_here() {
        let host = Memory::new(&[
            (
                "/etc/s.conf",
                "[supervisord]\n[include]\nfiles=d/*.conf none/*.conf\n[program:m]\ncommand=%(here)s\n",
            ),
            ("/etc/d/b.conf", "[program:b]\ncommand=%(here)s\n[include]\nfiles=/etc/s.conf\n"),
            ("/etc/d/a.conf", "[program:a]\ncommand=x\nstartsecs=no\n"),
            ("/etc/d/skip.ini", "broken"),
        ]);
        let error = load(Path::new("/etc/s.conf"), &host).unwrap_err();
        let expected =
            "invalid literal for int() with base 10: 'no' in section 'program:a' (file: '/etc/d/a.conf')";
        assert_eq!(error.to_string(), expected);
        assert_eq!((error.line, error.option.as_deref()), (Some(3), Some("startsecs")));

        let mut files = host.0;
        files.insert("/etc/d/a.conf".into(), "[program:a]\ncommand=x\n".into());
        let config = load(Path::new("/etc/s.conf"), &Memory(files)).unwrap();
        let commands: Vec<&str> = config.groups.iter().map(|g| g.processes[0].command.as_str()).collect();
        assert_eq!(commands, ["x", "/etc/d", "/etc"]);
        assert_eq!(config.warnings, ["No file matches via include \"/etc/none/*.conf\""]);
        assert_eq!(
            config.infos,
            ["a", "b"].map(|name| format!("Included extra file \"/etc/d/{name}.conf\" during parsing"))
        );
    }

    #[test]
    fn an_included_file_that_cannot_be_parsed_is_named() {
        let host =
            Memory::new(&[("/s.conf", "[supervisord]\n[include]\nfiles=b.conf\n"), ("/b.conf", "x=1\n")]);
        let error = load(Path::new("/s.conf"), &host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "File contains no section headers.\nfile: '/b.conf', line: 1\n'x=1\\n'"
        );
        assert_eq!(error.file.as_deref(), Some(Path::new("/b.conf")));
    }

    #[test]
    fn include_needs_files() {
        let host = Memory::new(&[("/s.conf", "[supervisord]\n[include]\n")]);
        let error = load(Path::new("/s.conf"), &host).unwrap_err();
        assert_eq!(error.to_string(), ".ini file has [include] section, but no files setting");
    }

    #[test]
    fn very_large_configurations_are_refused() {
        let text = "[supervisord]\n[program:p]\nprocess_name=%(process_num)d\nnumprocs=60000\ncommand=%(process_num)2000d";
        let error = load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", text)])).unwrap_err();
        assert!(error.to_string().starts_with("programs are too many or too large"), "{error}");
        let text = "#".repeat(MAX_CONFIG_BYTES + 1);
        let error = load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", &text)])).unwrap_err();
        assert!(error.to_string().starts_with("config file /s.conf is too large"), "{error}");
    }
}
