package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/agent/wraps"
)

// The texts that must not stand in clear anywhere for an encrypted cluster.
const (
	secretField = "zanzibarPassphrase"
	secretValue = "quetzalcoatl-under-the-volcano"
	secretName  = "obsidianLedger"
)

// TestStory lives the whole story, step for step, on one platform.
func TestStory(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	s := &story{platform: p}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"1-3 project, role, customer key", s.configure},
		{"4 encrypted cluster", s.createEncrypted},
		{"5 second encrypted and unencrypted cluster", s.createMore},
		{"6 driver", s.useDriver},
		{"7 nothing in clear", s.searchDisk},
		{"8 key disabled", s.disableKey},
		{"8 kill -9 while disabled changes nothing", s.killWhileDisabled},
		{"9 key enabled", s.enableKey},
		{"9 kill -9 of the node under load", s.killNodeUnderLoad},
		{"9 kill -9 of everything", s.killEverything},
		{"10 encrypt an existing cluster", s.encryptExisting},
		{"10 and back", s.decryptExisting},
		{"11 refusals while in use", s.refusals},
		{"11 delete", s.deleteAll},
	} {
		if !p.run(t, step.name, step.run) {
			break
		}
	}
}

type story struct {
	*platform
	keyed
	acknowledged int
}

func (s *story) configure(t *testing.T) {
	s.keyed = s.enable("Story")
	if !strings.HasSuffix(s.role.Principal, ":root") || len(s.role.ExternalID) != 36 {
		t.Errorf("registration %+v", s.role)
	}
	var e struct {
		AWS struct {
			Enabled, Valid bool
			KeyID          string `json:"customerMasterKeyID"`
			Region         string
			RoleID         string `json:"roleId"`
		} `json:"awsKms"`
	}
	s.call("GET", "/api/atlas/v2/groups/"+s.project+"/encryptionAtRest", nil, &e)
	if !e.AWS.Enabled || !e.AWS.Valid || e.AWS.KeyID != s.keyARN || e.AWS.Region != "US_EAST_1" || e.AWS.RoleID != s.role.RoleID {
		t.Errorf("encryption at rest: %+v", e)
	}
	var r registration
	s.call("GET", "/api/atlas/v2/groups/"+s.project+"/cloudProviderAccess/"+s.role.RoleID, nil, &r)
	if r.Authorized == nil || r.ARN == nil || *r.ARN != s.roleARN || len(r.Usages) != 1 || r.Usages[0].FeatureType != "ENCRYPTION_AT_REST" {
		t.Errorf("role in use: %+v", r)
	}
}

func (s *story) createEncrypted(t *testing.T) {
	s.createCluster(s.project, "Encrypted", "AWS", 3)
	if c := s.cluster(s.project, "Encrypted"); c.State != "CREATING" || c.Provider != "AWS" {
		t.Errorf("first look at the new cluster: %+v", c)
	}
	s.createUser(s.project)
	s.connect(s.project, "Encrypted")
	c := s.cluster(s.project, "Encrypted")
	n := c.Keywright.Nodes
	if len(n) != 1 || !n[0].Encrypted || n[0].MasterKey == "" || n[0].PID == 0 {
		t.Fatalf("node of the encrypted cluster: %+v", n)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "agent", "keys", n[0].ID, n[0].MasterKey+".json")); err != nil {
		t.Errorf("the wrapped master key is not on the host: %v", err)
	}
}

func (s *story) createMore(t *testing.T) {
	for _, count := range []int{5, 7} {
		s.createCluster(s.project, fmt.Sprintf("Count%d", count), "NONE", count)
	}
	s.createCluster(s.project, "Second", "AWS", 1)
	s.createCluster(s.project, "Plain", "NONE", 1)
	s.connect(s.project, "Second")
	s.connect(s.project, "Plain")
	for _, name := range []string{"Count5", "Count7"} {
		s.connect(s.project, name)
		s.call("DELETE", clusterPath(s.project, name), nil, nil)
	}
	for _, name := range []string{"Count5", "Count7"} {
		s.eventually("cluster "+name+" is gone", time.Minute, func() error { return s.gone(name) })
	}
}

