package kmip_test

import (
	"encoding/binary"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/pki"
)

// TestOpenSSLClient sends a request through OpenSSL, the TLS that mongod has,
// with certificate and key in one file and the server's address checked.
func TestOpenSSLClient(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	l := newLab(t, nil)
	file, _ := l.admit(t, nodeA)
	ca := filepath.Join(l.dir, "server-ca.pem")
	if err := pki.WriteCertificates(ca, l.servers); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		cmd := exec.CommandContext(t.Context(), openssl, "s_client", version, "-connect", l.server.Addr().String(), "-cert", file, "-key", file,
			"-CAfile", ca, "-verify_return_error", "-verify_ip", "127.0.0.1", "-quiet", "-nocommands", "-no_ign_eof")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		if _, err := stdin.Write(perconaRegister(make([]byte, 32))); err != nil {
			t.Fatal(err)
		}
		var head [8]byte
		if _, err := io.ReadFull(stdout, head[:]); err != nil {
			t.Fatalf("%s: %v: %s", version, err, stderr.String())
		}
		answer := append(head[:], make([]byte, binary.BigEndian.Uint32(head[4:]))...)
		if _, err := io.ReadFull(stdout, answer[8:]); err != nil {
			t.Fatal(err)
		}
		if parse(t, answer)[0].get(t, tagBatchItem, tagResultStatus).number() != 0 {
			t.Errorf("%s: refused", version)
		}
		_ = stdin.Close() // OpenSSL sends close_notify and ends
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", version, err, stderr.String())
		}
		kill.Stop()
	}
}

// TestClientCorrelationValue is echoed to those that know it, from 1.4 on.
func TestClientCorrelationValue(t *testing.T) {
	l := newLab(t, nil)
	answer, err := exchange(l.client(t, nodeA), message(4, tx(0x420105, "abc"), op(opQuery, en(tagQueryFunction, 1))))
	if err != nil {
		t.Fatal(err)
	}
	header := parse(t, answer)[0].get(t, tagResponseHeader)
	if header.shape() != "420069 420092 420105 42000D " || header.get(t, 0x420105).text() != "abc" {
		t.Errorf("header %s", header.shape())
	}
}
