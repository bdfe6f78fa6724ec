package driver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// AdminUser is the name of the agent's own user on each node, in the database
// "admin" with the role root.
const AdminUser = "__keywright"

// MongoDB's error codes that Admin acts upon.
const (
	codeUserNotFound       = 11
	codeUserExists         = 51003
	codeAlreadyInitialized = 23
	codeUnauthorized       = 13
	codeAuthentication     = 18
)

// ErrPassword means that a node has an administrator, but not with this password:
// the file that held it was lost or replaced. Trying again does not help.
var ErrPassword = errors.New("the node has users, but does not take this host's administrator's password")

// Admin administers one node at 127.0.0.1.
type Admin struct {
	port     int
	caFile   string
	password secret.Bytes
}

// NewAdmin makes the administrator of the node at a port. password is that of
// AdminUser; caFile the authority of the databases.
func NewAdmin(port int, caFile string, password secret.Bytes) *Admin {
	return &Admin{port: port, caFile: caFile, password: password}
}

// User is a database user as a node shall have it.
type User struct {
	Database, Name string
	Password       secret.Bytes
	Roles          []Role
}

// Role is a role on a database.
type Role struct{ Role, Database string }

// Prepare brings a fresh node into service: it initiates the replica set and
// makes AdminUser, and does nothing where that was done before. It waits until
// the node is primary. advertised is the node's host:port for drivers.
//
// It may be called again after a crash at any point. The errors are ErrPassword and
// those of the driver.
func (a *Admin) Prepare(ctx context.Context, set, advertised string) error {
	if err := a.reachable(ctx); err != nil {
		return err
	}
	err := a.with(ctx, true, func(c *mongo.Client) error { return waitPrimary(ctx, c) })
	if !isAuthentication(err) {
		return err
	}
	// Without any user yet the node takes these two from the loopback address
	// (the localhost exception of mongod).
	err = a.with(ctx, false, func(c *mongo.Client) error {
		if err := initiate(ctx, c, set, advertised); err != nil {
			return err
		}
		if err := waitPrimary(ctx, c); err != nil {
			return err
		}
		return run(ctx, c, "admin", bson.D{
			{Key: "createUser", Value: AdminUser}, {Key: "pwd", Value: string(a.password.Reveal())},
			{Key: "roles", Value: bson.A{bson.D{{Key: "role", Value: "root"}, {Key: "db", Value: "admin"}}}},
		})
	})
	if isAuthentication(err) {
		return fmt.Errorf("%w: %w", ErrPassword, err)
	}
	return err
}

// reachable waits until something listens at the port, which the driver would look
// at every half second only.
func (a *Admin) reachable(ctx context.Context) error {
	var d net.Dialer
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", a.port))
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reach node: %w", err)
		case <-t.C:
		}
	}
}

func initiate(ctx context.Context, c *mongo.Client, set, advertised string) error {
	err := run(ctx, c, "admin", bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: set}, {Key: "version", Value: 1},
		{Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: advertised}}}},
	}}})
	if hasCode(err, codeAlreadyInitialized) {
		return nil
	}
	return err
}

func waitPrimary(ctx context.Context, c *mongo.Client) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		var hello struct {
			Primary bool `bson:"isWritablePrimary"`
		}
		if err := c.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
			return fmt.Errorf("ask node for its state: %w", err)
		}
		if hello.Primary {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the node to become primary: %w", ctx.Err())
		case <-t.C:
		}
	}
}

// ApplyUsers makes or changes the wanted users and drops the unwanted ones,
// each named by database and name. It gives those for which that is done: a user
// that the node refuses does not keep the others back.
func (a *Admin) ApplyUsers(ctx context.Context, wanted, unwanted []User) (done []User, err error) {
	if len(wanted)+len(unwanted) == 0 {
		return nil, nil
	}
	err = a.with(ctx, true, func(c *mongo.Client) error {
		var errs []error
		note := func(u User, err error) {
			if err == nil {
				done = append(done, u)
			} else {
				errs = append(errs, fmt.Errorf("user %s.%s: %w", u.Database, u.Name, err))
			}
		}
		for _, u := range unwanted {
			err := run(ctx, c, u.Database, bson.D{{Key: "dropUser", Value: u.Name}})
			if hasCode(err, codeUserNotFound) {
				err = nil
			}
			note(u, err)
		}
		for _, u := range wanted {
			note(u, applyUser(ctx, c, u))
		}
		return errors.Join(errs...)
	})
	return done, err
}

