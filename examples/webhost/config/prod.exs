import Config

config :webhost, WebHost.Repo,
  pool_size: String.to_integer(System.get_env("SHARED_DATABASE_POOL_SIZE", "20")),
  queue_target: 5000,
  queue_interval: 1000,
  prepare: :unnamed,
  parameters: [
    application_name: "webhost",
    statement_timeout: "30s",
    idle_in_transaction_session_timeout: "10s"
  ]

# Rows go per customer, by the plan; whole chunks only when no plan keeps them any longer.
config :webhost, :timescaledb,
  compression_enabled: true,
  compression_interval: "7 days",
  retention_enabled: true,
  default_retention_period: "730 days",
  chunk_time_interval: "1 day"

config :webhost, :billing, enforce_plan_limits: true, auto_upgrade_threshold: 0.8, auto_downgrade_threshold: 0.2

config :webhost, WebHostWeb.Plugs.RateLimit,
  limits: [{"api", {100, 60}}, {"upload", {10, 60}}, {"gps", {1000, 60}}]

config :prometheus, WebHost.PrometheusExporter,
  enabled: true,
  path: "/metrics",
  auth: {:basic, "collector", {:system, "METRICS_PASSWORD"}}
