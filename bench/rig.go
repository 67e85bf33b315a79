package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

//go:embed command/command.c
var commandSource []byte

const bucketName = "BENCH"

// event is what a command has noted.
type event struct {
	ended bool // else begun
	at    time.Time
	pid   int
	value string
}

// rig is the server that all contestants use, and what their commands note.
type rig struct {
	ctx      context.Context
	settings settings
	dir      string
	log      io.Writer

	opts   server.Options
	server *server.Server
	conn   *nats.Conn
	bucket jetstream.KeyValue
	values int      // that were put, so that each has a name of its own
	last   *running // of the contestants, of which one runs at a time

	fifo   *os.File
	events chan event
}

func newRig(ctx context.Context, dir string, s settings, log io.Writer) (*rig, error) {
	r := &rig{ctx: ctx, settings: s, dir: dir, log: log, events: make(chan event, 100_000)}
	if err := syscall.Mkfifo(r.fifoPath(), 0o600); err != nil {
		return nil, err
	}
	var err error
	// Also for writing, so that it does not end when no command has it open.
	if r.fifo, err = os.OpenFile(r.fifoPath(), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	go r.read()

	port, err := freePort()
	if err != nil {
		return nil, err
	}
	r.opts = server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: filepath.Join(dir, "store"), SyncAlways: s.sync,
		NoLog: true, NoSigs: true,
	}
	err = r.serve(func(js jetstream.JetStream) (jetstream.KeyValue, error) {
		return js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:    bucketName,
			RePublish: &jetstream.RePublish{Source: "$KV." + bucketName + ".>", Destination: "republished.>"},
		})
	})
	if err != nil {
		r.close()
		return nil, err
	}

	return r, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()

	return l.Addr().(*net.TCPAddr).Port, nil
}

func (r *rig) url() string         { return fmt.Sprintf("nats://127.0.0.1:%d", r.opts.Port) }
func (r *rig) fifoPath() string    { return filepath.Join(r.dir, "fifo") }
func (r *rig) commandPath() string { return filepath.Join(r.dir, "command") }

// serve starts the server, and opens the bucket there.
func (r *rig) serve(open func(jetstream.JetStream) (jetstream.KeyValue, error)) error {
	opts := r.opts // the server changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		return err
	}
	srv.Start()
	r.server = srv
	if !srv.ReadyForConnections(10 * time.Second) {
		return errors.New("the server does not start")
	}
	if r.conn, err = nats.Connect(r.url()); err != nil {
		return err
	}
	js, err := jetstream.New(r.conn)
	if err != nil {
		return err
	}
	r.bucket, err = open(js)

	return err
}

// serveAgain starts the server after stopServer.
func (r *rig) serveAgain() error {
	return r.serve(func(js jetstream.JetStream) (jetstream.KeyValue, error) { return js.KeyValue(r.ctx, bucketName) })
}

// stopServer stops the server, whose store stays.
func (r *rig) stopServer() {
	if r.conn != nil {
		r.conn.Close()
	}
	if r.server != nil {
		r.server.Shutdown()
		r.server.WaitForShutdown()
	}
}

func (r *rig) close() {
	if r.last != nil {
		_ = r.last.kill() // it may have ended long ago
	}
	r.stopServer()
	r.fifo.Close()
}

// read reads what commands note, until the rig is closed.
func (r *rig) read() {
	for lines := bufio.NewScanner(r.fifo); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 4 {
			continue
		}
		nanoseconds, _ := strconv.ParseInt(fields[1], 10, 64)
		pid, _ := strconv.Atoi(fields[2])
		r.events <- event{ended: fields[0] == "end", at: time.Unix(0, nanoseconds), pid: pid, value: fields[3]}
	}
}

// value returns a value that nobody has seen, and that tells the command what to do.
func (r *rig) value(order string) string {
	r.values++
	return fmt.Sprintf("v%d.%s", r.values, order)
}

// put puts a value and returns when that began and ended.
func (r *rig) put(key, value string) (began, ended time.Time, err error) {
	began = time.Now()
	_, err = r.bucket.Put(r.ctx, key, []byte(value))

	return began, time.Now(), err
}

// begun waits until a command begins with the value.
func (r *rig) begun(value string, within time.Duration) (event, bool) {
	return r.await(within, func(e event) bool { return !e.ended && e.value == value })
}

// ended waits until a command with the value has ended.
func (r *rig) ended(value string, within time.Duration) (event, bool) {
	return r.await(within, func(e event) bool { return e.ended && e.value == value })
}

// await waits for an event, and forgets others that come before it.
func (r *rig) await(within time.Duration, is func(event) bool) (event, bool) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		select {
		case e := <-r.events:
			if is(e) {
				return e, true
			}
		case <-deadline.C:
			return event{}, false
		case <-r.ctx.Done():
			return event{}, false
		}
	}
}

// collect returns what begins until nothing has for a while.
func (r *rig) collect(quiet time.Duration) []event {
	var all []event
	for {
		e, ok := r.await(quiet, func(e event) bool { return !e.ended })
		if !ok {
			return all
		}
		all = append(all, e)
	}
}

// during returns what begins in the given time.
func (r *rig) during(d time.Duration) []event {
	var all []event
	for end := time.Now().Add(d); ; {
		e, ok := r.await(time.Until(end), func(e event) bool { return !e.ended })
		if !ok {
			return all
		}
		all = append(all, e)
	}
}

// pause waits, or until the bench is interrupted.
func (r *rig) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}
