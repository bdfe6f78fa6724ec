package network

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// gather is how long changes of the store are gathered before they are looked at, and
// look is how often the control plane's own addresses are looked at.
const (
	gather = 500 * time.Millisecond
	look   = 10 * time.Second
)

// Run keeps the addresses and tells of their changes, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	t := time.NewTicker(look)
	defer t.Stop()
	var looked time.Time
	for {
		announced := s.st.Changed()
		var own []string
		if looked.IsZero() || time.Since(looked) >= look {
			own, looked = s.cfg.Addresses(ctx), time.Now()
		}
		if err := errors.Join(s.note(ctx, own), s.tell(ctx)); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "addresses were not brought up to date", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-announced:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
		case <-t.C:
		}
	}
}

// note writes down from where machines call AWS, where that changed. own are the control
// plane's addresses; none means that they were not looked at, or are not known.
func (s *Service) note(ctx context.Context, own []string) error {
	find := func(tx *store.Tx) ([]store.Egress, error) {
		hosts, err := tx.Hosts()
		if err != nil {
			return nil, err
		}
		now := []store.Egress{{Hostname: s.cfg.Hostname, Addresses: own}}
		for _, h := range hosts {
			now = append(now, store.Egress{Holder: h.ID, Hostname: h.Hostname, Addresses: h.Egress})
		}
		before, err := periods(tx)
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(now, func(e store.Egress) bool {
			all := before[e.Holder]
			return len(e.Addresses) == 0 || len(all) > 0 && slices.Equal(all[len(all)-1].Addresses, e.Addresses)
		}), nil
	}
	var news []store.Egress
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		news, err = find(tx)
		return err
	})
	if err != nil || len(news) == 0 {
		return err
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		news, err := find(tx)
		if err != nil {
			return err
		}
		for _, e := range news {
			e.Since = tx.Now()
			if err := tx.PutEgress(e); err != nil {
				return err
			}
			s.log.InfoContext(ctx, "addresses from which AWS is called", "host", nameOf(e.Holder, e.Hostname), "addresses", e.Addresses)
		}
		return nil
	})
}

// tell brings every project up to date.
func (s *Service) tell(ctx context.Context) error {
	var due []keys.ProjectID
	err := s.st.View(ctx, func(tx *store.Tx) error {
		configs, err := tx.EnabledKeyConfigs()
		if err != nil {
			return err
		}
		told, err := tx.ProjectNetworks()
		if err != nil {
			return err
		}
		on := map[keys.ProjectID]bool{}
		for _, c := range configs {
			on[c.Project] = true
			n, err := tx.ProjectNetwork(c.Project)
			if err != nil {
				return err
			}
			next, _, err := s.step(tx, c, n)
			if err != nil {
				return err
			}
			if differs(n, next) {
				due = append(due, c.Project)
			}
		}
		for _, n := range told {
			if !on[n.Project] {
				due = append(due, n.Project)
			}
		}
		return nil
	})
	errs := []error{err}
	for _, p := range due {
		errs = append(errs, s.st.Tx(ctx, func(tx *store.Tx) error { return s.tellProject(tx, p) }))
	}
	return errors.Join(errs...)
}

// differs compares, an empty map being like none but for Sources, where none means that
// nothing was told yet.
func differs(a, b store.ProjectNetwork) bool {
	return (a.Sources == nil) != (b.Sources == nil) || len(a.Sources) != len(b.Sources) || len(a.Changes) != len(b.Changes) || len(a.Denied) != len(b.Denied) ||
		len(a.Sources) > 0 && !reflect.DeepEqual(a.Sources, b.Sources) || len(a.Changes) > 0 && !reflect.DeepEqual(a.Changes, b.Changes) ||
		len(a.Denied) > 0 && !reflect.DeepEqual(a.Denied, b.Denied)
}

func (s *Service) step(tx *store.Tx, c store.KeyConfig, told store.ProjectNetwork) (store.ProjectNetwork, []happening, error) {
	nodes, err := tx.NodesOfProject(c.Project)
	if err != nil {
		return told, nil, err
	}
	o := observed{now: tx.Now(), validate: c.Validate + 1, sources: map[keys.HostID]store.Source{}}
	if o.validators, err = validatorsOf(tx, c); err != nil {
		return told, nil, err
	}
	for _, h := range holders(nodes) {
		x := store.Source{Hostname: s.cfg.Hostname}
		all, err := tx.EgressOf(h)
		if err != nil {
			return told, nil, err
		}
		if h != "" {
			host, err := tx.Host(h)
			if err != nil {
				return told, nil, err
			}
			x.Hostname = host.Hostname
		}
		if len(all) > 0 {
			x.Addresses = all[len(all)-1].Addresses
		}
		o.sources[h] = x
	}
	next, happened := advance(told, o)
	return next, happened, nil
}

