package alert

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// Wish is a configuration as somebody wants it.
type Wish struct {
	Kind string
	// Enabled nil means false, as Atlas has it.
	Enabled       *bool
	Threshold     *store.AlertThreshold
	Matchers      []store.AlertMatcher
	Notifications []NotificationWish
	Severity      string
}

// NotificationWish is a way of telling as somebody wants it.
type NotificationWish struct {
	// ID names a notification of the configuration that is replaced, whose webhook is
	// kept where the wish does not name another.
	ID    string
	Type  string
	Delay int
	// Interval nil means an hour.
	Interval *int
	Address  string
	Roles    []string
	// Email nil means true.
	Email *bool
	SMS   bool
	// URL and Secret are of a webhook. An empty secret sends unsigned messages.
	URL, Secret secret.Bytes
}

// The bounds of configurations.
const (
	maxConfigs       = 200
	maxNotifications = 25
	maxMatchers      = 20
	maxLimit         = 10_000
	minInterval      = 5
	maxMinutes       = 30 * 24 * 60
	maxSecret        = 255
	maxRoles         = 20
)

var roleName = regexp.MustCompile(`^(GROUP|ORG)_[A-Z_]{3,60}$`)

func invalid(field, format string, args ...any) *apierr.Error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %s", field, fmt.Sprintf(format, args...)).With(field)
}

func noSuchValue(field, value string, possible ...string) *apierr.Error {
	return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified for %s; possible are %s.", clip(value)[:min(len(clip(value)), 80)], field, strings.Join(possible, ", ")).With(field)
}

func kinds() []string {
	var out []string
	for _, c := range Conditions() {
		out = append(out, c.Kind)
	}
	return out
}

// hookWish is a webhook to seal, or to keep as it is.
type hookWish struct {
	notifier    string
	url, secret secret.Bytes
	keep        bool
}

// check makes the configuration that a wish describes. old is what it replaces, zero for
// a new one.
func (s *Service) check(w Wish, old store.AlertConfig) (store.AlertConfig, []hookWish, error) {
	c := old
	if w.Kind == "" {
		return c, nil, apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute eventTypeName was not specified.").With("eventTypeName")
	}
	cond, ok := conditionOf(w.Kind)
	if !ok {
		return c, nil, noSuchValue("eventTypeName", w.Kind, kinds()...)
	}
	c.Kind, c.Enabled, c.Severity = w.Kind, w.Enabled != nil && *w.Enabled, w.Severity
	if severities := []string{"INFO", "WARNING", "ERROR", "CRITICAL"}; w.Severity != "" && !slices.Contains(severities, w.Severity) {
		return c, nil, noSuchValue("severityOverride", w.Severity, severities...)
	}
	var err error
	if c.Threshold, err = checkThreshold(cond, w.Threshold); err != nil {
		return c, nil, err
	}
	if c.Matchers, err = checkMatchers(cond, w.Matchers); err != nil {
		return c, nil, err
	}
	if n := len(w.Notifications); n < 1 || n > maxNotifications {
		return c, nil, invalid("notifications", "1 to %d are possible, not %d.", maxNotifications, n)
	}
	c.Notifications = nil
	var hooks []hookWish
	for i, n := range w.Notifications {
		next, hook, err := s.checkNotification(fmt.Sprintf("notifications[%d].", i), n, old, c.Notifications)
		if err != nil {
			return c, nil, err
		}
		c.Notifications = append(c.Notifications, next)
		if hook != nil {
			hooks = append(hooks, *hook)
		}
	}
	return c, hooks, nil
}

func checkThreshold(cond Condition, t *store.AlertThreshold) (*store.AlertThreshold, error) {
	if cond.Limit == nil {
		if t != nil {
			return nil, invalid("threshold", "%s has no threshold.", cond.Kind)
		}
		return nil, nil //nolint:nilnil // a condition without a threshold
	}
	out := *cond.Limit
	if t == nil {
		return &out, nil
	}
	if t.Operator != "" && t.Operator != out.Operator {
		return nil, noSuchValue("threshold.operator", t.Operator, out.Operator)
	}
	if t.Units != "" && t.Units != out.Units {
		return nil, noSuchValue("threshold.units", t.Units, out.Units)
	}
	if t.Value < 1 || t.Value > maxLimit {
		return nil, invalid("threshold.threshold", "a whole number from 1 to %d is expected, in %s.", maxLimit, out.Units)
	}
	out.Value = t.Value
	return &out, nil
}

func checkMatchers(cond Condition, ms []store.AlertMatcher) ([]store.AlertMatcher, error) {
	if len(ms) > maxMatchers {
		return nil, invalid("matchers", "at most %d are possible.", maxMatchers)
	}
	operators := []string{"EQUALS", "NOT_EQUALS", "CONTAINS", "NOT_CONTAINS", "STARTS_WITH", "ENDS_WITH"}
	for i, m := range ms {
		field := fmt.Sprintf("matchers[%d].", i)
		switch {
		case len(cond.Fields) == 0:
			return nil, invalid("matchers", "%s is about the project, it takes no matchers.", cond.Kind)
		case !slices.Contains(cond.Fields, m.Field):
			return nil, noSuchValue(field+"fieldName", m.Field, cond.Fields...)
		case !slices.Contains(operators, m.Operator):
			return nil, noSuchValue(field+"operator", m.Operator, operators...)
		case m.Value == "" || len(m.Value) > 254:
			return nil, invalid(field+"value", "1 to 254 characters are expected.")
		}
	}
	return slices.Clone(ms), nil
}

