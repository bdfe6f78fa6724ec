package cmk_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// stage is a project with an encrypted cluster on one host, whose agent keeps two keys.
type stage struct {
	*controltest.World
	p      keys.ProjectID
	target kms.Target
	agent  *controltest.Agent
	keys   []*controltest.Kept
}

func newStage(t *testing.T) *stage {
	t.Helper()
	w := controltest.New(t)
	p := w.Project("p")
	_, target := w.Enable(p.ID)
	s := &stage{World: w, p: p.ID, target: target, agent: controltest.NewAgent(w.Host("h"))}
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	w.Must(s.agent.Step(w))
	for id := range s.agent.Nodes {
		s.keys = append(s.keys, s.agent.Key(w, id), s.agent.Key(w, id))
	}
	s.step()
	return s
}

// step lets the host and the control plane take one step each.
func (s *stage) step() {
	s.T.Helper()
	s.Must(s.agent.Step(s.World))
	s.plane()
}

func (s *stage) plane() {
	s.T.Helper()
	s.Must(s.CMK.StepChanges(s.T.Context(), func(fn func()) { fn() }))
}

func (s *stage) peek() cmk.View {
	s.T.Helper()
	v, err := s.CMK.Peek(s.T.Context(), s.Owner, s.p)
	s.Must(err)
	return v
}

func (s *stage) patch(a cmk.AWSPatch) (cmk.View, error) {
	return s.CMK.Update(s.T.Context(), s.Owner, s.p, cmk.Patch{AWS: &a})
}

func (s *stage) state(want string) store.KeyChange {
	s.T.Helper()
	v := s.peek()
	if v.Change == nil || v.Change.State != want {
		s.T.Fatalf("the change is %+v, want %s; hosts %+v", v.Change, want, v.Hosts)
	}
	return *v.Change
}

// opened tells whether the configuration that the host acts on opens every key.
func (s *stage) opened() {
	s.T.Helper()
	for _, p := range s.agent.Last.Projects {
		for _, k := range s.agent.Kept {
			if _, err := k.Opens(s.World, *p.CustomerKey); err != nil {
				s.T.Errorf("key %s: %v", k.Key, err)
			}
		}
	}
}

// wraps counts the wraps in escrow by CMK.
func (s *stage) wraps() map[string]int {
	s.T.Helper()
	out := map[string]int{}
	s.Must(s.Store.View(s.T.Context(), func(tx *store.Tx) error {
		all, err := tx.EscrowOfHost(s.agent.Host)
		for _, w := range all {
			for _, k := range s.agent.Kept {
				if e, ok := k.Wraps[w.Generation]; ok && k.Key == w.Key {
					out[e.KeyARN]++
				}
			}
		}
		return err
	}))
	return out
}

