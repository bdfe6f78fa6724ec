package command

import (
	"context"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// command is one line of the table.
type command struct {
	name    string
	aliases []string
	fields  []string // beside the first one and the common ones
	// needs says what a user must be allowed; nil: any user may.
	needs func(*request) ([]need, error)
	// run does it. user is nil without authentication, or before login.
	run func(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error)

	anonymous  bool // allowed before login
	firstSteps bool // allowed to a local client as long as there is no user
	always     bool // allowed before the set is initiated
	adminOnly  bool // on the database admin only
	writes     bool
	retryable  bool // may carry a txnNumber
	waits      bool // maxTimeMS means something else here
	anyField   bool // fields are names of what is asked for
	stable     bool // part of MongoDB's stable API version 1
}

// need is an action on a resource.
type need struct {
	action auth.Action
	on     auth.Resource
}

func (c *command) knows(field string) bool { return c.anyField || contains(c.fields, field) }

// onCollection needs actions on the collection that the command names.
func onCollection(actions ...auth.Action) func(*request) ([]need, error) {
	return func(r *request) ([]need, error) {
		name, ok := r.args[0].value.StringValueOK()
		if !ok {
			name = "" // the handler will refuse it; the database decides until then
		}
		return needAll(auth.Resource{DB: r.db, Collection: name}, actions), nil
	}
}

// onDatabase needs actions on the command's database.
func onDatabase(actions ...auth.Action) func(*request) ([]need, error) {
	return func(r *request) ([]need, error) { return needAll(auth.Resource{DB: r.db}, actions), nil }
}

// onCluster needs actions on the node.
func onCluster(actions ...auth.Action) func(*request) ([]need, error) {
	return func(*request) ([]need, error) { return needAll(auth.Resource{Cluster: true}, actions), nil }
}

func needAll(on auth.Resource, actions []auth.Action) []need {
	out := make([]need, len(actions))
	for i, a := range actions {
		out[i] = need{action: a, on: on}
	}
	return out
}

// commandTable is every command there is.
func commandTable() []command {
	var all []command
	for _, group := range [][]command{
		handshakeCommands(), loginCommands(), userCommands(), writeCommands(), readCommands(), cursorCommands(),
		sessionCommands(), catalogueCommands(), diagnosticCommands(), replicaCommands(), keyCommands(),
	} {
		all = append(all, group...)
	}
	return all
}

// absentCommands are commands of MongoDB that tools know how to do without when
// told by the right code.
func absentCommands() map[string]int32 {
	const unsupported, missing = mongoerr.CommandNotSupported, mongoerr.NotImplemented
	return map[string]int32{
		"createSearchIndexes": unsupported, "updateSearchIndex": unsupported, "dropSearchIndex": unsupported, "listSearchIndexes": unsupported,
		"mapReduce": unsupported, "mapreduce": unsupported,
		"abortTransaction": missing, "commitTransaction": missing, "collMod": missing, "renameCollection": missing,
		"createRole": missing, "updateRole": missing, "dropRole": missing, "validate": missing, "compact": missing, "setParameter": missing,
		"profile": missing, "fsync": missing, "convertToCapped": missing, "cloneCollectionAsCapped": missing, "reIndex": missing,
		"setFeatureCompatibilityVersion": missing, "killSessions": missing, "killAllSessions": missing, "killAllSessionsByPattern": missing,
		"currentOp": missing, "killOp": missing, "applyOps": missing, "replSetReconfig": missing, "replSetStepDown": missing,
		"top": missing, "dataSize": missing, "dbHash": missing, "logRotate": missing, "getDiagnosticData": missing,
		"getDefaultRWConcern": missing, "setDefaultRWConcern": missing, "grantRolesToUser": missing, "revokeRolesFromUser": missing,
		"dropAllUsersFromDatabase": missing, "rolesInfo": missing, "rotateCertificates": missing,
	}
}
