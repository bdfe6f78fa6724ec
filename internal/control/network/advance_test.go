package network

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return day.Add(time.Duration(minutes) * time.Minute) }

func from(addresses ...string) store.Source {
	return store.Source{Hostname: "h", Addresses: addresses}
}

// ran is a validator after a run.
func ran(v custody.Verdict, o kms.Outcome, minute int, finished uint64) validator {
	return validator{verdict: v, outcome: o, lastRun: at(minute), finished: finished}
}

type machines = map[keys.HostID]store.Source

// told gives what happened in words such as "changed h1".
func told(hs []happening) []string {
	out := []string{}
	for _, h := range hs {
		out = append(out, fmt.Sprintf("%s %s", h.kind, h.holder))
	}
	return out
}

// Each line goes on from the one before.
func TestAdvance(t *testing.T) {
	const plane, one, two = keys.HostID(""), keys.HostID("h1"), keys.HostID("h2")
	var n store.ProjectNetwork
	good := map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 0, 3)}
	for i, c := range []struct {
		what       string
		validate   uint64
		machines   machines
		validators map[keys.HostID]validator
		happened   []string
		waiting    []string // "holder old>new"
	}{
		{"what the key was configured with is not told", 4, machines{plane: from("192.0.2.1"), one: from()}, nil, nil, nil},
		{"a host that does not know its address", 4, machines{plane: from("192.0.2.1"), one: from()}, good, nil, nil},
		{"a host joins", 4, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, good, []string{"changed h1"}, []string{"h1 []>[192.0.2.7]"}},
		{"nothing new", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, good, nil, []string{"h1 []>[192.0.2.7]"}},
		{"a run from before", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 2, 3)}, nil, []string{"h1 []>[192.0.2.7]"}},
		{"an asked-for run that AWS refused", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.Suspect, kms.Revoked, 3, 4)}, nil, []string{"h1 []>[192.0.2.7]"}},
		{"denied", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.NAD, kms.Revoked, 5, 4)}, []string{"denied h1"}, []string{"h1 []>[192.0.2.7]"}},
		{"denied still", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.NAD, kms.Revoked, 6, 4)}, nil, []string{"h1 []>[192.0.2.7]"}},
		{"not heard", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, nil, nil, []string{"h1 []>[192.0.2.7]"}},
		{"allowed", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 8, 4)}, []string{"confirmed h1", "restored h1"}, nil},
		{"the host moves", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.8")}, map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 8, 4)}, []string{"changed h1"}, []string{"h1 [192.0.2.7]>[192.0.2.8]"}},
		{"and moves on: old is what the policies have", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.9")}, map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 8, 4)}, []string{"changed h1"}, []string{"h1 [192.0.2.7]>[192.0.2.9]"}},
		{"and back", 5, machines{plane: from("192.0.2.1"), one: from("192.0.2.7")}, map[keys.HostID]validator{one: ran(custody.Valid, kms.OK, 8, 4)}, []string{"changed h1"}, nil},
		{"the control plane moves, another host joins", 6, machines{plane: from("192.0.2.2"), one: from("192.0.2.7"), two: from("192.0.2.3")}, good, []string{"changed ", "changed h2"}, []string{" [192.0.2.1]>[192.0.2.2]", "h2 []>[192.0.2.3]"}},
		{"the control plane's run from before", 7, machines{plane: from("192.0.2.2"), one: from("192.0.2.7"), two: from("192.0.2.3")}, map[keys.HostID]validator{plane: ran(custody.Valid, kms.OK, 12, 9)}, nil, []string{" [192.0.2.1]>[192.0.2.2]", "h2 []>[192.0.2.3]"}},
		{"the control plane's own run", 7, machines{plane: from("192.0.2.2"), one: from("192.0.2.7"), two: from("192.0.2.3")}, map[keys.HostID]validator{plane: ran(custody.Valid, kms.OK, 15, 0)}, []string{"confirmed "}, []string{"h2 []>[192.0.2.3]"}},
		{"a host leaves", 7, machines{plane: from("192.0.2.2"), one: from("192.0.2.7")}, nil, []string{"left h2"}, nil},
	} {
		before := fmt.Sprint(n)
		next, happened := advance(n, observed{now: at(i), validate: c.validate, sources: c.machines, validators: c.validators})
		if fmt.Sprint(n) != before {
			t.Fatalf("%s: what was told before was changed", c.what)
		}
		n = next
		if got := told(happened); !slices.Equal(got, append([]string{}, c.happened...)) {
			t.Errorf("%s: %q, want %q", c.what, got, c.happened)
		}
		var waiting []string
		for _, x := range n.Changes {
			if x.Confirmed.IsZero() {
				waiting = append(waiting, fmt.Sprintf("%s %v>%v", x.Holder, x.Old, x.New))
			}
		}
		if !slices.Equal(waiting, c.waiting) {
			t.Errorf("%s: waiting %q, want %q", c.what, waiting, c.waiting)
		}
		again, happened := advance(n, observed{now: at(i), validate: c.validate, sources: c.machines, validators: c.validators})
		if len(happened) > 0 || differs(n, again) {
			t.Errorf("%s: a second look finds %v", c.what, told(happened))
		}
	}
}

func TestConfirmedChangesAreBounded(t *testing.T) {
	var n store.ProjectNetwork
	for i := range 3 * kept {
		v := map[keys.HostID]validator{"h": ran(custody.Valid, kms.OK, i, uint64(i))}
		n, _ = advance(n, observed{now: at(i), validate: uint64(i), sources: machines{"h": from(fmt.Sprintf("192.0.2.%d", i))}, validators: v})
		v = map[keys.HostID]validator{"h": ran(custody.Valid, kms.OK, i+1, uint64(i))}
		n, _ = advance(n, observed{now: at(i), sources: machines{"h": from(fmt.Sprintf("192.0.2.%d", i))}, validators: v})
	}
	if len(n.Changes) != kept || !reflect.DeepEqual(n.Changes[kept-1].New, []string{fmt.Sprintf("192.0.2.%d", 3*kept-1)}) {
		t.Errorf("%d changes, the last %+v", len(n.Changes), n.Changes[len(n.Changes)-1])
	}
}
