package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/secret"
)

const (
	gib = 1 << 30
	mib = 1 << 20
	// filesWarn and filesFail are how many open files a process should and must have.
	filesWarn, filesFail = 64000, 4096
)

// authorities are what a host knows of its control plane.
type authorities struct {
	CAs agentlink.Authorities `json:"cas"`
}

// controlPlane looks whether the control plane answers with a certificate of the
// authority that this host pinned when it was enrolled.
func controlPlane(ctx context.Context, cfg Config) []Finding {
	const check = "control plane"
	u, err := url.Parse(cfg.ServerURL)
	if err != nil || u.Scheme != "https" || u.Port() == "" {
		return fail(check, fmt.Sprintf("%q is no address", cfg.ServerURL), "Give --server https://HOST:PORT, the address for agents.")
	}
	var id authorities
	roots := x509.NewCertPool()
	pinned := cfg.DataDir != "" && durable.ReadJSON(filepath.Join(cfg.DataDir, "identity.json"), &id) == nil && roots.AppendCertsFromPEM([]byte(id.CAs.Link))
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: agentlink.ServerName, RootCAs: roots}}
	if !pinned {
		d.Config.InsecureSkipVerify = true // nothing is sent, and the finding says that nothing was proven
	}
	c, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fail(check, fmt.Sprintf("%s cannot be reached: %v", cfg.ServerURL, err),
			"Check the address, the firewall, and that it is the control plane that this host was enrolled at (its authority must be the same).")
	}
	defer func() { _ = c.Close() }()
	if !pinned {
		return warn(check, cfg.ServerURL+" answers; whether it is the right one is not known before this host is enrolled", "")
	}
	conn, isTLS := c.(*tls.Conn)
	if !isTLS || len(conn.ConnectionState().PeerCertificates) == 0 {
		return fail(check, "the control plane shows no certificate", "Check the address.")
	}
	left := conn.ConnectionState().PeerCertificates[0].NotAfter.Sub(cfg.Now())
	return ok(check, fmt.Sprintf("%s answers with the right certificate, which ends in %d days", cfg.ServerURL, int(left.Hours()/24)))
}

// enrolment looks at this host's own certificate.
func enrolment(_ context.Context, cfg Config) []Finding {
	const check = "enrolment"
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "identity.json")); errors.Is(err, fs.ErrNotExist) {
		return warn(check, "this host is not enrolled", "Make a token (POST /api/keywright/v1/hosts/enrolmentTokens) and start the agent with --enroll-token-file.")
	}
	raw, err := os.ReadFile(filepath.Join(cfg.DataDir, "link.pem"))
	if err != nil {
		return fail(check, "the certificate of the agent link cannot be read: "+err.Error(), "Remove identity.json and enrol this host again under its name.")
	}
	defer clear(raw)
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			break
		}
		left := leaf.NotAfter.Sub(cfg.Now())
		if left <= 0 {
			return fail(check, "the certificate of the agent link has ended", "Remove identity.json and enrol this host again under its name.")
		}
		return ok(check, fmt.Sprintf("the certificate of the agent link ends in %d days and renews itself", int(left.Hours()/24)))
	}
	return fail(check, "the file with the certificate of the agent link is damaged", "Remove identity.json and enrol this host again under its name.")
}

