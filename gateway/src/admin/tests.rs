use super::*;
use crate::folder::{Folder, Layout, init};
use crate::registry::Registry;
use crate::registry::port::Nobody;
use crate::state::SqliteState;
use lingqu_certs::ca::signing_request;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::joining::{JoinAnswer, JoinRequest};
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_certs::root::Root;
use lingqu_protocol::documents::{AgencyBody, Document};
use lingqu_protocol::host::{Clock as _, DiskLock};
use lingqu_protocol::ids::DocumentId;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const AGENCY: &str = "91350100M000100Y43";

async fn made(temp: &tempfile::TempDir) -> PathBuf {
    let dir = temp.path().join("gw");
    let root = temp.path().join("root");
    init(&dir, &root, "lingqu.test", "127.0.0.1:4433", &SystemClock::new(), &OsEntropy::new()).await.unwrap();
    dir
}

fn agency(temp: &tempfile::TempDir, dir: &std::path::Path) -> Command {
    let root = Root::load(&temp.path().join("root")).unwrap();
    let now = SystemClock::new().wall();
    let body = AgencyBody {
        code: AGENCY.into(),
        name: "部门".into(),
        region: "4403".into(),
        level: "city".into(),
        duties: vec![],
        parent: None,
        authority: false,
    };
    let document = Document {
        gateway: Folder::open(dir).unwrap().identity.gateway,
        id: DocumentId::random(&OsEntropy::new()).unwrap(),
        predecessor: None,
        issued_at: now.0,
        expires_at: now.0 + 1000,
        body,
    };
    Command::AgencyAdd { envelope: root.seal(&document).unwrap().to_json() }
}

/// A gateway that serves its control socket.
struct Serving {
    task: tokio::task::JoinHandle<()>,
    state: Arc<SqliteState>,
    lock: Box<dyn DiskLock>,
}

impl Serving {
    /// Ends it as a process ends: nothing of it holds the socket, the database or, at last, the lock.
    async fn end(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|e| e.is_cancelled()), "it served until now");
        self.state.close().await;
        drop(self.lock);
    }
}

async fn serving(dir: &std::path::Path) -> Serving {
    let layout = Layout::new(dir);
    let lock = Folder::lock(&layout).unwrap();
    let folder = Folder::open(dir).unwrap();
    let state = Arc::new(SqliteState::open(&layout.state()).await.unwrap());
    let registry = Registry::new(
        state.clone(),
        Arc::new(Nobody),
        Arc::new(SystemClock::new()),
        Arc::new(OsEntropy::new()),
        Arc::new(folder.ca),
        folder.identity,
    );
    let socket = ControlSocket::bind(&layout).unwrap();
    let desk = Desk { registry: Arc::new(registry), state: state.clone(), running: None };
    let task = tokio::spawn(socket.serve(desk));
    Serving { task, state, lock }
}

#[tokio::test]
async fn a_command_is_done_here_or_by_the_gateway_that_runs() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(&temp).await;
    assert_eq!(run(&dir, agency(&temp, &dir)).await.unwrap()["id"], AGENCY);
    let serving = serving(&dir).await;
    let mode = std::fs::metadata(Layout::new(&dir).control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let list = run(&dir, Command::AgencyList { after: String::new() }).await.unwrap();
    assert_eq!(list["agencies"][0]["id"], AGENCY);
    let stopped = Command::Stop { selector: "all".into(), reason: "演练".into() };
    assert_eq!(run(&dir, stopped).await.unwrap()["status"], "stopped");
    serving.end().await;
    let found = run(&dir, Command::Check {}).await.unwrap();
    assert_eq!(found["stops"][0]["id"], "all");
    // What a killed gateway leaves of its socket keeps nobody out.
    drop(std::os::unix::net::UnixListener::bind(Layout::new(&dir).control_socket()).unwrap());
    assert!(Layout::new(&dir).control_socket().exists());
    let found = run(&dir, Command::Check {}).await.unwrap();
    assert_eq!(found["stops"][0]["id"], "all");
    let verified = run(&dir, Command::LedgerVerify { checkpoints: vec![] }).await.unwrap();
    assert_eq!(verified["size"], 3);
}

