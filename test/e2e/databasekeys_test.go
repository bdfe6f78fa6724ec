package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// databaseKeys is how far a cluster's rotation of database keys is.
type databaseKeys struct {
	Nodes []struct {
		Keys *struct {
			Share   float64 `json:"shareUnderNewest"`
			Bytes   int64   `json:"bytes"`
			OldKeys int64   `json:"oldKeys"`
		} `json:"databaseKeys"`
	} `json:"nodes"`
	Rotation *struct {
		State   string `json:"state"`
		Compact bool   `json:"compact"`
	} `json:"databaseKeyRotation"`
}

// TestDatabaseKeysAreRotatedUnderLoadAndKills rotates and compacts the Sample cluster
// while a client writes and the node, its agent and the server are killed: no
// acknowledged document is lost, and in the end one key is left for all files.
func TestDatabaseKeysAreRotatedUnderLoadAndKills(t *testing.T) {
	p := newPlatform(t)
	own := "/api/keywright/v1/groups/" + p.boot.Sample.ProjectID + "/clusters/" + p.boot.Sample.ClusterName
	client, err := dial(t, p.boot.Sample.ConnectionString)
	if err != nil {
		t.Fatal(err)
	}
	things := client.Database("kept").Collection("things")
	text := strings.Repeat("text of a document ", 50)
	var docs []any
	for i := range 3000 {
		docs = append(docs, bson.D{{Key: "_id", Value: fmt.Sprint("first-", i)}, {Key: "text", Value: text}})
	}
	if _, err := things.InsertMany(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var acknowledged []string
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprint("load-", i)
			one, cancel := context.WithTimeout(ctx, 20*time.Second)
			_, err := things.InsertOne(one, bson.D{{Key: "_id", Value: id}, {Key: "text", Value: text}})
			cancel()
			if err == nil || mongo.IsDuplicateKeyError(err) {
				acknowledged = append(acknowledged, id)
			}
		}
	})
	defer func() { stop(); wg.Wait() }()

	cmd := exec.Command(binary, "key", "rotate", p.boot.Sample.ProjectID, "--databases", "--compact", "-o", "json")
	cmd.Env = append(os.Environ(), "KEYWRIGHT_BOOTSTRAP="+filepath.Join(p.dir, "bootstrap.json"))
	out, err := cmd.Output()
	if err != nil || !json.Valid(out) {
		t.Fatalf("key rotate: %v: %s", err, out)
	}
	p.killNamed("mongod")
	p.killNamed("agent")
	p.killNamed("server")
	var c databaseKeys
	p.eventually("the rotation is complete", 3*time.Minute, func() error {
		c = databaseKeys{}
		if err := p.api.Do(p.ctx(), "GET", own, nil, &c); err != nil {
			return err
		}
		if c.Rotation == nil || c.Rotation.State != "DONE" || !c.Rotation.Compact {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	for _, n := range c.Nodes {
		if n.Keys == nil || n.Keys.Share != 1 || n.Keys.OldKeys != 0 || n.Keys.Bytes == 0 {
			t.Errorf("%+v", n.Keys)
		}
	}
	stop()
	wg.Wait()
	// What is on the disk is what a fresh process reads.
	p.killNamed("mongod")
	p.eventually("every acknowledged document is there", time.Minute, func() error {
		n, err := things.CountDocuments(t.Context(), bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: acknowledged}}}, {Key: "text", Value: text}})
		if err != nil {
			return err
		}
		if int(n) != len(acknowledged) {
			return fmt.Errorf("%d of %d", n, len(acknowledged))
		}
		all, err := things.CountDocuments(t.Context(), bson.D{{Key: "_id", Value: bson.D{{Key: "$regex", Value: "^first-"}}}})
		if err != nil {
			return err
		}
		if all != 3000 {
			return fmt.Errorf("%d of the first documents", all)
		}
		return nil
	})
	if len(acknowledged) == 0 {
		t.Error(errors.New("nothing was written under load"))
	}
}
