-- A tenant and all its rows are gone, by the foreign keys' cascade. False: it was gone already.
select customer_delete(cast(cast(:id as text) as uuid));
