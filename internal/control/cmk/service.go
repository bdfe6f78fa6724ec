package cmk

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// Config is what the service needs.
type Config struct {
	Store    *store.Store
	Provider kms.Provider
	// Interval is the distance of validation runs in quiet times; 0 means 15 minutes.
	Interval time.Duration
	// KMSEndpoints and STSEndpoints override AWS's addresses, here and on all hosts; FIPS
	// asks for its FIPS endpoints where there is no other.
	KMSEndpoints, STSEndpoints kms.Endpoints
	FIPS                       bool
	// Clock reads the machine's clocks for the custody loops; nil: custody.SystemClock.
	Clock func() custody.Reading
	// Silent is after how long without a report a host counts as silent; 0 means 30 s.
	Silent time.Duration
	Log    *slog.Logger
}

// Service manages the customer keys of all projects. It is safe for concurrent use.
type Service struct {
	cfg    Config
	st     *store.Store
	policy custody.Policy
	log    *slog.Logger

	mu      sync.Mutex
	changes map[keys.ProjectID]*sync.Mutex
	probers map[keys.ProjectID]*prober
	loops   map[keys.ProjectID]*runner
	words   map[source]word
	trials  map[keys.ProjectID]trial
	gates   map[keys.ProjectID]*gate
	// born is when this process began to listen (boot-time clock); crowd is rule 10.
	born  time.Duration
	crowd atomic.Bool
}

// New makes the service. Its loops run while Run does.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Silent == 0 {
		cfg.Silent = 30 * time.Second
	}
	s := &Service{
		cfg: cfg, st: cfg.Store, policy: custody.Policy{Interval: cfg.Interval}.Normal(), log: cfg.Log,
		changes: map[keys.ProjectID]*sync.Mutex{}, probers: map[keys.ProjectID]*prober{}, loops: map[keys.ProjectID]*runner{},
		words: map[source]word{}, trials: map[keys.ProjectID]trial{}, gates: map[keys.ProjectID]*gate{},
	}
	s.born = s.clock()
	return s
}

// Interval is the distance of validation runs in quiet times.
func (s *Service) Interval() time.Duration { return s.policy.Interval }

// Endpoints are the overrides of the key service's addresses in a Region (as AWS
// writes it), for hosts.
func (s *Service) Endpoints(region string) (kmsEndpoint, stsEndpoint string, fips bool) {
	return s.cfg.KMSEndpoints.For(region), s.cfg.STSEndpoints.For(region), s.cfg.FIPS
}

// View is a project's key management as people see it.
type View struct {
	store.KeyConfig
	// Valid tells that the newest run of the control plane could use the key. It is
	// false while key management is off.
	Valid bool
	// Verdict is the project's verdict, from which follows what runs; zero while
	// key management is off.
	Verdict store.Verdict
	// Validators are the custody states that the verdict comes from.
	Validators []Validator
	// Requested is what was asked for last: the candidate of a change that is being
	// prepared, else the configuration in force, which KeyConfig is.
	Requested store.KeyConfig
	// Change is the newest change that needed preparation; nil if there never was one.
	Change *store.KeyChange
	// Retained is the change whose configuration before can be rolled back to.
	Retained *store.KeyChange
	// Hosts keep keys of the project.
	Hosts []HostProgress
	// Advice has the exact statement that is missing, when a permission was refused;
	// the verdict's Remedy is its sentence then.
	Advice policydoc.Advice
}

// Deadline is when the first validator's GRACE ends; zero if none is in GRACE.
func (v View) Deadline() (out time.Time) {
	if custody.Verdict(v.Verdict.Kind) != custody.Grace {
		return out
	}
	for _, x := range v.Validators {
		if d := x.State.DeadlineWall; !d.IsZero() && (out.IsZero() || d.Before(out)) {
			out = d
		}
	}
	return out
}

// Validator is one source of verdicts.
type Validator struct {
	// Host is a host's id, or "" for the control plane.
	Host     string
	State    custody.State
	Reported time.Time
	// Silent tells that the host has not reported lately.
	Silent bool
	// Validate is the newest asked-for run that has finished.
	Validate uint64
}

// Get gives a project's key management and validates it: the run of another caller
// counts too if it is younger than min(5 s, interval) or still under way.
// GROUP_NOT_FOUND.
func (s *Service) Get(ctx context.Context, p tenant.Principal, project keys.ProjectID) (View, error) {
	for {
		v, err := s.Peek(ctx, p, project)
		if err != nil || !v.Enabled {
			return v, err
		}
		r, fresh := s.prober(project).recent(ctx, v.Generation, min(5*time.Second, s.policy.Interval))
		if fresh {
			if err := s.react(ctx, project, v, r); err != nil {
				return View{}, err
			}
		}
		after, err := s.Peek(ctx, p, project)
		if err == nil && after.Generation != v.Generation && ctx.Err() == nil {
			continue // the run was about a configuration that has moved on
		}
		after.Valid = after.Enabled && r.Outcome == kms.OK
		return after, err
	}
}

