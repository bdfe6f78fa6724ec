package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/awslocal"
)

// host is a further agent beside the one of `keywright up`.
type host struct {
	p    *platform
	name string
	args []string
	cmd  *exec.Cmd
}

// addHost enrols a host whose agent calls AWS from an address of its own.
func (p *platform) addHost(name, source string) *host {
	p.t.Helper()
	var ready struct {
		AgentURL string `json:"agentUrl"`
	}
	p.readJSON(filepath.Join("run", "server-ready.json"), &ready)
	var token struct {
		Token string `json:"token"`
	}
	p.call("POST", "/api/keywright/v1/hosts/enrolmentTokens", map[string]any{"hostname": name}, &token)
	file := filepath.Join(p.dir, name+".token")
	if err := os.WriteFile(file, []byte(token.Token), 0o600); err != nil {
		p.t.Fatal(err)
	}
	h := &host{p: p, name: name, args: []string{
		"agent", "--data-dir", filepath.Join(p.dir, name), "--server", ready.AgentURL, "--hostname", name, "--kmip-listen", "127.0.0.1:0",
		"--node-ports", "0", "--enroll-token-file", file,
	}}
	h.start(source)
	return h
}

func (p *platform) readJSON(name string, into any) {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// environment is how the host reaches AWS.
func (h *host) environment() []string {
	h.p.t.Helper()
	var seed awslocal.Seed
	h.p.readJSON(filepath.Join("aws", awslocal.SeedFile), &seed)
	return append(os.Environ(), "AWS_ENDPOINT_URL="+h.p.boot.AWS.Endpoint, "AWS_REGION="+h.p.boot.AWS.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID="+seed.Platform.Agent.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+seed.Platform.Agent.SecretAccessKey)
}

// examine runs the doctor on an enrolled host, and prints its policy.
func (h *host) examine() {
	h.p.t.Helper()
	cmd := exec.Command(binary, "doctor", "agent", "--data-dir", filepath.Join(h.p.dir, h.name), "--server", h.args[4], "--listen", "127.0.0.1:0", "-o", "json")
	cmd.Env = h.environment()
	out, err := cmd.Output()
	var found struct {
		Checks []struct{ Check, Level, Text string }
	}
	if err == nil {
		err = json.Unmarshal(out, &found)
	}
	if err != nil {
		h.p.t.Fatalf("doctor: %v\n%s", err, out)
	}
	good := map[string]bool{}
	for _, c := range found.Checks {
		good[c.Check] = c.Level == "ok"
	}
	for _, check := range []string{"AWS identity", "STS clock", "control plane", "enrolment", "data directory"} {
		if !good[check] {
			h.p.t.Errorf("doctor on an enrolled host: %s is not ok\n%s", check, out)
		}
	}
	out, err = exec.Command(binary, "agent", "aws-policy", h.name, "--bootstrap", filepath.Join(h.p.dir, "bootstrap.json")).Output()
	if err != nil || !strings.Contains(string(out), `"sts:AssumeRole"`) || strings.Count(string(out), ":role/") != 1 {
		h.p.t.Errorf("policy: %v\n%s", err, out)
	}
}

func (h *host) start(source string) {
	h.p.t.Helper()
	out, err := os.OpenFile(filepath.Join(h.p.dir, "logs", h.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.p.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	h.cmd = exec.Command(binary, append(slices.Clone(h.args), "--source-address", source)...)
	h.cmd.Stdout, h.cmd.Stderr = out, out
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.cmd.Env = h.environment()
	if err := h.cmd.Start(); err != nil {
		h.p.t.Fatal(err)
	}
}

// stop ends the agent; its nodes go on.
func (h *host) stop() {
	h.p.t.Helper()
	_ = h.cmd.Process.Signal(os.Interrupt)
	if err := h.cmd.Wait(); err != nil {
		h.p.t.Fatalf("agent %s: %v", h.name, err)
	}
}

// networkBody is what the test reads of a project's addresses.
type networkBody struct {
	Addresses []string `json:"addresses"`
	Hosts     []struct {
		ID, Hostname, Verdict string
		Addresses             []string
	} `json:"hosts"`
	Denied []struct {
		Hostname string   `json:"hostname"`
		Allow    []string `json:"allow"`
	} `json:"denied"`
	Changes []struct {
		Hostname    string   `json:"hostname"`
		Old         []string `json:"oldAddresses"`
		New         []string `json:"newAddresses"`
		ConfirmedAt *string  `json:"confirmedAt"`
	} `json:"changes"`
	Statements struct {
		RolePolicy json.RawMessage `json:"rolePolicy"`
	} `json:"statements"`
}

func (p *platform) network(project string) networkBody {
	p.t.Helper()
	var n networkBody
	p.call("GET", "/api/keywright/v1/groups/"+project+"/networkAccess", nil, &n)
	return n
}

func (n networkBody) denied() (out []string) {
	for _, d := range n.Denied {
		out = append(out, d.Hostname+" "+strings.Join(d.Allow, ","))
	}
	return out
}

// messageOf gives the newest message of a project's events of a kind.
func (p *platform) messageOf(project, kind string) string {
	p.t.Helper()
	var e struct {
		Results []struct {
			Type    string `json:"eventTypeName"`
			Message string `json:"message"`
		} `json:"results"`
	}
	p.call("GET", "/api/atlas/v2/groups/"+project+"/events?itemsPerPage=500&eventType="+kind, nil, &e)
	if len(e.Results) == 0 {
		return ""
	}
	return e.Results[0].Message
}

// TestNetworkRestrictions: agents on three loopback addresses, and a role that may use
// the key from two of them. The third host is denied, nothing of what runs stops, what is
// new there waits; once the customer allows the address all goes on by itself.
func TestNetworkRestrictions(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	two := p.addHost("db2", "127.0.0.2")
	p.addHost("db3", "127.0.0.3")
	p.eventually("three hosts know their addresses", time.Minute, func() error {
		var all struct {
			Results []struct {
				Egress []string `json:"egressAddresses"`
			} `json:"results"`
		}
		p.call("GET", "/api/keywright/v1/hosts", nil, &all)
		known := 0
		for _, h := range all.Results {
			known += len(h.Egress)
		}
		if len(all.Results) != 3 || known != 3 {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	k := p.enable("Net")
	p.createUser(k.project)
	hostOf := map[string]string{} // by cluster
	create := func(names ...string) {
		for _, name := range names {
			p.createCluster(k.project, name, "AWS", 1)
			var c struct {
				Nodes []struct {
					HostID string `json:"hostId"`
				} `json:"nodes"`
			}
			p.call("GET", "/api/keywright/v1/groups/"+k.project+"/clusters/"+name, nil, &c)
			for _, h := range p.network(k.project).Hosts {
				if h.ID == c.Nodes[0].HostID {
					hostOf[name] = h.Hostname
				}
			}
		}
	}
	on := func(host string, among ...string) string {
		for _, name := range among {
			if hostOf[name] == host {
				return name
			}
		}
		t.Fatalf("no cluster of %v is on %s: %v", among, host, hostOf)
		return ""
	}
	create("A", "B", "C")
	for _, name := range []string{"A", "B", "C"} {
		p.connect(k.project, name)
	}
	third := on("db3", "A", "B", "C")
	n := p.network(k.project)
	if !slices.Equal(n.Addresses, []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}) {
		t.Fatalf("addresses %v", n.Addresses)
	}
	restrict := func(addresses ...string) {
		t.Helper()
		p.customer().setAccess(k.roleName, document(t, access(k.keyARN), restriction(t, p.network(k.project).Statements.RolePolicy, addresses)))
	}

	// The customer allows two addresses of three.
	before := p.cluster(k.project, third)
	things := p.connect(k.project, third).Database("kept").Collection("things")
	restrict("127.0.0.1", "127.0.0.2")
	took := p.eventually("the third host is denied", time.Minute, func() error {
		if n = p.network(k.project); !slices.Equal(n.denied(), []string{"db3 127.0.0.3"}) {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	t.Logf("db3 is NETWORK_ACCESS_DENIED %s after the restriction", took.Round(time.Millisecond))
	if m := p.messageOf(k.project, "HOST_KMS_NETWORK_ACCESS_DENIED"); !strings.Contains(m, "db3") || !strings.Contains(m, "127.0.0.3") {
		t.Errorf("event %q", m)
	}
	p.eventually("Atlas's event names the address", 60*time.Second, func() error {
		if m := p.messageOf(k.project, "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED"); !strings.Contains(m, "127.0.0.3") {
			return fmt.Errorf("%q", m)
		}
		return nil
	})

	// What runs goes on, what is new there waits, what is new elsewhere starts.
	create("D", "E", "F")
	waits := on("db3", "D", "E", "F")
	p.eventually("the new node waits for the customer", time.Minute, func() error {
		x := p.node(k.project, waits)
		if x.Phase != "WAITING_FOR_KEY" || !strings.Contains(x.Message, "127.0.0.3") {
			return fmt.Errorf("%+v", x)
		}
		return nil
	})
	for _, name := range []string{"D", "E", "F"} {
		if name != waits {
			p.connect(k.project, name)
		}
	}
	if _, err := things.InsertOne(t.Context(), bson.D{{Key: "_id", Value: "while denied"}}); err != nil {
		t.Errorf("the running node of the denied host: %v", err)
	}
	if now := p.cluster(k.project, third); now.Keywright.Nodes[0].PID != before.Keywright.Nodes[0].PID {
		t.Errorf("the running node of the denied host was restarted: %+v, before %+v", now.Keywright.Nodes, before.Keywright.Nodes)
	}

	// The customer allows the address: everything goes on by itself.
	restrict("127.0.0.1", "127.0.0.2", "127.0.0.3")
	p.connect(k.project, waits)
	p.eventually("nobody is denied", time.Minute, func() error {
		if n = p.network(k.project); len(n.Denied) != 0 {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	if m := p.messageOf(k.project, "HOST_KMS_NETWORK_ACCESS_RESTORED"); !strings.Contains(m, "db3") {
		t.Errorf("event %q", m)
	}

	two.examine()

	// A host moves: old, new and the new statement are told, and its node goes on until
	// the customer has followed.
	moved := on("db2", "A", "B", "C")
	before = p.cluster(k.project, moved)
	two.stop()
	two.start("127.0.0.4")
	p.eventually("the move waits for the customer", time.Minute, func() error {
		n = p.network(k.project)
		if len(n.Changes) == 0 || n.Changes[0].ConfirmedAt != nil || !slices.Equal(n.denied(), []string{"db2 127.0.0.4"}) {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	if c := n.Changes[0]; c.Hostname != "db2" || !slices.Equal(c.Old, []string{"127.0.0.2"}) || !slices.Equal(c.New, []string{"127.0.0.4"}) {
		t.Errorf("change %+v", c)
	}
	if m := p.messageOf(k.project, "KMS_ADDRESSES_CHANGED"); !strings.Contains(m, "127.0.0.4 now, not from 127.0.0.2") {
		t.Errorf("event %q", m)
	}
	out, err := exec.Command(binary, "ip-addresses", "Net", "--bootstrap", filepath.Join(p.dir, "bootstrap.json")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "allow 127.0.0.4") || !strings.Contains(string(out), "aws:SourceIp") {
		t.Errorf("%v: %s", err, out)
	}
	restrict(n.Addresses...)
	p.eventually("the move is confirmed", time.Minute, func() error {
		if n = p.network(k.project); n.Changes[0].ConfirmedAt == nil || len(n.Denied) != 0 {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	if now := p.cluster(k.project, moved); now.Keywright.Nodes[0].PID != before.Keywright.Nodes[0].PID {
		t.Errorf("the node of the host that moved was restarted: %+v, before %+v", now.Keywright.Nodes, before.Keywright.Nodes)
	}
}

type nodeView struct{ Phase, Message string }

func (p *platform) node(project, cluster string) nodeView {
	p.t.Helper()
	var c struct {
		Nodes []nodeView `json:"nodes"`
	}
	p.call("GET", "/api/keywright/v1/groups/"+project+"/clusters/"+cluster, nil, &c)
	if len(c.Nodes) == 0 {
		return nodeView{}
	}
	return c.Nodes[0]
}

// restriction is the statement that the platform hands out, for other addresses.
func restriction(t *testing.T, statement json.RawMessage, addresses []string) json.RawMessage {
	t.Helper()
	var s map[string]any
	if err := json.Unmarshal(statement, &s); err != nil {
		t.Fatal(err)
	}
	c, ok := s["Condition"].(map[string]any)
	if !ok {
		t.Fatalf("no condition in %s", statement)
	}
	c["NotIpAddress"] = map[string]any{"aws:SourceIp": addresses}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// document adds a statement to a policy document.
func document(t *testing.T, doc string, statement json.RawMessage) string {
	t.Helper()
	var d struct {
		Version   string
		Statement []json.RawMessage
	}
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatal(err)
	}
	d.Statement = append(d.Statement, statement)
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
