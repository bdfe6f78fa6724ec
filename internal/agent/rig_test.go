package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

// rig is one host: an agent that can end and begin again on one directory, under a
// scripted control plane and key service. Its nodes are real processes.
type rig struct {
	*plane
	cloud   *kmstest.Cloud
	target  kms.Target
	project keys.ProjectID
	cluster keys.ClusterID
	cfg     Config
	end     func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes of the engine: not in short mode")
	}
	r := &rig{plane: newPlane(t), cloud: kmstest.NewCloud(), project: keys.ProjectID(keys.NewID(time.Now())), cluster: keys.ClusterID(keys.NewID(time.Now()))}
	r.target = r.cloud.Project()
	probe := kms.Run(t.Context(), r.cloud, kms.RunInput{Target: r.target, Context: keys.ProbeContext(r.desired.Deployment, r.project).Map()})
	if probe.Outcome != kms.OK {
		t.Fatalf("no probe: %+v", probe)
	}
	r.desired.Projects = []agentlink.Project{{ID: r.project, CustomerKey: &agentlink.CustomerKey{
		Generation: 1, RoleARN: r.target.RoleARN, ExternalID: r.target.ExternalID, KeyARN: r.target.KeyID, Region: r.target.Region,
		Probe: probe.Probe.Ciphertext, ProbeSHA256: probe.Probe.Digest, Interval: agentlink.Duration(time.Second),
	}}}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(r.token()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.DiscardHandler
	if testing.Verbose() {
		log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})
	}
	r.cfg = Config{
		DataDir: filepath.Join(dir, "host"), ServerURL: r.http.URL, EnrollTokenFile: token, Hostname: "db1", KMIPListen: "127.0.0.1:0",
		Executable: exe, Provider: r.cloud, Logger: slog.New(log),
	}
	t.Cleanup(func() {
		if r.end != nil {
			r.end()
		}
		r.reap()
	})
	return r
}

// reap kills what is left of the nodes: each by the lock of its own directory.
func (r *rig) reap() {
	locks, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, "nodes", "*", "data-*", driver.LockFile))
	for _, l := range locks {
		if p, err := driver.Adopt(filepath.Dir(l)); err == nil && p != nil {
			_ = p.Stop(context.Background(), 0)
		}
	}
}

// start begins an agent. r.end ends it without stopping its nodes.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.mu.Lock()
	r.status = agentlink.Status{}
	r.mu.Unlock()
	cfg := r.cfg
	go func() { done <- Run(ctx, cfg) }()
	r.end = func() {
		cancel()
		r.end = nil
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("agent ended with %v", err)
			}
		case <-time.After(60 * time.Second):
			r.t.Error("agent does not end")
		}
	}
}

func (r *rig) add(encrypted bool) keys.NodeID {
	id := keys.NodeID(keys.NewID(time.Now()))
	r.change(func(d *agentlink.Desired) {
		d.Nodes = append(d.Nodes, agentlink.Node{
			ID: id, Project: r.project, Cluster: r.cluster, Engine: "bundled", Run: true, Encrypted: encrypted, Generation: 1, ReplicaSet: "rs-" + string(id),
		})
	})
	return id
}

func (r *rig) edit(id keys.NodeID, fn func(*agentlink.Node)) {
	r.change(func(d *agentlink.Desired) {
		for i := range d.Nodes {
			if d.Nodes[i].ID == id {
				fn(&d.Nodes[i])
				d.Nodes[i].Generation++
			}
		}
	})
}

func (r *rig) await(id keys.NodeID, phase agentlink.Phase) agentlink.NodeStatus {
	r.t.Helper()
	var s agentlink.NodeStatus
	what := fmt.Sprintf("node %s is %s", id, phase)
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last report: %+v", s)
		}
	}()
	eventually(r.t, what, func() bool { s = r.node(id); return s.Phase == phase })
	return s
}

func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func refuses(port int) bool {
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

func (r *rig) record(id keys.NodeID) record {
	r.t.Helper()
	rec, ok, err := loadRecord(layout{r.cfg.DataDir}, id)
	if err != nil || !ok {
		r.t.Fatalf("record of node: %t, %v", ok, err)
	}
	return rec
}
