package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// store is the way to the buckets of this host or of a server.
type store struct {
	*natskv.Client
	own      bool          // on this host, where buckets are made as they are needed
	patience time.Duration // how long to wait for it then
	log      *slog.Logger
	hangUp   func() error
}

// open connects to the server that was named, and else to the store on this host,
// which it serves if nobody else does.
func (a *app) open(ctx context.Context, log *slog.Logger) (*store, error) {
	s := &store{own: a.server == "", patience: a.timeout, log: log}
	opts := natskv.Options{Timeout: a.timeout, Log: log}
	if s.own {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		local, err := broker.Connect(ctx, broker.Options{Dir: a.store, Log: log})
		if err != nil {
			return nil, err
		}
		s.hangUp = local.Close
		s.Client, err = natskv.New(local.Conn(), opts)
		return s, err
	}
	remote, err := natskv.Dial(ctx, natskv.Server{
		URLs: a.server, Timeout: a.timeout, Log: log,
		Creds: a.creds, Nkey: a.nkey, CA: a.tlsCA, Cert: a.tlsCert, PrivateKey: a.tlsKey,
	})
	if err != nil {
		return nil, err
	}
	s.hangUp = func() error { remote.Close(); return nil }
	s.Client, err = natskv.New(remote, opts)
	return s, err
}

// Close ends the connection, and serving the store if this process did.
func (s *store) Close() {
	s.Client.Close()
	if err := s.hangUp(); err != nil {
		s.log.Debug("closing", "error", err) // what we did was acknowledged, or is an error already
	}
}

// steady calls do again for a while when the store on this host cannot be had: a
// command that serves it ends as soon as it is done, another process takes over, and
// what was asked meanwhile may be done or not. To do it twice does no harm here.
func (s *store) steady(do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if !s.own || !errors.Is(err, kv.ErrUnavailable) || time.Since(began) > s.patience {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// withStore runs do on the store, with a log of what is worth a warning.
func (a *app) withStore(ctx context.Context, do func(*store) error) error {
	log, err := a.logger(slog.LevelWarn, a.stderr)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(s)
}

// withBucket runs do on the bucket of that name.
func (a *app) withBucket(ctx context.Context, name string, do func(*store, kv.Bucket) error) error {
	return a.withStore(ctx, func(s *store) error {
		bucket, err := s.Bucket(name)
		if err == nil {
			err = do(s, bucket)
		}
		return a.explain(err, name)
	})
}

// The settings of the buckets that are made without being asked for, and the
// defaults of those that are asked for: so one can be asked for that is there.
const defaultHistory = 5

// create makes a bucket with the default settings.
func (s *store) create(ctx context.Context, name string, keyTTL bool) error {
	return s.add(ctx, natskv.Config{Bucket: name, History: defaultHistory, KeyTTL: keyTTL})
}

// add makes a bucket. It is no error that there is one with the same settings.
func (s *store) add(ctx context.Context, cfg natskv.Config) error {
	return s.steady(func() error { return s.CreateBucket(ctx, cfg) })
}
