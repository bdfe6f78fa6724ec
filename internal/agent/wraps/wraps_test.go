package wraps_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
)

func open(t *testing.T, dir string) *wraps.Store {
	t.Helper()
	s, err := wraps.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fresh(t *testing.T, node keys.NodeID) wraps.Record {
	t.Helper()
	w := envelope.Wrapped{Version: envelope.Version, KeyARN: "arn:aws:kms:us-east-1:222222222222:key/00000000-0000-4000-8000-000000000001", Ciphertext: []byte("ciphertext"), Created: time.Now()}
	b, err := w.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	id := keys.NewID(time.Now())
	return wraps.Record{
		Key: keys.NewKeyID(), Node: node, Project: keys.ProjectID(id), Cluster: keys.ClusterID(id), Purpose: keys.PurposeMasterKey,
		State: keys.StatePreActive, Generation: 1, Created: time.Now().UTC(), Wrapped: b,
	}
}

func newNode() keys.NodeID { return keys.NodeID(keys.NewID(time.Now())) }

func put(t *testing.T, s *wraps.Store, r wraps.Record) wraps.Record {
	t.Helper()
	r, err := s.Put(r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(dir string, r wraps.Record) string {
	return filepath.Join(dir, string(r.Node), string(r.Key)+".json")
}

func TestPutSurvivesAndRefusesOlderCopies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s, n := open(t, dir), newNode()
	first := put(t, s, fresh(t, n))
	active := first
	active.State = keys.StateActive
	active = put(t, s, active)
	if _, err := s.Put(first); !errors.Is(err, wraps.ErrConflict) {
		t.Errorf("an older copy replaced a newer one: %v", err)
	}
	again := first
	again.Revision = 0
	if _, err := s.Put(again); !errors.Is(err, wraps.ErrConflict) {
		t.Errorf("a key was made twice: %v", err)
	}
	got, ok := open(t, dir).Get(first.Key)
	if !ok || got.State != keys.StateActive || got.Revision != 2 || string(got.Wrapped) != string(active.Wrapped) {
		t.Errorf("read back %+v", got)
	}
	if st, err := os.Stat(file(dir, first)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the record: %v, %v", st, err)
	}
}

func TestConfirmedEscrowIsNotLostByAPutOfAnOlderCopy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s := open(t, dir)
	r := put(t, s, fresh(t, newNode())) // a copy from before the confirmation
	if err := s.MarkEscrowed(r.Key, r.Revision); err != nil {
		t.Fatal(err)
	}
	r.State = keys.StateActive
	r = put(t, s, r)
	if r.Escrowed != 1 || len(s.Unescrowed()) != 1 {
		t.Errorf("record %+v", r)
	}
	if got, _ := open(t, dir).Get(r.Key); got.Escrowed != 1 {
		t.Errorf("on disk %+v", got)
	}
	if err := s.MarkEscrowed(r.Key, 2); err != nil || len(s.Unescrowed()) != 0 {
		t.Errorf("confirmed, but still to be sent (%v)", err)
	}
	if err := s.MarkEscrowed(r.Key, 1); err != nil {
		t.Error(err)
	}
	if got, _ := s.Get(r.Key); got.Escrowed != 2 {
		t.Error("a late confirmation took a newer one back")
	}
}

func TestConcurrentConfirmationsAndChanges(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "keys"))
	r := put(t, s, fresh(t, newNode()))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			c, _ := s.Get(r.Key)
			if _, err := s.Put(c); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 20 {
			c, _ := s.Get(r.Key)
			if err := s.MarkEscrowed(c.Key, c.Revision); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if c, _ := s.Get(r.Key); c.Revision != 21 || c.Escrowed == 0 || c.Escrowed > 21 {
		t.Errorf("record %+v", c)
	}
}

// A crash leaves what was before, whole: before the rename a temporary file beside it.
func TestLeftoversOfACrashAreNoRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s := open(t, dir)
	r := put(t, s, fresh(t, newNode()))
	tmp := filepath.Join(dir, string(r.Node), "."+string(keys.NewKeyID())+".json.123.tmp")
	if err := os.WriteFile(tmp, []byte(`{"format":1,"ke`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, string(newNode())), 0o700); err != nil { // made, and no record yet
		t.Fatal(err)
	}
	if got := open(t, dir).OfNode(r.Node); len(got) != 1 {
		t.Errorf("records %+v", got)
	}
}