func (s *story) gone(name string) error {
	err := s.api.Do(s.ctx(), "GET", clusterPath(s.project, name), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "CLUSTER_NOT_FOUND") {
		return fmt.Errorf("it is still there: %w", err)
	}
	return nil
}

func (s *story) useDriver(t *testing.T) {
	for _, name := range []string{"Encrypted", "Second", "Plain"} {
		c := s.connect(s.project, name)
		coll := c.Database(secretName).Collection("entries")
		if _, err := coll.Indexes().CreateOne(t.Context(), mongo.IndexModel{Keys: bson.D{{Key: "n", Value: 1}}}); err != nil {
			t.Fatal(err)
		}
		var docs []any
		for i := range 500 {
			docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "n", Value: i % 50}, {Key: secretField, Value: secretValue}})
		}
		if _, err := coll.InsertMany(t.Context(), docs); err != nil {
			t.Fatal(err)
		}
		n, err := coll.CountDocuments(t.Context(), bson.D{{Key: "n", Value: bson.D{{Key: "$lt", Value: 10}}}})
		if err != nil || n != 100 {
			t.Fatalf("count %d, %v", n, err)
		}
		if _, err := coll.UpdateMany(t.Context(), bson.D{{Key: "n", Value: 7}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "hits", Value: 2}}}}); err != nil {
			t.Fatal(err)
		}
		var explained bson.M
		if err := c.Database(secretName).RunCommand(t.Context(), bson.D{
			{Key: "explain", Value: bson.D{{Key: "find", Value: "entries"}, {Key: "filter", Value: bson.D{{Key: "n", Value: 7}}}}},
			{Key: "verbosity", Value: "executionStats"},
		}).Decode(&explained); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(explained); !strings.Contains(text, "IXSCAN") || strings.Contains(text, "COLLSCAN") {
			t.Errorf("a query by an indexed field does not use the index: %s", text)
		}
	}
	// Without a login nothing is answered.
	uri := strings.Split(s.cluster(s.project, "Encrypted").Strings.Standard, "?")[0] + "?tls=true&directConnection=true&tlsCAFile=" + s.boot.CAFile
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Disconnect(context.Background()) }()
	err = c.Database(secretName).Collection("entries").FindOne(t.Context(), bson.D{}).Err()
	var ce mongo.CommandError
	if !errors.As(err, &ce) || ce.Code != 13 {
		t.Errorf("a client without login was answered: %v", err)
	}
}

// spelled gives the ways in which a text could stand in a file.
func spelled(needles map[string][]byte, name string, b []byte) {
	needles[name] = b
	needles[name+" in hex"] = []byte(hex.EncodeToString(b))
	// The three alignments that base64 can have, without the edges that depend on
	// the neighbours.
	for shift := range 3 {
		e := base64.StdEncoding.EncodeToString(append(make([]byte, shift), b...))
		from, to := (shift*8+5)/6, len(e)-4
		if to-from > 8 {
			needles[fmt.Sprintf("%s in base64 (%d)", name, shift)] = []byte(e[from:to])
		}
	}
}

func (s *story) searchDisk(t *testing.T) {
	needles := map[string][]byte{}
	for _, text := range []string{secretField, secretValue, secretName} {
		spelled(needles, text, []byte(text))
	}
	masterKeys := map[string][]byte{}
	for _, name := range []string{"Encrypted", "Second"} {
		n := s.cluster(s.project, name).Keywright.Nodes[0]
		spelled(masterKeys, "master key of "+name, s.masterKey(t, n.ID, n.MasterKey))
	}
	plain := filepath.Join(s.dir, "agent", "nodes", s.cluster(s.project, "Plain").Keywright.Nodes[0].ID)
	inPlain := func(path string) bool { return strings.HasPrefix(path, plain+"/") }
	if found := containsAny(t, s.dir, needles, inPlain); len(found) > 0 {
		t.Errorf("in clear on disk: %s", strings.Join(found, "; "))
	}
	if found := containsAny(t, s.dir, masterKeys, nil); len(found) > 0 {
		t.Errorf("master key on disk: %s", strings.Join(found, "; "))
	}
	// The same search finds the unencrypted cluster's data, so it can fail.
	if found := containsAny(t, plain, needles, nil); len(found) == 0 {
		t.Error("the search does not find what lies in clear in the unencrypted cluster")
	}
	s.checkCallLog(t)
}

