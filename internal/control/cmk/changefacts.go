package cmk

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// stagedIn gives the change that is being prepared, if there is one.
func stagedIn(changes []store.KeyChange) (store.KeyChange, bool) {
	for _, c := range changes {
		if c.Staged() {
			return c, true
		}
	}
	return store.KeyChange{}, false
}

// retainedIn gives the newest change whose configuration before is kept for a rollback.
func retainedIn(changes []store.KeyChange) (out store.KeyChange, ok bool) {
	for _, c := range changes {
		if c.State == store.ChangeCommitted {
			out, ok = c, true
		}
	}
	return out, ok
}

// nextGeneration is one that no configuration had, committed or not.
func nextGeneration(tx *store.Tx, old store.KeyConfig) (uint64, error) {
	changes, err := tx.KeyChanges(old.Project)
	next := old.Generation
	for _, c := range changes {
		next = max(next, c.Generation)
	}
	return next + 1, err
}

// facts reads what a change depends on. The control plane's runs with the candidate are
// the caller's to add.
func (s *Service) facts(tx *store.Tx, c store.KeyChange) (facts, error) {
	f := facts{now: tx.Now(), order: 1, verdict: custody.Unknown}
	v, err := tx.Verdict(c.Project)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return f, err
	}
	if err == nil {
		f.verdict, f.reason = custody.Verdict(v.Kind), kms.Reason(v.Reason)
	}
	if f.hosts, err = s.hostProgress(tx, c.Project); err != nil {
		return f, err
	}
	now, err := tx.KeyConfig(c.Project)
	if err != nil {
		return f, err
	}
	wanted := now.KeyARN
	if c.Staged() {
		wanted = c.Candidate.KeyARN
	}
	if f.unwrapped, err = unwrapped(tx, c.Project, wanted); err != nil {
		return f, err
	}
	changes, err := tx.KeyChanges(c.Project)
	if err != nil {
		return f, err
	}
	f.reused = keys.SameKey(now.KeyARN, c.Previous.KeyARN)
	for _, o := range changes {
		if o.Drop != nil {
			f.order = max(f.order, o.Drop.Order+1)
		}
		if o.Generation != c.Generation && (o.Staged() && keys.SameKey(o.Candidate.KeyARN, c.Previous.KeyARN) ||
			o.State == store.ChangeCommitted && keys.SameKey(o.Previous.KeyARN, c.Previous.KeyARN)) {
			f.reused = true
		}
	}
	f.elsewhere, err = elsewhere(tx, c, now)
	return f, err
}

// elsewhere says what but this change's rollback needs the configuration before: its
// key, or where the key stays the same its role.
func elsewhere(tx *store.Tx, c store.KeyChange, now store.KeyConfig) (string, error) {
	if c.State != store.ChangeCommitted {
		return "", nil
	}
	needs := func(o store.KeyConfig) bool {
		if c.Rewrap {
			return o.Enabled && keys.SameKey(o.KeyARN, c.Previous.KeyARN)
		}
		return o.Enabled && o.Project == c.Project && o.Role == c.Previous.Role && o.Region == c.Previous.Region
	}
	if needs(now) {
		return "the project uses it again", nil
	}
	configs, err := tx.EnabledKeyConfigs()
	if err != nil {
		return "", err
	}
	for _, o := range configs {
		if o.Project != c.Project && needs(o) {
			return "project " + string(o.Project) + " uses it", nil
		}
	}
	open, err := tx.OpenKeyChanges()
	if err != nil {
		return "", err
	}
	for _, o := range open {
		if o.Staged() && needs(o.Candidate) {
			return "project " + string(o.Project) + " changes to it", nil
		}
		if o.Project != c.Project && o.State == store.ChangeCommitted && needs(o.Previous) && o.Safe.IsZero() {
			return "hosts of project " + string(o.Project) + " still need it", nil
		}
	}
	return "", nil
}

// kept lists the wraps of a project by key, without keys that are destroyed or whose
// node is ordered to go with them.
func kept(tx *store.Tx, project keys.ProjectID) (map[keys.KeyID][]store.EscrowedWrap, error) {
	nodes, err := tx.NodesOfProject(project)
	if err != nil {
		return nil, err
	}
	buried := map[keys.NodeID]bool{}
	for _, n := range nodes {
		buried[n.ID] = n.Buried
	}
	all, err := tx.EscrowOfProject(project)
	if err != nil {
		return nil, err
	}
	out := map[keys.KeyID][]store.EscrowedWrap{}
	for _, w := range all {
		if !buried[w.Node] {
			out[w.Key] = append(out[w.Key], w)
		}
	}
	return out, nil
}

// under gives the ARN of the CMK that made a wrap; "" if it cannot be read.
func under(w store.EscrowedWrap) string {
	var e envelope.Wrapped
	if e.UnmarshalBinary(w.Wrapped) != nil {
		return ""
	}
	return e.KeyARN
}

// unwrapped counts the kept keys that the CMK does not open by any wrap in escrow.
func unwrapped(tx *store.Tx, project keys.ProjectID, keyARN string) (n int, err error) {
	all, err := kept(tx, project)
	if err != nil {
		return 0, err
	}
	for _, ws := range all {
		found := false
		for _, w := range ws {
			found = found || keys.SameKey(under(w), keyARN)
		}
		if !found {
			n++
		}
	}
	return n, nil
}

