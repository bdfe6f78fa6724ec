package kmip

import (
	"container/list"
	"net"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// rates is a token bucket per node.
type rates struct {
	perSecond float64
	burst     float64
	mu        sync.Mutex
	buckets   map[keys.NodeID]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// maxBuckets is when full buckets, which say nothing, are thrown away.
const maxBuckets = 4096

func newRates(perSecond float64, burst int) *rates {
	return &rates{perSecond: perSecond, burst: float64(burst), buckets: map[keys.NodeID]*bucket{}}
}

// take takes one token of a node, if there is one.
func (r *rates) take(node keys.NodeID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[node]
	if b == nil {
		r.prune(now)
		b = &bucket{tokens: r.burst, at: now}
		r.buckets[node] = b
	}
	r.fill(b, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (r *rates) fill(b *bucket, now time.Time) {
	if d := now.Sub(b.at); d > 0 { // a clock that went back gives nothing
		b.tokens = min(r.burst, b.tokens+d.Seconds()*r.perSecond)
	}
	b.at = now
}

func (r *rates) prune(now time.Time) {
	if len(r.buckets) < maxBuckets {
		return
	}
	for node, b := range r.buckets {
		if r.fill(b, now); b.tokens >= r.burst {
			delete(r.buckets, node)
		}
	}
}

// nodeLocks lets one node make one key at a time, so that the limit on keys is
// exact.
type nodeLocks struct {
	mu    sync.Mutex
	locks map[keys.NodeID]*nodeLock
}

type nodeLock struct {
	busy chan struct{} // holds one token while locked
	refs int
}

// lock waits for the node's turn until done is closed; the function it gives
// unlocks. It tells whether the turn came.
func (n *nodeLocks) lock(node keys.NodeID, done <-chan struct{}) (unlock func(), ok bool) {
	n.mu.Lock()
	if n.locks == nil {
		n.locks = map[keys.NodeID]*nodeLock{}
	}
	l := n.locks[node]
	if l == nil {
		l = &nodeLock{busy: make(chan struct{}, 1)}
		n.locks[node] = l
	}
	l.refs++
	n.mu.Unlock()
	forget := func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(n.locks, node)
		}
	}
	select {
	case l.busy <- struct{}{}:
		return func() { <-l.busy; forget() }, true
	case <-done:
		forget()
		return nil, false
	}
}

// conns knows every open connection and bounds their numbers.
type conns struct {
	limits   Limits
	mu       sync.Mutex
	draining bool
	strange  *list.List // of net.Conn: not yet admitted, oldest first
	admitted map[net.Conn]keys.NodeID
	perNode  map[keys.NodeID]int
}

func newConns(l Limits) conns {
	return conns{limits: l, strange: list.New(), admitted: map[net.Conn]keys.NodeID{}, perNode: map[keys.NodeID]int{}}
}

// enter registers a connection before its handshake. One too many closes the
// oldest stranger.
func (c *conns) enter(conn net.Conn) (*list.Element, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return nil, false
	}
	if c.strange.Len() >= c.limits.Handshakes {
		oldest := c.strange.Front()
		c.strange.Remove(oldest)
		if o, ok := oldest.Value.(net.Conn); ok {
			_ = o.Close()
		}
	}
	return c.strange.PushBack(conn), true
}

// leave takes a stranger out; harmless if it was thrown out or promoted.
func (c *conns) leave(e *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strange.Remove(e)
}

// promote makes a stranger an admitted connection, if there is room.
func (c *conns) promote(e *list.Element, conn net.Conn, node keys.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strange.Remove(e)
	if c.draining || len(c.admitted) >= c.limits.Connections || c.perNode[node] >= c.limits.ConnectionsPerNode {
		return false
	}
	c.admitted[conn] = node
	c.perNode[node]++
	return true
}

// dismiss takes an admitted connection out.
func (c *conns) dismiss(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node, ok := c.admitted[conn]
	if !ok {
		return
	}
	delete(c.admitted, conn)
	if c.perNode[node]--; c.perNode[node] == 0 {
		delete(c.perNode, node)
	}
}

// awaitRequest sets the deadline for the next read, unless the server is
// stopping.
func (c *conns) awaitRequest(conn net.Conn, deadline time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.draining && conn.SetReadDeadline(deadline) == nil
}

// drain closes strangers and wakes every admitted connection that waits for a
// request; those that execute one end after their answer.
func (c *conns) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	for e := c.strange.Front(); e != nil; e = e.Next() {
		if conn, ok := e.Value.(net.Conn); ok {
			_ = conn.Close()
		}
	}
	for conn := range c.admitted {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}
}
