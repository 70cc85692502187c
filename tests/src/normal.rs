//! Makes two outputs comparable that were produced by different daemons: pids, times and directories become
//! words.

use std::path::Path;

/// Replaces pids, uptimes, dates and the directory in what `supervisorctl` prints.
pub fn normalise(text: &str, dir: &Path) -> String {
    let text = text.replace(&dir.display().to_string(), "DIR");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn line(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for index in 1..words.len() {
        match words[index - 1].as_str() {
            "pid" => replace_number(&mut words[index], "PID"),
            "uptime" => words[index] = "TIME".to_owned(),
            month if is_month(month) && words.len() > index + 2 => {
                // `Nov 21 11:05 AM`
                words[index - 1] = "DATE".to_owned();
                words.drain(index..=(index + 2));
                return words.join(" ");
            }
            _ => {}
        }
    }
    words.join(" ")
}

fn replace_number(word: &mut String, name: &str) {
    let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    if end > 0 {
        word.replace_range(..end, name);
    }
}

fn is_month(word: &str) -> bool {
    matches!(
        word,
        "Jan" | "Feb" | "Mar" | "Apr" | "May" | "Jun" | "Jul" | "Aug" | "Sep" | "Oct" | "Nov" | "Dec"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_becomes_words() {
        let text = "cat   RUNNING   pid 12, uptime 0:00:01\ndog   STOPPED   Nov 21 11:05 AM\nunix:///tmp/x/s";
        assert_eq!(
            normalise(text, Path::new("/tmp/x")),
            "cat   RUNNING   pid PID, uptime TIME\ndog   STOPPED   DATE\nunix://DIR/s"
        );
    }
}
