import Config

config :webhost, WebHost.Repo,
  pool_size: 20,
  queue_target: 5000,
  prepare: :unnamed,
  parameters: [
    statement_timeout: "30s",
    shared_preload_libraries: "timescaledb",
    max_connections: 200
  ]

config :webhost, :timescaledb,
  retention_enabled: true,
  default_retention_period: "30 days",
  chunk_time_interval: "1 day"

config :webhost, WebHostWeb.Plugs.RateLimit,
  limits: [{"api", {100, 60}}, {"upload", {10, 60}}, {"gps", {1000, 60}}]

config :webhost, :security, tenant_isolation: :database_level, rate_limiting: :per_customer

config :prometheus, WebHost.PrometheusExporter, enabled: true, path: "/metrics", auth: false
