package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/keywright/keywright/internal/awslocal"
)

// control makes a control call to the local AWS.
func (p *platform) control(method, what string, in map[string]any) (state awslocal.ControlState) {
	p.t.Helper()
	token, err := os.ReadFile(filepath.Join(p.dir, "aws", awslocal.ControlTokenFile))
	if err != nil {
		p.t.Fatal(err)
	}
	var body bytes.Buffer
	if in != nil {
		in["version"] = 1
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			p.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(context.WithoutCancel(p.ctx()), method, p.boot.AWS.Endpoint+awslocal.ControlPath+what, &body)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		var b bytes.Buffer
		_, _ = b.ReadFrom(answer.Body)
		p.t.Fatalf("%s %s: %s %s", method, what, answer.Status, b.String())
	}
	if err := json.NewDecoder(answer.Body).Decode(&state); err != nil {
		p.t.Fatal(err)
	}
	return state
}

func (p *platform) fault(f awslocal.Fault) {
	p.t.Helper()
	p.control("POST", "faults", map[string]any{"fault": f})
}

// met waits until each fault has met some calls.
func (p *platform) met(calls int) {
	p.t.Helper()
	p.eventually("the faults meet calls", time.Minute, func() error {
		for _, f := range p.control("GET", "state", nil).Faults {
			if f.Hits < calls {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
}

func (p *platform) noFaults() {
	p.t.Helper()
	p.control("DELETE", "faults", nil)
}

// keyState is a project's key as the control plane and every validator see it.
type keyState struct {
	Verdict, Reason, Detail, Remedy string
	Validators                      []struct {
		Host, Verdict, Reason string
		Silent                bool
	}
}

func (p *platform) keyState(project string) keyState {
	p.t.Helper()
	var v keyState
	p.call("GET", "/api/keywright/v1/groups/"+project+"/encryptionAtRest", nil, &v)
	return v
}

// everywhere waits until the project and each validator have one of the verdicts,
// and wants an explanation for all but VALID.
func (p *platform) everywhere(project string, verdicts ...string) keyState {
	p.t.Helper()
	var v keyState
	p.eventually("the verdict is "+strings.Join(verdicts, " or ")+" everywhere", 90*time.Second, func() error {
		v = p.keyState(project)
		if !slices.Contains(verdicts, v.Verdict) {
			return fmt.Errorf("it is %+v", v)
		}
		for _, x := range v.Validators {
			if !slices.Contains(verdicts, x.Verdict) {
				return fmt.Errorf("it is %+v", v)
			}
		}
		return nil
	})
	if v.Verdict != "VALID" && (v.Reason == "" || v.Remedy == "") {
		p.t.Errorf("nothing says why or what to do: %+v", v)
	}
	return v
}

// writer writes numbered documents, one after the other, for as long as it lives, and
// remembers which were acknowledged.
type writer struct {
	p     *platform
	k     keyed
	stop  context.CancelFunc
	done  chan struct{}
	mu    sync.Mutex
	acked []int
}

func (p *platform) write(k keyed, cluster string) *writer {
	p.t.Helper()
	c := p.connect(k.project, cluster)
	ctx, stop := context.WithCancel(context.Background())
	w := &writer{p: p, k: k, stop: stop, done: make(chan struct{})}
	coll := c.Database("faults").Collection("written")
	go func() {
		defer close(w.done)
		for i := 0; ctx.Err() == nil; i++ {
			one, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := coll.InsertOne(one, bson.D{{Key: "_id", Value: i}})
			cancel()
			if err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, i)
				w.mu.Unlock()
			}
		}
	}()
	p.t.Cleanup(w.end)
	return w
}

func (w *writer) end() {
	w.stop()
	<-w.done
}

func (w *writer) acknowledged() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// goesOn waits until another write is acknowledged.
func (w *writer) goesOn() {
	w.p.t.Helper()
	before := len(w.acknowledged())
	w.p.eventually("writes are acknowledged", 90*time.Second, func() error {
		if now := len(w.acknowledged()); now < before+5 {
			return fmt.Errorf("%d before, %d now", before, now)
		}
		return nil
	})
}

// kept checks that every acknowledged write is there.
func (w *writer) kept(c *mongo.Client) {
	w.p.t.Helper()
	want := w.acknowledged()
	cur, err := c.Database("faults").Collection("written").Find(w.p.ctx(), bson.D{})
	if err != nil {
		w.p.t.Fatal(err)
	}
	var docs []struct {
		ID int `bson:"_id"`
	}
	if err := cur.All(w.p.ctx(), &docs); err != nil {
		w.p.t.Fatal(err)
	}
	have := make(map[int]bool, len(docs))
	for _, d := range docs {
		have[d.ID] = true
	}
	for _, i := range want {
		if !have[i] {
			w.p.t.Errorf("acknowledged write %d of %d is lost", i, len(want))
		}
	}
}

// masterKeys gives the identifier of each node's master key.
func (p *platform) masterKeys(project, cluster string) (out []string) {
	p.t.Helper()
	for _, n := range p.cluster(project, cluster).Keywright.Nodes {
		out = append(out, n.MasterKey)
	}
	return out
}

func (p *platform) pids() (out []int) {
	for _, x := range p.named("mongod") {
		out = append(out, x.pid)
	}
	slices.Sort(out)
	return out
}

// never fails when the verdict is, or at some time during fn was, INVALID.
func (p *platform) neverInvalid(project string, fn func()) {
	p.t.Helper()
	fn()
	var events struct {
		Results []struct {
			Type    string `json:"eventTypeName"`
			Message string `json:"message"`
			Created time.Time
		} `json:"results"`
	}
	p.call("GET", "/api/atlas/v2/groups/"+project+"/events?itemsPerPage=500", nil, &events)
	for _, e := range events.Results {
		if strings.Contains(e.Message, "INVALID") {
			p.t.Errorf("a wrong INVALID: %s %s", e.Type, e.Message)
		}
	}
}

// TestNoAnswerIsNoRevocation injects what AWS does when it is in trouble. Nothing stops,
// nothing is lost, the verdict is UNREACHABLE (or stays VALID where retries help), and a
// node that is started again comes up when AWS is back.
func TestNoAnswerIsNoRevocation(t *testing.T) {
	p := newPlatform(t, "--no-sample", "--aws-control")
	k := p.enable("NoAnswer")
	p.createCluster(k.project, "Orders", "AWS", 1)
	p.createUser(k.project)
	w := p.write(k, "Orders")
	w.goesOn()
	key := p.masterKeys(k.project, "Orders")
	role := "*:role/" + k.roleName
	for _, f := range []struct {
		name     string
		faults   []awslocal.Fault
		verdicts []string
		reasons  []string
	}{
		{"KMS throttles", []awslocal.Fault{{Kind: awslocal.FaultThrottle, Service: "kms", Principal: role}}, []string{"UNREACHABLE"}, []string{"THROTTLED"}},
		{"KMS fails inside", []awslocal.Fault{{Kind: awslocal.FaultError, Service: "kms", Principal: role}}, []string{"UNREACHABLE"}, []string{"AWS_INTERNAL"}},
		{"KMS is slow", []awslocal.Fault{{Kind: awslocal.FaultSlow, DelayMillis: 12_000, Service: "kms", Principal: role}}, []string{"UNREACHABLE"}, []string{"TIMEOUT"}},
		{"KMS resets connections", []awslocal.Fault{{Kind: awslocal.FaultReset, Service: "kms", Principal: role}}, []string{"UNREACHABLE"}, []string{"CONNECT"}},
		{"KMS answers garbage", []awslocal.Fault{{Kind: awslocal.FaultGarbage, Service: "kms", Principal: role}}, []string{"UNREACHABLE"}, nil},
		{"STS throttles", []awslocal.Fault{{Kind: awslocal.FaultThrottle, Service: "sts"}}, []string{"UNREACHABLE"}, []string{"THROTTLED"}},
		{"STS resets connections", []awslocal.Fault{{Kind: awslocal.FaultReset, Service: "sts"}}, []string{"UNREACHABLE"}, []string{"CONNECT"}},
		{"STS answers garbage", []awslocal.Fault{{Kind: awslocal.FaultGarbage, Service: "sts"}}, []string{"UNREACHABLE"}, nil},
		{"sessions expire in flight", []awslocal.Fault{{Kind: awslocal.FaultError, Service: "kms", Operation: "Decrypt", Principal: role, Code: "ExpiredTokenException", Status: 400, Message: "The security token included in the request is expired"}},
			[]string{"UNREACHABLE"}, nil},
		{"every second answer is lost", []awslocal.Fault{{Kind: awslocal.FaultReset, Service: "kms", Operation: "Encrypt", Principal: role, Count: 3, Afterwards: true}}, []string{"VALID", "UNREACHABLE"}, nil},
		{"the clocks differ by an hour", []awslocal.Fault{{Kind: awslocal.FaultSkew, SkewSeconds: 3600, Service: "kms", Principal: role}, {Kind: awslocal.FaultSkew, SkewSeconds: 3600, Service: "sts"}}, []string{"VALID", "UNREACHABLE"}, nil},
	} {
		p.run(t, f.name, func(t *testing.T) {
			before := p.pids()
			p.neverInvalid(k.project, func() {
				for _, x := range f.faults {
					p.fault(x)
				}
				p.met(3)
				v := p.everywhere(k.project, f.verdicts...)
				if len(f.reasons) > 0 && !slices.Contains(f.reasons, v.Reason) {
					t.Errorf("the reason is %s: %+v", v.Reason, v)
				}
				w.goesOn()
				if now := p.pids(); !slices.Equal(now, before) {
					t.Errorf("processes %v became %v", before, now)
				}
				// A node that dies now waits for AWS, where AWS does not answer.
				if f.verdicts[0] == "UNREACHABLE" {
					p.killNamed("mongod")
					p.eventually("the node waits for its key", time.Minute, func() error {
						if n := p.cluster(k.project, "Orders").Keywright.Nodes[0]; n.Phase != "WAITING_FOR_KEY" {
							return fmt.Errorf("%+v", n)
						}
						return nil
					})
				}
				p.noFaults()
				p.everywhere(k.project, "VALID")
				w.goesOn()
			})
		})
	}
	w.end()
	w.kept(p.connect(k.project, "Orders"))
	if now := p.masterKeys(k.project, "Orders"); !slices.Equal(now, key) {
		t.Errorf("master keys %v became %v", key, now)
	}
}

// TestTakenAwayAndGivenBack takes the key away in each way that is the customer's own
// act: everything stops, says why, and returns with every acknowledged write. (Disabled
// keys, trust policies and permissions are in the story and in TestRoleTakenAway.)
func TestTakenAwayAndGivenBack(t *testing.T) {
	p := newPlatform(t, "--no-sample", "--aws-control")
	k := p.enable("TakenAway")
	p.createCluster(k.project, "Orders", "AWS", 1)
	p.createUser(k.project)
	w := p.write(k, "Orders")
	c := p.customer()
	setTrust := func(external string) {
		t.Helper()
		if _, err := c.iam.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: &k.roleName, PolicyDocument: aws.String(trust(k.role.Principal, external))}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []struct {
		name, reason string
		take, give   func()
	}{
		{"the key is to be deleted", "KEY_PENDING_DELETION", func() {
			if _, err := c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &k.keyID, PendingWindowInDays: aws.Int32(7)}); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if _, err := c.kms.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &k.keyID}); err != nil {
				t.Fatal(err)
			}
			c.enable(k.keyID)
		}},
		{"the external id is another one", "ROLE_NOT_ASSUMABLE", func() { setTrust("another-external-id") }, func() { setTrust(k.role.ExternalID) }},
		{"the role may no longer encrypt", "KEY_ACCESS_DENIED", func() { c.setAccess(k.roleName, access(k.keyARN, "kms:DescribeKey", "kms:Decrypt")) },
			func() { c.setAccess(k.roleName, access(k.keyARN)) }},
		{"the role may no longer describe", "KEY_ACCESS_DENIED", func() { c.setAccess(k.roleName, access(k.keyARN, "kms:Encrypt", "kms:Decrypt")) },
			func() { c.setAccess(k.roleName, access(k.keyARN)) }},
	} {
		p.run(t, f.name, func(t *testing.T) {
			w.goesOn()
			f.take()
			v := p.everywhere(k.project, "INVALID")
			if v.Reason != f.reason {
				t.Errorf("the reason is %+v", v)
			}
			p.eventually("nothing runs", time.Minute, func() error {
				if n := p.pids(); len(n) > 0 {
					return fmt.Errorf("processes %v run", n)
				}
				return nil
			})
			// Nobody's death changes that.
			p.killNamed("agent")
			p.killNamed("server")
			p.eventually("the control plane is back, and INVALID", time.Minute, func() error {
				var v keyState
				if err := p.api.Do(p.ctx(), "GET", "/api/keywright/v1/groups/"+k.project+"/encryptionAtRest", nil, &v); err != nil {
					return err
				}
				if v.Verdict != "INVALID" {
					return fmt.Errorf("it is %+v", v)
				}
				return nil
			})
			if n := p.pids(); len(n) > 0 {
				t.Errorf("processes %v run under INVALID", n)
			}
			f.give()
			p.everywhere(k.project, "VALID")
			w.goesOn()
		})
	}
	w.end()
	w.kept(p.connect(k.project, "Orders"))
}

