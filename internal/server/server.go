package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
)

// stopPatience is how long open requests may take at the end.
const stopPatience = 5 * time.Second

// Ready is the content of the ready file.
type Ready struct {
	BaseURL  string `json:"baseUrl"`
	AgentURL string `json:"agentUrl"`
	PID      int    `json:"pid"`
}

// Run runs a control plane until ctx ends; it returns nil then. It returns early if
// something cannot be opened or a listener fails.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !loopback(cfg.Listen) && (cfg.TLSCertFile == "" || cfg.TLSKeyFile == "") {
		return fmt.Errorf("listen on %s: only loopback addresses work without TLS, give a certificate and a key", cfg.Listen)
	}
	if cfg.ReadyFile != "" {
		if err := os.Remove(cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove old ready file: %w", err)
		}
	}
	p, err := assemble(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	return p.run(ctx)
}

// plane is an assembled control plane.
type plane struct {
	cfg      Config
	services Services
	cas      authorities
	keeper   *pki.Keeper
	api      net.Listener
	link     net.Listener
	provider kms.Provider
	closers  []func() error
}

// assemble opens everything, in the order in which it depends on each other. What was
// opened is closed again on an error.
func assemble(ctx context.Context, cfg Config) (p *plane, err error) {
	p = &plane{cfg: cfg, provider: cfg.Provider}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	st, err := store.Open(ctx, store.Config{Dir: cfg.DataDir, Log: cfg.Log})
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, st.Close)
	if p.cas, err = openAuthorities(ctx, st); err != nil {
		return p, err
	}
	if p.keeper, err = p.cas.serverKeeper(ctx, filepath.Join(cfg.DataDir, "agentlink.pem"), cfg.Log); err != nil {
		return p, err
	}
	if p.provider == nil {
		aws, err := awskms.New(ctx, awskms.Config{Region: cfg.AWSRegion, CanaryRoleARN: cfg.CanaryRoleARN, SessionName: "keywright-server", SourceAddress: cfg.SourceAddress, Logger: cfg.Log,
			KMSEndpoints: cfg.KMSEndpoints, STSEndpoints: cfg.STSEndpoints, FIPS: cfg.FIPS})
		if err != nil {
			return p, err
		}
		p.provider = aws
		p.closers = append(p.closers, aws.Close)
		cfg.AWSRegion, p.cfg.AWSRegion = aws.Region(), aws.Region()
	}
	p.provider = cfg.Metrics.Meter(p.provider)
	cfg.Metrics.Add(p.samples)
	keys := cmk.New(cmk.Config{
		Store: st, Provider: p.provider, Interval: cfg.Interval, KMSEndpoints: cfg.KMSEndpoints, STSEndpoints: cfg.STSEndpoints, FIPS: cfg.FIPS, Log: cfg.Log,
	})
	p.services = Services{
		Store: st, Tenant: tenant.New(st), Access: access.New(st, p.provider, cfg.AWSRegion), CMK: keys,
		Cluster: cluster.New(cluster.Config{
			Store: st, Custody: keys, LinkCA: p.cas.linkFingerprint(), Log: cfg.Log, ShowCreating: cfg.ShowCreating, ShowDeleting: cfg.ShowDeleting,
		}),
		Rotation: rotation.New(rotation.Config{Store: st, Log: cfg.Log}), Maintenance: maintenance.New(st), Export: escrow.New(st, p.cas[pki.KindLink]), Inventory: inventory.New(st),
		DatabaseCA: p.cas.pem(pki.KindDatabase), Log: cfg.Log,
	}
	if p.services.Network, err = p.network(); err != nil {
		return p, err
	}
	if p.services.Alert, err = newAlerts(cfg, st, p.cas); err != nil {
		return p, err
	}
	if cfg.InitFile != "" {
		in, err := ReadInit(cfg.InitFile)
		if err != nil {
			return p, err
		}
		defer in.PrivateKey.Wipe()
		defer in.Password.Wipe()
		if err := p.services.Tenant.Bootstrap(ctx, in); err != nil {
			return p, err
		}
	}
	if p.api, err = net.Listen("tcp", cfg.Listen); err != nil {
		return p, fmt.Errorf("listen for the API: %w", err)
	}
	p.closers = append(p.closers, p.api.Close)
	if p.link, err = net.Listen("tcp", cfg.AgentListen); err != nil {
		return p, fmt.Errorf("listen for agents: %w", err)
	}
	p.closers = append(p.closers, p.link.Close)
	return p, nil
}