// directory looks at the data directory: whose it is, who can read it, whether it can
// be written, how much room is left.
func directory(_ context.Context, cfg Config) []Finding {
	const check = "data directory"
	info, err := os.Stat(cfg.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warn(check, cfg.DataDir+" does not exist; the process makes it", "")
	case err != nil:
		return fail(check, err.Error(), "Give the process's user access to it.")
	case !info.IsDir():
		return fail(check, cfg.DataDir+" is no directory", "Name another with --data-dir.")
	case info.Mode().Perm()&0o077 != 0:
		return fail(check, fmt.Sprintf("%s has mode %04o: others can look into it", cfg.DataDir, info.Mode().Perm()), "chmod 700 "+cfg.DataDir)
	}
	var st unix.Stat_t
	if err := unix.Stat(cfg.DataDir, &st); err == nil && int(st.Uid) != os.Geteuid() {
		return fail(check, fmt.Sprintf("%s belongs to user %d, this is user %d", cfg.DataDir, st.Uid, os.Geteuid()), "Run this, and the process, as the user that owns it.")
	}
	f, err := os.CreateTemp(cfg.DataDir, ".doctor.*")
	if err == nil {
		_, err = f.Write([]byte("doctor\n"))
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return fail(check, "it cannot be written: "+err.Error(), "Mend the file system: without it no key is created and no audit event written, so nothing is released.")
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(cfg.DataDir, &fsys); err != nil {
		return warn(check, "its free space is not known: "+err.Error(), "")
	}
	free := fsys.Bavail * uint64(fsys.Bsize) //nolint:gosec // a block size is positive
	switch {
	case free < 100*mib:
		return fail(check, fmt.Sprintf("only %d MiB are free", free/mib), "Make room: a full disk stops new keys and the audit log.")
	case free < gib:
		return warn(check, fmt.Sprintf("only %d MiB are free", free/mib), "Make room: a full disk stops new keys and the audit log.")
	}
	return ok(check, fmt.Sprintf("%s: mode 0700, can be written, %d GiB free", cfg.DataDir, free/gib))
}

// files looks at the limit of open files, which the database nodes inherit.
func files(context.Context, Config) []Finding {
	const check = "open files"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return warn(check, "the limit is not known: "+err.Error(), "")
	}
	const remedy = "Set LimitNOFILE=64000 in the systemd unit (or ulimit -n)."
	switch {
	case l.Max < filesFail:
		return fail(check, fmt.Sprintf("at most %d", l.Max), remedy)
	case l.Max < filesWarn:
		return warn(check, fmt.Sprintf("at most %d", l.Max), remedy)
	}
	return ok(check, fmt.Sprintf("at most %d", l.Max))
}

// memory looks whether memory with keys can be kept out of swap.
func memory(context.Context, Config) []Finding {
	const check = "memory lock"
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return warn(check, "no memory for the try: "+err.Error(), "")
	}
	defer func() { _ = unix.Munmap(page) }()
	if err := unix.Mlock(page); err != nil {
		return warn(check, "memory cannot be locked: "+err.Error(), "Set LimitMEMLOCK=infinity in the systemd unit, or switch swap off: plaintext keys live in memory for moments.")
	}
	return ok(check, "memory can be locked")
}

// cores looks whether this process can do without core dumps, as the others do.
func cores(context.Context, Config) []Finding {
	const check = "core dumps"
	if err := secret.ProtectProcess(); err != nil {
		return fail(check, "they cannot be switched off: "+err.Error(), "Set LimitCORE=0 in the systemd unit and kernel.core_pattern to nothing: a core dump could hold a key.")
	}
	return ok(check, "the process switches them off for itself")
}

// ports looks whether the addresses to listen at are free, or used by the process that
// runs on the data directory already.
func ports(ctx context.Context, cfg Config) []Finding {
	var out []Finding
	for _, addr := range cfg.Listen {
		check := "port " + addr
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		switch {
		case err == nil:
			_ = l.Close()
			out = append(out, ok(check, "free")...)
		case errors.Is(err, unix.EADDRINUSE) && running(cfg):
			out = append(out, ok(check, "in use; a process runs on this data directory")...)
		case errors.Is(err, unix.EADDRINUSE):
			out = append(out, fail(check, "in use by another process", "Stop that one, or name another address.")...)
		default:
			out = append(out, fail(check, err.Error(), "Name an address of this machine that its user may listen at.")...)
		}
	}
	return out
}

// running tells whether somebody holds the data directory's lock.
func running(cfg Config) bool {
	name := "lock"
	if cfg.Kind == Agent {
		name = "agent.lock"
	}
	f, err := os.Open(filepath.Join(cfg.DataDir, name))
	if cfg.DataDir == "" || err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
