package keys

// Purpose says what a wrapped key is for; it is part of the encryption context.
type Purpose string

// The purposes (key-plane section 3).
const (
	PurposeMasterKey  Purpose = "master-key"
	PurposeSnapshot   Purpose = "snapshot-key"
	PurposeSecretData Purpose = "secret-data"
	PurposeValidation Purpose = "validation"
)

// The names of the encryption context's pairs. They are documented: customers
// put them into key policies, so they never change.
const (
	ContextDeployment = "keywright:deployment"
	ContextProject    = "keywright:project"
	ContextCluster    = "keywright:cluster"
	ContextNode       = "keywright:node"
	ContextPurpose    = "keywright:purpose"
	ContextKey        = "keywright:key"
)

// Context is the KMS encryption context of one ciphertext: it binds the
// ciphertext to its owner. It is rebuilt from an authenticated identity, never
// read from beside the ciphertext.
type Context struct {
	Deployment DeploymentID
	Project    ProjectID
	Cluster    ClusterID
	Node       NodeID
	Purpose    Purpose
	Key        KeyID
}

// ProbeContext is the context of probes: they belong to no node.
func ProbeContext(d DeploymentID, p ProjectID) Context {
	return Context{Deployment: d, Project: p, Purpose: PurposeValidation}
}

// Map gives the pairs that KMS is sent; empty fields are left out.
func (c Context) Map() map[string]string {
	m := make(map[string]string, 6)
	for _, p := range []struct{ k, v string }{
		{ContextDeployment, string(c.Deployment)},
		{ContextProject, string(c.Project)},
		{ContextCluster, string(c.Cluster)},
		{ContextNode, string(c.Node)},
		{ContextPurpose, string(c.Purpose)},
		{ContextKey, string(c.Key)},
	} {
		if p.v != "" {
			m[p.k] = p.v
		}
	}
	return m
}

// State is the life of a managed key, with KMIP's names (KMIP 1.4, section 3.22).
type State string

// The states.
const (
	StatePreActive            State = "PRE_ACTIVE"
	StateActive               State = "ACTIVE"
	StateDeactivated          State = "DEACTIVATED"
	StateCompromised          State = "COMPROMISED"
	StateDestroyed            State = "DESTROYED"
	StateDestroyedCompromised State = "DESTROYED_COMPROMISED"
	// StatePendingDestruction is Keywright's own: a key whose destruction was
	// asked for and can still be cancelled. Clients see it as Deactivated.
	StatePendingDestruction State = "PENDING_DESTRUCTION"
)

// Readable tells whether a Get may answer in this state: every state but the
// destroyed ones, or a node could never be rotated away from a deactivated key.
func (s State) Readable() bool { return s != StateDestroyed && s != StateDestroyedCompromised }
