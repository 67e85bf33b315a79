package natskv_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv/natskv"
)

// childDir in the environment makes the test binary a nats-server with this store.
const childDir = "NATSKV_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		beServer(dir)
		return
	}
	os.Exit(m.Run())
}

// beServer serves until stdin ends, which it does when the test process does.
func beServer(dir string) {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.Start()
	fmt.Println(srv.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	srv.Shutdown()
}

// child is a nats-server in a process of its own.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	url string
}

func startChild(t testing.TB) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	c := &child{t: t, cmd: cmd}
	t.Cleanup(func() {
		c.thaw()
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	c.url = strings.TrimSpace(url)
	return c
}

func (c *child) connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(c.url, natskv.ConnOptions()...)
	check(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func (c *child) freeze() { check(c.t, c.cmd.Process.Signal(syscall.SIGSTOP)) }
func (c *child) thaw()   { check(c.t, c.cmd.Process.Signal(syscall.SIGCONT)) }

// link is a TCP proxy that can stop to deliver, and break.
type link struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup

	mu        sync.Mutex
	trigger   string // in what the near end sends; see before
	do        func()
	hole      bool
	perByte   time.Duration // how long a byte takes to the near end
	conns     []net.Conn
	swallowed chan struct{} // gets a token for what the near end sent in vain
}

func startLink(t testing.TB, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	l := &link{listener: listener, target: target, swallowed: make(chan struct{}, 1)}
	l.done.Go(l.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		l.done.Wait()
	})
	return l
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, near, far)
		l.mu.Unlock()
		l.done.Go(func() { l.carry(near, far, l.swallowed) })
		l.done.Go(func() { l.carry(far, near, nil) })
	}
}

func (l *link) carry(from, to net.Conn, swallowed chan<- struct{}) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		hole, perByte := l.hole, l.perByte
		if l.do != nil && bytes.Contains(buf[:n], []byte(l.trigger)) {
			l.do()
			l.do = nil
		}
		l.mu.Unlock()
		if hole {
			select {
			case swallowed <- struct{}{}:
			default:
			}
			continue
		}
		if swallowed == nil && perByte > 0 {
			<-time.After(time.Duration(n) * perByte)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// slow makes the link carry no more bytes a second to the near end.
func (l *link) slow(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perByte = time.Second / time.Duration(bytes)
}

// before makes the link do something, once, before it delivers what has the text in it.
func (l *link) before(text string, do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trigger, l.do = text, do
}

// swallow makes the link take everything and deliver nothing.
func (l *link) swallow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hole = true
}

// cut ends all connections. New ones are carried again.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hole = false
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}
