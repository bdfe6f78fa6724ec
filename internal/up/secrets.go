package up

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/secret"
)

const secretsFormat = 1

// secrets are what `keywright up` made once and has to know again: plain in a
// file of mode 0600, as a private key of an SSH client is.
type secrets struct {
	Format     int    `json:"format"`
	PublicKey  string `json:"publicKey"`
	PrivateKey string `json:"privateKey"`
	// DatabasePassword is the password of the samples' database user.
	DatabasePassword string `json:"databasePassword"`
	// ConsolePassword is the password of the person consoleUser.
	ConsolePassword string `json:"consolePassword,omitempty"`
}

// loadSecrets reads the secrets, or makes them at the first start.
func loadSecrets(path string) (secrets, error) {
	var s secrets
	err := durable.ReadJSON(path, &s)
	switch {
	case err == nil && s.Format > secretsFormat:
		return s, fmt.Errorf("%s was written by a newer Keywright; update this program", path)
	case err == nil && s.ConsolePassword == "": // written before there was a console
		s.ConsolePassword = consolePassword()
		return s, durable.WriteJSON(path, s, 0o600)
	case err == nil:
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return s, err
	}
	s = secrets{
		Format: secretsFormat, PublicKey: publicKey(), PrivateKey: privateKey(),
		DatabasePassword: string(secret.RandomText(18).Reveal()), ConsolePassword: consolePassword(),
	}
	return s, durable.WriteJSON(path, s, 0o600)
}

// consoleUser is who signs in to the console first.
const consoleUser = "owner"

func consolePassword() string { return string(secret.RandomText(18).Reveal()) }

// publicKey makes an API key's public part: eight lower-case letters.
func publicKey() string {
	return strings.ToLower(rand.Text()[:8])
}

// privateKey makes an API key's private part: 128 random bits in the form of a UUID.
func privateKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
