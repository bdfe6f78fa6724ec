package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

const testSecret = "the-secret-of-an-access-key"

// The secrets of access keys lie in their own file, come back after a restart, and go
// with the last configuration that names one.
func TestSecretsOfAccessKeysLieInTheirOwnFile(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "desired.json"), filepath.Join(dir, "access-keys.json")
	w, err := openWishes(path)
	if err != nil {
		t.Fatal(err)
	}
	key := agentlink.CustomerKey{Generation: 1, KeyARN: "key", AccessKeyID: "AKIALEGACY", SecretAccessKey: testSecret}
	role := agentlink.CustomerKey{Generation: 2, KeyARN: "key", RoleARN: "role"}
	project := keys.ProjectID("0123456789abcdef01234567")
	d := agentlink.Desired{Version: 1, Revision: 1, Projects: []agentlink.Project{{ID: project, CustomerKey: &key}}}
	take := func(w *wishes, p agentlink.Project) {
		t.Helper()
		d.Revision++
		d.Projects = []agentlink.Project{p}
		if err := w.take(d); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(want bool) {
		t.Helper()
		raw, err := os.ReadFile(file)
		if st, statErr := os.Stat(file); want && (err != nil || !strings.Contains(string(raw), testSecret) || statErr != nil || st.Mode().Perm() != 0o600) {
			t.Errorf("the secret is not kept: %s, %v, %v", raw, err, st)
		}
		if !want && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the secret is still there: %s, %v", raw, err)
		}
		if raw, err := os.ReadFile(path); err != nil || strings.Contains(string(raw), testSecret) {
			t.Errorf("the secret is in the desired state (%v): %s", err, raw)
		}
	}
	take(w, agentlink.Project{ID: project, CustomerKey: &key})
	kept(true)
	if key.SecretAccessKey != testSecret {
		t.Error("the caller's state was changed")
	}
	if w, err = openWishes(path); err != nil {
		t.Fatal(err)
	}
	if p, _ := w.project(project); target(*p.CustomerKey).AccessKey.ID != "AKIALEGACY" || p.CustomerKey.SecretAccessKey != testSecret {
		t.Errorf("after a restart: %+v", p.CustomerKey)
	}
	// The switch is prepared, then in force.
	take(w, agentlink.Project{ID: project, CustomerKey: &key, Candidate: &agentlink.Candidate{CustomerKey: role}})
	kept(true)
	take(w, agentlink.Project{ID: project, CustomerKey: &role})
	kept(false)
	if w, err = openWishes(path); err != nil {
		t.Fatal(err)
	}
	if p, _ := w.project(project); target(*p.CustomerKey).RoleARN != "role" {
		t.Errorf("after the switch: %+v", p.CustomerKey)
	}
	if err := os.WriteFile(file, []byte(`{"format":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openWishes(path); !errors.Is(err, agentlink.ErrVersion) {
		t.Errorf("newer file: %v", err)
	}
}

// A host of a migrated project restarts without the control plane, stops when the access
// key is deactivated, and comes back with it.
func TestAHostWithAnAccessKeyRestartsAlone(t *testing.T) {
	r := newRig(t)
	user := r.cloud.User(r.target.KeyID)
	r.change(func(d *agentlink.Desired) {
		k := *d.Projects[0].CustomerKey
		k.RoleARN, k.ExternalID, k.AccessKeyID, k.SecretAccessKey = "", "", user.AccessKey.ID, string(user.AccessKey.Secret.Reveal())
		d.Projects[0].CustomerKey = &k
	})
	r.start()
	id := r.add(true)
	first := r.await(id, agentlink.PhaseRunning)
	r.end()
	r.reap()
	url := r.cfg.ServerURL
	r.cfg.ServerURL = "https://127.0.0.1:1"
	r.start()
	eventually(t, "the node serves without the control plane", func() bool { return !refuses(first.Port) })
	r.end()
	r.cfg.ServerURL = url
	r.start()
	r.await(id, agentlink.PhaseRunning)
	r.cloud.Deactivate(user.AccessKey.ID, true)
	r.await(id, agentlink.PhaseStoppedByCustody)
	for _, c := range r.last().Custody {
		if c.State.Reason != kms.AccessKeyInvalid {
			t.Errorf("custody: %+v", c.State)
		}
	}
	r.cloud.Deactivate(user.AccessKey.ID, false)
	r.await(id, agentlink.PhaseRunning)
}
