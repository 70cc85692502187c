//! Columns: those of `status`, the same for one host and for a fleet, and those of a fleet's other tables.

/// Narrowest first column.
const NAMES: usize = 30;

/// Name, state and description in `supervisorctl`'s columns. `widest` is the longest name, in characters.
pub(crate) fn status_line(name: &str, widest: usize, state: &str, description: &str) -> String {
    let width = widest.max(NAMES) + 3;
    format!("{name:<width$}{state:<10}{description}")
}

/// Lines of which each column is as wide as its widest cell, two spaces apart.
pub(crate) fn aligned<const N: usize>(rows: Vec<[String; N]>) -> Vec<String> {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: [String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.into_iter().map(line).collect()
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
