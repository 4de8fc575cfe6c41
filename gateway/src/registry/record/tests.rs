use super::*;
use crate::registry::tests::world::{World, csr};
use crate::registry::{agency, agent, application, entry, grant, invitation, officer, paper, renewal, stop};
use crate::state::{Filter, State};
use lingqu_protocol::documents::{Answer, AnswerBody, GrantAct, GrantActBody, Review};

/// Every thing that a busy registry holds, in every status, reads back and is written the same again.
#[tokio::test]
async fn what_was_written_reads_back_and_is_written_the_same() {
    let w = World::new().await;
    w.published().await;
    let returned = w.submitted().await;
    w.review(returned, Review::Return { why: "缺项".into() }).await.unwrap();
    w.submitted().await;
    let refused = w.applied().await;
    let no = AnswerBody { application: refused.0, answer: Answer::Refuse { why: "不必要".into() } };
    w.hand_in(&w.provider.agent, &w.provider.office_head, no, Some(refused.1)).await.unwrap();
    w.applied().await;
    let narrower = "columns = [\"region\"]";
    let (suspended, _) = w.approve(w.applied().await, Some(narrower)).await.unwrap();
    w.registry.narrow(&w.provider.agent, &suspended.to_string(), "检查").await.unwrap();
    let (ended, taken) = w.approve(w.applied().await, None).await.unwrap();
    let answer = w.registry.paper(taken.document).await.unwrap().digest;
    let end = GrantActBody { grant: ended, act: GrantAct::Terminate, reason: "拒不整改".into() };
    w.hand_in(&w.provider.agent, &w.provider.office_head, end, Some(answer)).await.unwrap();
    w.granted().await;
    w.registry.invite(&w.other.agent, 1000).await.unwrap();
    w.registry.approve_renewal(&w.other.agent, 1000).await.unwrap();
    w.registry.approve_renewal(&w.requester.agent, 1000).await.unwrap();
    w.registry.withdraw_renewal(&w.requester.agent).await.unwrap();
    w.registry.approve_renewal(&w.provider.agent, 1000).await.unwrap();
    let key = w.provider.clerk.public();
    w.registry.renew_expired(&w.provider.agent, &key, &csr(&w.provider.clerk)).await.unwrap();
    for selector in [stop::Selector::All, stop::Selector::Agent(w.other.agent.clone())] {
        w.registry.stop(&selector, "事故").await.unwrap();
    }

    async fn same<T: Stored + PartialEq + std::fmt::Debug>(w: &World, least: usize) {
        let records = w.state.list(T::KIND, Filter::default(), None, 1000).await.unwrap();
        let records: Vec<_> =
            records.into_iter().filter(|r| T::KIND != Kind::Setting || r.id.starts_with("entry-code:")).collect();
        assert!(records.len() >= least, "{}: {}", T::KIND, records.len());
        for record in records {
            let read: T = thing(&record).unwrap();
            assert_eq!(draft(&read, record.changed_at).unwrap(), record.to_draft());
            let mut elsewhere = record.clone();
            elsewhere.id.push('x');
            assert!(matches!(thing::<T>(&elsewhere), Err(RegistryError::Damaged(_))), "another's id");
            let mut unknown = record;
            unknown.body = [b"{\"unknown\":1,", &unknown.body[1..]].concat();
            assert!(matches!(thing::<T>(&unknown), Err(RegistryError::Damaged(_))), "an unknown key");
        }
    }
    same::<agency::Agency>(&w, 4).await;
    same::<officer::Officer>(&w, 12).await;
    same::<agent::Agent>(&w, 4).await;
    same::<invitation::Invitation>(&w, 5).await;
    same::<renewal::Renewal>(&w, 3).await;
    same::<entry::Entry>(&w, 3).await;
    same::<application::Application>(&w, 5).await;
    same::<grant::Grant>(&w, 3).await;
    same::<stop::Stop>(&w, 1).await;
    same::<paper::Paper>(&w, 20).await;
    same::<paper::CodeClaim>(&w, 1).await;
}
