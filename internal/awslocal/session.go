package awslocal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"
)

const (
	sealKeyLen     = 32
	sessionVersion = 1
	maxToken       = 16 << 10
)

// session is a role session. It travels sealed in its session token: the
// server keeps no list, so sessions survive restarts. Permissions are looked
// up afresh at each call by the role's unique id.
type session struct {
	AccessKeyID string    `json:"k"`
	Secret      string    `json:"s"`
	Account     string    `json:"a"`
	RoleID      string    `json:"r"`
	RoleName    string    `json:"n"`
	Name        string    `json:"m"`
	Policy      string    `json:"p,omitempty"`
	Issued      time.Time `json:"i"`
	Expires     time.Time `json:"e"`
}

func (s session) arn() string {
	return "arn:aws:sts::" + s.Account + ":assumed-role/" + s.RoleName + "/" + s.Name
}

var errBadToken = errors.New("session token cannot be opened")

// seal makes a session token: a version byte, nonce and AES-256-GCM ciphertext,
// with the version authenticated.
func (s session) seal(sealKey []byte) (string, error) {
	plain, err := json.Marshal(s) //nolint:gosec // sealed below: the token is the only place where the secret is kept
	if err != nil {
		return "", err
	}
	gcm, err := newGCM(sealKey)
	if err != nil {
		return "", err
	}
	head := []byte{sessionVersion}
	nonce := randomBytes(gcm.NonceSize())
	return base64.StdEncoding.EncodeToString(gcm.Seal(append(head, nonce...), nonce, plain, head)), nil
}

// openSession opens a session token; any alteration gives errBadToken.
func openSession(sealKey []byte, token string) (session, error) {
	if len(token) > maxToken {
		return session{}, errBadToken
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil {
		return session{}, errBadToken
	}
	gcm, err := newGCM(sealKey)
	if err != nil {
		return session{}, err
	}
	if len(raw) < 1+gcm.NonceSize() || raw[0] != sessionVersion {
		return session{}, errBadToken
	}
	plain, err := gcm.Open(nil, raw[1:1+gcm.NonceSize()], raw[1+gcm.NonceSize():], raw[:1])
	if err != nil {
		return session{}, errBadToken
	}
	var s session
	if err := json.Unmarshal(plain, &s); err != nil {
		return session{}, errBadToken
	}
	return s, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
