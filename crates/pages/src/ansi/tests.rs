//! Lines of logs, harmless and hostile.

use super::*;

fn painted(line: &str) -> String {
    Painter::default().paint(line).to_string()
}

#[test]
fn colours_become_classes() {
    assert_eq!(painted("a \u{1b}[31mred\u{1b}[0m b"), r#"a <span class="c1">red</span> b"#);
    assert_eq!(painted("\u{1b}[1;92;44mx"), r#"<span class="c10 g4 bo">x</span>"#);
    assert_eq!(painted("\u{1b}[38;5;196mx\u{1b}[39my"), r#"<span class="c9">x</span>y"#);
    assert_eq!(painted("\u{1b}[38;2;0;0;230mx"), r#"<span class="c4">x</span>"#);
    assert_eq!(painted("\u{1b}[38:2::250:5:5mx\u{1b}[mz"), r#"<span class="c9">x</span>z"#);
    assert_eq!(painted("\u{1b}[48;5;3;1mx"), r#"<span class="g3 bo">x</span>"#);
    assert_eq!(painted("\u{1b}[2;3;4;9mx"), r#"<span class="di it un st">x</span>"#);
}

#[test]
fn nothing_is_painted_invisible() {
    assert_eq!(painted("\u{1b}[30;40mx"), r#"<span class="c0">x</span>"#);
    assert_eq!(painted("\u{1b}[8mx"), "x");
    assert_eq!(painted("\u{1b}[7mx"), r#"<span class="g7">x</span>"#);
    assert_eq!(painted("\u{1b}[7;31mx"), r#"<span class="g1">x</span>"#);
}

#[test]
fn colours_go_on_to_the_next_line() {
    let mut painter = Painter::default();
    painter.paint("\u{1b}[32mgreen");
    assert_eq!(painter.paint("still").to_string(), r#"<span class="c2">still</span>"#);
    painter.skip("\u{1b}[31mnot shown\u{1b}]0;t\u{7}");
    assert_eq!(painter.paint("red").to_string(), r#"<span class="c1">red</span>"#);
    painter.skip("\u{1b}[m");
    assert_eq!(painter.paint("plain").to_string(), "plain");
}

#[test]
fn progress_leaves_its_last_state() {
    assert_eq!(painted("10%\r50%\r100%"), "100%");
    assert_eq!(painted("long text\rdone\u{1b}[K"), "done");
    assert_eq!(painted("text\u{1b}[2K\u{1b}[1Gnew"), "new");
    assert_eq!(painted("abc\u{8}\u{8}X"), "aXc");
    assert_eq!(painted("windows\r"), "windows");
    assert_eq!(painted("\u{1b}[4Cx"), "    x");
    assert_eq!(painted("abcdef\u{1b}[3G\u{1b}[1K"), "   def");
}

#[test]
fn markup_in_logs_is_text() {
    assert_eq!(painted("<script>alert(1)</script>"), "&lt;script&gt;alert(1)&lt;/script&gt;");
    assert_eq!(
        painted("\u{1b}[31m\"><img src=x onerror='a()'>&amp;"),
        "<span class=\"c1\">&quot;&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;amp;</span>"
    );
    // Neither parameters nor anything else of a sequence ever becomes an attribute.
    assert_eq!(painted("\u{1b}[31\"onclick=\"x\"mtext"), "nclick=&quot;x&quot;mtext");
    assert_eq!(painted("\u{1b}[31;<b>mtext"), ">mtext".replace('>', "&gt;"));
    // Pieces that only make an element once the sequence between them is gone.
    assert_eq!(painted("<scr\u{1b}[0mipt>"), "&lt;script&gt;");
}

#[test]
fn strings_are_dropped_when_complete() {
    assert_eq!(painted("a\u{1b}]0;title<b>\u{7}b"), "ab");
    assert_eq!(painted("\u{1b}]8;;https://example.com\u{1b}\\link\u{1b}]8;;\u{1b}\\"), "link");
    assert_eq!(painted("a\u{1b}P1$tx\u{1b}\\b\u{9d}52;c;!\u{9c}c"), "abc");
    assert_eq!(painted("\u{1b}(Ba\u{1b}=b\u{1b}[?25lc\u{1b}[2Jd\u{1b}[6ne"), "abcde");
}

#[test]
fn what_does_not_end_hides_nothing() {
    let esc = r#"<span class="ctl">ESC</span>"#;
    assert_eq!(painted("\u{1b}]0;<b>rest"), format!("{esc}]0;&lt;b&gt;rest"));
    assert_eq!(painted("\u{1b}Prest"), format!("{esc}Prest"));
    assert_eq!(painted("x\u{1b}["), format!("x{esc}["));
    assert_eq!(painted("x\u{1b}[31"), format!("x{esc}[31"));
    assert_eq!(painted("x\u{1b}"), format!("x{esc}"));
    assert_eq!(painted("\u{1b}é\u{1b}[1é"), format!("{esc}é{esc}[1é"));
    assert_eq!(painted("\u{1b}(é"), format!("{esc}(é"));
}

#[test]
fn hidden_characters_are_named() {
    assert_eq!(
        painted("a\u{202e}b\0c\u{85}d\u{200b}"),
        "a<span class=\"ctl\">U+202E</span>b<span class=\"ctl\">U+0000</span>c\
         <span class=\"ctl\">U+0085</span>d<span class=\"ctl\">U+200B</span>"
    );
    assert_eq!(painted("a\tb"), "a\tb");
}

#[test]
fn bytes_that_are_not_text_are_replaced() {
    assert_eq!(
        fuzz_log(b"a\xff\xfe<\xc3\n\x9b31mx"),
        "a\u{fffd}\u{fffd}&lt;\u{fffd}\n\u{fffd}31mx\n"
    );
}

#[test]
fn long_lines_are_cut_and_say_so() {
    assert_eq!(
        painted(&"x".repeat(2_500)),
        format!("{}<span class=\"cut\"> … 500 more characters</span>", "x".repeat(2_000))
    );
    // A colour per character, and nothing but named characters.
    let striped: String = (0..50_000).map(|n| format!("\u{1b}[{}mx", 31 + n % 2)).collect();
    assert!(self::painted(&striped).len() < MAX_LINE_MARKUP + 200);
    assert!(self::painted(&"\u{202e}".repeat(50_000)).len() < MAX_LINE_MARKUP + 200);
}

#[test]
fn moves_stay_within_bounds() {
    assert_eq!(painted("\u{1b}[99999999999999999999Cx"), "x");
    assert_eq!(painted("\u{1b}[1000000Cx"), "<span class=\"cut\"> … 1 more characters</span>");
    assert_eq!(painted("\u{1b}[99Dx"), "x");
    assert!(painted(&"\u{1b}[1999C\r".repeat(10_000)).is_empty());
}

#[test]
fn openings_without_end_take_linear_time() {
    let before = std::time::Instant::now();
    let _ = painted(&"\u{1b}]".repeat(1_000_000));
    let _ = painted(&"\u{1b}[".repeat(100_000));
    assert!(before.elapsed().as_secs() < 5);
}

/// What the fuzz target asserts, over bytes that are mostly made of sequences.
#[test]
fn only_spans_come_out() {
    let alphabet: Vec<&[u8]> = vec![
        b"\x1b",
        b"[",
        b"]",
        b"P",
        b"m",
        b"31",
        b";",
        b":",
        b"38;5;",
        b"2",
        b"K",
        b"\r",
        b"\x08",
        b"\x07",
        b"\\",
        b"<",
        b">",
        b"\"",
        b"&",
        b"script",
        "\u{9b}".as_bytes(),
        b"\xff",
        b"\n",
        "\u{202e}".as_bytes(),
        "é".as_bytes(),
        b" ",
        b"G",
        b"C",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5_000 {
        let mut log = Vec::new();
        for _ in 0..24 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            log.extend_from_slice(alphabet[(state >> 33) as usize % alphabet.len()]);
        }
        let mut markup = fuzz_log(&log);
        for own in ["<span class=\"ctl\">", "<span class=\"cut\">", "</span>"] {
            markup = markup.replace(own, "");
        }
        while let Some(at) = markup.find("<span class=\"") {
            let end = at + markup[at..].find('>').expect("a tag ends");
            let classes = &markup[at + 13..end - 1];
            assert!(classes.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' '), "{classes}");
            markup.replace_range(at..=end, "");
        }
        assert!(!markup.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}', '\r']), "{markup}");
    }
}
