package up

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/secret"
)

const (
	// readyLimit bounds the start of one process, sampleLimit that of the samples.
	readyLimit  = time.Minute
	sampleLimit = 2 * time.Minute
	// settleLimit bounds the wait for samples of an earlier start.
	settleLimit = 45 * time.Second
)

// platform is what runs, or will.
type platform struct {
	cfg     Config
	secrets secrets
	aws     *child // nil with --aws real
	server  *child
	agent   *child
	seed    awslocal.Seed
	awsURL  string
	ready   struct {
		server serverReady
		agent  agentReady
	}
	orgID string
	api   *client.Client
}

// serverReady and agentReady are the ready files of the two processes.
type serverReady struct {
	BaseURL  string `json:"baseUrl"`
	AgentURL string `json:"agentUrl"`
}

type agentReady struct {
	KMIPAddress string `json:"kmipAddress"`
	KMIPCAFile  string `json:"kmipCAFile"`
	DatabaseCA  string `json:"tlsCAFile"`
}

// Run starts everything and keeps it running until ctx ends; then it stops
// everything in order.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.normal()
	if err != nil {
		return err
	}
	release, err := cfg.claim()
	if err != nil {
		return err
	}
	defer release()
	if err := cfg.sameAWS(); err != nil {
		return err
	}
	if err := durable.Remove(cfg.BootstrapFile); err != nil {
		return err
	}
	p := &platform{cfg: cfg, server: newChild(cfg, "server"), agent: newChild(cfg, "agent")}
	if cfg.AWS == "local" {
		p.aws = newChild(cfg, "awslocal")
	}
	if p.secrets, err = loadSecrets(cfg.path("up-secrets.json")); err != nil {
		return err
	}
	for _, c := range p.children() {
		if err := c.stopLeftover(ctx); err != nil {
			return err
		}
	}
	defer p.stop()
	if err := p.start(ctx); err != nil {
		return err
	}
	boot, err := p.furnish(ctx)
	if err != nil {
		return err
	}
	if err := durable.WriteJSON(cfg.BootstrapFile, boot, 0o600); err != nil {
		return err
	}
	p.greet(boot)
	return p.watch(ctx)
}

// children lists the processes in the order in which they are stopped.
func (p *platform) children() []*child {
	all := []*child{p.agent, p.server}
	if p.aws != nil {
		all = append(all, p.aws)
	}
	return all
}

func (p *platform) stop() {
	for _, c := range p.children() {
		c.stop()
	}
}

// start brings the processes up, each when the one it needs is ready.
func (p *platform) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*readyLimit)
	defer cancel()
	if p.aws != nil {
		if err := p.startAWS(ctx); err != nil {
			return err
		}
	}
	if err := p.startServer(ctx); err != nil {
		return err
	}
	p.api = client.New(p.ready.server.BaseURL, p.secrets.PublicKey, secret.FromString(p.secrets.PrivateKey))
	var orgs struct {
		Results []struct {
			ID string `json:"id"`
		} `json:"results"`
	}
	if err := p.api.Do(ctx, http.MethodGet, "/api/atlas/v2/orgs", nil, &orgs); err != nil {
		return fmt.Errorf("sign in to the control plane with the key of up-secrets.json: %w", err)
	}
	if len(orgs.Results) == 0 {
		return errors.New("the control plane has no organization that the key of up-secrets.json may see")
	}
	p.orgID = orgs.Results[0].ID
	return p.startAgent(ctx)
}

func (p *platform) startAWS(ctx context.Context) error {
	p.say("starting the local AWS ...")
	ready := p.cfg.path("run", "awslocal-ready.json")
	if err := durable.Remove(ready); err != nil {
		return err
	}
	args := []string{"awslocal", "--data-dir", p.cfg.path("aws"), "--listen", p.cfg.AWSListen, "--ready-file", ready}
	if p.cfg.AWSControl {
		args = append(args, "--control")
	}
	if err := p.aws.start(args, nil); err != nil {
		return err
	}
	var r struct {
		Endpoint string `json:"endpoint"`
	}
	if err := p.aws.waitFile(ctx, ready, &r); err != nil {
		return err
	}
	p.awsURL = r.Endpoint
	p.aws.pin("--listen", strings.TrimPrefix(r.Endpoint, "http://"))
	return durable.ReadJSON(p.cfg.path("aws", awslocal.SeedFile), &p.seed)
}

