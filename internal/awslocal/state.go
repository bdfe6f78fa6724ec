package awslocal

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const stateVersion = 2

// state is everything that survives a restart; it is the JSON of state.json.
// The unexported fields are derived by index.
type state struct {
	Version int    `json:"version"`
	Warning string `json:"warning"` // for people who open the file
	// SealKey seals session tokens: sessions need no entry and survive restarts.
	SealKey  []byte              `json:"sealKey"`
	Accounts map[string]*account `json:"accounts"`
	Keys     map[string]*key     `json:"keys"`    // by ARN
	Aliases  map[string]*alias   `json:"aliases"` // by ARN
	// ClockOffset is how many seconds the time in the local AWS is ahead of the
	// real time (see Control.MoveTime).
	ClockOffset int64 `json:"clockOffsetSeconds,omitempty"`

	accessKeys    map[string]*accessKeyOwner
	administrator *managedPolicy
	due           time.Time // when settle has something to do; zero for never
}

type account struct {
	ID       string                    `json:"id"`
	Users    map[string]*user          `json:"users"`              // by lower-case name
	Roles    map[string]*role          `json:"roles"`              // by lower-case name
	Policies map[string]*managedPolicy `json:"policies,omitempty"` // by lower-case name
}

// identity is what users and roles have in common.
type identity struct {
	Name     string            `json:"name"`
	Path     string            `json:"path"`
	ID       string            `json:"id"`
	ARN      string            `json:"arn"`
	Created  time.Time         `json:"created"`
	Policies map[string]string `json:"policies"`           // inline, by name
	Attached []string          `json:"attached,omitempty"` // ARNs of managed policies
	Boundary string            `json:"boundary,omitempty"` // ARN of a managed policy
	Tags     map[string]string `json:"tags,omitempty"`

	docs []policy.Named // of the inline policies
}

type user struct {
	identity
	AccessKeys []accessKey `json:"accessKeys"`
}

type accessKey struct {
	ID       string    `json:"id"`
	Secret   string    `json:"secret"`
	Created  time.Time `json:"created"`
	Inactive bool      `json:"inactive,omitempty"`
}

type accessKeyOwner struct {
	account string
	user    *user
	secret  string
}

type role struct {
	identity
	Description string      `json:"description,omitempty"`
	MaxSession  int         `json:"maxSessionSeconds"`
	Trust       boundPolicy `json:"trust"`
}

// boundPolicy is a policy with the unique ids that its principals had when it
// was written.
type boundPolicy struct {
	Text string            `json:"text"`
	IDs  map[string]string `json:"ids,omitempty"`

	doc *policy.Document
}

// Key states that a key of the local AWS can be in.
const (
	stateEnabled                = "Enabled"
	stateDisabled               = "Disabled"
	statePendingDeletion        = "PendingDeletion"
	statePendingReplicaDeletion = "PendingReplicaDeletion"
)