func TestAnotherKeyIsStagedCommittedAndTheOldOneRetired(t *testing.T) {
	s := newStage(t)
	other := s.AWS.CreateKey()
	v, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other})
	if err != nil || v.KeyARN != s.target.KeyID || v.Generation != 1 || v.Requested.KeyARN != other || !v.Valid {
		t.Fatalf("asked for: %+v, %v", v, err)
	}
	s.state("STAGING")
	// The same again, and a setting beside it, are no other change; another key is.
	if v, err = s.CMK.Update(t.Context(), s.Owner, s.p, cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: &other}, EnabledForSearchNodes: ptr(true)}); err != nil || !v.SearchNodes || v.Requested.KeyARN != other {
		t.Errorf("the same again: %+v, %v", v, err)
	}
	for _, id := range []string{s.AWS.CreateKey(), s.target.KeyID} {
		if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &id}); apierr.Code(err) != "ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS" || !strings.Contains(err.Error(), ":abortChange") {
			t.Errorf("another change meanwhile: %v", err)
		}
	}
	// The control plane restarts at every step from here on.
	s.Reopen()
	s.plane()
	s.state("STAGING") // the host has not spoken
	s.Must(s.agent.Step(s.World))
	made := s.agent.Key(s.World, s.keys[0].Node.ID) // meanwhile: it gets both
	if len(made.Wraps) != 2 {
		t.Fatalf("a key that was made meanwhile has %d wraps", len(made.Wraps))
	}
	s.Reopen()
	s.step()
	c := s.state("COMMITTED")
	if v := s.peek(); v.KeyARN != other || v.Generation != c.Generation || !v.SearchNodes || v.Requested.KeyARN != other || v.Retained == nil || !c.Safe.IsZero() {
		t.Fatalf("committed: %+v", v)
	}
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Errorf("the same after the commit: %v", err)
	}
	s.opened() // the host has not heard of the commit
	s.Reopen()
	s.step()
	s.opened()
	if c = s.state("COMMITTED"); c.Safe.IsZero() {
		t.Errorf("not safe: %+v", s.peek().Hosts)
	}
	if got := s.wraps(); got[s.target.KeyID] != 3 || got[other] != 3 {
		t.Errorf("wraps %v", got)
	}
	if err := s.Access.Deauthorize(t.Context(), s.Owner, s.p, c.Previous.Role); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" {
		t.Errorf("the role of both: %v", err)
	}
	s.elapse(cmk.Retention + time.Minute)
	s.step()
	if c = s.state("RETIRED"); c.Drop == nil || !c.Dropped.IsZero() {
		t.Fatalf("retired: %+v", c)
	}
	if _, err := s.CMK.Rollback(t.Context(), s.Owner, s.p); apierr.Code(err) != "ENCRYPTION_AT_REST_NO_CHANGE" {
		t.Errorf("rollback of what is gone: %v", err)
	}
	// An old wrap that is still on its way is not taken in again.
	s.agent.Resend(s.World)
	if got := s.wraps(); got[s.target.KeyID] != 0 || got[other] != 3 {
		t.Errorf("wraps %v", got)
	}
	s.Must(s.agent.Step(s.World))
	s.plane()
	if c = s.state("RETIRED"); c.Dropped.IsZero() {
		t.Errorf("not dropped: %+v", s.peek().Hosts)
	}
	if got := s.wraps(); got[s.target.KeyID] != 0 || got[other] != 3 {
		t.Errorf("wraps %v", got)
	}
	s.opened()
	got := strings.Join(s.Events(s.p), " ")
	for _, want := range []string{"ENCRYPTION_AT_REST_CHANGE_STAGED", "ENCRYPTION_AT_REST_PREVIOUS_NOT_NEEDED", "ENCRYPTION_AT_REST_CHANGE_RETIRED"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%s is not told once: %s", want, got)
		}
	}
	s.Verify()
}

// elapse makes everything that is kept older.
func (s *stage) elapse(d time.Duration) {
	s.T.Helper()
	s.Must(s.Store.Tx(s.T.Context(), func(tx *store.Tx) error {
		changes, err := tx.KeyChanges(s.p)
		for _, c := range changes {
			if !c.Retires.IsZero() {
				c.Retires = c.Retires.Add(-d)
			}
			if err == nil {
				err = tx.PutKeyChange(c)
			}
		}
		return err
	}))
}

func TestARollbackProvesTheOldWrapsAndMakesNone(t *testing.T) {
	s := newStage(t)
	other := s.AWS.CreateKey()
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	s.step()
	s.state("COMMITTED")
	s.step()
	// The new key is lost: what is kept under the old one is enough.
	s.AWS.DeleteKey(other)
	encrypts := s.encrypts()
	v, err := s.CMK.Rollback(t.Context(), s.Owner, s.p)
	if err != nil || v.Requested.KeyARN != s.target.KeyID || v.KeyARN != other {
		t.Fatalf("%+v, %v", v, err)
	}
	c := s.state("STAGING")
	if !c.Rollback {
		t.Errorf("%+v", c)
	}
	s.step()
	s.state("COMMITTED")
	if v := s.peek(); v.KeyARN != s.target.KeyID || v.Generation != 3 {
		t.Errorf("%+v", v)
	}
	s.step()
	s.opened()
	if n := s.encrypts() - encrypts; n > 3 { // of validation runs only
		t.Errorf("%d calls of Encrypt", n)
	}
	// After thirty days the wraps of the lost key go, those in use stay.
	s.elapse(cmk.Retention)
	s.step()
	s.step()
	s.step()
	if got := s.wraps(); got[s.target.KeyID] != 2 || got[other] != 0 {
		t.Errorf("wraps %v", got)
	}
	s.opened()
}

func (s *stage) encrypts() (n int) {
	for _, c := range s.AWS.Calls() {
		if c.Operation == kms.OpEncrypt {
			n++
		}
	}
	return n
}

