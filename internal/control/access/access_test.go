package access_test

import (
	"context"
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
