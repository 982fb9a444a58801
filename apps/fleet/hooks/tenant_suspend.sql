-- A tenant is suspended: its rows stay, its status says so. False: no such tenant here.
select customer_set_status(cast(cast(:id as text) as uuid), 'suspended');
