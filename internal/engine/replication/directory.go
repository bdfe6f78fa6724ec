package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
)

// Names in a data directory.
const (
	// ManifestName is the file that makes a directory a node's. It is written
	// last, so a directory that has it is whole.
	ManifestName = "keywright.json"

	manifestVersion = 1
	engineFormat    = 1
	markCreating    = "creating"
	markRewriting   = "rewriting"
	dirReplication  = "replication"
	dirDatabases    = "db"
	dirSnapshots    = "snapshots"
	dirTemporary    = "tmp"
	maxManifest     = 64 << 10
)

// Manifest is what keywright.json says.
type Manifest struct {
	// Version is that of the directory's layout.
	Version int `json:"version"`
	// Node is the node's identity.
	Node keys.NodeID `json:"node"`
	// Encrypted tells whether the databases' files are.
	Encrypted bool `json:"encrypted"`
	// Log is the id of the replicated log's instance.
	Log string `json:"log"`
	// EngineFormat is the version of what stands in the databases.
	EngineFormat int `json:"engineFormat"`
}

// ReadManifest reads the manifest of a data directory. For a directory that is no
// node's the error is os.ErrNotExist.
func ReadManifest(fs vfs.FS, dir string) (Manifest, error) {
	path := fs.PathJoin(dir, ManifestName)
	f, err := fs.Open(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("read %s: %w", path, err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err := errors.Join(err, f.Close()); err != nil {
		return Manifest{}, fmt.Errorf("read %s: %w", path, err)
	}
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("read %s: %w", path, err)
	}
	if m.Version > manifestVersion || m.EngineFormat > engineFormat {
		return Manifest{}, fmt.Errorf("%s was written by a newer program (version %d, engine format %d; this program knows %d, %d): use that one",
			path, m.Version, m.EngineFormat, manifestVersion, engineFormat)
	}
	if m.Version < 1 || m.EngineFormat < 1 {
		return Manifest{}, fmt.Errorf("%s has no version", path)
	}
	if err := keys.CheckID("the node of "+path, string(m.Node)); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// directory is an opened data directory.
type directory struct {
	fs    vfs.FS
	dir   string
	files storage.Files
	Manifest
	log   storage.DatabaseID
	fresh bool // it has no manifest yet
}

func (d *directory) join(elem ...string) string {
	return d.fs.PathJoin(append([]string{d.dir}, elem...)...)
}

// openDirectory finds out whose directory it is, or begins a new one.
func openDirectory(cfg Config) (*directory, error) {
	d := &directory{fs: cfg.Files.Base(), dir: cfg.Dir, files: cfg.Files}
	m, err := ReadManifest(d.fs, d.dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return d, d.begin(cfg)
	case err != nil:
		return nil, err
	case m.Encrypted != cfg.Files.Encrypted():
		return nil, fmt.Errorf("%s says encrypted=%v, but the node was started with encryption=%v: start it as it was made, or rewrite it",
			d.join(ManifestName), m.Encrypted, cfg.Files.Encrypted())
	case cfg.Node != "" && cfg.Node != m.Node:
		return nil, fmt.Errorf("%s belongs to node %s, not to %s", d.join(ManifestName), m.Node, cfg.Node)
	}
	d.Manifest = m
	if d.log, err = cryptofs.ParseDatabaseID(m.Log); err != nil {
		return nil, fmt.Errorf("%s: %w", d.join(ManifestName), err)
	}
	return d, nil
}

// begin starts a new directory. What an interrupted creation left goes, for it
// never held anything; anything else is left alone.
func (d *directory) begin(cfg Config) error {
	if d.exists(markRewriting) {
		return fmt.Errorf("%s is the target of a rewrite that did not end: use the source, or rewrite again", d.dir)
	}
	if !d.exists(markCreating) {
		for _, sub := range []string{dirReplication, dirDatabases} {
			if names, err := d.fs.List(d.join(sub)); err == nil && len(names) > 0 {
				return fmt.Errorf("%s holds data but no %s: it is not touched; put the file back or use another directory", d.dir, ManifestName)
			}
		}
	}
	return d.create(cfg, markCreating)
}

func (d *directory) exists(name string) bool {
	_, err := d.fs.Stat(d.join(name))
	return err == nil
}

// create empties the directory and marks it as being made.
func (d *directory) create(cfg Config, mark string) error {
	if err := d.fs.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := d.sync(d.fs.PathDir(d.dir)); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := d.write(mark, []byte("{\"version\":1}\n")); err != nil {
		return err
	}
	for _, sub := range []string{dirReplication, dirDatabases, dirSnapshots, dirTemporary} {
		if err := d.fs.RemoveAll(d.join(sub)); err != nil {
			return fmt.Errorf("create data directory: %w", err)
		}
	}
	d.fresh = true
	d.log = cryptofs.NewDatabaseID()
	d.Manifest = Manifest{Version: manifestVersion, Node: cfg.Node, Encrypted: cfg.Files.Encrypted(), Log: d.log.String(), EngineFormat: engineFormat}
	_, err := cfg.Files.Create(d.log)
	if err != nil {
		return fmt.Errorf("create files of the replicated log: %w", err)
	}
	return nil
}

// finish makes a new directory a node's.
func (d *directory) finish(mark string) error {
	raw, err := json.Marshal(d.Manifest)
	if err != nil {
		return err
	}
	if err := d.write(ManifestName, append(raw, '\n')); err != nil {
		return err
	}
	d.fresh = false
	if err := d.fs.Remove(d.join(mark)); err != nil {
		return fmt.Errorf("finish data directory: %w", err)
	}
	return d.sync(d.dir)
}

// write replaces a small file durably.
func (d *directory) write(name string, content []byte) error {
	path, tmp := d.join(name), d.join(name+".tmp")
	f, err := d.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := d.fs.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return d.sync(d.dir)
}

func (d *directory) sync(dir string) error {
	f, err := d.fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// prepareTemporary makes the directories for snapshots and temporaries; the
// latter empty.
func (d *directory) prepareTemporary() error {
	if err := d.fs.RemoveAll(d.join(dirTemporary)); err != nil {
		return fmt.Errorf("empty %s: %w", dirTemporary, err)
	}
	for _, sub := range []string{dirSnapshots, dirTemporary} {
		if err := d.fs.MkdirAll(d.join(sub), 0o700); err != nil {
			return fmt.Errorf("create %s: %w", sub, err)
		}
	}
	return d.sync(d.dir)
}
