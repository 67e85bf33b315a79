package natskv_test

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// replica writes an origin and reads its mirror, as soon as that has what was written:
// that a mirror is late is all that it may do otherwise than a bucket.
type replica struct {
	kv.Bucket // the origin
	t         *testing.T
	mirror    kv.Bucket
}

// late waits until the mirror is not.
func (r replica) late(ctx context.Context) kv.Bucket {
	r.t.Helper()
	origin, err := r.Bucket.Status(ctx)
	if err != nil {
		return r.mirror
	}
	eventually(r.t, "the mirror has what its origin has", func() bool {
		mirror, err := r.mirror.Status(ctx)
		return err != nil || mirror.LastRevision >= origin.LastRevision
	})
	return r.mirror
}

func (r replica) Name() string { return r.mirror.Name() }

func (r replica) Get(ctx context.Context, key string) (kv.Entry, error) {
	return r.late(ctx).Get(ctx, key)
}

func (r replica) GetRevision(ctx context.Context, key string, rev kv.Revision) (kv.Entry, error) {
	return r.late(ctx).GetRevision(ctx, key, rev)
}

func (r replica) History(ctx context.Context, key string) ([]kv.Entry, error) {
	return r.late(ctx).History(ctx, key)
}

func (r replica) Keys(ctx context.Context, filters ...string) ([]string, error) {
	return r.late(ctx).Keys(ctx, filters...)
}

func (r replica) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	return r.late(ctx).Watch(ctx, opts)
}

func (r replica) Status(ctx context.Context) (kv.Status, error) { return r.late(ctx).Status(ctx) }

// TestReplicaContract holds what is read from a mirror to the contract.
func TestReplicaContract(t *testing.T) {
	kvtest.Run(t, kvtest.Harness{Open: func(t *testing.T, cfg kvtest.Config) kvtest.Subject {
		srv := startBroker(t)
		c := newClient(t, srv.connect(), quick)
		admin := jetStream(t, srv.connect())
		config := natskv.Config{Bucket: "ORIGIN", History: cfg.History, MaxValueSize: cfg.MaxValueSize, MaxBytes: cfg.MaxBytes}
		mirror := config
		mirror.Bucket, mirror.Mirror = "TEST", &natskv.Origin{Bucket: "ORIGIN"}
		r := replica{t: t, Bucket: newBucket(t, c, config), mirror: newBucket(t, c, mirror)}
		purge := func(opts ...jetstream.StreamPurgeOpt) {
			t.Helper()
			for _, name := range []string{"KV_ORIGIN", "KV_TEST"} { // no mirror hears of it
				stream, err := admin.Stream(t.Context(), name)
				check(t, err)
				check(t, stream.Purge(t.Context(), opts...))
			}
		}
		return kvtest.Subject{
			Bucket: r,
			Remove: func() {
				check(t, c.DeleteBucket(t.Context(), "TEST"))
				check(t, c.DeleteBucket(t.Context(), "ORIGIN"))
			},
			Recreate: func() {
				check(t, c.CreateBucket(t.Context(), config))
				check(t, c.CreateBucket(t.Context(), mirror))
			},
			PurgeAll: func() { purge() },
			Vanish:   func(key string) { purge(jetstream.WithPurgeSubject("$KV.ORIGIN." + key)) },
			Down:     srv.stop,
			Up:       srv.start,
		}
	}})
}

func TestMirrorIsReadOnly(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	newBucket(t, c, natskv.Config{Bucket: "ORIGIN", History: 5})
	m := newBucket(t, c, natskv.Config{Bucket: "MIRROR", Mirror: &natskv.Origin{Bucket: "ORIGIN"}})
	for what, call := range map[string]func() error{
		"put":    func() error { _, err := m.Put(t.Context(), "a", nil); return err },
		"create": func() error { _, err := m.Create(t.Context(), "a", nil); return err },
		"update": func() error { _, err := m.Update(t.Context(), "a", nil, 1); return err },
		"delete": func() error { return m.Delete(t.Context(), "a", 0) },
		"purge":  func() error { return m.Purge(t.Context(), "a", 0) },
	} {
		wantErr(t, what, kv.ErrReadOnly, call)
	}
	got := info(t, c, "MIRROR")
	if got.Mirror == nil || got.Mirror.Bucket != "ORIGIN" || got.Config.History != 5 {
		t.Errorf("info is %+v", got)
	}
	if _, err := m.Get(t.Context(), "a"); !errors.Is(err, kv.ErrKeyNotFound) {
		t.Errorf("get: %v", err)
	}
}
