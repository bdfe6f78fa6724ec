package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
)

// RecoverConfig says where a host's wrapped keys come from: the control plane's
// escrow, or a bundle.
type RecoverConfig struct {
	// DataDir is the agent's directory; the agent must not run. The host must be
	// enrolled: a host that lost everything enrols again under its name first.
	DataDir string
	// ServerURL is the control plane's address for agents, BundleFile a file that `key
	// export` wrote; exactly one of them.
	ServerURL  string
	BundleFile string
	Logger     *slog.Logger
}

// Recovered counts what a recovery did.
type Recovered struct {
	// Restored wraps were missing or older here, Kept ones were as new already.
	Restored int `json:"restored"`
	Kept     int `json:"kept"`
	// Destroyed are those of Restored that are records of destroyed keys.
	Destroyed int `json:"destroyed"`
}

// Recover rebuilds the wrapped keys of a host (key-plane rule 2.3). It adds what is
// missing and replaces what is older; nothing is removed, and it can be repeated. The
// keys are opened by the customer's key only when a node asks for them.
func Recover(ctx context.Context, cfg RecoverConfig) (out Recovered, err error) {
	if (cfg.ServerURL == "") == (cfg.BundleFile == "") {
		return out, errors.New("name either the control plane or a bundle to recover from")
	}
	a := &Agent{cfg: Config{DataDir: cfg.DataDir, ServerURL: cfg.ServerURL, Logger: cfg.Logger}, log: cfg.Logger, dir: layout{cfg.DataDir}}
	if err := durable.ReadJSON(a.dir.identity(), &a.id); err != nil {
		return out, fmt.Errorf("this directory is of no enrolled host (a host that lost everything enrols again under its name first): %w", err)
	}
	if a.id.Format != identityFormat {
		return out, fmt.Errorf("identity of this host has format %d, this program reads %d", a.id.Format, identityFormat)
	}
	unlock, err := lockDir(a.dir.lock())
	if err != nil {
		return out, fmt.Errorf("stop the agent first: %w", err)
	}
	defer unlock()
	kept, from, err := a.kept(ctx, cfg)
	if err != nil {
		return out, err
	}
	log, err := audit.OpenFile(a.dir.audit())
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	store, err := wraps.Open(a.dir.keys())
	if err != nil {
		return out, fmt.Errorf("%w\nmove the files that it names away and recover again", err)
	}
	return restore(ctx, store, &recorder{log: log, host: a.id.Host}, from, kept)
}

// kept gives the host's wraps, and where from.
func (a *Agent) kept(ctx context.Context, cfg RecoverConfig) (out []agentlink.EscrowedWrap, from string, err error) {
	if cfg.BundleFile != "" {
		out, err = a.fromBundle(cfg.BundleFile)
		from = "bundle"
	} else {
		out, err = a.fromControlPlane(ctx)
		from = "control plane"
	}
	if err != nil {
		return nil, from, err
	}
	return out, from, nil
}

func (a *Agent) fromControlPlane(ctx context.Context) ([]agentlink.EscrowedWrap, error) {
	if err := a.openLink(ctx); err != nil {
		return nil, err
	}
	defer a.link.Close()
	out, err := a.link.Wraps(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch wrapped keys: %w", err)
	}
	return out, nil
}

func (a *Agent) fromBundle(path string) ([]agentlink.EscrowedWrap, error) {
	f, err := os.Open(path) //nolint:gosec // named by the operator
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, bundle.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	p, err := bundle.Open(raw, []byte(a.id.CAs.Link))
	if err != nil {
		return nil, err
	}
	if p.Deployment != a.id.Deployment {
		return nil, fmt.Errorf("the bundle is of deployment %s, this host belongs to %s", p.Deployment, a.id.Deployment)
	}
	var out []agentlink.EscrowedWrap
	for _, w := range p.Wraps {
		if w.Host == a.id.Host {
			out = append(out, w.EscrowedWrap)
		}
	}
	return out, nil
}

// byKey puts the wraps of each key together, in the order in which keys come first. All
// are taken: which one opens a key says the configuration in force.
func byKey(all []agentlink.EscrowedWrap) [][]agentlink.EscrowedWrap {
	at := map[keys.KeyID]int{}
	var out [][]agentlink.EscrowedWrap
	for _, w := range all {
		i, ok := at[w.Key]
		if !ok {
			i = len(out)
			at[w.Key], out = i, append(out, nil)
		}
		out[i] = append(out[i], w)
	}
	return out
}

// restore writes the wraps that are missing or older here. What is written is recorded
// first.
func restore(ctx context.Context, store *wraps.Store, journal journal, from string, kept []agentlink.EscrowedWrap) (out Recovered, err error) {
	if err := journal.record(ctx, audit.Event{
		Type: "KEYS_RECOVERED", Message: "Wrapped keys of this host are put back.", Data: map[string]string{"from": from, "wraps": fmt.Sprint(len(kept))},
	}); err != nil {
		return out, fmt.Errorf("recover keys: %w", err)
	}
	var errs []error
	for _, all := range byKey(kept) {
		r, err := wraps.FromEscrow(all...)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done, err := store.Restore(r)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !done:
			out.Kept++
		default:
			out.Restored++
			if !r.State.Readable() {
				out.Destroyed++
			}
		}
	}
	return out, errors.Join(errs...)
}
