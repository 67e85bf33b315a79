package main

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

	"github.com/keyturn-io/keyturn/kv/natskv"
)

// dial connects to the server that the flags name. It gives up after the timeout;
// once it is there, the connection is kept for ever.
func (f *flags) dial(ctx context.Context, log *slog.Logger) (*nats.Conn, error) {
	servers := strings.Split(f.server, ",")
	log = log.With("server", redacted(servers))
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()

	type result struct {
		conn *nats.Conn
		err  error
	}
	results := make(chan result)
	go func() { // nats.Connect knows no context
		conn, err := nats.Connect(f.server, f.dialOptions(log, len(servers))...)
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
			return nil, dialError(servers, r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		return nil, dialError(servers, ctx.Err())
	}
}

// dialOptions returns the options of a connection to one of a number of servers.
func (f *flags) dialOptions(log *slog.Logger, servers int) []nats.Option {
	opts := append(natskv.ConnOptions(),
		nats.Name("keyturn"),
		nats.Timeout(max(f.timeout/time.Duration(servers), 500*time.Millisecond)),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when we hung up ourselves
				log.Warn("lost the server, trying to reach it again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("reached the server again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Debug("server connection", "error", err)
		}),
	)
	if f.creds != "" {
		opts = append(opts, nats.UserCredentials(f.creds))
	}
	if f.nkey != "" {
		opts = append(opts, func(o *nats.Options) error {
			option, err := nats.NkeyOptionFromSeed(f.nkey)
			if err != nil {
				return err
			}
			return option(o)
		})
	}
	if f.tlsCA != "" {
		opts = append(opts, nats.RootCAs(f.tlsCA))
	}
	if f.tlsCert != "" {
		opts = append(opts, nats.ClientCert(f.tlsCert, f.tlsKey))
	}
	return opts
}

// dialError says what to do about a server that cannot be had.
func dialError(servers []string, err error) error {
	do := "check the address, or name another server with --server"
	network, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, nats.ErrTimeout), ok && network.Timeout():
		err = errors.New("no answer in time")
	case errors.Is(err, nats.ErrNoServers):
		err = errors.New("nobody listens there")
		do = "start the server, or name another one with --server"
	case errors.Is(err, nats.ErrAuthorization):
		err = errors.New("it does not let us in")
		do = "check --creds, --nkey, or the user and password in the URL"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		do = "name a file that can be read"
	default:
		if _, ok := errors.AsType[*url.Error](err); ok {
			err = errors.New("this is no URL") // the cause may show a password
			do = "name a server such as nats://localhost:4222"
		}
	}
	return fmt.Errorf("connect to %s: %w: %s", redacted(servers), err, do)
}

// redacted shows servers without the passwords and tokens in their URLs.
func redacted(servers []string) string {
	shown := make([]string, len(servers))
	for i, server := range servers {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		switch {
		case err != nil:
			shown[i] = "a URL that cannot be read"
		case u.User != nil:
			u.User = url.User("xxxxx")
			shown[i] = u.String()
		default:
			shown[i] = u.String()
		}
	}
	return strings.Join(shown, ",")
}
