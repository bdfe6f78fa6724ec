package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Config is what the service needs. Only Store has to be given.
type Config struct {
	Store *store.Store
	Log   *slog.Logger
	// Authorities are the ends of the deployment's certificate authorities, by name.
	Authorities map[string]time.Time
	// Breath is the least time between two looks at all projects, Every the most; 0: 1 s
	// and 15 s. A look never takes more than a tenth of the time.
	Breath, Every time.Duration
	// Mail sends mail; nil: mail is not possible and said so. Recipients get what goes to
	// people by their role (GROUP, ORG): the people of a project are not known here.
	Mail       Mailer
	Recipients []string
	// LocalHooks allows webhooks on this machine over plain HTTP: for a server that
	// listens on loopback only. PrivateHooks allows those in private networks.
	LocalHooks, PrivateHooks bool
}

// Mailer sends one mail.
type Mailer interface {
	Send(ctx context.Context, m Mail) error
}

// Service keeps alert configurations and alerts. It is safe for concurrent use.
type Service struct {
	cfg   Config
	st    *store.Store
	log   *slog.Logger
	hooks *http.Client

	mu     sync.Mutex
	tested map[keys.ProjectID]time.Time // when a project's last test was sent
}

// New makes the service. Alerts follow their conditions while Run does.
// Recipients that are no mail addresses are an error.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Breath == 0 {
		cfg.Breath = time.Second
	}
	if cfg.Every == 0 {
		cfg.Every = 15 * time.Second
	}
	for _, r := range cfg.Recipients {
		if !plainAddress(r) {
			return nil, fmt.Errorf("%q is no mail address", r)
		}
	}
	s := &Service{cfg: cfg, st: cfg.Store, log: cfg.Log, tested: map[keys.ProjectID]time.Time{}}
	s.hooks = hookClient(cfg.LocalHooks, cfg.PrivateHooks)
	return s, nil
}

// Run keeps alerts and sends their messages until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.deliver(ctx) })
	defer wg.Wait()
	for {
		changed, began := s.st.Changed(), time.Now()
		if err := s.Reconcile(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "alerts were not brought up to date", "error", err)
		}
		breath := max(s.cfg.Breath, 9*time.Since(began))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(breath):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(s.cfg.Every):
		}
	}
}

// Reconcile looks at all projects once. A project for which that fails keeps no other
// back.
func (s *Service) Reconcile(ctx context.Context) error {
	var facts map[keys.ProjectID]*Facts
	var configs map[keys.ProjectID][]store.AlertConfig
	var open map[string][]store.Alert
	var made map[keys.ProjectID]map[string]bool
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if facts, err = gather(tx, "", s.cfg.Authorities); err != nil {
			return err
		}
		if made, err = tx.DefaultsMade(""); err != nil {
			return err
		}
		configs, open, err = standing(tx, "")
		return err
	})
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	var errs []error
	for id, f := range facts {
		if len(missing(*f, made[id])) > 0 {
			errs = append(errs, s.change(ctx, *f, true))
		} else if s.moves(*f, configs[id], open) {
			errs = append(errs, s.change(ctx, *f, false))
		}
	}
	return errors.Join(errs...)
}

// standing reads the configurations by project and the alerts that have not ended by
// configuration.
func standing(tx *store.Tx, p keys.ProjectID) (map[keys.ProjectID][]store.AlertConfig, map[string][]store.Alert, error) {
	configs := map[keys.ProjectID][]store.AlertConfig{}
	open := map[string][]store.Alert{}
	all, err := tx.AlertConfigs(p)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		configs[c.Project] = append(configs[c.Project], c)
	}
	alerts, _, err := tx.Alerts(store.AlertFilter{Project: p, Statuses: []string{Open, Tracking}})
	for _, a := range alerts {
		open[a.Config] = append(open[a.Config], a)
	}
	return configs, open, err
}

// moves tells whether a step would change anything.
func (s *Service) moves(f Facts, configs []store.AlertConfig, open map[string][]store.Alert) bool {
	for _, c := range configs {
		if len(s.stepOf(f, c, open[c.ID]).alerts) > 0 {
			return true
		}
	}
	return false
}

func (s *Service) stepOf(f Facts, c store.AlertConfig, open []store.Alert) outcome {
	cond, ok := conditionOf(c.Kind)
	if !ok || !c.Enabled && len(open) == 0 {
		return outcome{}
	}
	return step(c, f.Project, cond.findings(f, c.Threshold), open, f.Now, func() string { return keys.NewID(f.Now) })
}

// change carries out a step for one project, by the facts that were read before and the
// configurations and alerts as they are now.
func (s *Service) change(ctx context.Context, f Facts, defaults bool) error {
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Project(f.Project.ID); err != nil {
			return err
		}
		if defaults {
			if err := makeDefaults(tx, f); err != nil {
				return err
			}
		}
		configs, open, err := standing(tx, f.Project.ID)
		if err != nil {
			return err
		}
		for _, c := range configs[f.Project.ID] {
			if err := s.enact(tx, f.Project, c, s.stepOf(f, c, open[c.ID])); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("project %s: %w", f.Project.ID, err)
	}
	return nil
}

// kept is how many ended alerts, and how many finished deliveries, of a project stay.
const kept = 1000

// enact writes an outcome down: alerts, events, messages.
func (s *Service) enact(tx *store.Tx, pr store.Project, c store.AlertConfig, o outcome) error {
	ended := false
	for _, a := range o.alerts {
		if err := tx.PutAlert(a); err != nil {
			return err
		}
		ended = ended || a.Status == Closed || a.Status == Cancelled
	}
	for _, m := range o.messages {
		if m.notifier == "" {
			if err := tx.Append(transition(pr, m)); err != nil {
				return err
			}
		}
		if err := s.enqueue(tx, pr, c, m); err != nil {
			return err
		}
	}
	if ended {
		return tx.PruneAlerts(pr.ID, kept)
	}
	return nil
}

// missing lists the kinds of default configurations that a project has not been given.
func missing(f Facts, made map[string]bool) []Condition {
	var out []Condition
	for _, c := range Conditions() {
		if !made[c.Kind] && (c.Default && f.Project.DefaultAlerts || c.WithKey && f.Key.Enabled) {
			out = append(out, c)
		}
	}
	return out
}

// makeDefaults gives a project its default configurations, each kind once.
func makeDefaults(tx *store.Tx, f Facts) error {
	made, err := tx.DefaultsMade(f.Project.ID)
	if err != nil {
		return err
	}
	for _, c := range missing(f, made[f.Project.ID]) {
		if _, err := tx.DefaultMade(f.Project.ID, c.Kind); err != nil {
			return err
		}
		now := tx.Now()
		if err := tx.PutAlertConfig(store.AlertConfig{
			ID: keys.NewID(now), Project: f.Project.ID, Kind: c.Kind, Enabled: true, Created: now, Updated: now, Threshold: c.Limit,
			Notifications: []store.AlertNotification{{ID: keys.NewID(now), Type: Group, Interval: 60, Email: true, Roles: []string{string(tenant.GroupOwner)}}},
		}); err != nil {
			return err
		}
	}
	return nil
}
