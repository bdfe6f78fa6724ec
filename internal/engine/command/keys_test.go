package command_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/keywright/keywright/internal/keys"
)

func runOn(t *testing.T, c *mongo.Client, db string, cmd bson.D) error {
	t.Helper()
	return c.Database(db).RunCommand(t.Context(), cmd).Err()
}

func TestOnlyRootRotatesTheMasterKey(t *testing.T) {
	n := newNode(t)
	var asked []keys.KeyID
	n.rotate = func(_ context.Context, from keys.KeyID) (keys.KeyID, keys.KeyID, error) {
		asked = append(asked, from)
		if from == "kw-other" {
			return "kw-2", "kw-2", nil
		}
		if from == "kw-broken" {
			return "kw-1", "kw-1", errors.New("no key could be made")
		}
		return "kw-1", "kw-2", nil
	}
	n.start()
	n.setUp()
	root := n.root()
	rotate := func(from any) bson.D {
		return bson.D{{Key: "keywrightRotateMasterKey", Value: 1}, {Key: "from", Value: from}}
	}
	var monitor bson.A
	for _, r := range []string{"clusterMonitor", "readWriteAnyDatabase", "dbAdminAnyDatabase", "userAdminAnyDatabase", "backup", "restore"} {
		monitor = append(monitor, bson.D{{Key: "role", Value: r}, {Key: "db", Value: "admin"}})
	}
	must(t, runOn(t, root, "admin", bson.D{{Key: "createUser", Value: "all-but-root"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: monitor}}))
	wantCode(t, "without root", runOn(t, n.as("all-but-root", "admin", "pw"), "admin", rotate("kw-1")), 13)
	wantCode(t, "elsewhere than in admin", runOn(t, root, "shop", rotate("kw-1")), 13)
	wantCode(t, "from of another type", runOn(t, root, "admin", rotate(1)), 14)
	wantCode(t, "from too long", runOn(t, root, "admin", rotate(strings.Repeat("x", 41))), 2)
	wantCode(t, "failure", runOn(t, root, "admin", rotate("kw-broken")), 96)
	if len(asked) != 1 {
		t.Errorf("asked with %v", asked)
	}
	var answer struct {
		Previous string `bson:"previousMasterKey"`
		Now      string `bson:"masterKey"`
		Rotated  bool   `bson:"rotated"`
	}
	must(t, root.Database("admin").RunCommand(t.Context(), rotate("kw-1")).Decode(&answer))
	if answer.Previous != "kw-1" || answer.Now != "kw-2" || !answer.Rotated {
		t.Errorf("%+v", answer)
	}
	must(t, root.Database("admin").RunCommand(t.Context(), rotate("kw-other")).Decode(&answer))
	if answer.Now != "kw-2" || answer.Rotated {
		t.Errorf("%+v", answer)
	}
}

func TestANodeWithoutEncryptionHasNoMasterKey(t *testing.T) {
	n := startNode(t)
	wantCode(t, "no encryption", runOn(t, n.root(), "admin", bson.D{{Key: "keywrightRotateMasterKey", Value: 1}}), 20)
}
