//! Text can be read on whatever it stands on, in light and in dark (WCAG 2.2, 1.4.3 and 1.4.11).
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;

const STYLE: &str = include_str!("../assets/style.css");

/// Colours by name.
fn colours(style: &str) -> HashMap<&str, [f64; 3]> {
    let channel = |hex: &str| f64::from(u8::from_str_radix(hex, 16).unwrap()) / 255.0;
    let colour = |hex: &str| [channel(&hex[..2]), channel(&hex[2..4]), channel(&hex[4..6])];
    style
        .split(';')
        .filter_map(|rule| rule.trim().rsplit_once(": #"))
        .filter_map(|(name, hex)| Some((name.rsplit("--").next()?, colour(hex.get(..6)?))))
        .collect()
}

fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let luminance =
        |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    (a / b).max(b / a)
}

#[test]
fn text_stands_out_from_its_ground() {
    let (light, rest) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    let (dark, _) = rest.split_once("/* The whole page").unwrap();
    for (scheme, style) in [("light", light), ("dark", dark)] {
        let colours = colours(style);
        assert!(colours.len() > 40, "{scheme}: {}", colours.len());
        let check = |text: &str, ground: &str, least: f64| {
            let found = contrast(colours[text], colours[ground]);
            assert!(found >= least, "{scheme}: {text} on {ground} is {found:.2}");
        };
        for ground in ["ground", "panel", "sunk", "hover"] {
            for text in ["ink", "soft", "accent", "good", "bad", "run"] {
                check(text, ground, 4.5);
            }
        }
        for colour in 0..16 {
            check(&format!("c{colour}"), "sunk", 4.5);
            check(&format!("c{colour}"), "hover", 4.5);
        }
        for (text, ground) in [
            ("soft", "mute-ground"),
            ("good", "good-ground"),
            ("bad", "bad-ground"),
            ("ink", "bad-ground"),
            ("run", "run-ground"),
            ("on-accent", "accent"),
        ] {
            check(text, ground, 4.5);
        }
        for bar in ["bar", "bad-bar", "run", "soft"] {
            check(bar, "ground", 3.0);
        }
    }
}
