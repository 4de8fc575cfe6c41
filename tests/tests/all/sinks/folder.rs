//! Folders: the suite, and every point between data and cursor at which the power can go.

use super::contract;
use super::model::{ENTRY, Model, held};
use lingqu_agent::backflow::folder::{FolderFormat, FolderSink};
use lingqu_agent::backflow::{Mode, Sink};
use lingqu_certs::os::{OsDisk, SystemClock};
use lingqu_protocol::host::Disk;
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use std::path::Path;
use std::sync::Arc;

/// Seeds of random faults in an ordinary run.
const SEEDS: u64 = 60;

fn folder(disk: Arc<dyn Disk>, dir: &Path, format: FolderFormat) -> Box<dyn Sink> {
    Box::new(FolderSink::new(disk, Arc::new(SystemClock::new()), dir, format))
}

#[test]
fn the_suite_holds_for_folders() {
    for (format, seed) in FolderFormat::ALL.into_iter().zip(1..) {
        for keyed in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let place = dir.path().join("rows");
            contract(&mut || folder(Arc::new(OsDisk), &place, format), keyed, seed);
        }
    }
}

#[test]
fn a_folder_is_held_by_one_and_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| folder(Arc::new(OsDisk), &dir.path().join(name), FolderFormat::Csv);
    let mut first = make("a");
    first.open(ENTRY).unwrap();
    assert_eq!(make("a").open(ENTRY).unwrap_err().told().word, "sink_in_use");
    drop(first);
    std::fs::create_dir(dir.path().join("b")).unwrap();
    std::fs::write(dir.path().join("b/thesis.txt"), "mine").unwrap();
    let error = make("b").open(ENTRY).unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (2, "folder_in_use"));
    assert_eq!(std::fs::read_dir(dir.path().join("b")).unwrap().count(), 1, "nothing was put beside it");
}

#[test]
fn many_small_versions_are_put_together() {
    let disk = FakeDisk::new(64 << 20, 1);
    let mut sink = folder(Arc::new(disk.clone()), Path::new("/rows"), FolderFormat::Arrow);
    sink.open(ENTRY).unwrap();
    let (mut model, mut rng) = (Model::default(), Rng::new(5));
    for _ in 0..100 {
        let mut version = model.next(&mut rng);
        if model.version > 0 {
            version.mode = Mode::Append;
            version.gone.clear();
        }
        model = model.after(&version);
        version.hand(&mut *sink, true).unwrap();
        sink.commit(&version.cursor()).unwrap();
    }
    // What the last manifest names, and what the one before it named.
    let files = disk.read_dir(Path::new("/rows/parts")).unwrap().len();
    assert!(files < 80, "{files} files");
    assert_eq!(held(&mut *sink, model.wide).unwrap().1, model.sum());
}

#[test]
fn a_byte_that_was_changed_is_told_and_not_built_upon() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("rows");
    for format in FolderFormat::ALL {
        let place = place.join(format.word());
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        let mut sink = folder(Arc::new(OsDisk), &place, format);
        sink.open(ENTRY).unwrap();
        let (mut model, mut rng) = (Model::default(), Rng::new(9));
        let first = loop {
            let version = model.next(&mut rng);
            if version.come.len() > 3 {
                break version;
            }
        };
        first.hand(&mut *sink, true).unwrap();
        sink.commit(&first.cursor()).unwrap();
        model = model.after(&first);
        let file = std::fs::read_dir(place.join("parts")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        // A digit of the first row's text or of its numbers.
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let mut version = model.next(&mut rng);
        version.mode = Mode::Changes;
        version.gone = model.rows.clone();
        let refused = version.hand(&mut *sink, true);
        let read = sink.read(ENTRY, &mut |_| Ok(()));
        // A byte that no reader looks at may be any.
        if let Err(error) = refused {
            // A length that points behind the end is a disk that does not give what it should.
            assert!(matches!(error.exit_code(), 5 | 1), "{format:?}: {error}");
        } else {
            assert!(read.is_ok(), "{format:?}");
        }
    }
}

/// Two versions with the power going at every operation of the second, and the process killed there as well.
#[test]
fn no_point_between_data_and_cursor_loses_or_doubles_a_row() {
    for mode in [Mode::Full, Mode::Append, Mode::Changes] {
        for crash in [true, false] {
            let mut at = 0;
            while !cut_at(mode, crash, at) {
                at += 1;
            }
            assert!(at >= 8, "a commit of {at} operations");
        }
    }
}

