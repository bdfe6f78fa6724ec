-- +goose Up
-- An enrolment token belongs to the organization whose owner made it; "" is the platform.
ALTER TABLE enrolment_tokens ADD COLUMN org_id TEXT NOT NULL DEFAULT '';

-- +goose Down
SELECT 1;
