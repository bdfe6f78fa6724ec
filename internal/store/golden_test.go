package store_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// The files in testdata are version 1 of what is stored. They may only change together
// with the version they belong to, or by a migration. UPDATE_GOLDEN=1 writes them anew.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if want := kept(t, name, got); !bytes.Equal(got, want) {
		t.Errorf("%s: what is stored changed\n%s\nwant\n%s", name, got, want)
	}
}

// kept gives a file in testdata, which UPDATE_GOLDEN=1 writes anew.
func kept(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, now, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sealedRows are the places where secrets lie: how to read one, the associated data
// as FORMATS.md has it, and the secret.
var sealedRows = []struct{ column, query, ad, secret string }{
	{"meta.value", `SELECT value FROM meta WHERE name = 'deployment_key_check'`,
		"keywright/store\x01" + "4:meta" + "20:deployment_key_check" + "5:value", "keywright deployment key check"},
	{"api_keys.ha1", `SELECT ha1 FROM api_keys`, "keywright/store\x01" + "8:api_keys" + "1:k" + "3:ha1", "0123456789abcdef-ha1"},
	{"database_users.password", `SELECT password FROM database_users`,
		"keywright/store\x01" + "14:database_users" + "32:bbbbbbbbbbbbbbbbbbbbbbbb/admin/u" + "8:password", "correct-horse"},
	{"authorities.private_key", `SELECT private_key FROM authorities`,
		"keywright/store\x01" + "11:authorities" + "4:link" + "11:private_key", "ca-private-key"},
}

// sealAll puts a secret into each place and gives what lies there.
func sealAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	s := open(t, dir)
	seed(t, s)
	tx(t, s, func(x *store.Tx) error {
		return errors.Join(x.AddAPIKey(store.APIKey{ID: "k", Org: orgID, PublicKey: "pub"}, secret.FromString("0123456789abcdef-ha1")),
			x.AddUser(store.DatabaseUser{Project: projectID, Database: "admin", Username: "u"}, secret.FromString("correct-horse")),
			x.AddAuthority("link", []byte("cert"), secret.FromString("ca-private-key")))
	})
	out := map[string]string{}
	raw(t, s, dir, func(db *sql.DB) {
		for _, r := range sealedRows {
			var v string
			if err := db.QueryRow(r.query).Scan(&v); err != nil {
				t.Fatalf("%s: %v", r.column, err)
			}
			out[r.column] = v
		}
	})
	return out
}

// field gives the content of a field of a protobuf message (wire types 0 and 2).
func field(t *testing.T, message []byte, number uint64) (content []byte, value uint64) {
	t.Helper()
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		v, m := binary.Uvarint(message[max(n, 0):])
		if n <= 0 || m <= 0 || tag&7 != 0 && tag&7 != 2 {
			t.Fatalf("no protobuf: %x", message)
		}
		message = message[n+m:]
		body := message[:0]
		if tag&7 == 2 {
			body, message = message[:v], message[v:]
		}
		if tag>>3 == number {
			return body, v
		}
	}
	t.Fatalf("the message has no field %d", number)
	return nil, 0
}

// deploymentKey takes a key file apart without the libraries that made it.
func deploymentKey(t *testing.T, file []byte) (id uint32, key []byte) {
	t.Helper()
	rest, ok := bytes.CutPrefix(file, []byte("KWDEPKEY\x01"))
	if !ok {
		t.Fatalf("a key file begins with %q", file[:min(len(file), 9)])
	}
	_, primary := field(t, rest, 1)
	entry, _ := field(t, rest, 2)
	data, _ := field(t, entry, 1)
	if _, n := field(t, entry, 3); n != primary {
		t.Errorf("the only key has id %d, the primary is %d", n, primary)
	}
	if _, prefix := field(t, entry, 4); prefix != 1 {
		t.Errorf("output prefix %d, want Tink's", prefix)
	}
	if url, _ := field(t, data, 1); string(url) != "type.googleapis.com/google.crypto.tink.AesGcmKey" {
		t.Errorf("a key of type %s", url)
	}
	material, _ := field(t, data, 2)
	if key, _ = field(t, material, 3); len(key) != 32 {
		t.Errorf("a key of %d bytes", len(key))
	}
	return uint32(primary), key
}

// unseal opens a sealed value without the libraries that made it.
func unseal(t *testing.T, id uint32, key []byte, sealed, ad string) string {
	t.Helper()
	b, err := base64.StdEncoding.Strict().DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	head := append([]byte{1, 1}, binary.BigEndian.AppendUint32(nil, id)...)
	if len(b) < 18 || !bytes.Equal(b[:6], head) {
		t.Fatalf("a sealed value begins with %x, want %x", b[:min(len(b), 6)], head)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, b[6:18], b[18:], []byte(ad))
	if err != nil {
		t.Fatalf("with associated data %q: %v", ad, err)
	}
	return string(plain)
}

func TestSealedValuesFollowTheDescription(t *testing.T) {
	dir := t.TempDir()
	sealed := sealAll(t, dir)
	file, err := os.ReadFile(filepath.Join(dir, "deployment.key"))
	if err != nil {
		t.Fatal(err)
	}
	id, key := deploymentKey(t, file)
	for _, r := range sealedRows {
		if got := unseal(t, id, key, sealed[r.column], r.ad); got != r.secret {
			t.Errorf("%s holds %q, want %q", r.column, got, r.secret)
		}
	}
}

// goldenStore is a key file that was made once for this test, and values under it.
type goldenStore struct {
	DeploymentKey string            `json:"deploymentKey"` // hexadecimal
	Sealed        map[string]string `json:"sealed"`
}

