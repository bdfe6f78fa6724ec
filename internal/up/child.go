package up

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/durable"
)

// childGrace is how long a child may take to stop; the agent stops its nodes in it.
const childGrace = 30 * time.Second

// child is one long-running process of this program, restarted when it dies.
type child struct {
	name    string
	logPath string
	pidPath string
	exe     string
	log     *slog.Logger

	mu   sync.Mutex
	args []string
	env  []string
	cmd  *exec.Cmd
	done chan struct{}
}

func newChild(c Config, name string) *child {
	return &child{
		name: name, exe: c.Executable, logPath: c.path("logs", name+".log"), pidPath: c.path("run", name+".json"),
		log: c.Logger.With(slog.String("process", name)),
	}
}

// pidFile names a child that runs.
type pidFile struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
}

// stopLeftover stops a process of an earlier, killed `keywright up`.
func (c *child) stopLeftover(ctx context.Context) error {
	var p pidFile
	err := durable.ReadJSON(c.pidPath, &p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return durable.Remove(c.pidPath) // torn file: nothing to go by
	}
	proc, err := driver.Find(p.PID, p.StartTime)
	if err != nil {
		return err
	}
	if proc != nil {
		c.log.Info("stopping a process that an earlier start left running", "pid", p.PID)
		if err := proc.Stop(ctx, childGrace); err != nil {
			return fmt.Errorf("stop earlier %s: %w", c.name, err)
		}
	}
	return durable.Remove(c.pidPath)
}

// start starts the child with these arguments and environment (added to ours).
func (c *child) start(args, env []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.args, c.env = args, env
	return c.spawn()
}

func (c *child) spawn() error {
	out, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", c.name, err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(c.exe, c.args...) //nolint:gosec,noctx // our own program; ended by stop
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(withoutAWS(os.Environ()), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop children in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	start, err := driver.StartTime(cmd.Process.Pid)
	if err == nil {
		err = durable.WriteJSON(c.pidPath, pidFile{PID: cmd.Process.Pid, StartTime: start}, 0o600)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("note process of %s: %w", c.name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	c.cmd, c.done = cmd, done
	return nil
}

// onlyAWS keeps the AWS settings of an environment.
func onlyAWS(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "AWS_") })
}

// withoutAWS drops AWS settings: each child gets exactly the ones it needs.
func withoutAWS(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "AWS_") })
}

// pin replaces the value of a flag for restarts: a child that chose a free port
// comes back at the same one, since others know it by then.
func (c *child) pin(flag, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.args, flag); i >= 0 && i+1 < len(c.args) {
		c.args[i+1] = value
	}
}

// ended is closed when the current process ends.
func (c *child) ended() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// restart starts a child that died.
func (c *child) restart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spawn()
}

// stop ends the child in order: SIGTERM, and SIGKILL after the grace.
func (c *child) stop() {
	c.mu.Lock()
	cmd, done := c.cmd, c.done
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(childGrace)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		c.log.Warn("process does not stop in time, killing it")
		_ = cmd.Process.Kill()
		<-done
	}
	if err := durable.Remove(c.pidPath); err != nil {
		c.log.Warn("note of a stopped process stays behind", "error", err)
	}
}

// waitFile waits until the child has written a file, reads it into v, and gives
// up when the child ends first.
func (c *child) waitFile(ctx context.Context, path string, v any) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		err := durable.ReadJSON(path, v)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-t.C:
		case <-c.ended():
			return fmt.Errorf("%s ended before it was ready; the end of %s says why:\n%s", c.name, c.logPath, tail(c.logPath))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready in time, see %s: %w", c.name, c.logPath, ctx.Err())
		}
	}
}

// tail gives the last lines of a log.
func tail(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // our own log
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
