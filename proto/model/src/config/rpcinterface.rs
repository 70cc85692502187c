//! `[rpcinterface:x]` and `[ctlplugin:x]`: in Supervisor these load Python code into the process. One such
//! factory is built in; any other is refused with a word on what takes its place.

use super::error::ConfigError;
use super::source::Source;
use super::types::RpcInterface;

const MAIN: &str = "supervisor.rpcinterface:make_main_rpcinterface";

/// Known plugins by the start of their import path.
const INSTEAD: [(&str, &str); 5] = [
    ("supvisors", "join this host to a controller with a [fleet] section"),
    ("supervisor_twiddler", "change the config files and run \"supervisorctl update\""),
    ("supervisor_wildcards", "ctl takes globs, as in \"ctl restart 'web-*'\""),
    ("supervisorwildcards", "ctl takes globs, as in \"ctl restart 'web-*'\""),
    ("supervisorserialrestart", "use \"ctl restart NAME --batch 1\""),
];

pub(super) fn rpcinterfaces(source: &Source<'_>) -> Result<Vec<RpcInterface>, ConfigError> {
    let mut found = Vec::new();
    for name in source.sections_with_prefix("rpcinterface:") {
        let key = "supervisor.rpcinterface_factory";
        let section = source.section(&name, &[]);
        let factory = factory(source, &name, key)?;
        if super::python::strip(&factory) != MAIN {
            return Err(
                section.error(key, cannot_load(&factory, &name, "call the XML-RPC API from a program"))
            );
        }
        let mut interface = RpcInterface {
            name: name["rpcinterface:".len()..].to_owned(),
            factory: MAIN.to_owned(),
            options: Default::default(),
        };
        for option in source.document.options(&name).into_iter().filter(|option| *option != key) {
            interface.options.insert(option.to_owned(), section.text(option)?.unwrap_or_default());
        }
        found.push(interface);
    }
    Ok(found)
}

/// Plugins of the client, none of which can be loaded.
pub(super) fn refuse_ctlplugins(source: &Source<'_>) -> Result<(), ConfigError> {
    match source.sections_with_prefix("ctlplugin:").first() {
        None => Ok(()),
        Some(name) => {
            let key = "supervisor.ctl_factory";
            let factory = factory(source, name, key)?;
            let instead = "call supervisorctl or ctl from a script";
            Err(source.error(name, key, cannot_load(&factory, name, instead)))
        }
    }
}

fn factory(source: &Source<'_>, name: &str, key: &str) -> Result<String, ConfigError> {
    let missing = || source.error(name, key, format!("section [{name}] does not specify a {key}"));
    source.section(name, &[]).text(key)?.ok_or_else(missing)
}

/// Supervisor's words for an import that fails, and why it always does here.
pub(super) fn cannot_load(spec: &str, section: &str, otherwise: &str) -> String {
    let lower = super::python::strip(spec).to_lowercase();
    let known = INSTEAD.iter().find(|(start, _)| lower.starts_with(start));
    let instead = known.map_or(otherwise, |(_, instead)| instead);
    format!(
        "{spec} cannot be resolved within [{section}]: Python plugins cannot be loaded here; instead, {instead}"
    )
}
