package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

func (p *plane) metrics() string {
	p.t.Helper()
	resp, err := http.Get(p.ready.BaseURL + "/metrics") //nolint:noctx // a test
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// A revocation opens an alert that names it, the metrics show both, the log is told, and
// the alert closes when the key is back.
func TestARevocationIsToldAndMeasured(t *testing.T) {
	aws := controltest.NewAWS()
	p := start(t, t.TempDir(), aws)
	h := p.enroll("h")
	pr, _, target := p.encrypted()
	p.step(h)
	alerts := func(status string) []store.Alert {
		all, _, err := p.services.Alert.Alerts(t.Context(), p.owner(), pr.ID, store.AlertFilter{Statuses: []string{status}})
		if err != nil {
			t.Fatal(err)
		}
		out := []store.Alert{}
		for _, a := range all {
			if a.Kind == alert.KeyInvalid {
				out = append(out, a)
			}
		}
		return out
	}
	aws.SetState(target.KeyID, "Disabled")
	h.Verdict, h.Reason = custody.Invalid, kms.KeyDisabled
	p.step(h)
	controltest.Eventually(t, "an open alert", func() bool { return len(alerts(alert.Open)) == 1 })
	if a := alerts(alert.Open)[0]; !strings.Contains(a.Summary, "KEY_DISABLED") || a.Remedy == "" || a.Since.IsZero() {
		t.Errorf("%+v", a)
	}
	controltest.Eventually(t, "metrics of it", func() bool {
		m := p.metrics()
		return strings.Contains(m, `keywright_custody_verdict{project="`+string(pr.ID)+`",reason="KEY_DISABLED",verdict="INVALID"} 1`) &&
			strings.Contains(m, `keywright_alerts{event_type="AWS_ENCRYPTION_KEY_INVALID",status="OPEN"} 1`) &&
			strings.Contains(m, `keywright_hosts{state="linked"} 1`) && strings.Contains(m, `keywright_kms_calls_total{operation="Encrypt"`)
	})
	if m := p.metrics(); strings.Contains(m, "arn:") {
		t.Error("the metrics show an ARN")
	}
	controltest.Eventually(t, "the log told", func() bool {
		all, _, err := p.services.Alert.Deliveries(t.Context(), p.owner(), pr.ID, 100, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			if d.Type == alert.Log && d.Message == alert.Opened && d.State == "SENT" {
				return true
			}
		}
		return false
	})
	aws.SetState(target.KeyID, "Enabled")
	h.Verdict, h.Reason = custody.Valid, ""
	controltest.Eventually(t, "the end of the alert", func() bool {
		p.step(h)
		return len(alerts(alert.Closed)) == 1 && len(alerts(alert.Open)) == 0
	})
}
