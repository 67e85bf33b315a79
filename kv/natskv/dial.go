package natskv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Server says where a server or a cluster is, and who we are to it.
type Server struct {
	URLs    string        // one or more, comma separated
	Timeout time.Duration // for the first connection; 0 is 5 seconds
	Log     *slog.Logger  // hears when the server is lost and reached again; nil is silence

	// Files that say who we are. Empty is none.
	Creds            string // credentials
	Nkey             string // a seed
	CA               string // certificates that the server's must be signed by
	Cert, PrivateKey string // what we show to the server
}

// Dial connects to a server, and gives up when ctx is done or the timeout has passed.
// Once it is there, the connection is kept for ever; it is the caller's to close. The
// error says what to do, and never holds a password.
func Dial(ctx context.Context, server Server) (*nats.Conn, error) {
	orDefault(&server.Timeout, 5*time.Second)
	if server.Log == nil {
		server.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, server.Timeout)
	defer cancel()

	type result struct {
		conn *nats.Conn
		err  error
	}
	results := make(chan result)
	go func() { // nats.Connect knows no context; its own timeout ends it
		conn, err := nats.Connect(server.URLs, server.options()...)
		select {
		case results <- result{conn, err}:
		case <-ctx.Done():
			if err == nil {
				conn.Close()
			}
		}
	}()
	select {
	case r := <-results:
		if r.err != nil {
			return nil, dialError(server.URLs, r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		return nil, dialError(server.URLs, ctx.Err())
	}
}

// options returns the options of a connection.
func (s Server) options() []nats.Option {
	log := s.Log.With("server", Redacted(s.URLs))
	opts := append(ConnOptions(),
		nats.Name("keyturn"),
		nats.Timeout(max(s.Timeout/time.Duration(1+strings.Count(s.URLs, ",")), 500*time.Millisecond)),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when we hung up ourselves
				log.Warn("lost the server, trying to reach it again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Warn("reached the server again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Debug("server connection", "error", err)
		}),
	)
	if s.Creds != "" {
		opts = append(opts, nats.UserCredentials(s.Creds))
	}
	if s.Nkey != "" {
		opts = append(opts, func(o *nats.Options) error {
			option, err := nats.NkeyOptionFromSeed(s.Nkey)
			if err != nil {
				return err
			}
			return option(o)
		})
	}
	if s.CA != "" {
		opts = append(opts, nats.RootCAs(s.CA))
	}
	if s.Cert != "" {
		opts = append(opts, nats.ClientCert(s.Cert, s.PrivateKey))
	}
	return opts
}

// dialError says what to do about a server that cannot be had.
func dialError(urls string, err error) error {
	do := "check the address, or name another server"
	network, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, nats.ErrTimeout), ok && network.Timeout():
		err = errors.New("no answer in time")
	case errors.Is(err, nats.ErrNoServers):
		err = errors.New("nobody listens there")
		do = "start the server, or name another one"
	case errors.Is(err, nats.ErrAuthorization):
		err = errors.New("it does not let us in")
		do = "check the credentials, or the user and password in the URL"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		do = "name a file that can be read"
	default:
		if _, ok := errors.AsType[*url.Error](err); ok {
			err = errors.New("this is no URL") // the cause may show a password
			do = "name a server such as nats://localhost:4222"
		}
	}
	return fmt.Errorf("connect to %s: %w: %s", Redacted(urls), err, do)
}

// Redacted shows comma separated URLs without the passwords and tokens in them.
func Redacted(urls string) string {
	var shown []string
	for server := range strings.SplitSeq(urls, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		switch {
		case err != nil:
			shown = append(shown, "a URL that cannot be read")
		case u.User != nil:
			u.User = url.User("xxxxx")
			shown = append(shown, u.String())
		default:
			shown = append(shown, u.String())
		}
	}
	return strings.Join(shown, ",")
}
