package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keyChange is a project's key as its own view shows it.
type keyChange struct {
	Verdict   string `json:"verdict"`
	Requested struct {
		KeyARN string `json:"keyArn"`
	} `json:"requested"`
	Effective struct {
		KeyARN string `json:"keyArn"`
	} `json:"effective"`
	Change struct {
		State             string `json:"state"`
		Why               string `json:"why"`
		PreviousNotNeeded string `json:"previousNotNeededSince"`
	} `json:"change"`
	RollbackUntil string `json:"rollbackUntil"`
}

// keywright runs a command against the platform.
func (p *platform) keywright(args ...string) string {
	p.t.Helper()
	out, err := exec.Command(binary, append(args, "--bootstrap", filepath.Join(p.dir, "bootstrap.json"))...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("keywright %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestTheCustomerKeyIsChangedUnderLoad changes the CMK of a project with a cluster that
// is written to, while agent, server and node are killed; then the old key is disabled:
// the cluster comes back under the new one with all its data. The rollback is the same
// in the other direction.
func TestTheCustomerKeyIsChangedUnderLoad(t *testing.T) {
	p := newPlatform(t)
	k := p.enable("Change")
	s := &story{platform: p, keyed: k}
	own := "/api/keywright/v1/groups/" + k.project + "/encryptionAtRest"
	p.createUser(k.project)
	p.createCluster(k.project, "Encrypted", "AWS", 1)
	p.connect(k.project, "Encrypted")
	other, _ := p.customer().createKey(nil)
	p.customer().setAccess(k.roleName, policy("Allow", map[string]any{
		"Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": []string{k.keyARN, other},
	}))
	view := func() (v keyChange) {
		p.t.Helper()
		p.call("GET", own, nil, &v)
		return v
	}
	settled := func(key string) {
		p.t.Helper()
		p.eventually("the change is in force everywhere", time.Minute, func() error {
			if v := view(); v.Effective.KeyARN != key || v.Requested.KeyARN != key || v.Change.State != "COMMITTED" || v.Change.PreviousNotNeeded == "" || v.RollbackUntil == "" {
				return fmt.Errorf("%+v", v)
			}
			return nil
		})
	}
	// under kills node and agent while only the key can be used: the data must be there.
	under := func(away string) {
		p.t.Helper()
		p.customer().disable(away)
		node := p.cluster(k.project, "Encrypted").Keywright.Nodes[0].ID
		pid := s.mongods()[node]
		p.killNamed("agent")
		_ = syscall.Kill(pid, syscall.SIGKILL)
		p.eventually("the node is back", time.Minute, func() error {
			if now := s.mongods()[node]; now == 0 || now == pid {
				return fmt.Errorf("process %d", now)
			}
			return nil
		})
		p.connect(k.project, "Encrypted")
	}
	s.underLoad(t, func() {
		p.call("PATCH", "/api/atlas/v2/groups/"+k.project+"/encryptionAtRest", map[string]any{"awsKms": map[string]any{"customerMasterKeyID": other}}, nil)
		p.killNamed("agent")
		p.killNamed("server")
		p.eventually("the server is back", time.Minute, func() error {
			var v keyChange
			return p.api.Do(t.Context(), "GET", own, nil, &v)
		})
		if text := p.keywright("key", "change", k.project, "--key", other, "--wait"); !strings.Contains(text, "COMMITTED") {
			t.Errorf("the command shows %s", text)
		}
		settled(other)
		under(k.keyARN)
	})
	s.underLoad(t, func() {
		p.customer().enable(k.keyARN)
		p.keywright("key", "rollback", k.project, "--wait")
		settled(k.keyARN)
		under(other)
	})
	if v := view(); v.Verdict != "VALID" {
		t.Errorf("%+v", v)
	}
	if text := p.keywright("key", "status", k.project); !strings.Contains(text, "rollback to") || !strings.Contains(text, other) {
		t.Errorf("status shows %s", text)
	}
}
