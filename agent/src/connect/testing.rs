//! A scripted gateway in memory, for tests.

use super::Session;
use crate::testing::{GATEWAY, World};
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_certs::os::SystemClock;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::Channel as _;
use lingqu_protocol::wire::{self, Hello, Reply, Request, Welcome, reply, request};

/// Runs `work` against a gateway that gives these replies, one for each request, and tells what was asked.
#[allow(clippy::unwrap_used)]
pub(crate) fn scripted<T>(
    replies: Vec<reply::Reply>,
    work: impl AsyncFnOnce(Session<MemoryChannel>) -> T,
) -> (T, Vec<request::Ask>) {
    let (agent, gateway) = pair();
    let serve = async {
        let (send, recv) = gateway.accept_bi().await.unwrap();
        let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
        let _: Hello = reader.expect("Hello").await.unwrap();
        let welcome = Welcome {
            version: 1,
            limits: Some(wire::limits()),
            gateway: GATEWAY.to_string(),
            domain: World::DOMAIN.into(),
            ..Welcome::default()
        };
        writer.message(&welcome).await.unwrap();
        let mut asked = Vec::new();
        for reply in replies {
            let (send, recv) = gateway.accept_bi().await.unwrap();
            let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
            let request: Request = reader.expect("Request").await.unwrap();
            asked.push(request.ask.unwrap());
            writer.message(&Reply::from(reply)).await.unwrap();
            writer.finish();
        }
        // The connection stays until the agent is done with it.
        let _ended = gateway.accept_bi().await;
        asked
    };
    let work = async {
        let session = Session::greet(agent.clone(), &SystemClock::new(), String::new()).await.unwrap();
        let done = work(session).await;
        agent.close(lingqu_protocol::close::CloseCode::Done);
        done
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::join!(work, serve) })
}
