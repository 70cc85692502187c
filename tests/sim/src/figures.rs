//! The figures and their table.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<[String; 4]>,
}

impl Figures {
    /// One measure: ours, the bare server's, and what is aimed at.
    pub(crate) fn add(&mut self, measure: &str, ours: String, floor: Option<String>, aim: &str) {
        eprintln!(
            "  {measure}: {ours}{}",
            floor.as_ref().map_or(String::new(), |floor| format!(" (bare {floor})"))
        );
        self.rows.push([measure.to_owned(), ours, floor.unwrap_or_else(|| "-".to_owned()), aim.to_owned()]);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| measure | ours | bare server | aim |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        for [measure, ours, floor, aim] in &self.rows {
            writeln!(f, "| {measure} | {ours} | {floor} | {aim} |")?;
        }
        Ok(())
    }
}

pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
