package kms

import (
	"context"
	"time"
)

// Observation is one finished call. A Session that comes from the cache counts as an
// AssumeRole too; it is the quick one.
type Observation struct {
	Operation Operation
	// Target is whose key it was; zero for GetCallerIdentity.
	Target  Target
	Took    time.Duration
	Outcome Outcome
	Reason  Reason
}

// Meter gives a Provider that reports every call to observe, which is called
// concurrently and has to be quick.
func Meter(next Provider, observe func(Observation)) Provider {
	return &wrapped{next: next, around: func(ctx context.Context, op Operation, t Target, call func(context.Context) error) error {
		begin := time.Now()
		err := call(ctx)
		o := Observation{Operation: op, Target: t, Took: time.Since(begin), Outcome: OK}
		if f := AsFailure(err); f != nil {
			o.Outcome, o.Reason = f.Outcome, f.Reason
		}
		observe(o)
		return err
	}}
}
