package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The bounds of what one host may send.
const (
	maxWrapped = 16 << 10
	maxText    = 1000
	maxAlarms  = 20
	// maxKeys is how many keys of one node are kept (key-plane rule 5.3).
	maxKeys = 1000
)

// Status takes in a host's report: custody verdicts, nodes, carried-out tombstones,
// and the head of the host's own audit chain. All of it happens in one transaction.
func (s *Service) Status(ctx context.Context, host keys.HostID, st agentlink.Status) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		h, err := tx.Host(host)
		if err != nil {
			return err
		}
		if h, err = s.hostStatus(tx, h, st); err != nil {
			return err
		}
		if err := s.cfg.Custody.Report(tx, host, st.Custody); err != nil {
			return err
		}
		touched := map[keys.ClusterID]bool{}
		for _, n := range st.Nodes {
			c, err := s.nodeStatus(tx, h, n)
			if err != nil {
				return err
			}
			touched[c] = true
		}
		for _, id := range st.Buried {
			c, err := s.buried(tx, host, id)
			if err != nil {
				return err
			}
			touched[c] = true
		}
		delete(touched, "")
		for c := range touched {
			if err := s.observe(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) hostStatus(tx *store.Tx, h store.Host, st agentlink.Status) (store.Host, error) {
	h.Reported = max(h.Reported, st.Revision)
	if h.Frozen == "" {
		var err error
		if h, err = s.freezeIn(tx, h, st.Revision); err != nil {
			return h, err
		}
	}
	before := h.AuditSeq
	h, err := s.auditStatus(tx, h, st)
	if err != nil {
		return h, err
	}
	if st.AuditSeq < before && h.Frozen == "" {
		h.Frozen = fmt.Sprintf("the host's audit chain ends at event %d, it had %d: an older copy of its directory was restored, or its log was cut.", st.AuditSeq, before)
	}
	h.KMIPAddress, h.Enacted, h.LastSeen = clip(st.KMIPAddress), st.Revision, tx.Now()
	h.Egress, _ = agentlink.NormalAddresses(st.EgressAddresses)
	h.AuditSeq, h.AuditHead = st.AuditSeq, clip(st.AuditHead)
	h.CertificateEnds = certificateEnds(st.CertificateEnds)
	h.Holdings = holdings(st.Holdings)
	alarms := clipAll(st.Alarms, maxAlarms)
	for _, a := range alarms {
		if !slices.Contains(h.Alarms, a) {
			if err := s.alarm(tx, h, "HOST_ALARM", "Host "+h.Hostname+" raises an alarm: "+a); err != nil {
				return h, err
			}
		}
	}
	h.Alarms = alarms
	h.Told = slices.DeleteFunc(h.Told, func(about string) bool {
		id, ok := strings.CutPrefix(about, aboutBurial)
		return ok && !slices.Contains(st.Buried, keys.NodeID(id))
	})
	return h, tx.PutHost(h)
}

// holdings bounds what a host says of its wraps. One that says more than we keep is
// taken as one that has not said.
func holdings(in []agentlink.KeyHolding) []store.KeyHolding {
	if in == nil || len(in) > agentlink.MaxHoldings {
		return nil
	}
	out := make([]store.KeyHolding, 0, len(in))
	for _, k := range in {
		out = append(out, store.KeyHolding{KeyARN: clip(k.KeyARN), Wraps: k.Wraps, Unescrowed: k.Unescrowed})
	}
	return out
}

// certificateEnds bounds what a host says of its certificates.
func certificateEnds(in []agentlink.CertificateEnd) map[string]time.Time {
	var out map[string]time.Time
	for _, c := range in[:min(len(in), maxAlarms)] {
		if out == nil {
			out = map[string]time.Time{}
		}
		out[clip(c.Name)] = c.End.UTC().Truncate(time.Second)
	}
	return out
}

func (s *Service) alarm(tx *store.Tx, h store.Host, kind, text string) error {
	e := hostEvent(h, kind, "%s", text)
	e.Data["alarm"] = "true"
	return tx.Append(e)
}

// What a host is told of once while it lasts: the beginnings of entries of Host.Told.
const (
	aboutBurial = "burial of "
	aboutEscrow = "escrow: "
)

// alarmOnce is alarm for a finding that a host may repeat with every message.
func (s *Service) alarmOnce(tx *store.Tx, h store.Host, about, kind, text string) error {
	if slices.Contains(h.Told, about) {
		return nil
	}
	h.Told = lastOf(append(h.Told, about), maxAlarms)
	if err := tx.PutHost(h); err != nil {
		return err
	}
	return s.alarm(tx, h, kind, text)
}

// clip bounds a text of a host, without cutting through a character.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

func clipAll(in []string, most int) []string {
	var out []string
	for _, s := range in[:min(len(in), most)] {
		out = append(out, clip(s))
	}
	return out
}

// nodeStatus records a node's report and the events of its phase. It gives the
// node's cluster, or "" for a node that is not this host's.
func (s *Service) nodeStatus(tx *store.Tx, h store.Host, in agentlink.NodeStatus) (keys.ClusterID, error) {
	n, err := tx.Node(in.Node)
	if errors.Is(err, store.ErrNotFound) || (err == nil && n.Host != h.ID) {
		return "", nil // an agent may report a node until it has seen that it is gone
	}
	if err != nil {
		return "", err
	}
	old, err := tx.NodeStatus(n.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	now := store.NodeStatus{
		Node: n.ID, Phase: clip(string(in.Phase)), Message: clip(in.Message), Port: in.Port, PID: in.PID, Encrypted: in.Encrypted,
		Generation: in.Generation, Primary: in.Primary, MasterKey: keys.KeyID(clip(string(in.MasterKey))), Users: in.UsersRevision, Since: in.Since.UTC().Truncate(time.Microsecond),
		Rotation: in.Rotation, RotationFailure: clip(in.RotationFailure),
	}
	if k := in.Keysets; k != nil {
		now.Keysets = store.KeysetStatus{
			Rotation: k.Rotation, Compaction: k.Compaction, Failure: clip(k.Failure), Bytes: k.Bytes, Newest: k.Newest, OldKeys: k.OldKeys, Compacting: k.Compacting,
		}
	}
	// A node that keeps failing goes through the same phases again and again: one event
	// tells of it, until it runs.
	if now.Told = old.Told; in.Phase == agentlink.PhaseRunning {
		now.Told = ""
	}
	if now == old {
		return n.Cluster, nil
	}
	if !n.Buried && now.Phase != old.Phase && now.Phase != now.Told {
		told, err := s.phaseEvent(tx, h, n, now)
		if err != nil {
			return "", err
		}
		if told {
			now.Told = now.Phase
		}
	}
	return n.Cluster, tx.PutNodeStatus(now)
}

// phaseEvent records the phases that people want to know of; told is false for others.
func (s *Service) phaseEvent(tx *store.Tx, h store.Host, n store.Node, now store.NodeStatus) (told bool, err error) {
	kind, text := "", ""
	switch agentlink.Phase(now.Phase) {
	case agentlink.PhaseRewriting:
		kind, text = "CLUSTER_UPDATE_STARTED", "A node of cluster %s is rewritten."
	case agentlink.PhaseFailed:
		kind, text = "CLUSTER_INSTANCE_FAILED", "A node of cluster %s failed."
	case agentlink.PhaseWaitingForKey:
		kind, text = "CLUSTER_INSTANCE_WAITING_FOR_KEY", "A node of cluster %s waits for its key."
	default:
		return false, nil
	}
	c, err := tx.Cluster(n.Cluster)
	if err != nil {
		return false, err
	}
	pr, err := tx.Project(n.Project)
	if err != nil {
		return false, err
	}
	e := clusterEvent(tenant.System(), kind, pr, c, text, c.Name)
	if now.Message != "" {
		e.Message += " " + now.Message
	}
	e.Node, e.Host, e.Actor = string(n.ID), string(h.ID), "host:"+string(h.ID)
	e.Data["phase"] = now.Phase
	return true, tx.Append(e)
}

// buried removes a node whose tombstone was carried out, with its wraps.
func (s *Service) buried(tx *store.Tx, host keys.HostID, id keys.NodeID) (keys.ClusterID, error) {
	h, err := tx.Host(host) // anew: an alarm changes it
	if err != nil {
		return "", err
	}
	n, err := tx.Node(id)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil // reported again until the agent sees that we know
	}
	if err != nil {
		return "", err
	}
	if n.Host != h.ID || !n.Buried {
		return "", s.alarmOnce(tx, h, aboutBurial+string(id), "NODE_BURIED_WITHOUT_ORDER", fmt.Sprintf("Host %s says that it has removed node %s, which nobody ordered.", h.Hostname, id))
	}
	wraps, err := tx.DestroyEscrow(id)
	if err != nil {
		return "", err
	}
	if err := tx.RemoveNode(id); err != nil {
		return "", err
	}
	pr, err := tx.Project(n.Project)
	if err != nil {
		return "", err
	}
	return n.Cluster, tx.Append(audit.Event{
		Type: "NODE_REMOVED", Actor: "host:" + string(h.ID), Org: string(pr.Org), Project: string(n.Project), Cluster: string(n.Cluster),
		Node: string(id), Host: string(h.ID), Message: "A node was removed with its files and keys.", Data: map[string]string{"keysDestroyed": fmt.Sprint(wraps)},
	})
}

// Escrow keeps wraps for a host; they are durable when it returns nil. A host may
// escrow keys of its own nodes only. Codes: NODE_NOT_FOUND, INVALID_WRAP,
// WRAP_IS_OLDER, WRAP_IS_FOREIGN.
func (s *Service) Escrow(ctx context.Context, host keys.HostID, wraps []agentlink.EscrowedWrap) error {
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		if err := s.escrow(tx, host, wraps); err != nil {
			return err
		}
		return s.forgetRefusals(tx, host)
	})
	if refusal, ok := apierr.As(err); ok && refusal.Status == http.StatusConflict {
		// Such a host was rolled back, or lies: a person has to look.
		if e := s.st.Tx(ctx, func(tx *store.Tx) error {
			h, err := tx.Host(host)
			if err != nil {
				return err
			}
			return s.alarmOnce(tx, h, aboutEscrow+clip(refusal.Detail), "HOST_ESCROW_REFUSED", "Wraps of host "+h.Hostname+" were refused: "+refusal.Detail)
		}); e != nil {
			return errors.Join(err, e)
		}
	}
	return err
}

