//! THREATS.md, bad inputs: one test for each number, named after it. 18 and 23's pages, 24 and 26 have no
//! surface yet. Each prints what it sent and what came back: see `lingqu_tests::world::threat`.

mod corpus;
mod corpus_lies;
mod documents;
mod expired;
mod formats;
mod handshake;
mod names;
mod quic;
mod scope;
mod transfers;
