package custody_test

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
)

// goldenState is version 2 of the state's JSON form, which is stored by agents and the
// control plane and sent between them. Fields may be added, but none renamed, retyped
// or removed. UPDATE_GOLDEN=1 writes it anew.
const goldenState = "testdata/state.json"

// fill sets every field to something that is not zero, so that none is left out.
func fill(v reflect.Value, name string) {
	if at, ok := v.Addr().Interface().(*time.Time); ok {
		*at = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1_500_000_000)
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
			if !v.Type().Field(i).IsExported() {
				continue
			}
			fill(v.Field(i), strings.ToLower(v.Type().Field(i).Name))
		}
	default:
		panic("a kind that the state does not have yet: " + v.Kind().String())
	}
}

func TestStoredFormIsFixed(t *testing.T) {
	var s custody.State
	fill(reflect.ValueOf(&s).Elem(), "state")
	s.Format, s.Verdict, s.Previous = custody.StateFormat, custody.Suspect, custody.Valid
	got, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(goldenState, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenState)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the state of format %d changed\n%s\nwant\n%s", custody.StateFormat, got, want)
	}
	var back custody.State
	if err := json.Unmarshal(want, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.MarshalIndent(back, "", " "); err != nil || !bytes.Equal(append(again, '\n'), want) {
		t.Errorf("read as %+v, %v", back, err)
	}
}

func TestVerdictsAreFixed(t *testing.T) {
	got := []custody.Verdict{custody.Unknown, custody.Valid, custody.Unreachable, custody.Suspect, custody.Invalid, custody.NAD, custody.Grace, custody.Alert}
	want := []custody.Verdict{"UNKNOWN", "VALID", "UNREACHABLE", "SUSPECT", "INVALID", "NETWORK_ACCESS_DENIED", "GRACE", "ALERT"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("verdicts are %v, want %v", got, want)
	}
	if cadences := []custody.Cadence{custody.Own, custody.Idle, custody.Confirming}; !reflect.DeepEqual(cadences, []custody.Cadence{"", "IDLE", "CONFIRMING"}) {
		t.Errorf("cadences are %q", cadences)
	}
}
