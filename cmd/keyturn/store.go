package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/broker"
	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// store is the way to the buckets of this host or of a server.
type store struct {
	*natskv.Client
	conn  *nats.Conn
	own   bool // on this host, where buckets are made as they are needed
	close func() error
}

// open connects to the server that was named, and else to the store on this host,
// which it serves if nobody else does.
func (a *app) open(ctx context.Context, log *slog.Logger) (*store, error) {
	s := &store{own: a.server == ""}
	if s.own {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		local, err := broker.Connect(ctx, broker.Options{Dir: a.store, Log: log})
		if err != nil {
			return nil, err
		}
		s.conn, s.close = local.Conn(), local.Close
	} else {
		remote, err := a.dial(ctx, log)
		if err != nil {
			return nil, err
		}
		s.conn, s.close = remote, func() error { remote.Close(); return nil }
	}

	client, err := natskv.New(s.conn, natskv.Options{Timeout: a.timeout, Log: log})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.Client = client
	return s, nil
}

// Close ends the connection, and serving the store if this process did.
func (s *store) Close() error {
	s.Client.Close()
	return s.close()
}

// steady calls do, and on this host once more whenever the process that served the
// store has ended before it answered: a command that served it ends as soon as it
// is done, and another process takes over.
func (s *store) steady(ctx context.Context, do func(context.Context) error) error {
	if !s.own {
		return do(ctx)
	}
	for {
		err, lost := s.once(ctx, do)
		if err == nil || !lost || ctx.Err() != nil {
			return err
		}
	}
}

// once calls do with a context that is done when the connection is lost.
func (s *store) once(ctx context.Context, do func(context.Context) error) (err error, lost bool) {
	ctx, cancel := context.WithCancel(ctx)
	status := s.conn.StatusChanged(nats.RECONNECTING)
	defer s.conn.RemoveStatusListener(status)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-status:
			lost = true
			cancel()
		case <-ctx.Done():
		}
	}()
	err = do(ctx)
	cancel()
	<-watched
	return err, lost
}

// withStore runs do on the store of a command, which has logged little until now.
func (a *app) withStore(ctx context.Context, do func(*store) error) error {
	log, err := a.logger(slog.LevelWarn, a.stderr)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, log)
	if err != nil {
		return err
	}
	err = do(s)
	if err := s.Close(); err != nil {
		log.Debug("closing", "error", err) // what we did was acknowledged, or is an error already
	}
	return err
}

// withBucket runs do on the bucket of that name.
func (a *app) withBucket(ctx context.Context, name string, do func(*bucket) error) error {
	return a.withStore(ctx, func(s *store) error {
		b, err := s.bucket(name)
		if err == nil {
			err = do(b)
		}
		return a.explain(err, name)
	})
}

// bucket is a bucket whose methods are steady.
type bucket struct {
	kv.Bucket
	store *store
}

func (s *store) bucket(name string) (*bucket, error) {
	b, err := s.Bucket(name)
	return &bucket{b, s}, err
}

func (b *bucket) get(ctx context.Context, key string) (entry kv.Entry, err error) {
	err = b.store.steady(ctx, func(ctx context.Context) error {
		entry, err = b.Get(ctx, key)
		return err
	})
	return entry, err
}

func (b *bucket) put(ctx context.Context, key string, value []byte) (revision kv.Revision, err error) {
	err = b.store.steady(ctx, func(ctx context.Context) error {
		revision, err = b.Put(ctx, key, value)
		return err
	})
	return revision, err
}

func (b *bucket) del(ctx context.Context, key string) error {
	return b.store.steady(ctx, func(ctx context.Context) error { return b.Delete(ctx, key, 0) })
}

func (b *bucket) status(ctx context.Context) (status kv.Status, err error) {
	err = b.store.steady(ctx, func(ctx context.Context) error {
		status, err = b.Status(ctx)
		return err
	})
	return status, err
}

// explain says of an error about a bucket what to do next.
func (a *app) explain(err error, bucket string) error {
	switch {
	case errors.Is(err, kv.ErrKeyNotFound):
		return kv.ErrKeyNotFound
	case errors.Is(err, kv.ErrBucketNotFound):
		return fmt.Errorf("bucket %s not found: create it with %s", bucket, a.again("kv", "add", bucket))
	case errors.Is(err, kv.ErrUnavailable) && a.server == "":
		return fmt.Errorf("%w: look at it with --log-level debug", err)
	case errors.Is(err, kv.ErrUnavailable):
		return fmt.Errorf("%w: check that %s has JetStream and is well", err, redacted(strings.Split(a.server, ",")))
	default:
		return err
	}
}

// The settings of the buckets that are made without being asked for, and the
// defaults of those that are asked for: so one can be asked for that is there.
const defaultHistory = 5

// create makes a bucket with the default settings.
func (s *store) create(ctx context.Context, name string) error {
	return s.add(ctx, natskv.Config{Bucket: name, History: defaultHistory})
}

// add makes a bucket. It is no error that there is one with the same settings.
func (s *store) add(ctx context.Context, cfg natskv.Config) error {
	return s.steady(ctx, func(ctx context.Context) error { return s.CreateBucket(ctx, cfg) })
}
