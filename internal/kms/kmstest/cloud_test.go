package kmstest_test

import (
	"testing"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

type cloudWorld struct {
	c *kmstest.Cloud
	p kms.Provider
}

func (w cloudWorld) Provider() kms.Provider                 { return w.p }
func (w cloudWorld) Project(testing.TB) kms.Target          { return w.c.Project() }
func (w cloudWorld) OtherKey(testing.TB, kms.Target) string { return w.c.CreateKey() }
func (w cloudWorld) Disable(_ testing.TB, t kms.Target)     { w.c.SetState(t.KeyID, "Disabled") }
func (w cloudWorld) Enable(_ testing.TB, t kms.Target)      { w.c.SetState(t.KeyID, "Enabled") }
func (w cloudWorld) ScheduleDeletion(_ testing.TB, t kms.Target) {
	w.c.SetState(t.KeyID, "PendingDeletion")
}
func (w cloudWorld) DenyRole(_ testing.TB, t kms.Target, op kms.Operation) {
	w.c.Deny(t.RoleARN, true, op)
}

func TestCloudKeepsTheContract(t *testing.T) {
	kmstest.Provider(t, func(*testing.T) kmstest.World {
		c := kmstest.NewCloud()
		return cloudWorld{c, c}
	})
}

func TestDecoratorsKeepTheContract(t *testing.T) {
	kmstest.Provider(t, func(*testing.T) kmstest.World {
		c := kmstest.NewCloud()
		return cloudWorld{c, kms.NewFault(kms.Meter(c, func(kms.Observation) {}))}
	})
}
