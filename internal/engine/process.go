package engine

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/secret"
)

// wantedDescriptors is how many descriptors a node likes to have: each open
// database takes about eight.
const wantedDescriptors = 65536

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// harden keeps the process's memory, in which keys are, out of core dumps and
// out of reach of other processes of the same user, and raises the descriptor
// limit. What the system does not allow is logged, not fatal.
func harden(log *slog.Logger) {
	if err := secret.ProtectProcess(); err != nil {
		log.Warn("process memory is not fully protected", "error", err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return
	}
	if l.Cur < wantedDescriptors && l.Cur < l.Max {
		l.Cur = min(l.Max, wantedDescriptors)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			log.Warn("descriptor limit could not be raised", "error", err)
		}
	}
}

// lockMemory keeps a key's page out of the swap, where that is allowed.
func lockMemory(b []byte) {
	if len(b) > 0 {
		_ = unix.Mlock(b) // best effort: limits are often tiny
	}
}
