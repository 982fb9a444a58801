//! `berth server prepare`: a fresh Debian or Ubuntu becomes a host that a cell may stand on. Each step looks first and is
//! proved afterwards, so that a second run does what the first left undone. Never closes a door before a second connection
//! has come in by the one that stays.

use super::{
    beside::{self, Neighbour},
    host::Host,
    steps::{SECOND_DOOR, Step, Walk, Went, failed, say},
};
use crate::fail::Failure;
use berth_providers::ssh::{Connection, Target, quoted, root};
use std::time::{Duration, Instant};

/// Who Berth is on the host, with root's rights and no password.
pub const USER: &str = "berth-ssh";
/// Beside what every Debian has.
const PACKAGES: &[&str] = &[
    "postgresql",
    "sudo",
    "nftables",
    "fail2ban",
    "python3-systemd",
    "unattended-upgrades",
    "ca-certificates",
    "curl",
    "iproute2",
    "podman",
];
/// What packages, a Postgres and its log begin with.
const ROOM_MIB: u64 = 3 * 1024;
/// A firewall that shut us out is taken away again by itself.
const REGRET_S: u32 = 30;

/// What a host is, before anything is done there.
pub struct Found {
    pub system: String,
    pub sudo: &'static str,
    /// Who else filters or publishes there.
    pub beside: Vec<Neighbour>,
}

/// Looks whether the host can be prepared at all. Changes nothing.
pub async fn look(connection: &Connection) -> Result<Found, Failure> {
    let name = connection.target().name();
    let sudo = root(connection).await.map_err(failed)?;
    let run = async |script: &str| connection.run(script, b"").await.map_err(failed);
    let said = run(". /etc/os-release && echo \"$ID $VERSION_ID\" && echo \"$PRETTY_NAME\"").await?.out;
    let mut lines = said.lines();
    let (id, version) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("", ""));
    let system = lines.next().unwrap_or("an unknown system").to_owned();
    let number: f64 = version.parse().unwrap_or(0.0);
    if !matches!((id, number), ("debian", 12.0..) | ("ubuntu", 22.04..)) {
        let what = format!("`{name}` runs {system}, which is not served");
        return Err(Failure::request(what, "Debian 12, Ubuntu 22.04 and newer are; nothing was changed"));
    }
    let arch = run("uname -m").await?.out;
    if arch.trim() != std::env::consts::ARCH {
        let what = format!("`{name}` is {}, and this program is for {}", arch.trim(), std::env::consts::ARCH);
        return Err(Failure::request(what, "run a `berth` that was built for it; nothing was changed"));
    }
    let free = run("df -Pm /var | awk 'NR==2 {print $4}'").await?.out;
    let free: u64 = free.trim().parse().unwrap_or(0);
    if free < ROOM_MIB {
        let what = format!("`{name}` has {free} MiB of disk free under /var, and {ROOM_MIB} are needed");
        return Err(Failure::request(what, "make room there, or take a larger disk; nothing was changed"));
    }
    if run("test -d /run/systemd/system").await?.status != 0 {
        let what = format!("no systemd runs on `{name}`");
        return Err(Failure::request(
            what,
            "a container is no host unless its first process is systemd; nothing was changed",
        ));
    }
    let open = opened_by_match(connection, sudo).await?;
    if !open.is_empty() {
        let what = format!(
            "SSH of `{name}` lets in more than keys, by a `Match` block, which counts more than what is written here:\n{open}"
        );
        return Err(Failure::request(what, "take that out there, then the same again; nothing was changed"));
    }
    let beside = beside::look(connection, sudo).await?;
    Ok(Found { system, sudo, beside })
}

/// Everything, in its order.
pub async fn prepare(walk: &mut Walk<'_>, host: &Host) -> Result<(), Failure> {
    walk.step(&packages()).await?;
    // The key that has let us in is the one that stays.
    walk.step(&user(walk.connection.login())).await?;
    second_door(walk, host).await?;
    sshd(walk, host).await?;
    walk.step(&fail2ban()).await?;
    walk.step(&upgrades()).await?;
    firewall(walk, host).await
}

