//! How a step is made: what lies between its versions is read, what cancels out is left, and the rest is put in order.

use crate::flow::Flow;
use crate::flow::error::FlowError;
use crate::lake::LakeError;
use crate::lake::diff::Step;
use crate::lake::manifest::TableManifest;
use crate::lake::reader::TableReader;
use crate::lake::split::{SPLITS, Split, Splitter, Tap};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use lingqu_protocol::backflow::SliceMode;
use lingqu_protocol::rows::RowsDigest;
use object_store::path::Path;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Batches that are decoded while another is put in order.
const READ_AHEAD_BATCHES: usize = 2;

impl Flow {
    pub(super) async fn split(
        &self,
        step: Step,
        tap: Option<Tap>,
    ) -> Result<(SliceMode, Option<Split>, Split), FlowError> {
        let mut gone = self.splitter(&step.gone)?;
        // Where rows cancel out, it is known only in the end which ones come.
        let tap = tap.filter(|_| step.mode == SliceMode::Full);
        let mut came = self.splitter(&step.came)?.tapped(tap);
        if !step.compared {
            self.read_all(&step.gone, &mut gone).await?;
            self.read_all(&step.came, &mut came).await?;
        } else {
            // Rows that were only written anew are among both, and cancel out.
            let mut counts: HashMap<u128, u64> = HashMap::new();
            let mut reader = self.hashed(&step.gone)?;
            while let Some((_, hashes)) = reader.next().await? {
                self.steps().count_decoded(hashes.len());
                hashes.into_iter().for_each(|hash| *counts.entry(hash).or_default() += 1);
            }
            let mut reader = self.hashed(&step.came)?;
            while let Some((batch, hashes)) = reader.next().await? {
                self.steps().count_decoded(hashes.len());
                let mask: BooleanArray = hashes.iter().map(|hash| Some(!take(&mut counts, hash))).collect();
                came.add(&filtered(&batch, &mask)?).await?;
            }
            let mut reader = self.hashed(&step.gone)?;
            while let Some((batch, hashes)) = reader.next().await? {
                self.steps().count_decoded(hashes.len());
                let mask: BooleanArray = hashes.iter().map(|hash| Some(take(&mut counts, hash))).collect();
                gone.add(&filtered(&batch, &mask)?).await?;
            }
        }
        let (gone, came) = (gone.finish().await?, came.finish().await?);
        Ok(match (step.mode, gone.rows()) {
            (SliceMode::Changes, 1..) => (SliceMode::Changes, Some(gone), came),
            (SliceMode::Changes, 0) => (SliceMode::Append, None, came),
            (mode, _) => (mode, None, came),
        })
    }

    fn splitter(&self, manifest: &TableManifest) -> Result<Splitter, FlowError> {
        let mut name = [0; 16];
        self.entropy().fill(&mut name).map_err(|e| FlowError::Machine(e.to_string()))?;
        let folder = Path::from(SPLITS).join(lingqu_protocol::digest::to_hex(&name));
        let region = manifest.region_column.ok_or(FlowError::NotFound { what: "region column in this version" })?;
        let none = self.reader(&TableManifest { parts: Vec::new(), ..manifest.clone() })?;
        Ok(Splitter::new(self.lake().clone(), folder, Arc::clone(none.schema()), region)?)
    }

    fn reader(&self, manifest: &TableManifest) -> Result<TableReader, FlowError> {
        let names: Vec<&str> = manifest.columns.iter().map(|column| column.name.as_str()).collect();
        let reader = TableReader::open(self.lake().clone(), Arc::new(manifest.clone()), &names, None)?;
        Ok(reader.with_cache(self.chunk_cache().clone()))
    }

    /// Reads in a task of its own, so that the next rows are decoded while these are put in order.
    async fn read_all(&self, manifest: &TableManifest, into: &mut Splitter) -> Result<(), FlowError> {
        let mut reader = self.reader(manifest)?;
        let (sender, mut batches) = mpsc::channel(READ_AHEAD_BATCHES);
        // It ends with this one, whoever is not there any more to take its rows.
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            loop {
                let read = reader.next().await;
                let is_last = !matches!(read, Ok(Some(_)));
                if sender.send(read).await.is_err() || is_last {
                    return;
                }
            }
        });
        while let Some(read) = batches.recv().await {
            let Some(batch) = read? else { return Ok(()) };
            self.steps().count_decoded(batch.num_rows());
            into.add(&batch).await?;
        }
        Err(FlowError::Machine("a version was not read to its end".into()))
    }

    fn hashed(&self, manifest: &TableManifest) -> Result<Hashed, FlowError> {
        let reader = self.reader(manifest)?;
        let digest = RowsDigest::of_schema(reader.schema());
        Ok(Hashed { digest: digest.ok_or_else(|| FlowError::Machine("columns of no item".into()))?, reader })
    }
}

/// Rows with their hashes.
struct Hashed {
    reader: TableReader,
    digest: RowsDigest,
}

impl Hashed {
    async fn next(&mut self) -> Result<Option<(RecordBatch, Vec<u128>)>, FlowError> {
        let Some(batch) = self.reader.next().await? else { return Ok(None) };
        let hashes = self.digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?.to_vec();
        Ok(Some((batch, hashes)))
    }
}

/// Whether one of these is left, and takes it.
fn take(counts: &mut HashMap<u128, u64>, hash: &u128) -> bool {
    match counts.get_mut(hash) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

fn filtered(batch: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch, LakeError> {
    filter_record_batch(batch, mask).map_err(|e| LakeError::columns("comparing rows", e))
}
