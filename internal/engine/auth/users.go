package auth

import (
	"context"
	"fmt"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Source reads admin.system.users.
type Source interface {
	// User gives the document with the _id, nil if there is none.
	User(ctx context.Context, id string) (bson.Raw, error)
	// HasUsers tells whether there is any.
	HasUsers(ctx context.Context) (bool, error)
}

// Users finds accounts, and remembers them until Invalidate. Safe for concurrent
// use.
type Users struct {
	source Source

	mu         sync.Mutex
	generation uint64
	cached     map[string]*User
	present    bool // there is at least one user
}

const maxCachedUsers = 10_000

// NewUsers makes an empty cache over a source.
func NewUsers(source Source) *Users {
	return &Users{source: source, cached: map[string]*User{}}
}

// Lookup gives the account, nil if there is none.
func (u *Users) Lookup(ctx context.Context, db, name string) (*User, error) {
	id := UserID(db, name)
	u.mu.Lock()
	user, ok := u.cached[id]
	generation := u.generation
	u.mu.Unlock()
	if ok {
		return user, nil
	}
	doc, err := u.source.User(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	if doc == nil {
		return nil, nil // not remembered: names that do not exist have no end
	}
	if user, err = ParseUser(doc); err != nil {
		return nil, err
	}
	if user.DB != db || user.Name != name {
		return nil, nil // "a.b" in "c" and "b" in "c.a" share an _id
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.generation == generation && len(u.cached) < maxCachedUsers {
		u.cached[id] = user
	}
	return user, nil
}

// Any tells whether there is any account.
func (u *Users) Any(ctx context.Context) (bool, error) {
	u.mu.Lock()
	present, generation := u.present, u.generation
	u.mu.Unlock()
	if present {
		return true, nil
	}
	has, err := u.source.HasUsers(ctx)
	if err != nil {
		return false, fmt.Errorf("look for users: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.generation == generation {
		u.present = has
	}
	return has, nil
}

// Invalidate forgets what is remembered. It must be called after every write to
// admin.system.users, before the write is acknowledged.
func (u *Users) Invalidate() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.generation++
	u.present = false
	clear(u.cached)
}
