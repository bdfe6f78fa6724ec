package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ProtectProcess keeps the memory of this process, in which secrets are, out of
// core dumps and out of reach of other processes of the same user (ptrace,
// /proc/PID/mem). Processes that see plaintext keys call it first. An error says
// what the system did not allow; the rest holds.
func ProtectProcess() error {
	var errs []error
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("switch core dumps off: %w", err))
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("limit core dumps to nothing: %w", err))
	}
	return errors.Join(errs...)
}
