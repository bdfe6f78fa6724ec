package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
)

// rotateLimit bounds one attempt at a rotation.
const rotateLimit = time.Minute

// pendingRotation is a rotation that was begun: with it, an agent that dies at any
// point knows afterwards which key was to be replaced.
type pendingRotation struct {
	// Counter is the desired state's when the rotation began, From the key in use then.
	Counter uint64     `json:"counter"`
	From    keys.KeyID `json:"from"`
}

// rotationDue tells whether a rotation of the master key is wanted or unfinished, or
// keys wait to be destroyed. Both need a running, encrypted node.
func (n *node) rotationDue(rec record) bool {
	w, ok := n.a.wishes.node(n.id)
	if !ok || !rec.Encrypted || !w.Encrypted {
		return false
	}
	return w.Rotation > rec.Rotation || rec.Rotating != nil || len(n.a.vault.readable(n.id, w.RetiredKeys)) > 0
}

// tendRotation replaces the master key if that is wanted and the customer key can be
// used; otherwise it waits. It can be repeated after a crash at any point.
func (n *node) tendRotation(ctx context.Context) error {
	n.mu.Lock()
	rec, running := n.rec, n.proc != nil
	n.mu.Unlock()
	if !running || !n.rotationDue(rec) || !n.look().mayStart {
		return nil
	}
	w, _ := n.a.wishes.node(n.id)
	if w.Rotation > rec.Rotation || rec.Rotating != nil {
		if err := n.rotate(ctx, rec, w.Rotation); err != nil {
			err = fmt.Errorf("rotate master key: %w", err)
			n.setRotationFailure(err.Error())
			return err
		}
		n.setRotationFailure("")
		return nil // what is retired by it the control plane says when it has seen it
	}
	return n.destroyRetired(ctx, w.RetiredKeys)
}

func (n *node) setRotationFailure(text string) {
	n.mu.Lock()
	n.rotationFailure = text
	n.mu.Unlock()
}

// rotate carries out one rotation (key-plane section 4): the node has a new key made
// and seals its keyring with it; only when every keyring on disk names the new key
// and the host holds it in escrow does the old one become Deactivated.
func (n *node) rotate(ctx context.Context, rec record, counter uint64) error {
	ctx, cancel := context.WithTimeout(ctx, rotateLimit)
	defer cancel()
	if rec.Rotating == nil {
		from, err := n.drv.MasterKey(n.a.dir.node(n.id, rec.dirName()))
		if err != nil {
			return fmt.Errorf("find the key in use: %w", err)
		}
		if err := n.a.recorder.record(ctx, n.rotationEvent(rec, "MASTER_KEY_ROTATION_STARTED", "The rotation of a node's master key begins.", from, "")); err != nil {
			return err
		}
		if err := n.update(func(r *record) { r.Rotating = &pendingRotation{Counter: counter, From: from} }); err != nil {
			return err
		}
		rec.Rotating = &pendingRotation{Counter: counter, From: from}
	}
	if err := n.a.step("noted"); err != nil {
		return err
	}
	admin, err := n.admin(rec)
	if err != nil {
		return err
	}
	to, err := admin.RotateMasterKey(ctx, rec.Rotating.From)
	if err != nil {
		return err
	}
	if err := n.a.step("answered"); err != nil {
		return err
	}
	if err := n.confirmKey(ctx, rec, to); err != nil {
		return err
	}
	if err := n.a.vault.deactivate(ctx, n.id, to); err != nil {
		return err
	}
	if err := n.a.step("deactivated"); err != nil {
		return err
	}
	if err := n.a.recorder.record(ctx, n.rotationEvent(rec, "MASTER_KEY_ROTATED", "A node's keyring is sealed with a new master key.", rec.Rotating.From, to)); err != nil {
		return err
	}
	done := rec.Rotating.Counter
	if err := n.update(func(r *record) { r.Rotation, r.Rotating = max(r.Rotation, done), nil }); err != nil {
		return err
	}
	n.log.Info("master key of node rotated", "from", rec.Rotating.From, "to", to)
	n.a.reporter.poke()
	return nil
}

// confirmKey makes sure that the files name the new key and no other one, and that
// the new key is held here and in escrow.
func (n *node) confirmKey(ctx context.Context, rec record, to keys.KeyID) error {
	if to == rec.Rotating.From {
		return errors.New("the node still uses the old key")
	}
	named, err := n.namedKeys()
	if err != nil {
		return err
	}
	if !slices.Equal(named, []keys.KeyID{to}) {
		return fmt.Errorf("the node says that it uses %s, its keyrings name %v", to, named)
	}
	r, ok := n.a.vault.store.Get(to)
	if !ok || r.Node != n.id || r.State != keys.StateActive {
		return fmt.Errorf("the key %s that the node's keyring names is not an active one of this node", to)
	}
	return n.a.vault.escrowNode(ctx, n.id)
}

// namedKeys lists the master keys that any keyring of the node names, in whatever
// data directory.
func (n *node) namedKeys() ([]keys.KeyID, error) {
	dirs, err := filepath.Glob(n.a.dir.node(n.id, "data-*"))
	if err != nil {
		return nil, fmt.Errorf("list data directories: %w", err)
	}
	var out []keys.KeyID
	for _, d := range dirs {
		named, err := n.drv.MasterKeys(d)
		if err != nil {
			return nil, err
		}
		out = append(out, named...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// destroyRetired destroys the keys that the control plane has named after it
// acknowledged the rotation that replaced them. One that a keyring still names stays.
func (n *node) destroyRetired(ctx context.Context, retired []keys.KeyID) error {
	named, err := n.namedKeys()
	if err != nil {
		return err
	}
	if len(named) == 0 {
		return errors.New("no keyring of the node was found: no key is destroyed")
	}
	for _, k := range retired {
		if slices.Contains(named, k) {
			return fmt.Errorf("the key %s is to be destroyed, but a keyring of the node names it", k)
		}
	}
	return n.a.vault.destroyRetired(ctx, n.id, retired)
}

func (n *node) rotationEvent(rec record, kind, message string, from, to keys.KeyID) audit.Event {
	return audit.Event{
		Type: kind, Project: string(rec.Project), Cluster: string(rec.Cluster), Node: string(n.id), Message: message,
		Data: map[string]string{"from": string(from), "to": string(to), "rotation": fmt.Sprint(rec.Rotating.counter())},
	}
}

func (p *pendingRotation) counter() uint64 {
	if p == nil {
		return 0
	}
	return p.Counter
}

// step lets a test end the work at a point.
func (a *Agent) step(name string) error {
	if a.cfg.afterStep == nil {
		return nil
	}
	return a.cfg.afterStep(name)
}
