//! Policies: parsed, checked and compiled to a [`image::MapImage`]. Pure: no kernel, no clock, no root.

pub mod checked;
pub mod image;
