package access_test

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func TestARegistrationHandsOutPrincipalAndExternalID(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	seen := map[string]bool{}
	for range 3 {
		r, err := w.Access.Register(t.Context(), w.Owner, p.ID)
		if err != nil || r.PlatformARN != "arn:aws:iam::111111111111:root" || !uuid.MatchString(r.ExternalID) || seen[r.ExternalID] || !r.Authorized.IsZero() || r.ARN != "" || len(r.Usages) != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		seen[r.ExternalID] = true
	}
	w.AWS.Down(kms.Timeout)
	w.Reopen()
	all, err := w.Access.List(t.Context(), w.Owner, p.ID)
	if err != nil || len(all) != 3 {
		t.Errorf("reading needs no AWS: %+v %v", all, err)
	}
	if _, err := w.Access.Register(t.Context(), w.Owner, p.ID); apierr.Code(err) != "SERVICE_UNAVAILABLE" {
		t.Error(err)
	}
}

func TestAuthorizingProvesTheTrustPolicy(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	target := w.AWS.Project()
	authorize := func(arn string) (access.Role, error) {
		return w.Access.Authorize(t.Context(), w.Owner, p.ID, r.ID, arn)
	}
	refused := func(name, arn, code string, says ...string) {
		t.Helper()
		_, err := authorize(arn)
		if apierr.Code(err) != code {
			t.Errorf("%s: %v", name, err)
			return
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s does not say %q: %v", name, s, err)
			}
		}
		if got, err := w.Access.Get(t.Context(), w.Owner, p.ID, r.ID); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s changed %+v to %+v, %v", name, r, got, err)
		}
	}
	refused("no ARN", "x", "INVALID_ATTRIBUTE")
	refused("a user", "arn:aws:iam::222222222222:user/x", "INVALID_ATTRIBUTE")
	refused("no such role", "arn:aws:iam::222222222222:role/none", "CANNOT_ASSUME_ROLE")
	refused("another external id", target.RoleARN, "CANNOT_ASSUME_ROLE", r.ExternalID, r.PlatformARN)
	w.AWS.Trust(target, r.ExternalID)
	w.AWS.TrustAnyone(target.RoleARN, true)
	refused("open role", target.RoleARN, "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID", "sts:ExternalId "+r.ExternalID)
	w.AWS.TrustAnyone(target.RoleARN, false)
	w.AWS.Down(kms.DNS)
	refused("AWS down", target.RoleARN, "SERVICE_UNAVAILABLE")
	w.AWS.Down("")
	calls := len(w.AWS.Tried())
	got, err := authorize(target.RoleARN)
	if err != nil || got.ARN != target.RoleARN || got.Authorized.IsZero() || got.ExternalID != r.ExternalID {
		t.Fatalf("%+v %v", got, err)
	}
	if tried := w.AWS.Tried()[calls:]; len(tried) != 3 || tried[0] != r.ExternalID || tried[1] != "none" || tried[2] == r.ExternalID || !uuid.MatchString(tried[2]) {
		t.Errorf("tried with %v: with the external id, without, and with another one were expected", tried)
	}
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, keys.RoleID(strings.Repeat("0", 24)), target.RoleARN); apierr.Code(err) != "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND" {
		t.Error(err)
	}
	other := w.Project("other")
	if _, err := w.Access.Get(t.Context(), w.Owner, other.ID, r.ID); apierr.Code(err) != "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND" {
		t.Errorf("a role of another project: %v", err)
	}
	if e := w.Events(p.ID); !slices.Contains(e, "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_AUTHORIZATION_REFUSED") || !slices.Contains(e, "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_UPDATED") {
		t.Errorf("%v", e)
	}
	w.Verify()
}

