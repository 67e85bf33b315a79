package natskv_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// TestReconcile loses a key in a way that hardly a probe sees: another one appears, so
// that the large bucket has as many as before. The slow reconcile finds it.
func TestReconcile(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b := startBroker(t)
	nc := b.connect()
	opts := quick
	opts.Reconcile = time.Second
	bucket := newBucket(t, newClient(t, nc, opts), natskv.Config{Bucket: "CFG"})
	put(t, bucket, "other", "1")
	for i := range 1001 {
		put(t, bucket, fmt.Sprintf("a.%d", i), "1")
	}
	stream, err := jetStream(t, nc).Stream(t.Context(), "KV_CFG")
	check(t, err)

	for event, err := range bucket.Watch(ctx, kv.WatchOptions{Filters: []string{"a.*"}}) {
		check(t, err)
		switch event.Kind {
		case kv.Synced:
			check(t, stream.Purge(ctx, jetstream.WithPurgeSubject("$KV.CFG.a.7"))) // leaves no marker
			put(t, bucket, "a.new", "1")
		case kv.Missing:
			if event.Entry.Key != "a.7" {
				t.Errorf("%s is missing", event.Entry.Key)
			}
			return
		}
	}
}
