//! Units for `berth serve` and `berth edge`: restarted when they end, ready when they answer, with no right that they do
//! not use. Never a secret in a unit: keys come as credentials from files that only root reads.

use crate::{File, MARK};

/// What both may not do.
const HARDENED: &str = "NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077
";

pub fn render() -> Vec<File> {
    let serve = format!(
        "# {MARK}
[Unit]
Description=Berth control plane
After=network-online.target
Wants=network-online.target

[Service]
User=berth
Group=berth
StateDirectory=berth
# Secrets that the stack file names, DATABASE_URL among them where the control database is not Berth's own.
EnvironmentFile=-/etc/berth/serve.env
ExecStart=/usr/local/bin/berth serve --data-dir /var/lib/berth/serve
# Ready when the API answers: 401 without a key is an answer.
ExecStartPost=/bin/sh -c 'for n in $(seq 120); do curl -s -o /dev/null http://127.0.0.1:7600/v1/status && exit 0; sleep 0.5; done; exit 1'
Restart=always
RestartSec=1
TimeoutStopSec=40
# Members are its children's children: they outlive it, and are found again.
KillMode=process
Delegate=yes
LimitNOFILE=65536
{HARDENED}
[Install]
WantedBy=multi-user.target
"
    );
    let edge = format!(
        "# {MARK}
[Unit]
Description=Berth edge
After=network-online.target
Wants=network-online.target

[Service]
User=berth
Group=berth
StateDirectory=berth-edge
# The edge's key, made by `berth key create edge-1 --scope edge`; root's alone, mode 600.
LoadCredential=key:/etc/berth/edge.key
# Behind the rendered nginx.conf, which has port 80 then: --listen 127.0.0.1:8080 --trust 127.0.0.1
ExecStart=/usr/local/bin/berth edge --name edge-1 --listen 0.0.0.0:80 --control http://127.0.0.1:7600 --key-file %d/key --data-dir /var/lib/berth-edge
ExecStartPost=/bin/sh -c 'for n in $(seq 60); do curl -fs -o /dev/null http://127.0.0.1:7603/healthz && exit 0; sleep 0.5; done; exit 1'
Restart=always
RestartSec=1
TimeoutStopSec=40
LimitNOFILE=262144
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
MemoryDenyWriteExecute=yes
{HARDENED}
[Install]
WantedBy=multi-user.target
"
    );
    vec![
        File { path: "systemd/berth-serve.service", text: serve },
        File { path: "systemd/berth-edge.service", text: edge },
    ]
}
