package cluster

import (
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

const (
	// auditEvery is how often a host is asked what its chain says where heads are known:
	// it reads its whole log for that.
	auditEvery = 10 * time.Minute
	// maxAnchors is how many known places it is asked for at once.
	maxAnchors = 16
	// recentHeads is how many of a host's newest heads are kept; of older ones one a day,
	// oldHeads at most.
	recentHeads = 32
	oldHeads    = 400
)

// auditStatus holds a host's chain against the heads that are known of it, and learns
// its new head. A doubt stays until the host enrols again.
func (s *Service) auditStatus(tx *store.Tx, h store.Host, st agentlink.Status) (store.Host, error) {
	known, err := tx.HostHeads(h.ID)
	if err != nil {
		return h, err
	}
	doubt := doubtOf(h, st, known)
	if doubt != "" && h.AuditDoubt == "" {
		h.AuditDoubt = doubt
		kind := "HOST_AUDIT_HEAD_MISMATCH"
		if st.AuditSeq < h.AuditSeq {
			kind = "HOST_AUDIT_WENT_BACK"
		}
		if err := s.alarm(tx, h, kind, doubt); err != nil {
			return h, err
		}
	}
	if h.AuditDoubt != "" || st.AuditSeq == 0 || len(known) > 0 && st.AuditSeq <= known[0].Seq {
		return h, nil
	}
	if err := tx.PutHostHead(store.HostHead{
		Host: h.ID, Seq: st.AuditSeq, Hash: clip(st.AuditHead), Heard: tx.Now(), Signature: st.AuditSignature, Signed: st.AuditSigned, Certificate: st.AuditCertificate,
	}); err != nil {
		return h, err
	}
	for _, old := range surplus(known) {
		if err := tx.DropHostHead(h.ID, old.Seq); err != nil {
			return h, err
		}
	}
	return h, nil
}

// doubtOf says how what a host tells of its chain differs from what is known; "" if it
// does not.
func doubtOf(h store.Host, st agentlink.Status, known []store.HostHead) string {
	if st.AuditSeq < h.AuditSeq {
		return fmt.Sprintf("The audit chain of host %s ends at event %d, it had %d before: its directory was rolled back, or its log was cut.", h.Hostname, st.AuditSeq, h.AuditSeq)
	}
	told := append([]agentlink.AuditAnchor{{Seq: st.AuditSeq, Hash: st.AuditHead}}, st.AuditAnchors...)
	hashes := make(map[uint64]string, len(known))
	for _, k := range known {
		hashes[k.Seq] = k.Hash
	}
	for _, a := range told {
		if was, ok := hashes[a.Seq]; ok && was != a.Hash {
			return fmt.Sprintf("Event %d of the audit chain of host %s is not the one that was known: the host's log was rewritten, or another directory was put in its place.", a.Seq, h.Hostname)
		}
	}
	return ""
}

// surplus picks the heads that need not be kept: of those beyond the newest, all but the
// oldest of each day. known is the longest chain first.
func surplus(known []store.HostHead) (out []store.HostHead) {
	if len(known) <= recentHeads {
		return nil
	}
	rest := known[recentHeads:]
	kept := 0
	for i, h := range rest {
		last := i == len(rest)-1 || rest[i+1].Heard.UTC().Format(time.DateOnly) != h.Heard.UTC().Format(time.DateOnly)
		if kept++; !last || kept > oldHeads {
			out = append(out, h)
			kept--
		}
	}
	return out
}

// AuditAnchors gives the sequence numbers for which a host is asked what its chain says:
// some every ten minutes, none between.
func (s *Service) AuditAnchors(tx *store.Tx, host keys.HostID) ([]uint64, error) {
	known, err := tx.HostHeads(host)
	if err != nil || len(known) == 0 {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.st.Now()
	if at, ok := s.asked[host]; ok && now.Sub(at) < s.cfg.AuditEvery {
		return nil, nil
	}
	s.asked[host] = now
	var out []uint64
	for i := 0; i < len(known) && len(out) < maxAnchors; i++ {
		if step := max(1, len(known)/(maxAnchors/2)); i < maxAnchors/2 || i%step == 0 || i == len(known)-1 {
			out = append(out, known[i].Seq)
		}
	}
	if last := known[len(known)-1].Seq; out[len(out)-1] != last {
		out[len(out)-1] = last
	}
	return out, nil
}
