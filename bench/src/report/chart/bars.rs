//! Horizontal bars with their labels above them, so that labels may be long on any screen.

use super::Size;
use super::svg::{Anchor, Svg, colour, shortened, text_width};

/// Between a bar and the text behind it.
const GAP: f64 = 6.0;

/// Free at the right edge.
const MARGIN: f64 = 4.0;

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// What must be known beside it, smaller.
    pub detail: String,
    /// How long it is.
    pub value: f64,
    /// The value as text, with its unit.
    pub text: String,
    /// Number of its colour.
    pub colour: usize,
}

/// Bars below each other, all from zero and to one scale.
#[derive(Clone, Debug)]
pub struct BarChart {
    /// What those who cannot see it are told.
    pub summary: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

impl BarChart {
    /// The chart as SVG.
    pub fn render(&self, size: Size) -> String {
        let details: Vec<Vec<String>> =
            self.bars.iter().map(|bar| wrapped(&bar.detail, size.width())).collect();
        let row_height = |lines: usize| 16.0 + lines as f64 * 14.0 + 34.0;
        let height: f64 = details.iter().map(|lines| row_height(lines.len())).sum();
        let texts = self.bars.iter().map(|bar| text_width(&bar.text)).fold(0.0, f64::max);
        let most = self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        let room = size.width() - texts - GAP - MARGIN;

        let mut svg = Svg::new(size.width(), height, &self.summary);
        let mut top = 0.0;
        for (bar, lines) in self.bars.iter().zip(&details) {
            let name = shortened(&bar.label, size.width());
            svg.text("name", (0.0, top + 12.0), Anchor::Start, &name);
            for (number, line) in lines.iter().enumerate() {
                let y = top + 27.0 + number as f64 * 14.0;
                svg.text("detail", (0.0, y), Anchor::Start, line);
            }
            let y = top + 18.0 + lines.len() as f64 * 14.0;
            let width = if most > 0.0 { (bar.value / most * room).max(1.5) } else { 1.5 };
            let tip = format!("{}: {}", bar.label, bar.text);
            svg.bar(&format!("bar {}", colour(bar.colour)), (0.0, y), (width, 18.0), &tip);
            svg.text("value", (width + GAP, y + 13.5), Anchor::Start, &bar.text);
            top += row_height(lines.len());
        }
        svg.finish()
    }
}

/// `text` in lines of at most `width`, cut at spaces.
fn wrapped(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line) + text_width(" ") + text_width(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(shortened(word, width)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |label: &str, value: f64| Bar {
            label: label.to_owned(),
            detail: "3 processes & a majority".to_owned(),
            value,
            text: format!("{value}/s"),
            colour: 0,
        };
        let chart =
            BarChart { summary: "bars".to_owned(), bars: vec![bar("a", 100.0), bar("b", 50.0)] };
        let svg = chart.render(Size::Wide);
        let widths: Vec<f64> = svg
            .split(" width=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[0] / widths[1] - 2.0).abs() < 0.01, "{widths:?}");
        assert!(svg.contains("3 processes &amp; a majority") && svg.contains(">100/s</text>"));
    }

    #[test]
    fn no_text_leaves_the_picture() {
        let bar = |value: f64, text: &str| Bar {
            label: "a store with a name that is much longer than it needs to be".to_owned(),
            detail: "majority of 3 processes · synced before each acknowledgement".to_owned(),
            value,
            text: text.to_owned(),
            colour: 0,
        };
        let wide = "1,234,567/s, p99 888.8 ms";
        let failed = "8,888/s, p99 18.88 ms, 88,888 failed";
        for texts in [[wide, wide], [failed, wide], [wide, failed], ["MMM/s", "0/s"]] {
            for size in [Size::Wide, Size::Narrow] {
                let bars = vec![bar(1.0, texts[0]), bar(0.3, texts[1])];
                let svg = BarChart { summary: String::new(), bars }.render(size);
                let mut texts_seen = 0;
                for element in svg.split("<text ").skip(1) {
                    let x = element.split(" x=\"").nth(1).unwrap().split('"').next().unwrap();
                    let text = element.split('>').nth(1).unwrap().split('<').next().unwrap();
                    let right = x.parse::<f64>().unwrap() + text_width(text);
                    assert!(right <= size.width(), "{text:?} ends at {right}, {size:?}");
                    texts_seen += 1;
                }
                assert!(texts_seen >= 6, "{svg}");
                let view = format!("viewBox=\"0 0 {} ", size.width());
                assert!(svg.contains(&view), "{svg}");
            }
        }
    }

    #[test]
    fn nothing_measured_is_a_hairline() {
        let bar = Bar {
            label: String::new(),
            detail: String::new(),
            value: 0.0,
            text: "0/s".to_owned(),
            colour: 3,
        };
        let svg = BarChart { summary: String::new(), bars: vec![bar] }.render(Size::Narrow);
        assert!(svg.contains("width=\"1.5\""), "{svg}");
    }

    #[test]
    fn long_details_take_several_lines() {
        let width = text_width("one two");
        assert_eq!(wrapped("one two three", width + 0.1), ["one two", "three"]);
        assert_eq!(wrapped("one two three", width - 0.1), ["one", "two", "three"]);
        assert!(wrapped("", width).is_empty());
    }
}
