//! supervisorctl's manual page. Of the commands it has the words of their help, which are Supervisor's to the letter;
//! of the options and the exit statuses, where Supervisor says little, its own.

use roff::{Roff, bold, italic, roman};

use super::verb::Verb;

/// In the manuals' own language.
pub fn manual_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["supervisorctl", "1", "", concat!("Fleetvisor ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]);
    page.text([roman("supervisorctl - shows and changes what supervisord runs on this host")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("supervisorctl"),
        roman(" ["),
        italic("option"),
        roman(" ...] ["),
        italic("command"),
        roman(" ["),
        italic("argument"),
        roman(" ...]]"),
    ]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Carries out one command, or without one reads commands from the terminal. Where supervisord listens is in the \
         [supervisorctl] section of supervisord.conf(5), which is searched as supervisord(8) does.",
    )]);
    page.control("SH", ["OPTIONS"]);
    for (option, value, text) in [
        ("-c, --configuration", "FILE", "read this configuration instead of searching for one"),
        ("-s, --serverurl", "URL", "where supervisord listens (http://localhost:9001)"),
        ("-u, --username", "NAME", "who to be there"),
        ("-p, --password", "TEXT", "the password there; others on this host can see it among the processes"),
        ("-i, --interactive", "", "read commands after the one that is given, too"),
        ("-r, --history_file", "FILE", "keep the lines that were typed there"),
        ("-h, --help", "", "show a short help"),
    ] {
        page.control("TP", []).text([bold(option), roman(" "), italic(value)]).text([roman(text)]);
    }
    page.control("SH", ["COMMANDS"]);
    for (verb, help) in Verb::ALL.into_iter().filter_map(|verb| Some((verb, verb.help()?))) {
        page.control("SS", [verb.name()]).control("nf", []);
        for line in help.lines() {
            page.text([roman(columns(line))]);
        }
        page.control("fi", []);
    }
    page.control("SH", ["EXIT STATUS"]);
    for (status, text) in [
        ("0", "it is done"),
        ("1", "it failed"),
        ("2", "an argument is missing or wrong"),
        ("3", "status: a process does not run"),
        ("4", "status: there is no such process; any command: supervisord can't be reached"),
        ("7", "a process could not be started, or does not run; or supervisord can't be reached"),
    ] {
        page.control("TP", []).text([bold(status)]).text([roman(text)]);
    }
    page.control("SH", ["SEE ALSO"]).text([roman("supervisord(8), supervisord.conf(5), ctl(1)")]);
    page.render()
}

/// With a terminal's tabs: a manual has others.
fn columns(line: &str) -> String {
    let mut text = String::new();
    for character in line.chars() {
        if character == '\t' {
            text.push_str(&" ".repeat(8 - text.chars().count() % 8));
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::options::OPTIONS;
    use super::*;

    #[test]
    fn every_command_and_option_has_its_place() {
        let page = manual_page();
        for verb in Verb::ALL.into_iter().filter(|verb| verb.help().is_some()) {
            assert!(page.contains(&format!(".SS {}\n", verb.name())), "{}", verb.name());
        }
        for option in OPTIONS.iter().filter_map(|known| known.long) {
            assert!(page.contains(&format!("\\-\\-{option}")), "{option}:\n{page}");
        }
        assert!(!page.contains('\t'));
    }
}
