package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
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

// access is a project's custodian as the vault sees it.
type access interface {
	// releasable is nil if a key may leave to a node of the cluster now; refused asks
	// for a run because AWS refused a key that could (key-plane rules 30 and 19).
	releasable(keys.ClusterID) error
	refused()
	mustBeDown(keys.ClusterID) bool
	config() (agentlink.CustomerKey, kms.Target)
	// plan is what the control plane last said about the project's key; made tells that a
	// key was made by it.
	plan() keyPlan
	made()
}

// custodians finds the custodian of a project on this host.
type custodians interface {
	access(keys.ProjectID) (access, bool)
}

// journal is the host's audit chain.
type journal interface {
	record(ctx context.Context, e audit.Event) error
}

// vault is the key plane behind the KMIP server (kmip.Keys): every key is
// wrapped by the customer's CMK, kept on this host and in escrow. It keeps no
// plaintext between two calls.
type vault struct {
	deployment keys.DeploymentID
	store      *wraps.Store
	escrow     escrow
	recorder   journal
	custodians custodians
	provider   kms.Provider
	alarms     *alarms
	log        *slog.Logger
	// gate is held for reading from taking up a plan until a key that is made by it is in
	// the store.
	gate sync.RWMutex

	// troubles has, by node, why its newest request for a key failed.
	mu       sync.Mutex
	troubles map[keys.NodeID]string
}

var _ kmip.Keys = (*vault)(nil)

// note remembers why a node gets no key, for the people who wait for the node; the
// node itself is not told.
func (v *vault) note(n keys.NodeID, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.troubles, n)
	if err != nil {
		if v.troubles == nil {
			v.troubles = map[keys.NodeID]string{}
		}
		v.troubles[n] = strings.ReplaceAll(err.Error(), "\n", ": ")
	}
}

// trouble is why the newest request of a node for a key failed; "" if it did not.
func (v *vault) trouble(n keys.NodeID) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.troubles[n]
}

