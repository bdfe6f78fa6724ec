package agentlink_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
)

// goldenFile holds every message of version 1. Hosts and control planes of different
// age speak it: fields may be added, but none renamed, retyped or removed.
// UPDATE_GOLDEN=1 writes it anew.
const goldenFile = "testdata/messages.txt"

// fill sets every field to something that is not zero, so that none is left out.
func fill(v reflect.Value, name string) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		return
	case *agentlink.Duration:
		*x = agentlink.Duration(15 * time.Minute)
		return
	case *[]byte:
		*x = []byte{1, 2, 0xff}
		return
	case *json.RawMessage: // a document of the agent's own
		*x = json.RawMessage(`{"type":"SymmetricKey"}`)
		return
	case *custody.State: // has a golden file of its own
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		*x = custody.NewState(custody.Policy{}, 7, custody.Instant{Wall: at})
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") == "-" || !f.IsExported() {
				continue
			}
			fill(v.Field(i), strings.ToLower(v.Type().Field(i).Name))
		}
	default:
		panic("a kind that no message has yet: " + v.Kind().String())
	}
}

func TestMessagesAreFixed(t *testing.T) {
	var got []byte
	for _, c := range []struct {
		path     string
		messages []any
	}{
		{agentlink.PathEnroll, []any{&agentlink.EnrollRequest{}, &agentlink.EnrollResponse{}}},
		{agentlink.PathRenew, []any{&agentlink.RenewRequest{}, &agentlink.CertificateResponse{}}},
		{agentlink.PathSign, []any{&agentlink.SignRequest{}, &agentlink.CertificateResponse{}}},
		{agentlink.PathDesired, []any{&agentlink.DesiredRequest{}, &agentlink.Desired{}}},
		{agentlink.PathStatus, []any{&agentlink.Status{}, &agentlink.Acknowledged{}}},
		{agentlink.PathEscrow, []any{&agentlink.EscrowRequest{}, &agentlink.Acknowledged{}}},
		{agentlink.PathWraps, []any{&agentlink.Acknowledged{}, &agentlink.WrapsResponse{}}},
		{"refusal", []any{&agentlink.Error{}}},
	} {
		got = fmt.Appendf(got, "== %s\n", c.path)
		for _, m := range c.messages {
			fill(reflect.ValueOf(m).Elem(), "message")
			b, err := json.MarshalIndent(m, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(append(got, b...), '\n')
			// What is sent is read back whole.
			back := reflect.New(reflect.TypeOf(m).Elem())
			if err := json.Unmarshal(b, back.Interface()); err != nil {
				t.Fatal(err)
			}
			if again, err := json.MarshalIndent(back.Interface(), "", " "); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s was read back as %s (%v)", b, again, err)
			}
		}
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(goldenFile, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the messages of version %d changed\n%s\nwant\n%s", agentlink.Version, got, want)
	}
}

func TestWordsAreFixed(t *testing.T) {
	got := []any{agentlink.Version, agentlink.SignKMIPServer, agentlink.SignKMIPClient, agentlink.SignDatabase, agentlink.ServerName,
		agentlink.PhaseCreating, agentlink.PhaseStarting, agentlink.PhaseRunning, agentlink.PhaseRewriting, agentlink.PhaseStopped,
		agentlink.PhaseWaitingForKey, agentlink.PhaseStoppedByCustody, agentlink.PhaseFailed}
	const want = "[1 kmip-server kmip-client database agentlink.keywright.internal " +
		"CREATING STARTING RUNNING REWRITING STOPPED WAITING_FOR_KEY STOPPED_BY_CUSTODY FAILED]"
	if fmt.Sprint(got) != want {
		t.Errorf("words are %v, want %s", got, want)
	}
}

func TestTokenIsFixed(t *testing.T) {
	const fingerprint = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	secret, got, err := agentlink.ParseToken("kwet1.c2VjcmV0LXBhcnQ." + fingerprint)
	if err != nil || secret != "c2VjcmV0LXBhcnQ" || got != fingerprint || agentlink.TokenPrefix != "kwet1." {
		t.Errorf("read as %q, %q, %v", secret, got, err)
	}
	for _, other := range []string{"kwet2.c2VjcmV0LXBhcnQ." + fingerprint, "kwet1.c2VjcmV0LXBhcnQ", "c2VjcmV0LXBhcnQ." + fingerprint} {
		if _, _, err := agentlink.ParseToken(other); err == nil {
			t.Errorf("%s was taken for a token", other)
		}
	}
}
