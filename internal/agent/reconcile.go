package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
)

// reconcile starts, updates and ends custodians and nodes as the desired state
// says. First every node's record is read, so that no port is given twice and no
// custody state is dropped that a node still needs; then come the custodians, whom a
// node asks before it starts.
func (a *Agent) reconcile(ctx context.Context) error {
	d, _ := a.wishes.get()
	ids, err := a.nodeIDs(d)
	if err != nil {
		return err
	}
	for id := range ids {
		a.know(id)
	}
	a.reconcileCustodians(ctx, d)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.nodes {
		if r.stop != nil {
			r.it.poke()
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		r.stop = stop
		a.background.Go(func() {
			defer close(r.done)
			r.it.run(ctx)
		})
	}
	return nil
}

// nodeIDs are the nodes that are wanted, that have to go, or that lie here.
func (a *Agent) nodeIDs(d agentlink.Desired) (map[keys.NodeID]bool, error) {
	ids := map[keys.NodeID]bool{}
	for _, n := range d.Nodes {
		ids[n.ID] = true
	}
	for _, t := range d.Tombstones {
		if t.DestroyKeys && a.vault.holds(t.Node) {
			ids[t.Node] = true
		}
	}
	onDisk, err := os.ReadDir(a.dir.nodes())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	for _, e := range onDisk {
		switch {
		case !e.IsDir():
		case keys.ValidID(e.Name()):
			ids[keys.NodeID(e.Name())] = true
		default:
			a.log.Warn("a directory among the nodes is none of them", "path", a.dir.path("nodes", e.Name()))
		}
	}
	return ids, nil
}

func (a *Agent) know(id keys.NodeID) {
	a.mu.Lock()
	_, known := a.nodes[id]
	a.mu.Unlock()
	if known {
		return
	}
	n := newNode(a, id)
	a.mu.Lock()
	a.nodes[id] = &running[*node]{it: n, done: make(chan struct{})}
	a.mu.Unlock()
}

// reconcileCustodians keeps one custodian for every project with a customer key. One
// whose project has none any more stays on watch as long as a node on this host is
// encrypted under it. Its state is forgotten only when the control plane says in so
// many words that the project has no key, and no such node is left: absence is no
// statement, and a forgotten INVALID would start what has to stay down.
func (a *Agent) reconcileCustodians(ctx context.Context, d agentlink.Desired) {
	listed := map[keys.ProjectID]agentlink.Project{}
	for _, p := range d.Projects {
		listed[p.ID] = p
		if p.CustomerKey != nil {
			a.watch(ctx, p)
		}
	}
	a.mu.Lock()
	var over []*running[*custodian]
	for id, r := range a.custodes {
		if listed[id].CustomerKey != nil {
			continue
		}
		if a.encrypted(id) {
			r.it.withdraw()
			continue
		}
		over = append(over, r)
		delete(a.custodes, id)
	}
	a.mu.Unlock()
	for _, r := range over {
		r.stop()
		<-r.done // it stores its state once more at the end
	}
	for id, p := range listed {
		a.mu.Lock()
		needed := p.CustomerKey != nil || a.encrypted(id)
		a.mu.Unlock()
		if _, err := os.Stat(a.dir.custody(id)); needed || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := durable.Remove(a.dir.custody(id)); err != nil {
			a.log.Warn("state of a project without customer key stays behind", "project", id, "error", err)
		}
	}
}

// encrypted tells whether a node here is, or may be, under the project's customer
// key. a.mu is held.
func (a *Agent) encrypted(p keys.ProjectID) bool {
	for _, r := range a.nodes {
		if r.it.keyed(p) {
			return true
		}
	}
	return false
}

// watch starts a project's custodian, or tells it the news.
func (a *Agent) watch(ctx context.Context, p agentlink.Project) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.custodes[p.ID]; ok {
		r.it.update(p)
		return
	}
	c := newCustodian(a, p)
	ctx, stop := context.WithCancel(ctx)
	r := &running[*custodian]{it: c, stop: stop, done: make(chan struct{})}
	a.custodes[p.ID] = r
	a.background.Go(func() {
		defer close(r.done)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { c.wraps.run(ctx) })
		c.run(ctx)
	})
}
