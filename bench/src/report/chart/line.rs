//! Lines over two axes, with marks for what happened.

use super::Size;
use super::axis::Axis;
use super::svg::{Anchor, Svg, colour, shortened, text_width};

/// How far apart labels are at least.
const LABEL_HEIGHT: f64 = 15.0;

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is; written beside its end.
    pub label: String,
    /// In order of the first axis.
    pub points: Vec<(f64, f64)>,
    /// Number of its colour.
    pub colour: usize,
    /// Whether each point has a dot.
    pub dots: bool,
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// What those who cannot see it are told.
    pub summary: String,
    /// The axis below.
    pub x: Axis,
    /// The axis at the left.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Moments on the axis below, with labels.
    pub events: Vec<(f64, String)>,
}

/// Where the axes are.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl LineChart {
    /// The chart as SVG.
    pub fn render(&self, size: Size) -> String {
        let y_ticks = self.y.ticks(if size == Size::Wide { 7 } else { 5 });
        let widest = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| text_width(text)).fold(0.0, f64::max)
        };
        let labels = widest(&mut self.series.iter().map(|series| &series.label)) + 14.0;
        let labels_max = if size == Size::Wide { 210.0 } else { 84.0 };
        let beside = self.series.len() > 1 && labels <= labels_max;
        let above = self.series.len() > 1 && !beside;
        let keys_height = if above { self.series.len() as f64 * 17.0 + 4.0 } else { 0.0 };
        let head = keys_height + 28.0 + self.event_rows(size) as f64 * 14.0;
        let height = head + if size == Size::Wide { 300.0 } else { 230.0 } + 40.0;
        let frame = Frame {
            left: widest(&mut y_ticks.iter().map(|(_, text)| text)) + 10.0,
            right: size.width() - if beside { labels } else { 14.0 },
            top: head,
            bottom: height - 40.0,
        };
        let mut svg = Svg::new(size.width(), height, &self.summary);
        if above {
            self.keys(&mut svg);
        }
        svg.text("title", (0.0, keys_height + 12.0), Anchor::Start, &self.y.title);
        self.axes(&mut svg, &frame, size, &y_ticks);
        self.events(&mut svg, &frame, size);
        for series in &self.series {
            self.series(&mut svg, &frame, series);
        }
        if beside {
            self.labels(&mut svg, &frame);
        }
        svg.finish()
    }

    fn axes(&self, svg: &mut Svg, frame: &Frame, size: Size, y_ticks: &[(f64, String)]) {
        for (value, text) in y_ticks {
            let y = frame.y(self, *value);
            svg.line("grid", (frame.left, y), (frame.right, y));
            svg.text("tick", (frame.left - 6.0, y + 4.0), Anchor::End, text);
        }
        let mut ticks = self.x.ticks(if size == Size::Wide { 11 } else { 6 });
        self.thin_out(&mut ticks, frame);
        for (value, text) in &ticks {
            let x = frame.x(self, *value);
            svg.line("mark", (x, frame.bottom), (x, frame.bottom + 5.0));
            let anchor = match x + text_width(text) / 2.0 > size.width() {
                true => Anchor::End,
                false => Anchor::Middle,
            };
            svg.text("tick", (x, frame.bottom + 18.0), anchor, text);
        }
        svg.line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
        svg.text("title", (frame.right, frame.bottom + 35.0), Anchor::End, &self.x.title);
    }

    /// Texts that would touch each other help nobody. Where ticks are evenly spaced, every second or
    /// third stays; elsewhere those that have room beside the one before.
    fn thin_out(&self, ticks: &mut Vec<(f64, String)>, frame: &Frame) {
        let touch = |left: &(f64, String), right: &(f64, String)| {
            let room = frame.x(self, right.0) - frame.x(self, left.0);
            room < (text_width(&left.1) + text_width(&right.1)) / 2.0 + 10.0
        };
        if !self.x.is_even() {
            let mut kept: Vec<(f64, String)> = Vec::new();
            for tick in ticks.drain(..) {
                if kept.last().is_none_or(|last| !touch(last, &tick)) {
                    kept.push(tick);
                }
            }
            *ticks = kept;
            return;
        }
        let fits = |every: usize| {
            let shown: Vec<&(f64, String)> = ticks.iter().step_by(every).collect();
            shown.windows(2).all(|pair| !touch(pair[0], pair[1]))
        };
        let every = (1..ticks.len()).find(|every| fits(*every)).unwrap_or(ticks.len().max(1));
        *ticks = ticks.iter().step_by(every).cloned().collect();
    }

    fn series(&self, svg: &mut Svg, frame: &Frame, series: &Series) {
        let place = |(x, y): &(f64, f64)| (frame.x(self, *x), frame.y(self, *y));
        let points: Vec<(f64, f64)> = series.points.iter().map(place).collect();
        let class = colour(series.colour);
        svg.path(&format!("data {class}"), &points);
        if series.dots || points.len() == 1 {
            for (point, (x, y)) in points.iter().zip(&series.points) {
                let tip = format!("{}: {} at {}", series.label, self.y.text(*y), self.x.text(*x));
                svg.dot(&format!("dot {class}"), *point, 3.5, tip.trim_start_matches(": "));
            }
        }
    }

    /// Names beside the ends of lines, moved apart where they would cover each other.
    fn labels(&self, svg: &mut Svg, frame: &Frame) {
        let mut ends: Vec<(f64, &Series)> = Vec::new();
        for series in &self.series {
            if let Some((_, y)) = series.points.last() {
                ends.push((frame.y(self, *y), series));
            }
        }
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (y, series) in apart(ends, frame.bottom) {
            let class = format!("label {}", colour(series.colour));
            svg.text(&class, (frame.right + 8.0, y + 4.0), Anchor::Start, &series.label);
        }
    }

    /// Names above the chart, one a line, where they are too long to stand beside it.
    fn keys(&self, svg: &mut Svg) {
        for (row, series) in self.series.iter().enumerate() {
            let y = row as f64 * 17.0 + 9.0;
            let class = colour(series.colour);
            svg.path(&format!("data {class}"), &[(0.0, y), (18.0, y)]);
            svg.text(&format!("label {class}"), (24.0, y + 4.0), Anchor::Start, &series.label);
        }
    }

    /// Labels of events take turns in rows, so that neighbours do not cover each other.
    fn event_rows(&self, size: Size) -> usize {
        let rows_max = if size == Size::Wide { 3 } else { 4 };
        self.events.len().min(rows_max)
    }

    fn events(&self, svg: &mut Svg, frame: &Frame, size: Size) {
        let rows = self.event_rows(size);
        for (number, (at, label)) in self.events.iter().enumerate() {
            let x = frame.x(self, *at);
            let y = frame.top - 6.0 - (rows - 1 - number % rows) as f64 * 14.0;
            svg.line("event", (x, y + 2.0), (x, frame.bottom));
            let label = shortened(label, size.width() / 2.0 - 6.0);
            let room = size.width() - x;
            let (anchor, x) = match text_width(&label) + 6.0 > room {
                true => (Anchor::End, x - 4.0),
                false => (Anchor::Start, x + 4.0),
            };
            svg.text("event", (x, y), anchor, &label);
        }
    }
}