func (p *platform) startServer(ctx context.Context) error {
	p.say("starting the control plane ...")
	initFile := p.cfg.path("run", "server-init.json")
	if err := durable.WriteJSON(initFile, map[string]any{
		"version": 1, "orgName": "Keywright", "ownerName": "owner",
		"publicKey": p.secrets.PublicKey, "privateKey": p.secrets.PrivateKey,
		"username": consoleUser, "password": p.secrets.ConsolePassword,
	}, 0o600); err != nil {
		return err
	}
	ready := p.cfg.path("run", "server-ready.json")
	if err := durable.Remove(ready); err != nil {
		return err
	}
	args := []string{
		"server", "--data-dir", p.cfg.path("server"), "--listen", p.cfg.Listen, "--agent-listen", p.cfg.AgentListen,
		"--validation-interval", p.cfg.ValidationInterval.String(), "--ready-file", ready, "--init-file", initFile,
	}
	if err := p.server.start(append(args, p.canary()...), p.environment(p.seed.Platform.Server)); err != nil {
		return err
	}
	if err := p.server.waitFile(ctx, ready, &p.ready.server); err != nil {
		return err
	}
	p.server.pin("--listen", strings.TrimPrefix(p.ready.server.BaseURL, "http://"))
	p.server.pin("--agent-listen", strings.TrimPrefix(p.ready.server.AgentURL, "https://"))
	p.server.pin("--init-file", "") // its organization exists
	return durable.Remove(initFile)
}

// canary names the role that tells a customer's refusal from our own fault.
func (p *platform) canary() []string {
	if p.aws == nil {
		return nil
	}
	return []string{"--canary-role-arn", p.seed.CanaryRoleARN}
}

// environment is what a child needs to reach AWS with its own principal; with
// the real AWS that is what the SDK's default chain finds in ours.
func (p *platform) environment(key awslocal.Credentials) []string {
	if p.aws == nil {
		return onlyAWS(os.Environ())
	}
	return []string{
		"AWS_ENDPOINT_URL=" + p.awsURL, "AWS_REGION=" + Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey,
	}
}

// startAgent enrols the host at the first start, as an operator would.
func (p *platform) startAgent(ctx context.Context) error {
	p.say("starting the agent ...")
	ready := p.cfg.path("run", "agent-ready.json")
	if err := durable.Remove(ready); err != nil {
		return err
	}
	args := []string{
		"agent", "--data-dir", p.cfg.path("agent"), "--server", p.ready.server.AgentURL, "--hostname", "local",
		"--kmip-listen", p.cfg.KMIPListen, "--node-ports", p.cfg.NodePorts, "--stop-nodes-on-exit", "--ready-file", ready,
	}
	token := p.cfg.path("run", "enroll.token")
	_, err := os.Stat(p.cfg.path("agent", "identity.json"))
	if errors.Is(err, fs.ErrNotExist) {
		var t struct {
			Token string `json:"token"`
		}
		if err := p.api.Do(ctx, http.MethodPost, "/api/keywright/v1/hosts/enrolmentTokens", map[string]string{"hostname": "local"}, &t); err != nil {
			return fmt.Errorf("make enrolment token: %w", err)
		}
		if err := durable.WriteFile(token, []byte(t.Token+"\n"), 0o600); err != nil {
			return err
		}
		args = append(args, "--enroll-token-file", token)
	}
	if err := p.agent.start(append(args, p.canary()...), p.environment(p.seed.Platform.Agent)); err != nil {
		return err
	}
	if err := p.agent.waitFile(ctx, ready, &p.ready.agent); err != nil {
		return err
	}
	p.agent.pin("--kmip-listen", p.ready.agent.KMIPAddress)
	p.agent.pin("--enroll-token-file", "")
	return durable.Remove(token)
}

