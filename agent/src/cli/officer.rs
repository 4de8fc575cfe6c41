//! Officers' keys.

use super::App;
use super::args::OfficerRequestArgs;
use crate::error::{AgentError, Told};
use lingqu_certs::officer::{OFFICER_REQUEST_FILE, Officer};
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::documents::OfficerBody;
use serde_json::json;

/// `officer request`: needs no profile.
pub(super) fn request(app: &App, args: OfficerRequestArgs) -> Result<(), AgentError> {
    let agency = CreditCode::parse(&args.agency).map_err(|e| {
        AgentError::Usage(
            Told::new("credit_code", format!("--agency: {e}"), format!("--agency 统一社会信用代码无效：{e}"))
                .next("give the agency's 18 characters", "请输入 18 位统一社会信用代码"),
        )
    })?;
    let says = OfficerBody { agency: agency.to_string(), name: args.name, role: args.role.into(), key: String::new() };
    let officer = Officer::request(&args.out, says, app.machine.entropy.as_ref())?;
    let request = args.out.join(OFFICER_REQUEST_FILE).display().to_string();
    let key = officer.public();
    let made = json!({ "id": key.key_id(), "key": key.to_string(), "request": request });
    app.output.say(&made, |o| {
        format!(
            "{}: {request}\n{}: {key}",
            o.pick("hand this to the gateway's operator", "请将此文件交网关运维人员登记"),
            o.pick("and compare the key by telephone", "并电话核对公钥"),
        )
    })
}
