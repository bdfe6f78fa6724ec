package cmk

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// controlPlane is how events call the control plane as a validator.
const controlPlane = "control plane"

// severity orders verdicts: the worst one of a project's hosts is the project's.
func severity(v custody.Verdict) int {
	switch v {
	case custody.Valid:
		return 0
	case custody.Unreachable:
		return 1
	case custody.Unknown:
		return 2
	case custody.Suspect:
		return 3
	case custody.NAD:
		return 4
	case custody.Alert:
		return 5
	case custody.Grace:
		return 6
	default:
		return 7
	}
}

// combine derives a project's verdict from its validators: the worst of the hosts
// that can be heard and have run in this generation, else the control plane's own,
// else what was recorded last.
func (s *Service) combine(tx *store.Tx, c store.KeyConfig) (store.Verdict, []Validator, error) {
	recorded, err := tx.Verdict(c.Project)
	if errors.Is(err, store.ErrNotFound) {
		recorded = store.Verdict{Project: c.Project, Kind: string(custody.Unknown), Since: c.Updated, NoticedBy: controlPlane}
	} else if err != nil {
		return recorded, nil, err
	}
	validators, err := s.validators(tx, c)
	if err != nil {
		return recorded, nil, err
	}
	best := -1
	for i, v := range validators {
		if v.Host == "" || v.Silent || v.State.Generation != c.Generation || v.State.Verdict == custody.Unknown {
			continue
		}
		if best < 0 || severity(v.State.Verdict) > severity(validators[best].State.Verdict) {
			best = i
		}
	}
	if best < 0 {
		for i, v := range validators {
			if v.Host == "" && v.State.Generation == c.Generation && v.State.Verdict != custody.Unknown {
				best = i
			}
		}
	}
	if best < 0 {
		return recorded, validators, nil
	}
	v := validators[best]
	out := store.Verdict{
		Project: c.Project, Kind: string(v.State.Verdict), Reason: string(v.State.Reason), Remedy: v.State.Remedy,
		Detail: v.State.Detail, NoticedBy: controlPlane, Since: v.State.Since,
	}
	if v.Host != "" {
		out.NoticedBy = "host " + v.Host
	}
	if len(v.State.Refused) > 0 {
		// Events and lists say it briefly; whoever reads the project's state gets the
		// exact statement (advise).
		out.Remedy = policydoc.Access{}.Remedy(v.State.Refused).Short + " The project's encryptionAtRest has the exact statement."
	}
	if out.Kind == recorded.Kind && out.Reason == recorded.Reason {
		out.Since, out.NoticedBy = recorded.Since, recorded.NoticedBy
	}
	return out, validators, nil
}

// validators lists the custody states of those who have nodes of the project, and of
// the control plane.
func (s *Service) validators(tx *store.Tx, c store.KeyConfig) ([]Validator, error) {
	reports, err := tx.Custody(c.Project)
	if err != nil {
		return nil, err
	}
	nodes, err := tx.NodesOfProject(c.Project)
	if err != nil {
		return nil, err
	}
	hosts := map[string]bool{}
	for _, n := range nodes {
		if !n.Buried {
			hosts[string(n.Host)] = true
		}
	}
	var out []Validator
	for _, r := range reports {
		if r.Validator != "" && !hosts[r.Validator] {
			continue
		}
		v := Validator{Host: r.Validator, Reported: r.Reported, Validate: r.Validate}
		if err := json.Unmarshal(r.State, &v.State); err != nil {
			return nil, fmt.Errorf("read custody state of %q: %w", r.Validator, err)
		}
		v.Silent = r.Validator != "" && tx.Now().Sub(r.Reported) > s.cfg.Silent
		delete(hosts, r.Validator)
		out = append(out, v)
	}
	for h := range hosts { // has nodes, never reported
		out = append(out, Validator{Host: h, Silent: true, State: custody.State{Verdict: custody.Unknown}})
	}
	return out, nil
}

