package replication

import (
	"bytes"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger sends raft's messages to slog: its errors as warnings, for each has a
// cause that is reported where it matters, the rest for debugging.
func raftLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true, Output: lineLogger{log}})
}

type lineLogger struct{ log *slog.Logger }

func (l lineLogger) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	if bytes.HasPrefix(b, []byte("[ERROR]")) {
		l.log.Warn("raft", "message", line)
	} else {
		l.log.Debug("raft", "message", line)
	}
	return len(b), nil
}
