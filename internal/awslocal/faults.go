package awslocal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

// FaultKind is what goes wrong with a call.
type FaultKind string

// The kinds of faults.
const (
	// FaultThrottle refuses as if too many requests came.
	FaultThrottle FaultKind = "throttle"
	// FaultSlow carries the call out after Fault.DelayMillis.
	FaultSlow FaultKind = "slow"
	// FaultReset resets the connection instead of answering.
	FaultReset FaultKind = "reset"
	// FaultError answers with an error: an internal failure (500), or Fault.Code.
	FaultError FaultKind = "error"
	// FaultGarbage answers 200 with bytes that are neither JSON nor XML.
	FaultGarbage FaultKind = "garbage"
	// FaultSkew checks the signature by a clock that is off by Fault.SkewSeconds,
	// and says that clock's time in the header Date.
	FaultSkew FaultKind = "skew"
)

const (
	maxFaults     = 100
	maxFaultCount = 1_000_000
	maxFaultDelay = 5 * time.Minute
	maxSkew       = 24 * 60 * 60 // seconds
	maxFaultText  = 1000
)

// Fault is something that goes wrong with the calls that it matches: an empty
// matching field matches every call. Only the first matching fault acts on a
// call.
type Fault struct {
	// ID is given by the local AWS.
	ID   string    `json:"id,omitempty"`
	Kind FaultKind `json:"kind"`
	// Service is kms, sts or iam; Operation is the name of an operation, such as
	// Decrypt.
	Service   string `json:"service,omitempty"`
	Operation string `json:"operation,omitempty"`
	// Principal is matched with the caller's ARN and, of a session, its role's
	// ARN; * and ? are wildcards.
	Principal string `json:"principal,omitempty"`
	// Count is for how many calls the fault lasts; 0 means until it is removed.
	Count int `json:"count,omitempty"`
	// Hits is how many calls it has met; the local AWS fills it in.
	Hits int `json:"hits,omitempty"`
	// Afterwards carries the call out before the error, garbage or reset, so that
	// only its answer is lost.
	Afterwards  bool `json:"afterwards,omitempty"`
	DelayMillis int  `json:"delayMillis,omitempty"`
	SkewSeconds int  `json:"skewSeconds,omitempty"`
	// Code, Status (400 to 599) and Message are an error's; without Code it is the
	// service's internal failure.
	Code    string `json:"code,omitempty"`
	Status  int    `json:"status,omitempty"`
	Message string `json:"message,omitempty"`
}

// check tells what is wrong with a fault that is to be injected.
func (f *Fault) check() error {
	kinds := []FaultKind{FaultThrottle, FaultSlow, FaultReset, FaultError, FaultGarbage, FaultSkew}
	switch {
	case !slices.Contains(kinds, f.Kind):
		return fmt.Errorf("kind must be one of %v", kinds)
	case !slices.Contains([]string{"", "kms", "sts", "iam"}, f.Service):
		return errors.New("service must be kms, sts or iam")
	case f.Operation != "" && !operationForm.MatchString(f.Operation):
		return errors.New("operation must be the name of an operation, such as Decrypt")
	case len(f.Principal) > maxFaultText || len(f.Message) > maxFaultText:
		return fmt.Errorf("principal and message have at most %d characters", maxFaultText)
	case f.Count < 0 || f.Count > maxFaultCount:
		return fmt.Errorf("count must be between 0 and %d", maxFaultCount)
	case f.ID != "" || f.Hits != 0:
		return errors.New("id and hits are given by the local AWS")
	case f.Afterwards && f.Kind != FaultReset && f.Kind != FaultError && f.Kind != FaultGarbage:
		return fmt.Errorf("a fault of kind %s has no afterwards", f.Kind)
	case (f.Kind == FaultSlow) != (f.DelayMillis != 0) || f.DelayMillis < 0 || int64(f.DelayMillis) > maxFaultDelay.Milliseconds():
		return fmt.Errorf("delayMillis must be between 1 and %d for the kind slow, and is for no other", maxFaultDelay.Milliseconds())
	case (f.Kind == FaultSkew) != (f.SkewSeconds != 0) || f.SkewSeconds < -maxSkew || f.SkewSeconds > maxSkew:
		return fmt.Errorf("skewSeconds must be between -%d and %d, not 0, for the kind skew, and is for no other", maxSkew, maxSkew)
	}
	return f.checkError()
}

