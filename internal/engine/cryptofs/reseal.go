package cryptofs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Usage is what the files under one key take.
type Usage struct {
	Files int
	Bytes int64
}

// seenFile is a file whose header was read.
type seenFile struct {
	size    int64
	changed time.Time
	key     uint32
}

// Usage counts the files of directories by the key that their headers name, and the
// files that are being written by theirs. Directories below, LOCK, and files that a
// crash left without a header do not count; a directory that does not exist is empty.
// The headers of tables are remembered unless fresh is set.
func (fs *FS) Usage(fresh bool, dirs ...string) (map[uint32]Usage, error) {
	out := map[uint32]Usage{}
	for _, o := range fs.opts.Keyset.written() {
		out[o.key] = Usage{} // its file may not have a header yet
	}
	err := fs.eachFile(dirs, func(path string, info vfs.FileInfo) error {
		key, ok, err := fs.keyOf(path, info, fresh)
		if err != nil || !ok {
			return err
		}
		u := out[key]
		out[key] = Usage{Files: u.Files + 1, Bytes: u.Bytes + info.Size()}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count files by key: %w", err)
	}
	return out, nil
}

func (k *Keyset) written() []openFile {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out := make([]openFile, 0, len(k.open))
	for o := range k.open {
		out = append(out, *o)
	}
	return out
}

// eachFile calls fn for the encrypted files of directories; ones that go meanwhile
// are passed over.
func (fs *FS) eachFile(dirs []string, fn func(path string, info vfs.FileInfo) error) error {
	for _, dir := range dirs {
		names, err := fs.base.List(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			path := fs.base.PathJoin(dir, name)
			info, err := fs.base.Stat(path)
			if err == nil && !info.IsDir() && name != lockName {
				err = fn(path, info)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// keyOf reads the key that a file names; ok is false for one without a header.
func (fs *FS) keyOf(path string, info vfs.FileInfo, fresh bool) (key uint32, ok bool, err error) {
	ks := fs.opts.Keyset
	if !fresh {
		ks.seenMu.Lock()
		s, hit := ks.seen[path]
		ks.seenMu.Unlock()
		if hit && s.size == info.Size() && s.changed.Equal(info.ModTime()) {
			return s.key, true, nil
		}
	}
	if info.Size() < headerSize {
		return 0, false, nil
	}
	h, err := InspectFile(fs.base, path)
	if err != nil {
		if zero, zerr := startsWithZeros(fs.base, path); zerr == nil && zero {
			return 0, false, nil
		}
		return 0, false, err
	}
	if h.Kind == KindTable || h.Kind == KindBlob {
		ks.seenMu.Lock()
		if ks.seen == nil || len(ks.seen) > maxSeen {
			ks.seen = map[string]seenFile{}
		}
		ks.seen[path] = seenFile{size: info.Size(), changed: info.ModTime(), key: h.KeyID}
		ks.seenMu.Unlock()
	}
	return h.KeyID, true, nil
}

// maxSeen bounds the headers that a keyset remembers.
const maxSeen = 1 << 16

func startsWithZeros(fs vfs.FS, path string) (bool, error) {
	f, err := fs.Open(path)
	if err != nil {
		return false, err
	}
	b := make([]byte, headerSize)
	err = readFull(f, path, b, 0)
	return zeros(b), errors.Join(err, f.Close())
}

// resealBlock is how much of a file is rewritten between two calls of pace.
const resealBlock = 1 << 20

// Reseal writes every file of dir that is not under the primary key anew under it: the
// same bytes under the same name, taken in place of the old file when they are durable.
// Whoever has the old file open keeps it. A log or manifest is rewritten while it is
// being written; another file that is being written is passed over. tmp is a directory of
// the same file system, for this alone. pace is called after every mebibyte. A crash
// leaves the old file or the new one.
func (fs *FS) Reseal(dir, tmp string, pace func() error) error {
	err := fs.eachFile([]string{dir}, func(path string, info vfs.FileInfo) error {
		key, ok, err := fs.keyOf(path, info, true)
		if err != nil || !ok || key == fs.opts.Keyset.Primary() {
			return err
		}
		if err := fs.base.MkdirAll(tmp, 0o700); err != nil {
			return err
		}
		if err := fs.reseal(path, fs.base.PathJoin(tmp, fs.base.PathBase(path)), pace); err != nil {
			return err
		}
		return pace()
	})
	if err != nil {
		return fmt.Errorf("rewrite files under the newest key: %w", err)
	}
	return nil
}

func (fs *FS) reseal(path, tmp string, pace func() error) error {
	n, err := parseName(fs.base.PathBase(path))
	if err != nil {
		return err
	}
	if o := fs.opts.Keyset.writing(path); o != nil {
		if o.log != nil {
			return o.log.reseal(fs, o, n, tmp)
		}
		return nil
	}
	f, err := fs.copyFile(path, tmp, n, pace)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		// What was removed meanwhile is not to come back.
		_, err = fs.base.Stat(path)
	}
	if err == nil {
		err = fs.base.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(fs.base, tmp))
	}
	return syncDirectory(fs.base, fs.base.PathDir(path))
}

func removeIfThere(fs vfs.FS, path string) error {
	if err := fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// copyFile writes path anew as tmp, durably, and gives it open.
func (fs *FS) copyFile(path, tmp string, n fileName, pace func() error) (vfs.File, error) {
	src, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }()
	claims, err := InspectFile(fs.base, path)
	if err != nil {
		return nil, err
	}
	base, err := fs.base.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	dst, err := fs.newWriter(base, tmp, n, claims)
	if err != nil {
		return nil, errors.Join(err, base.Close())
	}
	for err == nil {
		if _, err = io.CopyN(plainWriter{dst}, src, resealBlock); err == nil {
			err = pace()
		}
	}
	if errors.Is(err, io.EOF) {
		err = dst.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, dst.Close(), removeIfThere(fs.base, tmp))
	}
	return dst, nil
}

// plainWriter hides that a file may have ways of its own to be copied to.
type plainWriter struct{ w io.Writer }

func (p plainWriter) Write(b []byte) (int, error) { return p.w.Write(b) }

// reseal goes over to a new file of the same name and content under the primary key.
// Writes and syncs wait: a manifest is small, and so is a log after a flush.
func (w *frameWriter) reseal(fs *FS, o *openFile, n fileName, tmp string) error {
	w.swap.Lock()
	defer w.swap.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return fmt.Errorf("rewrite %s: %w: %w", w.path, ErrPoisoned, w.err)
	}
	if fs.opts.Keyset.writing(w.path) != o {
		return nil // closed meanwhile
	}
	f, err := fs.copyFile(w.path, tmp, n, func() error { return nil })
	if err != nil {
		return err
	}
	next := f.(*frameWriter)
	if next.plain != w.plain {
		err = refuse(w.path, w.stored, nil, "%d bytes as were written, found %d", w.plain, next.plain)
	} else {
		err = fs.base.Rename(tmp, w.path)
	}
	if err != nil {
		return errors.Join(err, next.Close(), removeIfThere(fs.base, tmp))
	}
	old := w.base
	w.base, w.st, w.index, w.stored = next.base, next.st, next.index, next.stored
	fs.opts.Keyset.take(o, next)
	if err := syncDirectory(fs.base, fs.base.PathDir(w.path)); err != nil {
		return errors.Join(w.fail("rewrite", err), old.Close())
	}
	return old.Close()
}

// take gives the place and the key of the file that next wrote to o.
func (k *Keyset) take(o *openFile, next *frameWriter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.open {
		if c.log == next {
			o.key = c.key
			delete(k.open, c)
		}
	}
}
