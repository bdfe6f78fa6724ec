package network_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/awslocal/policy"
	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// world is a project with a customer key and a cluster on one host.
type world struct {
	*controltest.World
	project keys.ProjectID
	agent   *controltest.Agent
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: controltest.New(t)}
	w.project = w.Project("p").ID
	w.Enable(w.project)
	w.agent = controltest.NewAgent(w.Host("db1"))
	w.Start()
	return w
}

// populate puts a cluster on the host.
func (w *world) populate() {
	w.T.Helper()
	r := store.RegionConfig{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}
	_, err := w.Cluster.Create(w.T.Context(), w.Owner, w.project, "c", store.ClusterSettings{EncryptionProvider: "AWS", Specs: []store.ReplicationSpec{{Regions: []store.RegionConfig{r}}}})
	w.Must(err)
}

func (w *world) access() network.View {
	w.T.Helper()
	v, err := w.Network.Access(w.T.Context(), w.Owner, w.project)
	w.Must(err)
	return v
}

// step is a round of the agent, after which ok is awaited.
func (w *world) until(what string, ok func(v network.View) bool) network.View {
	w.T.Helper()
	var v network.View
	controltest.Eventually(w.T, what, func() bool {
		w.Must(w.agent.Step(w.World))
		v = w.access()
		return ok(v)
	})
	return v
}

func (w *world) newest(kind string) audit.Event {
	w.T.Helper()
	all := w.FullEvents(w.project)
	for _, e := range slices.Backward(all) {
		if e.Type == kind {
			return e
		}
	}
	w.T.Fatalf("no event %s in %v", kind, w.Events(w.project))
	return audit.Event{}
}

func (w *world) findings() (out []store.Finding) {
	w.T.Helper()
	w.Must(w.Store.View(w.T.Context(), func(tx *store.Tx) (err error) {
		out, err = tx.Findings(w.project)
		return err
	}))
	return out
}

func waiting(v network.View) (n int) {
	for _, c := range v.Changes {
		if c.Confirmed.IsZero() {
			n++
		}
	}
	return n
}

func TestAddressesAreListedToldAndConfirmed(t *testing.T) {
	w := newWorld(t)
	v := w.until("the control plane's address", func(v network.View) bool { return len(v.Addresses) == 1 })
	if v.Addresses[0] != "192.0.2.1" || v.Machines[0].Hostname != "control" || len(v.Changes) != 0 || len(w.findings()) != 0 {
		t.Fatalf("%+v %+v", v, w.findings())
	}
	if region, all, err := w.Network.ControlPlane(t.Context()); err != nil || region != "us-east-1" || !slices.Equal(all, v.Addresses) {
		t.Errorf("%s %v %v", region, all, err)
	}

	// A host joins: others than before call AWS, and its run confirms that they may.
	w.populate()
	v = w.until("the host's address", func(v network.View) bool { return len(v.Addresses) == 2 && len(v.Changes) == 1 && waiting(v) == 0 })
	if !slices.Equal(v.Addresses, []string{"192.0.2.1", "192.0.2.7"}) || v.Changes[0].By != "validation" || len(v.Changes[0].Old) != 0 {
		t.Errorf("%+v", v)
	}
	if e := w.newest("KMS_ADDRESSES_CHANGED"); !strings.Contains(e.Message, "Host db1") || !strings.Contains(e.Message, "192.0.2.7") || e.Data["statement"] == "" {
		t.Errorf("%+v", e)
	}

	// It moves, and the policies do not have its new address yet.
	w.agent.Egress, w.agent.Verdict, w.agent.Reason = []string{"192.0.2.8"}, custody.Suspect, kms.KeyAccessDenied
	v = w.until("a change that waits", func(v network.View) bool { return waiting(v) == 1 })
	if c := v.Changes[0]; !slices.Equal(c.Old, []string{"192.0.2.7"}) || !slices.Equal(c.New, []string{"192.0.2.8"}) {
		t.Errorf("%+v", v.Changes)
	}
	if h := v.Machines[1].History; len(h) != 1 || h[0].Addresses[0] != "192.0.2.7" {
		t.Errorf("history %+v", h)
	}
	e := w.newest("KMS_ADDRESSES_CHANGED")
	if e.Data["oldAddresses"] != "192.0.2.7" || e.Data["newAddresses"] != "192.0.2.8" || !strings.Contains(e.Data["statement"], `"192.0.2.1/32","192.0.2.8/32"`) || e.Data["alarm"] != "true" {
		t.Errorf("%+v", e)
	}
	if f := w.findings(); len(f) != 1 || f[0].Kind != "KMS_CALLER_ADDRESSES_CHANGED" || !strings.Contains(f[0].Remedy, "192.0.2.8") || f[0].Hostname != "db1" {
		t.Errorf("%+v", f)
	}

	// A restart loses nothing and tells nothing twice.
	before := len(w.Events(w.project))
	w.Reopen()
	w.Start()
	w.agent.Verdict = custody.NAD
	v = w.until("denied", func(v network.View) bool { return !v.Machines[1].Denied.IsZero() })
	if waiting(v) != 1 {
		t.Errorf("%+v", v.Changes)
	}
	if e := w.newest("HOST_KMS_NETWORK_ACCESS_DENIED"); !strings.Contains(e.Message, "allow its address 192.0.2.8") || e.Host != string(w.agent.Host) {
		t.Errorf("%+v", e)
	}
	w.newest("ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED")
	for _, x := range w.FullEvents(w.project)[before:] {
		if x.Type == "KMS_ADDRESSES_CHANGED" {
			t.Errorf("told again: %+v", x)
		}
	}

	// The customer allows it.
	w.agent.Verdict, w.agent.Reason = custody.Valid, ""
	w.until("confirmed", func(v network.View) bool { return waiting(v) == 0 && v.Machines[1].Denied.IsZero() })
	w.newest("KMS_ADDRESSES_CONFIRMED")
	w.newest("HOST_KMS_NETWORK_ACCESS_RESTORED")
	if f := w.findings(); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	w.Verify()
}

