-- The fence of a cell: one row, one sequence and one advisory lock per tenant that moves or has moved.
-- Run by the mover's role, whose name stands for @mover@; what it makes belongs to @keeper@. Safe to run again. Every name and operator is qualified, because the functions run with
-- their owner's rights under whatever search path the writer has.
create schema if not exists berth authorization @keeper@;

create table if not exists berth.fence (
    tenant     text primary key,
    number     integer generated always as identity unique, -- the advisory lock's second key
    state      text not null check (state in ('open', 'closed')),
    generation bigint not null,
    token      bigint not null,
    applied    pg_lsn not null default '0/0',               -- how far the source's stream is in this database
    changed_at timestamptz not null default now()
);

-- Keys and indexes taken off for a bare load, until they stand again.
create table if not exists berth.deferred (
    move      text not null,
    nth       integer not null,
    kind      text not null check (kind in ('key', 'index', 'foreign key')),
    relation  text not null,
    create_sql text not null,
    done      boolean not null default false,
    primary key (move, nth)
);

-- Rows of nobody that a move brought along, until it is over.
create table if not exists berth.brought (
    move     text not null,
    relation text not null,
    key      text[] not null,
    primary key (move, relation, key)
);

-- Numbers that this database keeps for cells that tenants have moved to: from `first` on, `size` of them.
create table if not exists berth.windows (
    cell     text not null,
    sequence text not null,
    first    bigint not null,
    size     bigint not null,
    primary key (cell, sequence)
);

-- Refuses a writer while the tenant is closed here. tg_argv: fence number, oid of its sequence, tenant.
--
-- The word is read from a sequence because a sequence has no old versions: a transaction opened long before the
-- move sees the present at every isolation level. The lock is waited for, not tried: an armer that queues and gives
-- up would otherwise refuse writers for nothing.
create or replace function berth.fence() returns trigger
language plpgsql volatile security definer as $fence$
declare
    word pg_catalog.int8;
begin
    if session_user operator(pg_catalog.=) @mover@ then
        return null;
    end if;
    if pg_catalog.current_setting('berth.passed', true) operator(pg_catalog.=)
        pg_catalog.concat(pg_catalog.pg_current_xact_id(), '/', tg_argv[0]) then
        return null;
    end if;
    perform pg_catalog.pg_advisory_xact_lock_shared(1111839316, tg_argv[0]::pg_catalog.int4);
    word := pg_catalog.pg_sequence_last_value(tg_argv[1]::pg_catalog.oid::pg_catalog.regclass);
    if word is null or pg_catalog.int8mod(word, 2) operator(pg_catalog.=) 1 then
        raise exception using
            errcode = 'BF001',
            message = pg_catalog.concat('tenant ', tg_argv[2], ' moved to generation ', word operator(pg_catalog./) 2 operator(pg_catalog.+) 1),
            detail = pg_catalog.concat('generation=', word operator(pg_catalog./) 2 operator(pg_catalog.+) 1),
            hint = 'This database does not own the tenant any more; nothing was written. Send the request through the edge.';
    end if;
    perform pg_catalog.set_config('berth.passed', pg_catalog.concat(pg_catalog.pg_current_xact_id(), '/', tg_argv[0]), true);
    return null;
end
$fence$;

-- The same for the triggers that look at a whole statement's rows, of tables without a tenant column.
create or replace function berth.pass(number pg_catalog.int4, word_of pg_catalog.oid, tenant pg_catalog.text) returns void
language plpgsql volatile security definer as $pass$
declare
    word pg_catalog.int8;
begin
    perform pg_catalog.pg_advisory_xact_lock_shared(1111839316, number);
    word := pg_catalog.pg_sequence_last_value(word_of::pg_catalog.regclass);
    if word is null or pg_catalog.int8mod(word, 2) operator(pg_catalog.=) 1 then
        raise exception using
            errcode = 'BF001',
            message = pg_catalog.concat('tenant ', tenant, ' moved to generation ', word operator(pg_catalog./) 2 operator(pg_catalog.+) 1),
            detail = pg_catalog.concat('generation=', word operator(pg_catalog./) 2 operator(pg_catalog.+) 1),
            hint = 'This database does not own the tenant any more; nothing was written. Send the request through the edge.';
    end if;
end
$pass$;

-- A row that changes its tenant arrives in the stream without its old tenant: the move has to end. tg_argv: the table,
-- because in a partition's trigger tg_table_name is the partition's.
create or replace function berth.tenant_changed() returns trigger
language plpgsql volatile security definer as $changed$
begin
    perform pg_catalog.pg_logical_emit_message(true, 'berth.tenant', tg_argv[0]);
    return null;
end
$changed$;

-- Says in the stream that the schema changed.
create or replace function berth.ddl() returns event_trigger
language plpgsql volatile security definer as $ddl$
declare
    command record;
begin
    if session_user operator(pg_catalog.=) @mover@ then
        return;
    end if;
    for command in select * from pg_catalog.pg_event_trigger_ddl_commands() loop
        if command.object_type operator(pg_catalog.=) any (array['table', 'table column', 'trigger', 'type']) then
            perform pg_catalog.pg_logical_emit_message(true, 'berth.ddl',
                pg_catalog.concat(tg_tag, ' ', command.object_identity));
        end if;
    end loop;
end
$ddl$;

alter table berth.fence owner to @keeper@;
alter table berth.deferred owner to @keeper@;
alter table berth.brought owner to @keeper@;
alter table berth.windows owner to @keeper@;
alter function berth.pass(pg_catalog.int4, pg_catalog.oid, pg_catalog.text) owner to @keeper@;
alter function berth.fence() owner to @keeper@;
alter function berth.tenant_changed() owner to @keeper@;
revoke all on all functions in schema berth from public;
-- Whoever makes or attaches a partition has its table's triggers cloned in their own name, for which Postgres asks for this.
-- Without usage of the schema nobody can name them for anything else.
grant execute on function berth.fence(), berth.tenant_changed() to public;
comment on schema berth is @mover@;
