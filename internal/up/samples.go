package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/durable"
)

// The names of the samples.
const (
	sampleProject  = "Sample"
	sampleCluster  = "Cluster0"
	enableProject  = "Try enabling"
	enableCluster  = "Existing"
	sampleUser     = "keywright"
	sampleRoleName = "KeywrightSample"
)

const samplesFormat = 1

// samples remembers what was made, so that a start that was killed goes on
// where it stopped. It holds no secret.
type samples struct {
	Format  int    `json:"format"`
	KeyARN  string `json:"keyArn,omitempty"`
	RoleARN string `json:"roleArn,omitempty"`
	RoleID  string `json:"roleId,omitempty"`
	// Sample and Enable are the projects' identifiers.
	Sample string `json:"sample,omitempty"`
	Enable string `json:"enable,omitempty"`
	// Switch is the project that is reached with an access key; SwitchDone is set when it
	// was made once.
	Switch       string `json:"switch,omitempty"`
	SwitchKeyARN string `json:"switchKeyArn,omitempty"`
	SwitchDone   bool   `json:"switchDone,omitempty"`
	// Done is set when everything was made once; what a user then removes stays away.
	Done bool `json:"done"`
}

func (p *platform) samplesPath() string { return p.cfg.path("samples.json") }

// furnish makes the samples if they are wanted, waits until they can be used,
// and gives what bootstrap.json says.
func (p *platform) furnish(ctx context.Context) (Bootstrap, error) {
	b := Bootstrap{
		Version: BootstrapVersion, BaseURL: p.ready.server.BaseURL, OrgID: p.orgID,
		PublicKey: p.secrets.PublicKey, PrivateKey: p.secrets.PrivateKey,
		Console: &BootstrapConsole{URL: p.ready.server.BaseURL + "/", Username: consoleUser, Password: p.secrets.ConsolePassword},
		KMIP:    BootstrapKMIP{Address: p.ready.agent.KMIPAddress, CAFile: p.ready.agent.KMIPCAFile},
		CAFile:  p.ready.agent.DatabaseCA,
	}
	if p.aws == nil {
		return b, nil // samples need a customer's account, which only the local AWS has
	}
	c, s := p.seed.Customer, p.seed.Second
	b.AWS = &BootstrapAWS{Endpoint: p.awsURL, Region: Region, AccountID: c.AccountID, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey}
	b.AWSSecond = &BootstrapSecond{AccountID: s.AccountID, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey}
	if p.cfg.NoSample {
		return b, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	st, err := p.recall()
	if err != nil {
		return b, err
	}
	if !st.Done {
		p.say("making the samples ...")
		if err := p.makeSamples(ctx, &st); err != nil {
			return b, fmt.Errorf("make the samples: %w", err)
		}
	}
	if !st.SwitchDone {
		if err := p.makeSwitch(ctx, &st); err != nil {
			return b, fmt.Errorf("make the samples: %w", err)
		}
	}
	if err := errors.Join(p.describeSamples(ctx, st, &b), p.describeSwitch(ctx, st, &b)); err != nil {
		return b, err
	}
	return b, p.settle(ctx, b)
}

// settle waits until the samples that are still there can be used again, or
// until it is certain that they cannot: a key that the customer has taken away
// must not keep `keywright up` from starting.
func (p *platform) settle(ctx context.Context, b Bootstrap) error {
	var wait errgroup.Group
	if s := b.Sample; s != nil {
		wait.Go(func() error { return p.settleCluster(ctx, s.ProjectID, s.ClusterName) })
	}
	if e := b.Enable; e != nil {
		wait.Go(func() error { return p.settleCluster(ctx, e.ProjectID, e.ClusterName) })
	}
	return wait.Wait()
}

func (p *platform) settleCluster(ctx context.Context, project, name string) error {
	limit, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		v, err := p.cluster(ctx, project, name)
		if err == nil && v.Paused {
			return nil
		}
		if err == nil && v.Strings.Standard != "" && p.use(limit, v.Strings.Standard, nil) == nil {
			return nil
		}
		var key struct {
			Verdict string `json:"verdict"`
		}
		if err := p.api.Do(ctx, http.MethodGet, "/api/keywright/v1/groups/"+project+"/encryptionAtRest", nil, &key); err != nil {
			return fmt.Errorf("look at the key of project %s: %w", project, err)
		}
		if v.Own.Stopped != "" || key.Verdict == "INVALID" {
			p.say("cluster %s is stopped: the customer key of its project is not usable (%s)", name, key.Verdict)
			return nil
		}
		select {
		case <-t.C:
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p.say("cluster %s does not answer yet (it is %s, its project's key is %s); going on without it", name, v.State, key.Verdict)
			return nil
		}
	}
}

