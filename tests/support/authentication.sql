-- A database in the shape of the Matrix Authentication Service's (1.19): the names, the types of the keys, and one of
-- each kind of thing that a dump has to carry. The service itself makes some forty tables, in the same way.
CREATE EXTENSION pg_trgm;
CREATE SCHEMA apalis;
CREATE FUNCTION apalis.notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('apalis::job', ''); RETURN NEW; END $$;
CREATE TABLE _sqlx_migrations (
    version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);
CREATE TABLE users (
    user_id uuid PRIMARY KEY, username text NOT NULL UNIQUE, created_at timestamptz NOT NULL,
    locked_at timestamptz, deactivated_at timestamptz, can_request_admin boolean NOT NULL DEFAULT false);
CREATE INDEX users_search ON users USING gin (username gin_trgm_ops);
CREATE TABLE user_emails (
    user_email_id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE, email text NOT NULL,
    created_at timestamptz NOT NULL);
CREATE TABLE user_passwords (
    user_password_id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, hashed_password text NOT NULL,
    version integer NOT NULL);
CREATE TABLE user_sessions (
    user_session_id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, created_at timestamptz NOT NULL,
    finished_at timestamptz);
CREATE TABLE oauth2_clients (
    oauth2_client_id uuid PRIMARY KEY, client_name text, metadata_digest text UNIQUE, redirect_uris text[]);
CREATE TABLE oauth2_sessions (
    oauth2_session_id uuid PRIMARY KEY, user_session_id uuid REFERENCES user_sessions,
    oauth2_client_id uuid NOT NULL REFERENCES oauth2_clients, scope_list text[] NOT NULL);
CREATE TABLE compat_sessions (
    compat_session_id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, device_id text,
    created_at timestamptz NOT NULL);
CREATE TABLE compat_access_tokens (
    compat_access_token_id uuid PRIMARY KEY, compat_session_id uuid NOT NULL REFERENCES compat_sessions,
    access_token text NOT NULL UNIQUE);
CREATE TABLE queue_workers (queue_worker_id uuid PRIMARY KEY, last_seen_at timestamptz NOT NULL);
CREATE UNLOGGED TABLE queue_leader (
    active boolean NOT NULL DEFAULT true UNIQUE CHECK (active), queue_worker_id uuid NOT NULL REFERENCES queue_workers);
CREATE TYPE queue_job_status AS ENUM ('available', 'running', 'completed', 'lost');
CREATE TABLE queue_jobs (
    queue_job_id uuid PRIMARY KEY, status queue_job_status NOT NULL DEFAULT 'available', queue_name text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}');
CREATE TRIGGER notify AFTER INSERT ON queue_jobs FOR EACH ROW EXECUTE FUNCTION apalis.notify();

INSERT INTO _sqlx_migrations
    SELECT version, 'migration', now(), true, '\x00', 1 FROM unnest(ARRAY[20221018142001, 20250709142230, 20260121121140]) version;
INSERT INTO users SELECT md5('user' || i)::uuid, 'user' || i, now() FROM generate_series(1, 200) i;
INSERT INTO user_emails SELECT md5('email' || i)::uuid, md5('user' || i)::uuid, i || '@example.org', now() FROM generate_series(1, 150) i;
INSERT INTO user_passwords SELECT md5('password' || i)::uuid, md5('user' || i)::uuid, md5(i::text), 1 FROM generate_series(1, 200) i;
INSERT INTO user_sessions SELECT md5('session' || i)::uuid, md5('user' || i)::uuid, now(), NULL FROM generate_series(1, 200) i;
INSERT INTO oauth2_clients SELECT md5('client' || i)::uuid, 'client ' || i, md5(i::text), ARRAY['https://example.org/'] FROM generate_series(1, 5) i;
INSERT INTO oauth2_sessions
    SELECT md5('oauth' || i)::uuid, md5('session' || i)::uuid, md5('client' || (i % 5 + 1))::uuid, ARRAY['openid'] FROM generate_series(1, 200) i;
INSERT INTO compat_sessions SELECT md5('compat' || i)::uuid, md5('user' || i)::uuid, 'DEVICE' || i, now() FROM generate_series(1, 300) i WHERE i <= 200;
INSERT INTO compat_access_tokens SELECT md5('token' || i)::uuid, md5('compat' || i)::uuid, 'mct_' || md5(i::text) FROM generate_series(1, 200) i;
INSERT INTO queue_workers VALUES (md5('worker')::uuid, now());
INSERT INTO queue_leader VALUES (true, md5('worker')::uuid);
INSERT INTO queue_jobs SELECT md5('job' || i)::uuid, 'completed', 'sync-devices', '{}' FROM generate_series(1, 20) i;
