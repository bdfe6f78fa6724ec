package command

import (
	"context"
	"errors"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/keys"
)

// maxKeyID is the longest identifier of a master key, in bytes.
const maxKeyID = 40

func keyCommands() []command {
	return []command{
		{name: "keywrightRotateMasterKey", run: rotateMasterKey, needs: onCluster(auth.RotateMasterKey), adminOnly: true, always: true, fields: []string{"from"}},
		{name: "keywrightRotateKeysets", run: rotateKeysets, needs: onCluster(auth.RotateMasterKey), adminOnly: true, always: true, fields: []string{"database"}},
		{name: "keywrightCompactKeysets", run: compactKeysets, needs: onCluster(auth.RotateMasterKey), adminOnly: true, always: true},
		{name: "keywrightKeysetStatus", run: keysetStatus, needs: onCluster(auth.RotateMasterKey), adminOnly: true, always: true},
	}
}

// rotateMasterKey seals the keyring with a new master key while the node runs. from
// makes it safe to repeat: a node that does not use that key any more keeps the one
// it has.
func rotateMasterKey(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	from := p.str("from")
	if p.err != nil {
		return nil, p.err
	}
	if len(from) > maxKeyID {
		return nil, mongoerr.Of(mongoerr.BadValue, "from: an identifier of at most %d bytes is expected", maxKeyID)
	}
	if s.cfg.RotateMasterKey == nil {
		return nil, mongoerr.Of(mongoerr.IllegalOperation, "this node's files are not encrypted: there is no master key to rotate")
	}
	before, after, err := s.cfg.RotateMasterKey(ctx, keys.KeyID(from))
	if err != nil {
		s.log.Error("the master key was not rotated", "error", err)
		var e *mongoerr.Error
		if errors.As(err, &e) {
			return nil, e
		}
		return nil, mongoerr.New(96, "OperationFailed", "the master key was not rotated: %s", err)
	}
	return newDoc().str("previousMasterKey", string(before)).str("masterKey", string(after)).boolean("rotated", before != after), nil
}
