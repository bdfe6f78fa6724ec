package custody_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
)

func TestStateSurvivesItsStoredForm(t *testing.T) {
	s, _ := play(fresh(time.Minute), ok(0), revoked(60*sec), revoked(65*sec))
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back custody.State
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(s, back) {
		t.Fatalf("%v\n%+v\n%+v", err, s, back)
	}
}

func TestStateOfAnotherFormatIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"format":2,"verdict":"VALID"}`, `{"verdict":"VALID"}`, `{"format":1}`, `{"format":1,"verdict":"FINE"}`, `{"format":1,"verdict":"GRACE"}`, `null`, `[]`,
	} {
		s := fresh(time.Minute)
		if err := json.Unmarshal([]byte(text), &s); err == nil && text != "null" {
			t.Errorf("%s was read as %+v", text, s)
		}
	}
}

// FuzzState: no stored or sent state makes the rules panic, and what is accepted is
// written and read back the same.
func FuzzState(f *testing.F) {
	for _, s := range []custody.State{fresh(time.Minute)} {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"format":1,"verdict":"SUSPECT","chain":{"count":2},"frozen":{"interval":-5},"policy":{"interval":9223372036854775807}}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, back custody.State
		if json.Unmarshal(b, &s) != nil || s.Format == 0 {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			return // a year that JSON cannot hold
		}
		if err := json.Unmarshal(out, &back); err != nil || back.Verdict != s.Verdict || back.Chain.Count != s.Chain.Count {
			t.Fatalf("%s was read back as %+v (%v)", out, back, err)
		}
		for _, e := range []custody.Event{custody.Restarted{}, revoked(0).event(s.Generation), lost(0).event(s.Generation), ok(0).event(s.Generation)} {
			s, _ = custody.Step(s, e, at(time.Second))
		}
		if s.Verdict != custody.Valid {
			t.Fatalf("an OK led to %s", s.Verdict)
		}
	})
}
