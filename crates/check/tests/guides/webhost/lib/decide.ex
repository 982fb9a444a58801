defmodule WebHost.Decide do
  def recommend(profile) do
    multi_tenant_score = shared(profile)
    single_tenant_score = dedicated(profile)

    cond do
      multi_tenant_score > 0.8 -> {:multi_tenant, :hobby_tier}
      single_tenant_score > 0.8 -> {:single_tenant, plan(profile)}
      :soc2 in compliance or :hipaa in compliance -> {:single_tenant, :professional_tier}
      true -> {:single_tenant, :starter_tier}
    end
  end
end
