package agent

import (
	"context"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
)

// recorder writes the host's audit chain. What releases a key calls it before
// the effect and gives up when it fails; what denies or stops never waits for it.
type recorder struct {
	log  *audit.FileLog
	host keys.HostID
}

func (r *recorder) record(ctx context.Context, e audit.Event) error {
	now := time.Now()
	e.ID, e.Time, e.Host = keys.NewID(now), now, string(r.host)
	if e.Actor == "" {
		e.Actor = "host:" + string(r.host)
	}
	_, err := r.log.Append(ctx, e)
	return err
}

func (r *recorder) head() audit.Head { return r.log.Head() }
