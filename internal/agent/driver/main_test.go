package driver_test

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agent/driver/drivertest"
)

func TestMain(m *testing.M) {
	drivertest.Main()
	if len(os.Args) > 1 && os.Args[1] == "holder" {
		holder(os.Args[2:])
	}
	os.Exit(m.Run())
}

// holder behaves as a node does towards its data directory: it holds the lock, with
// its pid in it. Its arguments: how it takes SIGTERM ("polite" or "stubborn"), and
// the directory after --dbpath.
func holder(args []string) {
	if args[0] == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	if args[0] == "exits" {
		os.Exit(7)
	}
	f, err := os.OpenFile(filepath.Join(args[2], driver.LockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		os.Exit(1)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		os.Exit(2)
	}
	pid := os.Getpid()
	if len(args) > 3 {
		pid, _ = strconv.Atoi(args[3]) // a lie
	}
	if _, err := f.WriteAt([]byte(fmt.Sprintln(pid)), 0); err != nil {
		os.Exit(3)
	}
	if err := os.WriteFile(filepath.Join(args[2], "environ"), []byte(fmt.Sprint(os.Environ())), 0o600); err != nil {
		os.Exit(4)
	}
	time.Sleep(5 * time.Minute)
	os.Exit(0)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to: %s", what)
		}
	}
}
