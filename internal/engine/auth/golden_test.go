package auth_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
)

func sequence(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func fixedUser(t *testing.T, m auth.Mechanism) *auth.User {
	t.Helper()
	custom, err := bson.Marshal(bson.D{{Key: "team", Value: "blue"}})
	if err != nil {
		t.Fatal(err)
	}
	c := map[auth.Mechanism]auth.Credentials{
		auth.ScramSHA1:   {Iterations: 10000, Salt: sequence(1, 16), StoredKey: sequence(0x20, 20), ServerKey: sequence(0x40, 20)},
		auth.ScramSHA256: {Iterations: 15000, Salt: sequence(1, 28), StoredKey: sequence(0x20, 32), ServerKey: sequence(0x60, 32)},
	}
	return &auth.User{UUID: [16]byte(sequence(0xa0, 16)), DB: "admin", Name: "ann", CustomData: custom,
		Credentials: map[auth.Mechanism]auth.Credentials{m: c[m]},
		Roles:       []auth.Role{{Role: "readWrite", DB: "shop"}, {Role: "read", DB: "admin"}}}
}

// The documents of admin.system.users are stored, and have MongoDB's shape. The
// golden bytes never change; UPDATE_GOLDEN=1 writes them anew.
func TestUserDocumentsAreFixed(t *testing.T) {
	for _, m := range auth.Mechanisms() {
		u := fixedUser(t, m)
		got := []byte(hex.EncodeToString(document(t, u)) + "\n")
		path := "testdata/user-" + strings.ToLower(string(m)) + ".hex"
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the document is\n%s\nwant\n%s", m, got, want)
		}
		doc, err := hex.DecodeString(string(bytes.TrimSpace(want)))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := auth.ParseUser(doc); err != nil || !reflect.DeepEqual(back, u) {
			t.Errorf("%s: read as %+v, %v", m, back, err)
		}
	}
}

// The order of the fields, and which there are, as MongoDB writes them.
func TestUserDocumentsHaveTheFieldsOfMongoDB(t *testing.T) {
	for m, fields := range map[auth.Mechanism]string{
		auth.ScramSHA1:   `{"_id": "admin.ann","userId": {"$binary":{"base64":"oKGio6SlpqeoqaqrrK2urw==","subType":"04"}},"user": "ann","db": "admin","credentials": {"SCRAM-SHA-1": {"iterationCount": {"$numberInt":"10000"},"salt": "AQIDBAUGBwgJCgsMDQ4PEA==","storedKey": "ICEiIyQlJicoKSorLC0uLzAxMjM=","serverKey": "QEFCQ0RFRkdISUpLTE1OT1BRUlM="}},"customData": {"team": "blue"},"roles": [{"role": "readWrite","db": "shop"},{"role": "read","db": "admin"}]}`,
		auth.ScramSHA256: `"credentials": {"SCRAM-SHA-256": {"iterationCount": {"$numberInt":"15000"},"salt": `,
	} {
		if got := document(t, fixedUser(t, m)).String(); !strings.Contains(got, fields) {
			t.Errorf("%s: the document is\n%s\nwhich lacks\n%s", m, got, fields)
		}
	}
}