func TestARoleInUseStays(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, target := w.Enable(p.ID)
	r, err := w.Access.Get(t.Context(), w.Owner, p.ID, v.Role)
	if err != nil || !slices.Equal(r.Usages, []string{access.FeatureEncryptionAtRest}) {
		t.Fatalf("%+v %v", r, err)
	}
	if err := w.Access.Deauthorize(t.Context(), w.Owner, p.ID, v.Role); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" || !strings.Contains(err.Error(), string(v.Role)) {
		t.Error(err)
	}
	const other = "arn:aws:iam::222222222222:role/other"
	w.AWS.TrustAs(other, target, r.ExternalID)
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, v.Role, other); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" {
		t.Errorf("pointed elsewhere: %v", err)
	}
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, v.Role, target.RoleARN); err != nil {
		t.Errorf("the same again: %v", err)
	}
	free, _ := w.Role(p.ID)
	w.Must(w.Access.Deauthorize(t.Context(), w.Owner, p.ID, free.ID))
	if _, err := w.Access.Get(t.Context(), w.Owner, p.ID, free.ID); apierr.Code(err) != "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND" {
		t.Error(err)
	}
	reader := w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupReadOnly)
	if err := w.Access.Deauthorize(t.Context(), reader, p.ID, v.Role); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
}

// Rule 5.2: a role that becomes assumable by anybody is found within a day, and
// nothing is stopped by that.
func TestRolesAreProvenAgainEveryDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		v, target := w.Enable(p.ID)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Access.Run(ctx, slog.New(slog.DiscardHandler)) }()
		doubt := func() string {
			synctest.Wait()
			r, err := w.Access.Get(t.Context(), w.Owner, p.ID, v.Role)
			w.Must(err)
			return r.Doubt
		}
		w.AWS.TrustAnyone(target.RoleARN, true)
		time.Sleep(23 * time.Hour)
		if d := doubt(); d != "" {
			t.Errorf("proven before its day: %s", d)
		}
		w.AWS.Down(kms.Timeout)
		time.Sleep(2 * time.Hour)
		if d := doubt(); d != "" {
			t.Errorf("silence of AWS is no doubt: %s", d)
		}
		w.AWS.Down("")
		time.Sleep(time.Hour)
		if d := doubt(); d != "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID" {
			t.Errorf("after a day: %q", d)
		}
		w.AWS.TrustAnyone(target.RoleARN, false)
		time.Sleep(25 * time.Hour)
		if d := doubt(); d != "" {
			t.Errorf("after the correction: %q", d)
		}
		got := w.Events(p.ID)
		for _, want := range []string{"CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_IN_DOUBT", "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_PROVEN"} {
			if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != want })); n != 1 {
				t.Errorf("%d events %s", n, want)
			}
		}
		cancel()
		w.Must(<-done)
		w.Close()
	})
}

// A role that kept wraps need stays, used or not.
func TestARoleThatKeptWrapsNeedStays(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, target := w.Enable(p.ID)
	old, err := w.Access.Get(t.Context(), w.Owner, p.ID, v.Role)
	w.Must(err)
	next, _ := w.Role(p.ID)
	put := func(state string) {
		t.Helper()
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
			c, err := tx.KeyConfig(p.ID)
			if err != nil {
				return err
			}
			x := store.KeyChange{Project: p.ID, Generation: 2, State: state, Candidate: c, Previous: c, Retires: tx.Now().Add(30 * 24 * time.Hour)}
			x.Candidate.Role = next.ID
			if state == store.ChangeCommitted {
				c.Role = next.ID
				if err := tx.PutKeyConfig(c); err != nil {
					return err
				}
			}
			return tx.PutKeyChange(x)
		}))
	}
	refused := func(name string, id keys.RoleID, says string) {
		t.Helper()
		if err := w.Access.Deauthorize(t.Context(), w.Owner, p.ID, id); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), string(id)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	put(store.ChangeStaging)
	refused("the role of a change that is prepared", next.ID, access.FeatureEncryptionAtRest)
	if r, err := w.Access.Get(t.Context(), w.Owner, p.ID, next.ID); err != nil || len(r.Usages) != 1 {
		t.Errorf("%+v %v", r, err)
	}
	put(store.ChangeCommitted)
	refused("the role that a rollback needs", old.ID, "rollback")
	w.AWS.TrustAs("arn:aws:iam::222222222222:role/other", target, old.ExternalID)
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, old.ID, "arn:aws:iam::222222222222:role/other"); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" {
		t.Errorf("pointed elsewhere: %v", err)
	}
	put(store.ChangeRetired)
	w.Must(w.Access.Deauthorize(t.Context(), w.Owner, p.ID, old.ID))

	// Key management is off, but a master key is kept: one way to it has to stay.
	host, node, cluster := w.Host("h"), keys.NodeID(keys.NewID(time.Now())), keys.ClusterID(keys.NewID(time.Now()))
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.PutKeyConfig(store.KeyConfig{Project: p.ID, Generation: 3}), tx.AddCluster(store.Cluster{ID: cluster, Project: p.ID, Name: "c"}),
			tx.PutNode(store.Node{ID: node, Cluster: cluster, Project: p.ID, Host: host}), tx.PutEscrow(store.EscrowedWrap{
				Key: keys.NewKeyID(), Generation: 1, Node: node, Host: host, Project: p.ID, Cluster: cluster,
				State: keys.StateDeactivated, Purpose: keys.PurposeMasterKey, Wrapped: []byte("w"), Revision: 1,
			}))
	}))
	refused("the last way to a kept wrap", next.ID, "1 kept wraps")
	spare, _ := w.Role(p.ID)
	w.Must(w.Access.Deauthorize(t.Context(), w.Owner, p.ID, next.ID))
	refused("the last way again", spare.ID, "1 kept wraps")
}

