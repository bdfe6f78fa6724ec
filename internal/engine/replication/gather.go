package replication

import (
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

const (
	// gatherTime bounds how long a proposal waits for the group before it. Where
	// that takes longer, as with distant members, groups overlap.
	gatherTime = 2 * time.Millisecond
	// gatherBytes is the size of an entry from which on it waits for nobody.
	gatherBytes = 256 << 10
	// gatherIdle is for how many turns of the scheduler nobody must have joined a
	// group before it is sent, gatherTurns how many there are at most.
	gatherIdle  = 8
	gatherTurns = 128
)

// gatherer makes groups of the writers' entries, so that one sync of the log serves
// many. Left alone, raft takes the first entry that comes after a sync and syncs it
// by itself while all others queue: every second sync would serve one writer.
type gatherer struct {
	mu     sync.Mutex
	growth *group // the one that still grows

	sendMu sync.Mutex // keeps cluster times in the order of the log
	last   bson.Timestamp
}

// group is entries that go to raft together.
type group struct {
	entries [][]byte
	futures []raft.ApplyFuture
	sent    chan struct{} // closed when futures are there
}

// proposal is an entry under way.
type proposal struct {
	group  *group
	number int
	size   int64
}

// future waits until the entry was handed to raft.
func (p proposal) future() raft.ApplyFuture {
	<-p.group.sent
	return p.group.futures[p.number]
}

// propose puts an encoded entry into a group; the first one sends the group to raft.
// The caller has taken the entry's size from the budget.
func (r *Replica) propose(encoded []byte) proposal {
	g, number := r.gather.join(encoded)
	if number == 0 {
		if len(encoded) < gatherBytes {
			r.awaitSent()
			r.gather.settle(g)
		}
		r.send(g)
	}
	return proposal{group: g, number: number, size: int64(len(encoded))}
}

func (t *gatherer) join(encoded []byte) (g *group, number int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.growth == nil {
		t.growth = &group{sent: make(chan struct{})}
	}
	g = t.growth
	g.entries = append(g.entries, encoded)
	return g, len(g.entries) - 1
}

// settle lets the writers that can run, most of them answered just now, join the group.
func (t *gatherer) settle(g *group) {
	size, idle := 1, 0
	for turn := 0; turn < gatherTurns && idle < gatherIdle; turn++ {
		runtime.Gosched()
		t.mu.Lock()
		now := len(g.entries)
		t.mu.Unlock()
		if now == size {
			idle++
		} else {
			size, idle = now, 0
		}
	}
}

// awaitSent waits until what was sent before is applied, for a while.
func (r *Replica) awaitSent() {
	r.gather.sendMu.Lock()
	last := r.gather.last
	r.gather.sendMu.Unlock()
	ch := r.whenApplied(last)
	if ch == nil {
		return
	}
	limit := time.NewTimer(gatherTime)
	defer limit.Stop()
	for ch != nil {
		select {
		case <-ch:
			ch = r.whenApplied(last)
		case <-limit.C:
			return
		}
	}
}

// whenApplied gives what is closed when something more is applied, nil if at is.
func (r *Replica) whenApplied(at bson.Timestamp) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applied.Timestamp.Compare(at) >= 0 {
		return nil
	}
	if r.progress == nil {
		r.progress = make(chan struct{})
	}
	return r.progress
}

// send gives the group's entries their cluster times and hands them to raft.
func (r *Replica) send(g *group) {
	t := &r.gather
	t.sendMu.Lock()
	defer t.sendMu.Unlock()
	t.mu.Lock()
	t.growth = nil
	t.mu.Unlock()
	g.futures = make([]raft.ApplyFuture, len(g.entries))
	for i, e := range g.entries {
		t.last = r.tick()
		entry.SetTime(e, t.last)
		g.futures[i] = r.raft.Apply(e, 0)
	}
	g.entries = nil
	close(g.sent)
}
