package tenant

import (
	"context"
	"crypto/md5" //nolint:gosec // RFC 7616 digest as Atlas's clients speak it
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// Realm is the realm of HTTP digest authentication; HA1 covers it.
const Realm = "MMS Public API"

var namePattern = regexp.MustCompile(`^[\p{L}\p{N}\-_.(),:&@+' ]{1,64}$`)

// Service is the tenant's side of the control plane. It is safe for concurrent use.
type Service struct {
	st *store.Store

	mu     sync.Mutex
	unread <-chan struct{}
	known  map[string]credential

	throttle throttle
	hashers  hashers
}

// credential is what was read of an API key. It holds until the store changes.
type credential struct {
	who Principal
	ha1 secret.Bytes
}

// maxKnown bounds the credentials that are remembered between two changes.
const maxKnown = 1000

// maxHashers is how many passwords are hashed at once.
const maxHashers = 2

// New makes the service.
func New(st *store.Store) *Service { return &Service{st: st, hashers: make(hashers, maxHashers)} }

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// event starts an event about an organization itself.
func event(p Principal, kind string, org keys.OrgID, format string, args ...any) audit.Event {
	return Event(p, kind, store.Project{Org: org}, format, args...)
}

// Event starts an audit event that the principal causes in a project. The caller
// may add to Data, which is never nil.
func Event(p Principal, kind string, project store.Project, format string, args ...any) audit.Event {
	e := audit.Event{
		Type: kind, Actor: p.Name, Org: string(project.Org), Project: string(project.ID),
		Message: fmt.Sprintf(format, args...), Data: map[string]string{},
	}
	if p.PublicKey != "" {
		e.Data["publicKey"], e.Data["apiKeyId"] = p.PublicKey, p.KeyID
	}
	if p.PersonID != "" {
		e.Data["username"], e.Data["userId"] = p.Username, p.PersonID
	}
	if p.RemoteAddress != "" {
		e.Data["remoteAddress"] = p.RemoteAddress
	}
	return e
}

// HA1 is the digest that stands for an API key's private key: MD5 of
// "public:realm:private", in hexadecimal. It is as secret as the key.
func HA1(public string, private secret.Bytes) secret.Bytes {
	h := md5.New() //nolint:gosec // see above
	_, _ = fmt.Fprintf(h, "%s:%s:", public, Realm)
	_, _ = h.Write(private.Reveal())
	return secret.FromString(hex.EncodeToString(h.Sum(nil)))
}

// Init is what a fresh installation begins with.
type Init struct {
	OrgName    string
	OwnerName  string
	PublicKey  string
	PrivateKey secret.Bytes
	// Username and Password, if set, make a person who owns the organization.
	Username string
	Password secret.Bytes
}

// Bootstrap makes the first organization with one API key (Organization Owner) if
// the store has none yet, and its first person if it has nobody yet; otherwise it
// changes nothing.
func (s *Service) Bootstrap(ctx context.Context, in Init) error {
	if !namePattern.MatchString(in.OrgName) {
		return fmt.Errorf("bootstrap: %q is not a name of an organization", in.OrgName)
	}
	if in.PublicKey == "" || in.PrivateKey.Len() < 16 {
		return errors.New("bootstrap: a public key and a private key of 16 characters or more are needed")
	}
	var hash secret.Bytes
	if in.Username != "" {
		var err error
		if hash, _, err = (NewPerson{Username: in.Username, Password: in.Password}).check(); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		have, err := tx.Orgs()
		if err == nil && len(have) > 0 && in.Username != "" {
			err = ownerPerson(tx, have[0].ID, in, hash)
		}
		if err != nil || len(have) > 0 {
			return err
		}
		now := tx.Now()
		org := store.Org{ID: keys.OrgID(keys.NewID(now)), Name: in.OrgName, Created: now}
		if err := tx.PutOrg(org); err != nil {
			return err
		}
		if err := tx.Append(event(System(), "ORG_CREATED", org.ID, "Organization %s was created.", org.Name)); err != nil {
			return err
		}
		k := store.APIKey{
			ID: keys.NewID(now), Org: org.ID, PublicKey: in.PublicKey, Description: in.OwnerName,
			OrgRoles: []string{string(OrgOwner)}, Created: now,
		}
		if err := tx.AddAPIKey(k, HA1(in.PublicKey, in.PrivateKey)); err != nil {
			return err
		}
		if err := tx.Append(event(System(), "API_KEY_CREATED", org.ID, "API key %s was created.", k.PublicKey)); err != nil || in.Username == "" {
			return err
		}
		return ownerPerson(tx, org.ID, in, hash)
	})
}

// Credential gives what is needed to check a digest: the HA1 of an API key, which the
// caller may wipe, and the principal that a right answer proves. found is false for an
// unknown key.
func (s *Service) Credential(ctx context.Context, public string) (p Principal, ha1 secret.Bytes, found bool, err error) {
	unread := s.st.Changed() // before reading: what changes from now on is noticed
	s.mu.Lock()
	if s.unread != unread {
		s.unread, s.known = unread, map[string]credential{}
	}
	c, ok := s.known[public]
	s.mu.Unlock()
	if ok {
		return c.who, c.ha1.Clone(), true, nil
	}
	err = s.st.View(ctx, func(tx *store.Tx) error {
		k, h, err := tx.APIKeyByPublic(public)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		p, ha1, found = principalOf(k), h, true
		return nil
	})
	if err == nil && found {
		s.mu.Lock()
		if s.unread == unread && len(s.known) < maxKnown {
			s.known[public] = credential{who: p, ha1: ha1.Clone()}
		}
		s.mu.Unlock()
	}
	return p, ha1, found, err
}

func principalOf(k store.APIKey) Principal {
	p := Principal{
		Name: "apikey:" + k.PublicKey, KeyID: k.ID, PublicKey: k.PublicKey, Org: k.Org,
		OrgRoles: toRoles(k.OrgRoles), ProjectRoles: map[keys.ProjectID][]Role{},
	}
	for id, r := range k.ProjectRoles {
		p.ProjectRoles[id] = toRoles(r)
	}
	return p
}

func toRoles(in []string) []Role {
	out := make([]Role, len(in))
	for i, r := range in {
		out[i] = Role(r)
	}
	return out
}

func fromRoles(in []Role, allowed []Role, what string) ([]string, error) {
	out := make([]string, 0, len(in))
	for _, r := range in {
		if !slices.Contains(allowed, r) {
			return nil, apierr.BadRequest("INVALID_ENUM_VALUE", "%q is not a role of %s.", r, what).With("roles")
		}
		if !slices.Contains(out, string(r)) {
			out = append(out, string(r))
		}
	}
	return out, nil
}

// Orgs lists the organizations that the principal belongs to.
func (s *Service) Orgs(ctx context.Context, p Principal) (out []store.Org, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Orgs()
		out = slices.DeleteFunc(all, func(o store.Org) bool { return !p.HasOrg(OrgMember, o.ID) })
		return err
	})
	return out, err
}

// Org gives an organization: ORG_NOT_FOUND.
func (s *Service) Org(ctx context.Context, p Principal, id keys.OrgID) (out store.Org, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		out, err = RequireOrg(tx, p, OrgMember, id)
		return err
	})
	return out, err
}