// masterKey unwraps a node's master key as an administrator of the customer's
// account could: the wrap and the encryption context are all that it takes.
func (s *story) masterKey(t *testing.T, node, key string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "agent", "keys", node, key+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var r wraps.Record
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	w, err := r.Unwrapped()
	if err != nil {
		t.Fatal(err)
	}
	var id struct {
		Deployment string `json:"deployment"`
	}
	ib, err := os.ReadFile(filepath.Join(s.dir, "agent", "identity.json"))
	if err != nil || json.Unmarshal(ib, &id) != nil {
		t.Fatal(err)
	}
	out, err := s.customer().kms.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: w.Ciphertext, KeyId: &s.keyARN, EncryptionContext: map[string]string{
		"keywright:deployment": id.Deployment, "keywright:project": s.project, "keywright:cluster": string(r.Cluster),
		"keywright:node": node, "keywright:purpose": "master-key", "keywright:key": key,
	}})
	if err != nil {
		t.Fatalf("unwrap with the documented encryption context: %v", err)
	}
	if len(out.Plaintext) != 32 {
		t.Fatalf("a master key of %d bytes", len(out.Plaintext))
	}
	return out.Plaintext
}

// checkCallLog finds the calls with their encryption context in the local AWS's log.
func (s *story) checkCallLog(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "aws", "calls.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	node := s.cluster(s.project, "Encrypted").Keywright.Nodes[0].ID
	seen := map[string]bool{}
	for line := range bytes.Lines(b) {
		text := string(line)
		for _, op := range []string{"Encrypt", "Decrypt"} {
			if strings.Contains(text, `"`+op+`"`) && strings.Contains(text, `"keywright:node":"`+node+`"`) && strings.Contains(text, `"keywright:purpose":"master-key"`) {
				seen[op] = true
			}
		}
		if strings.Contains(text, `"AssumeRole"`) {
			seen["AssumeRole"] = true
		}
	}
	for _, op := range []string{"AssumeRole", "Encrypt", "Decrypt"} {
		if !seen[op] {
			t.Errorf("the call log has no %s for the node", op)
		}
	}
}

// mongods maps the node's id to the process, for nodes that run.
func (s *story) mongods() map[string]int {
	out := map[string]int{}
	for _, x := range s.named("mongod") {
		if i := slices.Index(x.args, "--nodeId"); i > 0 && i+1 < len(x.args) && x.args[2] != "rewrite" {
			out[x.args[i+1]] = x.pid
		}
	}
	return out
}

// stopped tells whether the encrypted clusters are down and the plain one up.
func (s *story) stopped() error {
	run := s.mongods()
	for _, name := range []string{"Encrypted", "Second"} {
		n := s.cluster(s.project, name).Keywright.Nodes[0]
		if pid := run[n.ID]; pid != 0 {
			return fmt.Errorf("node of %s runs as process %d", name, pid)
		}
		if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", n.Port), time.Second); err == nil {
			_ = c.Close()
			return fmt.Errorf("port %d of %s answers", n.Port, name)
		}
	}
	if run[s.cluster(s.project, "Plain").Keywright.Nodes[0].ID] == 0 {
		return errors.New("the node of the unencrypted cluster does not run")
	}
	return nil
}

func (s *story) verdict() string {
	var v struct {
		Verdict, Reason string
	}
	s.call("GET", "/api/keywright/v1/groups/"+s.project+"/encryptionAtRest", nil, &v)
	return v.Verdict + " " + v.Reason
}

