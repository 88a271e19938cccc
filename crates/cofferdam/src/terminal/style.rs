//! What standard output can show: how wide it is, which characters, whether colours.

use std::io::IsTerminal;

/// Columns of an output that does not say.
const COLUMNS: usize = 100;

/// Fewer columns than this are no terminal that somebody reads.
const FEWEST: usize = 30;

/// Variables that choose the character set, the first one that is set counts.
const LOCALE: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];

/// What an output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Columns of a line.
    pub(crate) columns: usize,
    /// Whether characters beyond ASCII can be used for drawing.
    pub(crate) unicode: bool,
    /// Whether colours can be used.
    pub(crate) color: bool,
}

/// Colours with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As the terminal has it.
    Plain,
    /// Not worth a look.
    Dim,
    /// What the cache answered.
    Cached,
    /// What went wrong.
    Failed,
    /// What is going on.
    Running,
}

impl Style {
    /// Of this process's standard output.
    pub(crate) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let width = width.map(|size| usize::from(size.ws_col));
        Self::new(terminal, width, |name| std::env::var(name).ok())
    }

    fn new(
        terminal: bool,
        width: Option<usize>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = LOCALE.into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
        let named = set("COLUMNS").and_then(|text| text.parse().ok());
        let width = width.filter(|_| terminal).filter(|columns| *columns > 0).or(named);
        Self {
            columns: width.unwrap_or(COLUMNS).max(FEWEST),
            unicode: terminal && (locale.ends_with("utf-8") || locale.ends_with("utf8")),
            color: terminal && set("NO_COLOR").is_none() && set("TERM").as_deref() != Some("dumb"),
        }
    }

    /// `text` in a colour, where there are any.
    pub(crate) fn paint(self, text: &str, paint: Paint) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            Paint::Dim => "2",
            Paint::Cached => "34",
            Paint::Failed => "31",
            Paint::Running => "33",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(terminal: bool, width: Option<usize>, variables: &[(&str, &str)]) -> Style {
        Style::new(terminal, width, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_terminals_get_more_than_ascii() {
        let utf8 = [("LANG", "de_DE.UTF-8")];
        assert!(style(true, None, &utf8).unicode && style(true, None, &utf8).color);
        assert!(!style(false, None, &utf8).unicode && !style(false, None, &utf8).color);
        assert!(!style(true, None, &[]).unicode);
        assert!(!style(true, None, &[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]).unicode);
        assert!(style(true, None, &[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]).unicode);
    }

    #[test]
    fn colours_can_be_refused() {
        assert!(!style(true, None, &[("NO_COLOR", "1")]).color);
        assert!(!style(true, None, &[("TERM", "dumb")]).color);
        assert_eq!(style(false, None, &[]).paint("x", Paint::Failed), "x");
        assert_eq!(style(true, None, &[]).paint("x", Paint::Failed), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn widths() {
        let columns = |terminal, width, variables: &[_]| style(terminal, width, variables).columns;
        assert_eq!(columns(true, Some(72), &[("COLUMNS", "60")]), 72);
        assert_eq!(columns(true, Some(0), &[("COLUMNS", "60")]), 60);
        assert_eq!(columns(false, Some(72), &[]), 100);
        assert_eq!(columns(true, Some(3), &[]), 30);
        assert_eq!(columns(false, None, &[("COLUMNS", "wide")]), 100);
    }
}
