package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

// beforeInstall adapts a check of a fingerprint to a keeper.
func beforeInstall(check func(context.Context, string) error) func(context.Context, *x509.Certificate) error {
	if check == nil {
		return nil
	}
	return func(ctx context.Context, leaf *x509.Certificate) error { return check(ctx, pki.Fingerprint(leaf.Raw)) }
}

// usersFor lists the users that the node shall have, by "database.name".
func (n *node) usersFor(project keys.ProjectID, cluster keys.ClusterID) map[string]agentlink.DatabaseUser {
	out := map[string]agentlink.DatabaseUser{}
	p, ok := n.a.wishes.project(project)
	if !ok {
		return nil
	}
	for _, u := range p.Users {
		if len(u.Clusters) == 0 || slices.Contains(u.Clusters, cluster) {
			out[u.Database+"."+u.Username] = u
		}
	}
	return out
}

// chores tells whether users or leftovers wait, and the highest revision of a
// user below which everything is carried out.
func (n *node) chores() (pending bool, usersRevision uint64) {
	n.mu.Lock()
	rec, exists := n.rec, n.exists
	n.mu.Unlock()
	if !exists {
		return false, 0
	}
	wanted := n.usersFor(rec.Project, rec.Cluster)
	pending = len(rec.Stale) > 0
	lowest := ^uint64(0)
	for key, u := range wanted {
		usersRevision = max(usersRevision, u.Revision)
		if rec.Users[key] < u.Revision {
			lowest = min(lowest, u.Revision)
			pending = pending || u.Password != ""
		}
	}
	if wanted != nil {
		for key := range rec.Users {
			if _, ok := wanted[key]; !ok {
				pending = true
			}
		}
	}
	if lowest <= usersRevision {
		usersRevision = lowest - 1
	}
	return pending, usersRevision
}

// tend clears what a rewrite left behind, brings users up to date and rotates the
// master key and the database keys. None waits for another: a user that the node refuses must not keep old files.
func (n *node) tend(ctx context.Context) error {
	err := errors.Join(n.tendLeftovers(ctx), n.tendUsers(ctx), n.tendRotation(ctx), n.tendKeysets(ctx))
	n.a.reporter.poke()
	return err
}

func (n *node) tendUsers(ctx context.Context) error {
	n.mu.Lock()
	rec := n.rec
	n.mu.Unlock()
	wanted := n.usersFor(rec.Project, rec.Cluster)
	if wanted == nil {
		return nil
	}
	var apply, drop []driver.User
	for key, u := range wanted {
		if rec.Users[key] >= u.Revision || u.Password == "" {
			continue
		}
		du := driver.User{Database: u.Database, Name: u.Username, Password: secret.FromString(u.Password)}
		defer du.Password.Wipe()
		for _, r := range u.Roles {
			du.Roles = append(du.Roles, driver.Role{Role: r.Role, Database: r.Database})
		}
		apply = append(apply, du)
	}
	for key := range rec.Users {
		if _, ok := wanted[key]; !ok {
			db, name, _ := strings.Cut(key, ".") // a database's name has no dot
			drop = append(drop, driver.User{Database: db, Name: name})
		}
	}
	if len(apply)+len(drop) == 0 {
		return nil
	}
	admin, err := n.admin(rec)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	done, err := admin.ApplyUsers(limit, apply, drop)
	if len(done) == 0 {
		return err
	}
	users := map[string]uint64{}
	maps.Copy(users, rec.Users)
	for _, u := range done {
		key := u.Database + "." + u.Name
		if w, ok := wanted[key]; ok {
			users[key] = w.Revision
		} else {
			delete(users, key)
		}
	}
	return errors.Join(err, n.update(func(r *record) { r.Users = users }))
}

// tendLeftovers removes the files that a rewrite replaced, and destroys the
// keys that only they needed. The order to do so was the change of the
// cluster's encryption, which the desired generation records.
func (n *node) tendLeftovers(ctx context.Context) error {
	n.mu.Lock()
	rec := n.rec
	n.mu.Unlock()
	if len(rec.Stale) == 0 {
		return nil
	}
	for _, d := range rec.Stale {
		if err := durable.RemoveAll(n.a.dir.node(n.id, dirName(d))); err != nil {
			return err
		}
	}
	var keep []keys.KeyID
	if rec.Encrypted {
		id, err := n.drv.MasterKey(n.a.dir.node(n.id, rec.dirName()))
		if err != nil {
			return fmt.Errorf("find the key in use: %w", err)
		}
		keep = append(keep, id)
	}
	if err := n.a.vault.destroy(ctx, fmt.Sprintf("rewritten as of generation %d", rec.Generation), n.id, keep...); err != nil {
		return err
	}
	return n.update(func(r *record) { r.Stale = nil })
}

// rewrite writes the node's files anew beside themselves and swaps them in. Up
// to the replacement of the record the node is its old files, from then on its
// new ones; what is left of the others is removed.
func (n *node) rewrite(ctx context.Context) error {
	w, ok := n.a.wishes.node(n.id)
	if !ok {
		return errors.New("the node is not wanted any more")
	}
	if err := n.stop(ctx, stopGrace); err != nil {
		return err
	}
	n.mu.Lock()
	rec := n.rec
	n.mu.Unlock()
	spec, err := n.spec(ctx, w, rec, true)
	if err != nil {
		return err
	}
	if !n.look().mayStart {
		return nil // the verdict has turned meanwhile: decide again
	}
	next := rec.Dir + 1
	for _, s := range rec.Stale {
		next = max(next, s+1)
	}
	job := driver.Rewrite{
		Spec: spec, From: spec.DBPath, To: n.a.dir.node(n.id, dirName(next)),
		FromEncrypted: rec.Encrypted, ToEncrypted: w.Encrypted,
	}
	if err := durable.RemoveAll(job.To); err != nil { // what an earlier try left
		return err
	}
	n.log.Info("node is rewritten", "from_encrypted", rec.Encrypted, "to_encrypted", w.Encrypted)
	if err := n.runHelper(ctx, job); err != nil {
		return err
	}
	if job.ToEncrypted {
		if _, err := n.drv.MasterKey(job.To); err != nil {
			return fmt.Errorf("the rewritten files name no master key: %w", err)
		}
	}
	// The new directory's name is durable before the record names it.
	if err := durable.SyncDir(n.a.dir.node(n.id)); err != nil {
		return err
	}
	return n.update(func(r *record) {
		r.Stale = append(slices.Clone(r.Stale), r.Dir)
		r.Dir, r.Encrypted, r.Generation, r.Rotating = next, w.Encrypted, w.Generation, nil
	})
}

// runHelper runs the rewriting process. It is where custody finds it.
func (n *node) runHelper(ctx context.Context, job driver.Rewrite) error {
	p, err := driver.Start(n.drv.Rewrite(job), n.a.dir.node(n.id, "output.log"))
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.helper = p
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.helper = nil
		n.mu.Unlock()
	}()
	if n.look().mustBeDown {
		return errors.Join(errors.New("the customer key is not usable"), p.Stop(ctx, n.drv.Grace()))
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Stop(ctx, n.drv.Grace()))
	}
	if p.ExitCode() != 0 {
		return fmt.Errorf("rewriting the node ended with code %d, see %s", p.ExitCode(), n.a.dir.node(n.id, "output.log"))
	}
	return nil
}