// Peek gives a project's key management as it is recorded, without a run. Valid is
// what the verdict says. GROUP_NOT_FOUND.
func (s *Service) Peek(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out View, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		out, err = s.view(tx, project)
		return err
	})
	return out, err
}

func (s *Service) view(tx *store.Tx, project keys.ProjectID) (View, error) {
	c, err := tx.KeyConfig(project)
	out := View{KeyConfig: c, Requested: c}
	if err != nil || !c.Enabled {
		return out, err
	}
	if err := s.viewChanges(tx, &out); err != nil {
		return out, err
	}
	out.Verdict, out.Validators, err = s.combine(tx, c)
	if err != nil {
		return out, err
	}
	out.Valid = out.Verdict.Kind == string(custody.Valid)
	if out.Advice, err = advise(tx, c, out.Verdict, out.Validators); out.Advice.Sentence != "" {
		out.Verdict.Remedy = out.Advice.Sentence
	}
	return out, err
}

// react starts runs of everybody when a run that was made for a reader contradicts
// the verdict: it came sooner than the next scheduled one.
func (s *Service) react(ctx context.Context, project keys.ProjectID, v View, r kms.Result) error {
	kind := custody.Verdict(v.Verdict.Kind)
	if (r.Outcome == kms.OK && kind.Bad()) || (r.Outcome == kms.Revoked && kind.Releases()) {
		_, err := s.ask(ctx, project)
		return err
	}
	return nil
}

// TryAgain makes every validator of the project run now and waits for them, at most
// as long as a run may take. GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// ENCRYPTION_AT_REST_NOT_ENABLED.
func (s *Service) TryAgain(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out View, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*kms.RunTimeout)
	defer cancel()
	started := time.Now()
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupClusterManager, project)
		if err != nil {
			return err
		}
		if out, err = s.view(tx, project); err != nil {
			return err
		}
		if !out.Enabled {
			return NotEnabled(project)
		}
		if err := raise(tx, project); err != nil {
			return err
		}
		return tx.Append(tenant.Event(p, "ENCRYPTION_AT_REST_VALIDATION_REQUESTED", pr, "A validation of the customer key was asked for."))
	})
	if err != nil {
		return View{}, err
	}
	before := out.Validate
	for {
		changed := s.st.Changed()
		if out, err = s.Peek(ctx, p, project); err != nil || !out.Enabled {
			break
		}
		if out.Validate > before && out.settled(started) {
			break
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		break
	}
	if ctx.Err() != nil { // the time for waiting is over, the answer is what is known
		return s.Peek(context.WithoutCancel(ctx), p, project)
	}
	return out, err
}

// settled tells whether every validator that can be heard has finished the runs that
// were asked for at the given time.
func (v View) settled(since time.Time) bool {
	for _, x := range v.Validators {
		if x.Host == "" && x.State.LastRun.Before(since) {
			return false
		}
		if x.Host != "" && !x.Silent && x.Validate < v.Validate {
			return false
		}
	}
	return true
}

// NotEnabled is the refusal of what needs the project's key management.
func NotEnabled(project keys.ProjectID) error {
	return apierr.BadRequest("ENCRYPTION_AT_REST_NOT_ENABLED",
		"Encryption at rest with AWS KMS is not enabled for group %s. Enable it for the project first: PATCH /groups/%s/encryptionAtRest.", project, project).With(string(project))
}

// target is how a configuration is reached.
func (s *Service) target(c store.KeyConfig, r store.AccessRole, access kms.AccessKey, key string) kms.Target {
	t := kms.Target{RoleARN: r.ARN, ExternalID: r.ExternalID, AccessKey: access, KeyID: key, Region: AWSRegion(c.Region)}
	t.KMSEndpoint, t.STSEndpoint, t.FIPS = s.Endpoints(t.Region)
	return t
}

// changeLock serializes the changes of one project's configuration.
func (s *Service) changeLock(project keys.ProjectID) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.changes[project]
	if m == nil {
		m = &sync.Mutex{}
		s.changes[project] = m
	}
	return m
}

// AWSRegion turns Atlas's name of a region (US_EAST_1) into AWS's (us-east-1).
func AWSRegion(atlas string) string {
	return strings.ToLower(strings.ReplaceAll(atlas, "_", "-"))
}