// forgetRefusals lets the next refusal of escrow raise an alarm again.
func (s *Service) forgetRefusals(tx *store.Tx, host keys.HostID) error {
	h, err := tx.Host(host)
	if err != nil {
		return err
	}
	n := len(h.Told)
	h.Told = slices.DeleteFunc(h.Told, func(about string) bool { return strings.HasPrefix(about, aboutEscrow) })
	if len(h.Told) == n {
		return nil
	}
	return tx.PutHost(h)
}

func (s *Service) escrow(tx *store.Tx, host keys.HostID, wraps []agentlink.EscrowedWrap) error {
	// Of the wraps of a key the newest comes first: one that was ordered to be dropped is
	// left out only where another one opens the key.
	wraps = slices.Clone(wraps)
	slices.SortStableFunc(wraps, func(a, b agentlink.EscrowedWrap) int { return cmp.Compare(b.Generation, a.Generation) })
	for _, w := range wraps {
		if w.State == keys.StateDestroyed {
			if err := s.destroyed(tx, host, w); err != nil {
				return err
			}
			continue
		}
		n, err := nodeOf(tx, host, w.Node)
		if err != nil {
			return err
		}
		if n.Project != w.Project || n.Cluster != w.Cluster || !w.Key.Valid() || len(w.Wrapped) == 0 || len(w.Wrapped) > maxWrapped || len(w.Meta) > maxWrapped || w.Generation == 0 || w.Purpose == "" || w.State == "" {
			return apierr.BadRequest("INVALID_WRAP", "The wrap of key %q does not fit the node, or is malformed.", clip(string(w.Key)))
		}
		if err := roomFor(tx, n, w.Key); err != nil {
			return err
		}
		if unwanted, err := s.cfg.Custody.Unwanted(tx, w); err != nil || unwanted {
			if err != nil {
				return err
			}
			continue
		}
		err = tx.PutEscrow(store.EscrowedWrap{
			Key: w.Key, Generation: w.Generation, Revision: w.Revision, Node: w.Node, Host: host, Project: w.Project, Cluster: w.Cluster,
			State: w.State, Purpose: w.Purpose, Wrapped: w.Wrapped, Created: w.Created, Activated: w.Activated, Meta: w.Meta,
		})
		switch {
		case errors.Is(err, store.ErrOlder):
			return apierr.Conflict("WRAP_IS_OLDER", "A newer wrap of key %s is in escrow: this host was rolled back.", w.Key).Because(err)
		case errors.Is(err, store.ErrForeign):
			return apierr.Conflict("WRAP_IS_FOREIGN", "Key %s belongs to another node.", w.Key).Because(err)
		case err != nil:
			return err
		}
	}
	return nil
}