// network makes the service of addresses: the configured ones, or else those that the
// provider finds on its connections.
func (p *plane) network() (*network.Service, error) {
	fixed, bad := agentlink.NormalAddresses(p.cfg.EgressAddresses)
	if len(bad) > 0 {
		return nil, fmt.Errorf("addresses from which AWS is called: %s", strings.Join(bad, "; "))
	}
	cfg := network.Config{
		Store: p.services.Store, Hostname: p.cfg.Hostname, Region: p.cfg.AWSRegion, Ask: cmk.Ask, Log: p.cfg.Log,
		Addresses: func(context.Context) []string { return fixed },
	}
	if finder, ok := p.provider.(interface {
		SourceAddresses(ctx context.Context) []netip.Addr
	}); ok && len(fixed) == 0 {
		cfg.Addresses = func(ctx context.Context) []string { return agentlink.AddressTexts(finder.SourceAddresses(ctx)) }
	}
	if cfg.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find this machine's name: %w", err)
		}
		cfg.Hostname = name
	}
	return network.New(cfg), nil
}

// newAlerts makes the service of alerts. Webhooks on this machine are possible while the
// API is for this machine only.
func newAlerts(cfg Config, st *store.Store, cas authorities) (*alert.Service, error) {
	out := alert.Config{
		Store: st, Log: cfg.Log, Authorities: cas.ends(), Recipients: cfg.Recipients, LocalHooks: loopback(cfg.Listen), PrivateHooks: cfg.PrivateHooks,
	}
	if cfg.Mail != nil {
		if err := cfg.Mail.Check(); err != nil {
			return nil, err
		}
		out.Mail = cfg.Mail
	}
	return alert.New(out)
}

func (p *plane) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		if err := p.closers[i](); err != nil && !errors.Is(err, net.ErrClosed) {
			p.cfg.Log.Warn("not closed cleanly", "error", err)
		}
	}
}

// run starts all owners and waits for them. The first that fails ends the others.
func (p *plane) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := func(name string, fn func(context.Context) error) {
		wg.Go(func() {
			if err := fn(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("custody", p.services.CMK.Run)
	start("clusters", p.services.Cluster.Run)
	start("addresses", p.services.Network.Run)
	start("rotations", p.services.Rotation.Run)
	start("roles", func(ctx context.Context) error { return p.services.Access.Run(ctx, p.cfg.Log) })
	start("alerts", p.services.Alert.Run)
	start("link certificate", p.keeper.Run)
	start("platform identity", p.learnIdentity)
	linkTLS, err := pki.ServerTLS(p.keeper, pki.KindLink, p.cas.pem(pki.KindLink), true)
	if err != nil {
		return err
	}
	start("API", func(ctx context.Context) error { return p.serve(ctx, p.api, p.apiHandler(), nil) })
	start("agent link", func(ctx context.Context) error { return p.serve(ctx, p.link, newLink(p).handler(), linkTLS) })
	if err := p.announce(); err != nil {
		cancel(err)
	}
	wg.Wait()
	if p.cfg.ReadyFile != "" {
		_ = os.Remove(p.cfg.ReadyFile)
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// learnIdentity asks who the platform is until it is known; nothing waits for it.
func (p *plane) learnIdentity(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		arn, err := p.services.Access.PlatformARN(ctx)
		if err == nil {
			p.cfg.Log.InfoContext(ctx, "platform identity", "principal", arn)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		p.cfg.Log.WarnContext(ctx, "the platform's AWS account is not known yet", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (p *plane) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := p.services.Store.Ping(ctx); err != nil {
			p.cfg.Log.ErrorContext(ctx, "store does not answer", "error", err)
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	if p.cfg.Metrics != nil {
		mux.Handle("GET /metrics", p.cfg.Metrics.Handler(p.cfg.MetricsToken))
	}
	rest := "/"
	if p.cfg.Console != nil {
		mux.Handle(rest, p.cfg.Console(p.services))
		rest = "/api/"
	}
	if p.cfg.API != nil {
		mux.Handle(rest, p.cfg.API(p.services))
	}
	return mux
}

// serve runs one HTTP server until ctx ends, then lets open requests finish for a
// while.
func (p *plane) serve(ctx context.Context, l net.Listener, h http.Handler, tlsConfig *tls.Config) error {
	srv := &http.Server{
		Handler: h, TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 2 * time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	}()
	var err error
	switch {
	case tlsConfig != nil:
		err = srv.ServeTLS(l, "", "")
	case p.cfg.TLSCertFile != "":
		err = srv.ServeTLS(l, p.cfg.TLSCertFile, p.cfg.TLSKeyFile)
	default:
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve on %s: %w", l.Addr(), err)
}

// announce writes the ready file.
func (p *plane) announce() error {
	scheme := "http"
	if p.cfg.TLSCertFile != "" {
		scheme = "https"
	}
	r := Ready{BaseURL: scheme + "://" + p.api.Addr().String(), AgentURL: "https://" + p.link.Addr().String(), PID: os.Getpid()}
	p.cfg.Log.Info("control plane is ready", "base_url", r.BaseURL, "agent_url", r.AgentURL)
	if p.cfg.ReadyFile == "" {
		return nil
	}
	return durable.WriteJSON(p.cfg.ReadyFile, r, 0o600)
}
