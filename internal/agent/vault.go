package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// masterKeySize is the length of a node's master key in bytes.
const masterKeySize = 32

// escrow is the control plane's store of wraps.
type escrow interface {
	Escrow(ctx context.Context, w ...agentlink.EscrowedWrap) error
}

// custodians finds the custodian of a project on this host.
type custodians interface {
	custodian(keys.ProjectID) (*custodian, bool)
}

// vault is the key plane behind the KMIP server (kmip.Keys): every key is
// wrapped by the customer's CMK, kept on this host and in escrow. It keeps no
// plaintext between two calls.
type vault struct {
	deployment keys.DeploymentID
	store      *wraps.Store
	escrow     escrow
	recorder   *recorder
	custodians custodians
	provider   kms.Provider
	log        *slog.Logger
}

var _ kmip.Keys = (*vault)(nil)

// open gives the project's custodian if its verdict allows a release now.
func (v *vault) open(p keys.ProjectID) (*custodian, error) {
	c, ok := v.custodians.custodian(p)
	if !ok {
		return nil, fmt.Errorf("%w: project %s has no customer key on this host", kmip.ErrUnavailable, p)
	}
	if err := c.loop.Releasable(); err != nil {
		return nil, errors.Join(kmip.ErrUnavailable, err)
	}
	return c, nil
}

// Create implements kmip.Keys.
func (v *vault) Create(ctx context.Context, p kmip.Principal, meta kmip.Meta) (keys.KeyID, error) {
	if meta.Type != kmip.TypeSymmetricKey {
		return "", fmt.Errorf("%w: only symmetric keys are made here", kmip.ErrIllegal)
	}
	material := secret.Random(masterKeySize)
	defer material.Wipe()
	return v.keep(ctx, p, keys.PurposeMasterKey, meta, material)
}

// Register implements kmip.Keys.
func (v *vault) Register(ctx context.Context, p kmip.Principal, obj kmip.Object) (keys.KeyID, error) {
	purpose := keys.PurposeMasterKey
	if obj.Type == kmip.TypeSecretData {
		purpose = keys.PurposeSecretData
	}
	return v.keep(ctx, p, purpose, obj.Meta, obj.Material)
}

// keep wraps a new key and makes the wrap durable here and in escrow before it
// answers (key-plane rules 2.1 and 2.2). A failure leaves at most an orphan wrap,
// which is kept: nothing is destroyed because it looks unused.
func (v *vault) keep(ctx context.Context, p kmip.Principal, purpose keys.Purpose, meta kmip.Meta, material secret.Bytes) (keys.KeyID, error) {
	c, err := v.open(p.Project)
	if err != nil {
		return "", err
	}
	key, target := c.config()
	r := wraps.Record{
		Key: keys.NewKeyID(), Node: p.Node, Project: p.Project, Cluster: p.Cluster, Purpose: purpose,
		State: keys.StatePreActive, Generation: key.Generation, Created: time.Now().UTC().Truncate(time.Second), Meta: meta,
	}
	if err := v.recorder.record(ctx, v.event("KEY_CREATED", p, r.Key, "A key of a node is wrapped with the customer key.")); err != nil {
		return "", err
	}
	session, err := v.provider.Session(ctx, target)
	if err != nil {
		return "", v.refused(c, err)
	}
	w, err := envelope.Wrap(ctx, session, r.Context(v.deployment), material)
	if err != nil {
		return "", v.refused(c, err)
	}
	if r.Wrapped, err = w.MarshalBinary(); err != nil {
		return "", fmt.Errorf("encode wrapped key: %w", err)
	}
	if r, err = v.store.Put(r); err != nil {
		return "", err
	}
	if err := v.escrow.Escrow(ctx, r.Escrow()); err != nil {
		return "", errors.Join(kmip.ErrUnavailable, fmt.Errorf("escrow wrapped key: %w", err))
	}
	return r.Key, v.store.MarkEscrowed(r.Key, r.Revision)
}

// refused turns a failure of KMS into an answer: when AWS refused, the verdict
// is looked into at once (key-plane rule 19); it is not decided here.
func (v *vault) refused(c *custodian, err error) error {
	if f := kms.AsFailure(err); f != nil && f.Outcome == kms.Revoked {
		c.loop.GetRefused()
	}
	return errors.Join(kmip.ErrUnavailable, err)
}

// find gives a record that p may use.
func (v *vault) find(p kmip.Principal, id keys.KeyID) (wraps.Record, error) {
	if !id.Valid() {
		return wraps.Record{}, kmip.ErrNotFound
	}
	r, ok := v.store.Get(id)
	switch {
	case !ok:
		v.log.Error("well-formed key identifier is unknown, a wrap may be lost", "key", id, "node", p.Node)
		return wraps.Record{}, kmip.ErrUnknown
	case r.Node != p.Node || r.Project != p.Project:
		return wraps.Record{}, kmip.ErrForeign
	case !r.State.Readable():
		return wraps.Record{}, kmip.ErrNotFound
	}
	return r, nil
}