func (s *Service) checkNotification(field string, w NotificationWish, old store.AlertConfig, taken []store.AlertNotification) (store.AlertNotification, *hookWish, error) {
	n := store.AlertNotification{Type: w.Type, Delay: w.Delay, Interval: 60}
	var before store.AlertNotification
	if i := slices.IndexFunc(old.Notifications, func(o store.AlertNotification) bool { return o.ID == w.ID }); i >= 0 {
		before = old.Notifications[i]
	}
	if n.ID = before.ID; n.ID == "" || slices.ContainsFunc(taken, func(o store.AlertNotification) bool { return o.ID == n.ID }) {
		n.ID, before = keys.NewID(s.st.Now()), store.AlertNotification{}
	}
	if w.Interval != nil {
		n.Interval = *w.Interval
	}
	if n.Delay < 0 || n.Delay > maxMinutes {
		return n, nil, invalid(field+"delayMin", "0 to %d minutes are possible.", maxMinutes)
	}
	if n.Interval < minInterval || n.Interval > maxMinutes {
		return n, nil, invalid(field+"intervalMin", "%d to %d minutes are possible.", minInterval, maxMinutes)
	}
	if w.Type != Webhook && (w.URL.Len() > 0 || w.Secret.Len() > 0) {
		return n, nil, invalid(field+"webhookUrl", "a notification of type %s has no webhook.", clip(w.Type))
	}
	switch w.Type {
	case "":
		return n, nil, apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute %stypeName was not specified.", field).With(field + "typeName")
	case Email:
		if n.Address = w.Address; !plainAddress(w.Address) {
			return n, nil, invalid(field+"emailAddress", "a mail address is expected.")
		}
	case Group, Org:
		if w.SMS {
			return n, nil, invalid(field+"smsEnabled", "text messages are not possible here; send false.")
		}
		n.Email, n.Roles = w.Email == nil || *w.Email, slices.Clone(w.Roles)
		if len(n.Roles) > maxRoles || slices.ContainsFunc(n.Roles, func(r string) bool { return !roleName.MatchString(r) }) {
			return n, nil, invalid(field+"roles", "names of roles are expected, at most %d.", maxRoles)
		}
	case Webhook:
		hook, shown, err := s.checkHook(field, w, before)
		n.Shown = shown
		if err != nil {
			return n, nil, err
		}
		hook.notifier = n.ID
		return n, &hook, nil
	default:
		return n, nil, noSuchValue(field+"typeName", w.Type, Email, Group, Org, Webhook)
	}
	return n, nil, nil
}

// redactedSecret is what is shown, and may be sent back, in place of a secret.
const redactedSecret = "****"

func (s *Service) checkHook(field string, w NotificationWish, before store.AlertNotification) (hookWish, string, error) {
	if kept := before.Type == Webhook; kept && (w.URL.Len() == 0 || string(w.URL.Reveal()) == before.Shown) {
		fresh := w.Secret
		if strings.HasPrefix(string(fresh.Reveal()), redactedSecret) {
			fresh = secret.Bytes{}
		}
		return hookWish{keep: true, secret: fresh}, before.Shown, checkSecret(field, fresh)
	}
	if w.URL.Len() == 0 {
		return hookWish{}, "", apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute %swebhookUrl was not specified.", field).With(field + "webhookUrl")
	}
	u, err := checkURL(string(w.URL.Reveal()), s.cfg.LocalHooks)
	if err != nil {
		return hookWish{}, "", invalid(field+"webhookUrl", "%s.", err)
	}
	return hookWish{url: w.URL, secret: w.Secret}, redacted(u), checkSecret(field, w.Secret)
}

func checkSecret(field string, v secret.Bytes) error {
	if n := v.Len(); n > maxSecret || n > 0 && n < 8 {
		return invalid(field+"webhookSecret", "8 to %d characters are expected, or none.", maxSecret)
	}
	return nil
}

// seal stores the webhooks of a configuration and forgets those that it has no more.
func seal(tx *store.Tx, c store.AlertConfig, old store.AlertConfig, hooks []hookWish) error {
	for _, h := range hooks {
		to, key := h.url, h.secret
		if h.keep {
			kept, keptKey, err := tx.Hook(c.ID, h.notifier)
			if err != nil {
				return err
			}
			if to = kept; key.Len() == 0 {
				key = keptKey
			}
		}
		if err := tx.PutHook(c.ID, h.notifier, to, key); err != nil {
			return err
		}
	}
	for _, n := range old.Notifications {
		if n.Type == Webhook && !slices.ContainsFunc(hooks, func(h hookWish) bool { return h.notifier == n.ID }) {
			if err := tx.DeleteHook(c.ID, n.ID); err != nil {
				return err
			}
		}
	}
	return nil
}
