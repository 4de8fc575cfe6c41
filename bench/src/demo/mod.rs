//! The whole exchange once: real processes, real regions, synthetic registrations. Every figure that is told was read
//! from what the programs themselves said, and checked against the source here.

mod account;
mod acts;
mod data;

use crate::error::BenchError;
use crate::world::{Agency, Founding, Programs, World};
use account::Account;
use std::path::{Path, PathBuf};

/// The province that pulls its rows: 广东省.
const PROVINCE: &str = "44";

/// The city that pulls its rows: 深圳市.
const CITY: &str = "4403";

/// Bytes of registrations: the least that the demonstration promises.
const REGISTRATIONS_BYTES: u64 = 64 << 20;

/// Bytes of registrations in a small demonstration: more than a connection's windows hold, so that a reader who waits
/// really holds the gateway up.
const SMALL_REGISTRATIONS_BYTES: u64 = 48 << 20;

/// Bytes of the file whose push is killed.
const FILE_BYTES: u64 = 1 << 30;

/// Bytes of that file in a small demonstration.
const SMALL_FILE_BYTES: u64 = 256 << 20;

/// Makes all content: the same demonstration every time.
const SEED: u64 = 809;

/// How to show it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder to make; `lingqu-demo` here where absent.
    pub dir: Option<PathBuf>,
    /// One JSON document instead of the account.
    pub json: bool,
    /// Smaller sizes.
    pub small: bool,
}

/// Shows it, and prints the account.
///
/// # Errors
/// When a program fails or says what is not true.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let programs = Programs::find()?;
    let dir = fresh(options.dir.as_deref())?;
    let mut account = Account::new();
    let mut stage = Stage::open(&dir, programs, options.small, &mut account)?;
    let shared = stage.publish(&mut account)?;
    stage.push_rows(&mut account)?;
    let grants = stage.apply(&shared, &mut account)?;
    stage.pull_rows(&grants, &mut account)?;
    stage.ask_for_more(&grants, &mut account)?;
    let receipt = stage.kill_and_resume(&grants, &mut account)?;
    stage.suspend(&grants, &mut account)?;
    stage.verify_offline(&receipt, &mut account)?;
    let next = stage.next(&grants, &receipt);
    let dir = dir.display().to_string();
    if options.json {
        println!("{}", account.to_json(&dir, &next));
    } else {
        println!("{}", account.to_text(&dir, &next));
    }
    Ok(())
}

/// A folder that is not there yet.
fn fresh(dir: Option<&Path>) -> Result<PathBuf, BenchError> {
    let here = std::env::current_dir().map_err(BenchError::system("finding this folder"))?;
    match dir {
        Some(dir) if dir.exists() => {
            Err(BenchError::Usage(format!("{} exists: name a folder that does not", dir.display())))
        }
        Some(dir) => Ok(here.join(dir)),
        None => {
            let names = (1..1000).map(|n| if n == 1 { "lingqu-demo".to_owned() } else { format!("lingqu-demo-{n}") });
            let free = names.map(|name| here.join(name)).find(|path| !path.exists());
            free.ok_or_else(|| BenchError::Usage("remove an old lingqu-demo folder".to_owned()))
        }
    }
}

/// Who takes part.
struct Stage {
    world: World,
    small: bool,
    authority: Agency,
    provider: Agency,
    province: Agency,
    city: Agency,
    townships: data::Counts,
    registrations: data::Counts,
}

/// Codes of the three entries.
struct Shared {
    townships: &'static str,
    registrations: &'static str,
    files: &'static str,
}

/// Ids of the grants.
struct Grants {
    province_townships: String,
    province_registrations: String,
    city_townships: String,
    city_registrations: String,
    city_files: String,
    /// Everything in the registrations, for the pull that is cut.
    whole: String,
}

impl Stage {
    fn open(dir: &Path, programs: Programs, small: bool, account: &mut Account) -> Result<Self, BenchError> {
        let mut world = World::create(dir, programs)?;
        world.serve()?;
        let found =
            |label, name, region, authority, number| world.found(Founding { label, name, region, authority, number });
        let authority = found("authority", "演示省政务数据主管部门", "44:province", true, 1)?;
        let provider = found("provider", "演示数据提供部门", "44:province", false, 2)?;
        let province = found("province", "演示省级需求部门", "44:province", false, 3)?;
        let city = found("city", "演示市级需求部门", "4403:city", false, 4)?;
        let commands = ["init", "agency add", "officer add", "invite"].map(|c| format!("lingqu-gateway {c} …"));
        let mut commands = commands.to_vec();
        commands.push("lingqu --profile … join lingqu-invite-1:…".to_owned());
        account.step(
            "join",
            "A gateway serves, with its root kept in another folder; four agencies joined, eight officers hold keys of their own.".to_owned(),
            "网关已启动，根密钥存放在另一目录；四个部门已接入，八名签署人各持自己的密钥。".to_owned(),
            commands,
            serde_json::json!({ "agencies": 4, "officers": 8, "address": world.address }),
        );
        let none = data::Counts::default();
        Ok(Self { world, small, authority, provider, province, city, townships: none, registrations: none })
    }

    fn file_bytes(&self) -> u64 {
        if self.small { SMALL_FILE_BYTES } else { FILE_BYTES }
    }

    fn registrations_bytes(&self) -> u64 {
        if self.small { SMALL_REGISTRATIONS_BYTES } else { REGISTRATIONS_BYTES }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.world.dir.join("data").join(name)
    }

    /// Commands to go on with by hand.
    fn next(&self, grants: &Grants, receipt: &Path) -> Vec<String> {
        let agent = |agency: &Agency, rest: &str| {
            format!("{} --profile {} {rest}", self.world.programs.agent.display(), agency.profile.display())
        };
        let serve = self.world.serve_line().text();
        let program = self.world.programs.gateway.parent().unwrap_or_else(|| Path::new(".")).display();
        vec![
            format!("{program}/{serve} &"),
            agent(&self.city, &format!("pull {} --out mine.csv", grants.city_registrations)),
            agent(&self.city, "grant list"),
            agent(&self.provider, "transfer list"),
            agent(&self.provider, &format!("receipt verify {}", receipt.display())),
        ]
    }
}
