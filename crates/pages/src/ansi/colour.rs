//! How characters look: the sixteen colours of a terminal and a few attributes, as classes.
//!
//! The stylesheet decides what a colour is in light and in dark, so that all of them can be read on
//! the page's ground. Colours beyond the sixteen take the nearest of them.

use crate::text::Markup;

/// Attributes that need no number.
const BOLD: u8 = 1;
const DIM: u8 = 2;
const ITALIC: u8 = 4;
const UNDERLINE: u8 = 8;
const STRIKE: u8 = 16;
const INVERSE: u8 = 32;

/// The look of a character.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    text: Option<u8>,
    ground: Option<u8>,
    attributes: u8,
}

/// The classes of text colours, of grounds, and of attributes in the order of their bits.
const TEXT: [&str; 16] = [
    "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11", "c12", "c13", "c14",
    "c15",
];
const GROUND: [&str; 16] = [
    "g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8", "g9", "g10", "g11", "g12", "g13", "g14",
    "g15",
];
const ATTRIBUTES: [(u8, &str); 5] =
    [(BOLD, "bo"), (DIM, "di"), (ITALIC, "it"), (UNDERLINE, "un"), (STRIKE, "st")];

impl Style {
    /// Takes the parameters of one "select graphic rendition".
    pub(super) fn apply(&mut self, parameters: &str) {
        let mut groups = parameters.split(';');
        while let Some(group) = groups.next() {
            let (code, detail) = match group.split_once(':') {
                Some((code, detail)) => (code, Some(detail)),
                None => (group, None),
            };
            let code = if code.is_empty() { 0 } else { code.parse().unwrap_or(u16::MAX) };
            match code {
                38 => set(&mut self.text, extended(detail, &mut groups)),
                48 => set(&mut self.ground, extended(detail, &mut groups)),
                // The colour of underlines is not shown, but its parameters are not codes.
                58 => drop(extended(detail, &mut groups)),
                4 if detail == Some("0") => self.attributes &= !UNDERLINE,
                code => self.apply_code(code),
            }
        }
    }

    fn apply_code(&mut self, code: u16) {
        let small = |base: u16| u8::try_from(code - base).ok();
        match code {
            0 => *self = Style::default(),
            1 => self.attributes |= BOLD,
            2 => self.attributes |= DIM,
            3 => self.attributes |= ITALIC,
            4 | 21 => self.attributes |= UNDERLINE,
            7 => self.attributes |= INVERSE,
            9 => self.attributes |= STRIKE,
            22 => self.attributes &= !(BOLD | DIM),
            23 => self.attributes &= !ITALIC,
            24 => self.attributes &= !UNDERLINE,
            27 => self.attributes &= !INVERSE,
            29 => self.attributes &= !STRIKE,
            30..=37 => self.text = small(30),
            39 => self.text = None,
            40..=47 => self.ground = small(40),
            49 => self.ground = None,
            90..=97 => self.text = small(82),
            100..=107 => self.ground = small(92),
            _ => {}
        }
    }

    /// Appends the opening tag of a span that looks so.
    pub(super) fn open(self, markup: &mut Markup) {
        let (mut text, mut ground) = (self.text, self.ground);
        if self.attributes & INVERSE != 0 {
            (text, ground) = (ground, Some(text.unwrap_or(7)));
        }
        if text == ground {
            ground = None;
        }
        let text = text.and_then(|colour| TEXT.get(usize::from(colour)));
        let ground = ground.and_then(|colour| GROUND.get(usize::from(colour)));
        let attributes = ATTRIBUTES.iter().filter(|(bit, _)| self.attributes & bit != 0);
        markup.push_markup("<span class=\"");
        let classes = text.into_iter().chain(ground).chain(attributes.map(|(_, class)| class));
        for (index, class) in classes.enumerate() {
            if index > 0 {
                markup.push_markup(" ");
            }
            markup.push_markup(class);
        }
        markup.push_markup("\">");
    }
}

/// Sets a colour unless it could not be read.
fn set(colour: &mut Option<u8>, to: Option<u8>) {
    if to.is_some() {
        *colour = to;
    }
}

/// Reads what follows 38 or 48: `5;n` or `2;r;g;b`, or either of them in one group with colons.
fn extended<'a>(detail: Option<&'a str>, groups: &mut impl Iterator<Item = &'a str>) -> Option<u8> {
    let number = |text: &str| text.parse::<u8>().ok();
    if let Some(detail) = detail {
        let parts: Vec<&str> = detail.split(':').take(8).collect();
        return match parts.as_slice() {
            ["5", index, ..] => number(index).map(indexed),
            // With and without the colour space, which is usually left empty.
            ["2", red, green, blue] | ["2", _, red, green, blue, ..] => {
                Some(nearest(number(red)?, number(green)?, number(blue)?))
            }
            _ => None,
        };
    }
    match groups.next()? {
        "5" => groups.next().and_then(number).map(indexed),
        "2" => {
            let (red, green, blue) = (groups.next()?, groups.next()?, groups.next()?);
            Some(nearest(number(red)?, number(green)?, number(blue)?))
        }
        _ => None,
    }
}

/// One of the 256 colours as one of the sixteen.
fn indexed(index: u8) -> u8 {
    match index {
        0..=15 => index,
        16..=231 => {
            let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let cube = index - 16;
            nearest(level(cube / 36), level(cube / 6 % 6), level(cube % 6))
        }
        232..=255 => {
            let grey = 8 + 10 * (index - 232);
            nearest(grey, grey, grey)
        }
    }
}

/// The nearest of the sixteen colours as xterm has them.
fn nearest(red: u8, green: u8, blue: u8) -> u8 {
    const PALETTE: [(u8, u8, u8); 16] = [
        (0, 0, 0),
        (205, 0, 0),
        (0, 205, 0),
        (205, 205, 0),
        (0, 0, 238),
        (205, 0, 205),
        (0, 205, 205),
        (229, 229, 229),
        (127, 127, 127),
        (255, 0, 0),
        (0, 255, 0),
        (255, 255, 0),
        (92, 92, 255),
        (255, 0, 255),
        (0, 255, 255),
        (255, 255, 255),
    ];
    let apart = |a: u8, b: u8| u32::from(a.abs_diff(b)).pow(2);
    let distance = |colour: &(u8, u8, u8)| {
        apart(colour.0, red) + apart(colour.1, green) + apart(colour.2, blue)
    };
    let closest = (0_u8..).zip(&PALETTE).min_by_key(|(_, colour)| distance(colour));
    closest.map_or(7, |(index, _)| index)
}
