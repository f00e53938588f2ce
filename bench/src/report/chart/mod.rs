//! Charts as SVG text, hand-written: lines over axes, and bars.
//!
//! Each chart is drawn twice, wide and narrow, and the page shows the one that fits: a picture that
//! is only scaled down cannot be read on a phone.
//!
//! What is absent: results. Charts know numbers, texts and units.

mod axis;
mod bars;
mod line;
mod svg;

pub use axis::{Axis, Scale, plain};
pub use bars::{Bar, BarChart};
pub use line::{LineChart, Series};
pub use svg::escape;

/// For which screens a chart is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A desk.
    Wide,
    /// A phone.
    Narrow,
}

impl Size {
    /// How wide its picture is.
    pub fn width(self) -> f64 {
        match self {
            Size::Wide => 880.0,
            Size::Narrow => 360.0,
        }
    }
}