// roomFor refuses a new key of a node that has too many.
func roomFor(tx *store.Tx, n store.Node, key keys.KeyID) error {
	have, err := tx.EscrowOfKey(key)
	if err != nil || len(have) > 0 {
		return err
	}
	count, err := tx.CountKeys(n.ID)
	if err == nil && count >= maxKeys {
		err = apierr.Conflict("TOO_MANY_KEYS", "Node %s has %d keys in escrow; that is the most.", n.ID, count)
	}
	return err
}

// destroyed takes in that a host has destroyed a key: on a tombstone, or because the
// node was rewritten. Whose key it is says the escrow, not the message. The escrowed
// ciphertext goes only if what we ordered explains that; the key that the node uses
// stays in escrow whatever its host says.
func (s *Service) destroyed(tx *store.Tx, host keys.HostID, w agentlink.EscrowedWrap) error {
	kept, err := tx.EscrowOfKey(w.Key)
	if err != nil || len(kept) == 0 {
		return err // told late: it went with its node
	}
	n, err := tx.Node(kept[0].Node)
	if err != nil {
		return err
	}
	ordered := true
	if !n.Buried && n.Encrypted {
		st, err := tx.NodeStatus(n.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		ordered = st.MasterKey != "" && st.MasterKey != w.Key && st.Generation >= n.Generation
	}
	changed, err := tx.MarkDestroyed(host, w.Key, w.Revision, ordered)
	if errors.Is(err, store.ErrForeign) {
		return apierr.Conflict("WRAP_IS_FOREIGN", "Key %s belongs to another node.", w.Key).Because(err)
	}
	if err != nil || !changed {
		return err
	}
	pr, err := tx.Project(n.Project)
	if err != nil {
		return err
	}
	e := audit.Event{
		Type: "NODE_KEY_DESTROYED", Actor: "host:" + string(host), Org: string(pr.Org), Project: string(n.Project), Cluster: string(n.Cluster),
		Node: string(n.ID), Host: string(host), Message: "A node's key was destroyed by its host, and its ciphertext in escrow with it.",
		Data: map[string]string{"key": string(w.Key)},
	}
	if !ordered {
		e.Message = "A node's key was destroyed by its host. Nothing that was ordered explains it, so its ciphertext stays in escrow until the node is removed."
	}
	return tx.Append(e)
}

// Wraps lists what is in escrow for a host.
func (s *Service) Wraps(ctx context.Context, host keys.HostID) (out []agentlink.EscrowedWrap, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.EscrowOfHost(host)
		for _, w := range all {
			out = append(out, agentlink.EscrowedWrap{
				Node: w.Node, Project: w.Project, Cluster: w.Cluster, Key: w.Key, Purpose: w.Purpose, State: w.State,
				Generation: w.Generation, Revision: w.Revision, Wrapped: w.Wrapped, Created: w.Created, Activated: w.Activated, Meta: w.Meta,
			})
		}
		return err
	})
	return out, err
}
