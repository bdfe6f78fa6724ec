package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/mail"
	"net/smtp"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/secret"
)

// Mail is one mail.
type Mail struct {
	// ID is the delivery's, for the Message-ID: a repeated mail has the same.
	ID, To, Subject, Text string
	Date                  time.Time
}

// The ways to secure the connection to a mail server.
const (
	StartTLS = "starttls"
	TLS      = "tls"
	Plain    = "none"
)

// SMTP sends mail through one server.
type SMTP struct {
	// Address is host:port. Security is StartTLS, TLS, or Plain, which is for loopback.
	Address, Security string
	From              string
	// Username may be empty: then nobody signs in.
	Username string
	Password secret.Bytes
	// Roots are for tests; nil means the system's.
	TLS *tls.Config
}

// mailTime bounds the sending of one mail.
const mailTime = 30 * time.Second

// Check refuses settings that cannot work or would show the password.
func (s *SMTP) Check() error {
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil || host == "" {
		return fmt.Errorf("mail server %q: host:port is expected", s.Address)
	}
	if a, err := mail.ParseAddress(s.From); err != nil || a.Address != s.From {
		return fmt.Errorf("sender %q is no plain mail address", s.From)
	}
	switch s.Security {
	case StartTLS, TLS:
	case Plain:
		if !loopbackName(host) {
			return errors.New("mail without TLS is possible on loopback only")
		}
	default:
		return fmt.Errorf("%q is none of starttls, tls, none", s.Security)
	}
	return nil
}

// Send implements Mailer. The error says what the server said.
func (s *SMTP) Send(ctx context.Context, m Mail) error {
	ctx, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	text, err := compose(s.From, m)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	c, err := s.dial(ctx, host)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if s.Username != "" {
		if err := c.Auth(smtp.PlainAuth("", s.Username, string(s.Password.Reveal()), host)); err != nil {
			return fmt.Errorf("sign in at the mail server: %w", err)
		}
	}
	for _, step := range []func() error{func() error { return c.Mail(s.From) }, func() error { return c.Rcpt(m.To) }} {
		if err := step(); err != nil {
			return fmt.Errorf("mail server: %w", err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("mail server: %w", err)
	}
	_ = c.Quit() // the mail is accepted
	return nil
}

func (s *SMTP) dial(ctx context.Context, host string) (*smtp.Client, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if s.TLS != nil {
		cfg = s.TLS.Clone()
		cfg.ServerName = host
	}
	d := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, fmt.Errorf("reach the mail server: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if s.Security == TLS {
		conn = tls.Client(conn, cfg)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("mail server: %w", err)
	}
	if s.Security == StartTLS {
		if err := c.StartTLS(cfg); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("mail server, STARTTLS: %w", err)
		}
	}
	return c, nil
}

// compose writes a mail. What comes from outside cannot add headers: addresses are
// checked, the subject is encoded, the text is base64.
func compose(from string, m Mail) ([]byte, error) {
	if !plainAddress(m.To) || !plainAddress(from) {
		return nil, errors.New("an address is no mail address")
	}
	_, domain, _ := strings.Cut(from, "@")
	subject := strings.Join(strings.Fields(m.Subject), " ")
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", from}, {"To", m.To}, {"Subject", mime.QEncoding.Encode("utf-8", subject[:min(len(subject), 200)])},
		{"Date", m.Date.Format(time.RFC1123Z)}, {"Message-ID", "<" + m.ID + "@" + domain + ">"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "base64"}, {"Auto-Submitted", "auto-generated"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	text := base64.StdEncoding.EncodeToString([]byte(m.Text))
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text + "\r\n")
	return b.Bytes(), nil
}

// plainAddress tells whether s is a mail address and nothing else.
func plainAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && len(s) <= 254 && !strings.ContainsAny(s, "\r\n<>\"")
}
