//! `%(name)s` and its relatives in values: the first line is a command, the second an environment, the third a
//! process name. What has no `%` and no quote is taken as it is.
#![no_main]

use fleetvisor_fuzz::MemoryHost;
use fleetvisor_model::config::load;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.lines().map(|line| line.replace('\0', ""));
    let mut line = || lines.next().unwrap_or_default();
    let (command, environment, name) = (line(), line(), line());
    let config = format!(
        "[supervisord]\n[program:x]\ncommand=/bin/x {command}\nenvironment={environment}\n\
         process_name=%(process_num)d{name}\nnumprocs=2\n"
    );
    let host = MemoryHost::new([config.as_bytes()]);
    let Ok(config) = load(host.main(), &host) else { return };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/' || byte == b'-';
    for process in config.groups.iter().flat_map(|group| &group.processes) {
        if command.bytes().all(plain) {
            assert_eq!(process.command, format!("/bin/x {command}").trim_end());
        }
    }
});
