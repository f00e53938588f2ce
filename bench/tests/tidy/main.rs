//! The walls between the crates and the habits of the code, as a test.
//!
//! A rule that nobody checks decays. These are checked on every run, over the files as they are:
//! which crate may depend on which and touch what ([`walls`]), how files look ([`habits`]), and what
//! a build contains if nobody asks for more ([`features`]).
//! What is wrong today and known stands in [`EXCEPTIONS`], which may only shrink.

mod features;
mod habits;
mod report;
mod source;
mod tree;
mod walls;

use report::{Exception, Report};
use tree::Tree;

/// Place, rule, amount.
const EXCEPTIONS: [Exception; 0] = [];

#[test]
fn walls_and_habits_hold() {
    let tree = Tree::load();
    let mut report = Report::default();
    walls::check(&tree, &mut report);
    habits::check(&tree, &mut report);
    let verdict = report.verdict(&EXCEPTIONS);
    assert!(verdict.is_empty(), "{} problems:\n{verdict}", verdict.lines().count());
}
