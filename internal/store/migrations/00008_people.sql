-- +goose Up
-- People who sign in to the console. The hash of the password is sealed.
CREATE TABLE people (
    id       TEXT NOT NULL PRIMARY KEY,
    org_id   TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    doc      TEXT NOT NULL
);
CREATE TABLE person_projects (
    person_id  TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    roles      TEXT NOT NULL,
    PRIMARY KEY (person_id, project_id)
);
-- Sessions by the SHA-256 of their token.
CREATE TABLE sessions (
    hash      TEXT   NOT NULL PRIMARY KEY,
    person_id TEXT   NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    seen      BIGINT NOT NULL,
    doc       TEXT   NOT NULL
);
CREATE INDEX sessions_person ON sessions (person_id);

-- +goose Down
SELECT 1;
