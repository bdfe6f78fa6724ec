-- +goose Up
-- Alerts. A finding is a condition that another room has found; it lasts until cleared.
CREATE TABLE findings (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    target     TEXT NOT NULL,
    doc        TEXT NOT NULL,
    PRIMARY KEY (project_id, kind, target)
);
CREATE TABLE alert_configs (
    id         TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    doc        TEXT NOT NULL
);
CREATE INDEX alert_configs_by_project ON alert_configs (project_id);
-- Which default configurations a project was given: they are made once, so that a deleted one stays deleted.
CREATE TABLE alert_defaults (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    PRIMARY KEY (project_id, kind)
);
CREATE TABLE alert_secrets (
    config_id   TEXT NOT NULL REFERENCES alert_configs (id) ON DELETE CASCADE,
    notifier_id TEXT NOT NULL,
    url         TEXT NOT NULL,
    secret      TEXT NOT NULL,
    PRIMARY KEY (config_id, notifier_id)
);
CREATE TABLE alerts (
    id         TEXT   NOT NULL PRIMARY KEY,
    project_id TEXT   NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    config_id  TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    doc        TEXT   NOT NULL
);
CREATE INDEX alerts_by_project ON alerts (project_id, status);
CREATE INDEX alerts_by_config ON alerts (config_id);
CREATE TABLE alert_deliveries (
    id         TEXT   NOT NULL PRIMARY KEY,
    project_id TEXT   NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    pending    BIGINT NOT NULL,
    due        BIGINT NOT NULL,
    doc        TEXT   NOT NULL
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (pending, due);
CREATE INDEX alert_deliveries_by_project ON alert_deliveries (project_id);
CREATE TABLE audit_heads (
    host_id TEXT   NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    seq     BIGINT NOT NULL,
    doc     TEXT   NOT NULL,
    PRIMARY KEY (host_id, seq)
);

-- +goose Down
SELECT 1;
