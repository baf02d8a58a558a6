"""What Playhead makes in a playback database, and what it asks the catalog there. SQL alone."""

# Raised by `playhead.advance`.
FENCED = "PH001"

# Gateways may come to it at the same time: CREATE ... IF NOT EXISTS alone would fail one of them.
CREATE = f"""
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('playhead.progress', 0));
CREATE SCHEMA IF NOT EXISTS playhead;
CREATE TABLE IF NOT EXISTS playhead.progress (
  tenant uuid PRIMARY KEY,
  token bigint NOT NULL,
  session text NOT NULL DEFAULT '',
  run bigint NOT NULL DEFAULT 0,
  ms bigint NOT NULL DEFAULT -1,
  sequence bigint NOT NULL DEFAULT 0,
  tables text[] NOT NULL DEFAULT '{{}}',
  excluded text[] NOT NULL DEFAULT '{{}}',
  sources text[],
  changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
CREATE OR REPLACE FUNCTION playhead.advance(
  for_tenant uuid, with_token bigint, to_ms bigint, to_sequence bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE playhead.progress SET ms = to_ms, sequence = to_sequence
   WHERE tenant = for_tenant AND token = with_token;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'token % does not hold the tables of tenant % any more', with_token, for_tenant
      USING ERRCODE = '{FENCED}';
  END IF;
END $$;
CREATE OR REPLACE FUNCTION playhead.require_alone(for_tenant uuid, of_table text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM playhead.progress WHERE tenant <> for_tenant AND of_table = ANY (tables)) THEN
    RAISE EXCEPTION 'a change empties table %, which holds rows of another tenant', of_table;
  END IF;
END $$;
COMMIT
"""

# Every table but PostgreSQL's and Playhead's own, and by which columns its rows are found: those of
# unique indexes on columns that are never null, with the operators of the indexes (a type's own `=`
# need not be on the search path).
TABLES = """
SELECT c.oid, n.nspname AS schema, c.relname AS relation, format('%I.%I', n.nspname, c.relname) AS sql_name,
       has_table_privilege(c.oid, 'TRUNCATE') AND NOT EXISTS (
         SELECT FROM pg_constraint k WHERE k.confrelid = c.oid AND k.conrelid <> c.oid AND k.contype = 'f') AS truncatable,
       coalesce(i.identities, '[]'::json)::text AS identities
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
    SELECT json_agg(json_build_object('columns', u.columns, 'operators', u.operators)
                    ORDER BY u.first DESC, u.name) AS identities
      FROM (
        SELECT x.indisprimary AS first, x.indexrelid AS name,
               json_agg(a.attname ORDER BY k.place) AS columns,
               json_agg(format('OPERATOR(%I.%s)', s.nspname, o.oprname) ORDER BY k.place) AS operators,
               bool_and(a.attnotnull AND o.oid IS NOT NULL) AS certain
          FROM pg_index x
          CROSS JOIN LATERAL unnest((x.indkey::int2[])[0:x.indnkeyatts - 1], x.indclass::oid[])
            WITH ORDINALITY AS k(attnum, class, place)
          JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
          JOIN pg_opclass p ON p.oid = k.class
          LEFT JOIN pg_amop m ON m.amopfamily = p.opcfamily AND m.amopstrategy = 3
           AND m.amoplefttype = p.opcintype AND m.amoprighttype = p.opcintype
          LEFT JOIN pg_operator o ON o.oid = m.amopopr
          LEFT JOIN pg_namespace s ON s.oid = o.oprnamespace
         WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid
           AND x.indpred IS NULL AND x.indexprs IS NULL
         GROUP BY x.indexrelid, x.indisprimary
      ) u
     WHERE u.certain
  ) i ON true
 WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'playhead' AND n.nspname <> 'information_schema'
   AND n.nspname !~ '^pg_'
"""

COLUMNS = """
SELECT a.attrelid AS table, a.attname AS name, a.atttypid AS type, a.attgenerated <> '' AS generated,
       a.attnotnull AS required, format_type(a.atttypid, a.atttypmod) AS type_name
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
   AND n.nspname <> 'playhead' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 ORDER BY a.attrelid, a.attnum
"""

ABOUT = """
SELECT current_user AS role, current_database() AS database, quote_ident(current_user) AS sql_role,
       quote_ident(current_database()) AS sql_database, pg_is_in_recovery() AS standby,
       to_regprocedure('playhead.advance(uuid,bigint,bigint,bigint)') IS NOT NULL
         AND to_regprocedure('playhead.require_alone(uuid,text)') IS NOT NULL AS prepared,
       ARRAY(SELECT slot_name::text FROM pg_replication_slots
              WHERE database = current_database() AND plugin = 'pgoutput') AS slots,
       (SELECT s.system_identifier || '/' || d.oid FROM pg_control_system() s, pg_database d
         WHERE d.datname = current_database()) AS place
"""

# Of this role, so that they may be ended.
OLDER = """
SELECT pid, application_name AS name FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND usename = current_user AND starts_with(application_name, $1)
"""

HOLD = """
INSERT INTO playhead.progress AS p (tenant, token) VALUES ($1, $2)
ON CONFLICT (tenant) DO UPDATE SET token = excluded.token WHERE p.token <= excluded.token
RETURNING session, run, ms, sequence, tables, excluded, sources
"""

LEFTOVERS = """
SELECT tenant::text, session FROM playhead.progress WHERE session <> '' ORDER BY tenant
"""

CLAIM = """
PREPARE ph_advance(bigint, bigint) AS SELECT playhead.advance('{tenant}', {token}, $1, $2);
PREPARE ph_claim(text) AS UPDATE playhead.progress SET tables = array_append(tables, $1)
 WHERE tenant = '{tenant}' AND token = {token}
"""

SHARED = """
SELECT DISTINCT name FROM playhead.progress, unnest(tables) name
 WHERE tenant <> $1 AND name = ANY ($2::text[])
"""

KEEP = """
UPDATE playhead.progress SET session = $2, run = $3, tables = $4, excluded = $5, sources = $6,
       changed_at = now()
 WHERE tenant = $1
"""
