package cli

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/server"
)

// mailFlags are how the control plane sends alerts by mail.
type mailFlags struct {
	smtp         alert.SMTP
	passwordFile string
}

func (m *mailFlags) add(f *pflag.FlagSet, cfg *server.Config) {
	f.StringVar(&m.smtp.Address, "smtp-server", "", "host:port of the mail server for alerts; without it no alert is mailed")
	f.StringVar(&m.smtp.Security, "smtp-security", alert.StartTLS, "starttls, tls, or none (loopback only)")
	f.StringVar(&m.smtp.From, "smtp-from", "", "sender of mails")
	f.StringVar(&m.smtp.Username, "smtp-username", "", "name to sign in with; empty: nobody signs in")
	f.StringVar(&m.passwordFile, "smtp-password-file", "", "file with the password of --smtp-username")
	f.StringArrayVar(&cfg.Recipients, "alert-email", nil, "address that gets the alerts meant for a project's or organization's people; may be repeated")
	f.BoolVar(&cfg.PrivateHooks, "webhook-private-networks", false, "allow webhooks to addresses of private networks")
}

// apply puts what was given into the configuration.
func (m *mailFlags) apply(cfg *server.Config) error {
	if m.smtp.Address == "" {
		if m.smtp.From != "" || m.smtp.Username != "" || m.passwordFile != "" {
			return usageError{errors.New("--smtp-from, --smtp-username and --smtp-password-file need --smtp-server")}
		}
		return nil
	}
	if (m.smtp.Username == "") != (m.passwordFile == "") {
		return usageError{errors.New("--smtp-username and --smtp-password-file belong together")}
	}
	if m.passwordFile != "" {
		password, err := keyFile("--smtp-password-file", m.passwordFile)
		if err != nil {
			return err
		}
		m.smtp.Password = password
	}
	if err := m.smtp.Check(); err != nil {
		return usageError{err}
	}
	cfg.Mail = &m.smtp
	return nil
}
