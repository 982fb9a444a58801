import Config

config :webhost, WebHost.Repo,
  pool_size: 10,
  prepare: :named,
  parameters: [application_name: "webhost_single_tenant", max_connections: 100]

config :webhost, :billing, enforce_plan_limits: false, usage_based_billing: true

config :webhost, :security,
  ddos_protection: true,
  ip_whitelisting: false,
  certificate_pinning: true,
  end_to_end_encryption: true
