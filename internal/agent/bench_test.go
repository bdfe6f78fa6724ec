package agent

import (
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// BenchmarkRewrapThousandNodes is a change of the customer key on a host with a thousand
// nodes: every wrap opened, made anew, compared, stored with fsync and put into escrow.
// The key service and the escrow answer at once, so that this is what the host itself
// costs.
func BenchmarkRewrapThousandNodes(b *testing.B) {
	const nodes = 1000
	x := newBench(b)
	for range nodes {
		p := x.p
		p.Node = keys.NodeID(keys.NewID(time.Now()))
		if err := x.Activate(b.Context(), p, x.create(p)); err != nil {
			b.Fatal(err)
		}
	}
	generation := x.key.Generation
	for b.Loop() {
		generation++
		candidate := x.newKey(generation)
		x.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
		if err := x.s.pass(b.Context()); err != nil {
			b.Fatal(err)
		}
		if st := x.s.status(); st.Done != nodes || st.Failure != nil {
			b.Fatalf("%+v", st)
		}
		old := x.key
		x.tell(func(p *keyPlan) {
			p.current, p.candidate, p.dropped = candidate, nil, []agentlink.WrapDrop{{Order: generation, KeyARN: old.KeyARN, To: old.Generation}}
		})
		x.escrowed, x.journal = nil, nil
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*nodes), "µs/node")
}
