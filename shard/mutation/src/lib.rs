//! Planted bugs: each breaks one promise of the product, so that tests can be seen to notice.
//!
//! Where a bug can be planted, product code asks [`planted`]. Without the feature `mutations` that is
//! a constant `false`, and the compiler removes the question. No default build of any member of the
//! workspace enables the feature.
//!
//! With the feature, `plant` chooses one mutation for the whole process: the product's own threads
//! must see it too. Who plants holds the field alone until it drops what it was given.
//!
//! What is absent: what a mutation means to the code around it. The places that ask say so.
#![forbid(unsafe_code)]

mod list;
#[cfg(feature = "mutations")]
mod selection;

pub use list::Mutation;
#[cfg(feature = "mutations")]
pub use selection::{Planted, plant, planted, reached};

/// True if bugs can be planted in this build.
pub const ENABLED: bool = cfg!(feature = "mutations");

/// True if this bug is planted: never, in this build.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn planted(_: Mutation) -> bool {
    false
}

#[cfg(all(test, not(feature = "mutations")))]
mod tests {
    use super::*;

    /// The answer is known when the product is compiled.
    const NEVER: bool = planted(Mutation::SuspectVotes);

    #[test]
    fn nothing_is_planted_in_a_default_build() {
        const { assert!(!NEVER && !ENABLED) };
        assert!(Mutation::ALL.iter().all(|mutation| !planted(*mutation)));
    }
}
