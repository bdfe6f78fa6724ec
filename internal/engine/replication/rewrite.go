package replication

import (
	"context"
	"errors"
)

var errTodo = errors.New("todo")

// Rewrite copies a stopped node's data into a fresh directory with other Files.
func Rewrite(ctx context.Context, from, to Config) error { return errTodo }
