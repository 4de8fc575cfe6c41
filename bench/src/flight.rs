//! One subscriber's megabytes a second beside Arrow Flight's: lineitem, whose every row lies in one province, flows back to that
//! province's department in memory; and pyarrow's Flight server with mutual TLS serves the same Parquet in the same run, in
//! batches of 65,536 rows, decoded as it is sent (cold) and from memory (hot).
//!
//! Both are counted in bytes of Arrow that arrived, by processes on the same machine, in turn. Lingqu's subscriber also
//! checks what came: a digest over all bytes and one over all rows, and its acknowledgement becomes durable; Flight's client checks
//! nothing and its server records nothing.

use crate::error::{BenchError, check};
use crate::fanout;
use crate::lineitem::{self, Format};
use crate::program::Line;
use crate::report::median;
use crate::world::save;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::Path;

/// The server and its client, for the Python that is installed.
const SCRIPT: &str = include_str!("../flight.py");

/// The province in whose counties all rows lie.
const PROVINCE: &str = "44";

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TPC-H's scale.
    pub scale: f64,
    /// How often, in turn.
    pub repetitions: usize,
}

/// Measures in `dir`.
///
/// # Errors
/// When something cannot be measured, rows are missing, or Python has no pyarrow.
pub fn run(dir: &Path, options: Options) -> Result<Value, BenchError> {
    let counties = lineitem::county_codes()?.into_iter().filter(|code| code.starts_with(PROVINCE)).collect();
    let written = lineitem::write_over(dir, options.scale, Format::Parquet, counties)?;
    let keys = dir.join("flight");
    std::fs::create_dir_all(&keys).map_err(BenchError::io("making", &keys))?;
    certificates(&keys)?;
    let script = dir.join("flight.py");
    std::fs::write(&script, SCRIPT).map_err(BenchError::io("writing", &script))?;
    let mut whole = fanout::Whole::open(dir, PROVINCE, &written.data, options.repetitions * 2)?;
    let (mut cold, mut hot, mut flight_cold, mut flight_hot) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.repetitions {
        let taken = whole.cold_and_hot(written.rows)?;
        cold.push(taken.0);
        hot.push(taken.1);
        let told = Line::new(Path::new("python3")).arg(&script).arg(&written.data).arg(&keys).run(0)?.json()?;
        for (name, rates) in [("cold", &mut flight_cold), ("hot", &mut flight_hot)] {
            let of = |key: &str| told[name][key].as_f64().unwrap_or(0.0);
            check(told[name]["rows"] == written.rows, || format!("Flight gave other rows: {told}"))?;
            rates.push(of("bytes") / of("seconds").max(1e-9) / 1e6);
        }
    }
    whole.close()?;
    let (lingqu, lingqu_hot) = (median(cold.clone()), median(hot.clone()));
    let (flight, memory) = (median(flight_cold.clone()), median(flight_hot.clone()));
    Ok(json!({
        "scale": options.scale, "rows": written.rows, "parquet_bytes": written.bytes,
        "mb_per_second": {
            "lingqu_cold": cold, "lingqu_hot": hot, "flight_cold": flight_cold, "flight_hot": flight_hot,
        },
        "lingqu_cold_over_flight_cold": lingqu / flight.max(1e-9),
        "lingqu_hot_over_flight_cold": lingqu_hot / flight.max(1e-9),
        "lingqu_hot_over_flight_hot": lingqu_hot / memory.max(1e-9),
    }))
}

/// A CA, and a server's and a client's certificate under it.
fn certificates(dir: &Path) -> Result<(), BenchError> {
    let failed = |e: rcgen::Error| BenchError::data("making certificates")(e);
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Names of their own: a leaf whose issuer has its own name counts as self-signed.
    params.distinguished_name.push(DnType::CommonName, "flight root");
    let ca = params.self_signed(&key).map_err(failed)?;
    save(dir, "ca.pem", &ca.pem())?;
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, format!("flight {name}"));
        save(dir, &format!("{name}.pem"), &params.signed_by(&key, &issuer).map_err(failed)?.pem())?;
        save(dir, &format!("{name}.key"), &key.serialize_pem())?;
    }
    Ok(())
}
