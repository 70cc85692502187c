//! The columns of `status`, the same for one host and for a fleet.

/// Narrowest first column.
const NAMES: usize = 30;

/// Name, state and description in `supervisorctl`'s columns. `widest` is the longest name, in characters.
pub(crate) fn status_line(name: &str, widest: usize, state: &str, description: &str) -> String {
    let width = widest.max(NAMES) + 3;
    format!("{name:<width$}{state:<10}{description}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_where_supervisorctl_has_them() {
        assert_eq!(
            status_line("cat", 3, "RUNNING", "pid 1, uptime 0:00:01"),
            "cat                              RUNNING   pid 1, uptime 0:00:01"
        );
        let long = "x".repeat(40);
        assert_eq!(status_line(&long, 40, "STOPPED", ""), format!("{long}   STOPPED   "));
    }
}
