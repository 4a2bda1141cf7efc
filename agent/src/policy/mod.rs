//! Policies: parsed, checked and compiled to a [`image::MapImage`]. Pure: no kernel, no clock, no root.

pub mod automaton;
pub mod check;
pub mod checked;
pub mod compile;
pub mod diagnostic;
pub mod document;
pub mod dump;
pub mod extend;
pub mod follow;
pub mod globs;
pub mod host;
pub mod image;
pub mod links;
pub mod listen;
pub mod mounts;
pub mod parse;
pub mod ports;
pub mod reach;
pub mod rule;
pub mod scope;
pub mod suggest;
pub mod unit;
pub mod unix;
pub mod verdict;
