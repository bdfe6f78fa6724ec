package cryptofs

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// DatabaseID names one database on one node: 16 random bytes. Its hexadecimal
// form is the name of the database's directory. It is bound into every file.
type DatabaseID [16]byte

// NewDatabaseID makes a fresh identifier.
func NewDatabaseID() DatabaseID {
	var id DatabaseID
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails (it ends the process instead)
	return id
}

// ParseDatabaseID reads the form of String: 32 lower-case hexadecimal digits.
func ParseDatabaseID(s string) (DatabaseID, error) {
	var id DatabaseID
	if len(s) == hex.EncodedLen(len(id)) {
		if _, err := hex.Decode(id[:], []byte(s)); err == nil && id.String() == s {
			return id, nil
		}
	}
	return DatabaseID{}, fmt.Errorf("%q is not a database identifier: 32 lower-case hexadecimal digits are expected", s)
}

// String gives the 32 lower-case hexadecimal digits.
func (d DatabaseID) String() string { return hex.EncodeToString(d[:]) }
