//! `ctl schema`: the one place where the documents of `-o json` are described. What commands really print is checked
//! against it.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::print_json;
use crate::cli::{Cli, Form, usage};
use crate::fleet::exit::Exit;

const SCHEMA: &str = include_str!("../schema.json");

/// Prints what the documents of -o json look like, as JSON Schema
///
/// Of one command, or of all of them as "commands". Members may be added to documents in later versions; what is
/// described stays as it is.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl schema host list\n  ctl schema > ctl.schema.json")]
pub(crate) struct Schema {
    /// Words of the command: status, host list
    command: Vec<String>,
}

impl Schema {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if cli.scope.is_given() || cli.only_fleet().is_err() || cli.access.form() == Form::Json {
            return usage("schema takes the words of a command and nothing else");
        }
        let schema = all();
        let command = self.command.join(" ");
        let printed = match (self.command.is_empty(), of(&schema, &command)) {
            (true, _) => print_json(&schema),
            (false, Some(one)) => print_json(&one),
            (false, None) => return usage(&format!("{command} has no document; ctl schema prints all")),
        };
        // Only a closed stdout is left to go wrong, and nobody is there to hear of it.
        if printed.is_ok() { Exit::Done.into() } else { Exit::Failed.into() }
    }
}

fn all() -> Value {
    serde_json::from_str(SCHEMA).expect("a test reads it")
}

/// The document of one command, with all that it refers to.
fn of(schema: &Value, command: &str) -> Option<Value> {
    let Value::Object(document) = schema["commands"].get(command)? else { return None };
    let mut one = Map::new();
    one.insert("$schema".to_owned(), schema["$schema"].clone());
    one.insert("title".to_owned(), format!("What ctl -o json {command} prints").into());
    one.extend(document.clone());
    one.insert("$defs".to_owned(), schema["$defs"].clone());
    Some(Value::Object(one))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory as _};

    use super::*;

    /// Commands that do something, by their words.
    fn leaves(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
        let mut inner = command.get_subcommands().filter(|it| it.get_name() != "help").peekable();
        // `audit` does something itself, and has a command below it.
        if inner.peek().is_none() || words == "audit" {
            found.push((words.to_owned(), command.clone()));
        }
        for command in inner {
            leaves(command, format!("{words} {}", command.get_name()).trim(), found);
        }
    }

    fn commands() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        found
    }

    #[test]
    fn every_command_has_an_example() {
        for (words, command) in commands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                after.contains("Example")
                    && after.contains(&format!("ctl {}", words.split(' ').next().unwrap())),
                "{words}: {after}"
            );
        }
    }

    #[test]
    fn every_document_is_described_and_belongs_to_a_command() {
        let schema = all();
        let described: BTreeSet<String> = schema["commands"].as_object().unwrap().keys().cloned().collect();
        let known: BTreeSet<String> = commands().into_iter().map(|(words, _)| words).collect();
        assert!(described.is_subset(&known), "{:?}", described.difference(&known));
        for (words, command) in commands() {
            let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
            let is_described = words == "schema" || described.contains(&words);
            assert!(is_described || !about.contains("-o json"), "{words}");
        }
        let references = SCHEMA.split("#/$defs/").skip(1).map(|rest| rest.split('"').next().unwrap());
        let references: BTreeSet<&str> = references.collect();
        let defined: BTreeSet<&str> =
            schema["$defs"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(references, defined);
    }

    #[test]
    fn one_command_comes_with_what_it_refers_to() {
        let one = of(&all(), "host list").unwrap();
        assert!(one["$defs"]["host"].is_object() && one["properties"]["hosts"].is_object());
        assert_eq!(of(&all(), "host shake"), None);
    }
}
