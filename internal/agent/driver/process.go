package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LockFile is the file in a data directory that a running node holds locked
// (flock) and that contains its pid in decimal.
const LockFile = "mongod.lock"

// Process is a running process of a node. Its methods are safe for concurrent use.
type Process struct {
	// PID is the process id.
	PID int
	// StartTime is the kernel's start time of the process in clock ticks since
	// boot: pid and start time together name one process for ever.
	StartTime uint64
	// Args is the command line.
	Args []string

	done chan struct{}
	mu   sync.Mutex // keeps signals and the end of fd apart
	fd   int        // -1 once closed
	// exit is the exit code once done is closed; -1 where it is not known.
	exit int
}

// Start starts a command line in its own process group, so that a terminal's
// Ctrl-C reaches the agent and not its nodes. The process outlives the agent.
// What it prints goes to output, appended.
func Start(args []string, output string) (*Process, error) {
	out, err := os.OpenFile(output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // the agent's own directory
	if err != nil {
		return nil, fmt.Errorf("open output file: %w", err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // the program itself; it must outlive every context
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = environment()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	p, err := attach(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("watch started process: %w", err)
	}
	go func() {
		// Reaping the child is what makes its pid free again.
		_ = cmd.Wait()
		p.finish(cmd.ProcessState.ExitCode())
	}()
	return p, nil
}

// environment leaves out what a node has no business with: AWS credentials, and the
// overwriting of freed memory that the agent runs with, which would slow it down and
// protect nothing (a node holds its keys as long as it runs).
func environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "AWS_"):
			continue
		case name == "GODEBUG":
			kv = "GODEBUG=" + strings.Join(slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "clobberfree=1" }), ",")
		}
		env = append(env, kv)
	}
	return env
}

// Adopt finds the process that holds the lock of a data directory. It gives nil
// if nobody holds it.
func Adopt(dbPath string) (*Process, error) {
	path := filepath.Join(dbPath, LockFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // the agent's own directory
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open lock of node: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return nil, nil // closing the file lets the lock go
	} else if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("test lock of node: %w", err)
	}
	raw := make([]byte, 32)
	n, _ := f.ReadAt(raw, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(raw[:n])))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("lock of node %s is held, but does not say by whom", path)
	}
	p, err := attach(pid)
	if err != nil {
		return nil, fmt.Errorf("watch process %d, which lock %s names: %w", pid, path, err)
	}
	// The descriptor holds the process, so what /proc said was said of it unless it
	// has ended meanwhile and the pid is another's.
	if p.ended() || !slices.Contains(p.Args, dbPath) {
		p.finish(-1)
		return nil, fmt.Errorf("lock of node %s names process %d, which is not a node of this directory", path, pid)
	}
	go p.watch()
	return p, nil
}

// Find gives the running process with this pid and start time, or nil if it is
// gone (or the pid is another process's by now).
func Find(pid int, start uint64) (*Process, error) {
	if _, err := StartTime(pid); err != nil {
		return nil, nil //nolint:nilerr // no such process is the answer, not a failure
	}
	p, err := attach(pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil, nil // gone just now
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	if p.StartTime != start || p.ended() {
		p.finish(-1)
		return nil, nil
	}
	go p.watch()
	return p, nil
}

func attach(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	start, err := StartTime(pid)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Empty for a process that has just ended; nothing else fails here.
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	return &Process{PID: pid, StartTime: start, Args: args, fd: fd, done: make(chan struct{}), exit: -1}, nil
}

// ended asks the kernel whether the process has ended. The caller has not yet let
// anybody else see p.
func (p *Process) ended() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0) //nolint:gosec // descriptors are small
	return err != nil || n > 0
}

// StartTime reads when a process started, in clock ticks since boot: field 22 of
// /proc/PID/stat (proc(5)).
func StartTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	// The command in field 2 may hold blanks and parentheses; the last ")" ends it.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 {
		return 0, errors.New("read start time: unexpected format of /proc")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// watch waits for the end of a process that is not our child. It alone closes fd.
func (p *Process) watch() {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	for {
		if _, err := unix.Poll(fds, -1); err == nil || !errors.Is(err, unix.EINTR) {
			p.finish(-1)
			return
		}
	}
}

// finish is called once, by the one goroutine that waits for the process.
func (p *Process) finish(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = code
	_ = unix.Close(p.fd)
	p.fd = -1
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit code after Done; -1 if a signal ended the process or it
// was adopted.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.exit
	default:
		return -1
	}
}

// Running tells whether the process is there.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop sends SIGTERM, after grace SIGKILL, and waits for the end or for ctx. A
// context that has ended already still delivers SIGKILL.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	p.signal(unix.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	p.signal(unix.SIGKILL)
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case <-p.done:
		return nil
	case <-limit.C:
		return fmt.Errorf("process %d does not end after SIGKILL", p.PID)
	}
}

// signal goes through the descriptor, so it can never hit a reused pid.
func (p *Process) signal(s unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		_ = unix.PidfdSendSignal(p.fd, s, nil, 0) // it has just ended: what was wanted
	}
}
