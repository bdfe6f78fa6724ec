package raftlog_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/replication/raftlog"
)

// goldenFile holds version 1 of the log's keys and values, a line each. It may only
// change together with the version; UPDATE_GOLDEN=1 writes it anew.
const goldenFile = "testdata/log.txt"

func sample() []*raft.Log {
	return []*raft.Log{
		{Index: 7, Term: 2, Type: raft.LogConfiguration, Data: []byte("configuration"), AppendedAt: time.Unix(1_767_225_600, 123).UTC()},
		{Index: 8, Term: 3, Type: raft.LogNoop},
		{Index: 9, Term: 3, Type: raft.LogCommand, Data: []byte("command"), Extensions: bytes.Repeat([]byte{0xee}, 130)},
	}
}

func dump(t *testing.T, db *pebble.DB) []byte {
	t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for it.First(); it.Valid(); it.Next() {
		out = fmt.Appendf(out, "%x %x\n", it.Key(), it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeysAndEntriesAreFixed(t *testing.T) {
	l, db := open(t, vfs.NewMem())
	defer func() { _ = db.Close() }()
	must(t, l.StoreLogs(sample()))
	must(t, l.Trim(1<<30))
	must(t, l.DeleteRange(7, 7))
	must(t, l.SetUint64([]byte("CurrentTerm"), 3))
	must(t, l.Set([]byte("LastVoteCand"), []byte("me")))
	got := dump(t, db)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(goldenFile, got, 0o600))
	}
	want, err := os.ReadFile(goldenFile)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the stored bytes changed\n%s\nwant\n%s", got, want)
	}
}

// loadGolden fills an instance with the golden file.
func loadGolden(t *testing.T, db *pebble.DB) {
	t.Helper()
	text, err := os.ReadFile(goldenFile)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		key, err := hex.DecodeString(k)
		must(t, err)
		value, err := hex.DecodeString(v)
		must(t, err)
		must(t, db.Set(key, value, pebble.Sync))
	}
}

func TestWhatVersionOneStoredIsRead(t *testing.T) {
	_, db := open(t, vfs.NewMem())
	defer func() { _ = db.Close() }()
	loadGolden(t, db)
	l, err := raftlog.Open(db)
	must(t, err)
	want(t, l, 7, 8, 9)
	for _, s := range sample() {
		var got raft.Log
		must(t, l.GetLog(s.Index, &got))
		if got.Index != s.Index || got.Term != s.Term || got.Type != s.Type || !bytes.Equal(got.Data, s.Data) ||
			!bytes.Equal(got.Extensions, s.Extensions) || !got.AppendedAt.Equal(s.AppendedAt) {
			t.Errorf("read %+v, want %+v", got, *s)
		}
	}
	if n, err := l.GetUint64([]byte("CurrentTerm")); err != nil || n != 3 {
		t.Errorf("term %d, %v", n, err)
	}
}

func TestNewerEntryIsRefused(t *testing.T) {
	_, db := open(t, vfs.NewMem())
	defer func() { _ = db.Close() }()
	loadGolden(t, db)
	key := []byte{1, 0, 0, 0, 0, 0, 0, 0, 8}
	v, closer, err := db.Get(key)
	must(t, err)
	newer := append([]byte{2}, v[1:]...)
	must(t, closer.Close())
	must(t, db.Set(key, newer, pebble.Sync))
	l, err := raftlog.Open(db)
	must(t, err)
	if err := l.GetLog(8, new(raft.Log)); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("an entry of version 2: %v", err)
	}
}
