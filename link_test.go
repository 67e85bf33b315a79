package keyturn

import (
	"net"
	"sync"
	"testing"
)

// link is a way to a server that can swallow what is sent, as a cable does that is cut.
type link struct {
	t        *testing.T
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu        sync.Mutex // guards what follows
	swallowed bool
	conns     []net.Conn
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{t: t, listener: listener, target: target}
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.cut()
		l.wg.Wait()
	})

	return l
}

func (l *link) swallow(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.swallowed = on
}

// cut closes what there is of connections. New ones can be made.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func (l *link) accept() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", l.target)
		if err != nil {
			from.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, from, to)
		l.mu.Unlock()
		l.wg.Go(func() { l.carry(from, to) })
		l.wg.Go(func() { l.carry(to, from) })
	}
}

// carry carries what is sent in one direction. What was swallowed is gone.
func (l *link) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		swallowed := l.swallowed
		l.mu.Unlock()
		if swallowed {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