fn packages() -> Step {
    let all = PACKAGES.join(" ");
    let look =
        format!("for p in {all}; do dpkg -s $p 2>/dev/null | grep -q '^Status: install ok installed' || exit 1; done");
    // No cluster of the distribution's: cells make their own. A fresh server asks for its own updates in its first minutes,
    // so locks are waited for; what an earlier run was broken off in is finished first.
    let act = format!(
        "set -e; export DEBIAN_FRONTEND=noninteractive LC_ALL=C; mkdir -p /etc/postgresql-common/createcluster.d; \
         echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/berth.conf; \
         apt='apt-get -y -qq -o DPkg::Lock::Timeout=300'; n=0; \
         until said=$($apt update 2>&1); do n=$((n+1)); case \"$said\" in *lists/lock*) test $n -lt 60;; *) false;; esac || \
         {{ echo \"$said\" >&2; exit 1; }}; sleep 5; done; \
         get() {{ $apt --no-install-recommends install {all} >/dev/null; }}; \
         get || {{ dpkg --configure -a >/dev/null; $apt --fix-broken install >/dev/null; get; }}"
    );
    Step::new("packages", format!("installed from the distribution: {all}"), look, act)
}

fn user(line: &str) -> Step {
    let keys = format!("~{USER}/.ssh/authorized_keys");
    let rights = format!("{USER} ALL=(ALL) NOPASSWD: ALL");
    let look = format!(
        "id {USER} >/dev/null 2>&1 && id berth >/dev/null 2>&1 && id berth-edge >/dev/null 2>&1 && grep -qxF '{line}' {keys} && \
         test \"$(stat -c %U {keys})\" = {USER} && grep -qxF '{rights}' /etc/sudoers.d/{USER}"
    );
    // The key last: whoever it lets in has its rights already, also after a run that was broken off here.
    let act = format!(
        "set -e; umask 077; id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {USER}; \
         id berth >/dev/null 2>&1 || useradd --system --home-dir /var/lib/berth --shell /usr/sbin/nologin berth; \
         id berth-edge >/dev/null 2>&1 || \
         useradd --system --home-dir /var/lib/berth-edge --shell /usr/sbin/nologin berth-edge; \
         install -d -m 755 -o berth -g berth /var/lib/berth; \
         install -d -m 700 -o {USER} -g {USER} ~{USER}/.ssh; \
         echo '{rights}' >/etc/sudoers.d/{USER}.new; chmod 440 /etc/sudoers.d/{USER}.new; \
         visudo -cqf /etc/sudoers.d/{USER}.new; mv /etc/sudoers.d/{USER}.new /etc/sudoers.d/{USER}; \
         grep -qxF '{line}' {keys} 2>/dev/null || echo '{line}' >>{keys}; chown {USER}:{USER} {keys}"
    );
    Step::new(
        "users",
        format!("`{USER}` with your key and root's rights; `berth` and `berth-edge`, who run services and have none"),
        look,
        act,
    )
}

/// Before any door is closed: the one that stays is tried from outside.
async fn second_door(walk: &mut Walk<'_>, host: &Host) -> Result<(), Failure> {
    let says = format!("a second connection comes in as `{USER}` and may do what root may");
    if walk.dry_run {
        walk.note(SECOND_DOOR, &says, Went::Would, Duration::ZERO);
        return Ok(());
    }
    let begun = Instant::now();
    let second = host.again(walk.connection, USER).await.map_err(failed)?;
    root(&second).await.map_err(failed)?;
    host.remember_door(&second);
    walk.note(SECOND_DOOR, &says, Went::Was, begun.elapsed());
    Ok(())
}

const SSHD: &str = "/etc/ssh/sshd_config.d/00-berth.conf";
const SSHD_TEXT: &str = "# Written by `berth server prepare`.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
PermitEmptyPasswords no
X11Forwarding no
AllowAgentForwarding no
AllowTcpForwarding local
MaxAuthTries 4
LoginGraceTime 30
";

/// Where `sshd_config` lies as it was, and beside it this file where there was one.
const BEFORE: &str = "/run/berth-sshd_config";
/// Both as they were.
const AS_BEFORE: &str = "cp -p /run/berth-sshd_config /etc/ssh/sshd_config; rm -f /etc/ssh/sshd_config.d/00-berth.conf; \
                         [ ! -e /run/berth-sshd_config.own ] || \
                         cp -p /run/berth-sshd_config.own /etc/ssh/sshd_config.d/00-berth.conf";

