package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
)

// wishes holds the newest desired state: in memory with passwords, on disk
// without. Secrets of access keys lie in a file of their own. It is safe for concurrent
// use.
type wishes struct {
	path, secretsPath string
	// taking serializes take; mu is never held while the disk is written, since
	// custody's stop asks here too.
	taking  sync.Mutex
	written []byte
	secrets map[string]string // of access keys, as they lie on the disk

	mu      sync.Mutex
	current agentlink.Desired
	admit   map[string]kmip.Principal
	changed chan struct{}
	frozen  string
	// thawed counts the freezes that are over.
	thawed uint64
}

func openWishes(path string) (*wishes, error) {
	w := &wishes{path: path, secretsPath: filepath.Join(filepath.Dir(path), "access-keys.json"), changed: make(chan struct{})}
	err := durable.ReadJSON(path, &w.current)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if w.current.Version > agentlink.Version {
		return nil, fmt.Errorf("stored desired state: %w", agentlink.ErrVersion)
	}
	if err := check(w.current); err != nil {
		return nil, fmt.Errorf("stored desired state %s: %w", path, err)
	}
	if err := w.restoreSecrets(); err != nil {
		return nil, err
	}
	w.index()
	return w, nil
}

// errRolledBack means that the control plane offers an older state than this
// host remembers: its store was restored. Changes freeze until a person decides
// (key-plane rule 2.4).
var errRolledBack = errors.New("the control plane is older than this host remembers")

// take stores a newer desired state. The same revision is taken too: after a restart
// it brings the passwords, which are not on disk.
func (w *wishes) take(d agentlink.Desired) error {
	w.taking.Lock()
	defer w.taking.Unlock()
	have, _ := w.get()
	if d.Revision < have.Revision {
		w.freeze(fmt.Sprintf("control plane offers revision %d, this host has %d: was its store restored from a backup? Nothing is changed here until a person decides: `keywright host unfreeze`", d.Revision, have.Revision))
		return errRolledBack
	}
	b, err := json.MarshalIndent(withoutSecrets(d), "", "  ")
	if err != nil {
		return fmt.Errorf("encode desired state: %w", err)
	}
	if err := w.keepSecrets(have, d); err != nil {
		return err
	}
	if !bytes.Equal(b, w.written) {
		if err := durable.WriteFile(w.path, b, 0o600); err != nil {
			return err
		}
		w.written = b
	}
	if err := w.keepSecrets(d); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.frozen != "" {
		w.thawed++
	}
	w.frozen = ""
	w.current = d
	w.index()
	close(w.changed)
	w.changed = make(chan struct{})
	return nil
}

// freeze notes why no changes come.
func (w *wishes) freeze(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = why
}

// check refuses a state whose identifiers cannot be names of files: they become
// directories that are removed on a tombstone.
func check(d agentlink.Desired) error {
	var errs []error
	for _, p := range d.Projects {
		errs = append(errs, keys.CheckID("project", string(p.ID)))
	}
	for _, n := range d.Nodes {
		errs = append(errs, keys.CheckID("node", string(n.ID)), keys.CheckID("project", string(n.Project)), keys.CheckID("cluster", string(n.Cluster)))
	}
	for _, t := range d.Tombstones {
		errs = append(errs, keys.CheckID("tombstone", string(t.Node)))
	}
	return errors.Join(errs...)
}

// withoutSecrets is what is kept on disk: neither passwords, nor secrets of access keys,
// nor what other validators said at the time, nor orders that would be late.
func withoutSecrets(d agentlink.Desired) agentlink.Desired {
	d.Projects = slices.Clone(d.Projects)
	for i, p := range d.Projects {
		d.Projects[i].Validators, d.Projects[i].Drills = nil, nil
		d.Projects[i].Users = slices.Clone(p.Users)
		for j := range p.Users {
			d.Projects[i].Users[j].Password = ""
		}
	}
	hideAccessKeys(d.Projects)
	return d
}

// index maps the fingerprints that are admitted to their nodes.
func (w *wishes) index() {
	w.admit = map[string]kmip.Principal{}
	for _, n := range w.current.Nodes {
		for _, f := range n.KMIPClientFingerprints {
			w.admit[f] = kmip.Principal{Node: n.ID, Project: n.Project, Cluster: n.Cluster, Fingerprint: f}
		}
	}
}

// Admit implements kmip.Admission.
func (w *wishes) Admit(fingerprint string) (kmip.Principal, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.admit[fingerprint]
	return p, ok
}

// get gives the current state, and a channel that is closed when it changes.
func (w *wishes) get() (agentlink.Desired, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current, w.changed
}

// alarm says why changes are frozen; empty if they are not.
func (w *wishes) alarm() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frozen
}

// thaws counts the freezes that are over.
func (w *wishes) thaws() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.thawed
}

func (w *wishes) node(id keys.NodeID) (agentlink.Node, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.current.Nodes, func(n agentlink.Node) bool { return n.ID == id })
	if i < 0 {
		return agentlink.Node{}, false
	}
	return w.current.Nodes[i], true
}

func (w *wishes) project(id keys.ProjectID) (agentlink.Project, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.current.Projects, func(p agentlink.Project) bool { return p.ID == id })
	if i < 0 {
		return agentlink.Project{}, false
	}
	return w.current.Projects[i], true
}
