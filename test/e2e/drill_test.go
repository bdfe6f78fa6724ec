package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// drills is a cluster's list of drills.
type drills struct {
	Results []struct {
		ID     string   `json:"id"`
		State  string   `json:"state"`
		Stop   *float64 `json:"orderToStoppedSeconds"`
		Return *float64 `json:"endToWritableSeconds"`
	} `json:"results"`
}

// TestDrill rehearses a revocation, in words and with effect: the one cluster stops,
// the agent is killed meanwhile, and everything comes back by itself.
func TestDrill(t *testing.T) {
	p := newPlatform(t)
	own := "/api/keywright/v1/groups/" + p.boot.Sample.ProjectID
	cluster := own + "/clusters/" + p.boot.Sample.ClusterName
	var plan struct {
		WouldStop []struct {
			Name string `json:"name"`
		} `json:"wouldStop"`
		Hosts []struct {
			Verdict string `json:"verdict"`
		} `json:"hosts"`
		Wraps int `json:"wrapsWithoutUse"`
	}
	p.eventually("the rehearsal names the cluster", 30*time.Second, func() error {
		p.call("GET", own+"/encryptionAtRest:rehearse", nil, &plan)
		if len(plan.WouldStop) != 1 || plan.WouldStop[0].Name != p.boot.Sample.ClusterName || len(plan.Hosts) != 1 || plan.Hosts[0].Verdict != "VALID" || plan.Wraps == 0 {
			return fmt.Errorf("%+v", plan)
		}
		return nil
	})
	others := len(p.named("mongod")) - 1
	cmd := exec.CommandContext(t.Context(), binary, "key", "rehearse", p.boot.Sample.ProjectID, "--live", p.boot.Sample.ClusterName, "--bootstrap", p.dir+"/bootstrap.json")
	var said, printed output
	cmd.Stderr, cmd.Stdout = &said, &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var seen drills
	p.eventually("the cluster is stopped", 30*time.Second, func() error {
		p.call("GET", cluster+"/drills", nil, &seen)
		if len(seen.Results) != 1 || seen.Results[0].State != "RUNNING" || seen.Results[0].Stop == nil {
			return fmt.Errorf("%+v", seen)
		}
		return nil
	})
	if n := len(p.named("mongod")); n != others {
		t.Errorf("%d database processes run, want %d", n, others)
	}
	p.refused("DRILL_UNDER_WAY", "POST", cluster+":drill", map[string]int{"minutes": 1})
	p.killNamed("agent")
	p.eventually("the agent is back", 30*time.Second, func() error {
		if len(p.named("agent")) == 0 {
			return fmt.Errorf("no agent")
		}
		return nil
	})
	if n := len(p.named("mongod")); n != others {
		t.Errorf("%d database processes run after the agent was killed, want %d", n, others)
	}
	select {
	case err := <-ended:
		if err != nil || !strings.Contains(printed.String(), "END TO WRITABLE") {
			t.Fatalf("command: %v\n%s\n%s", err, said.String(), printed.String())
		}
	case <-time.After(3 * time.Minute):
		t.Fatalf("the drill does not end: %s", said.String())
	}
	t.Logf("\n%s%s", said.String(), printed.String())
	p.call("GET", cluster+"/drills", nil, &seen)
	if d := seen.Results[0]; d.State != "DONE" || d.Stop == nil || d.Return == nil {
		t.Errorf("%+v", seen)
	}
	if _, err := dial(t, p.boot.Sample.ConnectionString); err != nil {
		t.Errorf("the cluster is not back: %v", err)
	}
	var events struct {
		Results []struct {
			Type string `json:"eventTypeName"`
		} `json:"results"`
	}
	p.call("GET", "/api/atlas/v2/groups/"+p.boot.Sample.ProjectID+"/events?itemsPerPage=100", nil, &events)
	for _, want := range []string{"CLUSTER_KEY_DRILL_REQUESTED", "CLUSTER_KEY_DRILL_STARTED", "CLUSTER_KEY_DRILL_ENDED", "CLUSTER_KEY_DRILL_RECOVERED"} {
		if !slices.ContainsFunc(events.Results, func(e struct {
			Type string `json:"eventTypeName"`
		}) bool {
			return e.Type == want
		}) {
			t.Errorf("no event %s", want)
		}
	}
}
