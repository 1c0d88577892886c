-- What a backup has to bring back: something of nearly everything that PostgreSQL 16 keeps. For psql,
-- as the superuser, on a server that has none of it; data.py runs it and compares two servers.
\set ON_ERROR_STOP on
\pset pager off
\o /dev/null
SET client_min_messages = warning;

-- Roles: attributes, settings, comments, memberships with their options, a chain of grants.
CREATE ROLE reader NOLOGIN;
CREATE ROLE writer NOLOGIN INHERIT;
CREATE ROLE "App User" LOGIN PASSWORD 'apple' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';
CREATE ROLE chief LOGIN CREATEROLE CREATEDB PASSWORD 'cherry';
CREATE ROLE auditor BYPASSRLS REPLICATION;
COMMENT ON ROLE reader IS 'reads ''everything''';
ALTER ROLE writer SET work_mem = '8MB';
ALTER ROLE "App User" SET statement_timeout = '5s';
ALTER ROLE "App User" SET search_path = shop, "$user", public;
GRANT reader TO writer WITH INHERIT TRUE, SET FALSE;
GRANT writer TO chief WITH ADMIN OPTION;
GRANT pg_read_all_data TO auditor;
SET ROLE chief;
GRANT writer TO "App User" WITH INHERIT FALSE;
RESET ROLE;
GRANT SET ON PARAMETER log_min_duration_statement TO chief;
ALTER SYSTEM SET log_min_duration_statement = '30s';
ALTER SYSTEM SET application_name = 'it''s a "test"';

CREATE DATABASE shop OWNER chief TEMPLATE template0;
ALTER DATABASE shop SET default_transaction_read_only = off;
ALTER DATABASE shop SET timezone = 'Europe/Rome';
ALTER ROLE "App User" IN DATABASE shop SET work_mem = '6MB';
ALTER DATABASE shop CONNECTION LIMIT 50;
REVOKE CONNECT ON DATABASE shop FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE shop TO reader, "App User";
COMMENT ON DATABASE shop IS 'a shop';

-- A database with a name, a locale and session settings that get in the way.
CREATE DATABASE "we""ird - näme 'x' = \" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE';
CREATE DATABASE old_bytes TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';

\connect shop
SET client_min_messages = warning;
CREATE EXTENSION hstore;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION citext SCHEMA public;
CREATE SCHEMA ext;
CREATE EXTENSION "uuid-ossp" SCHEMA ext;
CREATE EXTENSION pgcrypto SCHEMA ext;
CREATE EXTENSION btree_gist;
CREATE EXTENSION postgres_fdw;

CREATE SCHEMA shop AUTHORIZATION chief;
CREATE SCHEMA nothing;
CREATE SCHEMA "Odd Schema";
GRANT USAGE ON SCHEMA shop TO reader, "App User";
ALTER DEFAULT PRIVILEGES FOR ROLE chief IN SCHEMA shop GRANT SELECT ON TABLES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE chief GRANT EXECUTE ON FUNCTIONS TO writer;

-- Types
CREATE TYPE shop.mood AS ENUM ('sad', 'it''s ok', 'happy');
ALTER TYPE shop.mood ADD VALUE 'bored' BEFORE 'happy';
CREATE TYPE shop.address AS (street text, city text, zip varchar(10));
CREATE DOMAIN shop.email AS citext CHECK (VALUE ~ '^[^@]+@[^@]+$') NOT NULL;
CREATE TYPE shop.span AS RANGE (subtype = float8);
CREATE COLLATION shop.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- Tables: identity, generated columns, defaults, arrays, constraints, comments, a name with quotes.
CREATE TABLE shop.customer (
  id bigint GENERATED ALWAYS AS IDENTITY (START WITH 100 INCREMENT BY 5) PRIMARY KEY,
  mail shop.email UNIQUE,
  name text COLLATE shop.nocase,
  home shop.address,
  mood shop.mood DEFAULT 'happy',
  tags text[] DEFAULT '{}',
  extra hstore,
  doc jsonb,
  token uuid DEFAULT ext.uuid_generate_v4(),
  born date,
  paid numeric(12, 2) CHECK (paid >= 0),
  loud text GENERATED ALWAYS AS (upper(mail::text)) STORED,
  picture bytea
);
COMMENT ON COLUMN shop.customer.doc IS E'what\nelse';
INSERT INTO shop.customer (mail, name, home, mood, tags, extra, doc, born, paid, picture)
SELECT 'user' || i || '@example.com', 'Näme ' || i, ROW('Street ' || i, E'Ci\tty', '123')::shop.address, (enum_range(NULL::shop.mood))[1 + i % 4],
       ARRAY['a' || i, NULL, 'with "quote" \ backslash'], hstore('k', i::text), jsonb_build_object('i', i, 'x', repeat('y', i % 2000)),
       DATE '1970-01-01' + i, i * 1.25, decode(md5(i::text), 'hex')
  FROM generate_series(1, 5000) i;
