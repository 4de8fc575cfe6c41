//! Seeded simulation of the agent's outbox on a disk that forgets: what was written down is there after any mixture of failed
//! syncs, kills and power cuts, and nobody's lock outlives its process. `LINGQU_SEED` runs one seed, `LINGQU_SEEDS` says how many.

use lingqu_agent::outbox::{Outbox, PullWork, State, Work};
use lingqu_certs::os::SystemClock;
use lingqu_protocol::host::Disk;
use lingqu_protocol::ids::TransferId;
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use std::path::Path;
use std::sync::Arc;

/// Seeds in an ordinary run: under a second.
const SEEDS: u64 = 2_000;

/// A transfer as its user was told of it.
#[derive(Default)]
struct Told {
    /// The states that it may be in; `None` where it may not be there.
    states: Vec<Option<State>>,
    /// A receipt that was said to be kept.
    receipt: Option<Vec<u8>>,
}

fn open(disk: &FakeDisk) -> Option<Outbox> {
    Outbox::open(Arc::new(disk.clone()), Arc::new(SystemClock::new()), Path::new("/profile")).ok()
}

fn boot(disk: &mut FakeDisk, rng: &mut Rng) -> Outbox {
    loop {
        if let Some(outbox) = open(disk) {
            return outbox;
        }
        *disk = if rng.one_in(2) { disk.restart() } else { disk.crash(rng.next()) };
    }
}

fn work(number: u64) -> Work {
    Work::Pull(PullWork { target: format!("grant {number}"), out: "/out".into(), ..PullWork::default() })
}

fn step(outbox: &Outbox, rng: &mut Rng, number: u64, told: &mut Told) {
    let id = TransferId::from_bits(u128::from(number) + 1);
    let states =
        [State::Running, State::Done, State::Failed { exit_code: 3, word: "denied".into(), text: "no".into() }];
    match rng.below(6) {
        0 | 1 => match outbox.create_as(id, work(number)) {
            Ok((_, record)) => told.states = vec![Some(record.state)],
            Err(_) => {
                if told.states.is_empty() {
                    told.states.push(None);
                }
                told.states.push(Some(State::Queued));
            }
        },
        2 | 3 => {
            let Ok(hold) = outbox.hold(id) else { return };
            let Ok(Some(mut record)) = outbox.load(id) else { return };
            let state = states[rng.below(3) as usize].clone();
            match outbox.set(&hold, &mut record, state.clone()) {
                Ok(()) => told.states = vec![Some(state)],
                Err(_) => told.states.push(Some(state)),
            }
        }
        4 => {
            let receipt = format!("receipt {number}").into_bytes();
            let kept = match rng.one_in(2) {
                true => outbox.keep_receipt(id, &receipt).is_ok(),
                false => matches!(outbox.receipt_kept_before(id), Ok(Some(_))),
            };
            if kept {
                told.receipt = Some(receipt);
            }
        }
        _ => {
            let Ok(hold) = outbox.hold(id) else { return };
            // It may be gone, or come back: then it is as if it had been cut, and nothing is lost.
            let _whether_it_stays_away = outbox.remove(&hold);
            told.states.push(None);
        }
    }
}

fn check(outbox: &Outbox, told: &[Told]) -> Result<(), String> {
    for (number, told) in (0u64..).zip(told) {
        let id = TransferId::from_bits(u128::from(number) + 1);
        let state = outbox.load(id).map_err(|e| format!("{id}: {e}"))?.map(|record| record.state);
        let may_be_absent = told.states.is_empty() || told.states.contains(&None);
        let may_be = told.states.contains(&state) || (state.is_none() && may_be_absent);
        if !may_be {
            return Err(format!("{id} is {state:?}, and may be one of {:?}", told.states));
        }
        let receipt = outbox.receipt(id).map_err(|e| format!("{id}: {e}"))?;
        if told.receipt.is_some() && told.receipt != receipt {
            return Err(format!("{id}: its receipt was kept and is not there"));
        }
        if outbox.is_held(id).map_err(|e| format!("{id}: {e}"))? {
            return Err(format!("{id}: a lock outlived its process"));
        }
    }
    outbox.list().map(|_| ()).map_err(|e| format!("list: {e}"))
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut disk = FakeDisk::new(1 << 20, rng.next());
    // Joining made the profile's folder.
    disk.create_dir_all(Path::new("/profile")).map_err(|e| e.to_string())?;
    if rng.one_in(3) {
        disk.fail_sync_after(rng.below(5));
    }
    let mut outbox = boot(&mut disk, &mut rng);
    let mut told: Vec<Told> = (0..3).map(|_| Told::default()).collect();
    for _ in 0..1 + rng.below(5) {
        if rng.one_in(2) {
            disk.fail_sync_after(rng.below(8));
        }
        if !rng.one_in(4) {
            disk.power_off_after(rng.below(50));
        }
        for _ in 0..1 + rng.below(8) {
            let number = rng.below(3);
            step(&outbox, &mut rng, number, &mut told[number as usize]);
        }
        disk = if rng.one_in(2) { disk.restart() } else { disk.crash(rng.next()) };
        if rng.one_in(3) {
            disk.fail_sync_after(rng.below(3));
        }
        outbox = boot(&mut disk, &mut rng);
        disk.plan_no_faults();
        check(&outbox, &told)?;
    }
    Ok(())
}

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
