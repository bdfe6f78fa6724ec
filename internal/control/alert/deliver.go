package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

const (
	// batch is how many deliveries are taken from the queue at once, senders how many are
	// under way at the same time.
	batch   = 16
	senders = 4
	// keptTries is how many attempts a delivery's record shows: the first and the newest.
	keptTries = 10
)

// pauses are the times between attempts; after the last one a delivery has failed.
func pauses() []time.Duration {
	return []time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
		20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour,
	}
}

// deliver sends what is due until ctx ends.
func (s *Service) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		changed := s.st.Changed()
		n, next, err := s.DeliverDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "notifications were not sent", "error", err)
		}
		if n > 0 && err == nil {
			continue
		}
		wait := time.Minute
		if !next.IsZero() {
			wait = min(wait, max(next.Sub(s.st.Now()), 100*time.Millisecond))
		}
		if err != nil {
			changed, wait = nil, time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// DeliverDue tries every delivery that is due once, and gives how many were tried and
// when the next one is due (zero: none is pending).
func (s *Service) DeliverDue(ctx context.Context) (tried int, next time.Time, err error) {
	var due []store.AlertDelivery
	if err := s.st.View(ctx, func(tx *store.Tx) error {
		if due, err = tx.DueDeliveries(tx.Now(), batch); err == nil {
			next, err = tx.NextDelivery()
		}
		return err
	}); err != nil {
		return 0, next, fmt.Errorf("read the queue: %w", err)
	}
	errs := make([]error, len(due))
	s.each(len(due), func(i int) { errs[i] = s.attempt(ctx, due[i]) })
	return len(due), next, errors.Join(errs...)
}

// each does n things, a few at a time, and waits for all.
func (s *Service) each(n int, do func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, senders)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}

// attempt tries one delivery and records what came of it. Sending comes first: a crash
// between the two repeats the message under its id.
func (s *Service) attempt(ctx context.Context, d store.AlertDelivery) error {
	status, sendErr := s.send(ctx, d)
	if ctx.Err() != nil {
		return nil // the next start tries again
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tx.Project(d.Project)
		if errors.Is(err, store.ErrNotFound) {
			return nil // the project went, and its deliveries with it
		}
		if err != nil {
			return err
		}
		d = record(d, tx.Now(), status, sendErr)
		if err := tx.PutDelivery(d); err != nil {
			return err
		}
		if d.State == failed {
			s.log.WarnContext(ctx, "a notification could not be sent", "project", pr.ID, "delivery", d.ID, "type", d.Type, "target", d.Target, "error", sendErr)
		}
		return nil
	})
}

// record is a delivery after an attempt.
func record(d store.AlertDelivery, now time.Time, status int, err error) store.AlertDelivery {
	try := store.DeliveryAttempt{At: now, Status: status}
	d.Attempts++
	switch {
	case err == nil:
		d.State = sent
	case d.Attempts > len(pauses()):
		d.State, try.Error = failed, clip(err.Error())
	default:
		d.Due, try.Error = now.Add(pauses()[d.Attempts-1]), clip(err.Error())
	}
	if len(d.Tries) >= keptTries {
		d.Tries = append(d.Tries[:1:1], d.Tries[len(d.Tries)-keptTries+2:]...)
	}
	d.Tries = append(d.Tries, try)
	return d
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 500)], "") }

// send sends one delivery once.
func (s *Service) send(ctx context.Context, d store.AlertDelivery) (int, error) {
	var p Payload
	if err := json.Unmarshal([]byte(d.Body), &p); err != nil {
		return 0, fmt.Errorf("read message: %w", err)
	}
	switch d.Type {
	case Log:
		s.tell(ctx, p)
		return 0, nil
	case Webhook:
		to, key, err := s.hook(ctx, d.Config, d.Notifier)
		if err != nil {
			return 0, err
		}
		defer to.Wipe()
		defer key.Wipe()
		return s.post(ctx, to, key, d.ID, d.Message, []byte(d.Body))
	case Email, Group, Org:
		if s.cfg.Mail == nil {
			return 0, errNoMail
		}
		return 0, s.cfg.Mail.Send(ctx, mailOf(p, d.Target))
	}
	return 0, fmt.Errorf("%q is no way of telling", d.Type)
}

func (s *Service) hook(ctx context.Context, config, notifier string) (to, key secret.Bytes, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		to, key, err = tx.Hook(config, notifier)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = errors.New("the configuration has this webhook no more")
	}
	return to, key, err
}

// tell writes a message to the log.
func (s *Service) tell(ctx context.Context, p Payload) {
	level := slog.LevelInfo
	if p.Message == Opened || p.Message == Repeated {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "alert "+p.Message, "alert", p.Alert.ID, "event_type", p.Alert.Kind, "project", p.Project.ID, "target", p.Alert.Target,
		"since", p.Alert.Since, "summary", p.Alert.Summary, "remedy", p.Alert.Remedy, "delivery", p.ID)
}

// mailOf writes a message for people.
func mailOf(p Payload, to string) Mail {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", p.Alert.Summary)
	if p.Message != Ended {
		fmt.Fprintf(&b, "What to do: %s\n\n", p.Alert.Remedy)
	}
	fmt.Fprintf(&b, "Project: %s (%s)\nAlert: %s (%s)\nSince: %s\n", p.Project.Name, p.Project.ID, p.Alert.Kind, p.Alert.ID, p.Alert.Since.UTC().Format(time.RFC3339))
	if p.Alert.Hostname != "" {
		fmt.Fprintf(&b, "Host: %s\n", p.Alert.Hostname)
	}
	if p.Alert.Cluster != "" {
		fmt.Fprintf(&b, "Cluster: %s\n", p.Alert.Cluster)
	}
	if p.Alert.Resolved != nil {
		fmt.Fprintf(&b, "Over since: %s\n", p.Alert.Resolved.UTC().Format(time.RFC3339))
	}
	return Mail{
		ID: p.ID, To: to, Date: p.Created, Text: b.String(),
		Subject: fmt.Sprintf("[Keywright] %s: %s, project %s", p.Message, p.Alert.Kind, p.Project.Name),
	}
}

var errNoMail = errors.New("no mail server is configured (--smtp-server)")