func (f *Fault) checkError() error {
	switch {
	case f.Kind != FaultError && (f.Code != "" || f.Status != 0 || f.Message != ""):
		return errors.New("code, status and message are for the kind error only")
	case f.Code != "" && !operationForm.MatchString(f.Code):
		return errors.New("code must be the name of an error")
	case f.Status != 0 && (f.Status < 400 || f.Status > 599):
		return errors.New("status must be between 400 and 599")
	}
	return nil
}

func (f *Fault) matches(service, operation string, caller policy.Caller) bool {
	return (f.Service == "" || f.Service == service) && (f.Operation == "" || f.Operation == operation) &&
		(f.Principal == "" || policy.Like(f.Principal, caller.ARN) || policy.Like(f.Principal, caller.PrincipalARN))
}

// faults are the faults in force.
type faults struct {
	mu   sync.Mutex
	list []*Fault
	last int
}

func (f *faults) add(fault Fault) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) >= maxFaults {
		return "", fmt.Errorf("there are %d faults already, which is the most", maxFaults)
	}
	f.last++
	fault.ID = itoa(f.last)
	f.list = append(f.list, &fault)
	return fault.ID, nil
}

// remove takes one fault away, or all if id is empty. It tells whether there
// was one.
func (f *faults) remove(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.list)
	f.list = slices.DeleteFunc(f.list, func(x *Fault) bool { return id == "" || x.ID == id })
	return len(f.list) < before
}

func (f *faults) all() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []Fault{}
	for _, x := range f.list {
		out = append(out, *x)
	}
	return out
}

// meet finds the fault that acts on a call, nil if none does.
func (f *faults) meet(service, operation string, caller policy.Caller) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.list {
		if (x.Count == 0 || x.Hits < x.Count) && x.matches(service, operation, caller) {
			if x.Hits < math.MaxInt32 {
				x.Hits++
			}
			met := *x
			return &met
		}
	}
	return nil
}

// errDropped means that the connection is to be reset.
var errDropped = errors.New("the connection is reset")

// carryOut runs a call, or what its fault makes of it.
func (c *call) carryOut(ctx context.Context, w http.ResponseWriter, do func() ([]byte, error)) ([]byte, error) {
	f := c.fault
	if f == nil || f.Kind == FaultSkew {
		return do()
	}
	if f.Afterwards {
		if answer, err := do(); err != nil {
			return answer, err
		}
	}
	switch f.Kind {
	case FaultSlow:
		if err := hold(ctx, w, time.Duration(f.DelayMillis)*time.Millisecond); err != nil {
			return nil, err
		}
		return do()
	case FaultThrottle:
		if c.json {
			return nil, kmsFail("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
		}
		return nil, fail(http.StatusBadRequest, "Throttling", "Rate exceeded")
	case FaultReset:
		return nil, errDropped
	case FaultGarbage:
		c.entry.Outcome = string(FaultGarbage)
		return []byte("{\"<\x00\xff\xfe garbage &"), nil
	}
	return nil, f.apiError(c.json)
}

func (f *Fault) apiError(json bool) error {
	e := &apiError{status: f.Status, code: f.Code, text: f.Message}
	if e.code == "" {
		e.code = internalFailure(json)
		e.status = max(e.status, http.StatusInternalServerError)
	}
	if e.status == 0 {
		e.status = http.StatusBadRequest
	}
	return e
}

// hold waits, with the connection's deadlines moved. It ends early if the
// client goes away.
func hold(ctx context.Context, w http.ResponseWriter, d time.Duration) error {
	until := time.Now().Add(d + readTimeout)
	conn := http.NewResponseController(w)
	if err := errors.Join(conn.SetReadDeadline(until), conn.SetWriteDeadline(until)); err != nil {
		return fmt.Errorf("slow the call down: %w", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errDropped
	}
}

// drop resets the connection: the client reads "connection reset by peer".
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	inner := conn
	if l, ok := conn.(*limitedConn); ok {
		inner = l.Conn
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
