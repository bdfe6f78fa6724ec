package telemetry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// Metrics are the counters of one process. A nil *Metrics counts nothing, so that what
// counts needs no check. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	kmsTime  *prometheus.HistogramVec
	kmsCalls *prometheus.CounterVec
	http     *prometheus.CounterVec
	kmip     *prometheus.CounterVec
}

// New makes the metrics of a process with the given version.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		kmsTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keywright_kms_call_duration_seconds", Help: "Time of calls to AWS KMS and STS by operation and class of outcome.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"operation", "outcome"}),
		kmsCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywright_kms_calls_total", Help: "Calls to AWS KMS and STS by operation, class of outcome and reason.",
		}, []string{"operation", "outcome", "reason"}),
		http: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywright_http_requests_total", Help: "Requests of the API by route and status; route is empty where none fits.",
		}, []string{"method", "route", "status"}),
		kmip: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywright_kmip_requests_total", Help: "KMIP operations by result.",
		}, []string{"operation", "result"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "keywright_build_info", Help: "The program's version.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.kmsTime, m.kmsCalls, m.http, m.kmip, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// KMS counts a call to the key service; it is an observer for kms.Meter.
func (m *Metrics) KMS(o kms.Observation) {
	if m == nil {
		return
	}
	m.kmsTime.WithLabelValues(string(o.Operation), string(o.Outcome)).Observe(o.Took.Seconds())
	m.kmsCalls.WithLabelValues(string(o.Operation), string(o.Outcome), string(o.Reason)).Inc()
}

// Meter has a provider's calls counted.
func (m *Metrics) Meter(p kms.Provider) kms.Provider {
	if m == nil {
		return p
	}
	return kms.Meter(p, m.KMS)
}

// HTTP counts a request of the API. route is the pattern in the table of routes.
func (m *Metrics) HTTP(method, route string, status int) {
	if m == nil {
		return
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.http.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
}

// KMIP counts one operation of a KMIP request; the names come from fixed lists.
func (m *Metrics) KMIP(operation, result string) {
	if m == nil {
		return
	}
	m.kmip.WithLabelValues(operation, result).Inc()
}

// Sample is one value of a gauge that a Source gives.
type Sample struct {
	// Name is without the prefix "keywright_"; Help is what it says of itself, the same
	// for all samples of a name.
	Name, Help string
	// Labels alternate names and values; the names are the same for all samples of a name.
	Labels []string
	Value  float64
}

// Source reads state at the moment of a scrape. Within a few seconds a scrape gets what
// the one before got.
type Source func(ctx context.Context) ([]Sample, error)

const (
	// memory is how long a source's answer is given again, patience how long it may take.
	memory   = 5 * time.Second
	patience = 8 * time.Second
)

// Add has a source read at each scrape. What fails shows in keywright_scrape_errors.
func (m *Metrics) Add(s Source) {
	if m != nil {
		m.registry.MustRegister(&collector{source: s})
	}
}

// collector is a Source as Prometheus wants one.
type collector struct {
	source Source

	mu   sync.Mutex
	at   time.Time
	last []Sample
	bad  bool
}

// Describe implements prometheus.Collector: what comes is not known before.
func (*collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.read() {
		var names, values []string
		for i := 0; i+1 < len(s.Labels); i += 2 {
			names, values = append(names, s.Labels[i]), append(values, s.Labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("keywright_"+s.Name, s.Help, names, nil), prometheus.GaugeValue, s.Value, values...)
	}
}

func (c *collector) read() []Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) >= memory {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got, err := c.source(ctx)
		c.at, c.last, c.bad = now, got, err != nil
	}
	failed := 0.0
	if c.bad {
		failed = 1
	}
	return append([]Sample{{Name: "scrape_errors", Help: "1 if the state could not be read for this scrape.", Value: failed}}, c.last...)
}

// Handler shows the metrics. With a token, whoever scrapes has to send it as
// "Authorization: Bearer TOKEN". Without one, only this machine may ask, and under a
// loopback name: a page in somebody's browser cannot.
func (m *Metrics) Handler(token secret.Bytes) http.Handler {
	show := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * patience})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !admitted(r, token) {
			http.Error(w, "metrics are shown to this machine, or to who has the scrape token", http.StatusForbidden)
			return
		}
		show.ServeHTTP(w, r)
	})
}

func admitted(r *http.Request, token secret.Bytes) bool {
	if token.Len() > 0 {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256(token.Reveal())
		return ok && subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() || r.Header.Get("X-Forwarded-For") != "" {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && a.IsLoopback()
}