type key struct {
	ARN         string      `json:"arn"`
	Account     string      `json:"account"`
	Region      string      `json:"region"`
	ID          string      `json:"id"`
	Description string      `json:"description,omitempty"`
	Spec        string      `json:"spec"`
	Usage       string      `json:"usage"`
	State       string      `json:"state"`
	Created     time.Time   `json:"created"`
	Deletion    time.Time   `json:"deletion,omitzero"`
	WindowDays  int         `json:"pendingWindowDays,omitempty"` // in PendingReplicaDeletion only
	MaterialID  string      `json:"materialId,omitempty"`
	Material    []byte      `json:"material,omitempty"` // 32 bytes, symmetric keys only
	Policy      boundPolicy `json:"policy"`
	// Rotated and RotationType tell when and how the current material came; both
	// are empty for a key's first one. Older are the materials before it.
	Rotated      time.Time         `json:"rotated,omitzero"`
	RotationType string            `json:"rotationType,omitempty"`
	Older        []keyMaterial     `json:"olderMaterials,omitempty"`
	Rotation     *rotationSchedule `json:"rotation,omitempty"` // of a multi-Region key: the primary's
	// Primary is the Region of a multi-Region key's primary; "" for other keys.
	Primary string            `json:"primaryRegion,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// keyMaterial is a material that was in use before; it still decrypts.
type keyMaterial struct {
	ID           string    `json:"id"`
	Material     []byte    `json:"material"`
	Rotated      time.Time `json:"rotated,omitzero"`
	RotationType string    `json:"rotationType,omitempty"`
}

// rotationSchedule is a key's automatic rotation. The period outlives switching
// it off.
type rotationSchedule struct {
	Enabled bool      `json:"enabled"`
	Days    int       `json:"days"`
	Next    time.Time `json:"next,omitzero"`
}

// gone tells whether a key's waiting period is over; no key is gone too.
func (k *key) gone(now time.Time) bool {
	if k == nil {
		return true
	}
	return k.State == statePendingDeletion && !now.Before(k.Deletion)
}

// pending tells whether a key waits for its deletion.
func (k *key) pending() bool {
	return k.State == statePendingDeletion || k.State == statePendingReplicaDeletion
}

// index parses the policies and indexes the access keys.
func (st *state) index() error {
	st.indexAccessKeys()
	st.administrator = administratorPolicy()
	if err := st.administrator.index(); err != nil {
		return err
	}
	for _, a := range st.Accounts {
		for _, m := range a.Policies {
			if err := m.index(); err != nil {
				return err
			}
		}
		for _, u := range a.Users {
			if err := u.index(); err != nil {
				return err
			}
		}
		for _, r := range a.Roles {
			if err := r.index(); err != nil {
				return err
			}
		}
	}
	for _, k := range st.Keys {
		var err error
		if k.Policy.doc, err = policy.Parse(policy.Key, k.Policy.Text); err != nil {
			return fmt.Errorf("key %s: %w", k.ARN, err)
		}
	}
	st.due = st.nextDue()
	return nil
}

// indexAccessKeys finds the users of the active access keys.
func (st *state) indexAccessKeys() {
	st.accessKeys = map[string]*accessKeyOwner{}
	for _, a := range st.Accounts {
		for _, u := range a.Users {
			for _, k := range u.AccessKeys {
				if !k.Inactive {
					st.accessKeys[k.ID] = &accessKeyOwner{account: a.ID, user: u, secret: k.Secret}
				}
			}
		}
	}
}

func (i *identity) index() (err error) {
	if i.docs, err = parseAll(i.Policies); err != nil {
		return fmt.Errorf("%s: %w", i.ARN, err)
	}
	return nil
}

func (r *role) index() (err error) {
	if err := r.identity.index(); err != nil {
		return err
	}
	if r.Trust.doc, err = policy.Parse(policy.Trust, r.Trust.Text); err != nil {
		return fmt.Errorf("role %s: trust policy: %w", r.ARN, err)
	}
	return nil
}

func parseAll(texts map[string]string) ([]policy.Named, error) {
	var out []policy.Named
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		d, err := policy.Parse(policy.Identity, texts[name])
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", name, err)
		}
		out = append(out, policy.Named{Name: name, Doc: d})
	}
	return out, nil
}

// roleByARN finds a role by its full ARN.
func (st *state) roleByARN(arn string) *role {
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || st.Accounts[p[4]] == nil {
		return nil
	}
	name := p[5][strings.LastIndexByte(p[5], '/')+1:]
	if r := st.Accounts[p[4]].Roles[strings.ToLower(name)]; r != nil && r.ARN == arn {
		return r
	}
	return nil
}

// bind checks that the principals of a policy exist and keeps their ids.
func (st *state) bind(doc *policy.Document, text string) (boundPolicy, error) {
	b := boundPolicy{Text: text, IDs: map[string]string{}, doc: doc}
	for _, p := range doc.NamedPrincipals() {
		id, ok := st.principalID(p)
		if !ok {
			return b, &policy.MalformedError{Text: fmt.Sprintf("Invalid principal in policy: \"AWS\":%q", p.Text)}
		}
		if id != "" {
			b.IDs[p.Text] = id
		}
	}
	return b, nil
}

// principalID gives the unique id of a user or role, "" for an account or session.
func (st *state) principalID(p policy.Principal) (string, bool) {
	a := st.Accounts[p.Account]
	if a == nil {
		return "", false
	}
	name := strings.ToLower(p.Text[strings.LastIndexByte(p.Text, '/')+1:])
	switch p.Kind {
	case policy.UserPrincipal:
		u := a.Users[name]
		if u == nil || u.ARN != p.Text {
			return "", false
		}
		return u.ID, true
	case policy.RolePrincipal:
		r := a.Roles[name]
		if r == nil || r.ARN != p.Text {
			return "", false
		}
		return r.ID, true
	case policy.SessionPrincipal:
		parts := strings.Split(p.Text, "/")
		r := a.Roles[strings.ToLower(parts[1])]
		return "", r != nil && r.Name == parts[1]
	}
	return "", true
}

// readBack gives a policy's text as AWS shows it: a principal that was deleted
// since appears as its bare unique id.
func (st *state) readBack(b boundPolicy) string {
	stale := map[string]string{}
	for _, p := range b.doc.NamedPrincipals() {
		if id := b.IDs[p.Text]; id != "" {
			if now, _ := st.principalID(p); now != id {
				stale[p.Text] = id
			}
		}
	}
	if len(stale) == 0 {
		return b.Text
	}
	return b.doc.Rename(stale)
}

func (b boundPolicy) resource(name string) *policy.ResourcePolicy {
	return &policy.ResourcePolicy{Named: policy.Named{Name: name, Doc: b.doc}, IDs: b.IDs}
}

// uniqueID makes an id such as AROA or AIDA + 17 characters, or an access key
// id (AKIA, ASIA + 16).
func uniqueID(prefix string) string {
	n := 21
	if prefix == "AKIA" || prefix == "ASIA" {
		n = 20
	}
	return prefix + base32.StdEncoding.EncodeToString(randomBytes(15))[:n-len(prefix)]
}

func newSecret() string { return base64.StdEncoding.EncodeToString(randomBytes(30)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails (it ends the process instead)
	return b
}
