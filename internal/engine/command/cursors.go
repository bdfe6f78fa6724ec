package command

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"math"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

const (
	maxCursors    = 4096
	cursorIdle    = 10 * time.Minute
	firstBatch    = 101
	maxBatchBytes = 16 << 20
)

// owner is who may use a cursor.
type owner struct {
	account    [16]byte // zero without authentication
	session    sessionID
	hasSession bool
}

func (r *request) owner(user *auth.User) owner {
	o := owner{session: r.session, hasSession: r.hasSession}
	if user != nil {
		o.account = user.UUID
	}
	return o
}

// cursor is a query that has more to give. While it is checked out it belongs to
// one request.
type cursor struct {
	id     int64
	owner  owner
	needs  []need // what its owner must still be allowed to read on
	ns     string
	from   source
	peeked bson.Raw // read, but not given yet

	busy   bool
	killed bool
	used   time.Time
}

// cursors keeps open cursors: a bounded number, each closed after idle time.
type cursors struct {
	max  int
	idle time.Duration

	mu     sync.Mutex
	open   map[int64]*cursor
	closed bool
	stop   chan struct{}
	wg     sync.WaitGroup
}

func newCursors(limit int, idle time.Duration) *cursors {
	c := &cursors{max: limit, idle: idle, open: map[int64]*cursor{}, stop: make(chan struct{})}
	c.wg.Go(func() {
		ticker := time.NewTicker(max(idle/10, time.Second))
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				c.sweep(now)
			case <-c.stop:
				return
			}
		}
	})
	return c
}

// add registers a cursor and gives it an id; the caller still has it checked out.
func (c *cursors) add(cur *cursor) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return mongoerr.Of(mongoerr.InterruptedAtShutdown, "interrupted at shutdown")
	}
	if len(c.open) >= c.max {
		return mongoerr.New(146, "ExceededMemoryLimit", "too many open cursors (%d); close cursors that are not read to their end", c.max)
	}
	for cur.id == 0 || c.open[cur.id] != nil {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		cur.id = int64(binary.LittleEndian.Uint64(b[:]) & math.MaxInt64)
	}
	cur.busy, cur.used = true, time.Now()
	c.open[cur.id] = cur
	return nil
}

// checkout takes a cursor for one request.
func (c *cursors) checkout(id int64, who owner) (*cursor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cur := c.open[id]
	if cur == nil || cur.killed {
		return nil, mongoerr.Of(mongoerr.CursorNotFound, "cursor id %d not found", id)
	}
	if cur.owner.account != who.account {
		return nil, mongoerr.Of(mongoerr.Unauthorized, "cursor id %d was not created by the authenticated user", id)
	}
	if cur.owner.hasSession != who.hasSession || cur.owner.session != who.session {
		return nil, mongoerr.Of(50738, "Cannot run getMore on cursor %d in another session than the one that created it", id)
	}
	if cur.busy {
		return nil, mongoerr.Of(mongoerr.ConflictingOperationInProgress, "cursor id %d is already in use", id)
	}
	cur.busy = true
	return cur, nil
}

// checkin gives a cursor back; spent ones are closed.
func (c *cursors) checkin(cur *cursor, spent bool) {
	c.mu.Lock()
	cur.busy, cur.used = false, time.Now()
	drop := spent || cur.killed || c.closed
	if drop {
		delete(c.open, cur.id)
	}
	c.mu.Unlock()
	if drop {
		cur.from.close()
	}
}

// kill closes the cursors that match; those in use are closed when they come
// back. It gives the ids.
func (c *cursors) kill(match func(*cursor) bool) []int64 {
	var ids []int64
	var idle []*cursor
	c.mu.Lock()
	for id, cur := range c.open {
		if cur.killed || !match(cur) {
			continue
		}
		ids = append(ids, id)
		cur.killed = true
		if !cur.busy {
			delete(c.open, id)
			idle = append(idle, cur)
		}
	}
	c.mu.Unlock()
	for _, cur := range idle {
		cur.from.close()
	}
	return ids
}

func (c *cursors) sweep(now time.Time) {
	c.kill(func(cur *cursor) bool { return !cur.busy && now.Sub(cur.used) >= c.idle })
}

func (c *cursors) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// close closes all cursors and lets no new ones in.
func (c *cursors) close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	c.wg.Wait()
	c.kill(func(*cursor) bool { return true })
}

