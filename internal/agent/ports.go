package agent

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

// ports hands out the nodes' ports. A port that a node was given stays its own.
type ports struct {
	rng PortRange

	mu   sync.Mutex
	used map[int]bool
}

func newPorts(r PortRange) *ports { return &ports{rng: r, used: map[int]bool{}} }

// keep notes a port that a node has.
func (p *ports) keep(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[port] = true
}

// drop makes the port of a removed node free again.
func (p *ports) drop(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, port)
}

// take finds a port that neither a node nor another program has.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.From == 0 {
		for range 100 {
			port, err := free(0)
			if err != nil {
				return 0, fmt.Errorf("find a free port: %w", err)
			}
			if !p.used[port] { // it may be that of a node that is down
				p.used[port] = true
				return port, nil
			}
		}
		return 0, errors.New("no free port that is not a node's already")
	}
	for port := p.rng.From; port <= p.rng.To; port++ {
		if p.used[port] {
			continue
		}
		if _, err := free(port); err == nil {
			p.used[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d, widen the range (--node-ports)", p.rng.From, p.rng.To)
}

// free tells whether a port can be listened on at the loopback address.
func free(port int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	got := l.Addr().(*net.TCPAddr).Port
	return got, l.Close()
}