// RotateMasterKey has the node seal its keyring with a new master key, and gives the
// key in use afterwards. from makes it safe to repeat: a node that does not use that
// key any more keeps the one it has.
func (a *Admin) RotateMasterKey(ctx context.Context, from keys.KeyID) (to keys.KeyID, err error) {
	err = a.with(ctx, true, func(c *mongo.Client) error {
		var answer struct {
			MasterKey keys.KeyID `bson:"masterKey"`
		}
		err := c.Database("admin").RunCommand(ctx, bson.D{{Key: "keywrightRotateMasterKey", Value: 1}, {Key: "from", Value: string(from)}}).Decode(&answer)
		if err != nil {
			return fmt.Errorf("keywrightRotateMasterKey on node: %w", err)
		}
		to = answer.MasterKey
		return nil
	})
	return to, err
}

// Keysets is what a node says about the keys of its databases.
type Keysets struct {
	// Bytes of files there are, Newest of them under the newest keys.
	Bytes  int64 `bson:"bytes"`
	Newest int64 `bson:"bytesUnderNewest"`
	// OldKeys are left beside the newest.
	OldKeys int64 `bson:"oldKeys"`
	// Compacting tells that files are being rewritten, Failure why that ended.
	Compacting bool   `bson:"compacting"`
	Failure    string `bson:"failure"`
}

// RotateKeysets has the node write new files of all databases under fresh keys.
// Repeating it makes one more key.
func (a *Admin) RotateKeysets(ctx context.Context) (Keysets, error) {
	return a.keysets(ctx, "keywrightRotateKeysets")
}

// CompactKeysets has the node begin to rewrite the files under old keys, which are
// removed then, unless that is under way.
func (a *Admin) CompactKeysets(ctx context.Context) (Keysets, error) {
	return a.keysets(ctx, "keywrightCompactKeysets")
}

// Keysets asks which keys the node's files are under.
func (a *Admin) Keysets(ctx context.Context) (Keysets, error) {
	return a.keysets(ctx, "keywrightKeysetStatus")
}

func (a *Admin) keysets(ctx context.Context, command string) (out Keysets, err error) {
	err = a.with(ctx, true, func(c *mongo.Client) error {
		if err := c.Database("admin").RunCommand(ctx, bson.D{{Key: command, Value: 1}}).Decode(&out); err != nil {
			return fmt.Errorf("%s on node: %w", command, err)
		}
		return nil
	})
	return out, err
}

func applyUser(ctx context.Context, c *mongo.Client, u User) error {
	roles := bson.A{}
	for _, r := range u.Roles {
		roles = append(roles, bson.D{{Key: "role", Value: r.Role}, {Key: "db", Value: r.Database}})
	}
	tail := bson.D{{Key: "pwd", Value: string(u.Password.Reveal())}, {Key: "roles", Value: roles}}
	err := run(ctx, c, u.Database, append(bson.D{{Key: "createUser", Value: u.Name}}, tail...))
	if hasCode(err, codeUserExists) {
		err = run(ctx, c, u.Database, append(bson.D{{Key: "updateUser", Value: u.Name}}, tail...))
	}
	return err
}

func (a *Admin) with(ctx context.Context, login bool, fn func(*mongo.Client) error) error {
	pem, err := os.ReadFile(a.caFile)
	if err != nil {
		return fmt.Errorf("read authority of the databases: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("file of the databases' authority holds no certificate")
	}
	o := options.Client().
		ApplyURI(fmt.Sprintf("mongodb://127.0.0.1:%d/?directConnection=true", a.port)).
		SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}).
		SetServerSelectionTimeout(3 * time.Second).SetConnectTimeout(3 * time.Second).
		SetMaxPoolSize(2).SetAppName("keywright-agent").SetRetryWrites(false)
	if login {
		o.SetAuth(options.Credential{
			AuthMechanism: "SCRAM-SHA-256", AuthSource: "admin", Username: AdminUser, Password: string(a.password.Reveal()),
		})
	}
	c, err := mongo.Connect(o)
	if err != nil {
		return fmt.Errorf("connect to node: %w", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = c.Disconnect(end)
	}()
	return fn(c)
}

func run(ctx context.Context, c *mongo.Client, db string, cmd bson.D) error {
	if err := c.Database(db).RunCommand(ctx, cmd).Err(); err != nil {
		return fmt.Errorf("%s on node: %w", cmd[0].Key, err)
	}
	return nil
}

func hasCode(err error, code int) bool {
	var se mongo.ServerError
	return errors.As(err, &se) && se.HasErrorCode(code)
}

// isAuthentication tells whether the node refused who we are. A refused handshake
// comes out of the driver as a CommandError too, with the server's code.
func isAuthentication(err error) bool {
	return hasCode(err, codeAuthentication) || hasCode(err, codeUnauthorized)
}
