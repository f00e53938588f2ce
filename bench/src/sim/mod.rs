//! Simulated lives of whole clusters, replayed from a seed.
//!
//! [`judges`] say what must never be, apart from the product.

pub mod judges;
