// Package agent is one database host's side of Keywright: it keeps the host's
// nodes as the control plane wants them, holds their wrapped master keys, serves
// those over KMIP, and takes them away when the customer does.
//
// The parts, and how data flows through them:
//
//	link      asks the control plane for the desired state (long poll) and keeps
//	          the newest on disk, so that a host restarts without it
//	custodian one a project: runs the custody loop over the customer's key and
//	          enforces its verdict
//	vault     the key plane behind the KMIP server: wraps and unwraps through
//	          KMS, on disk and in escrow before anything depends on a key
//	node      one a database node: a state machine that moves the node from what
//	          is to what is wanted, and survives a crash at any line
//	reporter  tells the control plane what is
//
// The verdict is enforced by the custodian directly on the processes; a node's
// own state machine only learns that it may not start.
package agent