func TestAPersonAcknowledges(t *testing.T) {
	w := newWorld(t)
	// Only a host that joins after the first look is a change.
	w.until("the control plane's address", func(v network.View) bool { return len(v.Addresses) == 1 })
	w.populate()
	w.until("quiet", func(v network.View) bool { return len(v.Changes) == 1 && waiting(v) == 0 })
	w.agent.Egress, w.agent.Verdict = []string{"198.51.100.0/24"}, custody.Unreachable
	w.until("a change that waits", func(v network.View) bool { return waiting(v) == 1 })
	reader := w.Key([]tenant.Role{tenant.OrgMember}, w.project, tenant.GroupReadOnly)
	if _, err := w.Network.Acknowledge(t.Context(), reader, w.project); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Errorf("a reader: %v", err)
	}
	stranger := w.Key([]tenant.Role{tenant.OrgMember}, "")
	if _, err := w.Network.Access(t.Context(), stranger, w.project); apierr.Code(err) != "GROUP_NOT_FOUND" {
		t.Errorf("a stranger: %v", err)
	}
	v, err := w.Network.Acknowledge(t.Context(), w.Owner, w.project)
	if err != nil || waiting(v) != 0 || v.Changes[0].By != "person" || len(w.findings()) != 0 {
		t.Errorf("%+v %v", v, err)
	}
	w.newest("KMS_ADDRESSES_ACKNOWLEDGED")
	// What a host says cannot open a policy to half the world.
	w.agent.Egress = []string{"0.0.0.0/0", "10.0.0.0/8", "junk", `192.0.2.9","0.0.0.0/0`}
	w.Must(w.agent.Step(w.World))
	if v := w.access(); !slices.Equal(v.Addresses, []string{"192.0.2.1", "198.51.100.0/24"}) {
		t.Errorf("%v", v.Addresses)
	}
}

// The statements, judged by the evaluator of the local AWS: the named addresses pass, no
// other does, and a call through a VPC endpoint is none of their business.
func TestTheStatementsAllowExactlyTheAddresses(t *testing.T) {
	w := newWorld(t)
	w.populate()
	v := w.until("both addresses", func(v network.View) bool { return len(v.Addresses) == 2 })
	role, err := keys.ParseARN(v.RoleARN)
	w.Must(err)
	document := func(statements ...string) string {
		return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
	}
	allow := `{"Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"` + v.KeyARN + `"}`
	parse := func(k policy.Kind, text string) *policy.Document {
		t.Helper()
		d, err := policy.Parse(k, text)
		w.Must(err)
		return d
	}
	identity := parse(policy.Identity, document(allow, string(v.Statements.RolePolicy)))
	inKey := parse(policy.Key, document(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+role.Account+`:root"},"Action":"kms:*","Resource":"*"}`, string(v.Statements.KeyPolicy)))
	plain := parse(policy.Identity, document(allow))
	open := parse(policy.Key, document(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+role.Account+`:root"},"Action":"kms:*","Resource":"*"}`))
	for address, want := range map[string]bool{"192.0.2.1": true, "192.0.2.7": true, "192.0.2.8": false, "127.0.0.1": false, "": true} {
		ctx := policy.Context{}
		if address != "" {
			ctx.Set("aws:SourceIp", address)
		}
		call := policy.Call{
			Caller: policy.Caller{Kind: policy.SessionCaller, Account: role.Account, ARN: "arn:aws:sts::" + role.Account + ":assumed-role/x/y", PrincipalARN: v.RoleARN, UniqueID: "AROAX"},
			Action: "kms:Decrypt", Resource: v.KeyARN, ResourceAccount: role.Account, Context: ctx,
		}
		byRole := policy.Decide(call, policy.Policies{Identity: []policy.Named{{Doc: identity}}, Resource: &policy.ResourcePolicy{Named: policy.Named{Doc: open}}})
		byKey := policy.Decide(call, policy.Policies{Identity: []policy.Named{{Doc: plain}}, Resource: &policy.ResourcePolicy{Named: policy.Named{Doc: inKey}, IDs: map[string]string{v.RoleARN: "AROAX"}}})
		if byRole.Allowed() != want || byKey.Allowed() != want {
			t.Errorf("from %q: role policy %v (%s), key policy %v (%s), want %v", address, byRole.Allowed(), byRole.Text("kms:Decrypt"), byKey.Allowed(), byKey.Text("kms:Decrypt"), want)
		}
	}
	var trust map[string]map[string][]string
	if err := json.Unmarshal(v.Statements.TrustCondition, &trust); err != nil || !slices.Equal(trust["IpAddress"]["aws:SourceIp"], []string{"192.0.2.1/32", "192.0.2.7/32"}) {
		t.Errorf("%s %v", v.Statements.TrustCondition, err)
	}
}
