//! `nginx.conf`, whole, for those who keep nginx in front: it ends TLS and hands everything to `berth edge` on loopback.
//! Routes, limits and holds are the edge's; nginx repeats none of them.

use crate::{MARK, Site};

/// Where `berth edge` listens behind it.
pub const EDGE: &str = "127.0.0.1:8080";

pub fn render(site: &Site) -> String {
    let host = &site.host;
    format!(
        "# {MARK}
# The edge behind it: `berth edge --listen {EDGE} --trust 127.0.0.1`. Certificates are certbot's; another place is
# two lines below.
user www-data;
worker_processes auto;
pid /run/nginx.pid;

events {{
    worker_connections 4096;
}}

http {{
    access_log off;
    server_tokens off;
    # The edge limits bodies by plan and answers 413 itself.
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_buffering off;

    map $http_upgrade $berth_connection {{
        default upgrade;
        \"\" \"\";
    }}

    upstream berth_edge {{
        server {EDGE};
        keepalive 64;
    }}

    # What comes under no known name, or under none, gets no answer.
    server {{
        listen 80 default_server;
        return 444;
    }}

    server {{
        listen 80;
        server_name {host} *.{host};
        location /.well-known/acme-challenge/ {{
            root /var/www/certbot;
        }}
        location / {{
            return 301 https://$host$request_uri;
        }}
    }}

    server {{
        listen 443 ssl;
        server_name {host} *.{host};
        ssl_certificate /etc/letsencrypt/live/{host}/fullchain.pem;
        ssl_certificate_key /etc/letsencrypt/live/{host}/privkey.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:berth:10m;
        ssl_session_tickets off;
        add_header Strict-Transport-Security \"max-age=31536000\" always;

        location / {{
            proxy_pass http://berth_edge;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            # Replaced, not added to: what a client claims of itself stops here.
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $berth_connection;
            # Longer than a hold at the edge. A request that failed is never sent twice from here.
            proxy_read_timeout 75s;
            proxy_next_upstream off;
        }}
    }}
}}
"
    )
}
