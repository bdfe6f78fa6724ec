package raftlog_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/replication/raftlog"
)

func open(t *testing.T, fs vfs.FS) (*raftlog.Log, *pebble.DB) {
	t.Helper()
	db, err := pebble.Open("log", &pebble.Options{FS: fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := raftlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	return l, db
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func fill(t *testing.T, l *raftlog.Log, from, to uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 3, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d", i), Extensions: []byte{1}, AppendedAt: time.Unix(5, 6)})
	}
	if err := l.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, l *raftlog.Log, oldest, first, last uint64) {
	t.Helper()
	f, err1 := l.FirstIndex()
	la, err2 := l.LastIndex()
	if err := errors.Join(err1, err2); err != nil || f != first || la != last || l.Oldest() != oldest {
		t.Fatalf("oldest, first, last = %d, %d, %d (%v), want %d, %d, %d", l.Oldest(), f, la, err, oldest, first, last)
	}
}

func TestFrontTruncationKeepsEntriesReadable(t *testing.T) {
	fs := vfs.NewMem()
	l, db := open(t, fs)
	want(t, l, 0, 0, 0)
	fill(t, l, 1, 100)
	if err := l.DeleteRange(1, 60); err != nil {
		t.Fatal(err)
	}
	want(t, l, 1, 61, 100)
	_ = db.Close()
	l, db = open(t, fs)
	defer func() { _ = db.Close() }()
	want(t, l, 1, 61, 100)
	var e raft.Log
	if err := l.GetLog(7, &e); err != nil || string(e.Data) != "entry 7" || e.Term != 3 || e.Index != 7 || string(e.Extensions) != "\x01" || !e.AppendedAt.Equal(time.Unix(5, 6)) {
		t.Fatalf("entry 7: %+v, %v", e, err)
	}
	if err := l.GetLog(101, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("entry 101: %v", err)
	}
}

func TestBackTruncationRemovesEntries(t *testing.T) {
	l, db := open(t, vfs.NewMem())
	defer func() { _ = db.Close() }()
	fill(t, l, 1, 100)
	if err := l.DeleteRange(51, 100); err != nil {
		t.Fatal(err)
	}
	want(t, l, 1, 1, 50)
	var e raft.Log
	if err := l.GetLog(51, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("entry 51: %v", err)
	}
	fill(t, l, 51, 52)
	if err := l.StoreLog(&raft.Log{Index: 60}); err == nil {
		t.Fatal("a gap was accepted")
	}
	if err := l.DeleteRange(1, 52); err != nil {
		t.Fatal(err)
	}
	want(t, l, 0, 0, 0)
	fill(t, l, 1000, 1001)
	want(t, l, 1000, 1000, 1001)
}

func TestTrimRemovesOnlyWhatRetentionAllows(t *testing.T) {
	fs := vfs.NewMem()
	l, db := open(t, fs)
	for i := uint64(0); i < 10; i++ {
		fill(t, l, i*10+1, i*10+10)
		if err := l.DeleteRange(1, i*10+5); err != nil {
			t.Fatal(err)
		}
		if err := l.Trim(600); err != nil { // each ten take about 300 bytes
			t.Fatal(err)
		}
	}
	if o := l.Oldest(); o <= 1 || o > 81 {
		t.Fatalf("oldest is %d", o)
	}
	before := l.Oldest()
	_ = db.Close()
	l, db = open(t, fs)
	defer func() { _ = db.Close() }()
	want(t, l, before, 96, 100)
	if err := l.Trim(0); err != nil {
		t.Fatal(err)
	}
	if l.Oldest() > 96 {
		t.Fatalf("raft's own entries were trimmed: %d", l.Oldest())
	}
}

func TestStableValues(t *testing.T) {
	l, db := open(t, vfs.NewMem())
	defer func() { _ = db.Close() }()
	if _, err := l.Get([]byte("x")); err == nil || err.Error() != "not found" {
		t.Fatalf("missing value: %v", err)
	}
	if n, err := l.GetUint64([]byte("term")); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	if err := l.SetUint64([]byte("term"), 7); err != nil {
		t.Fatal(err)
	}
	if n, err := l.GetUint64([]byte("term")); err != nil || n != 7 {
		t.Fatal(n, err)
	}
}