// tellProject records one project's happenings with what was told. After a change all
// validators run, so that it is known whether the policies have it already.
func (s *Service) tellProject(tx *store.Tx, project keys.ProjectID) error {
	c, err := tx.KeyConfig(project)
	if err != nil {
		return err
	}
	if !c.Enabled {
		return s.forget(tx, project)
	}
	told, err := tx.ProjectNetwork(project)
	if err != nil {
		return err
	}
	next, happened, err := s.step(tx, c, told)
	if err != nil || !differs(told, next) {
		return err
	}
	if err := tx.PutProjectNetwork(next); err != nil {
		return err
	}
	if err := alert(tx, told, next); err != nil || len(happened) == 0 {
		return err
	}
	pr, err := tx.Project(project)
	if err != nil {
		return err
	}
	v, err := s.view(tx, project)
	if err != nil {
		return err
	}
	ask := false
	for _, h := range happened {
		ask = ask || h.kind == changed
		if err := tx.Append(event(pr, h, v)); err != nil {
			return err
		}
	}
	if ask {
		return s.cfg.Ask(tx, project)
	}
	return nil
}

// forget drops what was told of a project whose key management is off.
func (s *Service) forget(tx *store.Tx, project keys.ProjectID) error {
	told, err := tx.ProjectNetwork(project)
	if err != nil {
		return err
	}
	if err := alert(tx, told, store.ProjectNetwork{Project: project}); err != nil {
		return err
	}
	return tx.DeleteProjectNetwork(project)
}

// findingChanged is the kind of the alert for a change that waits.
const findingChanged = "KMS_CALLER_ADDRESSES_CHANGED"

// alert raises what waits now and clears what does not wait any more.
func alert(tx *store.Tx, told, next store.ProjectNetwork) error {
	target := func(h keys.HostID) string {
		if h == "" {
			return "control plane"
		}
		return string(h)
	}
	waits := map[keys.HostID]bool{}
	for _, c := range next.Changes {
		if !c.Confirmed.IsZero() {
			continue
		}
		waits[c.Holder] = true
		if err := tx.Raise(store.Finding{
			Project: next.Project, Kind: findingChanged, Target: target(c.Holder), Summary: whatChanged(c), Since: c.Changed, Host: c.Holder, Hostname: c.Hostname,
			Remedy: "If the policies of the role or the key are restricted to addresses, allow " + list(c.New) +
				" there: GET networkAccess has the statement with all addresses. Otherwise acknowledge the change.",
		}); err != nil {
			return err
		}
	}
	for _, c := range told.Changes {
		if c.Confirmed.IsZero() && !waits[c.Holder] {
			if err := tx.Clear(next.Project, findingChanged, target(c.Holder)); err != nil {
				return err
			}
		}
	}
	return nil
}

// whatChanged is one sentence about a change.
func whatChanged(c store.AddressChange) string {
	who := nameOf(c.Holder, c.Hostname)
	if len(c.Old) == 0 {
		return who + " uses the project's key now and calls AWS from " + list(c.New) + "."
	}
	return who + " calls AWS from " + list(c.New) + " now, not from " + list(c.Old) + " any more."
}

// event tells of a happening, with the statement as it is now.
func event(pr store.Project, h happening, v View) audit.Event {
	who := nameOf(h.holder, h.change.Hostname)
	e := tenant.Event(tenant.System(), "", pr, "")
	e.Host = string(h.holder)
	e.Data["hostname"] = h.change.Hostname
	set := func(name string, value string) {
		if value != "" {
			e.Data[name] = value
		}
	}
	set("oldAddresses", strings.Join(h.change.Old, ","))
	set("newAddresses", strings.Join(h.change.New, ","))
	set("statement", string(v.Statements.RolePolicy))
	set("reason", string(h.reason))
	set("keyArn", v.KeyARN)
	switch h.kind {
	case changed:
		e.Type = "KMS_ADDRESSES_CHANGED"
		e.Data["alarm"] = "true"
		e.Message = whatChanged(h.change) + " If the policies of the role or the key are restricted to addresses, they must allow " + list(v.Addresses) + "."
	case left:
		e.Type = "KMS_ADDRESSES_CHANGED"
		e.Message = fmt.Sprintf("%s does not use the project's key any more: for its sake the policies need not allow %s.", who, list(h.change.Old))
	case confirmed:
		e.Type = "KMS_ADDRESSES_CONFIRMED"
		e.Message = fmt.Sprintf("%s can use the key from %s.", who, list(h.change.New))
	case denied:
		e.Type = "HOST_KMS_NETWORK_ACCESS_DENIED"
		e.Data["alarm"] = "true"
		e.Message = fmt.Sprintf("AWS refuses %s although others can use the key (%s): allow its address %s. Its running nodes go on, new ones wait and start by themselves.", who, h.reason, list(h.change.New))
	case restored:
		e.Type = "HOST_KMS_NETWORK_ACCESS_RESTORED"
		e.Message = fmt.Sprintf("%s can use the key again from %s; nodes that waited start.", who, list(h.change.New))
	}
	return e
}

// nameOf names a machine in a sentence.
func nameOf(holder keys.HostID, hostname string) string {
	if holder == "" {
		return "The control plane"
	}
	return "Host " + hostname
}

// list joins addresses for a sentence.
func list(addresses []string) string {
	if len(addresses) == 0 {
		return "an address that is not known (name it with --egress-address)"
	}
	return strings.Join(addresses, ", ")
}
