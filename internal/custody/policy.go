package custody

import (
	"time"
)

// Mode is what a confirmed revocation does.
type Mode string

// The modes, strictest first.
const (
	// ModeStop stops every process of the project's encrypted clusters at once.
	ModeStop Mode = "STOP"
	// ModeGrace lets them go on for Policy.Grace.
	ModeGrace Mode = "GRACE"
	// ModeAlert stops nothing.
	ModeAlert Mode = "ALERT"
)

// Policy is what the project's owner decided about validation.
type Policy struct {
	// Interval is the distance of runs in quiet times; DefaultInterval if zero.
	Interval time.Duration `json:"interval"`
	// Mode is what a confirmed revocation does; ModeStop if empty or not known.
	Mode Mode `json:"mode,omitempty"`
	// Grace is how long nodes go on in ModeGrace; 0 in the other modes.
	Grace time.Duration `json:"grace,omitempty"`
	// UnreachableLimit is how long a host that reaches neither AWS nor the control
	// plane goes on before Mode applies; 0 means for ever.
	UnreachableLimit time.Duration `json:"unreachableLimit,omitempty"`
	// shortW replaces W. Only the model check sets it, to keep its time short; it is never
	// stored or told.
	shortW time.Duration
}

// DefaultInterval is the interval of a policy that names none.
const DefaultInterval = 15 * time.Minute

// The bounds of a policy's durations; others are taken for the nearer bound.
const (
	MinInterval         = time.Second
	MaxInterval         = 7 * 24 * time.Hour
	MinGrace            = time.Minute
	MaxGrace            = 24 * time.Hour
	MinUnreachableLimit = time.Hour
)

// Normal gives the policy with its defaults filled in.
func (p Policy) Normal() Policy {
	if p.Interval <= 0 {
		p.Interval = DefaultInterval
	}
	p.Interval = min(max(p.Interval, MinInterval), MaxInterval)
	switch p.Mode {
	case ModeGrace:
		p.Grace = min(max(p.Grace, MinGrace), MaxGrace)
	case ModeAlert:
		p.Grace = 0
	default:
		p.Mode, p.Grace = ModeStop, 0
	}
	if p.UnreachableLimit > 0 {
		p.UnreachableLimit = max(p.UnreachableLimit, MinUnreachableLimit)
	} else {
		p.UnreachableLimit = 0
	}
	return p
}

// Stricter takes the stricter of two policies in everything: the shorter interval and
// limit, the mode that stops more, the shorter grace.
func Stricter(a, b Policy) Policy {
	a, b = a.Normal(), b.Normal()
	out := a
	if rank(b.Mode) < rank(a.Mode) || b.Mode == a.Mode && b.Grace < a.Grace {
		out.Mode, out.Grace = b.Mode, b.Grace
	}
	out.Interval = min(a.Interval, b.Interval)
	if a.UnreachableLimit == 0 || b.UnreachableLimit != 0 && b.UnreachableLimit < a.UnreachableLimit {
		out.UnreachableLimit = b.UnreachableLimit
	}
	return out
}

// LaxerThan tells whether the policy is laxer than another in anything (rule 26).
func (p Policy) LaxerThan(other Policy) bool { return Stricter(p, other) != p.Normal() }

func rank(m Mode) int {
	switch m {
	case ModeGrace:
		return 1
	case ModeAlert:
		return 2
	default:
		return 0
	}
}

// C is the shortest time between the first REVOKED of a chain and the one that
// confirms it: min(10 s, interval).
func (p Policy) C() time.Duration { return min(10*time.Second, p.Normal().Interval) }

// W is how long a reason with a local reach is held, and half of how long another
// validator's OK speaks against it: max(interval, 5 min).
func (p Policy) W() time.Duration {
	if p.shortW != 0 {
		return p.shortW
	}
	return max(p.Normal().Interval, 5*time.Minute)
}

// quick is min(5 s, interval).
func (p Policy) quick() time.Duration { return min(5*time.Second, p.Normal().Interval) }

// half is C/2, rounded up so that two of them are never shorter than C.
func (p Policy) half() time.Duration { return (p.C() + 1) / 2 }
