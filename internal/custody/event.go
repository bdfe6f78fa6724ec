package custody

import (
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Event is something that Step reacts to. The types below are all there are.
type Event interface{ isEvent() }

// RunFinished is the end of a validation run of this validator.
type RunFinished struct {
	// Generation is the configuration that was tested.
	Generation uint64
	// Started is when the run began (Elapsed).
	Started time.Duration
	Result  kms.Result
}

// Restarted is the first event of a process that found a stored state.
type Restarted struct{}

// Committed is a new configuration of the project's key (key-plane rule 23).
type Committed struct{ Generation uint64 }

// TryAgain is a person's wish for a run now.
type TryAgain struct{}

// GetRefused tells that the service refused to open a key for a node (rule 19).
type GetRefused struct{}

// PolicyChanged is a new policy.
type PolicyChanged struct{ Policy Policy }

// CadenceChanged sets how often this validator runs in quiet times (rule 12a).
type CadenceChanged struct{ Cadence Cadence }

// EvidenceReceived is what all other validators say now; it replaces what they said
// before.
type EvidenceReceived struct {
	Validators []Evidence
	// Crowd: many customers' roles are refused at the control plane at the same time.
	Crowd bool
}

// TimePassed lets Step look at the clock.
type TimePassed struct{}

// ClockWentBack tells that the wall clock went back across a restart of the machine, so
// that how long it was off is not known (rule 27).
type ClockWentBack struct{}

// DrillOrdered is the order for a drill (rule 28). Age is how long ago it was given.
type DrillOrdered struct {
	ID       string
	Cluster  keys.ClusterID
	For, Age time.Duration
}

// DrillMeasured tells that the processes of the drill's cluster are gone, or up again.
type DrillMeasured struct {
	ID string
	Up bool
}

func (EvidenceReceived) isEvent() {}
func (TimePassed) isEvent()       {}
func (ClockWentBack) isEvent()    {}
func (DrillOrdered) isEvent()     {}
func (DrillMeasured) isEvent()    {}

func (RunFinished) isEvent()    {}
func (Restarted) isEvent()      {}
func (Committed) isEvent()      {}
func (TryAgain) isEvent()       {}
func (GetRefused) isEvent()     {}
func (PolicyChanged) isEvent()  {}
func (CadenceChanged) isEvent() {}

// Effect is something that has to happen because of an event.
type Effect string

// The effects, in the order in which Step gives them.
const (
	// Persist: the state is stored before the effects after it happen; a disk that
	// fails delays no Stop.
	Persist Effect = "PERSIST"
	// Stop: the processes of the project's encrypted clusters have to go.
	Stop Effect = "STOP"
	// DropSessions: cached sessions with the service are dropped.
	DropSessions Effect = "DROP_SESSIONS"
	// Record: the change of verdict is written to the audit log.
	Record Effect = "RECORD"
	// Start: nodes may start. It comes after Record, since it releases keys.
	Start Effect = "START"
	// AskValidators: every other validator of the project makes a run (rule 12).
	AskValidators Effect = "ASK_VALIDATORS"
	// RaiseAlarm: State.Alarm is to be told to people.
	RaiseAlarm Effect = "RAISE_ALARM"
	// BeginDrill and EndDrill: the cluster of the last of State.Drills has to go, or may
	// come back if it may start.
	BeginDrill Effect = "BEGIN_DRILL"
	EndDrill   Effect = "END_DRILL"
	// RecordDrill: the begin or the end of the last of State.Drills is written to the
	// audit log.
	RecordDrill Effect = "RECORD_DRILL"
)
