//! A release of supervisord that proves itself and then never comes up as an agent. What it reports is made by
//! `genuine` beside it.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

fn main() {
    let arg = std::env::args().nth(1).unwrap_or_default();
    if !arg.starts_with("--prove-as-successor=") {
        std::process::abort();
    }
    let own = std::env::current_exe().expect("it has a path");
    let program = own.metadata().expect("it is there");
    let genuine = Command::new(own.with_file_name("genuine"))
        .arg(arg)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .expect("the genuine one is beside it");
    let mut report: Value = serde_json::from_slice(&genuine.stdout).expect("a report");
    report["version"] = json!("9.9.9");
    report["program"] = json!({ "device": program.dev(), "inode": program.ino() });
    println!("{report}");
}
