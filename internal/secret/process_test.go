package secret_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/secret"
)

// The protection lasts as long as the process, so the test does it in a child.
func TestProtectProcess(t *testing.T) {
	if os.Getenv("KEYWRIGHT_TEST_PROTECT") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProtectProcess$", "-test.v")
		cmd.Env = append(os.Environ(), "KEYWRIGHT_TEST_PROTECT=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || before == 0 {
		t.Fatalf("the process is not dumpable to begin with: %d, %v", before, err)
	}
	if err := secret.ProtectProcess(); err != nil {
		t.Fatal(err)
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || after != 0 {
		t.Errorf("dumpable is %d, %v", after, err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil || l.Cur != 0 || l.Max != 0 {
		t.Errorf("core limit %+v, %v", l, err)
	}
}
