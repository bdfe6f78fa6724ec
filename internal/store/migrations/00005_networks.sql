-- +goose Up
-- From where the control plane ('' as holder) and hosts call AWS, by the time when that began.
CREATE TABLE egress (
    holder TEXT   NOT NULL,
    since  BIGINT NOT NULL,
    doc    TEXT   NOT NULL,
    PRIMARY KEY (holder, since)
);
-- What was told of a project's addresses, and what waits for its customer.
CREATE TABLE project_networks (
    project_id TEXT NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    doc        TEXT NOT NULL
);

-- +goose Down
SELECT 1;