// Activate implements kmip.Keys.
func (v *vault) Activate(ctx context.Context, p kmip.Principal, id keys.KeyID) error {
	r, err := v.find(p, id)
	if err != nil {
		return err
	}
	if r.State != keys.StatePreActive {
		return kmip.ErrIllegal
	}
	if err := v.recorder.record(ctx, v.event("KEY_ACTIVATED", p, id, "A key of a node became active.")); err != nil {
		return err
	}
	r.State, r.Activated = keys.StateActive, time.Now().UTC().Truncate(time.Second)
	if r, err = v.store.Put(r); err != nil {
		return err
	}
	// The wrap itself is in escrow since it was made; that its state follows a
	// little later loses nothing.
	if err := v.escrow.Escrow(ctx, r.Escrow()); err != nil {
		v.log.Warn("state of a key is not yet in escrow, it is sent again", "key", id, "error", err)
		return nil
	}
	return v.store.MarkEscrowed(id, r.Revision)
}

// Get implements kmip.Keys.
func (v *vault) Get(ctx context.Context, p kmip.Principal, id keys.KeyID) (kmip.Object, error) {
	r, err := v.find(p, id)
	if err != nil {
		return kmip.Object{}, err
	}
	c, err := v.open(p.Project)
	if err != nil {
		return kmip.Object{}, err
	}
	if err := v.recorder.record(ctx, v.event("KEY_RELEASED", p, id, "A key was unwrapped for its node.")); err != nil {
		return kmip.Object{}, err
	}
	w, err := r.Unwrapped()
	if err != nil {
		return kmip.Object{}, err
	}
	_, target := c.config()
	session, err := v.provider.Session(ctx, target)
	if err != nil {
		return kmip.Object{}, v.refused(c, err)
	}
	// The context is rebuilt from who asks, not from what the record says; find
	// has made sure that both agree.
	kctx := keys.Context{Deployment: v.deployment, Project: p.Project, Cluster: p.Cluster, Node: p.Node, Purpose: r.Purpose, Key: id}
	material, err := envelope.Unwrap(ctx, session, kctx, w)
	if err != nil {
		return kmip.Object{}, v.refused(c, err)
	}
	return kmip.Object{Meta: r.Meta, Material: material}, nil
}

// Release implements kmip.Keys (key-plane rule 30): between unwrapping and
// answering the verdict may have changed.
func (v *vault) Release(_ context.Context, p kmip.Principal, _ keys.KeyID) error {
	_, err := v.open(p.Project)
	return err
}

// Attributes implements kmip.Keys. The state that a client sees is computed
// from the verdict and never stored: under INVALID its key is Deactivated.
func (v *vault) Attributes(_ context.Context, p kmip.Principal, id keys.KeyID) (kmip.Attributes, error) {
	r, err := v.find(p, id)
	if err != nil {
		return kmip.Attributes{}, err
	}
	a := kmip.Attributes{Meta: r.Meta, State: r.State, Created: r.Created, Activated: r.Activated}
	if c, ok := v.custodians.custodian(p.Project); ok && c.loop.State().MustBeDown() || r.State == keys.StatePendingDestruction {
		a.State = keys.StateDeactivated
	}
	return a, nil
}

// Locate implements kmip.Keys.
func (v *vault) Locate(_ context.Context, p kmip.Principal, name string) ([]keys.KeyID, error) {
	var out []keys.KeyID
	for _, r := range slices.Backward(v.store.OfNode(p.Node)) {
		if r.State.Readable() && (name == "" || r.Meta.Name == name) {
			out = append(out, r.Key)
		}
	}
	return out, nil
}

// destroy carries out a recorded order to destroy a node's keys but one.
func (v *vault) destroy(ctx context.Context, order string, node keys.NodeID, keep ...keys.KeyID) error {
	if len(v.store.OfNode(node)) == 0 {
		return nil
	}
	if err := v.recorder.record(ctx, audit.Event{
		Type: "KEYS_DESTROYED", Node: string(node), Message: "Wrapped keys of a node are destroyed on an explicit order.",
		Data: map[string]string{"order": order},
	}); err != nil {
		return err
	}
	_, err := v.store.Destroy(node, keep...)
	return err
}

// syncEscrow sends what the control plane has not confirmed yet.
func (v *vault) syncEscrow(ctx context.Context) error {
	for _, r := range v.store.Unescrowed() {
		if err := v.escrow.Escrow(ctx, r.Escrow()); err != nil {
			return fmt.Errorf("escrow wrapped key: %w", err)
		}
		if err := v.store.MarkEscrowed(r.Key, r.Revision); err != nil {
			return err
		}
	}
	return nil
}

func (v *vault) event(kind string, p kmip.Principal, id keys.KeyID, message string) audit.Event {
	return audit.Event{
		Type: kind, Actor: "node:" + string(p.Node), Project: string(p.Project), Cluster: string(p.Cluster), Node: string(p.Node),
		Message: message, Data: map[string]string{"key": string(id)},
	}
}