/// What sshd itself says of its configuration: of a setting that is there twice it takes the first.
const SHUT: &str = "(said=$(/usr/sbin/sshd -T) && for w in 'passwordauthentication no' 'kbdinteractiveauthentication no' \
                    'permitrootlogin no' 'permitemptypasswords no'; do printf '%s\\n' \"$said\" | grep -qx \"$w\" || exit 1; done)";

/// Lines of `Match` blocks that undo it for some: those come after every other file, and `sshd -T` does not ask them.
const OPENED: &str = r#"awk 'FNR == 1 { m = 0 } { line = $0; gsub(/[="\t]/, " "); k = tolower($1); v = tolower($2) }
k == "match" { m = 1; next }
m && v != "no" && !(k == "permitrootlogin" && v ~ /^(prohibit-password|without-password|forced-commands-only)$/) && k ~ /^(passwordauthentication|kbdinteractiveauthentication|challengeresponseauthentication|permitrootlogin|permitemptypasswords)$/ { print FILENAME ":" FNR ":" line }' \
$(ls /etc/ssh/sshd_config /etc/ssh/sshd_config.d/*.conf 2>/dev/null)"#;

/// Those lines, each with its file. None: nothing undoes what is written here.
pub async fn opened_by_match(connection: &Connection, sudo: &str) -> Result<String, Failure> {
    let said = connection.run(&format!("{sudo}sh -c {}", quoted(OPENED)), b"").await.map_err(failed)?;
    Ok(said.out.trim_end().to_owned())
}

async fn sshd(walk: &mut Walk<'_>, host: &Host) -> Result<(), Failure> {
    // One that a socket starts reads it when it starts.
    let reload = "systemctl try-reload-or-restart ssh";
    let config = "/etc/ssh/sshd_config";
    let look = format!("printf %s '{SSHD_TEXT}' | cmp -s - {SSHD} && {SHUT} 2>/dev/null");
    // Where another file, or a line above, says otherwise first, this one is read before all of them. A configuration that
    // sshd does not take, or that changes nothing, is never left there, and the running one is not told of it.
    let act = format!(
        "set -e; mkdir -p /run/sshd; cp -p {config} {BEFORE}; rm -f {BEFORE}.own; [ ! -e {SSHD} ] || cp -p {SSHD} {BEFORE}.own; \
         grep -q '^Include /etc/ssh/sshd_config.d' {config} || sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' {config}; \
         cat >{SSHD}; {SHUT} || sed -i '1i Include {SSHD}' {config}; \
         {{ /usr/sbin/sshd -t && {SHUT}; }} || {{ {AS_BEFORE}; \
         echo 'sshd -T does not say that passwords and root are refused' >&2; exit 1; }}; \
         {reload}; sleep 0.5"
    );
    let step = Step::new("ssh", "keys only, no root, no passwords", look, act).with(SSHD_TEXT);
    let went = walk.step(&step).await?;
    if went == Went::Done
        && let Err(error) = host.again(walk.connection, USER).await
    {
        // The first connection is still open.
        walk.must("opening SSH again", &format!("{AS_BEFORE}; {reload}"), b"").await?;
        return Err(failed(error));
    }
    if went == Went::Would {
        return Ok(());
    }
    // From outside, as whoever has no key: what runs may have been started with other words than its files'.
    let target = Target { user: USER.to_owned(), ..walk.connection.target().clone() };
    let offered = Connection::offered(&target).await.map_err(failed)?;
    if offered.iter().any(|way| ["password", "keyboard-interactive", "none"].contains(&way.as_str())) {
        let what = format!("SSH of `{}` still offers {}", target.name(), offered.join(", "));
        return Err(Failure::request(what, "`systemctl cat ssh` there shows with which words it is started"));
    }
    Ok(())
}

