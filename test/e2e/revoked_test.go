package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iam"
)

// TestRoleTakenAway: whoever takes the role or a permission away has only two places
// that tell: the one host and the control plane, each the other's witness. The cluster
// stops, and comes back once the role is.
func TestRoleTakenAway(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	k := p.enable("Revoked")
	s := &story{platform: p, keyed: k}
	p.createCluster(k.project, "Encrypted", "AWS", 1)
	p.createUser(k.project)
	p.connect(k.project, "Encrypted")
	c := p.customer()
	setTrust := func(doc string) {
		t.Helper()
		if _, err := c.iam.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: &k.roleName, PolicyDocument: &doc}); err != nil {
			t.Fatal(err)
		}
	}
	nobody := policy("Deny", map[string]any{"Principal": map[string]any{"AWS": k.role.Principal}, "Action": "sts:AssumeRole"})
	for _, step := range []struct {
		name, verdict string
		take, give    func()
	}{
		{"trust policy", "INVALID ROLE_NOT_ASSUMABLE", func() { setTrust(nobody) }, func() { setTrust(trust(k.role.Principal, k.role.ExternalID)) }},
		{"permission to decrypt", "INVALID KEY_ACCESS_DENIED", func() { c.setAccess(k.roleName, access(k.keyARN, "kms:DescribeKey", "kms:Encrypt")) },
			func() { c.setAccess(k.roleName, access(k.keyARN)) }},
	} {
		p.run(t, step.name, func(t *testing.T) {
			step.take()
			took := p.eventually("the cluster is stopped", time.Minute, func() error {
				if n := len(p.named("mongod")); n != 0 {
					return fmt.Errorf("%d database processes run", n)
				}
				return nil
			})
			t.Logf("stopped %s after the %s was taken away", took.Round(time.Millisecond), step.name)
			p.eventually("the project is INVALID", 20*time.Second, func() error {
				if v := s.verdict(); v != step.verdict {
					return fmt.Errorf("it is %s", v)
				}
				return nil
			})
			step.give()
			p.connect(k.project, "Encrypted")
			p.eventually("the project is VALID", 20*time.Second, func() error {
				if v := s.verdict(); v != "VALID " {
					return fmt.Errorf("it is %s", v)
				}
				return nil
			})
		})
	}
}
