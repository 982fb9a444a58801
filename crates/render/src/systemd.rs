//! Units for `berth serve` and `berth edge`: restarted when they end, ready when they answer, with no right that they do
//! not use; and the edge's sockets, which outlive it. Never a secret in a unit: keys come as credentials from files that only root reads.

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
# Ready when the API answers: 401 without a key is an answer. Failed when the program ends before that; at first it may be
# root's still, whose processes another user cannot ask after.
ExecStartPost=/bin/sh -c 'for n in $(seq 120); do kill -0 $MAINPID 2>/dev/null || [ $n -lt 4 ] || exit 1; curl -s -o /dev/null http://127.0.0.1:7600/v1/status && exit 0; sleep 0.5; done; exit 1'
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
After=network-online.target berth-edge.socket
Wants=network-online.target
Requires=berth-edge.socket

[Service]
# Ready when it serves. `systemctl reload` starts the program anew: the new process takes the sockets over and becomes the
# main one, the old one goes with its last connection, an hour later at most.
Type=notify
NotifyAccess=all
ExecReload=/bin/kill -HUP $MAINPID
User=berth
Group=berth
StateDirectory=berth-edge
StateDirectoryMode=0700
# The edge's key, made by `berth key create edge-1 --scope edge`; root's alone, mode 600.
LoadCredential=key:/etc/berth/edge.key
# Behind the rendered nginx.conf, which has port 80 then: --listen 127.0.0.1:8080 --trust 127.0.0.1
ExecStart=/usr/local/bin/berth edge --name edge-1 --listen 0.0.0.0:80 --control http://127.0.0.1:7600 --key-file %d/key --data-dir /var/lib/berth-edge
Restart=always
RestartSec=1
TimeoutStartSec=120
TimeoutStopSec=40
LimitNOFILE=262144
CapabilityBoundingSet=
MemoryDenyWriteExecute=yes
ProtectControlGroups=yes
ProtectProc=invisible
RemoveIPC=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{HARDENED}
[Install]
WantedBy=multi-user.target
Also=berth-edge.socket
"
    );
    let socket = format!(
        "# {MARK}
[Unit]
Description=Sockets of the Berth edge

# systemd holds them: who comes while the edge is stopped and started waits in their queue instead of being refused. For
# TLS add `ListenStream=0.0.0.0:443` here and `--listen-tls 0.0.0.0:443` to the service. Behind the rendered nginx.conf it
# is `ListenStream=127.0.0.1:8080`, as in the service.
[Socket]
ListenStream=0.0.0.0:80
Backlog=4096
NoDelay=yes
Service=berth-edge.service

[Install]
WantedBy=sockets.target
"
    );
    vec![
        File { path: "systemd/berth-serve.service", text: serve },
        File { path: "systemd/berth-edge.service", text: edge },
        File { path: "systemd/berth-edge.socket", text: socket },
    ]
}
