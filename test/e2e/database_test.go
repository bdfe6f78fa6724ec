package e2e

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	dbUser     = "app"
	dbPassword = "p%ssw@rd-of-a-test"
)

// clusterBody is what the tests read of a cluster.
type clusterBody struct {
	ID       string `json:"id"`
	State    string `json:"stateName"`
	Provider string `json:"encryptionAtRestProvider"`
	Strings  struct {
		Standard string `json:"standard"`
	} `json:"connectionStrings"`
	Keywright struct {
		Stopped string `json:"stopped"`
		Nodes   []struct {
			ID        string `json:"id"`
			Phase     string `json:"phase"`
			Message   string `json:"message"`
			Port      int    `json:"port"`
			PID       int    `json:"pid"`
			Encrypted bool   `json:"encrypted"`
			MasterKey string `json:"masterKeyId"`
		} `json:"nodes"`
	} `json:"keywright"`
}

func clusterRequest(name, provider, size string, nodes int) map[string]any {
	return map[string]any{
		"name": name, "clusterType": "REPLICASET", "encryptionAtRestProvider": provider,
		"replicationSpecs": []any{map[string]any{"regionConfigs": []any{map[string]any{
			"providerName": "AWS", "regionName": "US_EAST_1", "priority": 7,
			"electableSpecs": map[string]any{"instanceSize": size, "nodeCount": nodes},
		}}}},
	}
}

func clusterPath(project, name string) string {
	return "/api/atlas/v2/groups/" + project + "/clusters/" + name
}

func (p *platform) createCluster(project, name, provider string, nodes int) {
	p.t.Helper()
	p.call("POST", "/api/atlas/v2/groups/"+project+"/clusters", clusterRequest(name, provider, "M10", nodes), nil)
}

func (p *platform) createUser(project string) {
	p.t.Helper()
	p.call("POST", "/api/atlas/v2/groups/"+project+"/databaseUsers", map[string]any{
		"databaseName": "admin", "username": dbUser, "password": dbPassword, "groupId": project,
		"roles": []any{map[string]any{"databaseName": "admin", "roleName": "readWriteAnyDatabase"}},
	}, nil)
}

func (p *platform) cluster(project, name string) clusterBody {
	p.t.Helper()
	var c clusterBody
	p.call("GET", clusterPath(project, name), nil, &c)
	return c
}

// uri completes a cluster's standard connection string.
func (p *platform) uri(standard string) string {
	p.t.Helper()
	u, err := url.Parse(standard)
	if err != nil {
		p.t.Fatal(err)
	}
	u.User = url.UserPassword(dbUser, dbPassword)
	q := u.Query()
	q.Set("tlsCAFile", p.boot.CAFile)
	u.RawQuery = q.Encode()
	return u.String()
}

// connect gives a client of a cluster that answers, waiting for it.
func (p *platform) connect(project, name string) *mongo.Client {
	p.t.Helper()
	var c *mongo.Client
	p.eventually("cluster "+name+" serves", time.Minute, func() error {
		b := p.cluster(project, name)
		if b.State != "IDLE" || b.Strings.Standard == "" {
			return fmt.Errorf("it is %s: %+v", b.State, b.Keywright)
		}
		var err error
		c, err = dial(p.t, p.uri(b.Strings.Standard))
		return err
	})
	return c
}

func dial(t *testing.T, uri string) (*mongo.Client, error) {
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		return nil, err
	}
	if err := c.Ping(t.Context(), nil); err != nil {
		_ = c.Disconnect(context.Background())
		return nil, err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Disconnect(ctx)
	})
	return c, nil
}
