package command

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Node is the data that commands work on; *replication.Replica is one.
type Node interface {
	Store() *storage.Store
	Initiate(ctx context.Context, set, host string) error
	Status() replication.Status
	Changed() <-chan struct{}
	Write(ctx context.Context, o replication.WriteOptions, fn func(*replication.Writer) error) (replication.OpTime, error)
	CreateCollection(ctx context.Context, db, coll string, options bson.Raw) error
	DropCollection(ctx context.Context, db, coll string) (existed bool, indexes int, err error)
	DropDatabase(ctx context.Context, db string) (existed bool, err error)
	CreateIndexes(ctx context.Context, db, coll string, specs []index.Spec) (before, after int, createdColl bool, err error)
	DropIndexes(ctx context.Context, db, coll string, names []string) (before int, err error)
}

// Config is what a Server needs.
type Config struct {
	Node Node
	// Auth demands logins (mongod's --auth).
	Auth bool
	// Set is the replica set that the node was told to be in (--replSet).
	Set string
	// Host is the address that the node takes for itself when it is initiated
	// without one.
	Host string
	// TLS tells that the port speaks TLS, for serverStatus.
	TLS bool
	// Logger receives messages; nil discards them.
	Logger *slog.Logger
	// Stop ends the process cleanly; the shutdown command calls it once.
	Stop func()
	// Arguments are the command line that getCmdLineOpts shows: no secrets.
	Arguments []string
	// RotateMasterKey seals the node's keyring with a new master key, unless the one in
	// use is not from any more (empty: whatever it is). It gives the key in use before
	// and after. It is nil on a node without encryption, safe for concurrent use, and
	// once begun it does not stop half-way because ctx ends.
	RotateMasterKey func(ctx context.Context, from keys.KeyID) (before, after keys.KeyID, err error)
	// Keysets rotates and compacts the keysets of the node's databases; nil on a node
	// without encryption.
	Keysets Keysets
	// Connections counts open connections, for serverStatus; may be nil.
	Connections func() int
}

// Server carries out commands for connections; it is the wire.Handler of a node.
type Server struct {
	cfg      Config
	log      *slog.Logger
	commands map[string]*command
	users    *auth.Users
	logins   *auth.Authenticator
	cursors  *cursors
	process  bson.ObjectID // identifies this run in topology versions
	started  time.Time
	counters counters
	stamps   stamps

	// userChanges makes changes of users one after another, so that the first
	// user is made once.
	userChanges sync.Mutex

	saltMu sync.Mutex
	salt   secret.Bytes
	stored bool // salt is the one in the data

	closing   chan struct{} // closed by Drain
	closeOnce sync.Once
	stopOnce  sync.Once
}

type counters struct {
	insert, query, update, remove, getmore, command atomic.Int64
}

// NewServer makes a server; Close it at the end.
func NewServer(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, commands: map[string]*command{}, process: bson.NewObjectID(), started: time.Now(),
		closing: make(chan struct{}),
	}
	for _, c := range commandTable() {
		s.commands[c.name] = &c
		for _, other := range c.aliases {
			s.commands[other] = &c
		}
	}
	s.users = auth.NewUsers(userSource{s})
	s.logins = auth.NewAuthenticator(s.users, s.salts)
	s.cursors = newCursors(maxCursors, cursorIdle)
	return s
}

// Open implements wire.Handler.
func (s *Server) Open(info wire.ConnInfo) wire.Session {
	return &conn{server: s, info: info}
}

// Drain answers waiting monitors, and makes every command from now on fail with
// ShutdownInProgress, so that drivers look for the node's return.
func (s *Server) Drain() { s.closeOnce.Do(func() { close(s.closing) }) }

// Close closes all cursors. The connections must be closed before.
func (s *Server) Close() {
	s.Drain()
	s.cursors.close()
	s.saltMu.Lock()
	defer s.saltMu.Unlock()
	s.salt.Wipe()
}

// Commands names all commands, aliases left out, in the table's order; anonymous
// ones are those that need no login.
func Commands() (names, anonymous []string) {
	for _, c := range commandTable() {
		names = append(names, c.name)
		if c.anonymous {
			anonymous = append(anonymous, c.name)
		}
	}
	return names, anonymous
}

func (s *Server) draining() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

const (
	keyCollection = "system.keys" // in admin; no role reaches it
	saltDocument  = "loginSalts"
)

// salts gives the secret behind made-up salts: the stored one, or one of this
// process as long as there is no data to store it in.
func (s *Server) salts() secret.Bytes {
	s.saltMu.Lock()
	defer s.saltMu.Unlock()
	if s.salt.IsEmpty() {
		s.salt = secret.Random(32)
	}
	if !s.stored && s.cfg.Node.Status().Primary {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.storeSalt(ctx); err != nil {
			s.log.Warn("the secret for unknown users' logins is not stored yet", "error", err)
		}
	}
	return s.salt
}

func (s *Server) storeSalt(ctx context.Context) error {
	id, err := idKey(saltDocument)
	if err != nil {
		return err
	}
	_, err = s.cfg.Node.Write(ctx, replication.WriteOptions{DB: "admin"}, func(w *replication.Writer) error {
		_, _, err := w.Do(0, func(tx *replication.Tx) (bson.Raw, error) {
			doc, err := tx.Lock(keyCollection, id)
			if err != nil {
				return nil, err
			}
			if doc != nil {
				_, key, ok := doc.Lookup("key").BinaryOK()
				if ok && len(key) == 32 {
					s.salt, s.stored = secret.Copy(key), true
				}
				return nil, nil
			}
			return nil, tx.Insert(keyCollection, newDoc().str("_id", saltDocument).binary("key", 0, s.salt.Reveal()).done())
		})
		return err
	})
	if err == nil {
		s.stored = true
	}
	return err
}

// newSession makes the id of a session.
func newSession() (id sessionID) {
	_, _ = rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
