package driver_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agent/driver"
)

// start starts a holder of dir and waits until it holds.
func start(t *testing.T, manner, dir string, lie ...string) *driver.Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := driver.Start(append([]string{exe, "holder", manner, "--dbpath", dir}, lie...), filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(context.Background(), 0) })
	eventually(t, "the process is ready", func() bool {
		_, err := os.Stat(filepath.Join(dir, "environ"))
		return err == nil || !p.Running()
	})
	return p
}

func TestProcessIsStartedAdoptedAndStopped(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
	dir := t.TempDir()
	p := start(t, "polite", dir)
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil || strings.Contains(string(env), "very-secret") {
		t.Errorf("a node sees AWS credentials (%v)", err)
	}
	if pgid, err := unix.Getpgid(p.PID); err != nil || pgid != p.PID {
		t.Errorf("process group %d of process %d: Ctrl-C would reach it (%v)", pgid, p.PID, err)
	}
	q, err := driver.Adopt(dir)
	if err != nil || q == nil || q.PID != p.PID || q.StartTime != p.StartTime || !slices.Contains(q.Args, dir) {
		t.Fatalf("adopted %+v, %v", q, err)
	}
	if err := q.Stop(t.Context(), 30*time.Second); err != nil || q.Running() {
		t.Errorf("stop: %v", err)
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the starter does not learn of the end")
	}
	if q, err := driver.Adopt(dir); q != nil || err != nil {
		t.Errorf("adopted %+v, %v of nobody", q, err)
	}
	if err := p.Stop(t.Context(), time.Second); err != nil {
		t.Errorf("stop of what has ended: %v", err)
	}
}

func TestStubbornProcessIsKilledAfterGraceOrWithItsContext(t *testing.T) {
	p := start(t, "stubborn", t.TempDir())
	if err := p.Stop(t.Context(), 10*time.Millisecond); err != nil || p.Running() || p.ExitCode() != -1 {
		t.Errorf("stop: %v, code %d", err, p.ExitCode())
	}
	q := start(t, "stubborn", t.TempDir())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Stop(over, time.Hour); err != nil || q.Running() {
		t.Errorf("stop: %v", err)
	}
}

func TestExitCodeIsTold(t *testing.T) {
	p := start(t, "exits", t.TempDir())
	<-p.Done()
	if p.ExitCode() != 7 {
		t.Errorf("code %d", p.ExitCode())
	}
}

func TestAdoptionTakesTheExactDirectoryOnly(t *testing.T) {
	root := t.TempDir()
	one, ten := filepath.Join(root, "data-1"), filepath.Join(root, "data-10")
	for _, d := range []string{one, ten} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, "polite", ten)
	// Another program holds data-1's lock and names the node of data-10.
	lock, err := os.Create(filepath.Join(one, driver.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(lock, p.PID); err != nil {
		t.Fatal(err)
	}
	if q, err := driver.Adopt(one); q != nil || err == nil {
		t.Errorf("adopted %+v", q)
	}
	// A lock whose owner has not written its pid yet is an error, not nobody.
	if err := lock.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if q, err := driver.Adopt(one); q != nil || err == nil {
		t.Errorf("adopted %+v", q)
	}
	if q, err := driver.Adopt(filepath.Join(root, "data-2")); q != nil || err != nil {
		t.Errorf("adopted %+v, %v where nothing is", q, err)
	}
	if !p.Running() {
		t.Error("the other node was touched")
	}
}

func TestStaleLockIsNobodys(t *testing.T) {
	dir := t.TempDir()
	// After a crash and a restart the pid may be anybody's: the lock decides.
	if err := os.WriteFile(filepath.Join(dir, driver.LockFile), fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := driver.Adopt(dir); p != nil || err != nil {
		t.Errorf("adopted %+v, %v", p, err)
	}
}

func TestFindKnowsAProcessByPidAndStartTime(t *testing.T) {
	p := start(t, "polite", t.TempDir())
	if q, err := driver.Find(p.PID, p.StartTime); err != nil || q == nil || q.PID != p.PID {
		t.Errorf("found %+v, %v", q, err)
	}
	if q, err := driver.Find(p.PID, p.StartTime+1); q != nil || err != nil {
		t.Errorf("found %+v, %v: a reused pid", q, err)
	}
	if err := p.Stop(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if q, err := driver.Find(p.PID, p.StartTime); q != nil || err != nil {
		t.Errorf("found %+v, %v after the end", q, err)
	}
}

func TestZombieHasEnded(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe, "holder", "polite", "--dbpath", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // until then a killed child is a zombie
	var p *driver.Process
	eventually(t, "it can be adopted", func() bool { p, err = driver.Adopt(dir); return p != nil && err == nil })
	if err := p.Stop(t.Context(), 0); err != nil || p.Running() {
		t.Errorf("stop of a child that nobody reaps: %v", err)
	}
	if q, err := driver.Find(p.PID, p.StartTime); q != nil || err != nil {
		t.Errorf("found the zombie: %+v, %v", q, err)
	}
	if q, err := driver.Adopt(dir); q != nil || err != nil {
		t.Errorf("adopted the zombie: %+v, %v", q, err)
	}
}
