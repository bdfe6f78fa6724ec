package storage

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// Bounds of the retry records.
const (
	sessionIdleSeconds = 30 * 60
	maxSessions        = 100_000
	maxSessionBytes    = 64 << 20
	sessionOverhead    = 256
	statementOverhead  = 48
)

// sessions holds the retry records: for each session the statements of its
// newest transaction number. Writes and expiry come from the applying goroutine
// and the owner's ticker, reads from anywhere.
type sessions struct {
	mu    sync.Mutex
	byID  map[string]*session
	order *list.List // of *session, newest in front
	bytes int64
}

type session struct {
	id    string
	txn   int64
	last  uint32 // seconds of the cluster time
	stmts map[int32]bson.Raw
	// records are the keys of the session's records in the state. They are deleted one
	// by one: a range deletion for each write would pile up in the log's memtable, whose
	// flush takes time with the square of their number.
	records [][]byte
	bytes   int64
	elem    *list.Element
}

func newSessions() *sessions {
	return &sessions{byID: map[string]*session{}, order: list.New()}
}

// Session tells the newest transaction number of a session that wrote something,
// and what the statements of that number gave; false if nothing is known.
func (s *Store) Session(lsid []byte) (txn int64, results map[int32]bson.Raw, ok bool) {
	t := s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.byID[string(lsid)]
	if x == nil {
		return 0, nil, false
	}
	return x.txn, maps.Clone(x.stmts), true
}

func (t *sessions) load(db *pebble.DB) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.byID)
	t.order.Init()
	t.bytes = 0
	return each(db, []byte{prefixRetry}, func(k, v []byte) error {
		if len(k) < 3+16 || len(v) < 5 || v[0] != formatVersion || len(k) != 3+int(binary.BigEndian.Uint16(k[1:]))+16 {
			return errors.New("a retry record is malformed or of a newer version")
		}
		id := string(k[3 : len(k)-16])
		txn := int64(binary.BigEndian.Uint64(k[len(k)-16:])) //nolint:gosec // two's complement
		stmts, err := entry.DecodeStatements(append([]byte{}, v[5:]...))
		if err != nil {
			return err
		}
		var older [][]byte
		if x := t.byID[id]; x != nil && txn > x.txn {
			older = x.records // still there: the session's next write deletes them
		}
		t.put(id, txn, binary.BigEndian.Uint32(v[1:]), stmts, append(older, bytes.Clone(k)))
		return nil
	})
}

// put notes statements and where they are in the state; those of an older number are
// forgotten, those of an older number than known are ignored.
func (t *sessions) put(id string, txn int64, now uint32, stmts []entry.Statement, records [][]byte) {
	x := t.byID[id]
	if x != nil && txn < x.txn {
		x.records = append(x.records, records...)
		return
	}
	if x != nil && txn > x.txn {
		t.drop(x)
		x = nil
	}
	if x == nil {
		x = &session{id: id, txn: txn, stmts: map[int32]bson.Raw{}}
		x.bytes = sessionOverhead
		t.bytes += x.bytes
		t.byID[id] = x
		x.elem = t.order.PushFront(x)
	}
	x.last = max(x.last, now)
	x.records = append(x.records, records...)
	t.order.MoveToFront(x.elem)
	for _, st := range stmts {
		x.stmts[st.ID] = append(bson.Raw(nil), st.Result...)
		x.bytes += int64(len(st.Result)) + statementOverhead
		t.bytes += int64(len(st.Result)) + statementOverhead
	}
}

func (t *sessions) drop(x *session) {
	delete(t.byID, x.id)
	t.order.Remove(x.elem)
	t.bytes -= x.bytes
}

func retryPrefix(lsid []byte) []byte {
	k := append([]byte{prefixRetry}, 0, 0)
	binary.BigEndian.PutUint16(k[1:], uint16(len(lsid))) //nolint:gosec // at most entry.MaxLSID
	return append(k, lsid...)
}

func retryKey(lsid []byte, txn int64, index uint64) []byte {
	key := binary.BigEndian.AppendUint64(retryPrefix(lsid), uint64(txn)) //nolint:gosec // two's complement
	return binary.BigEndian.AppendUint64(key, index)
}

// stage writes an entry's retry record into the batch of the state, and deletes those
// of the session's older numbers.
func (t *sessions) stage(b *pebble.Batch, index uint64, e *entry.Entry) error {
	var older [][]byte
	t.mu.Lock()
	if x := t.byID[string(e.LSID)]; x != nil && e.TxnNumber > x.txn {
		older = x.records
	}
	t.mu.Unlock()
	for _, k := range older {
		if err := b.Delete(k, nil); err != nil {
			return err
		}
	}
	value := binary.BigEndian.AppendUint32([]byte{formatVersion}, e.Time.T)
	return b.Set(retryKey(e.LSID, e.TxnNumber, index), entry.AppendStatements(value, e.Statements), nil)
}

func (t *sessions) apply(index uint64, e *entry.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(string(e.LSID), e.TxnNumber, e.Time.T, e.Statements, [][]byte{retryKey(e.LSID, e.TxnNumber, index)})
}

// ExpireSessions forgets the retry records of sessions that wrote nothing for 30
// minutes before now (seconds of the cluster time), and the oldest ones above the
// bounds. Sessions in use must be kept out by keep.
func (s *Store) ExpireSessions(now uint32, keep func(lsid []byte) bool) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	t := s.sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	b := s.cfg.State.NewBatch()
	defer func() { _ = b.Close() }()
	for e := t.order.Back(); e != nil; {
		x := e.Value.(*session)
		e = e.Prev()
		over := len(t.byID) > maxSessions || t.bytes > maxSessionBytes
		if !over && int64(now)-int64(x.last) < sessionIdleSeconds {
			break
		}
		if keep != nil && keep([]byte(x.id)) {
			continue
		}
		for _, k := range x.records {
			if err := b.Delete(k, nil); err != nil {
				return fmt.Errorf("expire sessions: %w", err)
			}
		}
		t.drop(x)
	}
	if b.Empty() {
		return nil
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("expire sessions: %w", err)
	}
	return nil
}
