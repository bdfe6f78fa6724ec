package storage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

// The stream of a whole node, as a new member receives it: the magic, a version
// byte, and parts. A part is its kind (1), the length of the key (uvarint), the
// length of the value (uvarint), key and value:
//
//	'S'   a key and value of the state
//	'D'   begin of a database: key is its id
//	'K'   a key and value of the database
//	'E'   end of the database: value is the number of keys(8), SHA-256 of the parts 'K'
//	'Z'   end: value is the number of databases(4), SHA-256 of the parts 'S'
//
// Everything is in clear: it travels over TLS, and each node encrypts it on disk
// under its own keys.
const (
	streamMagic   = "KWSN\r\n\x1a\n"
	streamVersion = 1
	maxStreamKey  = 128 << 20
	maxStreamPart = 32 << 20
	importBatch   = 4 << 20
)

// Export writes the whole node. Parts may be of different, later moments than the
// call: each says up to which entry of the log it was applied, and the log's
// entries from the call on bring them together.
func (s *Store) Export(ctx context.Context, w io.Writer) error {
	buf := bufio.NewWriterSize(w, 256<<10)
	s.applyMu.Lock()
	dbs := s.all()
	snap := s.cfg.State.NewSnapshot()
	applied := s.state.time
	s.applyMu.Unlock()
	defer s.unpin(dbs)
	defer func() { _ = snap.Close() }()
	if _, err := buf.WriteString(streamMagic + string(rune(streamVersion))); err != nil {
		return err
	}
	e := &exporter{w: buf, sum: sha256.New()}
	for _, p := range [][]byte{{stateVersion[0]}, {prefixName}, {prefixRetry}} {
		err := each(snap, p, func(k, v []byte) error {
			switch string(k) {
			case stateKeyring, stateRestored, stateTime:
				return nil
			}
			return e.part('S', k, v)
		})
		if err != nil {
			return fmt.Errorf("export state: %w", err)
		}
	}
	if err := e.part('S', []byte(stateTime), encodeTime(applied)); err != nil {
		return err
	}
	stateSum := e.sum.Sum(nil)
	for _, d := range dbs {
		if err := s.exportDatabase(ctx, e, d); err != nil {
			return fmt.Errorf("export database %s: %w", d.id, err)
		}
	}
	end := binary.BigEndian.AppendUint32(nil, uint32(len(dbs))) //nolint:gosec // a small number
	return errors.Join(e.part('Z', nil, append(end, stateSum...)), buf.Flush())
}

func (s *Store) exportDatabase(ctx context.Context, e *exporter, d *database) error {
	if err := s.acquire(d); err != nil {
		return err
	}
	r := d.snapshot()
	defer r.Close()
	if err := e.part('D', d.id[:], nil); err != nil {
		return err
	}
	e.sum, e.count = sha256.New(), 0
	err := each(r.snap, nil, func(k, v []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return e.part('K', k, v)
	})
	if err != nil {
		return err
	}
	return e.part('E', nil, e.sum.Sum(binary.BigEndian.AppendUint64(nil, e.count)))
}

type exporter struct {
	w     *bufio.Writer
	sum   hash.Hash
	count uint64
}

func (e *exporter) part(kind byte, k, v []byte) error {
	head := binary.AppendUvarint([]byte{kind}, uint64(len(k)))
	head = binary.AppendUvarint(head, uint64(len(v)))
	for _, b := range [][]byte{head, k, v} {
		if kind == 'K' || kind == 'S' {
			_, _ = e.sum.Write(b)
		}
		if _, err := e.w.Write(b); err != nil {
			return err
		}
	}
	e.count++
	return nil
}

// Import replaces everything that the node holds by an exported stream. It is
// not atomic: until it returned nil the node must not be used, and after a crash
// it is to be called again. id is noted as the snapshot that was restored; keep as in
// RemoveUnreferenced.
func (s *Store) Import(ctx context.Context, r io.Reader, id string, keep ...DatabaseID) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.clear(keep); err != nil {
		return fmt.Errorf("import: remove old databases: %w", err)
	}
	m := &importer{store: s, r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New()}
	state, err := m.run(ctx)
	if err != nil {
		return fmt.Errorf("import: %w", errors.Join(err, m.abandon()))
	}
	b := s.cfg.State.NewBatch()
	defer func() { _ = b.Close() }()
	keyring, err := get(s.cfg.State, []byte(stateKeyring))
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	err = b.DeleteRange([]byte{stateVersion[0]}, []byte{prefixFlushed + 1}, nil)
	if keyring != nil {
		err = errors.Join(err, b.Set([]byte(stateKeyring), keyring, nil))
	}
	err = errors.Join(err, b.Set([]byte(stateRestored), []byte(id), nil), b.Apply(state, nil), b.Commit(pebble.Sync))
	if err != nil {
		return fmt.Errorf("import: write state: %w", err)
	}
	return s.reload()
}

// Restored is the id of the snapshot that Import noted last.
func (s *Store) Restored() (string, error) {
	v, err := get(s.cfg.State, []byte(stateRestored))
	return string(v), err
}

