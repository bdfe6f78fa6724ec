package custody_test

import (
	"encoding/json"
	"os"
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

// TestFormat1IsRead: states of the version before decide as they did, and are cautious
// in what they did not know.
func TestFormat1IsRead(t *testing.T) {
	for name, want := range map[string]struct {
		verdict custody.Verdict
		count   int
		onceOK  bool
	}{"all": {custody.Suspect, 1_500_000_000, false}, "valid": {custody.Valid, 0, true}, "suspect": {custody.Suspect, 2, false}, "invalid": {custody.Invalid, 3, false}} {
		b, err := os.ReadFile("testdata/state-format1-" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var s custody.State
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		if s.Format != custody.StateFormat || s.Verdict != want.verdict || s.Chain.Count != want.count || s.OnceOK != want.onceOK {
			t.Errorf("%s: %+v", name, s)
		}
		if name == "all" { // every field that format 1 had, with a value that means nothing
			if s.Generation != 7 || s.Frozen.Interval != 1_500_000_000 || s.Detail != "the detail" {
				t.Errorf("%+v", s)
			}
			continue
		}
		if p := s.InForce(); p.Mode != custody.ModeStop || p.Interval != time.Minute {
			t.Errorf("%s: policy %+v", name, p)
		}
		if (s.Frozen != nil) != s.Verdict.Bad() || s.Clock.Boot != "boot" {
			t.Errorf("%s: %+v", name, s)
		}
		if name == "suspect" {
			s, _ = play(s, when{140 * sec, custody.Restarted{}}, revoked(141*sec))
			if s.Verdict != custody.Invalid {
				t.Errorf("the third REVOKED led to %s", s.Verdict)
			}
		}
		if name == "invalid" && s.Confirmed != 70*sec {
			t.Errorf("confirmed at %v", s.Confirmed)
		}
	}
}

func TestStateOfAnotherFormatIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"format":3,"verdict":"VALID"}`, `{"verdict":"VALID"}`, `{"format":1}`, `{"format":1,"verdict":"FINE"}`, `{"format":1,"verdict":"GRACE"}`, `null`, `[]`,
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
	f.Add([]byte(`{"format":2,"verdict":"GRACE","deadline":5,"drills":[{"id":"a"}],"frozen":{"mode":"GRACE","grace":-1},"policy":{"mode":"?","unreachableLimit":1}}`))
	f.Add([]byte(`{"format":3}`))
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
