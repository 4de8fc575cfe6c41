//! Many small files in one push, durable, beside writing and syncing each of them by itself, and beside rsync over ssh.

use super::{Options, REPETITIONS, Trade, budgets, remove, settle, text};
use crate::error::{BenchError, check};
use crate::report::{Sample, Scenario};
use crate::rsync::Rsync;
use crate::seeded::Seeded;
use crate::world::Programs;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Files in the set.
pub const FILES: u64 = 10_000;

/// Files in the set of a quick run.
const QUICK_FILES: u64 = 2_000;

/// Bytes of each file: a page.
pub const FILE_BYTES: u64 = 4096;

/// Files in one folder of the tree.
const FOLDER_FILES: u64 = 500;

const CODE: &str = "300001/000002";

/// What is pushed, how often, and beside what.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Files.
    pub files: u64,
    /// Bytes of each.
    pub file_bytes: u64,
    /// Repetitions.
    pub repetitions: usize,
    /// Beside `rsync -a --fsync` over ssh too, where this machine has it.
    pub beside_rsync: bool,
    /// Makes all content.
    pub seed: u64,
}

pub(super) fn measure(dir: &Path, programs: Programs, options: Options) -> Result<Scenario, BenchError> {
    let files = if options.quick { QUICK_FILES } else { FILES };
    let (repetitions, seed) = (REPETITIONS, options.seed);
    let set = Set { files, file_bytes: FILE_BYTES, repetitions, beside_rsync: false, seed };
    measure_set(dir, programs, set)
}

pub(super) fn measure_set(dir: &Path, programs: Programs, set: Set) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, programs)?;
    trade.files(CODE)?;
    let files = set.files;
    let tree = dir.join("tree");
    write_tree(&tree, set, false)?;
    let mut scenario = Scenario::default();
    let whole = Sample { bytes: files * set.file_bytes, files, ..Sample::default() };
    let rsync = if set.beside_rsync { Some(Rsync::start(&dir.join("ssh"))?) } else { None };
    for _ in 0..set.repetitions {
        settle();
        let copy = dir.join("each");
        let since = Instant::now();
        write_tree(&copy, set, true)?;
        scenario.add("fsync_each", Sample { seconds: since.elapsed().as_secs_f64(), ..whole });
        remove(&copy)?;
        if let Some(Ok(rsync)) = &rsync {
            settle();
            let to = dir.join("rsynced");
            let sent = rsync.send(&tree, &to)?;
            let arrived = count(&to)?;
            check(arrived == files, || format!("rsync brought {arrived} of {files} files"))?;
            scenario.add("rsync_fsync_ssh", Sample { bytes: whole.bytes, files, ..sent });
            remove(&to)?;
        }
        settle();
        let provider = trade.provider.clone();
        let (_, pushed) = trade.measure(&provider, &["push", "file", CODE, text(&tree)?])?;
        scenario.add("push", Sample { bytes: whole.bytes, files, ..pushed });
    }
    scenario.ratio("push_over_fsync_each", "push", "fsync_each", Sample::files_rate);
    scenario.ratio("push_over_rsync_fsync_ssh", "push", "rsync_fsync_ssh", Sample::files_rate);
    if let Some(Err(missing)) = rsync {
        scenario.figures = serde_json::json!({ "rsync_missing": missing });
    }
    budgets(&mut scenario, &[("push", "push_agent_peak_over_budget")]);
    trade.close()?;
    Ok(scenario)
}

fn write_tree(root: &Path, set: Set, sync_each: bool) -> Result<(), BenchError> {
    let mut content = Seeded::new(set.seed, "small files");
    let mut page = vec![0; usize::try_from(set.file_bytes).map_err(BenchError::data("a file's size"))?];
    for i in 0..set.files {
        let folder = root.join(format!("{:04}", i / FOLDER_FILES));
        if i % FOLDER_FILES == 0 {
            fs::create_dir_all(&folder).map_err(BenchError::io("making", &folder))?;
        }
        let path = folder.join(format!("{i:06}.bin"));
        content.fill(&mut page);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&page)?;
            if sync_each { file.sync_all() } else { Ok(()) }
        });
        written.map_err(BenchError::io("writing", &path))?;
    }
    Ok(())
}

/// Files below a folder.
fn count(root: &Path) -> Result<u64, BenchError> {
    let mut files = 0;
    for item in fs::read_dir(root).map_err(BenchError::io("listing", root))? {
        let item = item.map_err(BenchError::io("listing", root))?;
        files += if item.path().is_dir() { count(&item.path())? } else { 1 };
    }
    Ok(files)
}
