//! The few shapes that charts are made of, as SVG text.
//!
//! Text from outside passes [`escape`], everything else is written by this program. Colours are not
//! said here but by the page's style sheet, by class: `c0` to `c7` for data.

use std::fmt::Write as _;

/// How many colours there are; further series begin again, with dashes.
pub const COLOURS: usize = 8;

/// Height of the charts' text, in units of the picture; the page's style sheet says the same.
const FONT_SIZE: f64 = 12.0;

/// What `text` is in XML and HTML, in content and in attributes. Characters that XML does not know
/// are left out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

/// The class of the colour of data number `index`.
pub fn colour(index: usize) -> String {
    let dash = if index >= COLOURS { " dashed" } else { "" };
    format!("c{}{dash}", index % COLOURS)
}

/// Where text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// A picture under construction.
pub struct Svg {
    out: String,
}

impl Svg {
    /// An empty one of this size, which says `label` to those who cannot see it.
    pub fn new(width: f64, height: f64, label: &str) -> Svg {
        let (width, height) = (units(width), units(height));
        let label = escape(label);
        let out = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n"
        );
        Svg { out }
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1, x2, y2) = (units(from.0), units(from.1), units(to.0), units(to.1));
        let _ = writeln!(
            self.out,
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        );
    }

    /// A line through `points`; nothing for fewer than two.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() < 2 {
            return;
        }
        let mut data = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let command = if at == 0 { 'M' } else { 'L' };
            let _ = write!(data, "{command}{} {}", units(*x), units(*y));
        }
        let _ = writeln!(self.out, "<path class=\"{class}\" d=\"{data}\"/>");
    }

    /// A rectangle with a tooltip.
    pub fn bar(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), tip: &str) {
        let (x, y) = (units(corner.0), units(corner.1));
        let (width, height, tip) = (units(size.0.max(0.0)), units(size.1), escape(tip));
        let _ = writeln!(
            self.out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
             rx=\"2\"><title>{tip}</title></rect>"
        );
    }

    /// A dot with a tooltip.
    pub fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, tip: &str) {
        let (x, y, radius, tip) = (units(at.0), units(at.1), units(radius), escape(tip));
        let _ = writeln!(
            self.out,
            "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"><title>{tip}</title></circle>"
        );
    }

    /// Text whose baseline is at a point.
    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let (x, y, anchor, text) = (units(at.0), units(at.1), anchor.name(), escape(text));
        let _ = writeln!(
            self.out,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// The whole picture.
    pub fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// A coordinate to a tenth, which is finer than anybody sees.
fn units(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some("-0") => "0".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

/// The width that `text` takes at most, in units of the picture, in the widest of the fonts that the
/// page asks for, and bold: nobody knows which of them a reader has.
pub fn text_width(text: &str) -> f64 {
    text.chars().map(letter_ems).sum::<f64>() * FONT_SIZE
}

/// The advance of `letter` in DejaVu Sans Bold, in heights of the font, rounded up by groups.
fn letter_ems(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | '\'' | ' ' => 0.35,
        '.' | ',' | '/' | ':' | ';' | '|' | 'I' | 'J' | '·' => 0.41,
        '-' | 'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '!' => 0.5,
        'c' | 's' | 'z' | 'k' | 'v' | 'x' | 'y' => 0.67,
        '0'..='9' => 0.7,
        'm' | 'M' => 1.05,
        'w' => 0.93,
        'W' => 1.11,
        'a'..='z' | 'µ' | 'E' | 'F' | 'L' | 'S' | 'T' => 0.74,
        'A'..='Z' => 0.86,
        // Most of the rest is narrower, and wide scripts are as wide as they are high.
        _ => 1.01,
    }
}

/// As much of the beginning of `text` as `width` has room for, with a mark where it was cut.
pub fn shortened(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    let mut room = width - text_width("…");
    let fits = |letter: &char| {
        room -= text_width(letter.encode_utf8(&mut [0; 4]));
        room >= 0.0
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_there_is_no_more_room() {
        assert_eq!(shortened("leader killed", 200.0), "leader killed");
        let cut = shortened("leader killed", 60.0);
        assert!(cut.starts_with("lead") && cut.ends_with('…'), "{cut}");
        assert!(text_width(&cut) <= 60.0 && text_width("leader killed") > 60.0);
        assert_eq!(shortened("x", 0.0), "…");
    }

    #[test]
    fn text_from_outside_cannot_leave_its_place() {
        assert_eq!(escape("a<b>&\"c\"'\n\u{0}"), "a&lt;b&gt;&amp;&quot;c&quot;&#39; ");
    }

    #[test]
    fn shapes_are_written_briefly() {
        let mut svg = Svg::new(100.0, 50.5, "a & b");
        svg.line("grid", (0.0, 1.04), (10.26, -0.01));
        svg.path("c0", &[(1.0, 2.0), (3.0, 4.5)]);
        svg.path("c1", &[(1.0, 2.0)]);
        svg.dot("c0", (f64::NAN, 1.0), 2.5, "<tip>");
        svg.text("tick", (1.0, 2.0), Anchor::End, "1 ms");
        assert_eq!(
            svg.finish(),
            "<svg viewBox=\"0 0 100 50.5\" role=\"img\" aria-label=\"a &amp; b\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n\
             <line class=\"grid\" x1=\"0\" y1=\"1\" x2=\"10.3\" y2=\"0\"/>\n\
             <path class=\"c0\" d=\"M1 2L3 4.5\"/>\n\
             <circle class=\"c0\" cx=\"0\" cy=\"1\" r=\"2.5\"><title>&lt;tip&gt;</title></circle>\n\
             <text class=\"tick\" x=\"1\" y=\"2\" text-anchor=\"end\">1 ms</text>\n</svg>\n"
        );
    }
}
