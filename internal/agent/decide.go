package agent

import (
	"github.com/keywright/keywright/internal/agentlink"
)

// action is what a node's state machine does next.
type action string

const (
	doNothing action = "nothing"
	doStart   action = "start"   // create files and port where there are none, start, prepare
	doStop    action = "stop"    // take the process down
	doRewrite action = "rewrite" // write the files anew with or without encryption, swap
	doTend    action = "tend"    // users, leftovers of a rewrite
	doRemove  action = "remove"  // carry out a tombstone
	// doAcknowledge notes a newer generation that the node already corresponds to.
	doAcknowledge action = "acknowledge"
)

// situation is everything that decides what a node needs next.
type situation struct {
	// wanted is nil for a node that the control plane does not name (any more):
	// absence is not deletion, so nothing is done to it.
	wanted *agentlink.Node
	// tombstone is an order to remove the node that is newer than its files.
	tombstone bool
	// exists tells that there is a record; encrypted and generation are its files'.
	exists     bool
	encrypted  bool
	generation uint64
	running    bool
	// mayStart and mustBeDown are the custody verdict on the project's key, false
	// and false where there is none.
	mayStart, mustBeDown bool
	// drill tells that a drill is why the node must be down, not the verdict.
	drill bool
	// confirmed tells that AWS answers: what failed while it did not is tried again at
	// once when it does, not at the end of a backoff. Nothing is decided by it.
	confirmed bool
	// why is the verdict in words if it does not let nodes start.
	why string
	// untended tells that users or leftovers wait to be taken care of.
	untended bool
}

// decide is the node's whole behaviour: a pure function, so that every case is a
// line in a table test. It gives the phase that the node is in while (or unless)
// the action succeeds.
func decide(s situation) (action, agentlink.Phase, string) {
	switch {
	case s.tombstone:
		return doRemove, agentlink.PhaseStopped, "being removed"
	case s.running && s.exists && s.encrypted && s.mustBeDown:
		return doStop, agentlink.PhaseStoppedByCustody, s.denied()
	case s.wanted == nil && s.running:
		return doNothing, agentlink.PhaseRunning, "the control plane does not name this node; it is left as it is"
	case s.wanted == nil:
		return doNothing, agentlink.PhaseStopped, "the control plane does not name this node; it is left as it is"
	case !s.wanted.Run && s.running:
		return doStop, agentlink.PhaseStopped, ""
	case !s.wanted.Run && s.behind():
		return doAcknowledge, agentlink.PhaseStopped, ""
	case !s.wanted.Run:
		return doNothing, agentlink.PhaseStopped, ""
	}
	needsKey := s.wanted.Encrypted // of a node without files yet
	if s.exists {
		needsKey = s.encrypted
	}
	// A wish that is older than the files comes from a restored store: it undoes nothing.
	rewrite := s.exists && s.encrypted != s.wanted.Encrypted && s.wanted.Generation >= s.generation
	switch {
	case rewrite && s.mayStart:
		return doRewrite, agentlink.PhaseRewriting, "the files are being written anew"
	case !s.running && needsKey && s.mustBeDown:
		return doNothing, agentlink.PhaseStoppedByCustody, s.denied()
	case !s.running && needsKey && !s.mayStart:
		return doNothing, agentlink.PhaseWaitingForKey, s.waiting()
	case !s.running && !s.exists:
		return doStart, agentlink.PhaseCreating, ""
	case !s.running:
		return doStart, agentlink.PhaseStarting, ""
	case s.untended:
		return doTend, agentlink.PhaseRunning, ""
	case rewrite:
		return doNothing, agentlink.PhaseRunning, "the change of encryption waits for the customer key"
	case s.behind():
		return doAcknowledge, agentlink.PhaseRunning, ""
	}
	return doNothing, agentlink.PhaseRunning, ""
}

// denied is why custody stops the node. A drill is always called one.
func (s situation) denied() string {
	if s.drill {
		return agentlink.DrillText + ": the customer key is treated as taken away for a while"
	}
	return "the customer key is not usable"
}

func (s situation) waiting() string {
	if s.why == "" {
		return "waiting for the customer key"
	}
	return "waiting for the customer key: " + s.why
}

// behind tells that the files are as wanted, and only their generation is older.
func (s situation) behind() bool {
	return s.exists && s.wanted != nil && s.wanted.Generation > s.generation && s.wanted.Encrypted == s.encrypted
}