CREATE INDEX customer_name_trgm ON shop.customer USING gin (loud gin_trgm_ops);
CREATE INDEX customer_part ON shop.customer (born DESC NULLS LAST) INCLUDE (paid) WHERE paid > 100;
CREATE STATISTICS shop.customer_stats (dependencies) ON born, paid FROM shop.customer;
ALTER TABLE shop.customer ALTER COLUMN doc SET STORAGE EXTERNAL, ALTER COLUMN name SET STATISTICS 500;

CREATE TABLE shop."Order ""x""; drop" (id serial PRIMARY KEY, "the customer" bigint REFERENCES shop.customer ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, at timestamptz DEFAULT now(), during tstzrange, EXCLUDE USING gist ("the customer" WITH =, during WITH &&));
INSERT INTO shop."Order ""x""; drop" ("the customer", at) SELECT 100 + 5 * i, TIMESTAMPTZ '2026-01-01' + i * interval '1 hour' FROM generate_series(0, 999) i;
CREATE TABLE shop.no_columns ();
INSERT INTO shop.no_columns DEFAULT VALUES;
INSERT INTO shop.no_columns DEFAULT VALUES;
CREATE UNLOGGED TABLE shop.cache (k text PRIMARY KEY, v text) WITH (fillfactor = 70);
INSERT INTO shop.cache SELECT i, repeat('v', 100) FROM generate_series(1, 300) i;
CREATE TABLE "Odd Schema"."SELECT" ("from" int, "Größe" float8, e real, n numeric);
INSERT INTO "Odd Schema"."SELECT" VALUES (1, 0.1, 1e-30, 'NaN'), (2, 'Infinity', '-0', 1e100), (NULL, NULL, NULL, NULL);

