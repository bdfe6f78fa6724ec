package agentlink

import (
	"encoding/json"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Version is the version of all messages.
const Version = 1

// MaxBody bounds a message in either direction, in bytes.
const MaxBody = 8 << 20

// The paths of the calls, all POST with JSON bodies.
const (
	PathEnroll  = "/agentlink/v1/enroll"
	PathRenew   = "/agentlink/v1/renew"
	PathSign    = "/agentlink/v1/sign"
	PathDesired = "/agentlink/v1/desired"
	PathStatus  = "/agentlink/v1/status"
	PathEscrow  = "/agentlink/v1/escrow"
	PathWraps   = "/agentlink/v1/wraps"
)

// LongPoll is how long a request for the desired state waits for news.
const LongPoll = 25 * time.Second

// EnrollRequest redeems a one-time token. The host has made its key; the request
// for a certificate (PEM) gives only the public part.
type EnrollRequest struct {
	Version  int    `json:"version"`
	Token    string `json:"token"`
	Hostname string `json:"hostname"`
	CSR      string `json:"csr"`
}

// EnrollResponse makes the host a member.
type EnrollResponse struct {
	Version     int               `json:"version"`
	Deployment  keys.DeploymentID `json:"deployment"`
	Host        keys.HostID       `json:"host"`
	Certificate string            `json:"certificate"`
	CAs         Authorities       `json:"cas"`
}

// Authorities are the certificates (PEM) of the four authorities.
type Authorities struct {
	Link       string `json:"link"`
	KMIPServer string `json:"kmipServer"`
	KMIPClient string `json:"kmipClient"`
	Database   string `json:"database"`
}

// RenewRequest asks for a new certificate of the agent itself.
type RenewRequest struct {
	Version int    `json:"version"`
	CSR     string `json:"csr"`
}

// The kinds of certificates that a host may ask for.
const (
	SignKMIPServer = "kmip-server"
	SignKMIPClient = "kmip-client"
	SignDatabase   = "database"
)

// SignRequest asks for a certificate of the host's KMIP server (no node), or of
// one of its nodes. Names in it are chosen by the control plane from what it
// knows, never from the request, except Addresses: the host's own listening
// addresses, which the control plane checks.
type SignRequest struct {
	Version   int         `json:"version"`
	Kind      string      `json:"kind"`
	Node      keys.NodeID `json:"node,omitempty"`
	CSR       string      `json:"csr"`
	Addresses []string    `json:"addresses,omitempty"`
}

// CertificateResponse carries a signed certificate (PEM).
type CertificateResponse struct {
	Version     int    `json:"version"`
	Certificate string `json:"certificate"`
}

// DesiredRequest asks for the desired state, waiting up to LongPoll while the
// revision is still Have. Revision 0 is answered at once.
type DesiredRequest struct {
	Version int    `json:"version"`
	Have    uint64 `json:"have"`
	// Known is the newest revision that the host remembers, whatever it asks for; 0 if
	// there is none, or from an agent that does not tell.
	Known uint64 `json:"known,omitempty"`
}

// Desired is everything that one host shall do. The agent keeps the newest on
// disk (without passwords and secrets of access keys) so that it restarts without the control plane.
type Desired struct {
	Version int `json:"version"`
	// Revision never goes down. An agent that is offered an older one than it
	// remembers freezes changes and alarms: somebody restored an old store.
	Revision   uint64            `json:"revision"`
	Deployment keys.DeploymentID `json:"deployment"`
	Host       keys.HostID       `json:"host"`
	Projects   []Project         `json:"projects"`
	Nodes      []Node            `json:"nodes"`
	Tombstones []Tombstone       `json:"tombstones"`
}

// Project is a project with nodes on this host.
type Project struct {
	ID keys.ProjectID `json:"id"`
	// CustomerKey is nil while the project has no customer key.
	CustomerKey *CustomerKey `json:"customerKey,omitempty"`
	// Validate is a counter: when it grows, a validation run starts at once.
	Validate uint64         `json:"validate"`
	Users    []DatabaseUser `json:"users,omitempty"`
	// Validators is what all other validators of the project's key say, the control
	// plane included. Each answer has it fresh; a new revision is made only when it
	// says something new. It is never kept on disk: its ages would lie.
	Validators []ValidatorEvidence `json:"validators,omitempty"`
	// Drills orders rehearsals of a revocation (key-plane rule 28); a host carries each out
	// once, and none that is old. Like Validators they are never kept on disk.
	Drills []DrillOrder `json:"drills,omitempty"`
	// Candidate is a configuration that is being prepared. The host makes sure that it
	// opens every key that is kept; CustomerKey stays in force until then.
	Candidate *Candidate `json:"candidate,omitempty"`
	// Retained are configurations that were in force before and whose wraps are kept for
	// a rollback, newest first.
	Retained []CustomerKey `json:"retained,omitempty"`
	// Dropped orders the removal of wraps that are not needed any more.
	Dropped []WrapDrop `json:"dropped,omitempty"`
}

// Candidate is a configuration with the next generation, not yet in force.
type Candidate struct {
	CustomerKey
	// Paused: the key in force was taken away, so nothing can be wrapped anew now.
	Paused bool `json:"paused,omitempty"`
}

// WrapDrop orders the removal of the wraps under one CMK that were made by the
// generations From to To. A host removes one only if it keeps another wrap of the same
// key under the CMK in force.
type WrapDrop struct {
	// Order grows with each order of a project; a host reports the newest carried out.
	Order  uint64 `json:"order"`
	KeyARN string `json:"keyArn"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
}

// DrillOrder orders that one cluster is treated as if the key had been taken away, for a
// while. What came of it is in the Drills of CustodyStatus.State.
type DrillOrder struct {
	ID      string         `json:"id"`
	Cluster keys.ClusterID `json:"cluster"`
	For     Duration       `json:"for"`
	// Age is how long ago the order was given; each answer has it fresh, and it is no news.
	Age Duration `json:"age,omitzero"`
}

// DrillText is how a message begins that is about a drill: the phase of its nodes, and
// why its cluster is stopped.
const DrillText = "DRILL"

// ValidatorEvidence is one validator's newest word on a project's key.
type ValidatorEvidence = custody.Evidence

// KeyPolicy is what a confirmed revocation does.
type KeyPolicy struct {
	// Mode is one of custody's modes; empty is custody.ModeStop.
	Mode custody.Mode `json:"mode,omitempty"`
	// Grace is for custody.ModeGrace; UnreachableLimit 0 is none.
	Grace            Duration `json:"grace,omitzero"`
	UnreachableLimit Duration `json:"unreachableLimit,omitzero"`
}

// CustomerKey is the CMK and the way to it.
type CustomerKey struct {
	// Generation counts committed configurations; wraps and verdicts name it.
	Generation uint64 `json:"generation"`
	RoleARN    string `json:"roleArn"`
	ExternalID string `json:"externalId"`
	// AccessKeyID and SecretAccessKey are those of an IAM user, instead of a role, while
	// a migrated project was not switched to one. The agent keeps the secret in a file of
	// its own (0600), not with the desired state, and removes it with the switch.
	AccessKeyID     string `json:"accessKeyId,omitempty"`
	SecretAccessKey string `json:"secretAccessKey,omitempty"`
	// KeyARN is the full ARN as KMS gave it when the key was configured.
	KeyARN string `json:"keyArn"`
	// Region is AWS's name of the region, such as us-east-1.
	Region string `json:"region"`
	// Probe is a ciphertext under the CMK made when it was configured, and
	// ProbeSHA256 the hash of its plaintext: a re-created key cannot open it.
	Probe       []byte `json:"probe"`
	ProbeSHA256 []byte `json:"probeSha256"`
	// Interval is the time between validation runs.
	Interval Duration  `json:"interval"`
	Policy   KeyPolicy `json:"policy,omitzero"`
	// KMSEndpoint and STSEndpoint override the SDK's, if set.
	KMSEndpoint string `json:"kmsEndpoint,omitempty"`
	STSEndpoint string `json:"stsEndpoint,omitempty"`
	// FIPS asks for the FIPS endpoints of AWS where none is set here.
	FIPS bool `json:"fips,omitempty"`
}

// Node is one database process that the host shall have.
type Node struct {
	ID      keys.NodeID    `json:"id"`
	Project keys.ProjectID `json:"project"`
	Cluster keys.ClusterID `json:"cluster"`
	// Engine names the driver: "bundled".
	Engine string `json:"engine"`
	// Run is false for a paused cluster.
	Run bool `json:"run"`
	// Encrypted says whether the node's files are under a customer key. When it
	// differs from what the host has, the node is rewritten.
	Encrypted bool `json:"encrypted"`
	// Generation counts changes of this node.
	Generation uint64 `json:"generation"`
	ReplicaSet string `json:"replicaSet"`
	// Rotation counts the rotations of the master key that are wanted; a node that has
	// carried out fewer rotates once and has carried out all of them then.
	Rotation uint64 `json:"rotation,omitempty"`
	// RetiredKeys orders the destruction of these replaced keys. The control plane names
	// a key when it has acknowledged the rotation that replaced it.
	RetiredKeys []keys.KeyID `json:"retiredKeys,omitempty"`
	// KeysetRotation and Compaction count the wanted rotations of the database keysets,
	// and the wanted rewritings of all files under the newest keys, as Rotation does.
	KeysetRotation uint64 `json:"keysetRotation,omitempty"`
	Compaction     uint64 `json:"compaction,omitempty"`
	// KMIPClientFingerprints are the certificates (hex SHA-256 of the DER) that
	// the KMIP server admits as this node. Removing one is its revocation.
	KMIPClientFingerprints []string `json:"kmipClientFingerprints,omitempty"`
}

// DatabaseUser is a user that the host makes on its nodes.
type DatabaseUser struct {
	Database string         `json:"database"`
	Username string         `json:"username"`
	Password string         `json:"password,omitempty"`
	Roles    []DatabaseRole `json:"roles"`
	// Clusters limits the user to some clusters; empty means all.
	Clusters []keys.ClusterID `json:"clusters,omitempty"`
	// Revision grows with every change of the user.
	Revision uint64 `json:"revision"`
}

// DatabaseRole is a built-in role on a database.
type DatabaseRole struct {
	Role     string `json:"role"`
	Database string `json:"database"`
}

// Tombstone orders the removal of a node: absence is never deletion.
type Tombstone struct {
	Node       keys.NodeID    `json:"node"`
	Project    keys.ProjectID `json:"project"`
	Cluster    keys.ClusterID `json:"cluster"`
	Generation uint64         `json:"generation"`
	// DestroyKeys orders the destruction of the node's wraps; without it they stay.
	DestroyKeys bool `json:"destroyKeys"`
}

// Status is what a host tells: on every change, and every ten seconds.
type Status struct {
	Version int `json:"version"`
	// Revision is the newest desired state that the agent has taken over.
	Revision    uint64 `json:"revision"`
	KMIPAddress string `json:"kmipAddress"`
	// EgressAddresses are addresses from which the host calls AWS, as it knows them.
	EgressAddresses []string        `json:"egressAddresses,omitempty"`
	Nodes           []NodeStatus    `json:"nodes"`
	Custody         []CustodyStatus `json:"custody"`
	// Buried are the nodes whose tombstones were carried out.
	Buried    []keys.NodeID `json:"buried,omitempty"`
	AuditSeq  uint64        `json:"auditSeq"`
	AuditHead string        `json:"auditHead"`
	// AuditSigned and AuditSignature are the head as audit.SignedHead, signed with the key
	// of the link certificate. AuditAnchors answers for what Acknowledged has asked.
	AuditSigned    time.Time     `json:"auditSigned,omitzero"`
	AuditSignature []byte        `json:"auditSignature,omitempty"`
	AuditAnchors   []AuditAnchor `json:"auditAnchors,omitempty"`
	// AuditCertificate is the certificate (PEM) that the control plane saw; it does not
	// travel in the message.
	AuditCertificate string `json:"-"`
	// CertificateEnds is when the host's certificates end.
	CertificateEnds []CertificateEnd `json:"certificateEnds,omitempty"`
	// Alarms are conditions of the host that need a person, such as a rolled-back store.
	Alarms []string `json:"alarms,omitempty"`
	// Holdings are the customer keys that wraps on the host's disk are under; null from
	// an agent that does not tell. More than MaxHoldings count as not told.
	Holdings []KeyHolding `json:"holdings"`
}

// MaxHoldings is how many keys of Status.Holdings the control plane takes in.
const MaxHoldings = 1000

// KeyHolding counts the wraps on a host's disk that are under one customer key.
type KeyHolding struct {
	// KeyARN is empty for wraps that cannot be read.
	KeyARN string `json:"keyArn"`
	Wraps  int    `json:"wraps"`
	// Unescrowed are those of Wraps that the control plane has not confirmed.
	Unescrowed int `json:"unescrowed,omitempty"`
}

// Phase is where a node is in its life on the host.
type Phase string

// The phases.
const (
	PhaseCreating         Phase = "CREATING"
	PhaseStarting         Phase = "STARTING"
	PhaseRunning          Phase = "RUNNING"
	PhaseRewriting        Phase = "REWRITING"
	PhaseStopped          Phase = "STOPPED"
	PhaseWaitingForKey    Phase = "WAITING_FOR_KEY"
	PhaseStoppedByCustody Phase = "STOPPED_BY_CUSTODY"
	PhaseFailed           Phase = "FAILED"
)

// NodeStatus is one node as the host sees it.
type NodeStatus struct {
	Node    keys.NodeID `json:"node"`
	Phase   Phase       `json:"phase"`
	Message string      `json:"message,omitempty"`
	// Port is the node's own for its whole life; 0 until it was given one.
	Port int `json:"port"`
	PID  int `json:"pid"`
	// Encrypted and Generation are what the files on disk are, not what is wanted.
	Encrypted  bool       `json:"encrypted"`
	Generation uint64     `json:"generation"`
	Primary    bool       `json:"primary"`
	MasterKey  keys.KeyID `json:"masterKey,omitempty"`
	// UsersRevision is the highest revision of users carried out on the node.
	UsersRevision uint64 `json:"usersRevision"`
	// Rotation is the newest wanted rotation of the master key that was carried out,
	// RotationFailure why the newest attempt at one failed.
	Rotation        uint64 `json:"rotation,omitempty"`
	RotationFailure string `json:"rotationFailure,omitempty"`
	// Keysets is about the keys of the node's databases; absent before the first order.
	Keysets *KeysetStatus `json:"keysets,omitempty"`
	Since   time.Time     `json:"since"`
}

// KeysetStatus is what a node has done with its database keysets, and which keys its
// files were under when it was last looked at.
type KeysetStatus struct {
	// Rotation and Compaction are the newest wanted ones that were carried out, Failure
	// why the newest attempt at one failed.
	Rotation   uint64 `json:"rotation,omitempty"`
	Compaction uint64 `json:"compaction,omitempty"`
	Failure    string `json:"failure,omitempty"`
	// Bytes of files there are, and Newest of them under the newest keys.
	Bytes  int64 `json:"bytes"`
	Newest int64 `json:"newest"`
	// OldKeys are left in the keysets beside the newest.
	OldKeys int64 `json:"oldKeys"`
	// Compacting tells that files are being rewritten.
	Compacting bool `json:"compacting,omitempty"`
}

// CustodyStatus is the host's own verdict on a project's key.
type CustodyStatus struct {
	Project keys.ProjectID `json:"project"`
	// State has its Clock of the moment of reporting, so that ages can be told.
	State custody.State `json:"state"`
	// Validate is the newest counter for which a run has finished.
	Validate uint64 `json:"validate"`
	// Wraps is how far the project's wraps on this host are.
	Wraps *WrapStatus `json:"wraps,omitempty"`
}

// WrapStatus is a host's progress with the wraps of one project.
type WrapStatus struct {
	// Committed is the newest generation in force that the host acts on, with every kept
	// key wrapped for it here and in escrow.
	Committed uint64 `json:"committed,omitempty"`
	// Staging is the generation of the candidate that Done of Total kept keys are
	// proven for: it opens them, and their wraps are in escrow.
	Staging uint64 `json:"staging,omitempty"`
	Done    int    `json:"done,omitempty"`
	Total   int    `json:"total,omitempty"`
	// Failure is why the newest attempt did not finish.
	Failure *WrapFailure `json:"failure,omitempty"`
	// Dropped is the newest order to drop wraps that was carried out, with all before it.
	Dropped uint64 `json:"dropped,omitempty"`
}

// WrapFailure is why a kept key could not be proven for a candidate.
type WrapFailure struct {
	// Key is the first one that failed; empty if no session could be had.
	Key keys.KeyID `json:"key,omitempty"`
	// Candidate tells that the candidate refused; else it was the configuration in force.
	Candidate bool          `json:"candidate,omitempty"`
	Outcome   kms.Outcome   `json:"outcome,omitempty"`
	Reason    kms.Reason    `json:"reason,omitempty"`
	Operation kms.Operation `json:"operation,omitempty"`
	// Permission is the IAM action that was refused.
	Permission string `json:"permission,omitempty"`
	Detail     string `json:"detail,omitempty"`
	Remedy     string `json:"remedy,omitempty"`
	// Confirmed: refused three times at least, over C at least (key-plane rule 8).
	Confirmed bool `json:"confirmed,omitempty"`
}

// EscrowRequest puts wraps into the control plane's store. The answer comes when
// they are durable there; only then may the key be used.
type EscrowRequest struct {
	Version int            `json:"version"`
	Wraps   []EscrowedWrap `json:"wraps"`
}

// EscrowedWrap is one wrapped key: ciphertext of KMS, useless without the CMK.
type EscrowedWrap struct {
	Node    keys.NodeID    `json:"node"`
	Project keys.ProjectID `json:"project"`
	Cluster keys.ClusterID `json:"cluster"`
	Key     keys.KeyID     `json:"key"`
	Purpose keys.Purpose   `json:"purpose"`
	State   keys.State     `json:"state"`
	// Generation is the CMK configuration that wrapped it.
	Generation uint64 `json:"generation"`
	// Revision grows with each change of the key's state; older ones never replace newer.
	Revision uint64 `json:"revision"`
	// Wrapped is envelope.Wrapped in its binary form.
	Wrapped []byte    `json:"wrapped"`
	Created time.Time `json:"created"`
	// Activated is when the key became Active; zero if it never was.
	Activated time.Time `json:"activated,omitzero"`
	// Meta describes the KMIP object, as the agent writes it; it holds no secret.
	Meta json.RawMessage `json:"meta,omitempty"`
}

// WrapsResponse lists the wraps that the control plane has in escrow for a host.
type WrapsResponse struct {
	Version int            `json:"version"`
	Wraps   []EscrowedWrap `json:"wraps"`
}

// CertificateEnd is when a certificate of the host ends; the name is one of a few.
type CertificateEnd struct {
	Name string    `json:"name"`
	End  time.Time `json:"end"`
}

// AuditAnchor is what a host's audit chain says at one place: the hash (hexadecimal) of
// the event with this sequence number, all zero if there is none.
type AuditAnchor struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Acknowledged is the empty answer.
type Acknowledged struct {
	Version int `json:"version"`
	// AuditAnchors, in the answer to a status, are sequence numbers for which the next
	// status shall say what the host's audit chain has there.
	AuditAnchors []uint64 `json:"auditAnchors,omitempty"`
}

// Duration is a time.Duration that travels as Go's text form, such as "15m0s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil {
		*d = Duration(v)
	}
	return err
}