// dropEscrow removes the wraps that an order covers, of keys that the CMK in force
// opens by another wrap.
func dropEscrow(tx *store.Tx, project keys.ProjectID, d store.WrapDrop, inForce string) error {
	all, err := tx.EscrowOfProject(project)
	if err != nil {
		return err
	}
	opens := map[keys.KeyID]bool{}
	for _, w := range all {
		opens[w.Key] = opens[w.Key] || keys.SameKey(under(w), inForce)
	}
	for _, w := range all {
		arn := under(w)
		if !opens[w.Key] || keys.SameKey(arn, inForce) || !d.Covers(arn, w.Generation) {
			continue
		}
		if err := tx.DropEscrow(w.Key, w.Generation); err != nil {
			return fmt.Errorf("drop wrap of key %s: %w", w.Key, err)
		}
	}
	return nil
}

// hostProgress lists the hosts that keep keys of a project, or may make some.
func (s *Service) hostProgress(tx *store.Tx, project keys.ProjectID) ([]HostProgress, error) {
	nodes, err := tx.NodesOfProject(project)
	if err != nil {
		return nil, err
	}
	all, err := kept(tx, project)
	if err != nil {
		return nil, err
	}
	needed := map[keys.HostID]bool{}
	for _, ws := range all {
		needed[ws[0].Host] = true
	}
	for _, n := range nodes {
		if n.Encrypted && !n.Buried {
			needed[n.Host] = true
		}
	}
	reports, err := tx.KeyProgress(project)
	if err != nil {
		return nil, err
	}
	told := map[keys.HostID]agentlink.WrapStatus{}
	for _, r := range reports {
		var w agentlink.WrapStatus
		if err := json.Unmarshal(r.Wraps, &w); err != nil {
			return nil, fmt.Errorf("read progress of host %s: %w", r.Host, err)
		}
		told[r.Host] = w
	}
	hosts, err := tx.Hosts()
	if err != nil {
		return nil, err
	}
	var out []HostProgress
	for _, h := range hosts {
		if !needed[h.ID] {
			continue
		}
		w, ok := told[h.ID]
		out = append(out, HostProgress{
			Host: h.ID, Hostname: h.Hostname, Silent: tx.Now().Sub(h.LastSeen) > s.cfg.Silent, Told: ok, WrapStatus: w,
		})
	}
	return out, nil
}

// progress takes in what a host says about the wraps of a project.
func progress(tx *store.Tx, project keys.ProjectID, host keys.HostID, w *agentlink.WrapStatus) error {
	if w == nil {
		return nil
	}
	v := *w
	if v.Failure != nil {
		f := *v.Failure
		f.Detail, f.Remedy, f.Permission = clip(f.Detail), clip(f.Remedy), clip(f.Permission)
		v.Failure = &f
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode progress: %w", err)
	}
	old, err := tx.KeyProgress(project)
	if err != nil {
		return err
	}
	for _, o := range old {
		if o.Host == host && string(o.Wraps) == string(b) {
			return nil
		}
	}
	return tx.PutKeyProgress(store.KeyProgress{Project: project, Host: host, Reported: tx.Now(), Wraps: b})
}

// Staged is what hosts are told beside the configuration in force.
type Staged struct {
	Candidate *store.KeyConfig
	Paused    bool
	// Retained are configurations whose wraps are kept, newest first.
	Retained []store.KeyConfig
	Drops    []store.WrapDrop
}

// Staged gives what is prepared, kept and to be dropped in a project.
func (s *Service) Staged(tx *store.Tx, project keys.ProjectID) (out Staged, err error) {
	changes, err := tx.KeyChanges(project)
	if err != nil || len(changes) == 0 {
		return out, err
	}
	now, err := tx.KeyConfig(project)
	if err != nil {
		return out, err
	}
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		switch {
		case c.Staged():
			candidate := c.Candidate
			out.Candidate, out.Paused = &candidate, c.State == store.ChangePaused
		case c.State == store.ChangeCommitted && c.Previous.AccessKeyID == now.AccessKeyID:
			out.Retained = append(out.Retained, c.Previous)
		}
		if c.Drop != nil && c.Dropped.IsZero() {
			out.Drops = append(out.Drops, *c.Drop)
		}
	}
	return out, nil
}

// Unwanted tells whether a wrap that a host sends was ordered to be dropped: it was on
// its way, or comes from an older copy of the host's directory. Only a key that escrow
// opens otherwise has such wraps.
func (s *Service) Unwanted(tx *store.Tx, w agentlink.EscrowedWrap) (bool, error) {
	changes, err := tx.KeyChanges(w.Project)
	if err != nil {
		return false, err
	}
	now, err := tx.KeyConfig(w.Project)
	if err != nil {
		return false, err
	}
	arn := under(store.EscrowedWrap{Wrapped: w.Wrapped})
	for _, c := range changes {
		if c.Drop == nil || !c.Drop.Covers(arn, w.Generation) || keys.SameKey(arn, now.KeyARN) {
			continue
		}
		others, err := tx.EscrowOfKey(w.Key)
		if err != nil {
			return false, err
		}
		for _, o := range others {
			if keys.SameKey(under(o), now.KeyARN) {
				return true, nil
			}
		}
	}
	return false, nil
}
