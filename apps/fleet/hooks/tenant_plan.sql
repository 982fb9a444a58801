-- A tenant changes to another plan. False: no such tenant here.
select customer_set_plan(cast(cast(:id as text) as uuid), cast(:plan as text));