func (s *story) disableKey(t *testing.T) {
	s.customer().disable(s.keyARN)
	took := s.eventually("the encrypted clusters are stopped", time.Minute, s.stopped)
	t.Logf("stopped %s after the key was disabled (the bound is 4 s)", took.Round(time.Millisecond))
	s.eventually("the project is INVALID", 20*time.Second, func() error {
		if v := s.verdict(); v != "INVALID KEY_DISABLED" {
			return fmt.Errorf("it is %s", v)
		}
		return nil
	})
	var e struct {
		AWS struct{ Enabled, Valid bool } `json:"awsKms"`
	}
	s.call("GET", "/api/atlas/v2/groups/"+s.project+"/encryptionAtRest", nil, &e)
	if !e.AWS.Enabled || e.AWS.Valid {
		t.Errorf("encryption at rest while the key is disabled: %+v", e)
	}
	var events struct {
		Results []struct {
			Type, Message string
			TypeName      string `json:"eventTypeName"`
		}
	}
	s.call("GET", "/api/atlas/v2/groups/"+s.project+"/events", nil, &events)
	if text := fmt.Sprint(events); !strings.Contains(text, "KEY_DISABLED") && !strings.Contains(text, "disabled") {
		t.Errorf("no event says why: %s", text)
	}
	if err := s.connect(s.project, "Plain").Database(secretName).Collection("entries").FindOne(t.Context(), bson.D{{Key: "_id", Value: 1}}).Err(); err != nil {
		t.Errorf("the unencrypted cluster does not go on: %v", err)
	}
}

// stays wants a condition to hold from when it first does until after the
// validators had several intervals to decide otherwise.
func (s *story) stays(what string, check func() error) {
	s.t.Helper()
	s.eventually(what, time.Minute, check)
	until := time.Now().Add(4 * time.Second)
	for time.Now().Before(until) {
		if err := check(); err != nil {
			s.t.Fatalf("%s, but not for long: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *story) killWhileDisabled(*testing.T) {
	for _, sub := range []string{"agent", "server"} {
		s.killNamed(sub)
		s.eventually(sub+" is back", time.Minute, func() error {
			if len(s.named(sub)) == 0 {
				return errors.New("no process")
			}
			return s.api.Do(s.ctx(), "GET", "/api/atlas/v2", nil, nil)
		})
		s.stays("still stopped after kill -9 of "+sub, s.stopped)
	}
	s.killAll()
	s.start()
	s.stays("still stopped after kill -9 of everything", s.stopped)
}

// intact wants all documents and all acknowledged writes.
func (s *story) intact(t *testing.T, name string) {
	t.Helper()
	c := s.connect(s.project, name)
	coll := c.Database(secretName).Collection("entries")
	n, err := coll.CountDocuments(t.Context(), bson.D{{Key: secretField, Value: secretValue}})
	if err != nil || n != 500 {
		t.Fatalf("%s has %d of 500 documents, %v", name, n, err)
	}
	var doc struct{ Hits int }
	if err := coll.FindOne(t.Context(), bson.D{{Key: "_id", Value: 7}}).Decode(&doc); err != nil || doc.Hits != 2 {
		t.Fatalf("document 7 of %s: %+v, %v", name, doc, err)
	}
	if n, err = coll.CountDocuments(t.Context(), bson.D{{Key: "n", Value: 7}}); err != nil || n != 10 {
		t.Fatalf("the index of %s finds %d of 10, %v", name, n, err)
	}
}

func (s *story) enableKey(t *testing.T) {
	s.customer().enable(s.keyARN)
	for _, name := range []string{"Encrypted", "Second", "Plain"} {
		s.intact(t, name)
	}
	s.eventually("the project is VALID", 20*time.Second, func() error {
		if v := s.verdict(); v != "VALID " {
			return fmt.Errorf("it is %s", v)
		}
		return nil
	})
}

// load writes numbered documents until stop is closed, and gives the number of
// the last acknowledged one.
func (s *story) load(t *testing.T, stop <-chan struct{}) int {
	c := s.connect(s.project, "Encrypted")
	coll := c.Database(secretName).Collection("load")
	for {
		select {
		case <-stop:
			return s.acknowledged
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: s.acknowledged + 1}})
		cancel()
		switch {
		case err == nil, mongo.IsDuplicateKeyError(err): // an unacknowledged write that did happen
			s.acknowledged++
		}
	}
}

func (s *story) underLoad(t *testing.T, during func()) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan int)
	before := s.acknowledged
	go func() { done <- s.load(t, stop) }()
	s.eventually("load runs", time.Minute, func() error {
		n, err := s.connect(s.project, "Encrypted").Database(secretName).Collection("load").CountDocuments(t.Context(), bson.D{})
		if err == nil && int(n) < before+20 {
			err = fmt.Errorf("%d writes", n)
		}
		return err
	})
	during()
	close(stop)
	acknowledged := <-done
	n, err := s.connect(s.project, "Encrypted").Database(secretName).Collection("load").CountDocuments(t.Context(), bson.D{{Key: "_id", Value: bson.D{{Key: "$lte", Value: acknowledged}}}})
	if err != nil || int(n) != acknowledged {
		t.Fatalf("%d of %d acknowledged writes are there, %v", n, acknowledged, err)
	}
	t.Logf("%d acknowledged writes, all there", acknowledged)
}