// makeSamples makes what is missing, step by step.
func (p *platform) makeSamples(ctx context.Context, st *samples) error {
	if err := p.ensureProject(ctx, enableProject, &st.Enable); err != nil {
		return err
	}
	if err := p.ensureCluster(ctx, st.Enable, enableCluster, "NONE"); err != nil {
		return err
	}
	if err := p.ensureProject(ctx, sampleProject, &st.Sample); err != nil {
		return err
	}
	if err := p.sampleKey(ctx, st); err != nil {
		return err
	}
	if err := p.ensureCluster(ctx, st.Sample, sampleCluster, "AWS"); err != nil {
		return err
	}
	for _, project := range []string{st.Enable, st.Sample} {
		if err := p.ensureUser(ctx, project); err != nil {
			return err
		}
	}
	var wait errgroup.Group
	wait.Go(func() error { return p.awaitCluster(ctx, st.Sample, sampleCluster, nil) })
	wait.Go(func() error { return p.awaitCluster(ctx, st.Enable, enableCluster, fill) })
	if err := wait.Wait(); err != nil {
		return err
	}
	st.Done = true
	return p.remember(st)
}

// recall reads what remember wrote; before the first time that is nothing.
func (p *platform) recall() (samples, error) {
	var st samples
	err := durable.ReadJSON(p.samplesPath(), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return samples{}, nil
	case err != nil:
		return samples{}, err
	case st.Format > samplesFormat:
		return samples{}, fmt.Errorf("%s was written by a newer Keywright (format %d, this program knows %d); update this program", p.samplesPath(), st.Format, samplesFormat)
	case st.Format != samplesFormat:
		return samples{}, fmt.Errorf("%s has format %d, this program knows %d", p.samplesPath(), st.Format, samplesFormat)
	}
	return st, nil
}

func (p *platform) remember(st *samples) error {
	st.Format = samplesFormat
	return durable.WriteJSON(p.samplesPath(), st, 0o600)
}

// sampleKey gives the sample project its customer key, as a customer would:
// key, role, authorization, configuration.
func (p *platform) sampleKey(ctx context.Context, st *samples) error {
	customer := newCustomer(p.awsURL, p.seed.Customer)
	if st.KeyARN == "" {
		arn, err := customer.createKey(ctx)
		if err != nil {
			return err
		}
		st.KeyARN = arn
		if err := p.remember(st); err != nil {
			return err
		}
	}
	base := "/api/atlas/v2/groups/" + st.Sample + "/cloudProviderAccess"
	var role struct {
		RoleID     string  `json:"roleId"`
		Principal  string  `json:"atlasAWSAccountArn"`
		ExternalID string  `json:"atlasAssumedRoleExternalId"`
		Authorized *string `json:"authorizedDate"`
	}
	if st.RoleID == "" {
		if err := p.api.Do(ctx, http.MethodPost, base, map[string]string{"providerName": "AWS"}, &role); err != nil {
			return fmt.Errorf("register role: %w", err)
		}
		st.RoleID = role.RoleID
		if err := p.remember(st); err != nil {
			return err
		}
	} else if err := p.api.Do(ctx, http.MethodGet, base+"/"+st.RoleID, nil, &role); err != nil {
		return fmt.Errorf("read role: %w", err)
	}
	if role.Authorized == nil {
		arn, err := customer.ensureRole(ctx, sampleRoleName, role.Principal, role.ExternalID, st.KeyARN)
		if err != nil {
			return err
		}
		st.RoleARN = arn
		if err := p.remember(st); err != nil {
			return err
		}
		if err := p.api.Do(ctx, http.MethodPatch, base+"/"+st.RoleID, map[string]string{"providerName": "AWS", "iamAssumedRoleArn": arn}, nil); err != nil {
			return fmt.Errorf("authorize role: %w", err)
		}
	}
	err := p.api.Do(ctx, http.MethodPatch, "/api/atlas/v2/groups/"+st.Sample+"/encryptionAtRest", map[string]any{"awsKms": map[string]any{
		"enabled": true, "customerMasterKeyID": st.KeyARN, "region": "US_EAST_1", "roleId": st.RoleID,
	}}, nil)
	if err != nil {
		return fmt.Errorf("configure customer key: %w", err)
	}
	return nil
}

func (p *platform) ensureProject(ctx context.Context, name string, id *string) error {
	if *id != "" {
		return nil
	}
	var g struct {
		ID string `json:"id"`
	}
	err := p.api.Do(ctx, http.MethodGet, "/api/atlas/v2/groups/byName/"+url.PathEscape(name), nil, &g)
	if code(err) == "GROUP_NOT_FOUND" || code(err) == "GROUP_NAME_NOT_FOUND" {
		err = p.api.Do(ctx, http.MethodPost, "/api/atlas/v2/groups", map[string]string{"name": name, "orgId": p.orgID}, &g)
	}
	if err != nil {
		return fmt.Errorf("make project %s: %w", name, err)
	}
	*id = g.ID
	return nil
}

func (p *platform) ensureCluster(ctx context.Context, project, name, provider string) error {
	err := p.api.Do(ctx, http.MethodPost, "/api/atlas/v2/groups/"+project+"/clusters", map[string]any{
		"name": name, "clusterType": "REPLICASET", "encryptionAtRestProvider": provider,
		"replicationSpecs": []any{map[string]any{"regionConfigs": []any{map[string]any{
			"providerName": "AWS", "regionName": "US_EAST_1", "priority": 7,
			"electableSpecs": map[string]any{"instanceSize": "M10", "nodeCount": 3},
		}}}},
	}, nil)
	if err != nil && code(err) != "DUPLICATE_CLUSTER_NAME" {
		return fmt.Errorf("make cluster %s: %w", name, err)
	}
	return nil
}

