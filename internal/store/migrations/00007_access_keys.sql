-- +goose Up
-- The secret of the access key with which a migrated project is reached, sealed, until the
-- project is switched to a role.
CREATE TABLE access_key_secrets (
    project_id TEXT NOT NULL PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    secret     TEXT NOT NULL
);

-- +goose Down
SELECT 1;