func (s *story) killNodeUnderLoad(t *testing.T) {
	s.underLoad(t, func() {
		for range 3 {
			id := s.cluster(s.project, "Encrypted").Keywright.Nodes[0].ID
			pid := s.mongods()[id]
			if pid == 0 {
				t.Fatal("the node does not run")
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			s.eventually("the node is back", time.Minute, func() error {
				if now := s.mongods()[id]; now == 0 || now == pid {
					return fmt.Errorf("process %d", now)
				}
				return nil
			})
			s.connect(s.project, "Encrypted")
		}
	})
	s.intact(t, "Encrypted")
}

func (s *story) killEverything(t *testing.T) {
	stop, done := make(chan struct{}), make(chan int)
	go func() { done <- s.load(t, stop) }()
	before := s.acknowledged
	s.eventually("load runs", time.Minute, func() error {
		n, err := s.connect(s.project, "Encrypted").Database(secretName).Collection("load").CountDocuments(t.Context(), bson.D{})
		if err == nil && int(n) < before+20 {
			err = fmt.Errorf("%d writes", n)
		}
		return err
	})
	s.killAll()
	close(stop)
	<-done
	s.start()
	n, err := s.connect(s.project, "Encrypted").Database(secretName).Collection("load").CountDocuments(t.Context(), bson.D{{Key: "_id", Value: bson.D{{Key: "$lte", Value: s.acknowledged}}}})
	if err != nil || int(n) != s.acknowledged {
		t.Fatalf("%d of %d acknowledged writes are there, %v", n, s.acknowledged, err)
	}
	for _, name := range []string{"Encrypted", "Second", "Plain"} {
		s.intact(t, name)
	}
}

// ofNode lists the processes that work on a node's files: the node itself, and
// what rewrites it.
func (s *story) ofNode(id string) []process {
	var out []process
	for _, x := range s.named("mongod") {
		if i := slices.Index(x.args, "--nodeId"); i > 0 && i+1 < len(x.args) && x.args[i+1] == id {
			out = append(out, x)
		}
	}
	return out
}

// convert changes a cluster's provider while whatever works on the node's files
// is killed again and again, and the agent with it.
func (s *story) convert(t *testing.T, provider string, encrypted bool) {
	node := s.cluster(s.project, "Plain").Keywright.Nodes[0].ID
	s.call("PATCH", clusterPath(s.project, "Plain"), map[string]any{"encryptionAtRestProvider": provider}, nil)
	seen := map[int]bool{}
	for range 5 {
		s.eventually("something works on the node's files", time.Minute, func() error {
			for _, x := range s.ofNode(node) {
				if !seen[x.pid] {
					seen[x.pid] = true
					return syscall.Kill(x.pid, syscall.SIGKILL)
				}
			}
			return errors.New("no new process")
		})
	}
	s.killNamed("agent")
	s.eventually("the cluster is rewritten", 2*time.Minute, func() error {
		c := s.cluster(s.project, "Plain")
		if c.State != "IDLE" || len(c.Keywright.Nodes) != 1 || c.Keywright.Nodes[0].Encrypted != encrypted || c.Provider != provider {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	s.intact(t, "Plain")
	s.eventually("the old files are gone", time.Minute, func() error {
		dirs, err := filepath.Glob(filepath.Join(s.dir, "agent", "nodes", node, "data-*"))
		if err == nil && len(dirs) != 1 {
			err = fmt.Errorf("%d data directories", len(dirs))
		}
		return err
	})
}

func (s *story) encryptExisting(t *testing.T) {
	s.convert(t, "AWS", true)
	needles := map[string][]byte{}
	for _, text := range []string{secretField, secretValue, secretName} {
		spelled(needles, text, []byte(text))
	}
	if found := containsAny(t, s.dir, needles, nil); len(found) > 0 {
		t.Errorf("in clear after encryption was switched on: %s", strings.Join(found, "; "))
	}
	var events struct {
		Results []struct{ Message string }
	}
	s.call("GET", "/api/atlas/v2/groups/"+s.project+"/events", nil, &events)
	if text := fmt.Sprint(events); !strings.Contains(text, "Plain") {
		t.Errorf("no event of the change: %s", text)
	}
}

func (s *story) decryptExisting(t *testing.T) {
	s.convert(t, "NONE", false)
	node := s.cluster(s.project, "Plain").Keywright.Nodes[0].ID
	s.eventually("the keys are destroyed", 30*time.Second, func() error {
		return s.noWraps(node)
	})
}

// noWraps wants every key of a node to be recorded as destroyed.
func (s *story) noWraps(node string) error {
	files, err := filepath.Glob(filepath.Join(s.dir, "agent", "keys", node, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var r wraps.Record
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		if r.State != "DESTROYED" || len(r.Wrapped) > 0 {
			return fmt.Errorf("key %s is %s", r.Key, r.State)
		}
	}
	return nil
}

func (s *story) refusals(*testing.T) {
	base := "/api/atlas/v2/groups/" + s.project
	s.refused("CANNOT_DISABLE_ENCRYPTION_AT_REST", "PATCH", base+"/encryptionAtRest", map[string]any{"awsKms": map[string]any{"enabled": false}})
	s.refused("AWS_IAM_ROLE_IN_USE", "DELETE", base+"/cloudProviderAccess/AWS/"+s.role.RoleID, nil)
	s.refused("CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS", "DELETE", base, nil)
}

func (s *story) deleteAll(t *testing.T) {
	base := "/api/atlas/v2/groups/" + s.project
	nodes := map[string]string{}
	for _, name := range []string{"Encrypted", "Second", "Plain"} {
		nodes[name] = s.cluster(s.project, name).Keywright.Nodes[0].ID
		s.call("DELETE", clusterPath(s.project, name), nil, nil)
		if c := s.cluster(s.project, name); c.State != "DELETING" {
			t.Errorf("first look at the deleted cluster: %s", c.State)
		}
	}
	for name, node := range nodes {
		s.eventually("cluster "+name+" is gone", time.Minute, func() error { return s.gone(name) })
		if _, err := os.Stat(filepath.Join(s.dir, "agent", "nodes", node)); !os.IsNotExist(err) {
			t.Errorf("files of %s are still there: %v", name, err)
		}
		if err := s.noWraps(node); err != nil {
			t.Errorf("keys of %s: %v", name, err)
		}
	}
	if n := len(s.named("mongod")); n > 0 {
		t.Errorf("%d nodes still run", n)
	}
	s.call("PATCH", base+"/encryptionAtRest", map[string]any{"awsKms": map[string]any{"enabled": false}}, nil)
	s.call("DELETE", base+"/cloudProviderAccess/AWS/"+s.role.RoleID, nil, nil)
	s.call("DELETE", base, nil, nil)
	s.refused("GROUP_NOT_FOUND", "GET", base, nil)
}
