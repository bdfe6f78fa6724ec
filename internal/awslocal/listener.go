package awslocal

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// limitListener bounds the number of open connections: Accept waits while all
// places are taken.
type limitListener struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimitListener(ln net.Listener, n int) *limitListener {
	return &limitListener{Listener: ln, places: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, free: func() { <-l.places }}, nil
}

// Close ends Accept.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	once sync.Once
	free func()
}

// Close gives the place free once.
func (c *limitedConn) Close() error {
	defer c.once.Do(c.free)
	return c.Conn.Close()
}

// idleConns keeps room for new connections: once more than most are open, each
// new one closes the one that has been idle longest. Clients that are made
// anew for every call would otherwise take all places.
type idleConns struct {
	most int

	mu   sync.Mutex
	open int
	idle *list.List // of net.Conn, longest idle first
	at   map[net.Conn]*list.Element
}

func newIdleConns(most int) *idleConns {
	return &idleConns{most: most, idle: list.New(), at: map[net.Conn]*list.Element{}}
}

// track is an http.Server's ConnState.
func (i *idleConns) track(c net.Conn, s http.ConnState) {
	if victim := i.note(c, s); victim != nil {
		_ = victim.Close()
	}
}

// note keeps count and gives the connection to close, if any.
func (i *idleConns) note(c net.Conn, s http.ConnState) net.Conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.at[c]; e != nil {
		i.idle.Remove(e)
		delete(i.at, c)
	}
	switch s {
	case http.StateNew:
		i.open++
		if front := i.idle.Front(); front != nil && i.open > i.most {
			return i.take(front)
		}
	case http.StateIdle:
		i.at[c] = i.idle.PushBack(c)
	case http.StateClosed, http.StateHijacked:
		i.open--
	}
	return nil
}

func (i *idleConns) take(e *list.Element) net.Conn {
	c, _ := i.idle.Remove(e).(net.Conn)
	delete(i.at, c)
	return c
}