func TestWhatCannotBeReadIsNamedNotForgotten(t *testing.T) {
	edit := func(fn func(map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			var m map[string]any
			raw, err := os.ReadFile(path)
			if err != nil || json.Unmarshal(raw, &m) != nil {
				t.Fatal(err)
			}
			fn(m)
			raw, _ = json.Marshal(m)
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, spoil := range map[string]func(*testing.T, string){
		"newer format":       edit(func(m map[string]any) { m["format"] = 3 }),
		"no format":          edit(func(m map[string]any) { delete(m, "format") }),
		"another key":        edit(func(m map[string]any) { m["key"] = string(keys.NewKeyID()) }),
		"another node":       edit(func(m map[string]any) { m["node"] = string(newNode()) }),
		"no state":           edit(func(m map[string]any) { m["state"] = "" }),
		"no ciphertext":      edit(func(m map[string]any) { delete(m, "wrapped") }),
		"damaged ciphertext": edit(func(m map[string]any) { m["wrapped"] = "S1dXSwEAAA==" }),
		"cut short": func(t *testing.T, path string) {
			if err := os.Truncate(path, 40); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			r := put(t, open(t, dir), fresh(t, newNode()))
			spoil(t, file(dir, r))
			if _, err := wraps.Open(dir); err == nil || !strings.Contains(err.Error(), file(dir, r)) {
				t.Errorf("error %v does not name %s", err, file(dir, r))
			}
		})
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may write anywhere, so the directory is replaced by a file instead.
		t.Log("as root: a file stands in for the full disk")
	}
	dir := filepath.Join(t.TempDir(), "keys")
	s := open(t, dir)
	r := put(t, s, fresh(t, newNode()))
	nodeDir := filepath.Dir(file(dir, r))
	if err := os.Rename(nodeDir, nodeDir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(nodeDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next := r
	next.State = keys.StateActive
	if _, err := s.Put(next); err == nil {
		t.Fatal("a write to nowhere was acknowledged")
	}
	if got, _ := s.Get(r.Key); got.State != keys.StatePreActive || got.Revision != 1 {
		t.Errorf("memory says %+v", got)
	}
	if _, err := s.Put(fresh(t, r.Node)); err == nil || len(s.OfNode(r.Node)) != 1 {
		t.Errorf("a key that is nowhere is known (%v)", err)
	}
}

func TestDestroyIsForGoodAndCanBeRepeated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s, n := open(t, dir), newNode()
	a, b, other := put(t, s, fresh(t, n)), put(t, s, fresh(t, n)), put(t, s, fresh(t, newNode()))
	gone, err := s.Destroy(n, b.Key)
	if err != nil || len(gone) != 1 || gone[0].Key != a.Key || gone[0].Revision != 2 {
		t.Fatalf("%+v, %v", gone, err)
	}
	if gone, err = s.Destroy(n, b.Key); err != nil || len(gone) != 0 {
		t.Errorf("second time: %+v, %v", gone, err)
	}
	s = open(t, dir)
	if r, ok := s.Get(a.Key); !ok || r.State != keys.StateDestroyed || r.Wrapped != nil {
		t.Errorf("destroyed key is %+v", r)
	}
	for _, k := range []keys.KeyID{b.Key, other.Key} {
		if r, _ := s.Get(k); len(r.Wrapped) == 0 || r.State == keys.StateDestroyed {
			t.Errorf("key %s went along", k)
		}
	}
	if raw, err := os.ReadFile(file(dir, a)); err != nil || strings.Contains(string(raw), "wrapped") {
		t.Errorf("ciphertext is left on disk (%v)", err)
	}
}

func TestNamesThatLeaveTheDirectoryAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := open(t, dir).Put(fresh(t, "../../elsewhere")); err == nil {
		t.Error("written elsewhere")
	}
}

func TestRestoreAddsAndNeverTakes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "keys"))
	r := put(t, s, fresh(t, newNode()))
	kept := r.Escrow()[0]
	restore := func(w agentlink.EscrowedWrap) bool {
		t.Helper()
		rec, err := wraps.FromEscrow(w)
		if err != nil {
			t.Fatal(err)
		}
		done, err := s.Restore(rec)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if restore(kept) {
		t.Error("the same was written again")
	}
	newer := kept
	newer.State, newer.Revision = keys.StateActive, 5
	if !restore(newer) || restore(kept) {
		t.Error("newer is not put back, or older is")
	}
	gone := newer
	gone.State, gone.Revision, gone.Wrapped = keys.StateDestroyed, 6, nil
	if restore(gone) {
		t.Error("a readable key was replaced by the record of a destroyed one")
	}
	// The host destroyed it, and nobody ordered that: escrow has the ciphertext.
	if err := s.DestroyKey(r.Key); err != nil {
		t.Fatal(err)
	}
	unordered := newer
	unordered.State, unordered.Revision = keys.StateDestroyed, 6
	if !restore(unordered) || restore(unordered) {
		t.Error("a key that was destroyed without an order is not put back once")
	}
	back, _ := s.Get(r.Key)
	if back.State != keys.StateActive || len(back.Wrapped) == 0 || back.Escrowed >= back.Revision {
		t.Errorf("put back as %+v", back)
	}
	// A destroyed key that is not known here becomes a record, so that it is not missed.
	gone.Key = keys.NewKeyID()
	if !restore(gone) {
		t.Error("no record of a destroyed key")
	}
	foreign := newer
	foreign.Node, foreign.Revision = newNode(), 9
	rec, err := wraps.FromEscrow(foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Restore(rec); err == nil {
		t.Error("another node's key was put in the place of this one's")
	}
}
