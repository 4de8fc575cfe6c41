//! 1: an expired certificate under an open approval renews, and does nothing else.

use lingqu_certs::ca::LEAF_VALID_MS;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::wire::{
    CancelTransfer, Join, Narrow, Pull, PushBatch, PushFiles, Read, Renew, SendDocument, reply, request::Ask,
};
use lingqu_tests::world::raw::{Raw, chain_from, expire, now, runtime};
use lingqu_tests::world::{World, threat};
use quinn::ConnectionError;

#[test]
fn threat_01_an_expired_certificate_renews_and_does_nothing_else() {
    let world = World::new();
    let name = format!("{}/main", world.requester.code);
    expire(&world.gateway, &world.requester.agent);
    world.gateway.run(["renewal", "approve", &name]).ok();
    let stranger = SigningKey::from_seed([9; 32]).unwrap();
    let long_ago = now().plus_ms(-2 * LEAF_VALID_MS);
    runtime().block_on(async {
        // The approval is for the key that the agent has.
        let chain = chain_from(&world.gateway, &name, &stranger, long_ago);
        let error = Raw::with_chain(&world.gateway, chain, &stranger).refused().await;
        threat(1, "an expired certificate on another key than the one approved", &error);
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error:?}");

        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let read = |kind: &str| Ask::Read(Read { kind: kind.into(), ..Read::default() });
        let pull = Pull { target: world.table.grant.clone(), ..Pull::default() };
        for ask in [
            Ask::Join(Join::default()),
            Ask::Document(SendDocument::default()),
            read("status"),
            read("grant"),
            read("catalogue"),
            read("transfer"),
            Ask::PushFiles(PushFiles { entry: world.files.entry.clone(), ..PushFiles::default() }),
            Ask::PushBatch(PushBatch { entry: world.table.entry.clone(), ..PushBatch::default() }),
            Ask::Pull(pull),
            Ask::Narrow(Narrow { grant: world.table.grant.clone(), reason: "r".into() }),
            Ask::Cancel(CancelTransfer::default()),
        ] {
            let (fault, _) = dialled.refused(ask.clone()).await;
            let asked = format!("{ask:?}");
            let what = asked.split('(').next().unwrap_or_default();
            threat(1, format!("an expired certificate, let in to renew, asks {what}"), &fault);
            let got = (fault.close_code(), fault.word.as_str());
            assert_eq!(got, (CloseCode::Expired, "certificate_expired"), "{asked}");
        }
        let profile = lingqu_certs::profile::Profile::load(world.requester.agent.profile()).unwrap();
        let renew = || Ask::Renew(Renew { csr_der: profile.signing_request().unwrap().into() });
        assert!(matches!(dialled.ask(renew()).await, reply::Reply::Certificate(_)));
        let (fault, _) = dialled.refused(renew()).await;
        threat(1, "an expired certificate renews a second time", &fault);
        assert_eq!((fault.close_code(), fault.word.as_str()), (CloseCode::Expired, "renewal_not_approved"));
    });
}
