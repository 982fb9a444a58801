-- A tenant is born: its root row, and the key that requests will carry. Harmless when run again.
select customer_create(cast(cast(:id as text) as uuid), cast(:slug as text), cast(:plan as text));
