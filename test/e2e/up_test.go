package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestUp starts everything with its samples, twice, and leaves nothing behind.
func TestUp(t *testing.T) {
	p := newPlatform(t)
	if p.boot.Sample == nil || p.boot.Enable == nil || p.boot.Version != 1 || p.boot.AWS.Region != "us-east-1" {
		t.Fatalf("bootstrap.json: %+v", p.boot)
	}
	if st, err := os.Stat(filepath.Join(p.dir, "bootstrap.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("bootstrap.json: %v %v", st, err)
	}
	for _, text := range []string{p.boot.BaseURL, p.boot.Sample.ConnectionString, "disable-key"} {
		p.eventually("up prints "+text, 60*time.Second, func() error {
			if !strings.Contains(p.out.String(), text) {
				return fmt.Errorf("not in %s", p.out)
			}
			return nil
		})
	}
	p.run(t, "samples", func(t *testing.T) {
		sample, err := dial(t, p.boot.Sample.ConnectionString)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sample.Database("kept").Collection("things").InsertOne(t.Context(), bson.D{{Key: "_id", Value: "one"}}); err != nil {
			t.Fatal(err)
		}
		existing, err := dial(t, p.boot.Enable.ConnectionString)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := existing.Database("shop").Collection("orders").CountDocuments(t.Context(), bson.D{}); err != nil || n == 0 {
			t.Errorf("the cluster Existing has %d documents, %v", n, err)
		}
	})
	p.run(t, "mongosh", func(t *testing.T) {
		out := mongosh(t, p.boot.Sample.ConnectionString, `
			const c = db.getSiblingDB("shell").things;
			c.createIndex({n: 1});
			for (let i = 0; i < 20; i++) c.insertOne({n: i});
			c.updateMany({n: {$lt: 5}}, {$inc: {hits: 1}});
			print("found " + c.find({hits: 1}).toArray().length + " of " + c.countDocuments());
			print("grouped " + c.aggregate([{$group: {_id: {$gt: ["$n", 100]}, n: {$sum: 1}}}].slice(1)).toArray().length);`)
		if !strings.Contains(out, "found 5 of 20") {
			t.Errorf("mongosh: %s", out)
		}
	})
	p.run(t, "aws command line", func(t *testing.T) { awsWalks(t, p) })
	p.run(t, "a second up on the same directory is refused", func(t *testing.T) {
		out, err := exec.Command(binary, append([]string{"up", "--data-dir", p.dir}, p.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "in use") {
			t.Errorf("%v: %s", err, out)
		}
	})
	p.run(t, "Ctrl-C and second start", func(t *testing.T) {
		before := p.boot
		p.stop()
		if left := p.processes(); len(left) > 0 {
			t.Errorf("processes are left after Ctrl-C: %v", left)
		}
		for _, addr := range []string{strings.TrimPrefix(before.BaseURL, "http://"), before.KMIP.Address} {
			if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
				_ = c.Close()
				t.Errorf("%s still answers after Ctrl-C", addr)
			}
		}
		p.start()
		if p.boot.PublicKey != before.PublicKey || p.boot.PrivateKey != before.PrivateKey || p.boot.Sample == nil || p.boot.Sample.ConnectionString != before.Sample.ConnectionString || p.boot.OrgID != before.OrgID {
			t.Fatalf("the second start differs: %+v, before %+v", p.boot, before)
		}
		p.eventually("the sample is as it was", time.Minute, func() error {
			c, err := dial(t, p.boot.Sample.ConnectionString)
			if err != nil {
				return err
			}
			n, err := c.Database("kept").Collection("things").CountDocuments(t.Context(), bson.D{})
			if err == nil && n != 1 {
				err = fmt.Errorf("%d documents", n)
			}
			return err
		})
	})
	p.run(t, "kill -9 of each process", func(t *testing.T) {
		for _, sub := range []string{"awslocal", "server", "agent", "mongod"} {
			p.killNamed(sub)
			p.eventually("everything is back after kill -9 of "+sub, time.Minute, func() error {
				if len(p.named(sub)) == 0 {
					return errors.New("no process")
				}
				if err := p.api.Do(t.Context(), "GET", "/api/atlas/v2/groups/"+p.boot.Sample.ProjectID+"/encryptionAtRest", nil, nil); err != nil {
					return err
				}
				_, err := dial(t, p.boot.Sample.ConnectionString)
				return err
			})
		}
	})
	p.run(t, "kill -9 of up alone", func(t *testing.T) {
		p.kill()
		p.start()
		p.eventually("the sample is back", time.Minute, func() error {
			_, err := dial(t, p.boot.Sample.ConnectionString)
			return err
		})
		for _, sub := range []string{"awslocal", "server", "agent"} {
			if n := len(p.named(sub)); n != 1 {
				t.Errorf("%d processes %s after the restart", n, sub)
			}
		}
	})
}

// mongosh runs a script in the real shell, skipped where there is none.
func mongosh(t *testing.T, uri, script string) string {
	t.Helper()
	shell := os.Getenv("MONGOSH")
	if shell == "" {
		var err error
		if shell, err = exec.LookPath("mongosh"); err != nil {
			t.Skip("mongosh is not installed (npm install mongosh, then MONGOSH=path)")
		}
	}
	cmd := exec.Command(shell, uri, "--quiet", "--eval", script)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "DO_NOT_TRACK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("mongosh: %v\n%s", err, out)
	}
	return string(out)
}

// awsWalks takes the key away and gives it back with the aws command line.
func awsWalks(t *testing.T, p *platform) {
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("the aws command line is not installed (Debian package awscli)")
	}
	aws := func(args ...string) string {
		cmd := exec.Command("aws", append([]string{"--endpoint-url", p.boot.AWS.Endpoint, "--region", p.boot.AWS.Region, "--output", "json"}, args...)...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+p.boot.AWS.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+p.boot.AWS.SecretAccessKey, "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return string(out)
	}
	if out := aws("sts", "get-caller-identity"); !strings.Contains(out, p.boot.AWS.AccountID) {
		t.Errorf("get-caller-identity: %s", out)
	}
	if out := aws("iam", "get-role", "--role-name", "KeywrightSample"); !strings.Contains(out, "sts:ExternalId") {
		t.Errorf("get-role: %s", out)
	}
	aws("kms", "disable-key", "--key-id", p.boot.Sample.KeyARN)
	p.eventually("the sample cluster refuses", time.Minute, func() error {
		if _, err := dial(t, p.boot.Sample.ConnectionString); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	aws("kms", "enable-key", "--key-id", p.boot.Sample.KeyARN)
	p.eventually("the sample cluster is back", time.Minute, func() error {
		_, err := dial(t, p.boot.Sample.ConnectionString)
		return err
	})
}