/// Whether the version came to its end.
fn cut_at(mode: Mode, crash: bool, at: u64) -> bool {
    let dir = Path::new("/rows");
    let disk = FakeDisk::new(1 << 20, at);
    let make = |disk: &FakeDisk| folder(Arc::new(disk.clone()), dir, FolderFormat::Csv);
    let (mut model, mut rng) = (Model::default(), Rng::new(3));
    let mut sink = make(&disk);
    sink.open(ENTRY).unwrap();
    for _ in 0..2 {
        let version = model.next(&mut rng);
        version.hand(&mut *sink, true).unwrap();
        sink.commit(&version.cursor()).unwrap();
        model = model.after(&version);
    }
    let mut version = model.next(&mut rng);
    version.mode = mode;
    version.gone = if mode == Mode::Changes { model.rows.iter().take(2).cloned().collect() } else { Vec::new() };
    let after = model.after(&version);
    disk.power_off_after(at);
    let done = version.hand(&mut *sink, true).and_then(|_| sink.commit(&version.cursor()));
    let whole = !disk.is_off();
    drop(sink);
    let disk = if crash { disk.crash(at) } else { disk.restart() };
    let mut sink = make(&disk);
    let cursor = sink.open(ENTRY).unwrap().unwrap();
    let expected = match cursor.version {
        v if v == after.version => &after,
        v if v == model.version && done.is_err() => &model,
        other => panic!("{mode} cut at {at}: it holds version {other}"),
    };
    assert_eq!(held(&mut *sink, expected.wide).unwrap().1, expected.sum(), "{mode} cut at {at}");
    // It goes on from there.
    if cursor.version == model.version {
        version.hand(&mut *sink, true).unwrap();
        sink.commit(&version.cursor()).unwrap();
    }
    assert_eq!(held(&mut *sink, after.wide).unwrap().1, after.sum());
    whole
}

/// Random faults: failed syncs, kills, power cuts, again and again. `LINGQU_SEED` runs one seed, `LINGQU_SEEDS` says how many.
#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LINGQU_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LINGQU_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(broken) = run(seed) {
            panic!("LINGQU_SEED={seed}: {broken}");
        }
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let format = FolderFormat::ALL[rng.below(3) as usize];
    let keyed = rng.one_in(2);
    let dir = Path::new("/srv/rows");
    let mut disk = FakeDisk::new(4 << 20, rng.next());
    disk.create_dir_all(Path::new("/srv")).map_err(|e| e.to_string())?;
    // What the folder may hold: the last that was said to be committed, and what was under way since.
    let mut model = Model::default();
    for _ in 0..2 + rng.below(5) {
        if rng.one_in(3) {
            disk.fail_sync_after(rng.below(12));
        }
        if !rng.one_in(4) {
            disk.power_off_after(rng.below(160));
        }
        let mut may_be = vec![model.clone()];
        let mut sink = folder(Arc::new(disk.clone()), dir, format);
        if sink.open(ENTRY).is_ok() {
            for _ in 0..1 + rng.below(4) {
                let version = model.next(&mut rng);
                let after = model.after(&version);
                if version.hand(&mut *sink, keyed).is_err() {
                    break;
                }
                if sink.commit(&version.cursor()).is_err() {
                    may_be.push(after);
                    break;
                }
                may_be = vec![after.clone()];
                model = after;
            }
        }
        drop(sink);
        disk = if rng.one_in(2) { disk.restart() } else { disk.crash(rng.next()) };
        let mut sink = folder(Arc::new(disk.clone()), dir, format);
        let cursor = sink.open(ENTRY).map_err(|e| format!("it does not open: {e}"))?;
        let version = cursor.map_or(0, |cursor| cursor.version);
        let found = may_be.into_iter().find(|may| may.version == version);
        model = found.ok_or_else(|| format!("it holds version {version}"))?;
        if version > 0 && held(&mut *sink, model.wide).map(|(_, sum)| sum) != Some(model.sum()) {
            return Err(format!("version {version} has other rows"));
        }
    }
    Ok(())
}
