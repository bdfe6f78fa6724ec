package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/keys"
)

// clusterKeys is a cluster as its own view shows it.
type clusterKeys struct {
	Nodes []struct {
		ID               string     `json:"id"`
		MasterKeyID      keys.KeyID `json:"masterKeyId"`
		MasterKeyCreated string     `json:"masterKeyCreated"`
		Rotations        int        `json:"rotations"`
	} `json:"nodes"`
	Rotation *struct {
		State string `json:"state"`
	} `json:"masterKeyRotation"`
}

// TestMasterKeysAreRotatedExportedAndRecovered rotates a running node, exports its
// keys, and rebuilds the agent's key directory twice: from the control plane and from
// the bundle.
func TestMasterKeysAreRotatedExportedAndRecovered(t *testing.T) {
	p := newPlatform(t)
	own := "/api/keywright/v1/groups/" + p.boot.Sample.ProjectID + "/clusters/" + p.boot.Sample.ClusterName
	client, err := dial(t, p.boot.Sample.ConnectionString)
	if err != nil {
		t.Fatal(err)
	}
	things := client.Database("kept").Collection("things")
	if _, err := things.InsertOne(t.Context(), bson.D{{Key: "_id", Value: "one"}}); err != nil {
		t.Fatal(err)
	}
	node := func() (pid int) {
		var c clusterKeys
		p.call("GET", own, nil, &c)
		for _, x := range p.named("mongod") {
			if slices.ContainsFunc(x.args, func(a string) bool { return a == c.Nodes[0].ID }) {
				pid = x.pid
			}
		}
		return pid
	}
	var before, after clusterKeys
	p.eventually("the key is shown", 60*time.Second, func() error {
		before = clusterKeys{}
		p.call("GET", own, nil, &before)
		if before.Nodes[0].MasterKeyID == "" || before.Nodes[0].MasterKeyCreated == "" {
			return fmt.Errorf("%+v", before)
		}
		return nil
	})
	pid := node()
	for i := range 2 { // twice in a row is safe
		last := before.Nodes[0].MasterKeyID
		p.call("POST", own+":rotateMasterKey", nil, nil)
		p.eventually("the rotation is complete", time.Minute, func() error {
			after = clusterKeys{}
			p.call("GET", own, nil, &after)
			if after.Rotation == nil || after.Rotation.State != "DONE" || after.Nodes[0].Rotations != i+1 {
				return fmt.Errorf("%+v", after)
			}
			return nil
		})
		now := after.Nodes[0].MasterKeyID
		if now == last || now == "" {
			t.Fatalf("rotated from %s to %s", last, now)
		}
		p.eventually("the replaced key is destroyed on the control plane's order", time.Minute, func() error {
			store, err := wraps.Open(filepath.Join(p.dir, "agent", "keys"))
			if err != nil {
				return err
			}
			old, _ := store.Get(last)
			kept, _ := store.Get(now)
			if old.State != keys.StateDestroyed || kept.State != keys.StateActive {
				return fmt.Errorf("old %s, new %s", old.State, kept.State)
			}
			return nil
		})
		before = after
	}
	if now := node(); now != pid || now == 0 {
		t.Errorf("the node was process %d before the rotation and is %d", pid, now)
	}
	if n, err := things.CountDocuments(t.Context(), bson.D{}); err != nil || n != 1 {
		t.Errorf("%d documents, %v", n, err)
	}
	p.refused("CLUSTER_NOT_ENCRYPTED", "POST", "/api/keywright/v1/groups/"+p.boot.Enable.ProjectID+"/clusters/"+p.boot.Enable.ClusterName+":rotateMasterKey", nil)

	file := exportBundle(t, p)
	there := func() error {
		c, err := dial(t, p.boot.Sample.ConnectionString)
		if err != nil {
			return err
		}
		n, err := c.Database("kept").Collection("things").CountDocuments(t.Context(), bson.D{})
		if err == nil && n != 1 {
			err = fmt.Errorf("%d documents", n)
		}
		return err
	}
	agentDir := filepath.Join(p.dir, "agent")
	held := keyFiles(t, agentDir)

	p.run(t, "from the control plane", func(t *testing.T) {
		agent := p.named("agent")[0]
		server := agent.args[slices.Index(agent.args, "--server")+1]
		p.kill() // its children go on; nobody restarts them
		if out, err := exec.Command(binary, "agent", "recover", "--data-dir", agentDir, "--server", server).CombinedOutput(); err == nil || !strings.Contains(string(out), "stop the agent") {
			t.Errorf("recovered beside a running agent: %v %s", err, out)
		}
		p.killNamed("agent")
		p.killNamed("mongod")
		p.eventually("agent and nodes are gone", 60*time.Second, func() error {
			if len(p.named("agent"))+len(p.named("mongod")) > 0 {
				return errors.New("still there")
			}
			return nil
		})
		if err := os.RemoveAll(filepath.Join(agentDir, "keys")); err != nil {
			t.Fatal(err)
		}
		recoverKeys(t, agentDir, held, "--server", server)
		p.start()
		p.eventually("the data is there", time.Minute, there)
	})
	p.run(t, "from the bundle", func(t *testing.T) {
		p.stop()
		if err := os.RemoveAll(filepath.Join(agentDir, "keys")); err != nil {
			t.Fatal(err)
		}
		spoiled := filepath.Join(t.TempDir(), "spoiled.json")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var b map[string]any
		if err := json.Unmarshal(raw, &b); err != nil {
			t.Fatal(err)
		}
		b["payload"] = "e30="
		raw, _ = json.Marshal(b)
		if err := os.WriteFile(spoiled, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(binary, "agent", "recover", "--data-dir", agentDir, "--bundle", spoiled).CombinedOutput(); err == nil || !strings.Contains(string(out), "not signed by") {
			t.Errorf("a changed bundle: %v %s", err, out)
		}
		recoverKeys(t, agentDir, held, "--bundle", file)
		p.start()
		p.eventually("the data is there", time.Minute, there)
	})
}

// exportBundle writes a bundle with the command line.
func exportBundle(t *testing.T, p *platform) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "bundle.json")
	public, private := filepath.Join(dir, "public"), filepath.Join(dir, "private")
	if err := errors.Join(os.WriteFile(public, []byte(p.boot.PublicKey+"\n"), 0o600), os.WriteFile(private, []byte(p.boot.PrivateKey+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "key", "export", "--base-url", p.boot.BaseURL, "--public-key-file", public, "--private-key-file", private, "--org-id", p.boot.OrgID, "--out", file).CombinedOutput()
	if err != nil {
		t.Fatalf("key export: %v: %s", err, out)
	}
	return file
}

// keyFiles lists the agent's records of keys.
func keyFiles(t *testing.T, agentDir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(agentDir, "keys", "*", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d key records, %v", len(files), err)
	}
	return files
}

// recoverKeys rebuilds the key directory; the same records have to be there again, and
// a second run changes nothing.
func recoverKeys(t *testing.T, agentDir string, want []string, from ...string) {
	t.Helper()
	args := append([]string{"agent", "recover", "--data-dir", agentDir}, from...)
	for range 2 {
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("agent recover: %v: %s", err, out)
		}
	}
	if got := keyFiles(t, agentDir); !slices.Equal(got, want) {
		t.Errorf("recovered %v, want %v", got, want)
	}
}