// open gives the project's custodian if its verdict allows a release now.
func (v *vault) open(p kmip.Principal) (access, error) {
	c, ok := v.custodians.access(p.Project)
	if !ok {
		return nil, fmt.Errorf("%w: project %s has no customer key on this host", kmip.ErrUnavailable, p.Project)
	}
	if err := c.releasable(p.Cluster); err != nil {
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
func (v *vault) keep(ctx context.Context, p kmip.Principal, purpose keys.Purpose, meta kmip.Meta, material secret.Bytes) (_ keys.KeyID, err error) {
	defer func() { v.note(p.Node, err) }()
	c, err := v.open(p)
	if err != nil {
		return "", err
	}
	// What an earlier try left without escrow goes first: a node that tries again
	// while the control plane is away must not pile up keys.
	if err := v.escrowNode(ctx, p.Node); err != nil {
		return "", errors.Join(kmip.ErrUnavailable, err)
	}
	r := wraps.Record{
		Key: keys.NewKeyID(), Node: p.Node, Project: p.Project, Cluster: p.Cluster, Purpose: purpose,
		State: keys.StatePreActive, Created: time.Now().UTC().Truncate(time.Second), Meta: meta,
	}
	if err := v.recorder.record(ctx, v.event("KEY_CREATED", p, r.Key, "A key of a node is wrapped with the customer key.")); err != nil {
		return "", errors.Join(kmip.ErrUnavailable, err)
	}
	if r, err = v.wrapNew(ctx, c, r, material); err != nil {
		return "", err
	}
	defer c.made()
	if err := v.escrow.Escrow(ctx, r.Escrow()...); err != nil {
		return "", errors.Join(kmip.ErrUnavailable, fmt.Errorf("escrow wrapped key: %w", err))
	}
	return r.Key, v.store.MarkEscrowed(r.Key, r.Revision)
}

// wrapNew wraps a new key and stores it: under the configuration in force, and under
// the candidate while one is prepared (key-plane section 4: it gets both).
func (v *vault) wrapNew(ctx context.Context, c access, r wraps.Record, material secret.Bytes) (wraps.Record, error) {
	v.gate.RLock()
	defer v.gate.RUnlock()
	plan := c.plan()
	w, err := v.wrap(ctx, target(plan.current), r, material)
	if err != nil {
		return r, v.failed(c, r.Node, err)
	}
	r.Generation, r.Wrapped = plan.current.Generation, w
	candidate, ok := plan.staging()
	switch {
	case !ok:
	case keys.SameKey(candidate.KeyARN, plan.current.KeyARN):
		// The same CMK: what the new way must do is open it.
		var back secret.Bytes
		if back, err = v.unwrap(ctx, target(candidate), r.Context(v.deployment), wraps.Wrap{Wrapped: w}); err == nil {
			back.Wipe()
		}
	default:
		if w, err = v.wrap(ctx, target(candidate), r, material); err == nil {
			r = r.With(candidate.Generation, w)
		}
	}
	if err != nil {
		return r, errors.Join(kmip.ErrUnavailable, fmt.Errorf("wrap key for the configuration that is prepared: %w", err))
	}
	if r, err = v.store.Put(r); err != nil {
		return r, errors.Join(kmip.ErrUnavailable, err)
	}
	return r, nil
}

func (v *vault) wrap(ctx context.Context, t kms.Target, r wraps.Record, material secret.Bytes) ([]byte, error) {
	session, err := v.provider.Session(ctx, t)
	if err != nil {
		return nil, err
	}
	w, err := envelope.Wrap(ctx, session, r.Context(v.deployment), material)
	if err != nil {
		return nil, err
	}
	b, err := w.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode wrapped key: %w", err)
	}
	return b, nil
}

func (v *vault) unwrap(ctx context.Context, t kms.Target, kctx keys.Context, w wraps.Wrap) (secret.Bytes, error) {
	e, err := w.Open()
	if err != nil {
		return secret.Bytes{}, err
	}
	session, err := v.provider.Session(ctx, t)
	if err != nil {
		return secret.Bytes{}, err
	}
	return envelope.Unwrap(ctx, session, kctx, e)
}

// choose gives the wrap of a key and the way to open it: that of the configuration in
// force, else of one before (the key was made while that was replaced).
func choose(r wraps.Record, plan keyPlan) (wraps.Wrap, kms.Target) {
	for _, k := range append([]agentlink.CustomerKey{plan.current}, plan.retained...) {
		if w, ok := r.Under(k.KeyARN); ok {
			return w, target(k)
		}
	}
	return r.Wraps()[0], target(plan.current)
}

// failed turns a failure of KMS into an answer: when AWS refused, the verdict
// is looked into at once (key-plane rule 19); it is not decided here.
func (v *vault) failed(c access, node keys.NodeID, err error) error {
	switch f := kms.AsFailure(err); {
	case f.Outcome == kms.Revoked:
		c.refused()
	case f.Reason == kms.CiphertextMismatch:
		v.log.Error("a wrapped key does not open with this customer key and its owner's context", "error", err)
		v.alarms.raise(aboutBroken(node), "a wrapped key does not open with the project's customer key and its owner's context: it is damaged, or of another key")
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
		v.alarms.raise(aboutUnknown(p.Node), fmt.Sprintf("node %s asks for a key that this host does not know: a wrap may be lost", p.Node))
		return wraps.Record{}, kmip.ErrUnknown
	case r.Node != p.Node || r.Project != p.Project || r.Cluster != p.Cluster:
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
		return errors.Join(kmip.ErrUnavailable, err)
	}
	if r, err = v.store.Change(id, func(now wraps.Record) (wraps.Record, bool) {
		if now.State != keys.StatePreActive {
			return now, false
		}
		now.State, now.Activated = keys.StateActive, time.Now().UTC().Truncate(time.Second)
		return now, true
	}); err != nil {
		return err
	}
	// The wrap itself is in escrow since it was made; that its state follows a
	// little later loses nothing.
	if err := v.escrow.Escrow(ctx, r.Escrow()...); err != nil {
		v.log.Warn("state of a key is not yet in escrow, it is sent again", "key", id, "error", err)
		return nil
	}
	return v.store.MarkEscrowed(id, r.Revision)
}

// Get implements kmip.Keys.
func (v *vault) Get(ctx context.Context, p kmip.Principal, id keys.KeyID) (_ kmip.Object, err error) {
	defer func() { v.note(p.Node, err) }()
	r, err := v.find(p, id)
	if err != nil {
		return kmip.Object{}, err
	}
	c, err := v.open(p)
	if err != nil {
		return kmip.Object{}, err
	}
	if err := v.recorder.record(ctx, v.event("KEY_RELEASED", p, id, "A key was unwrapped for its node.")); err != nil {
		return kmip.Object{}, errors.Join(kmip.ErrUnavailable, err)
	}
	// The context is rebuilt from who asks, not from what the record says; find
	// has made sure that both agree.
	kctx := keys.Context{Deployment: v.deployment, Project: p.Project, Cluster: p.Cluster, Node: p.Node, Purpose: r.Purpose, Key: id}
	w, way := choose(r, c.plan())
	material, err := v.unwrap(ctx, way, kctx, w)
	if err != nil {
		return kmip.Object{}, v.failed(c, p.Node, err)
	}
	// The node has a key that is here and opens: what it asked for before is over.
	v.alarms.clear(aboutUnknown(p.Node))
	v.alarms.clear(aboutBroken(p.Node))
	return kmip.Object{Meta: r.Meta, Material: material}, nil
}

// Release implements kmip.Keys (key-plane rule 30): between unwrapping and
// answering the verdict may have changed.
func (v *vault) Release(_ context.Context, p kmip.Principal, _ keys.KeyID) error {
	_, err := v.open(p)
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
	if c, ok := v.custodians.access(p.Project); ok && c.mustBeDown(p.Cluster) || r.State == keys.StatePendingDestruction {
		a.State = keys.StateDeactivated
	}
	return a, nil
}

// Locate implements kmip.Keys.
func (v *vault) Locate(_ context.Context, p kmip.Principal, name string) ([]keys.KeyID, error) {
	var out []keys.KeyID
	for _, r := range slices.Backward(v.store.OfNode(p.Node)) {
		if r.State.Readable() && r.Project == p.Project && r.Cluster == p.Cluster && (name == "" || r.Meta.Name == name) {
			out = append(out, r.Key)
		}
	}
	return out, nil
}

// removed tells that all keys that the node ever had are recorded as destroyed: an order
// to remove it was carried out here.
func (v *vault) removed(node keys.NodeID) bool {
	all := v.store.OfNode(node)
	return len(all) > 0 && !slices.ContainsFunc(all, func(r wraps.Record) bool { return r.State.Readable() })
}

// holds tells whether the node has keys that are not destroyed, but those in keep.
func (v *vault) holds(node keys.NodeID, keep ...keys.KeyID) bool {
	return slices.ContainsFunc(v.store.OfNode(node), func(r wraps.Record) bool {
		return r.State.Readable() && !slices.Contains(keep, r.Key)
	})
}

// destroy carries out a recorded order to destroy a node's keys but those in keep.
// A key to be kept that is not here is a reason to touch nothing.
func (v *vault) destroy(ctx context.Context, order string, node keys.NodeID, keep ...keys.KeyID) error {
	for _, id := range keep {
		if r, ok := v.store.Get(id); !ok || r.Node != node || !r.State.Readable() {
			return fmt.Errorf("destroy keys: %s, which node %s uses, is not among its keys; nothing is destroyed", id, node)
		}
	}
	if !v.holds(node, keep...) {
		return nil
	}
	if err := v.recorder.record(ctx, audit.Event{
		Type: "KEYS_DESTROYED", Node: string(node), Message: "Wrapped keys of a node are destroyed on an explicit order.",
		Data: map[string]string{"order": order},
	}); err != nil {
		return fmt.Errorf("destroy keys: %w", err)
	}
	_, err := v.store.Destroy(node, keep...)
	return err
}

// readable lists those of the keys that are the node's and not destroyed.
func (v *vault) readable(node keys.NodeID, ids []keys.KeyID) (out []keys.KeyID) {
	for _, id := range ids {
		if r, ok := v.store.Get(id); ok && r.Node == node && r.State.Readable() {
			out = append(out, id)
		}
	}
	return out
}

// deactivate makes every master key of the node but the one in use Deactivated. They
// stay readable; what an unfinished rotation left behind is among them.
func (v *vault) deactivate(ctx context.Context, node keys.NodeID, inUse keys.KeyID) error {
	for _, r := range v.store.OfNode(node) {
		if r.Key == inUse || r.Purpose != keys.PurposeMasterKey || r.State != keys.StateActive && r.State != keys.StatePreActive {
			continue
		}
		if err := v.recorder.record(ctx, audit.Event{
			Type: "KEY_DEACTIVATED", Project: string(r.Project), Cluster: string(r.Cluster), Node: string(node),
			Message: "A key was replaced; it stays readable.", Data: map[string]string{"key": string(r.Key), "replacedBy": string(inUse)},
		}); err != nil {
			return fmt.Errorf("deactivate key: %w", err)
		}
		if _, err := v.store.Change(r.Key, func(now wraps.Record) (wraps.Record, bool) {
			if now.State != keys.StateActive && now.State != keys.StatePreActive {
				return now, false
			}
			now.State = keys.StateDeactivated
			return now, true
		}); err != nil {
			return fmt.Errorf("deactivate key: %w", err)
		}
	}
	return nil
}

// destroyRetired carries out the control plane's order to destroy these keys of a
// node. Only replaced ones can go that way; the caller has made sure that no keyring
// names them.
func (v *vault) destroyRetired(ctx context.Context, node keys.NodeID, ids []keys.KeyID) error {
	for _, id := range v.readable(node, ids) {
		if r, _ := v.store.Get(id); r.State != keys.StateDeactivated {
			return fmt.Errorf("destroy key: %s is %s, not replaced; it stays", id, r.State)
		}
		if err := v.recorder.record(ctx, audit.Event{
			Type: "KEYS_DESTROYED", Node: string(node), Message: "A replaced key is destroyed on an explicit order.",
			Data: map[string]string{"order": "rotation acknowledged", "key": string(id)},
		}); err != nil {
			return fmt.Errorf("destroy key: %w", err)
		}
		if err := v.store.DestroyKey(id); err != nil {
			return err
		}
	}
	return nil
}

// syncEscrow sends records that the control plane has not confirmed yet. One that
// it refuses does not keep the others back.
func (v *vault) syncEscrow(ctx context.Context, open []wraps.Record) error {
	var errs []error
	for _, r := range open {
		if err := v.escrow.Escrow(ctx, r.Escrow()...); err != nil {
			errs = append(errs, fmt.Errorf("escrow wrapped key %s: %w", r.Key, err))
			var refused *agentlink.Error
			if !errors.As(err, &refused) {
				break // nobody there
			}
			continue
		}
		errs = append(errs, v.store.MarkEscrowed(r.Key, r.Revision))
	}
	return errors.Join(errs...)
}

func (v *vault) escrowNode(ctx context.Context, node keys.NodeID) error {
	return v.syncEscrow(ctx, slices.DeleteFunc(v.store.Unescrowed(), func(r wraps.Record) bool { return r.Node != node }))
}

func (v *vault) event(kind string, p kmip.Principal, id keys.KeyID, message string) audit.Event {
	return audit.Event{
		Type: kind, Actor: "node:" + string(p.Node), Project: string(p.Project), Cluster: string(p.Cluster), Node: string(p.Node),
		Message: message, Data: map[string]string{"key": string(id)},
	}
}