// watch restarts children that die, until ctx ends.
func (p *platform) watch(ctx context.Context) error {
	var g errgroup.Group
	for _, c := range p.children() {
		g.Go(func() error {
			backoff := 200 * time.Millisecond
			for {
				began := time.Now()
				select {
				case <-ctx.Done():
					return nil
				case <-c.ended():
				}
				if time.Since(began) > time.Minute {
					backoff = 200 * time.Millisecond
				}
				c.log.Error("process ended, starting it again", "retry_in", backoff.String(), "log", c.logPath)
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(backoff):
				}
				backoff = min(2*backoff, 10*time.Second)
				if err := c.restart(); err != nil {
					c.log.Error("process could not be started again", "error", err)
				}
			}
		})
	}
	err := g.Wait()
	p.say("stopping everything ...")
	return err
}

func (p *platform) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.cfg.Out, format+"\n", args...)
}

// greet prints what a person needs next.
func (p *platform) greet(b Bootstrap) {
	p.say("\nKeywright is ready.\n")
	p.say("  Console         %s   (sign in: %s / %s)", b.Console.URL, b.Console.Username, b.Console.Password)
	p.say("  API             %s/api/atlas/v2   (digest authentication)", b.BaseURL)
	p.say("  API key         %s / %s", b.PublicKey, b.PrivateKey)
	p.say("  For programs    %s", p.cfg.BootstrapFile)
	if p.aws == nil {
		p.explainReal()
	}
	if b.AWS != nil {
		p.say("  Local AWS       %s   (for development and tests only: its keys lie on this disk)", b.AWS.Endpoint)
	}
	if b.Sample == nil {
		return
	}
	p.say("  mongosh         mongosh '%s'", b.Sample.ConnectionString)
	p.say("\nThree things to try next:\n")
	p.say("  1. Write something:      mongosh '%s' --eval 'db.getSiblingDB(\"shop\").orders.insertOne({item: \"book\"})'", b.Sample.ConnectionString)
	aws := fmt.Sprintf("AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s aws --endpoint-url %s --region %s", b.AWS.AccessKeyID, b.AWS.SecretAccessKey, b.AWS.Endpoint, b.AWS.Region)
	p.say("  2. Take the key away:    %s kms disable-key --key-id %s", aws, b.Sample.KeyARN)
	p.say("     ... the cluster stops within %s; bring it back with `kms enable-key` and the same arguments.", confirmedWithin(p.cfg.ValidationInterval))
	p.say("  3. See why:              curl --digest -u %s:%s -H 'Accept: application/vnd.atlas.2023-01-01+json' %s/api/atlas/v2/groups/%s/events", b.PublicKey, b.PrivateKey, b.BaseURL, b.Sample.ProjectID)
	p.say("\nCtrl-C stops everything. The next start finds it all again.")
}

// explainReal says what a platform with the real AWS needs, which the samples of the
// local one would have shown.
func (p *platform) explainReal() {
	p.say("  AWS             the real one, by the SDK's default chain (environment, shared files, web identity, instance role)")
	p.say("\nThere are no samples: they need a customer's AWS account. What this needs:\n")
	p.say("  1. Credentials of an AWS account of the platform's own, allowed sts:AssumeRole on customers' roles and nothing else.")
	p.say("     Check:               keywright doctor server --data-dir %s --listen %s", p.cfg.path("server"), strings.TrimPrefix(p.ready.server.BaseURL, "http://"))
	p.say("     The host's policy:   keywright agent aws-policy local --bootstrap %s", p.cfg.BootstrapFile)
	p.say("  2. A customer's role that trusts this account with the external id of a registration, and a KMS key: README, The story.")
	p.say("  3. For customers who restrict addresses: keywright ip-addresses PROJECT --bootstrap %s", p.cfg.BootstrapFile)
}

// confirmedWithin is the bound on a stop: interval + min(10 s, interval) + 2 s.
func confirmedWithin(interval time.Duration) time.Duration {
	return interval + min(10*time.Second, interval) + 2*time.Second
}
