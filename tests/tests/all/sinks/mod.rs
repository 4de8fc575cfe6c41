//! One suite for every sink that promises exactly once: a folder in its three formats, a table of a real PostgreSQL.

mod folder;
mod model;
mod postgres;

use lingqu_agent::backflow::{Cursor, Promise, Sink};
use lingqu_agent::error::AgentError;
use lingqu_tests::faults::rng::Rng;
use model::{ENTRY, Model, batch, held};

/// Versions in one run of the suite.
const VERSIONS: u32 = 14;

/// Opens the same sink again, as the next process does.
type Make<'a> = &'a mut dyn FnMut() -> Box<dyn Sink>;

/// What holds for every such sink: after any mixture of versions, cuts and new processes it holds the rows of the last version that
/// was committed, each once, and says so.
fn contract(make: Make<'_>, keyed: bool, seed: u64) {
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut model = Model::default();
    let mut sink = make();
    assert_eq!(sink.promise(), Promise::ExactlyOnce);
    assert!(sink.read(ENTRY, &mut |_| Ok(())).unwrap().is_none(), "nothing is there before anything came");
    assert_eq!(sink.open(ENTRY).unwrap(), None);
    for _ in 0..VERSIONS {
        let version = model.next(&mut rng);
        // A version that is cut leaves nothing, whether by word, by an end of the process, or by an error.
        match rng.below(4) {
            0 => {
                version.hand(&mut *sink, keyed).unwrap();
                sink.abandon();
            }
            1 => {
                version.hand(&mut *sink, keyed).unwrap();
                drop(sink);
                sink = make();
                let cursor = sink.open(ENTRY).unwrap();
                assert_eq!(cursor.map_or(0, |c| c.version), model.version, "a version that was not committed");
            }
            _ => {}
        }
        let after = model.after(&version);
        let told = version.hand(&mut *sink, keyed).unwrap();
        assert_eq!(told, Some(after.sum()), "{version:?}");
        if model.version > 0 {
            // Until the commit, readers see the version before.
            assert_eq!(held(&mut *make(), model.wide).unwrap().1, model.sum());
        }
        sink.commit(&version.cursor()).unwrap();
        model = after;
        let (cursor, sum) = held(&mut *make(), model.wide).unwrap();
        assert_eq!((cursor, sum), (version.cursor(), model.sum()), "{version:?}");
        if rng.one_in(3) {
            drop(sink);
            sink = make();
            assert_eq!(sink.open(ENTRY).unwrap(), Some(version.cursor()));
        }
    }
    refuses(&mut *sink, make, &model, keyed);
}

/// What no sink takes.
fn refuses(sink: &mut dyn Sink, make: Make<'_>, model: &Model, keyed: bool) {
    let word = |error: AgentError| error.told().word;
    // Rows that go and are not there: another hand was at it.
    let mut rng = Rng::new(77);
    let mut stranger = model.clone();
    stranger.rows.clear();
    let mut version = stranger.next(&mut rng);
    while version.come.is_empty() {
        version = stranger.next(&mut rng);
    }
    version.mode = lingqu_agent::backflow::Mode::Changes;
    version.gone = version.come.clone();
    version.wide = model.wide;
    assert_eq!(word(version.hand(sink, keyed).unwrap_err()), "sink_differs");
    sink.abandon();
    // Another entry.
    assert_eq!(word(make().read("entry-2", &mut |_| Ok(())).unwrap_err()), "other_entry");
    // Columns that are others, where it is no full version.
    let mut begin = version.begin(keyed);
    begin.rows = 1;
    begin.shape.0.swap(1, 2);
    assert_eq!(word(sink.begin(&begin).unwrap_err()), "other_columns");
    sink.abandon();
    // Nothing of that changed anything.
    assert_eq!(held(&mut *make(), model.wide).unwrap().1, model.sum());
    // Rows without a version are our own fault, and told.
    let rows = batch(&model.rows, keyed, model.wide);
    assert_eq!(word(sink.rows(lingqu_protocol::changes::Op::Upsert, &rows).unwrap_err()), "sink_order");
    assert_eq!(word(sink.commit(&Cursor::default()).unwrap_err()), "sink_order");
}
