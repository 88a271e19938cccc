//! Text of an answer: headings, fields and tables, each part made safe for a terminal when it is added.

use cofferdam_client::text;
use cofferdam_cnb::{ModuleLayers, Order, RunImage};

use crate::terminal::Table;

/// Most groups of an order that are shown: real ones have a dozen.
const MAX_SHOWN: usize = 1000;

/// A text that grows.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// A line `name: value`; nothing without a value.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.line(0, &format!("{name}: {value}"));
        }
    }

    /// A line, indented.
    pub(super) fn line(&mut self, indent: usize, line: &str) {
        self.0.push_str(&" ".repeat(indent));
        self.0.push_str(&text::single_line(line));
        self.0.push('\n');
    }

    /// A heading after an empty line.
    pub(super) fn heading(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(0, &format!("{name}:"));
    }

    /// A table, when it has rows.
    pub(super) fn table(&mut self, name: &str, columns: &[&'static str], rows: Vec<Vec<String>>) {
        if rows.is_empty() {
            return;
        }
        self.heading(name);
        let mut table = Table::new(columns);
        rows.into_iter().for_each(|row| table.row(row));
        for line in table.take().lines() {
            self.line(2, line);
        }
    }

    /// Run images, the default one first.
    pub(super) fn run_images(&mut self, images: &[RunImage]) {
        let rows = images.iter().map(|image| vec![image.image.clone(), image.mirrors.join(", ")]);
        self.table("Run images", &["IMAGE", "MIRRORS"], rows.collect());
    }

    /// An order of detection.
    pub(super) fn order(&mut self, name: &str, order: &Order) {
        if order.is_empty() {
            return;
        }
        self.heading(name);
        for (number, group) in order.iter().take(MAX_SHOWN).enumerate() {
            self.line(2, &format!("Group {}:", number + 1));
            for module in group.group.iter().take(MAX_SHOWN) {
                let optional = if module.optional { " (optional)" } else { "" };
                let at = if module.version.is_empty() { "" } else { "@" };
                self.line(4, &format!("{}{at}{}{optional}", module.id, module.version));
            }
        }
    }

    /// Modules and their APIs.
    pub(super) fn modules(&mut self, name: &str, modules: &ModuleLayers) {
        let rows = modules.iter().flat_map(|(id, versions)| {
            versions.iter().map(move |(version, module)| {
                vec![id.clone(), version.clone(), module.api.clone(), module.homepage.clone()]
            })
        });
        self.table(name, &["ID", "VERSION", "API", "HOMEPAGE"], rows.collect());
    }

    /// Everything.
    pub(super) fn text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal_or_makes_lines() {
        let mut page = Page::default();
        page.field("Name", "a\x1b[2J\nTrusted: yes");
        page.field("Empty", "");
        page.table("T", &["A"], vec![vec!["x\x1b]0;t\x07\ny".to_owned()]]);
        assert_eq!(page.text(), "Name: a[2J Trusted: yes\n\nT:\n  A\n  x]0;t y\n");
    }
}
