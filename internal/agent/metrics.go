package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/telemetry"
)

// checkMetricsListen demands loopback: the host's metrics have no authentication.
func checkMetricsListen(addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("metrics address %q: a loopback address and a port are needed", addr)
	}
	return nil
}

// serveMetrics shows the host's metrics until ctx ends.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.cfg.MetricsListen == "" || a.cfg.Metrics == nil {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", a.cfg.MetricsListen)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	a.log.InfoContext(ctx, "metrics are shown", "url", "http://"+l.Addr().String()+"/metrics")
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.cfg.Metrics.Handler(secret.Bytes{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// samples is what the metrics show of the host.
func (a *Agent) samples(context.Context) ([]telemetry.Sample, error) {
	st := a.status()
	var out []telemetry.Sample
	for _, c := range st.Custody {
		out = append(out, telemetry.Sample{
			Name: "custody_verdict", Help: "The host's verdict on a project's customer key, with the reason; always 1.",
			Labels: []string{"project", string(c.Project), "verdict", string(c.State.Verdict), "reason", string(c.State.Reason)}, Value: 1,
		})
		if ok := c.State.LastSuccess; !ok.IsZero() {
			out = append(out, telemetry.Sample{Name: "custody_last_success_seconds", Help: "When a project's key was last found usable, in seconds since 1970.", Labels: []string{"project", string(c.Project)}, Value: float64(ok.Unix())})
		}
	}
	phases := map[string]float64{}
	for _, n := range st.Nodes {
		phases[string(n.Phase)]++
	}
	for phase, n := range phases {
		out = append(out, telemetry.Sample{Name: "nodes", Help: "Database nodes of the host by phase.", Labels: []string{"phase", phase}, Value: n})
	}
	linked := 0.0
	if a.reporter.linked() {
		linked = 1
	}
	return append(out,
		telemetry.Sample{Name: "linked", Help: "1 once this process has had the desired state from the control plane.", Value: linked},
		telemetry.Sample{Name: "alarms", Help: "Conditions of the host that need a person.", Value: float64(len(st.Alarms))},
		telemetry.Sample{Name: "audit_events", Help: "Length of the host's audit chain.", Value: float64(st.AuditSeq)}), nil
}
