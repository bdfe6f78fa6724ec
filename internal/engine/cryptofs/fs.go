package cryptofs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options of an FS.
type Options struct {
	// Database is the database whose files the FS reads and writes.
	Database DatabaseID
	// Keyset holds its data keys.
	Keyset *Keyset
}

// FS encrypts the files of one database. It implements vfs.FS with the limits
// that the package comment names, and is safe for concurrent use.
type FS struct {
	base   vfs.FS
	opts   Options
	random io.Reader // of salts and nonce prefixes
}

var _ vfs.FS = (*FS)(nil)

// New puts encryption above base. Disk health checks and disk-full handling
// belong below, into base.
func New(base vfs.FS, opts Options) (*FS, error) {
	if base == nil {
		return nil, errors.New("cryptofs: a base file system is needed")
	}
	if opts.Keyset == nil {
		return nil, errors.New("cryptofs: a keyset is needed")
	}
	return &FS{base: base, opts: opts, random: rand.Reader}, nil
}

// Create implements vfs.FS. The file uses the primary key and a fresh salt.
func (fs *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	n, err := parseName(fs.base.PathBase(name))
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	if n.kind == KindMarker {
		return fs.createMarker(name, n, category)
	}
	base, err := fs.base.Create(name, category)
	if err != nil {
		return nil, err
	}
	f, err := fs.newWriter(base, name, n, FileHeader{})
	if err != nil {
		_ = base.Close()
		return nil, err
	}
	return f, nil
}

// createMarker writes a whole marker, since Pebble neither writes nor syncs it:
// what the marker names has to be durable before the marker can be.
func (fs *FS) createMarker(name string, n fileName, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := syncDirectory(fs.base, fs.base.PathDir(name)); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	base, err := fs.base.Create(name, category)
	if err != nil {
		return nil, err
	}
	f, err := fs.newWriter(base, name, n, FileHeader{})
	if err != nil {
		_ = base.Close()
		return nil, err
	}
	if err = f.(*segmentWriter).finish(); err == nil {
		err = base.Sync()
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return f, nil
}

// Open implements vfs.FS. The file's header and, for a file of segments, its
// last segment are authenticated before Open returns.
func (fs *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	n, err := parseName(fs.base.PathBase(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	base, err := fs.base.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	f, err := fs.newReader(base, name, n, opts)
	if err != nil {
		_ = base.Close()
		return nil, err
	}
	return f, nil
}

// OpenReadWrite is refused: written files are never changed in place.
func (fs *FS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, fmt.Errorf("open %s for reading and writing: %w", name, vfs.ErrUnsupported)
}

// VerifyFile reads and authenticates the whole file, of whatever kind.
func (fs *FS) VerifyFile(name string) error {
	f, err := fs.Open(name, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

// Link implements vfs.FS for names that a file's content is not bound to: the
// base name stays the same. Otherwise the error is ErrNameBound, on which
// vfs.LinkOrCopy copies.
func (fs *FS) Link(oldname, newname string) error {
	if err := fs.sameName("link", oldname, newname); err != nil {
		return err
	}
	return fs.base.Link(oldname, newname)
}

// Rename implements vfs.FS with the limit of Link. Directories may be renamed.
func (fs *FS) Rename(oldname, newname string) error {
	if err := fs.sameName("rename", oldname, newname); err != nil {
		if info, statErr := fs.base.Stat(oldname); statErr != nil || !info.IsDir() {
			return err
		}
	}
	return fs.base.Rename(oldname, newname)
}

func (fs *FS) sameName(op, oldname, newname string) error {
	a, err := parseName(fs.base.PathBase(oldname))
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, oldname, err)
	}
	b, err := parseName(fs.base.PathBase(newname))
	if err != nil {
		return fmt.Errorf("%s to %s: %w", op, newname, err)
	}
	if a.canonical != b.canonical {
		return fmt.Errorf("%s %s to %s: %w", op, oldname, newname, ErrNameBound)
	}
	return nil
}

// ReuseForWrite removes the old file and creates the new one.
func (fs *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.base.Remove(oldname); err != nil {
		return nil, err
	}
	return fs.Create(newname, category)
}

// Stat implements vfs.FS. The size of a file of segments is that of its
// plaintext; of logs and manifests it is the stored size without headers, which
// is at least that of the plaintext.
func (fs *FS) Stat(name string) (vfs.FileInfo, error) {
	info, err := fs.base.Stat(name)
	if err != nil || info.IsDir() {
		return info, err
	}
	base := fs.base.PathBase(name)
	if base == lockName {
		return info, nil
	}
	n, err := parseName(base)
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	size, err := plainSize(name, n.kind.layout(), info.Size())
	if err != nil {
		return nil, err
	}
	return sizedInfo{FileInfo: info, size: size}, nil
}

// plainSize computes what Stat reports from the stored size.
func plainSize(path string, l Layout, stored int64) (int64, error) {
	if l == LayoutFrames {
		return max(0, stored-framesStart), nil
	}
	g, err := newGeometry(path, l, stored)
	if err != nil {
		return 0, err
	}
	return g.plain, nil
}

type sizedInfo struct {
	vfs.FileInfo
	size int64
}

// Size is the plaintext size.
func (i sizedInfo) Size() int64 { return i.size }

// OpenDir implements vfs.FS.
func (fs *FS) OpenDir(name string) (vfs.File, error) { return fs.base.OpenDir(name) }

// Remove implements vfs.FS.
func (fs *FS) Remove(name string) error { return fs.base.Remove(name) }

// RemoveAll implements vfs.FS.
func (fs *FS) RemoveAll(name string) error { return fs.base.RemoveAll(name) }

// MkdirAll implements vfs.FS.
func (fs *FS) MkdirAll(dir string, perm os.FileMode) error { return fs.base.MkdirAll(dir, perm) }

// Lock implements vfs.FS; the lock file is empty and in clear.
func (fs *FS) Lock(name string) (io.Closer, error) { return fs.base.Lock(name) }

// List implements vfs.FS.
func (fs *FS) List(dir string) ([]string, error) { return fs.base.List(dir) }

// PathBase implements vfs.FS.
func (fs *FS) PathBase(path string) string { return fs.base.PathBase(path) }

// PathJoin implements vfs.FS.
func (fs *FS) PathJoin(elem ...string) string { return fs.base.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (fs *FS) PathDir(path string) string { return fs.base.PathDir(path) }

// GetDiskUsage implements vfs.FS.
func (fs *FS) GetDiskUsage(path string) (vfs.DiskUsage, error) { return fs.base.GetDiskUsage(path) }

// Unwrap gives the underlying file system.
func (fs *FS) Unwrap() vfs.FS { return fs.base }
