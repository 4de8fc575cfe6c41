//! THREATS.md, bad inputs: one test for each number, named after it. 18 and 23's pages, 24 and 26 have no surface yet.

mod documents;
mod formats;
mod handshake;
mod names;
mod quic;
mod scope;
mod transfers;
