-- +goose Up
-- A change of a project's customer key that is, or was, prepared on the hosts. The two
-- roles keep registrations from being removed while their configurations are needed.
CREATE TABLE key_changes (
    project_id    TEXT   NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    generation    BIGINT NOT NULL,
    open          BIGINT NOT NULL,
    role_id       TEXT   NULL REFERENCES access_roles (id),
    previous_role TEXT   NULL REFERENCES access_roles (id),
    doc           TEXT   NOT NULL,
    PRIMARY KEY (project_id, generation)
);
CREATE INDEX key_changes_by_open ON key_changes (open);
CREATE TABLE key_progress (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    host_id    TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    doc        TEXT NOT NULL,
    PRIMARY KEY (project_id, host_id)
);

-- +goose Down
SELECT 1;