// Report takes in what a host says about the keys of its projects, in the
// transaction of its status message. It records changes of verdicts as events, and
// makes all validators run when one has left VALID or come back (rule 12).
func (s *Service) Report(tx *store.Tx, host keys.HostID, states []agentlink.CustodyStatus) error {
	own, err := projectsOf(tx, host)
	if err != nil {
		return err
	}
	for _, st := range states {
		if !own[st.Project] {
			continue // not a validator: it has no nodes there (any more)
		}
		c, err := tx.KeyConfig(st.Project)
		if err != nil {
			return err
		}
		if !c.Enabled {
			continue
		}
		st.State.Detail, st.State.Remedy, st.State.Alarm = clip(st.State.Detail), clip(st.State.Remedy), clip(st.State.Alarm)
		st.State.Refused = st.State.Refused[:min(len(st.State.Refused), maxRefused)]
		s.heard(c.Project, host, st.State)
		old, err := tx.CustodyOf(c.Project, string(host))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		var before custody.State
		if err == nil {
			if err := json.Unmarshal(old.State, &before); err != nil {
				return fmt.Errorf("read custody state: %w", err)
			}
		}
		b, err := json.Marshal(st.State)
		if err != nil {
			return fmt.Errorf("encode custody state: %w", err)
		}
		if err := tx.PutCustody(store.CustodyReport{
			Project: c.Project, Validator: string(host), Generation: st.State.Generation, Validate: st.Validate, State: b, Reported: tx.Now(),
		}); err != nil {
			return err
		}
		if err := progress(tx, c.Project, host, st.Wraps); err != nil {
			return err
		}
		if err := s.record(tx, c); err != nil {
			return err
		}
		if err := followDrills(tx, c.Project, host, st.State.Drills); err != nil {
			return err
		}
		if st.State.Alarm != before.Alarm && st.State.Alarm != "" {
			if err := alarm(tx, c, host, st.State); err != nil {
				return err
			}
		}
		if flipped(before.Verdict, st.State.Verdict) {
			if err := raise(tx, c.Project); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxRefused is how many permissions there are to be refused.
const maxRefused = 4

// advise is the exact remedy for what the validators found refused, by the word of one
// that shares the project's verdict.
func advise(tx *store.Tx, c store.KeyConfig, v store.Verdict, all []Validator) (policydoc.Advice, error) {
	i := slices.IndexFunc(all, func(x Validator) bool {
		return string(x.State.Verdict) == v.Kind && string(x.State.Reason) == v.Reason && x.State.Generation == c.Generation && len(x.State.Refused) > 0
	})
	if i < 0 || c.AccessKeyID != "" { // whose user an access key is only AWS knows
		return policydoc.Advice{}, nil
	}
	role, err := tx.Role(c.Project, c.Role)
	if err != nil {
		return policydoc.Advice{}, err
	}
	return accessOf(c, role).Remedy(all[i].State.Refused), nil
}

// projectsOf gives the projects that have nodes on a host.
func projectsOf(tx *store.Tx, host keys.HostID) (map[keys.ProjectID]bool, error) {
	nodes, err := tx.NodesOfHost(host)
	if err != nil {
		return nil, err
	}
	out := map[keys.ProjectID]bool{}
	for _, n := range nodes {
		if !n.Buried {
			out[n.Project] = true
		}
	}
	return out, nil
}

// clip bounds what a host may write into events.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 2000)], "") }

// alarm records a condition that needs a person.
func alarm(tx *store.Tx, c store.KeyConfig, host keys.HostID, st custody.State) error {
	pr, err := tx.Project(c.Project)
	if err != nil {
		return err
	}
	e := audit.Event{
		Type: "ENCRYPTION_AT_REST_VALIDATION_ALARM", Actor: "system", Org: string(pr.Org), Project: string(pr.ID), Host: string(host), Message: st.Alarm,
		Data: map[string]string{"alarm": "true", "verdict": string(st.Verdict), "noticedBy": controlPlane, "keyArn": c.KeyARN},
	}
	if host != "" {
		e.Data["noticedBy"] = "host " + string(host)
	}
	if st.Reason != "" {
		e.Data["reason"], e.Data["remedy"] = string(st.Reason), st.Remedy
	}
	return tx.Append(e)
}

// flipped tells whether a validator left the good verdicts or came back to VALID.
func flipped(from, to custody.Verdict) bool {
	return (from.Releases() && to.Bad()) || (from != "" && from.Bad() && to == custody.Valid)
}

// Ask makes every validator of a project run soon, in a transaction; nothing happens
// while the project has no customer key.
func Ask(tx *store.Tx, project keys.ProjectID) error { return raise(tx, project) }

// raise asks every validator for a run.
func raise(tx *store.Tx, project keys.ProjectID) error {
	c, err := tx.KeyConfig(project)
	if err != nil || !c.Enabled {
		return err
	}
	c.Validate++
	return tx.PutKeyConfig(c)
}

// record writes the verdict down if it changed, with the events that tell so.
func (s *Service) record(tx *store.Tx, c store.KeyConfig) error {
	old, err := tx.Verdict(c.Project)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	now, validators, err := s.combine(tx, c)
	if err != nil || (now.Kind == old.Kind && now.Reason == old.Reason) {
		return err
	}
	if err := tx.PutVerdict(now); err != nil {
		return err
	}
	pr, err := tx.Project(c.Project)
	if err != nil {
		return err
	}
	text := verdictText(now, c)
	if custody.Verdict(now.Kind) == custody.NAD {
		where, err := deniedFrom(tx, validators)
		if err != nil {
			return err
		}
		text += where
	}
	for _, kind := range eventKinds(custody.Verdict(old.Kind), custody.Verdict(now.Kind)) {
		e := audit.Event{
			Type: kind, Actor: "system", Org: string(pr.Org), Project: string(pr.ID), Message: text,
			Data: map[string]string{
				"verdict": now.Kind, "previousVerdict": old.Kind, "noticedBy": now.NoticedBy, "keyArn": c.KeyARN,
				"generation": fmt.Sprint(c.Generation),
			},
		}
		if now.Reason != "" {
			e.Data["reason"], e.Data["remedy"] = now.Reason, now.Remedy
		}
		if now.Detail != "" {
			e.Data["detail"] = now.Detail
		}
		if err := tx.Append(e); err != nil {
			return err
		}
	}
	return nil
}

// deniedFrom names the hosts that AWS refuses alone, and from where they call.
func deniedFrom(tx *store.Tx, validators []Validator) (string, error) {
	var who []string
	for _, v := range validators {
		if v.Host == "" || v.State.Verdict != custody.NAD {
			continue
		}
		h, err := tx.Host(keys.HostID(v.Host))
		if err != nil {
			return "", err
		}
		from := "an address that it does not know"
		if len(h.Egress) > 0 {
			from = strings.Join(h.Egress, ", ")
		}
		who = append(who, "host "+h.Hostname+" calls from "+from)
	}
	if len(who) == 0 {
		return "", nil
	}
	return " Refused: " + list(who) + ".", nil
}

func eventKinds(from, to custody.Verdict) []string {
	switch to {
	case custody.Invalid, custody.Grace, custody.Alert:
		if from == to {
			return []string{"ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID"}
		}
		return []string{"AWS_ENCRYPTION_KEY_INVALID", "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID"}
	case custody.Suspect:
		return []string{"ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED"}
	case custody.Unreachable, custody.NAD:
		return []string{"ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED"}
	case custody.Valid:
		switch from {
		case custody.Invalid, custody.Grace, custody.Alert:
			return []string{"AWS_ENCRYPTION_KEY_VALID", "ENCRYPTION_AT_REST_CONFIG_IS_VALID"}
		case custody.Unreachable, custody.NAD:
			return []string{"ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_RESTORED"}
		}
		return []string{"ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_SUCCEEDED"}
	}
	return []string{"ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_UNKNOWN"}
}

func verdictText(v store.Verdict, c store.KeyConfig) string {
	remedy := v.Remedy
	if remedy == "" && v.Reason != "" {
		remedy = kms.RemedyFor(kms.Reason(v.Reason), "")
	}
	switch custody.Verdict(v.Kind) {
	case custody.Valid:
		return fmt.Sprintf("The key %s can be used.", c.KeyARN)
	case custody.Invalid:
		return fmt.Sprintf("The key %s was taken away (%s): all processes of the project's encrypted clusters are stopped. %s", c.KeyARN, v.Reason, remedy)
	case custody.Suspect:
		return fmt.Sprintf("AWS refuses the use of the key %s (%s). That is being confirmed; nothing is stopped yet. %s", c.KeyARN, v.Reason, remedy)
	case custody.Unreachable:
		return fmt.Sprintf("It cannot be told whether the key %s can be used (%s). Running clusters go on; nodes that restart wait. %s", c.KeyARN, v.Reason, remedy)
	}
	switch custody.Verdict(v.Kind) {
	case custody.NAD:
		return fmt.Sprintf("AWS refuses the key %s to one host only (%s), others can use it: allow the host's addresses. Its running nodes go on, new ones wait. %s", c.KeyARN, v.Reason, remedy)
	case custody.Grace:
		return fmt.Sprintf("The key %s was taken away (%s): all processes of the project's encrypted clusters stop when the grace period of %s is over; none starts until then. %s", c.KeyARN, v.Reason, c.Grace, remedy)
	case custody.Alert:
		return fmt.Sprintf("The key %s was taken away (%s). By the project's policy nothing is stopped, but no node starts. %s", c.KeyARN, v.Reason, remedy)
	}
	return fmt.Sprintf("The verdict on the key %s is %s. %s", c.KeyARN, v.Kind, remedy)
}
