//! How tables look.

use comfy_table::{ContentArrangement, Row, Table, presets};

/// How wide a table is that does not go to a terminal.
const PIPE_WIDTH: u16 = 120;

/// A table without lines, as wide as the terminal.
pub(super) fn new(header: impl Into<Row>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_width(PIPE_WIDTH);
    }
    table.set_header(header);
    table
}

/// Foreign text, made fit for a terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
