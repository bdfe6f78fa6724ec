package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/keys"
)

// ExitKey is the exit code of a node that did not get its master key, or whose key
// is not active any more: mongod's 1001, of which the operating system keeps 233.
const ExitKey = 233

// Spec is everything a node's process needs to start.
type Spec struct {
	Node       keys.NodeID
	DBPath     string
	Port       int
	ReplicaSet string
	LogPath    string
	// TLSFile holds the node's private key and certificate, TLSCAFile the
	// authority of the databases.
	TLSFile   string
	TLSCAFile string
	// KMIP is nil for a node without customer key.
	KMIP *KMIP
}

// KMIP is the way to the agent's KMIP server.
type KMIP struct {
	Host         string
	Port         int
	ClientFile   string
	ServerCAFile string
	// StatePolling is the time between a node's own looks at its key's state.
	StatePolling time.Duration
}

// Rewrite says how a stopped node's files are written anew beside themselves.
type Rewrite struct {
	Spec
	// From and To are data directories; To must not exist.
	From, To string
	// FromEncrypted and ToEncrypted say what is under a customer key.
	FromEncrypted, ToEncrypted bool
}

// Driver is one engine.
type Driver interface {
	// Start gives the command line of a node.
	Start(s Spec) []string
	// Rewrite gives the command line that copies a stopped node's data into a new
	// directory and exits with 0 only when the copy is whole, verified and durable.
	Rewrite(r Rewrite) []string
	// Serves tells whether a process with this command line is a serving node of the
	// data directory, as opposed to a rewrite of it.
	Serves(args []string, dbPath string) bool
	// Grace is the time between SIGTERM and SIGKILL when a key was taken away
	// (key-plane rule 16).
	Grace() time.Duration
	// MasterKey reads which master key the files in a data directory name. It needs
	// no key. A directory without encryption gives an error.
	MasterKey(dbPath string) (keys.KeyID, error)
	// MasterKeys lists every master key that any file in a data directory names, sorted;
	// none for a directory without encryption.
	MasterKeys(dbPath string) ([]keys.KeyID, error)
}

// Bundled is the engine in the program itself, `keywright mongod`.
type Bundled struct {
	// Executable is the path of the program.
	Executable string
}

// Grace is one second: the bundled engine's log makes every acknowledged write
// durable, so a kill loses nothing.
func (Bundled) Grace() time.Duration { return time.Second }

// Start implements Driver with the options of the real mongod.
func (b Bundled) Start(s Spec) []string {
	args := []string{
		b.Executable, "mongod", "--dbpath", s.DBPath, "--port", fmt.Sprint(s.Port), "--bind_ip", "127.0.0.1",
		"--replSet", s.ReplicaSet, "--auth", "--logpath", s.LogPath, "--nodeId", string(s.Node),
		"--tlsMode", "requireTLS", "--tlsCertificateKeyFile", s.TLSFile, "--tlsCAFile", s.TLSCAFile,
	}
	if s.KMIP != nil {
		args = append(append(args, "--enableEncryption"), kmipArgs(*s.KMIP)...)
	}
	return args
}

// Serves implements Driver.
func (Bundled) Serves(args []string, dbPath string) bool {
	i := slices.Index(args, "--dbpath")
	return i >= 0 && i+1 < len(args) && args[i+1] == dbPath
}

// MasterKey implements Driver: the newest keyring names it.
func (Bundled) MasterKey(dbPath string) (keys.KeyID, error) {
	all, err := keyrings(dbPath)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("no keyring in %s", dbPath)
	}
	return all[slices.Max(slices.Collect(maps.Keys(all)))], nil
}

// MasterKeys implements Driver.
func (Bundled) MasterKeys(dbPath string) ([]keys.KeyID, error) {
	all, err := keyrings(dbPath)
	if err != nil {
		return nil, err
	}
	return slices.Compact(slices.Sorted(maps.Values(all))), nil
}

// keyringTries is how often the list of keyrings is taken anew when one was replaced
// while they were read.
const keyringTries = 20

// keyrings maps the generations of a directory's keyrings to the keys that they name.
func keyrings(dbPath string) (map[uint64]keys.KeyID, error) {
	var err error
	for range keyringTries {
		var files []string
		if files, err = filepath.Glob(filepath.Join(dbPath, "keyring.*")); err != nil {
			return nil, fmt.Errorf("list keyrings: %w", err)
		}
		out := map[uint64]keys.KeyID{}
		for _, f := range files {
			if strings.HasSuffix(f, ".tmp") {
				continue
			}
			var gen uint64
			var id keys.KeyID
			if gen, id, _, err = cryptofs.InspectKeyring(vfs.Default, f); err != nil {
				break
			}
			out[gen] = id
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return out, err
		}
	}
	return nil, err
}

// Rewrite implements Driver.
func (b Bundled) Rewrite(r Rewrite) []string {
	args := []string{
		b.Executable, "mongod", "rewrite", "--from", r.From, "--to", r.To, "--nodeId", string(r.Node),
		fmt.Sprintf("--fromEncrypted=%t", r.FromEncrypted), fmt.Sprintf("--toEncrypted=%t", r.ToEncrypted),
	}
	if r.KMIP != nil {
		args = append(args, kmipArgs(*r.KMIP)...)
	}
	return args
}

func kmipArgs(k KMIP) []string {
	return []string{
		"--kmipServerName", k.Host, "--kmipPort", fmt.Sprint(k.Port),
		"--kmipClientCertificateFile", k.ClientFile, "--kmipServerCAFile", k.ServerCAFile,
		"--kmipKeyStatePollingSeconds", fmt.Sprint(max(1, int(k.StatePolling.Seconds()))),
	}
}
