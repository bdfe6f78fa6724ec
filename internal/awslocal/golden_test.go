package awslocal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// golden compares with a file in testdata, which may only change together with the
// format's version. UPDATE_GOLDEN=1 writes it anew.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if want := kept(t, name, got); !bytes.Equal(got, want) {
		t.Errorf("%s: what is stored changed\n%s\nwant\n%s", name, got, want)
	}
}

// kept gives a file in testdata, which UPDATE_GOLDEN=1 writes anew.
func kept(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := "testdata/" + name
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, now, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("no golden file: %v; for a new version of a format write it with UPDATE_GOLDEN=1", err)
	}
	return b
}

// fillIn sets every stored field to something that is not zero, so that none is left out.
func fillIn(v reflect.Value, name string) {
	if v.Addr().CanInterface() {
		switch x := v.Addr().Interface().(type) {
		case *time.Time:
			*x = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			return
		case *[]byte:
			*x = bytes.Repeat([]byte{7}, 32)
			return
		}
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillIn(v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillIn(v.Index(0), name)
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		fillIn(value, name)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() || f.Anonymous {
				fillIn(v.Field(i), strings.ToLower(f.Name))
			}
		}
	default:
		panic("a kind that nothing stored has yet: " + v.Kind().String() + " " + name)
	}
}

func TestFilesAreFixed(t *testing.T) {
	for name, v := range map[string]any{
		fmt.Sprintf("state-fields-v%d.json", stateVersion): &state{},
		"seed-fields.json":  &Seed{},
		"calls-fields.json": &CallEntry{},
	} {
		fillIn(reflect.ValueOf(v).Elem(), "file")
		got, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, append(got, '\n'))
		back := reflect.New(reflect.TypeOf(v).Elem())
		if err := json.Unmarshal(got, back.Interface()); err != nil {
			t.Fatal(err)
		}
		if again, err := json.MarshalIndent(back.Interface(), "", " "); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%s was read back as\n%s (%v)", name, again, err)
		}
	}
	if seedVersion != 1 || callVersion != 1 || blobVersion != 1 || sessionVersion != 1 {
		t.Error("a new version of a format needs a golden file of its own beside the old one")
	}
}

// unsealed opens AES-256-GCM: 12 bytes of nonce, then ciphertext and tag.
func unsealed(t *testing.T, key, sealed, ad []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, sealed[:12], sealed[12:], ad)
	if err != nil {
		t.Fatalf("open %x with associated data %x: %v", sealed, ad, err)
	}
	return plain
}

func sized(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func TestCiphertextBlobIsFixed(t *testing.T) {
	material := bytes.Repeat([]byte{9}, 32)
	k := &key{ARN: "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-4000-8000-000000000001", MaterialID: strings.Repeat("5a", 32), Material: material}
	encryptionContext := map[string]string{"keywright:purpose": "master-key", "keywright:key": "kw-1", "empty": ""}
	now, err := k.seal([]byte("plaintext"), encryptionContext)
	if err != nil {
		t.Fatal(err)
	}
	head := []byte{1, 0, byte(len(k.ARN))}
	head = append(append(head, k.ARN...), bytes.Repeat([]byte{0x5a}, 32)...)
	ad := bytes.Clone(head)
	for _, s := range []string{"empty", "", "keywright:key", "kw-1", "keywright:purpose", "master-key"} {
		ad = sized(ad, s)
	}
	old, err := hex.DecodeString(string(bytes.TrimSpace(kept(t, "blob.hex", []byte(hex.EncodeToString(now)+"\n")))))
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string][]byte{"new": now, "stored": old} {
		rest, ok := bytes.CutPrefix(blob, head)
		if !ok || len(rest) != 12+len("plaintext")+16 {
			t.Fatalf("the %s blob is %x, want %x and %d bytes", name, blob, head, 12+len("plaintext")+16)
		}
		if got := unsealed(t, material, rest, ad); string(got) != "plaintext" {
			t.Errorf("the %s blob holds %q", name, got)
		}
		if got, err := k.open(blob, encryptionContext); err != nil || string(got) != "plaintext" {
			t.Errorf("the %s blob was opened to %q, %v", name, got, err)
		}
		newer := append([]byte{2}, blob[1:]...)
		if _, err := k.open(newer, encryptionContext); err == nil {
			t.Errorf("the %s blob was opened as version 2", name)
		}
	}
}

func TestSessionTokenIsFixed(t *testing.T) {
	sealKey := bytes.Repeat([]byte{3}, 32)
	var s session
	fillIn(reflect.ValueOf(&s).Elem(), "session")
	now, err := s.seal(sealKey)
	if err != nil {
		t.Fatal(err)
	}
	const fields = `{"k":"the accesskeyid","s":"the secret","a":"the account","r":"the roleid","n":"the rolename","m":"the name",` +
		`"p":"the policy","i":"2026-01-02T03:04:05Z","e":"2026-01-02T03:04:05Z"}`
	old := string(bytes.TrimSpace(kept(t, "session.txt", []byte(now+"\n"))))
	for name, token := range map[string]string{"new": now, "stored": old} {
		raw, err := base64.StdEncoding.Strict().DecodeString(token)
		if err != nil || raw[0] != 1 {
			t.Fatalf("the %s token is %x, %v", name, raw, err)
		}
		if got := unsealed(t, sealKey, raw[1:], []byte{1}); string(got) != fields {
			t.Errorf("the %s token holds\n%s\nwant\n%s", name, got, fields)
		}
		if got, err := openSession(sealKey, token); err != nil || got != s {
			t.Errorf("the %s token was opened to %+v, %v", name, got, err)
		}
		raw[0] = 2
		if _, err := openSession(sealKey, base64.StdEncoding.EncodeToString(raw)); err == nil {
			t.Errorf("the %s token was opened as version 2", name)
		}
	}
}
