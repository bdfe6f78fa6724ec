-- +goose Up
-- The customer keys that projects have or had. It outlives the projects.
CREATE TABLE key_history (
    key_arn    TEXT   NOT NULL,
    project_id TEXT   NOT NULL,
    org_id     TEXT   NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL,
    PRIMARY KEY (key_arn, project_id)
);

-- +goose Down
SELECT 1;
