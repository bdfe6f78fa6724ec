package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// HeadFormat names a file of signed heads.
	HeadFormat = "keywright-audit-heads"
	// HeadVersion is the version of such a file and of what is signed.
	HeadVersion = 1
	// maxHeads bounds such a file, in bytes.
	maxHeads = 8 << 20
	// ControlPlane is the chain of the control plane; that of a host is HostChain.
	ControlPlane = "control-plane"
)

// HostChain names the chain of a host.
func HostChain(host string) string { return "host:" + host }

// ErrHeadSignature means that a head was not signed by who its certificate names, or was
// changed.
var ErrHeadSignature = errors.New("the audit head's signature does not fit")

// SignedHead is the end of a chain at some time, signed by who writes the chain: a host
// with the key of its link certificate, the control plane with a key that the
// deployment's link authority certified.
type SignedHead struct {
	Deployment string `json:"deployment"`
	// Chain is ControlPlane or HostChain.
	Chain string `json:"chain"`
	Head
	// Time is when it was signed, in UTC with microseconds.
	Time time.Time `json:"time"`
	// Certificate (PEM) is of the key that signed, Signature an ECDSA signature (ASN.1)
	// over SHA-256 of Canonical.
	Certificate string `json:"certificate,omitempty"`
	Signature   []byte `json:"signature,omitempty"`
}

// Canonical gives the bytes that are signed: the text "keywright/audit-head", the
// version byte, the deployment and the chain (each with its length as 32 bits), the
// sequence number, the time in microseconds since 1970 (64 bits each), and the hash.
func (h SignedHead) Canonical() []byte {
	b := append([]byte("keywright/audit-head"), HeadVersion)
	b = appendText(appendText(b, h.Deployment), h.Chain)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time.UnixMicro()))
	return append(b, h.Hash[:]...)
}

// Sign signs the head as of now. signer holds an ECDSA key.
func (h SignedHead) Sign(signer crypto.Signer, now time.Time) (SignedHead, error) {
	h.Time = now.UTC().Truncate(time.Microsecond)
	sum := sha256.Sum256(h.Canonical())
	var err error
	if h.Signature, err = signer.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return h, fmt.Errorf("sign audit head: %w", err)
	}
	return h, nil
}

// Check verifies the signature by the key of cert: ErrHeadSignature. Whether cert is to
// be believed is the caller's to judge.
func (h SignedHead) Check(cert *x509.Certificate) error {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	sum := sha256.Sum256(h.Canonical())
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], h.Signature) {
		return ErrHeadSignature
	}
	return nil
}

// Heads is a file of signed heads, to be kept elsewhere.
type Heads struct {
	Format  string       `json:"format"`
	Version int          `json:"version"`
	Heads   []SignedHead `json:"heads"`
}

// ReadHeads reads a file of heads: one of Heads, whose signatures it checks against the
// certificates in it, or a bare Head, which stands for every chain.
func ReadHeads(path string) ([]SignedHead, error) {
	f, err := os.Open(path) //nolint:gosec // the caller's own path
	if err != nil {
		return nil, fmt.Errorf("read kept head: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxHeads))
	if err != nil {
		return nil, fmt.Errorf("read kept head: %w", err)
	}
	return ParseHeads(b)
}

// ParseHeads is ReadHeads for bytes.
func ParseHeads(b []byte) ([]SignedHead, error) {
	var file struct {
		Heads
		Head
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("read kept head: %w", err)
	}
	switch {
	case file.Format == "" && file.Seq > 0:
		return []SignedHead{{Head: file.Head}}, nil
	case file.Format != HeadFormat:
		return nil, errors.New("read kept head: this is no file of audit heads")
	case file.Version > HeadVersion:
		return nil, fmt.Errorf("read kept head: version %d is newer than this program, which knows %d", file.Version, HeadVersion)
	}
	for _, h := range file.Heads.Heads {
		if len(h.Signature) == 0 {
			continue // of an agent that does not sign
		}
		block, _ := pem.Decode([]byte(h.Certificate))
		if block == nil {
			return nil, fmt.Errorf("head of %s: %w", h.Chain, ErrHeadSignature)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("head of %s: %w", h.Chain, ErrHeadSignature)
		}
		if err := h.Check(cert); err != nil {
			return nil, fmt.Errorf("head of %s: %w", h.Chain, err)
		}
	}
	return file.Heads.Heads, nil
}

// HashesAt gives the hashes of the events with the given sequence numbers, from the file
// itself, which it verifies up to the end that this process has written: an event that
// the file does not have has a zero hash. The error is of class ErrBroken when somebody
// else has changed the file.
func (l *FileLog) HashesAt(seqs []uint64) ([]Head, error) {
	l.mu.Lock()
	path, size, end := l.f.Name(), l.size, l.head
	l.mu.Unlock()
	f, err := os.Open(path) //nolint:gosec // our own file
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	at := map[uint64]Hash{}
	for _, s := range seqs {
		at[s] = Hash{}
	}
	var v Verifier
	if _, err := readEvents(io.LimitReader(f, size), func(e Event) error {
		if _, asked := at[e.Seq]; asked {
			at[e.Seq] = e.Hash
		}
		return v.Check(e)
	}); err != nil {
		return nil, err
	}
	if v.Head() != end {
		return nil, fmt.Errorf("%w: the file ends at event %d, this process has written event %d", ErrBroken, v.Head().Seq, end.Seq)
	}
	out := make([]Head, 0, len(seqs))
	for _, s := range seqs {
		out = append(out, Head{Seq: s, Hash: at[s]})
	}
	return out, nil
}

// LastEvent gives the last whole event of a log file, zero of an empty one.
func LastEvent(path string) (last Event, err error) {
	f, err := os.Open(path) //nolint:gosec // the caller's own path
	if err != nil {
		return last, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	_, err = readEvents(f, func(e Event) error { last = e; return nil })
	return last, err
}
