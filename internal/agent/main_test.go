package agent

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/driver/drivertest"
)

func TestMain(m *testing.M) {
	drivertest.Main()
	os.Exit(m.Run())
}

// eventually polls until ok, and fails the test after a generous time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to: %s", what)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