fn fail2ban() -> Step {
    // By the program that writes: the unit's name differs between distributions, and newer SSH servers write as another.
    let text = "# Written by `berth server prepare`.\n[sshd]\nenabled = true\nmaxretry = 5\nfindtime = 10m\nbantime = 1h\n\
                banaction = nftables\nbanaction_allports = nftables[type=allports]\nbackend = systemd\n\
                journalmatch = _COMM=sshd + _COMM=sshd-session\n";
    let file = "/etc/fail2ban/jail.d/berth.local";
    let look = format!("printf %s '{text}' | cmp -s - {file} && fail2ban-client status sshd >/dev/null 2>&1");
    let act = format!(
        "set -e; cat >{file}; systemctl enable -q fail2ban; systemctl restart fail2ban; \
         for n in $(seq 60); do fail2ban-client status sshd >/dev/null 2>&1 && exit 0; sleep 0.5; done; exit 1"
    );
    Step::new("fail2ban", "five bad logins within 10 minutes: banned for an hour", look, act).with(text)
}

/// As apt itself reads its files, and as its timers take what they find there: of a setting that is there twice the last
/// counts, everything is on unless `Enable` says otherwise, lists and upgrades are off unless they are asked for, and
/// without an origin nothing is ever installed. Not by a dry run, which waits for other users of apt and fetches what it
/// would install.
pub const UPGRADES: &str = "periodic=1 lists=0 upgrade=0; eval \"$(apt-config shell periodic APT::Periodic::Enable \
                            lists APT::Periodic::Update-Package-Lists upgrade APT::Periodic::Unattended-Upgrade)\"; \
                            test \"$periodic\" != 0 && test \"$lists\" != 0 && test \"$upgrade\" != 0 && \
                            apt-config dump | grep -qE '^Unattended-Upgrade::(Origins-Pattern|Allowed-Origins)::' && \
                            command -v unattended-upgrade >/dev/null && systemctl is-enabled -q apt-daily.timer && \
                            systemctl is-enabled -q apt-daily-upgrade.timer";

fn upgrades() -> Step {
    let text = "APT::Periodic::Update-Package-Lists \"1\";\nAPT::Periodic::Unattended-Upgrade \"1\";\n";
    let file = "/etc/apt/apt.conf.d/20auto-upgrades";
    // The last of that folder by its name, where another one of it says otherwise.
    let last = "/etc/apt/apt.conf.d/zz-berth";
    let look = format!("printf %s '{text}' | cmp -s - {file} && {UPGRADES}");
    let act = format!(
        "set -e; cat >{file}; systemctl enable -q --now apt-daily.timer apt-daily-upgrade.timer; ( {UPGRADES} ) || \
         printf '# Written by `berth server prepare`.\\n%s\\n%s' 'APT::Periodic::Enable \"1\";' '{text}' >{last}; ( {UPGRADES} ) || \
         {{ echo 'apt says that security updates are off: see `apt-config dump APT::Periodic Unattended-Upgrade`; \
         /etc/apt/apt.conf counts more than {last}, and without an origin nothing is installed' >&2; exit 1; }}"
    );
    Step::new("upgrades", "security updates are installed every day", look, act).with(text)
}

