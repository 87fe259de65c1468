pub mod diagnostics;
pub mod model;
