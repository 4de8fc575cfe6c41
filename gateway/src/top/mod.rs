//! `lingqu-gateway top`: what moves, what stands still and why, what was found, and stopping it.
//!
//! Participants: the gateway that runs tells a [`Sample`] when it is asked over the control socket; the terminal asks once
//! a second, and makes rates from two of them. [`model`] is a pure function of state and event, [`view`] of state to lines;
//! only [`terminal`] touches the terminal. Nothing is kept for this in the gateway but counters that flows have anyway.
//!
//! No library draws: a page is at most some tens of lines, written whole with four escape sequences.

pub mod model;
pub mod sample;
pub mod terminal;
pub mod view;

pub use sample::Sample;