async fn firewall(walk: &mut Walk<'_>, host: &Host) -> Result<(), Failure> {
    // On which port its own SSH listens, the host says: ours may be one that is forwarded to it.
    let said = walk.connection.run("echo \"$SSH_CONNECTION\"", b"").await.map_err(failed)?.out;
    let port: u16 = said.split_whitespace().nth(3).and_then(|port| port.parse().ok()).unwrap_or(host.port());
    let rules = format!(
        "# Written by `berth server prepare`.\n\
         table inet berth\ndelete table inet berth\n\
         table inet berth {{\n  chain input {{\n    type filter hook input priority 0; policy drop;\n\
         \x20   ct state established,related accept\n    ct state invalid drop\n    iif lo accept\n\
         \x20   meta l4proto {{ icmp, ipv6-icmp }} accept\n    ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept\n    tcp dport {{ {port}, 80, 443 }} accept\n  }}\n\
         # What a container publishes is sent on to it before the chain above is asked.\n\
         \x20 chain published {{\n    type filter hook forward priority -10; policy accept;\n\
         \x20   ct state established,related accept\n\
         \x20   iifname \"docker*\" accept\n    iifname \"br-*\" accept\n    iifname \"podman*\" accept\n    iifname \"cni*\" accept\n\
         \x20   ct status dnat meta l4proto {{ tcp, udp }} ct original proto-dst != {{ 80, 443 }} drop\n  }}\n}}\n"
    );
    let file = "/etc/nftables.d/berth.nft";
    let include = "include \"/etc/nftables.d/*.nft\"";
    let look = format!(
        "printf %s '{rules}' | cmp -s - {file} && grep -qxF '{include}' /etc/nftables.conf && \
         nft list table inet berth 2>/dev/null | grep -q 'policy drop'"
    );
    let says = format!("nothing is let in but SSH ({port}), 80 and 443, published by a container or not");
    let begun = Instant::now();
    let went = if walk.is(&look).await? {
        Went::Was
    } else if walk.dry_run {
        Went::Would
    } else {
        Went::Done
    };
    if went == Went::Done {
        // Taken away by itself unless a second connection has come through it; what a restart of the host reads is
        // written after that.
        let draft = "/run/berth-firewall.nft";
        let tried = format!(
            "set -e; cat >{draft}; nft -c -f {draft}; rm -f /run/berth-firewall-ok; \
             (setsid sh -c 'sleep {REGRET_S}; test -e /run/berth-firewall-ok || {{ nft delete table inet berth; test ! -e {file} || nft -f {file}; }}' \
             >/dev/null 2>&1 </dev/null &); nft -f {draft}"
        );
        walk.must("the firewall", &tried, rules.as_bytes()).await?;
        if let Err(error) = host.again(walk.connection, USER).await {
            say(&format!("the firewall is as it was before within {REGRET_S} s"));
            return Err(failed(error));
        }
        let kept = format!(
            "set -e; touch /run/berth-firewall-ok; nft -f {draft}; mkdir -p /etc/nftables.d; mv {draft} {file}; \
             grep -qxF '{include}' /etc/nftables.conf 2>/dev/null || echo '{include}' >>/etc/nftables.conf; \
             systemctl enable -q nftables"
        );
        walk.must("keeping the firewall", &kept, b"").await?;
        if !walk.is(&look).await? {
            let what = "the firewall was set on the host, and a look says otherwise";
            return Err(Failure::request(what, format!("there: `{look}`")));
        }
    }
    walk.note("firewall", &says, went, begun.elapsed());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::UPGRADES;
    use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

    /// Answers as apt's does out of one file, and has an origin.
    const APT_CONFIG: &str = r#"#!/bin/sh
file=$(dirname "$0")/apt.conf
if [ "$1" = dump ]; then cat "$file"; exit; fi
shift
while [ $# -ge 2 ]; do sed -n "s/^$2 \"\(.*\)\";/$1='\1'/p" "$file"; shift 2; done
"#;

    #[test]
    fn security_updates_are_off_by_any_of_apts_settings() {
        let dir = tempfile::tempdir().unwrap();
        for (program, text) in [
            ("apt-config", APT_CONFIG),
            ("unattended-upgrade", "#!/bin/sh\n"),
            ("systemctl", "#!/bin/sh\ntest \"$1 $2\" = 'is-enabled -q'\n"),
        ] {
            let at = dir.path().join(program);
            fs::write(&at, text).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let on = |lines: &[&str]| {
            fs::write(dir.path().join("apt.conf"), lines.join("\n") + "\n").unwrap();
            Command::new("sh").args(["-c", UPGRADES]).env("PATH", &path).status().unwrap().success()
        };
        let lists = "APT::Periodic::Update-Package-Lists \"1\";";
        let upgrade = "APT::Periodic::Unattended-Upgrade \"7\";";
        let origin = "Unattended-Upgrade::Origins-Pattern:: \"origin=Debian\";";
        assert!(on(&[lists, upgrade, origin]));
        assert!(on(&[lists, upgrade, origin, "APT::Periodic::Enable \"1\";"]));
        for off in [
            &[lists, upgrade, origin, "APT::Periodic::Enable \"0\";"][..],
            &[lists, upgrade, origin, "APT::Periodic::Update-Package-Lists \"0\";"],
            &[lists, upgrade, origin, "APT::Periodic::Unattended-Upgrade \"0\";"],
            &[upgrade, origin],
            &[lists, origin],
            &[lists, upgrade],
        ] {
            assert!(!on(off), "{off:?}");
        }
    }
}
