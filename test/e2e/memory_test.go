package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inMemory reads every writable mapping of a process, piece by piece with an overlap of
// the longest needle, and gives the needles that it finds. Not even the owner may do
// that (the processes are not dumpable), only root: the test skips for others.
func inMemory(t *testing.T, pid int, needles map[string][]byte) []string {
	t.Helper()
	maps, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "maps"))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "mem"))
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("/proc/PID/mem: the test needs the right to read it, which only root has: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.Close() }()
	const piece, overlap = 1 << 20, 256
	found := map[string]bool{}
	buf := make([]byte, piece+overlap)
	read := int64(0)
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || !strings.HasPrefix(f[1], "rw") {
			continue
		}
		low, high, _ := strings.Cut(f[0], "-")
		from, errFrom := strconv.ParseInt(low, 16, 64)
		to, errTo := strconv.ParseInt(high, 16, 64)
		if errFrom != nil || errTo != nil {
			continue // beyond what a signed offset names
		}
		for at := from; at < to; at += piece {
			n, _ := mem.ReadAt(buf[:min(piece+overlap, to-at)], at) // unmapped meanwhile: nothing there
			read += int64(n)
			for name, b := range needles {
				if bytes.Contains(buf[:n], b) {
					found[name] = true
				}
			}
		}
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be read", read, pid)
	}
	var out []string
	for name := range found {
		out = append(out, fmt.Sprintf("%s in process %d", name, pid))
	}
	return out
}

// TestNoKeyStaysInMemory looks for a master key that was just released in the memory of
// the agent, which unwrapped it, and of the control plane, which must never see it; in
// every log; and after a node's death for a core file. The same search finds the node's
// identifier in the agent, so the search can find something.
func TestNoKeyStaysInMemory(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	s := &story{platform: p, keyed: p.enable("Memory")}
	p.createCluster(s.project, "Orders", "AWS", 1)
	p.createUser(s.project)
	p.connect(s.project, "Orders")
	n := p.cluster(s.project, "Orders").Keywright.Nodes[0]
	needles := map[string][]byte{}
	spelled(needles, "the master key", s.masterKey(t, n.ID, n.MasterKey))
	for round := range 2 { // as made, and as released once more
		for _, sub := range []string{"agent", "server"} {
			for _, x := range p.named(sub) {
				p.eventually(sub+" has forgotten the key", time.Minute, func() error {
					if found := inMemory(t, x.pid, needles); len(found) > 0 {
						return fmt.Errorf("%s: %v", sub, found)
					}
					return nil
				})
				if sub == "agent" && len(inMemory(t, x.pid, map[string][]byte{"id": []byte(n.ID)})) == 0 {
					t.Error("the search finds nothing at all")
				}
			}
		}
		if round == 0 {
			for _, x := range p.named("mongod") {
				_ = syscall.Kill(x.pid, syscall.SIGABRT) // what would leave a core
			}
			p.connect(s.project, "Orders")
		}
	}
	if found := containsAny(t, p.dir, needles, func(path string) bool { return strings.HasPrefix(path, filepath.Join(p.dir, "aws")) }); len(found) > 0 {
		t.Errorf("on disk: %v", found)
	}
	if err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && (d.Name() == "core" || strings.HasPrefix(d.Name(), "core.")) {
			t.Errorf("a core file was written: %s", path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