func TestAnAbortDropsWhatWasPrepared(t *testing.T) {
	s := newStage(t)
	other := s.AWS.CreateKey()
	if _, err := s.CMK.AbortChange(t.Context(), s.Owner, s.p); apierr.Code(err) != "ENCRYPTION_AT_REST_NO_CHANGE" {
		t.Errorf("nothing to abort: %v", err)
	}
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	s.Must(s.agent.Step(s.World)) // all wraps are staged
	v, err := s.CMK.AbortChange(t.Context(), s.Owner, s.p)
	if err != nil || v.KeyARN != s.target.KeyID || v.Requested.KeyARN != s.target.KeyID || v.Generation != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	s.state("ABORTED")
	if got := s.wraps(); got[other] != 0 || got[s.target.KeyID] != 2 {
		t.Errorf("wraps %v", got)
	}
	s.step()
	s.step()
	if c := s.state("ABORTED"); c.Dropped.IsZero() {
		t.Errorf("%+v", c)
	}
	for _, k := range s.keys {
		if len(k.Wraps) != 1 {
			t.Errorf("key %s has %d wraps", k.Key, len(k.Wraps))
		}
	}
	// Its number is never used again: the same change gets another one.
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	if c := s.state("STAGING"); c.Generation != 3 {
		t.Errorf("generation %d", c.Generation)
	}
	s.step()
	s.state("COMMITTED")
	s.step()
	s.opened()
}

// A role that cannot open one of the kept keys changes nothing, and the statement is named.
func TestANewRoleMustOpenEveryKeptKey(t *testing.T) {
	s := newStage(t)
	r, _ := s.Role(s.p)
	before := s.peek()
	if _, err := s.patch(cmk.AWSPatch{RoleID: ptr(string(r.ID))}); err != nil {
		t.Fatal(err)
	}
	if v := s.peek(); v.Requested.Role != r.ID || v.Role != before.Role {
		t.Errorf("%+v", v)
	}
	arn := ""
	s.Must(s.Store.View(t.Context(), func(tx *store.Tx) error {
		x, err := tx.Role(s.p, r.ID)
		arn = x.ARN
		return err
	}))
	s.AWS.Deny(arn, true, kms.OpDecrypt)
	s.step()
	c := s.state("ABORTED")
	if !strings.Contains(c.Why, "kms:Decrypt") || s.peek().Role != before.Role || s.peek().Generation != 1 {
		t.Errorf("%+v", c)
	}
	s.AWS.Deny(arn, false, kms.OpDecrypt)
	if _, err := s.patch(cmk.AWSPatch{RoleID: ptr(string(r.ID))}); err != nil {
		t.Fatal(err)
	}
	encrypts := s.encrypts()
	s.step()
	s.state("COMMITTED")
	if v := s.peek(); v.Role != r.ID || v.KeyARN != s.target.KeyID {
		t.Errorf("%+v", v)
	}
	if got := s.wraps(); got[s.target.KeyID] != 2 {
		t.Errorf("a change of the role made wraps: %v (%d)", got, s.encrypts()-encrypts)
	}
	s.step()
	s.opened()
}

// Rule 24, and the pause of section 4.
func TestAChangePausesWhileTheKeyInForceIsAway(t *testing.T) {
	s := newStage(t)
	other := s.AWS.CreateKey()
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	s.AWS.SetState(s.target.KeyID, "Disabled")
	s.agent.Verdict, s.agent.Reason = custody.Invalid, kms.KeyDisabled
	s.step()
	s.state("PAUSED")
	s.step()
	if p := s.agent.Last.Projects[0]; p.Candidate == nil || !p.Candidate.Paused {
		t.Errorf("the host is told %+v", p.Candidate)
	}
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: ptr(s.AWS.CreateKey())}); apierr.Code(err) != "ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS" {
		t.Error(err)
	}
	s.AWS.SetState(s.target.KeyID, "Enabled")
	s.agent.Verdict, s.agent.Reason = custody.Valid, ""
	s.step()
	s.state("STAGING")
	s.step()
	s.state("COMMITTED")

	// While the key in force is away, another one is refused: nothing could be wrapped anew.
	s.step()
	s.AWS.SetState(other, "Disabled")
	s.agent.Verdict, s.agent.Reason = custody.Invalid, kms.KeyDisabled
	s.step()
	_, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: ptr(s.AWS.CreateKey())})
	if apierr.Code(err) != "ENCRYPTION_AT_REST_KEY_NOT_READABLE" || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("%v", err)
	}
}

