use super::*;
use lingqu_protocol::frame::FrameError;

fn told() -> Box<Told> {
    Told::new("w", "what", "什么").next("do", "做")
}

fn fault(code: CloseCode) -> Box<Fault> {
    Box::new(Fault { code: code.code(), ..Fault::default() })
}

#[test]
fn the_table_of_exit_codes() {
    let reset = |code| AgentError::from(StreamError::Reset(code));
    let table = [
        (AgentError::Machine(told()), 1),
        (AgentError::Peer(told()), 1),
        (AgentError::Usage(told()), 2),
        (AgentError::NotFound(told()), 3),
        (AgentError::Refused(fault(CloseCode::Denied)), 3),
        (AgentError::Refused(fault(CloseCode::OverLimit)), 3),
        (AgentError::Refused(fault(CloseCode::Suspended)), 4),
        (AgentError::Refused(fault(CloseCode::Expired)), 4),
        (reset(CloseCode::Suspended), 4),
        (AgentError::from(StreamError::Closed(CloseCode::Suspended)), 4),
        (AgentError::Integrity(told()), 5),
        (AgentError::Refused(fault(CloseCode::Integrity)), 5),
        (AgentError::Unreachable(told()), 6),
        (AgentError::from(StreamError::Lost("gone".into())), 6),
        (AgentError::Refused(fault(CloseCode::Busy)), 6),
        (reset(CloseCode::Draining), 6),
        (AgentError::Data(told()), 7),
        (AgentError::Refused(fault(CloseCode::BadData)), 7),
        (AgentError::Refused(fault(CloseCode::Internal)), 1),
        (AgentError::Session(SessionError::Incomplete), 1),
        (AgentError::Session(SessionError::Frame(FrameError::UnknownKind(9))), 1),
    ];
    for (error, code) in table {
        assert_eq!(error.exit_code(), code, "{error:?}");
    }
}

#[test]
fn a_condition_that_does_not_fit_the_entry_is_the_command_lines_fault() {
    let fault = |word: &str| Box::new(Fault { word: word.into(), ..*fault(CloseCode::Denied) });
    assert_eq!(AgentError::Refused(fault("bad_predicate")).exit_code(), 2);
    assert_eq!(AgentError::Refused(fault("predicate_outside_scope")).exit_code(), 3);
}

#[test]
fn no_refusal_ends_with_zero() {
    for code in CloseCode::ALL {
        assert_ne!(AgentError::Refused(fault(code)).exit_code(), 0, "{code:?}");
        assert_ne!(AgentError::from(StreamError::Reset(code)).exit_code(), 0, "{code:?}");
    }
}

#[test]
fn every_code_says_what_and_what_next_in_both_languages() {
    for code in CloseCode::ALL {
        let told = AgentError::Refused(fault(code)).told();
        for text in [told.what.en, told.what.zh, told.next.en, told.next.zh, told.word] {
            assert!(!text.is_empty(), "{code:?}");
        }
    }
}

#[test]
fn the_gateways_words_come_first_and_clean() {
    let fault = Fault {
        code: CloseCode::Denied.code(),
        word: "columns_outside_scope".into(),
        text: "no\u{1b}[31m".into(),
        text_zh: "列超出范围".into(),
        ..Fault::default()
    };
    let error = AgentError::Refused(Box::new(fault));
    assert_eq!(error.told().what, Text::new("no\u{fffd}[31m", "列超出范围"));
    let zh = error.render(true);
    assert!(zh.starts_with("错误：列超出范围 [columns_outside_scope]"), "{zh}");
    assert!(zh.contains("error: no"), "English follows");
    assert!(error.render(false).starts_with("error: no"));
}

#[test]
fn json_holds_what_a_program_needs() {
    let json = AgentError::Data(told()).to_json();
    assert_eq!(json["error"]["exit_code"], 7);
    assert_eq!(json["error"]["where"], "caller");
    assert_eq!(json["error"]["next_zh"], "做");
}

#[test]
fn only_what_may_pass_is_tried_again() {
    assert!(AgentError::Unreachable(told()).is_transient());
    assert!(AgentError::from(StreamError::Lost("x".into())).is_transient());
    assert!(AgentError::Refused(fault(CloseCode::Draining)).is_transient());
    for code in [CloseCode::Denied, CloseCode::Suspended, CloseCode::Integrity, CloseCode::BadData] {
        assert!(!AgentError::Refused(fault(code)).is_transient(), "{code:?}");
    }
    assert!(!AgentError::Integrity(told()).is_transient());
}