// A registration waits for its role as long as it takes: it is read again, with the same
// principal and external id, and authorized.
func TestAnUnfinishedAuthorizationIsResumed(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	target := w.AWS.Project()
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, r.ID, target.RoleARN); apierr.Code(err) != "CANNOT_ASSUME_ROLE" {
		t.Fatal(err)
	}
	w.Reopen()
	all, err := w.Access.List(t.Context(), w.Owner, p.ID)
	if err != nil || len(all) != 1 || !all[0].Authorized.IsZero() || all[0].ExternalID != r.ExternalID || all[0].PlatformARN != r.PlatformARN {
		t.Fatalf("%+v %v", all, err)
	}
	w.AWS.Trust(target, all[0].ExternalID)
	if r, err = w.Access.Authorize(t.Context(), w.Owner, p.ID, all[0].ID, target.RoleARN); err != nil || r.Authorized.IsZero() {
		t.Errorf("%+v %v", r, err)
	}
}

// When a trust policy was proven last is remembered: a server that is restarted often
// proves neither more often nor never.
func TestTheDailyProofSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		v, target := w.Enable(p.ID)
		run := func(d time.Duration) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Access.Run(ctx, slog.New(slog.DiscardHandler)) }()
			time.Sleep(d)
			synctest.Wait()
			cancel()
			w.Must(<-done)
			w.Reopen()
		}
		doubt := func() string {
			r, err := w.Access.Get(t.Context(), w.Owner, p.ID, v.Role)
			w.Must(err)
			return r.Doubt
		}
		w.AWS.TrustAnyone(target.RoleARN, true)
		calls := len(w.AWS.Tried())
		for range 23 {
			run(time.Hour) // a restart each hour
		}
		if n := len(w.AWS.Tried()) - calls; n != 0 || doubt() != "" {
			t.Errorf("%d AssumeRole calls before the day was over, doubt %q", n, doubt())
		}
		for range 3 {
			run(time.Hour)
		}
		// With the external id, then without: the second already tells, nothing more is tried.
		if n := len(w.AWS.Tried()) - calls; n != 2 || doubt() != "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID" {
			t.Errorf("%d AssumeRole calls after a day, doubt %q", n, doubt())
		}
		for range 20 {
			run(time.Hour)
		}
		if n := len(w.AWS.Tried()) - calls; n != 2 {
			t.Errorf("%d AssumeRole calls in two days", n)
		}
		w.AWS.TrustAnyone(target.RoleARN, false)
		for range 5 {
			run(time.Hour)
		}
		if n := len(w.AWS.Tried()) - calls; n != 5 || doubt() != "" {
			t.Errorf("%d AssumeRole calls in all, doubt %q", n, doubt())
		}
		w.Close()
	})
}