impl Frame {
    fn x(&self, chart: &LineChart, value: f64) -> f64 {
        self.left + chart.x.position(value) * (self.right - self.left)
    }

    fn y(&self, chart: &LineChart, value: f64) -> f64 {
        self.bottom - chart.y.position(value) * (self.bottom - self.top)
    }
}

/// Moves labels, sorted by height, apart: down where they meet, and all up where that leaves the
/// picture at the bottom.
fn apart<T>(mut labels: Vec<(f64, T)>, bottom: f64) -> Vec<(f64, T)> {
    for at in 1..labels.len() {
        labels[at].0 = labels[at].0.max(labels[at - 1].0 + LABEL_HEIGHT);
    }
    let mut lowest = bottom;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(lowest);
        lowest = label.0 - LABEL_HEIGHT;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::super::axis::{Scale, plain};
    use super::*;

    fn chart(series: &[(&str, &[(f64, f64)])]) -> LineChart {
        let values = || series.iter().flat_map(|(_, points)| points.iter());
        LineChart {
            summary: "a chart".to_owned(),
            x: Axis::exact(0.0, 10.0, "seconds", plain),
            y: Axis::new(Scale::Linear, values().map(|(_, y)| *y), "operations/s", plain),
            series: series
                .iter()
                .enumerate()
                .map(|(colour, (label, points))| Series {
                    label: (*label).to_owned(),
                    points: points.to_vec(),
                    colour,
                    dots: true,
                })
                .collect(),
            events: vec![(5.0, "leader <killed>".to_owned()), (9.9, "leader back".to_owned())],
        }
    }

    #[test]
    fn a_chart_has_its_axes_events_lines_and_labels() {
        let svg = chart(&[("get", &[(0.0, 100.0), (10.0, 300.0)]), ("put", &[(0.0, 100.0)])])
            .render(Size::Wide);
        for part in [
            ">operations/s</text>",
            ">seconds</text>",
            ">leader &lt;killed&gt;</text>",
            "class=\"label c0\"",
            ">put</text>",
            "<title>get: 300 at 10</title>",
            "class=\"data c0\" d=\"M",
        ] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        // The second line is a single point: a dot, and no path.
        assert!(!svg.contains("class=\"data c1\"") && svg.contains("class=\"dot c1\""), "{svg}");
    }

    #[test]
    fn a_single_line_needs_no_name_and_long_names_stand_above() {
        let one = chart(&[("only", &[(0.0, 1.0), (1.0, 2.0)])]).render(Size::Wide);
        assert!(!one.contains("class=\"label"), "{one}");
        let long = "a name that is far too long to stand beside a line";
        let points: &[(f64, f64)] = &[(0.0, 1.0), (1.0, 2.0)];
        let two = chart(&[(long, points), ("b", points)]).render(Size::Narrow);
        assert!(two.contains("x=\"24\" y=\"13\""), "{two}");
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let moved = apart(vec![(10.0, 'a'), (12.0, 'b'), (100.0, 'c'), (101.0, 'd')], 105.0);
        let heights: Vec<f64> = moved.iter().map(|(height, _)| *height).collect();
        assert_eq!(heights, [10.0, 25.0, 90.0, 105.0]);
    }
}