func TestWhatVersionOneSealedIsOpened(t *testing.T) {
	dir := t.TempDir()
	sealed := sealAll(t, dir)
	keyFile := filepath.Join(dir, "deployment.key")
	file, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	now, err := json.MarshalIndent(goldenStore{hex.EncodeToString(file), sealed}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	var old goldenStore
	if err := json.Unmarshal(kept(t, "sealed.json", append(now, '\n')), &old); err != nil {
		t.Fatal(err)
	}
	if file, err = hex.DecodeString(old.DeploymentKey); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, file, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for column, update := range map[string]string{
		"meta.value": `UPDATE meta SET value = ? WHERE name = 'deployment_key_check'`, "api_keys.ha1": `UPDATE api_keys SET ha1 = ?`,
		"database_users.password": `UPDATE database_users SET password = ?`, "authorities.private_key": `UPDATE authorities SET private_key = ?`,
	} {
		if _, err := db.Exec(update, old.Sealed[column]); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	tx(t, s, func(x *store.Tx) error {
		_, ha1, err1 := x.APIKeyByPublic("pub")
		pw, err2 := x.Password(store.DatabaseUser{Project: projectID, Database: "admin", Username: "u"})
		_, ca, err3 := x.Authority("link")
		got := []string{string(ha1.Reveal()), string(pw.Reveal()), string(ca.Reveal())}
		if want := []string{sealedRows[1].secret, sealedRows[2].secret, sealedRows[3].secret}; !slices.Equal(got, want) {
			t.Errorf("opened %q, want %q", got, want)
		}
		return errors.Join(err1, err2, err3)
	})
}

func TestSealedValueOfAnotherVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	sealed := sealAll(t, dir)
	b, err := base64.StdEncoding.DecodeString(sealed["database_users.password"])
	if err != nil {
		t.Fatal(err)
	}
	b[0] = 2
	raw(t, open(t, dir), dir, func(db *sql.DB) {
		if _, err := db.Exec(`UPDATE database_users SET password = ?`, base64.StdEncoding.EncodeToString(b)); err != nil {
			t.Fatal(err)
		}
	})
	tx(t, open(t, dir), func(x *store.Tx) error {
		if _, err := x.Password(store.DatabaseUser{Project: projectID, Database: "admin", Username: "u"}); err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("a sealed value of version 2: %v", err)
		}
		return nil
	})
}

func TestDirectoryAndSchemaAreFixed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	format, err := os.ReadFile(filepath.Join(dir, "format"))
	if err != nil || string(format) != "keywright server data directory, format 1\n" {
		t.Errorf("format is %q, %v", format, err)
	}
	var got []byte
	raw(t, s, dir, func(db *sql.DB) {
		for _, q := range []string{
			`SELECT 'schema version', version_id || ' ' || is_applied FROM goose_db_version ORDER BY id`,
			`SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name NOT LIKE 'goose%' AND tbl_name NOT LIKE 'sqlite%' ORDER BY type, name`,
			`SELECT 'meta', name FROM meta ORDER BY name`,
		} {
			rows, err := db.Query(q)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var name, text string
				if err := rows.Scan(&name, &text); err != nil {
					t.Fatal(err)
				}
				got = fmt.Appendf(got, "%s: %s\n", name, text)
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				t.Fatal(err)
			}
		}
	})
	golden(t, "schema.txt", got)
}

// fill sets every stored field to something that is not zero, so that none is left out.
func fill(v reflect.Value, name string) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = at
		return
	case *[]byte:
		*x = []byte{1, 2, 0xff}
		return
	case *audit.Hash:
		*x = audit.Hash{0: 1, 31: 2}
		return
	case *json.RawMessage: // a document of a format of its own
		*x = json.RawMessage(`"the document"`)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name)
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		if v.Type().Elem().Kind() == reflect.Interface {
			value.Set(reflect.ValueOf("any"))
		} else {
			fill(value, name)
		}
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" {
				fill(v.Field(i), strings.ToLower(f.Name))
			}
		}
	default:
		panic("a kind that no record has yet: " + v.Kind().String() + " " + name)
	}
}

// Records have no version of their own: within a schema version fields may be added,
// but none renamed, retyped or removed.
func TestRecordsAreFixed(t *testing.T) {
	var got []byte
	for _, r := range []any{
		&store.Org{}, &store.Project{}, &store.APIKey{}, &store.DatabaseUser{}, &store.AccessEntry{}, &store.AccessRole{},
		&store.KeyConfig{}, &store.Verdict{}, &store.CustodyReport{}, &store.Host{}, &store.Cluster{}, &store.Node{},
		&store.NodeStatus{}, &store.EscrowedWrap{}, &store.KeyChange{}, &store.KeyProgress{}, &audit.Event{},
		&store.Finding{}, &store.AlertConfig{}, &store.Alert{}, &store.AlertDelivery{}, &store.HostHead{},
		&store.Egress{}, &store.ProjectNetwork{},
	} {
		fill(reflect.ValueOf(r).Elem(), "record")
		b, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		got = fmt.Appendf(got, "== %T\n%s\n", r, b)
		back := reflect.New(reflect.TypeOf(r).Elem())
		if err := json.Unmarshal(b, back.Interface()); err != nil || !reflect.DeepEqual(back.Interface(), r) {
			t.Errorf("%T was read back as %+v, %v", r, back.Interface(), err)
		}
	}
	golden(t, "records.txt", got)
}
