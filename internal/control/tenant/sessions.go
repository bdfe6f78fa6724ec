package tenant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// The life of a session.
const (
	// SessionIdle is how long a session lives unused, SessionLife in all.
	SessionIdle = 30 * time.Minute
	SessionLife = 12 * time.Hour
	// ProofLife is how long a given password allows destructive steps.
	ProofLife = 10 * time.Minute
	// seenStep is how exactly Seen is kept: writing it down each time would wake everybody
	// who waits for a change.
	seenStep = time.Minute
	// maxSessions is how many sessions a person has; a new one replaces the longest unused.
	maxSessions = 20
)

// Session is a session that holds.
type Session struct {
	Who Principal
	// Proven is when the password was last given.
	Proven time.Time
	hash   string
	now    time.Time
}

// Fresh tells whether the password was given lately enough for a destructive step.
func (s Session) Fresh() bool { return s.now.Sub(s.Proven) < ProofLife }

// TooManyAttempts is the code of the refusal to try a password now; its parameter is the
// time (RFC 3339) from which it may be tried again. WrongPassword is the code of a refusal
// that does not tell whether the username exists.
const (
	TooManyAttempts = "TOO_MANY_SIGN_IN_ATTEMPTS"
	WrongPassword   = "INVALID_CREDENTIALS" //nolint:gosec // a code
)

var errWrongPassword = apierr.New(401, WrongPassword, "Username or password is wrong.")

// SignIn proves a person by their password and begins a session, whose token (256 random
// bits, base64url) is given once. remote is the address that they come from.
// INVALID_CREDENTIALS, TOO_MANY_SIGN_IN_ATTEMPTS.
func (s *Service) SignIn(ctx context.Context, username string, password secret.Bytes, remote string) (token secret.Bytes, err error) {
	username = strings.ToLower(strings.TrimSpace(username))
	who, err := s.prove(ctx, username, password, remote)
	if err != nil {
		return secret.Bytes{}, err
	}
	token = secret.RandomText(32)
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		if err := tx.DeleteSessions(now.Add(-SessionIdle - seenStep)); err != nil {
			return err
		}
		have, err := tx.Sessions(who.PersonID)
		if err != nil {
			return err
		}
		for i := 0; i <= len(have)-maxSessions; i++ {
			if err := tx.DeleteSession(have[i].Hash); err != nil {
				return err
			}
		}
		if err := tx.PutSession(store.Session{Hash: tokenHash(token), Person: who.PersonID, Created: now, Seen: now, Proven: now}); err != nil {
			return err
		}
		return tx.Append(event(who, "USER_SIGNED_IN", who.Org, "%s signed in.", username))
	})
	if err != nil {
		token.Wipe()
		return secret.Bytes{}, err
	}
	return token, nil
}

// prove checks a password, throttled.
func (s *Service) prove(ctx context.Context, username string, password secret.Bytes, remote string) (who Principal, err error) {
	if !usernamePattern.MatchString(username) || password.Len() > MaxPassword {
		username = "" // nobody; all of them count as one
	}
	if again, ok := s.throttle.take(s.st.Now(), username, remote); !ok {
		return who, apierr.New(429, TooManyAttempts, "Too many attempts. Try again at %s UTC.", again.Format("15:04")).With(again.Format(time.RFC3339))
	}
	var person store.Person
	var hash secret.Bytes
	err = s.st.View(ctx, func(tx *store.Tx) error {
		person, hash, err = tx.PersonByName(username)
		return err
	})
	if err != nil && !isNotFound(err) {
		return who, err
	}
	defer hash.Wipe()
	right, err := s.hashers.check(ctx, password, hash)
	if err != nil {
		return who, err
	}
	if right {
		s.throttle.giveBack(username, remote)
		who = principalOfPerson(person)
		who.RemoteAddress = remote
		return who, nil
	}
	if person.ID != "" { // who does not exist leaves no trace: it may be a password in the wrong field
		who = Principal{Name: "anonymous", RemoteAddress: remote}
		e := event(who, "USER_SIGN_IN_FAILED", person.Org, "Somebody gave a wrong password for %s.", username)
		e.Data["targetUsername"] = username
		if err := s.st.Tx(ctx, func(tx *store.Tx) error { return tx.Append(e) }); err != nil {
			return Principal{}, err
		}
	}
	return Principal{}, errWrongPassword
}

func tokenHash(token secret.Bytes) string {
	sum := sha256.Sum256(token.Reveal())
	return hex.EncodeToString(sum[:])
}

// Session gives the session of a token and keeps it alive. found is false for a token
// that is unknown, too old or was unused for too long; expired then tells of the latter
// two.
func (s *Service) Session(ctx context.Context, token secret.Bytes, remote string) (out Session, found, expired bool, err error) {
	now, hash := s.st.Now(), tokenHash(token)
	var kept store.Session
	err = s.st.View(ctx, func(tx *store.Tx) error {
		var person store.Person
		if kept, err = tx.Session(hash); err != nil {
			return err
		}
		if person, err = tx.Person(kept.Person); err != nil {
			return err
		}
		out = Session{Who: principalOfPerson(person), Proven: kept.Proven, hash: hash, now: now}
		out.Who.RemoteAddress = remote
		return nil
	})
	if isNotFound(err) {
		return Session{}, false, false, nil
	}
	if err != nil {
		return Session{}, false, false, err
	}
	if now.Sub(kept.Seen) >= SessionIdle || now.Sub(kept.Created) >= SessionLife {
		return Session{}, false, true, s.st.Tx(ctx, func(tx *store.Tx) error { return tx.DeleteSession(hash) })
	}
	if now.Sub(kept.Seen) >= seenStep {
		if err := s.changeSession(ctx, hash, func(k *store.Session) { k.Seen = now }); err != nil {
			return Session{}, false, false, err
		}
	}
	return out, true, false, nil
}

// changeSession changes a session that may have ended meanwhile.
func (s *Service) changeSession(ctx context.Context, hash string, change func(*store.Session)) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		k, err := tx.Session(hash)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		change(&k)
		return tx.PutSession(k)
	})
}

// ProveAgain takes the password of a session's person again, before a destructive step:
// INVALID_CREDENTIALS, TOO_MANY_SIGN_IN_ATTEMPTS.
func (s *Service) ProveAgain(ctx context.Context, in Session, password secret.Bytes) error {
	if _, err := s.prove(ctx, in.Who.Username, password, in.Who.RemoteAddress); err != nil {
		return err
	}
	now := s.st.Now()
	return s.changeSession(ctx, in.hash, func(k *store.Session) { k.Proven = now })
}

// SignOut ends a session.
func (s *Service) SignOut(ctx context.Context, in Session) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		if err := tx.DeleteSession(in.hash); err != nil {
			return err
		}
		return tx.Append(event(in.Who, "USER_SIGNED_OUT", in.Who.Org, "%s signed out.", in.Who.Username))
	})
}
