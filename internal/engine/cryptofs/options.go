package cryptofs

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/secret"
)

// FormatMajorVersion is the version of Pebble's own formats that databases are
// created with and raised to. It is pinned: a new version of the library must not
// change stored data by itself.
const FormatMajorVersion = pebble.FormatValueSeparation

const (
	defaultMemTableSize = 4 << 20
	slowDisk            = 5 * time.Second
	errorLogInterval    = int64(10 * time.Second)
)

// Shared is what the databases of one process have in common.
type Shared struct {
	// Cache and FileCache bound blocks and open tables of all databases together.
	// A nil value gives the database its own. The caller unrefs both at the end.
	Cache     *pebble.Cache
	FileCache *pebble.FileCache
	// Logger receives Pebble's messages; nil discards them.
	Logger *slog.Logger
	// OnFatal is called when Pebble cannot go on: a write or sync of a log or
	// manifest failed. It must end the process; if it returns, this goroutine
	// panics, because Pebble would hang or go on after a lost write.
	OnFatal func(msg string)
	// MemTableSize in bytes; 0 is 4 MiB.
	MemTableSize uint64
}

// PebbleOptions gives the options that every database is opened with, encrypted
// or not: pinned format, no reuse of old logs, bloom filters, compression before
// encryption, and logging that shows no user key. The caller adds what differs
// (ErrorIfNotExists, Lock, DisableWAL, ReadOnly, Merger).
func PebbleOptions(fs vfs.FS, shared Shared) *pebble.Options {
	log := shared.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	size := shared.MemTableSize
	if size == 0 {
		size = defaultMemTableSize
	}
	comparer := *pebble.DefaultComparer
	comparer.FormatKey = func([]byte) fmt.Formatter { return hiddenKey{} }
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          FormatMajorVersion,
		Cleaner:                     noRecycle(pebble.DeleteCleaner{}.Clean),
		Comparer:                    &comparer,
		Cache:                       shared.Cache,
		FileCache:                   shared.FileCache,
		MemTableSize:                size,
		MemTableStopWritesThreshold: 2,
		Logger:                      pebbleLogger{log: log, fatal: shared.OnFatal},
		EventListener:               listener(log),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionBalanced })
	return o
}

// HealthChecked puts Pebble's watch over slow disk operations above base: one that
// takes longer than five seconds is logged. It belongs below encryption. The
// caller closes the closer when nothing uses the file system any more.
func HealthChecked(base vfs.FS, log *slog.Logger) (vfs.FS, io.Closer) {
	return vfs.WithDiskHealthChecks(base, slowDisk, nil, func(i vfs.DiskSlowInfo) { logSlow(log, i) })
}

func logSlow(log *slog.Logger, i vfs.DiskSlowInfo) {
	log.Warn("storage disk is slow", "path", i.Path, "operation", i.OpType.String(), "duration", i.Duration)
}

// cleaner deletes obsolete files. Being an ArchiveCleaner it claims to need the
// contents of files, which keeps Pebble from reusing old logs: a reused log would
// keep bytes of old frames, and old keys alive. The type of files is not exported
// by Pebble, so it is inferred.
type cleaner[T any] struct {
	pebble.ArchiveCleaner
	clean func(vfs.FS, T, string) error
}

// Clean deletes.
func (c cleaner[T]) Clean(fs vfs.FS, t T, path string) error { return c.clean(fs, t, path) }

// String is what Pebble stores in its OPTIONS.
func (cleaner[T]) String() string { return "delete" }

func noRecycle[T any](clean func(vfs.FS, T, string) error) cleaner[T] {
	return cleaner[T]{clean: clean}
}

// hiddenKey stands for a user key in errors and logs.
type hiddenKey struct{}

// Format implements fmt.Formatter.
func (hiddenKey) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, secret.Redacted) }

// pebbleLogger sends Pebble's messages to slog. Informational ones are about
// files and compactions and go to debug.
type pebbleLogger struct {
	log   *slog.Logger
	fatal func(msg string)
}

// Infof implements pebble.Logger.
func (l pebbleLogger) Infof(format string, args ...any) {
	l.log.Debug("storage", "message", fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("storage error", "message", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. It does not return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	l.log.Error("storage cannot go on", "message", msg)
	if l.fatal != nil {
		l.fatal(msg)
	}
	panic("cryptofs: storage cannot go on: " + msg)
}

func listener(log *slog.Logger) *pebble.EventListener {
	background := &limited{log: log}
	return &pebble.EventListener{
		BackgroundError: func(err error) { background.error("storage background error", err) },
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			log.Error("storage data corruption", "path", i.Path, "error", i.Details)
		},
		DiskSlow:        func(i pebble.DiskSlowInfo) { logSlow(log, i) },
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { log.Warn("storage write stall begins", "reason", i.Reason) },
		WriteStallEnd:   func() { log.Warn("storage write stall ends") },
		LowDiskSpace: func(i pebble.LowDiskSpaceInfo) {
			log.Warn("storage disk space is low", "available_bytes", i.AvailBytes, "total_bytes", i.TotalBytes)
		},
	}
}

// limited logs an error at most once in ten seconds: Pebble retries a failed
// flush or compaction without pause, thousands of times a second.
type limited struct {
	log     *slog.Logger
	last    atomic.Int64
	dropped atomic.Int64
}

func (l *limited) error(msg string, err error) {
	now := time.Now().UnixNano()
	last := l.last.Load()
	if last != 0 && now-last < errorLogInterval || !l.last.CompareAndSwap(last, now) {
		l.dropped.Add(1)
		return
	}
	l.log.Error(msg, "error", err, "not_logged_before", l.dropped.Swap(0))
}