// Rule 24: the role in force is lost, another one leads to both keys.
func TestALostRoleIsReplacedTogetherWithTheKey(t *testing.T) {
	s := newStage(t)
	other := s.AWS.CreateKey()
	r, _ := s.Role(s.p)
	s.AWS.Deny(s.target.RoleARN, true, kms.OpAssumeRole, kms.OpDecrypt, kms.OpEncrypt)
	s.agent.Verdict, s.agent.Reason = custody.Invalid, kms.RoleNotAssumable
	s.step()
	if _, err := s.patch(cmk.AWSPatch{RoleID: ptr(string(r.ID)), CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	if c := s.state("STAGING"); !c.ViaCandidate {
		t.Errorf("%+v", c)
	}
	s.step()
	s.state("COMMITTED")
	s.step()
	s.opened()
}

func TestACandidateThatIsTakenAwayIsGivenUp(t *testing.T) {
	s := newStage(t)
	s.Interval = time.Second
	s.Reopen()
	other := s.AWS.CreateKey()
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	s.AWS.SetState(other, "Disabled")
	controltest.Eventually(t, "the change is given up", func() bool { s.plane(); return s.peek().Change.State == "ABORTED" })
	c := s.state("ABORTED")
	if c.Code != "AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED" || c.Why == "" {
		t.Errorf("%+v", c)
	}
	s.step()
	s.opened()
}

// A change waits for a dead host until somebody gives it up.
func TestAChangeWaitsForADeadHostUntilItIsForgotten(t *testing.T) {
	s := newStage(t)
	dead := controltest.NewAgent(s.Host("dead"))
	s.Must(dead.Step(s.World))
	_, err := s.Cluster.Create(t.Context(), s.Owner, s.p, "d", settings("AWS"))
	s.Must(err)
	s.Must(dead.Step(s.World))
	for id := range dead.Nodes {
		dead.Key(s.World, id)
	}
	if len(dead.Kept) == 0 {
		t.Fatal("the second cluster is not on the second host")
	}
	s.Must(dead.Step(s.World))
	other := s.AWS.CreateKey()
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.step()
	}
	s.state("STAGING")
	s.Must(s.Store.Tx(t.Context(), func(tx *store.Tx) error {
		h, err := tx.Host(dead.Host)
		if err != nil {
			return err
		}
		h.LastSeen = h.LastSeen.Add(-time.Hour)
		return tx.PutHost(h)
	}))
	silent := 0
	for _, h := range s.peek().Hosts {
		if h.Silent && h.Hostname == "dead" {
			silent++
		}
	}
	if silent != 1 {
		t.Errorf("hosts %+v", s.peek().Hosts)
	}
	if _, err := s.Cluster.Forget(t.Context(), s.Owner, dead.Host, "dead"); err != nil {
		t.Fatal(err)
	}
	s.step()
	s.state("COMMITTED")
	s.step()
	s.opened()
	s.Verify()
}

// With the last key go the changes: nothing keeps a role.
func TestSwitchingOffEndsEveryChange(t *testing.T) {
	s := newStage(t)
	r, _ := s.Role(s.p)
	before := s.peek().Role
	if _, err := s.patch(cmk.AWSPatch{RoleID: ptr(string(r.ID))}); err != nil {
		t.Fatal(err)
	}
	s.step()
	s.state("COMMITTED")
	other := s.AWS.CreateKey()
	if _, err := s.patch(cmk.AWSPatch{CustomerMasterKeyID: &other}); err != nil {
		t.Fatal(err)
	}
	if err := s.Access.Deauthorize(t.Context(), s.Owner, s.p, before); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" {
		t.Errorf("a role that a rollback needs: %v", err)
	}
	s.Must(s.Cluster.Delete(t.Context(), s.Owner, s.p, "c"))
	s.agent.Kept = nil
	s.Must(s.agent.Step(s.World)) // buried
	if _, err := s.patch(cmk.AWSPatch{Enabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	s.Must(s.Store.View(t.Context(), func(tx *store.Tx) error {
		open, err := tx.OpenKeyChanges()
		if len(open) != 0 {
			t.Errorf("left open: %+v", open)
		}
		return err
	}))
	for _, id := range []keys.RoleID{before, r.ID} {
		if err := s.Access.Deauthorize(t.Context(), s.Owner, s.p, id); err != nil {
			t.Errorf("role %s: %v", id, err)
		}
	}
	s.Verify()
}
