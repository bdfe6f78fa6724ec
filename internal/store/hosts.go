package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// PutHost adds or replaces a host; ErrDuplicate if another has the host name.
// Revision and Digest are written for a new host only (see PutRevision).
func (t *Tx) PutHost(h Host) error {
	d, err := encode(h)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO hosts (id, hostname, revision, digest, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`,
		string(h.ID), h.Hostname, int64(h.Revision), h.Digest, d) //nolint:gosec // counts changes
	return err
}

// PutRevision records the newest desired state of a host. It never goes down: an
// older revision than the stored one is an error.
func (t *Tx) PutRevision(id keys.HostID, revision uint64, digest string) error {
	err := t.must(`UPDATE hosts SET revision = ?, digest = ? WHERE id = ? AND revision <= ?`,
		int64(revision), digest, string(id), int64(revision)) //nolint:gosec // counts changes
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("desired revision %d of host %s would go back: %w", revision, id, err)
	}
	return err
}

func (t *Tx) hosts(where string, args ...any) ([]Host, error) {
	var out []Host
	err := t.each(`SELECT doc, revision, digest FROM hosts WHERE `+where+` ORDER BY id`, args, func(scan func(...any) error) error {
		var text, digest string
		var revision int64
		if err := scan(&text, &revision, &digest); err != nil {
			return fmt.Errorf("read hosts: %w", err)
		}
		h, err := decode[Host](text)
		h.Revision, h.Digest = uint64(revision), digest //nolint:gosec // counts changes
		out = append(out, h)
		return err
	})
	return out, err
}

func one[T any](v []T, err error) (T, error) {
	var zero T
	if err == nil && len(v) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return zero, err
	}
	return v[0], nil
}

// Host gives a host or ErrNotFound.
func (t *Tx) Host(id keys.HostID) (Host, error) { return one(t.hosts(`id = ?`, string(id))) }

// HostNamed gives a host by its name or ErrNotFound.
func (t *Tx) HostNamed(name string) (Host, error) { return one(t.hosts(`hostname = ?`, name)) }

// Hosts lists all hosts, oldest first.
func (t *Tx) Hosts() ([]Host, error) { return t.hosts(`1 = 1`) }

// AddToken stores an enrolment token by its hash.
func (t *Tx) AddToken(k EnrolmentToken) error {
	_, err := t.exec(`INSERT INTO enrolment_tokens (hash, org_id, hostname, expires, used) VALUES (?, ?, ?, ?, ?)`,
		k.Hash, string(k.Org), k.Hostname, k.Expires.UnixMicro(), flag(k.Used))
	return err
}

// UseToken spends a token and gives its organization: ErrNotFound if there is none of
// this hash and host name that is unused and not expired.
func (t *Tx) UseToken(hash, hostname string) (keys.OrgID, error) {
	if err := t.must(`UPDATE enrolment_tokens SET used = 1 WHERE hash = ? AND hostname = ? AND used = 0 AND expires > ?`,
		hash, hostname, t.Now().UnixMicro()); err != nil {
		return "", err
	}
	var org string
	err := t.row(`SELECT org_id FROM enrolment_tokens WHERE hash = ?`, []any{hash}, &org)
	return keys.OrgID(org), err
}

// ExpireTokens removes tokens that nobody can use any more.
func (t *Tx) ExpireTokens(before time.Time) error {
	_, err := t.exec(`DELETE FROM enrolment_tokens WHERE expires < ?`, before.UnixMicro())
	return err
}

// AddAuthority stores a certificate authority with its key, sealed.
func (t *Tx) AddAuthority(kind string, certPEM []byte, keyPEM secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(Place{Table: "authorities", Row: kind, Column: "private_key"}, keyPEM)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO authorities (kind, certificate, private_key) VALUES (?, ?, ?)`, kind, string(certPEM), sealed)
	return err
}

// Authority gives a certificate authority or ErrNotFound.
func (t *Tx) Authority(kind string) (certPEM []byte, keyPEM secret.Bytes, err error) {
	var cert, sealed string
	if err := t.row(`SELECT certificate, private_key FROM authorities WHERE kind = ?`, []any{kind}, &cert, &sealed); err != nil {
		return nil, secret.Bytes{}, err
	}
	keyPEM, err = t.s.sealer.Unseal(Place{Table: "authorities", Row: kind, Column: "private_key"}, sealed)
	return []byte(cert), keyPEM, err
}

// Platform gives or sets the account of the platform at the key service; an
// account that differs from the recorded one is an error, since external ids and
// trust policies name it.
func (t *Tx) Platform(account string) error {
	have, err := t.meta("platform_account")
	if errors.Is(err, ErrNotFound) {
		return t.setMeta("platform_account", account)
	}
	if err == nil && have != account {
		return fmt.Errorf("the platform's AWS account is %s, this deployment was set up with %s: customers' trust policies name that one", account, have)
	}
	return err
}
