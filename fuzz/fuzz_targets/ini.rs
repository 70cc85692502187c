//! INI text, without the meaning of any section: files that a NUL byte divides are read into one document,
//! which then knows the value and the place of every option it lists.
#![no_main]

use std::path::Path;

use fleetvisor_model::config::Document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut document = Document::default();
    for text in data.split(|byte| *byte == 0) {
        if document.read(Path::new("/etc/supervisord.conf"), text).is_err() {
            return;
        }
    }
    document.expand_here("/etc");
    for section in document.sections() {
        assert!(document.has_section(section));
        assert!(document.section_file(section).is_some());
        for option in document.options(section) {
            assert!(document.get(section, option).is_some(), "{section}: {option} is listed and not there");
            assert!(document.origin(section, option).is_some(), "{section}: {option} came from nowhere");
        }
    }
});
