-- A suspended tenant goes on. False: no such tenant here.
select customer_set_status(cast(cast(:id as text) as uuid), 'active');
