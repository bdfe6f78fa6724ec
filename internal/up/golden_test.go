package up

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/durable"
)

// fillIn sets every field to something that is not zero, so that none is left out.
func fillIn(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillIn(v.Elem(), name)
	case reflect.Struct:
		for i := range v.NumField() {
			fillIn(v.Field(i), strings.ToLower(v.Type().Field(i).Name))
		}
	default:
		panic("a kind that no file has yet: " + v.Kind().String())
	}
}

// The files in testdata are version 1 of what is stored. Fields may be added, but none
// renamed, retyped or removed. UPDATE_GOLDEN=1 writes them anew.
func TestFilesAreFixed(t *testing.T) {
	for name, v := range map[string]any{"bootstrap.json": &Bootstrap{}, "up-secrets.json": &secrets{}, "samples.json": &samples{}} {
		fillIn(reflect.ValueOf(v).Elem(), "file")
		path, kept := filepath.Join(t.TempDir(), name), filepath.Join("testdata", name)
		if err := durable.WriteJSON(path, v, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(kept, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s changed\n%s\nwant\n%s", name, got, want)
		}
		back := reflect.New(reflect.TypeOf(v).Elem())
		if err := durable.ReadJSON(kept, back.Interface()); err != nil || !reflect.DeepEqual(back.Interface(), v) {
			t.Errorf("%s was read as %+v, %v", name, back, err)
		}
	}
}

// The contract of `keywright up`, word for word: programs read these fields.
func TestBootstrapKeepsItsPromise(t *testing.T) {
	promised := []string{
		"version", "baseUrl", "orgId", "publicKey", "privateKey",
		"aws.endpoint", "aws.region", "aws.accountId", "aws.accessKeyId", "aws.secretAccessKey",
		"awsSecond.accountId", "awsSecond.accessKeyId", "awsSecond.secretAccessKey",
		"console.url", "console.username", "console.password",
		"kmip.address", "kmip.caFile", "caFile",
		"sample.projectId", "sample.clusterName", "sample.connectionString", "sample.roleArn", "switch.projectId", "sample.keyArn",
		"enable.projectId", "enable.clusterName", "enable.connectionString",
	}
	var b Bootstrap
	fillIn(reflect.ValueOf(&b).Elem(), "file")
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, v := range tree {
		below, ok := v.(map[string]any)
		if !ok {
			got = append(got, name)
		}
		for sub := range below {
			got = append(got, name+"."+sub)
		}
	}
	slices.Sort(got)
	slices.Sort(promised)
	if !slices.Equal(got, promised) || BootstrapVersion != 1 {
		t.Errorf("version %d has the fields\n%v\npromised are\n%v", BootstrapVersion, got, promised)
	}
	// With --no-sample and --aws real these are absent, not empty.
	raw, err = json.Marshal(Bootstrap{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{`"aws"`, `"awsSecond"`, `"sample"`, `"enable"`} {
		if bytes.Contains(raw, []byte(name)) {
			t.Errorf("an empty bootstrap file has %s: %s", name, raw)
		}
	}
}

func TestNewerFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	p := &platform{cfg: Config{DataDir: dir}}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := loadSecrets(write("up-secrets.json", `{"format":2,"publicKey":"p"}`)); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("secrets of format 2: %v", err)
	}
	for text, fine := range map[string]bool{
		`{"format":2,"done":true}`: false, `{"format":0,"done":true}`: false, `{"done":true}`: false, `{"format":1,"done":true}`: true,
	} {
		write("samples.json", text)
		st, err := p.recall()
		if (err == nil) != fine || fine && !st.Done {
			t.Errorf("samples %s: %+v, %v", text, st, err)
		}
	}
	if err := os.Remove(p.samplesPath()); err != nil {
		t.Fatal(err)
	}
	if st, err := p.recall(); err != nil || st != (samples{}) {
		t.Errorf("no samples yet: %+v, %v", st, err)
	}
}
