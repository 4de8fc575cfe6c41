//! Many small files in one push, durable, beside writing and syncing each of them by itself.

use super::{Options, REPETITIONS, Trade, budgets, remove, settle, text};
use crate::error::BenchError;
use crate::report::{Sample, Scenario};
use crate::seeded::Seeded;
use crate::world::Programs;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Files in the set.
const FILES: u64 = 10_000;

/// Files in the set of a quick run.
const QUICK_FILES: u64 = 2_000;

/// Bytes of each file: a page.
const FILE_BYTES: usize = 4096;

/// Files in one folder of the tree.
const FOLDER_FILES: u64 = 500;

const CODE: &str = "300001/000002";

pub(super) fn measure(dir: &Path, programs: Programs, options: Options) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, programs)?;
    trade.files(CODE)?;
    let files = if options.quick { QUICK_FILES } else { FILES };
    let tree = dir.join("tree");
    write_tree(&tree, files, options.seed, false)?;
    let mut scenario = Scenario::default();
    let whole = Sample { bytes: files * FILE_BYTES as u64, files, ..Sample::default() };
    for _ in 0..REPETITIONS {
        settle();
        let copy = dir.join("each");
        let since = Instant::now();
        write_tree(&copy, files, options.seed, true)?;
        scenario.add("fsync_each", Sample { seconds: since.elapsed().as_secs_f64(), ..whole });
        remove(&copy)?;
        settle();
        let provider = trade.provider.clone();
        let (_, pushed) = trade.measure(&provider, &["push", "file", CODE, text(&tree)?])?;
        scenario.add("push", Sample { bytes: whole.bytes, files, ..pushed });
    }
    scenario.ratio("push_over_fsync_each", "push", "fsync_each", Sample::files_rate);
    budgets(&mut scenario, &[("push", "push_agent_peak_over_budget")]);
    trade.close()?;
    Ok(scenario)
}

fn write_tree(root: &Path, files: u64, seed: u64, sync_each: bool) -> Result<(), BenchError> {
    let mut content = Seeded::new(seed, "small files");
    let mut page = [0; FILE_BYTES];
    for i in 0..files {
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
