package doctor

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is what one check found.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	// Remedy says what to do; empty if all is well.
	Remedy string `json:"remedy,omitempty"`
}

// The kinds of machines.
const (
	Server = "server"
	Agent  = "agent"
)

// AWS is the platform's own way to AWS; awskms.Provider is one.
type AWS interface {
	CredentialSource(ctx context.Context) (string, error)
	CallerIdentity(ctx context.Context) (account, arn string, err error)
	Endpoints(t kms.Target) awskms.Endpoints
	SourceAddresses(ctx context.Context) []netip.Addr
}

// Config says what to look at.
type Config struct {
	// Kind is Server or Agent.
	Kind string
	// DataDir is the process's; "" skips what is about it.
	DataDir string
	// ServerURL is the control plane's address for agents; "" skips it.
	ServerURL string
	// Listen are the addresses that the process would listen at.
	Listen []string
	AWS    AWS
	// HTTP reaches the endpoints for a look at the clock; nil: a client of its own.
	HTTP *http.Client
	// Now is this machine's clock; nil: time.Now.
	Now func() time.Time
}

// patience bounds each check.
const patience = 10 * time.Second

// Examine makes all checks, one after the other.
func Examine(ctx context.Context, cfg Config) []Finding {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	checks := []func(context.Context, Config) []Finding{credentials, identity, endpoints, addresses}
	if cfg.Kind == Agent && cfg.ServerURL != "" {
		checks = append(checks, controlPlane)
	}
	if cfg.DataDir != "" {
		checks = append(checks, directory)
		if cfg.Kind == Agent {
			checks = append(checks, enrolment)
		}
	}
	checks = append(checks, files, memory, cores, ports)
	var out []Finding
	for _, check := range checks {
		limited, cancel := context.WithTimeout(ctx, patience)
		out = append(out, check(limited, cfg)...)
		cancel()
	}
	return out
}

// Worst is the worst level of findings.
func Worst(all []Finding) Level {
	out := OK
	for _, f := range all {
		if f.Level == Fail || out == OK {
			out = f.Level
		}
		if out == Fail {
			break
		}
	}
	return out
}

func ok(check, text string) []Finding { return []Finding{{Check: check, Level: OK, Text: text}} }

func warn(check, text, remedy string) []Finding {
	return []Finding{{Check: check, Level: Warn, Text: text, Remedy: remedy}}
}

func fail(check, text, remedy string) []Finding {
	return []Finding{{Check: check, Level: Fail, Text: text, Remedy: remedy}}
}