-- Partitions, two levels; inheritance.
CREATE TABLE shop.event (at date NOT NULL, kind text, n int, PRIMARY KEY (at, kind, n)) PARTITION BY RANGE (at);
CREATE TABLE shop.event_2025 PARTITION OF shop.event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE shop.event_2026 PARTITION OF shop.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (kind);
CREATE TABLE shop.event_2026_a PARTITION OF shop.event_2026 FOR VALUES IN ('a');
CREATE TABLE shop.event_rest PARTITION OF shop.event DEFAULT;
CREATE INDEX event_n ON shop.event (n);
INSERT INTO shop.event SELECT DATE '2025-01-01' + i % 365, 'k' || i % 3, i FROM generate_series(1, 2000) i;
INSERT INTO shop.event SELECT '2026-05-05', 'a', i FROM generate_series(1, 50) i;
INSERT INTO shop.event VALUES ('1999-01-01', 'z', 1);
CREATE TABLE shop.animal (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop.dog (barks boolean NOT NULL) INHERITS (shop.animal);
INSERT INTO shop.animal VALUES (1, 'cat');
INSERT INTO shop.dog VALUES (2, 'rex', true);

-- Sequences: used, never used, downwards, at their end.
CREATE SEQUENCE shop.used;
SELECT nextval('shop.used') FROM generate_series(1, 41);
CREATE SEQUENCE shop.fresh START WITH 1000;
CREATE SEQUENCE shop.down INCREMENT BY -3 MAXVALUE 10 MINVALUE -100 CYCLE;
SELECT nextval('shop.down'), nextval('shop.down'), nextval('shop.down'), nextval('shop.down'), nextval('shop.down');
CREATE SEQUENCE "Odd Schema"."it's 1" AS smallint;
SELECT setval('"Odd Schema"."it''s 1"', 32767);

-- Functions, a procedure, an aggregate, an operator, a cast; triggers; rules; views.
CREATE FUNCTION shop.twice(n int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN n * 2;
CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = shop AS $fn$
-- Name: not a header; Type: TABLE; Schema: shop; Owner: nobody
--
BEGIN
SET default_tablespace = '';
  NEW.tags := NEW.tags || 'touched'::text;
  RETURN NEW;
END $fn$;
CREATE PROCEDURE shop.nop(INOUT x int) LANGUAGE plpgsql AS 'BEGIN x := x + 1; END';
CREATE AGGREGATE shop.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR shop.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, COMMUTATOR = OPERATOR(shop.===));
CREATE FUNCTION shop.to_int(shop.address) RETURNS int LANGUAGE sql IMMUTABLE RETURN length(($1).city);
CREATE CAST (shop.address AS int) WITH FUNCTION shop.to_int(shop.address);
CREATE TRIGGER stamp BEFORE UPDATE ON shop.customer FOR EACH ROW WHEN (OLD.paid IS DISTINCT FROM NEW.paid) EXECUTE FUNCTION shop.stamp();
UPDATE shop.customer SET paid = paid + 1 WHERE id % 10 = 0;
ALTER TABLE shop.customer DISABLE TRIGGER stamp;
CREATE VIEW shop.rich WITH (security_barrier) AS SELECT id, name, shop.twice(id::int) AS twice FROM shop.customer WHERE paid > 1000 WITH LOCAL CHECK OPTION;
CREATE RECURSIVE VIEW shop.numbers (n) AS SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10;
CREATE MATERIALIZED VIEW shop.by_mood AS SELECT mood, count(*), sum(paid) FROM shop.customer GROUP BY mood;
CREATE UNIQUE INDEX ON shop.by_mood (mood);
CREATE MATERIALIZED VIEW shop.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE RULE no_rex AS ON DELETE TO shop.dog WHERE old.name = 'rex' DO INSTEAD NOTHING;

-- Rights and row policies
GRANT SELECT, INSERT (mail, name), UPDATE (name) ON shop.customer TO "App User" WITH GRANT OPTION;
ALTER TABLE shop.customer OWNER TO chief;
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
ALTER TABLE shop.customer FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.customer FOR SELECT TO "App User", reader USING (mail::text = current_user);
CREATE POLICY limited ON shop.customer AS RESTRICTIVE FOR UPDATE USING (paid < 10) WITH CHECK (paid < 20);
REVOKE EXECUTE ON FUNCTION shop.twice(int) FROM PUBLIC;

-- Foreign data, text search, publications, event triggers, large objects, an index left invalid.
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere.example', dbname 'x');
CREATE USER MAPPING FOR chief SERVER elsewhere OPTIONS (user 'u', password 'p');
CREATE FOREIGN TABLE shop.far (a int) SERVER elsewhere;
CREATE TEXT SEARCH CONFIGURATION shop.words (COPY = pg_catalog.english);
SET client_min_messages = error; -- no word of wal_level
CREATE PUBLICATION news FOR TABLE shop.customer (id, mail) WHERE (paid > 5);
CREATE PUBLICATION odd FOR TABLES IN SCHEMA "Odd Schema" WITH (publish = 'insert');
ALTER TABLE shop.cache REPLICA IDENTITY FULL;
SELECT lo_from_bytea(900000 + i, decode(repeat(md5(i::text), 200 * i), 'hex')) FROM generate_series(1, 30) i;
ALTER LARGE OBJECT 900001 OWNER TO chief;
GRANT SELECT ON LARGE OBJECT 900002 TO reader;
COMMENT ON LARGE OBJECT 900003 IS 'a picture';
CREATE TABLE shop.twins (n int);
INSERT INTO shop.twins VALUES (1), (1);
\set ON_ERROR_STOP off
\set VERBOSITY terse
CREATE UNIQUE INDEX CONCURRENTLY twins_invalid ON shop.twins (n);
\set ON_ERROR_STOP on
DELETE FROM shop.twins WHERE ctid = '(0,1)';
CREATE FUNCTION shop.noticed() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER noticed ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION shop.noticed();

\set weird 'dbname=\'we"ird - näme \\\'x\\\' = \\\\\''
\connect -reuse-previous=on :"weird"
SET client_min_messages = warning;
CREATE TABLE public.städte (name text PRIMARY KEY);
INSERT INTO städte VALUES ('Zürich'), ('Ärger'), ('zebra'), ('Österreich'), (E'tab\tnewline\nend');
CREATE TABLE "line
break" (a int);
INSERT INTO "line
break" VALUES (1);
DROP EXTENSION plpgsql;
ALTER DATABASE "we""ird - näme 'x' = \" SET default_transaction_read_only = on;
ALTER DATABASE "we""ird - näme 'x' = \" SET search_path = 'nowhere';
ALTER DATABASE "we""ird - näme 'x' = \" SET statement_timeout = '1ms';

\connect old_bytes
SET client_encoding = 'UTF8';
DROP SCHEMA public;
CREATE SCHEMA s;
CREATE TABLE s.café (n text);
INSERT INTO s.café VALUES ('déjà vu');

\connect template1
CREATE TABLE in_every_new_database (a int);
\connect postgres
COMMENT ON DATABASE postgres IS 'mine';
CREATE TABLE kept_in_postgres AS SELECT 1 AS a;
