//! The files that pages are shown with; all are part of the program, none is read from a disk.

#[derive(Debug)]
pub(super) struct Asset {
    path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) content: &'static [u8],
}

static ALL: [Asset; 7] = [
    Asset {
        path: "stylesheets/supervisor.css",
        content_type: "text/css",
        content: include_bytes!("assets/supervisor.css"),
    },
    script("scripts/live.js", include_bytes!("assets/live.js")),
    script("scripts/page.js", include_bytes!("assets/page.js")),
    script("scripts/act.js", include_bytes!("assets/act.js")),
    script("scripts/list.js", include_bytes!("assets/list.js")),
    script("scripts/tail.js", include_bytes!("assets/tail.js")),
    Asset {
        path: "images/icon.svg",
        content_type: "image/svg+xml",
        content: include_bytes!("assets/icon.svg"),
    },
];

const fn script(path: &'static str, content: &'static [u8]) -> Asset {
    Asset { path, content_type: "text/javascript", content }
}

pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ALL.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_are_found() {
        assert!(find("scripts/live.js").is_some());
        assert!(find("scripts/").is_none());
        assert!(find("scripts/../scripts/live.js").is_none());
    }
}
