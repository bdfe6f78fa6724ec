package enginekmip

import (
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/keywright/keywright/internal/engine"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
)

func put(t *testing.T, c *mongo.Client, id string) {
	t.Helper()
	_, err := c.Database("d").Collection("c").InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}})
	must(t, err)
}

func has(t *testing.T, c *mongo.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := c.Database("d").Collection("c").FindOne(t.Context(), bson.D{{Key: "_id", Value: id}}).Err(); err != nil {
			t.Errorf("document %q: %v", id, err)
		}
	}
}

func TestAKeyIsMadeOnceAndAskedForAtEveryStart(t *testing.T) {
	a := startAgent(t)
	n := newNode(t, a.encryption(t))
	put(t, n.setUp(t), "one")
	n.halt(t)
	id, made := a.plane.newest(t)
	if made != 1 {
		t.Errorf("the first start made %d keys", made)
	}
	a.plane.with(func() {
		if a.plane.held[id].state != keys.StateActive {
			t.Errorf("the key is %s", a.plane.held[id].state)
		}
		a.plane.got = nil
	})
	rings, err := filepath.Glob(filepath.Join(n.o.DBPath, "keyring.*"))
	must(t, err)
	if len(rings) == 0 {
		t.Error("there is no keyring")
	}
	has(t, n.again(t), "one")
	n.halt(t)
	if _, made := a.plane.newest(t); made != 1 {
		t.Errorf("%d keys after two starts", made)
	}
	a.plane.with(func() {
		if len(a.plane.got) == 0 || a.plane.got[0] != id {
			t.Errorf("the second start asked for %v, want %s", a.plane.got, id)
		}
	})

	n.o.Encryption = engine.Encryption{}
	wantCode(t, "a start without encryption", n.run(t, nil), engine.ExitBadOptions)
}

func TestARefusedKeyEndsTheStartAndLeavesTheDataAlone(t *testing.T) {
	a := startAgent(t)
	n := newNode(t, a.encryption(t))
	put(t, n.setUp(t), "one")
	n.halt(t)
	before := n.digest(t)
	_, made := a.plane.newest(t)
	same := func(what string) {
		t.Helper()
		if !maps.Equal(before, n.digest(t)) {
			t.Errorf("%s: the data directory was changed", what)
		}
		if _, now := a.plane.newest(t); now != made {
			t.Errorf("%s: another key was made", what)
		}
	}
	for what, err := range map[string]error{
		"refused by the verdict": kmip.ErrUnavailable, "another node's": kmip.ErrForeign, "destroyed": kmip.ErrNotFound, "unknown": kmip.ErrUnknown,
	} {
		a.plane.with(func() { a.plane.refuses = err })
		wantCode(t, what, n.run(t, nil), engine.ExitKey)
		same(what)
	}
	a.plane.with(func() { a.plane.refuses = nil })

	err := n.run(t, func(o *engine.Options) { o.NodeID = otherNodeID })
	var exit *engine.ExitError
	if !errors.As(err, &exit) || exit.Code == engine.ExitClean {
		t.Errorf("a wrong --nodeId: %v", err)
	}
	same("a wrong --nodeId")

	other, _ := a.plane.newest(t)
	a.plane.with(func() { other = a.plane.add(a.plane.held[other].meta, a.plane.held[other].key.Clone()) })
	wantCode(t, "another key by --kmipKeyIdentifier", n.run(t, func(o *engine.Options) { o.Encryption.KeyIdentifier = other }), engine.ExitKey)

	a.stop()
	wantCode(t, "no server", n.run(t, nil), engine.ExitKey)
	if !maps.Equal(before, n.digest(t)) {
		t.Error("no server: the data directory was changed")
	}
	a.start(t)
	has(t, n.again(t), "one")
	n.halt(t)
}

func TestAMasterKeyIsRotatedTwice(t *testing.T) {
	a := startAgent(t)
	n := newNode(t, a.encryption(t))
	put(t, n.setUp(t), "one")
	n.halt(t)
	rotate := func(o *engine.Options) { o.Encryption.RotateMasterKey = true }
	must(t, n.run(t, rotate))
	must(t, n.run(t, rotate))
	id, made := a.plane.newest(t)
	if made != 3 {
		t.Fatalf("%d keys were made, want 3", made)
	}
	// Nothing needs the keys before any more.
	a.plane.with(func() {
		for _, old := range a.plane.made[:2] {
			a.plane.held[old].state = keys.StateDestroyed
		}
		a.plane.got = nil
	})
	c := n.again(t)
	has(t, c, "one")
	put(t, c, "two")
	n.halt(t)
	a.plane.with(func() {
		for _, asked := range a.plane.got {
			if asked != id {
				t.Errorf("the start asked for %s, want only %s", asked, id)
			}
		}
	})
	must(t, n.run(t, rotate))
	has(t, n.again(t), "one", "two")
	n.halt(t)
}

func TestARunningNodeFollowsTheStateOfItsKey(t *testing.T) {
	a := startAgent(t)
	e := a.encryption(t)
	e.StatePollingSeconds = 1
	n := newNode(t, e)
	c := n.setUp(t)
	put(t, c, "one")
	id, _ := a.plane.newest(t)

	a.stop()
	const unanswered = "state of the master key could not be asked for"
	eventually(t, "a poll without an answer", func() bool { return n.logged(t, unanswered) })
	put(t, c, "while the server is away")
	a.start(t)
	var before int
	a.plane.with(func() { before = a.plane.polls })
	eventually(t, "a poll with an answer", func() bool {
		var now int
		a.plane.with(func() { now = a.plane.polls })
		return now > before
	})
	put(t, c, "after it came back")

	for _, state := range []keys.State{keys.StateDeactivated, keys.StateDestroyed} {
		a.plane.with(func() { a.plane.held[id].state = state })
		wantCode(t, "the key is "+string(state), n.ends(t), engine.ExitKey)
		a.plane.with(func() { a.plane.held[id].state = keys.StateActive })
		// It ended cleanly: everything is there.
		has(t, n.again(t), "one", "while the server is away", "after it came back")
	}
	n.halt(t)
}
