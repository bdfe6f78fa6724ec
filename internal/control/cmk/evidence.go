package cmk

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// crowdAccounts is the number of customer accounts from which on many refusals at once
// are taken for the platform's own trouble (rule 10).
const crowdAccounts = 3

// word is what a host said last, in this process, and when (boot-time clock).
type word struct {
	state custody.State
	at    time.Duration
}

// source names a validator of a project.
type source struct {
	project keys.ProjectID
	host    keys.HostID
}

func (s *Service) clock() time.Duration {
	if s.cfg.Clock != nil {
		return s.cfg.Clock().Since
	}
	return custody.SystemClock().Since
}

// heard notes what a host says.
func (s *Service) heard(project keys.ProjectID, host keys.HostID, st custody.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words[source{project, host}] = word{state: st, at: s.clock()}
}

// unhear forgets what hosts said about a project that has no customer key any more.
func (s *Service) unhear(project keys.ProjectID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.words, func(x source, _ word) bool { return x.project == project })
}

// Evidence is what all validators of a project but one host say now; hosts are told it
// with their desired state. Only what was said to this process counts: of older words
// the age is not known. A host that may still be about to say something after a
// restart of this process is listed without a run.
func (s *Service) Evidence(tx *store.Tx, c store.KeyConfig, except keys.HostID) ([]custody.Evidence, error) {
	nodes, err := tx.NodesOfProject(c.Project)
	if err != nil {
		return nil, err
	}
	var hosts []keys.HostID
	for _, n := range nodes {
		if !n.Buried && n.Host != except {
			hosts = append(hosts, n.Host)
		}
	}
	slices.Sort(hosts)
	var out []custody.Evidence
	if r := s.runner(c.Project); r != nil {
		e := r.loop.Report().Evidence("", true, 0)
		e.Crowd = s.crowd.Load()
		out = append(out, e)
	}
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range slices.Compact(hosts) {
		w, ok := s.words[source{c.Project, h}]
		switch {
		case ok:
			out = append(out, w.state.Evidence(string(h), now-w.at <= s.cfg.Silent, now-w.at))
		case now-s.born <= s.cfg.Silent:
			out = append(out, custody.Evidence{Validator: string(h), Linked: true, Generation: c.Generation, Verdict: custody.Unknown})
		}
	}
	return out, nil
}

// Told is the part of the evidence whose change is news: each single run while
// somebody's word is being weighed, and what the runs say otherwise.
func (s *Service) Told(all []custody.Evidence) []custody.Evidence {
	urgent := slices.ContainsFunc(all, custody.Evidence.Urgent)
	out := make([]custody.Evidence, 0, len(all))
	for _, e := range all {
		if urgent {
			out = append(out, e.Settled())
		} else {
			out = append(out, e.Still())
		}
	}
	return out
}

// inform tells a project's loop what the hosts say, if that is news to it, and has all
// run again while one of them is held (rules 8a, 12: repeated until each has).
func (s *Service) inform(ctx context.Context, r *runner, w wish) error {
	told := s.Told(w.evidence)
	if crowd := s.crowd.Load(); r.crowd != crowd || !reflect.DeepEqual(told, r.told) {
		r.told, r.crowd = told, crowd
		hosts := slices.DeleteFunc(slices.Clone(w.evidence), func(e custody.Evidence) bool { return e.Validator == "" })
		r.loop.SetEvidence(hosts, crowd)
	}
	weighed, others := false, false
	for _, e := range w.evidence {
		weighed = weighed || e.Verdict == custody.Suspect && e.Reason.Local() && e.Generation == w.config.Generation
		others = others || e.Validator != "" && e.Linked && e.Verdict != custody.Suspect
	}
	now := s.clock()
	if !weighed || !others || now-r.repeated < s.Policy(w.config).C() {
		return nil
	}
	r.repeated = now
	_, err := s.ask(ctx, w.config.Project)
	return err
}

// lookAround finds out whether the roles of many customers are refused at the same
// time at the control plane (rule 10).
func (s *Service) lookAround(ctx context.Context, wishes map[keys.ProjectID]wish) error {
	var refused []keys.ProjectID
	for project := range wishes {
		r := s.runner(project)
		if r == nil {
			continue
		}
		if st := r.loop.State(); st.Verdict == custody.Suspect && st.Reason == kms.RoleNotAssumable {
			refused = append(refused, project)
		}
	}
	crowd := false
	if len(refused) >= crowdAccounts {
		all, bad := map[string]bool{}, map[string]bool{}
		err := s.st.View(ctx, func(tx *store.Tx) error {
			for project, w := range wishes {
				role, err := tx.Role(project, w.config.Role)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				arn, err := keys.ParseARN(role.ARN)
				if err != nil {
					continue
				}
				all[arn.Account] = true
				if slices.Contains(refused, project) {
					bad[arn.Account] = true
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		crowd = len(bad) >= crowdAccounts && 2*len(bad) > len(all)
	}
	if s.crowd.Swap(crowd) != crowd && crowd {
		s.log.ErrorContext(ctx, "the roles of many customers cannot be assumed at the same time: check the platform's own AWS identity", "projects", len(refused))
	}
	return nil
}
