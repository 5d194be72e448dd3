"""The tables.

``inbox`` has the messages to instances, ``operations`` those to entities; ``timers`` has when timer triggers are due.
An entity's ``updated`` is when its state was committed last. Of what is leased, ``owner`` is null when it is free.
Times are seconds since the epoch; events, payloads, states and requests are JSON texts.
"""

# A file of another one is refused rather than misread.
SCHEMA_VERSION = 3

SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, started TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY, execution_id TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, input TEXT,
    status TEXT NOT NULL, output TEXT, custom_status TEXT, progress TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL,
    parent_id TEXT, parent_execution_id TEXT, parent_task_id INTEGER,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE INDEX IF NOT EXISTS instances_leased ON instances (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS instances_ended ON instances (updated) WHERE status IN ('Completed', 'Failed', 'Terminated');
CREATE TABLE IF NOT EXISTS history (
    instance_id TEXT NOT NULL, seq INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (instance_id, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution_id TEXT, timer_id INTEGER,
    control INTEGER NOT NULL, due REAL NOT NULL, event TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS inbox_due ON inbox (due);
CREATE INDEX IF NOT EXISTS inbox_instance ON inbox (instance_id);
CREATE TABLE IF NOT EXISTS activities (
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution_id TEXT NOT NULL,
    task_id INTEGER NOT NULL, name TEXT NOT NULL, input TEXT NOT NULL,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE TABLE IF NOT EXISTS entities (
    id TEXT PRIMARY KEY, state TEXT, present INTEGER NOT NULL DEFAULT 0, etag TEXT NOT NULL,
    abandoned INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0, updated REAL NOT NULL DEFAULT 0,
    owner TEXT, claim INTEGER, lease_until REAL
);
CREATE INDEX IF NOT EXISTS entities_leased ON entities (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_waiting ON entities (not_before);
CREATE TABLE IF NOT EXISTS operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, entity_id TEXT NOT NULL, sent REAL NOT NULL, request TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS operations_entity ON operations (entity_id);
CREATE TABLE IF NOT EXISTS timers (
    id TEXT PRIMARY KEY, schedule TEXT NOT NULL, due REAL NOT NULL, last REAL,
    owner TEXT, claim INTEGER, lease_until REAL
);
"""

LEASED_TABLES = ("instances", "activities", "entities", "timers")
