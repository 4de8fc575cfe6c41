//! `service install`: a systemd unit for `lingqu agent run`.

use super::agent::{AgentFile, read};
use super::args::ServiceInstallArgs;
use super::{App, write_output};
use crate::error::{AgentError, Told};
use serde_json::json;
use std::path::Path;

/// What a unit's or user's name is made of.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'))
}

/// `service install`.
pub(super) fn install(app: &App, args: &ServiceInstallArgs) -> Result<(), AgentError> {
    let profile = app.profile()?.dir().to_owned();
    let profile = std::path::absolute(&profile).map_err(|e| AgentError::io("finding", &profile, &e))?;
    if !is_name(&args.user) || !is_name(&args.name) {
        let told = Told::new("name", "names have letters, digits, - _ . and @", "名称只能含字母、数字和 - _ . @");
        return Err(AgentError::Usage(told));
    }
    let file = read(&profile)?;
    let program = std::env::current_exe().map_err(|e| AgentError::io("finding", Path::new("this program"), &e))?;
    let unit = unit(&program, &profile, &args.user, &file)?;
    let name = format!("{}.service", args.name);
    let path = args.unit_dir.join(&name);
    if args.dry_run {
        let said = json!({"id": name, "path": path, "written": false, "unit": unit});
        return app.output.say(&said, |_| unit.clone());
    }
    write_output(&path, unit.as_bytes())?;
    let said = json!({"id": name, "path": path, "written": true, "unit": unit});
    app.output.say(&said, |o| {
        let next = o.pick("next", "下一步");
        format!(
            "{}\n{next}:\n  chown -R {} {}\n  systemctl daemon-reload\n  systemctl enable --now {name}",
            path.display(),
            args.user,
            profile.display()
        )
    })
}

/// The unit's text.
fn unit(program: &Path, profile: &Path, user: &str, file: &AgentFile) -> Result<String, AgentError> {
    // A sign of the shell's variables counts in commands alone.
    let [program, shown] = [word("", program)?, word("", profile)?].map(|word| word.replace('$', "$$"));
    let folders = file.follow.iter().filter_map(|item| item.folder());
    // A folder that is not there yet is made by the agent, in a folder that it must be able to write to: `-` lets it be absent.
    let folders =
        std::iter::once(profile).chain(folders).map(|folder| Ok(format!("ReadWritePaths={}", word("-", folder)?)));
    let folders = folders.collect::<Result<Vec<_>, AgentError>>()?.join("\n");
    Ok(format!(
        "# Written by `lingqu service install`. The agent drains its outbox and follows what {FILE} in its profile lists.\n\
         [Unit]\n\
         Description=Lingqu agent\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=simple\n\
         User={user}\n\
         ExecStart={program} --profile {shown} agent run\n\
         Environment=LINGQU_LOG=info\n\
         # The password of a database is in a file of this user, see PGPASSFILE; or PGPASSWORD in a file that only root reads.\n\
         EnvironmentFile=-/etc/lingqu/agent.env\n\
         # SIGTERM lets a version that comes get to its end.\n\
         KillSignal=SIGTERM\n\
         TimeoutStopSec=90\n\
         Restart=always\n\
         RestartSec=5\n\
         \n\
         MemoryMax=512M\n\
         LimitCORE=0\n\
         UMask=0077\n\
         {folders}\n\
         CapabilityBoundingSet=\n\
         AmbientCapabilities=\n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         PrivateTmp=yes\n\
         PrivateDevices=yes\n\
         ProtectClock=yes\n\
         ProtectControlGroups=yes\n\
         ProtectHostname=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectKernelModules=yes\n\
         ProtectKernelTunables=yes\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\n\
         RestrictNamespaces=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         LockPersonality=yes\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        FILE = "agent.toml"
    ))
}

/// A path as a unit has it: behind `prefix`, in quotes where it needs them, with its own signs escaped.
fn word(prefix: &str, path: &Path) -> Result<String, AgentError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| {
        let path = path.display();
        let told = Told::new("path", format!("a unit cannot name {path}"), format!("服务单元无法使用路径 {path}"));
        AgentError::Usage(told.next("use a path without control characters", "请使用不含控制字符的路径"))
    })?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let plain = escaped == text && !text.contains([' ', '\'', ';']);
    Ok(if plain { format!("{prefix}{escaped}") } else { format!("\"{prefix}{escaped}\"") })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_profile_and_folders_and_escapes_them() {
        let file: AgentFile = toml::from_str(
            "[[follow]]\nentry = \"a\"\nout = \"/srv/回流 1\"\n[[follow]]\nentry = \"b\"\nexec = \"x\"\n",
        )
        .unwrap();
        let unit = unit(Path::new("/usr/bin/lingqu"), Path::new("/var/lib/a%b"), "u", &file).unwrap();
        for line in [
            "ExecStart=/usr/bin/lingqu --profile \"/var/lib/a%%b\" agent run",
            "ReadWritePaths=\"-/srv/回流 1\"",
            "ReadWritePaths=\"-/var/lib/a%%b\"",
            "User=u",
            "ProtectSystem=strict",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}\n{unit}");
        }
        assert!(word("", Path::new("/a\nExecStartPre=/bin/evil")).is_err());
        assert!(is_name("lingqu-agent@1") && !is_name("a b") && !is_name("") && !is_name("a\nb"));
    }
}