// batch reads up to n documents (negative: as many as fit) of at most
// maxBatchBytes, at least one. spent tells that there is nothing left.
func (cur *cursor) batch(ctx context.Context, n int64) (docs *array, spent bool, err error) {
	docs = newArray()
	for n < 0 || int64(docs.n) < n {
		doc := cur.peeked
		cur.peeked = nil
		if doc == nil {
			var ok bool
			if doc, ok, err = cur.from.next(ctx); err != nil {
				return nil, false, err
			}
			if !ok {
				return docs, true, nil
			}
		}
		if docs.n > 0 && docs.size()+len(doc) > maxBatchBytes {
			cur.peeked = doc
			return docs, false, nil
		}
		docs.doc(doc)
	}
	if n == 0 {
		return docs, false, nil
	}
	if cur.peeked == nil {
		doc, ok, err := cur.from.next(ctx)
		if err != nil || !ok {
			return docs, !ok && err == nil, err
		}
		cur.peeked = doc
	}
	return docs, false, nil
}

// firstReply answers find and aggregate: with the first batch, and with a cursor
// if there is more. It takes the source over.
func (s *Server) firstReply(ctx context.Context, req *request, user *auth.User, ns string, from source, batchSize int64, single bool) (*builder, error) {
	cur := &cursor{owner: req.owner(user), needs: req.needs, ns: ns, from: from}
	docs, spent, err := cur.batch(ctx, batchSize)
	if err != nil {
		from.close()
		return nil, err
	}
	if single || spent {
		from.close()
	} else {
		if err := s.cursors.add(cur); err != nil {
			from.close()
			return nil, err
		}
		s.cursors.checkin(cur, false)
	}
	return newDoc().doc("cursor", newDoc().array("firstBatch", docs).int64("id", cur.id).str("ns", ns).done()), nil
}

func cursorCommands() []command {
	return []command{
		{name: "getMore", fields: []string{"collection", "batchSize", "term", "lastKnownCommittedOpTime"}, run: getMore, waits: true, stable: true},
		{name: "killCursors", fields: []string{"cursors"}, run: killCursors, stable: true},
	}
}

func getMore(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	s.counters.getmore.Add(1)
	p := req.params()
	id, ok := wholeNumber(req.args[0].value)
	if !ok {
		p.wrong("getMore", req.args[0].value, "long")
	}
	p.need("collection")
	ns := req.db + "." + p.str("collection")
	size := p.count("batchSize", 0)
	if p.err != nil {
		return nil, p.err
	}
	if size == 0 {
		size = -1
	}
	cur, err := s.cursors.checkout(id, req.owner(user))
	if err != nil {
		return nil, err
	}
	if cur.ns != ns {
		s.cursors.checkin(cur, false)
		return nil, mongoerr.Of(mongoerr.Unauthorized, "Requested getMore on namespace '%s', but cursor belongs to a different namespace", ns)
	}
	if user != nil && !allowed(user, cur.needs) { // a role was taken away since the cursor was opened
		s.cursors.checkin(cur, true)
		return nil, notAuthorized(req)
	}
	if req.maxTime > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.maxTime)
		defer cancel()
	}
	docs, spent, err := cur.batch(ctx, size)
	s.cursors.checkin(cur, spent || err != nil)
	if err != nil {
		return nil, err
	}
	if spent {
		id = 0
	}
	return newDoc().doc("cursor", newDoc().array("nextBatch", docs).int64("id", id).str("ns", ns).done()), nil
}

func killCursors(_ context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	p.need("cursors")
	v, _ := p.value("cursors")
	list, ok := v.ArrayOK()
	if !ok {
		p.wrong("cursors", v, "array")
	}
	if p.err != nil {
		return nil, p.err
	}
	values, err := list.Values()
	if err != nil {
		return nil, mongoerr.Of(mongoerr.InvalidBSON, "malformed array")
	}
	wanted := make(map[int64]bool, len(values))
	for _, e := range values {
		id, ok := wholeNumber(e)
		if !ok {
			return nil, wrongType("killCursors", "cursors", e, "long")
		}
		wanted[id] = true
	}
	who, any := req.owner(user), mayKillAny(user)
	killed := s.cursors.kill(func(c *cursor) bool {
		return wanted[c.id] && c.ns == req.db+"."+coll && (any || c.owner.account == who.account)
	})
	gone, missing := newArray(), newArray()
	for _, id := range killed {
		gone.int64(id)
		delete(wanted, id)
	}
	for id := range wanted {
		missing.int64(id)
	}
	return newDoc().array("cursorsKilled", gone).array("cursorsNotFound", missing).
		array("cursorsAlive", newArray()).array("cursorsUnknown", newArray()), nil
}

func mayKillAny(user *auth.User) bool {
	return user == nil || auth.Allowed(user.Roles, auth.KillAnyCursor, auth.Resource{Cluster: true})
}
