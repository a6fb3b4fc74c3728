//! One line of a terminal that is written over and over, and then gone without a trace.
//!
//! Why not a progress bar of a library: those fill the line with blanks up to its end, so that the `^C` that a terminal
//! echoes wraps, and the line above it stays. This one ends well before the margin, and whatever else comes on the same
//! line goes away with it.

use console::{Term, measure_text_width, truncate_str};

/// Columns that stay free, for a cursor and an echoed `^C`.
const FREE: usize = 3;
/// For a terminal that does not tell.
const COLUMNS: u16 = 80;

/// The line at the cursor of standard error.
pub(crate) struct Line {
    terminal: Term,
    shown: bool,
}

impl Line {
    /// The line, if standard error is a terminal that can do this.
    pub(crate) fn new() -> Option<Self> {
        let terminal = Term::buffered_stderr();
        let can = terminal.is_term() && !console::is_dumb();
        can.then_some(Line {
            terminal,
            shown: false,
        })
    }

    /// Shows `text`, or as much of it as fits, in place of what was shown.
    pub(crate) fn show(&mut self, text: &str) {
        let columns = match self.terminal.size_checked() {
            Some((_, columns)) if columns > 0 => columns,
            _ => COLUMNS,
        };
        let room = usize::from(columns).saturating_sub(FREE);
        let text = truncate_str(text, room, "");
        debug_assert!(measure_text_width(&text) <= room);
        self.shown = true;
        self.write(&text);
    }

    /// Takes it away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.write("");
        }
    }

    /// In one write. If the terminal is gone, nobody misses it.
    fn write(&self, text: &str) {
        let _ = self
            .terminal
            .clear_line()
            .and_then(|()| self.terminal.write_str(text))
            .and_then(|()| self.terminal.flush());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
