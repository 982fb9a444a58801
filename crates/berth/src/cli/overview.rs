//! What `berth` alone prints: everything it can do, in one screen, by noun.

pub const OVERVIEW: &str = "\
berth: runs one SaaS for many tenants, and moves a tenant while its users keep working

  see       berth status, berth logs, berth audit   what needs a person; what was said; who did what
  stack     berth init, berth apply         write berth.yaml from what runs; put it in force, asks
            berth check, berth render       mistakes; compose, nginx  berth config show schema
            berth plan      list show       prices and their limits   berth import DUMP   of pg_dump
  tenants   berth tenant    create list show hosts allow sync drain suspend resume delete archives
            berth tenant    plan plan-move move   its plan and price; what a move would do; move it
            berth tenant    limits undo-move settle-move export restore purge import erase erasures
  cells     berth cell      create add abilities list show measure drain drain-member remove
            berth server    prepare check list   berth up HOST   berth registry add list remove
  release   berth release   create list show roll status back      berth service restart
  placing   berth decide, berth fleet plan apply simulate   where a tenant belongs; where all do
  usage     berth usage     list show record   berth approval  list show approve reject
            berth cost      months import forget phase catalogue guides   what a month cost; prices
  work      berth operation list show watch retry abandon     access  berth key create list revoke
  mover     berth mover discover rights plan run compare keep undo give-up settle  berth recover
  roles     berth demo soak   the whole job on this machine    berth serve   API, dashboard, workers
            berth edge list drains drain check  berth host add verify list remove  berth upgrade
            berth cert list add renew remove  berth db top maintain  berth completions SHELL

  --json on every command, --dry-run and --yes on those that change more than one thing.
  berth login, berth context list use remove   servers and keys, where BERTH_URL says nothing.
  Exit status: 0 done, 1 your request, 2 our fault, 3 still running.
";
