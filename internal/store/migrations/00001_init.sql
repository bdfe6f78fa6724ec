-- +goose Up
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE organizations (
    id   TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    doc  TEXT NOT NULL
);
CREATE TABLE projects (
    id     TEXT NOT NULL PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organizations (id),
    name   TEXT NOT NULL,
    doc    TEXT NOT NULL,
    UNIQUE (org_id, name)
);
CREATE INDEX projects_by_name ON projects (name);
CREATE TABLE api_keys (
    id         TEXT NOT NULL PRIMARY KEY,
    org_id     TEXT NOT NULL REFERENCES organizations (id),
    public_key TEXT NOT NULL UNIQUE,
    ha1        TEXT NOT NULL,
    doc        TEXT NOT NULL
);
CREATE TABLE api_key_projects (
    key_id     TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    roles      TEXT NOT NULL,
    PRIMARY KEY (key_id, project_id)
);
CREATE INDEX api_key_projects_by_project ON api_key_projects (project_id);
CREATE TABLE database_users (
    project_id    TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    database_name TEXT NOT NULL,
    username      TEXT NOT NULL,
    password      TEXT NOT NULL,
    doc           TEXT NOT NULL,
    PRIMARY KEY (project_id, database_name, username)
);
CREATE TABLE access_entries (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    entry      TEXT NOT NULL,
    doc        TEXT NOT NULL,
    PRIMARY KEY (project_id, entry)
);
CREATE TABLE access_roles (
    id         TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    doc        TEXT NOT NULL
);
CREATE INDEX access_roles_by_project ON access_roles (project_id);
CREATE TABLE key_configs (
    project_id TEXT   NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    role_id    TEXT   NULL REFERENCES access_roles (id),
    enabled    BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    doc        TEXT   NOT NULL
);
CREATE TABLE verdicts (
    project_id TEXT NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    doc        TEXT NOT NULL
);
CREATE TABLE custody (
    project_id TEXT   NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    validator  TEXT   NOT NULL,
    reported   BIGINT NOT NULL,
    doc        TEXT   NOT NULL,
    PRIMARY KEY (project_id, validator)
);
CREATE TABLE hosts (
    id       TEXT   NOT NULL PRIMARY KEY,
    hostname TEXT   NOT NULL UNIQUE,
    revision BIGINT NOT NULL,
    digest   TEXT   NOT NULL,
    doc      TEXT   NOT NULL
);
CREATE TABLE enrolment_tokens (
    hash     TEXT   NOT NULL PRIMARY KEY,
    hostname TEXT   NOT NULL,
    expires  BIGINT NOT NULL,
    used     BIGINT NOT NULL
);
CREATE TABLE authorities (
    kind        TEXT NOT NULL PRIMARY KEY,
    certificate TEXT NOT NULL,
    private_key TEXT NOT NULL
);
CREATE TABLE clusters (
    id          TEXT NOT NULL PRIMARY KEY,
    project_id  TEXT NOT NULL REFERENCES projects (id),
    name        TEXT NOT NULL,
    name_prefix TEXT NOT NULL,
    doc         TEXT NOT NULL,
    UNIQUE (project_id, name),
    UNIQUE (project_id, name_prefix)
);
CREATE TABLE nodes (
    id         TEXT   NOT NULL PRIMARY KEY,
    cluster_id TEXT   NOT NULL REFERENCES clusters (id),
    project_id TEXT   NOT NULL REFERENCES projects (id),
    host_id    TEXT   NOT NULL REFERENCES hosts (id),
    buried     BIGINT NOT NULL,
    doc        TEXT   NOT NULL
);
CREATE INDEX nodes_by_cluster ON nodes (cluster_id);
CREATE INDEX nodes_by_host ON nodes (host_id);
CREATE TABLE node_status (
    node_id TEXT NOT NULL PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    doc     TEXT NOT NULL
);
CREATE TABLE escrow (
    key_id     TEXT   NOT NULL,
    generation BIGINT NOT NULL,
    node_id    TEXT   NOT NULL,
    host_id    TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    doc        TEXT   NOT NULL,
    PRIMARY KEY (key_id, generation)
);
CREATE INDEX escrow_by_host ON escrow (host_id);
CREATE INDEX escrow_by_node ON escrow (node_id);
CREATE TABLE events (
    seq        BIGINT NOT NULL PRIMARY KEY,
    id         TEXT   NOT NULL UNIQUE,
    at         BIGINT NOT NULL,
    type       TEXT   NOT NULL,
    org_id     TEXT   NOT NULL,
    project_id TEXT   NOT NULL,
    cluster_id TEXT   NOT NULL,
    doc        TEXT   NOT NULL
);
CREATE INDEX events_by_project ON events (project_id, seq);
CREATE INDEX events_by_org ON events (org_id, seq);

-- +goose Down
SELECT 1;