// clear removes all databases; none may have a reader.
func (s *Store) clear(keep []DatabaseID) error {
	s.mu.Lock()
	for _, d := range s.byID {
		if d.refs > 0 {
			s.mu.Unlock()
			return fmt.Errorf("database %s is in use", d.id)
		}
	}
	s.mu.Unlock()
	for _, d := range s.all() {
		s.mu.Lock()
		d.pins--
		s.mu.Unlock()
		s.forget(d)
	}
	b := s.cfg.State.NewBatch()
	defer func() { _ = b.Close() }()
	return errors.Join(
		b.DeleteRange([]byte{prefixName}, []byte{prefixName + 1}, nil),
		b.DeleteRange([]byte{prefixFlushed}, []byte{prefixFlushed + 1}, nil),
		b.Commit(pebble.Sync),
		s.RemoveUnreferenced(keep...))
}

type importer struct {
	store *Store
	r     *bufio.Reader
	sum   hash.Hash
	count uint64
	dbs   uint32
	open  *database
	batch *pebble.Batch
}

// run reads the stream and gives the batch of the state.
func (m *importer) run(ctx context.Context) (*pebble.Batch, error) {
	head := make([]byte, len(streamMagic)+1)
	if _, err := io.ReadFull(m.r, head); err != nil {
		return nil, fmt.Errorf("read the head: %w", err)
	}
	if string(head[:len(streamMagic)]) != streamMagic {
		return nil, errors.New("this is no stream of a node")
	}
	if v := head[len(streamMagic)]; v != streamVersion {
		return nil, fmt.Errorf("version %d of the stream is not known, this program knows version %d", v, streamVersion)
	}
	state := m.store.cfg.State.NewBatch()
	var stateSum []byte
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		kind, k, v, err := m.part()
		if err != nil {
			return nil, fmt.Errorf("the stream is damaged or incomplete: %w", err)
		}
		switch kind {
		case 'S':
			if len(k) == 0 || k[0] < stateVersion[0] || k[0] > prefixRetry {
				return nil, errors.New("the stream holds a foreign key")
			}
			err = state.Set(k, v, nil)
			stateSum = m.sum.Sum(nil)
		case 'D':
			err = m.begin(k)
		case 'K':
			err = m.put(k, v)
		case 'E':
			err = m.end(v)
		case 'Z':
			want := append(binary.BigEndian.AppendUint32(nil, m.dbs), stateSum...)
			if m.open != nil || !bytes.Equal(v, want) {
				return nil, errors.New("the stream's end does not fit what came before")
			}
			return state, nil
		default:
			err = fmt.Errorf("part of unknown kind %d", kind)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (m *importer) part() (kind byte, k, v []byte, err error) {
	if kind, err = m.r.ReadByte(); err != nil {
		return 0, nil, nil, err
	}
	kn, err := binary.ReadUvarint(m.r)
	if err != nil {
		return 0, nil, nil, err
	}
	vn, err := binary.ReadUvarint(m.r)
	if err != nil {
		return 0, nil, nil, err
	}
	if kn > maxStreamKey || vn > maxStreamPart {
		return 0, nil, nil, errors.New("a part is too long")
	}
	var body bytes.Buffer // grows with what really comes
	if _, err := io.CopyN(&body, m.r, int64(kn+vn)); err != nil {
		return 0, nil, nil, err
	}
	k, v = body.Bytes()[:kn], body.Bytes()[kn:]
	if kind == 'K' || kind == 'S' {
		head := binary.AppendUvarint(binary.AppendUvarint([]byte{kind}, kn), vn)
		_, _ = m.sum.Write(head)
		_, _ = m.sum.Write(body.Bytes())
	}
	m.count++
	return kind, k, v, nil
}

func (m *importer) begin(k []byte) error {
	if m.open != nil || len(k) != 16 {
		return errors.New("a database begins out of place")
	}
	m.sum, m.count = sha256.New(), 0
	d := &database{store: m.store, id: cryptofs.DatabaseID(k)}
	if err := m.store.fs().RemoveAll(m.store.databaseDir(d.id)); err != nil {
		return err
	}
	if err := m.store.PrepareDatabase(d.id); err != nil {
		return err
	}
	if err := d.open(true); err != nil {
		return err
	}
	m.open, m.batch = d, d.db.NewBatch()
	return nil
}

func (m *importer) put(k, v []byte) error {
	if m.open == nil {
		return errors.New("a key stands outside of a database")
	}
	if err := m.batch.Set(k, v, nil); err != nil {
		return err
	}
	if m.batch.Len() < importBatch {
		return nil
	}
	err := m.batch.Commit(pebble.NoSync)
	m.batch.Reset()
	return err
}

// end makes the database durable and closes it.
func (m *importer) end(v []byte) error {
	if m.open == nil {
		return errors.New("a database ends out of place")
	}
	if want := m.sum.Sum(binary.BigEndian.AppendUint64(nil, m.count-1)); !bytes.Equal(v, want) {
		return errors.New("a database's checksum is wrong")
	}
	d := m.open
	m.open = nil
	m.dbs++
	err := m.batch.Commit(pebble.NoSync)
	if err == nil {
		err = d.db.Flush()
	}
	err = errors.Join(err, m.batch.Close(), d.db.Close())
	return err
}

func (m *importer) abandon() error {
	if m.open == nil {
		return nil
	}
	return errors.Join(m.batch.Close(), m.open.db.Close())
}