// TestKilledWhileClustersAreMade kills agent, server and nodes at moments that nobody
// chose while clusters are created: each comes up, none makes a second key that it
// needs, and writes elsewhere go on. (Kills at each step exactly are internal/agent's.)
func TestKilledWhileClustersAreMade(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	k := p.enable("Killed")
	p.createCluster(k.project, "Orders", "AWS", 1)
	p.createUser(k.project)
	w := p.write(k, "Orders")
	w.goesOn()
	for i, victim := range []string{"agent", "server", "mongod", "agent", "server", "mongod"} {
		name := fmt.Sprintf("New%d", i)
		p.createCluster(k.project, name, "AWS", 1)
		// The kill comes when the cluster's node is somewhere between wish and service.
		for _, x := range p.named(victim) {
			_ = syscall.Kill(x.pid, syscall.SIGKILL)
		}
		p.eventually("cluster "+name+" serves", 2*time.Minute, func() error {
			var b clusterBody
			if err := p.api.Do(p.ctx(), "GET", clusterPath(k.project, name), nil, &b); err != nil {
				return err
			}
			if b.State != "IDLE" {
				return fmt.Errorf("it is %s: %+v", b.State, b.Keywright)
			}
			_, err := dial(p.t, p.uri(b.Strings.Standard))
			return err
		})
	}
	w.goesOn()
	w.end()
	w.kept(p.connect(k.project, "Orders"))
	p.everywhere(k.project, "VALID")
}

