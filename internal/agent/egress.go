package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
)

// findEgress is how often the host's own addresses are looked at.
const findEgress = 5 * time.Second

// egress knows from where this host calls AWS. It is safe for concurrent use.
type egress struct {
	find   func(context.Context) []string
	change func()

	mu  sync.Mutex
	now []string
}

// sourced is a provider that knows the local addresses of its connections.
type sourced interface {
	SourceAddresses(ctx context.Context) []netip.Addr
}

// newEgress makes it from what is configured; change is called after each change.
func newEgress(cfg Config, change func()) *egress {
	e := &egress{change: change}
	e.now, _ = agentlink.NormalAddresses(cfg.EgressAddresses)
	if p, ok := cfg.Provider.(sourced); ok && len(e.now) == 0 {
		e.find = func(ctx context.Context) []string { return agentlink.AddressTexts(p.SourceAddresses(ctx)) }
	}
	return e
}

func (e *egress) list() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.now)
}

// run looks at the addresses until ctx ends. Addresses that are not to be had any more
// are still the last ones.
func (e *egress) run(ctx context.Context) error {
	if e.find == nil {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(findEgress)
	defer t.Stop()
	for {
		found := e.find(ctx)
		e.mu.Lock()
		news := len(found) > 0 && !slices.Equal(found, e.now)
		if news {
			e.now = found
		}
		e.mu.Unlock()
		if news {
			e.change()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