func (p *platform) ensureUser(ctx context.Context, project string) error {
	err := p.api.Do(ctx, http.MethodPost, "/api/atlas/v2/groups/"+project+"/databaseUsers", map[string]any{
		"databaseName": "admin", "username": sampleUser, "password": p.secrets.DatabasePassword, "groupId": project,
		"roles": []any{map[string]string{"databaseName": "admin", "roleName": "readWriteAnyDatabase"}},
	}, nil)
	if err != nil && code(err) != "USER_ALREADY_EXISTS" {
		return fmt.Errorf("make database user: %w", err)
	}
	return nil
}

// clusterView is what the samples need of a cluster's description.
type clusterView struct {
	State   string `json:"stateName"`
	Paused  bool   `json:"paused"`
	Strings struct {
		Standard string `json:"standard"`
	} `json:"connectionStrings"`
	Own struct {
		Stopped string `json:"stopped"`
	} `json:"keywright"`
}

func (p *platform) cluster(ctx context.Context, project, name string) (clusterView, error) {
	var v clusterView
	err := p.api.Do(ctx, http.MethodGet, "/api/atlas/v2/groups/"+project+"/clusters/"+name, nil, &v)
	return v, err
}

// awaitCluster waits until the sample user can use the cluster, and runs fn on it.
func (p *platform) awaitCluster(ctx context.Context, project, name string, fn func(context.Context, *mongo.Client) error) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	var last error
	for {
		v, err := p.cluster(ctx, project, name)
		if err != nil {
			return fmt.Errorf("look at cluster %s: %w", name, err)
		}
		last = fmt.Errorf("cluster %s is %s", name, v.State)
		if v.State == "IDLE" && v.Strings.Standard != "" {
			if last = p.use(ctx, v.Strings.Standard, fn); last == nil {
				return nil
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for cluster %s: %w", name, last)
		}
	}
}

func (p *platform) use(ctx context.Context, standard string, fn func(context.Context, *mongo.Client) error) error {
	uri, err := p.connectionString(standard)
	if err != nil {
		return err
	}
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(2 * time.Second))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = c.Disconnect(context.WithoutCancel(ctx)) }()
	if err := c.Ping(ctx, nil); err != nil {
		return fmt.Errorf("reach cluster: %w", err)
	}
	if fn == nil {
		return nil
	}
	return fn(ctx, c)
}

// fill puts a little data into an empty cluster.
func fill(ctx context.Context, c *mongo.Client) error {
	coll := c.Database("shop").Collection("orders")
	n, err := coll.CountDocuments(ctx, bson.D{})
	if err != nil || n > 0 {
		return err
	}
	var docs []any
	for i := range 200 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "item", Value: fmt.Sprintf("book %d", i%20)}, {Key: "quantity", Value: 1 + i%7}})
	}
	_, err = coll.InsertMany(ctx, docs)
	return err
}

// connectionString completes a cluster's standard string so that it works as it
// is pasted: with the user, and the authority of the certificates.
func (p *platform) connectionString(standard string) (string, error) {
	u, err := url.Parse(standard)
	if err != nil {
		return "", fmt.Errorf("read connection string: %w", err)
	}
	u.User = url.UserPassword(sampleUser, p.secrets.DatabasePassword)
	q := u.Query()
	q.Set("tlsCAFile", p.ready.agent.DatabaseCA)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// describeSamples fills in what is still there of the samples. A cluster that is
// down (its key is away) still has its connection string.
func (p *platform) describeSamples(ctx context.Context, st samples, b *Bootstrap) error {
	describe := func(project, name string) (string, error) {
		v, err := p.cluster(ctx, project, name)
		if code(err) == "CLUSTER_NOT_FOUND" || code(err) == "GROUP_NOT_FOUND" {
			return "", nil
		}
		if err != nil || v.Strings.Standard == "" {
			return "", err
		}
		return p.connectionString(v.Strings.Standard)
	}
	sample, err := describe(st.Sample, sampleCluster)
	if err != nil {
		return err
	}
	enable, err := describe(st.Enable, enableCluster)
	if err != nil {
		return err
	}
	if sample != "" {
		b.Sample = &BootstrapSample{ProjectID: st.Sample, ClusterName: sampleCluster, ConnectionString: sample, RoleARN: st.RoleARN, KeyARN: st.KeyARN}
	}
	if enable != "" {
		b.Enable = &BootstrapEnable{ProjectID: st.Enable, ClusterName: enableCluster, ConnectionString: enable}
	}
	return nil
}

// code is the error code of an API refusal, or "".
func code(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// policy renders an IAM policy document.
func policy(statement map[string]any) (string, error) {
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{statement}})
	return string(b), err
}