// rotates orders a rotation of a cluster's master key, and tells whether it is carried
// out; false is an attempt that failed.
func (p *platform) rotates(project, cluster string) (done bool) {
	p.t.Helper()
	own := "/api/keywright/v1/groups/" + project + "/clusters/" + cluster
	p.call("POST", own+":rotateMasterKey", nil, nil)
	p.eventually("the rotation is done, or fails", time.Minute, func() error {
		var c struct {
			Rotation struct {
				State string
				Nodes []struct{ Failure string }
			} `json:"masterKeyRotation"`
		}
		p.call("GET", own, nil, &c)
		done = c.Rotation.State == "DONE"
		if !done && (len(c.Rotation.Nodes) == 0 || c.Rotation.Nodes[0].Failure == "") {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	return done
}

// smallDisk mounts a file system of one mebibyte. It skips where that is not allowed.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Skipf("mount: this test needs the right to mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill leaves no byte free, and gives what takes the filling away.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filling")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull: without room for a wrap no key is acknowledged, without a line in the
// audit chain none is released; what runs goes on, a revocation stops it all the same, and
// everything returns when there is room.
func TestDiskFull(t *testing.T) {
	wrapsDisk, auditDisk := smallDisk(t), smallDisk(t)
	p := &platform{t: t, dir: t.TempDir(), args: []string{
		"--listen", "127.0.0.1:0", "--aws-listen", "127.0.0.1:0", "--kmip-listen", "127.0.0.1:0", "--node-ports", "0", "--validation-interval", "1s", "--no-sample",
	}}
	agent := filepath.Join(p.dir, "agent")
	if err := os.Mkdir(agent, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"keys": filepath.Join(wrapsDisk, "keys"), "audit.jsonl": filepath.Join(auditDisk, "audit.jsonl")} {
		if link == "keys" {
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(to, filepath.Join(agent, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		p.stop()
		p.killAll()
		if t.Failed() {
			p.showLogs()
		}
	})
	p.start()
	k := p.enable("DiskFull")
	p.createCluster(k.project, "Orders", "AWS", 1)
	p.createUser(k.project)
	w := p.write(k, "Orders")
	w.goesOn()

	free := fill(t, wrapsDisk)
	p.createCluster(k.project, "Later", "AWS", 1)
	p.eventually("the new node waits for its key", time.Minute, func() error {
		if n := p.cluster(k.project, "Later").Keywright.Nodes; len(n) != 1 || n[0].Phase != "WAITING_FOR_KEY" || n[0].MasterKey != "" {
			return fmt.Errorf("%+v", n)
		} else if !strings.Contains(n[0].Message, "no space left") {
			return fmt.Errorf("nothing says that the disk is full: %+v", n)
		}
		return nil
	})
	w.goesOn()
	free()
	p.connect(k.project, "Later")

	free = fill(t, auditDisk)
	w.goesOn()
	// The last block of the file has room for a few lines more; rotations use it up,
	// until one fails.
	for p.rotates(k.project, "Later") {
		w.goesOn()
	}
	p.killNamed("mongod")
	p.eventually("no node gets its key unrecorded", time.Minute, func() error {
		for _, name := range []string{"Orders", "Later"} {
			if n := p.cluster(k.project, name).Keywright.Nodes; n[0].Phase != "WAITING_FOR_KEY" {
				return fmt.Errorf("%s %+v", name, n)
			}
		}
		return nil
	})
	for _, n := range p.cluster(k.project, "Orders").Keywright.Nodes {
		if !strings.Contains(n.Message, "no space left") {
			t.Errorf("nothing says that the disk is full: %+v", n)
		}
	}
	free()
	w.goesOn()

	// Both full: the stop does not wait for the disk.
	freeWraps, freeAudit := fill(t, wrapsDisk), fill(t, auditDisk)
	p.customer().disable(k.keyARN)
	p.everywhere(k.project, "INVALID")
	p.eventually("nothing runs", time.Minute, func() error {
		if n := p.pids(); len(n) > 0 {
			return fmt.Errorf("processes %v run", n)
		}
		return nil
	})
	freeWraps()
	freeAudit()
	p.customer().enable(k.keyARN)
	p.everywhere(k.project, "VALID")
	w.goesOn()
	w.end()
	w.kept(p.connect(k.project, "Orders"))
}