#[tokio::test]
async fn failures_keep_their_code_across_the_socket() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(&temp).await;
    let nobody = run(temp.path(), Command::Check {}).await.unwrap_err();
    assert_eq!((nobody.code, nobody.word.as_str()), (2, "no_gateway"));
    let commands = [
        (Command::Invite { agency: AGENCY.into(), agent: "main".into(), ttl_ms: 1000 }, 3),
        (Command::Invite { agency: "x".into(), agent: "main".into(), ttl_ms: 1000 }, 2),
        (Command::Stop { selector: "nothing".into(), reason: "r".into() }, 2),
        (Command::Resume { selector: "all".into(), reason: "r".into() }, 3),
        (Command::AgencyAdd { envelope: "{}".into() }, 3),
        (Command::Join { request: "{}".into() }, 7),
        (Command::LedgerVerify { checkpoints: vec!["junk".into()] }, 5),
    ];
    let mut here = Vec::new();
    for (command, code) in &commands {
        let failure = run(&dir, command.clone()).await.unwrap_err();
        assert_eq!(failure.code, *code, "{command:?}: {failure}");
        assert!(!failure.next.is_empty());
        here.push(failure);
    }
    let _serving = serving(&dir).await;
    for ((command, _), failure) in commands.into_iter().zip(here) {
        assert_eq!(run(&dir, command).await.unwrap_err(), failure);
    }
}

#[tokio::test]
async fn a_line_that_is_no_command_or_never_ends_is_answered_and_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(&temp).await;
    let _serving = serving(&dir).await;
    let say = async |bytes: Vec<u8>| {
        let mut stream = UnixStream::connect(Layout::new(&dir).control_socket()).await.unwrap();
        // The gateway stops reading at its bound, so that writing more may fail.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    for junk in ["", "\n", "{}\n", "{\"do\":\"fly\"}\n", "{\"do\":\"check\",\"x\":1}\n", "\u{0}"] {
        assert!(say(junk.into()).await.contains("\"usage\""), "{junk:?}");
    }
    assert!(say(vec![b' '; LINE_BYTES_MAX + 1]).await.contains("\"usage\""));
    assert!(say(b"{\"do\":\"check\"}\n".to_vec()).await.contains("\"good\""));
}

#[tokio::test]
async fn joining_by_files_needs_the_invitations_key() {
    let temp = tempfile::tempdir().unwrap();
    let dir = made(&temp).await;
    run(&dir, agency(&temp, &dir)).await.unwrap();
    let invite = Command::Invite { agency: AGENCY.into(), agent: "main".into(), ttl_ms: 3_600_000 };
    let line = run(&dir, invite).await.unwrap()["invitation"].as_str().unwrap().to_owned();
    let invitation: Invitation = line.parse().unwrap();
    let key = SigningKey::from_seed([3; 32]).unwrap();
    let request = JoinRequest::file(&invitation, &signing_request(&key).unwrap()).unwrap();
    let forged = request.replace("\"signature\": \"", "\"signature\": \"AAAA");
    assert_eq!(run(&dir, Command::Join { request: forged }).await.unwrap_err().code, 7);
    let joined = run(&dir, Command::Join { request }).await.unwrap();
    let answer = JoinAnswer::parse(joined["answer"].as_str().unwrap().as_bytes()).unwrap();
    let admission = answer.admit(&invitation).unwrap();
    assert_eq!(admission.agent.to_string(), format!("{AGENCY}/main"));
    let other = SigningKey::from_seed([4; 32]).unwrap();
    let second = JoinRequest::file(&invitation, &signing_request(&other).unwrap()).unwrap();
    let refused = run(&dir, Command::Join { request: second }).await.unwrap_err();
    assert_eq!(refused.word, "invitation_closed");
}
