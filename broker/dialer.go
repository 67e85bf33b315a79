package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// errNoAnswer says that a server holds the store and does not answer: it begins,
// ends, or is stuck. Only trying again tells.
var errNoAnswer = errors.New("its server does not answer")

// dialer finds the way to the store each time the connection asks for one.
//
// It needs no lock: nats.go calls Dial under the lock of the connection, and
// close is called after the connection has been closed under that lock.
type dialer struct {
	dir   string
	log   *slog.Logger
	owner *owner // serves the store from this process; nil when another one does
	err   error  // of the last Dial
}

var _ nats.CustomDialer = (*dialer)(nil)

// Dial connects to the server in this process, or to the one in the process that
// serves the folder, or starts one if nobody does. It tries once and does not wait.
func (d *dialer) Dial(_, _ string) (net.Conn, error) {
	conn, err := d.dial()
	if err != nil {
		err = fmt.Errorf("open store %s: %w", d.dir, err)
	}
	d.err = err
	return conn, err
}

func (d *dialer) dial() (net.Conn, error) {
	if d.owner != nil && d.owner.stopped() {
		d.owner = nil
	}
	if d.owner != nil {
		return d.owner.connect()
	}
	if err := checkFolder(d.dir); err != nil {
		return nil, err
	}
	lock, err := lockFolder(d.dir)
	if errors.Is(err, errLocked) {
		return dialSocket(d.dir)
	}
	if err != nil {
		return nil, err
	}
	if d.owner, err = own(d.dir, lock.unlock, func() *server.Options { return embedded(d.dir) }, d.log); err != nil {
		return nil, err
	}
	return d.owner.connect()
}

// close ends the server if there is one in this process.
func (d *dialer) close() {
	if d.owner != nil {
		d.owner.stop()
	}
}
