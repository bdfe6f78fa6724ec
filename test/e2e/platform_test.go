package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/up"
)

// binary is the program under test: KEYWRIGHT_BIN, or one built for this run.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	binary = os.Getenv("KEYWRIGHT_BIN")
	if binary == "" {
		dir, err := os.MkdirTemp("", "keywright-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "keywright")
		if out, err := exec.Command("go", "build", "-o", binary, "../..").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// platform is one `keywright up` with its data directory.
type platform struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	boot up.Bootstrap
	api  *client.Client
}

// output is what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

// String implements fmt.Stringer.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// newPlatform starts one; the test's end stops it and every process that it left.
func newPlatform(t *testing.T, extra ...string) *platform {
	t.Helper()
	p := &platform{t: t, dir: t.TempDir(), args: append([]string{
		"--listen", "127.0.0.1:0", "--aws-listen", "127.0.0.1:0", "--kmip-listen", "127.0.0.1:0", "--node-ports", "0", "--validation-interval", "1s",
	}, extra...)}
	t.Cleanup(func() {
		p.stop()
		p.killAll()
		if t.Failed() {
			p.showLogs()
		}
	})
	p.start()
	return p
}

// run runs a subtest; while it does, the platform's failures are the subtest's.
func (p *platform) run(t *testing.T, name string, fn func(*testing.T)) bool {
	outer := p.t
	defer func() { p.t = outer }()
	return t.Run(name, func(t *testing.T) {
		before := p.t
		p.t = t
		defer func() { p.t = before }()
		fn(t)
	})
}

// start runs `keywright up` and waits for its bootstrap file.
func (p *platform) start() {
	p.t.Helper()
	p.out = &output{}
	path := filepath.Join(p.dir, "bootstrap.json")
	// The file of an earlier start is removed by the new one a moment after it began.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(binary, append([]string{"up", "--data-dir", p.dir}, p.args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(p.cmd, p.done)
	p.eventually("up is ready", 3*time.Minute, func() error {
		select {
		case <-p.done:
			p.t.Fatalf("up ended: %s", p.out)
		default:
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		p.boot = up.Bootstrap{}
		return json.Unmarshal(b, &p.boot)
	})
	p.api = client.New(p.boot.BaseURL, p.boot.PublicKey, secret.FromString(p.boot.PrivateKey))
}

// stop is Ctrl-C; it waits for the end.
func (p *platform) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Error("up did not end within a minute after Ctrl-C")
	}
	p.cmd = nil
}

// kill ends `keywright up` itself with SIGKILL.
func (p *platform) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

// process is one process that works below the data directory.
type process struct {
	pid  int
	args []string
}

func (x process) is(sub string) bool { return len(x.args) > 1 && x.args[1] == sub }

// processes lists what runs of our program with paths below the data directory.
func (p *platform) processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(raw, []byte(p.dir)) || !bytes.HasPrefix(raw, []byte(binary+"\x00")) && !bytes.Contains(raw, []byte("keywright\x00")) {
			continue
		}
		if stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat")); err != nil || zombie(stat) {
			continue
		}
		out = append(out, process{pid: pid, args: strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")})
	}
	return out
}

func zombie(stat []byte) bool {
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(f) > 0 && (f[0] == "Z" || f[0] == "X")
}

// named lists the processes of one subcommand.
func (p *platform) named(sub string) []process {
	var out []process
	for _, x := range p.processes() {
		if x.is(sub) {
			out = append(out, x)
		}
	}
	return out
}

// killNamed sends SIGKILL to the processes of a subcommand, and wants some.
func (p *platform) killNamed(sub string) {
	p.t.Helper()
	all := p.named(sub)
	if len(all) == 0 {
		p.t.Fatalf("no process %q to kill", sub)
	}
	for _, x := range all {
		_ = syscall.Kill(x.pid, syscall.SIGKILL)
	}
}

// killAll sends SIGKILL to everything below the data directory.
func (p *platform) killAll() {
	for _, x := range p.processes() {
		_ = syscall.Kill(x.pid, syscall.SIGKILL)
	}
	deadline := time.Now().Add(60 * time.Second)
	for len(p.processes()) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if p.cmd != nil {
		<-p.done
		p.cmd = nil
	}
}

// eventually polls until check gives nil.
func (p *platform) eventually(what string, limit time.Duration, check func() error) time.Duration {
	p.t.Helper()
	return eventually(p.t, what, limit, check)
}

func eventually(t *testing.T, what string, limit time.Duration, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	var err error
	for time.Since(began) < limit {
		if err = check(); err == nil {
			return time.Since(began)
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s: not within %s: %v", what, limit, err)
	return 0
}

// call makes an API call that has to work.
func (p *platform) call(method, path string, in, out any) {
	p.t.Helper()
	if err := p.api.Do(p.ctx(), method, path, in, out); err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// refused makes an API call that has to be refused with a code.
func (p *platform) refused(code, method, path string, in any) *client.Error {
	p.t.Helper()
	err := p.api.Do(p.ctx(), method, path, in, nil)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != code {
		p.t.Errorf("%s %s: want the refusal %s, got %v", method, path, code, err)
		return &client.Error{}
	}
	if e.Detail == "" {
		p.t.Errorf("%s %s: the refusal %s does not say what is wrong", method, path, code)
	}
	return e
}

func (p *platform) ctx() context.Context { return p.t.Context() }

// showLogs prints the end of every process's log.
func (p *platform) showLogs() {
	p.t.Logf("up: %s", p.out)
	_ = filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") || strings.Contains(path, "/data-") {
			return nil
		}
		b, _ := os.ReadFile(path)
		if len(b) > 6000 {
			b = b[len(b)-6000:]
		}
		p.t.Logf("%s:\n%s", path, b)
		return nil
	})
}

// containsAny searches every file below dir for any of the needles, and gives
// what it found where.
func containsAny(t *testing.T, dir string, needles map[string][]byte, skip func(path string) bool) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.Type().IsRegular() || skip != nil && skip(path) {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for name, n := range needles {
			if bytes.Contains(b, n) {
				found = append(found, fmt.Sprintf("%s in %s", name, path))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
