package natskv_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func awaitHint(t *testing.T, what string, hints <-chan struct{}) {
	t.Helper()
	select {
	case <-hints:
	case <-time.After(10 * time.Second):
		t.Fatalf("no hint after %s", what)
	}
}

func TestHints(t *testing.T) {
	b := startBroker(t)
	nc := b.connect()
	c := newClient(t, nc, quick)
	bucket := newBucket(t, c, natskv.Config{Bucket: "CFG", RePublish: &natskv.RePublish{Source: ">", Destination: "changes.>"}})
	ctx, cancel := context.WithCancel(t.Context())
	before := nc.NumSubscriptions()
	hints, err := bucket.(kv.Hinter).Hints(ctx, "changes.>")
	check(t, err)
	check(t, nc.Flush())

	put(t, bucket, "a", "1")
	awaitHint(t, "a put", hints)
	b.stop()
	b.start()
	awaitHint(t, "a restart of the server, in which messages may be missed", hints)
	eventually(t, "a put after the restart is a hint", func() bool {
		put(t, bucket, "a", "2")
		select {
		case <-hints:
			return true
		default:
			return false
		}
	})

	cancel()
	eventually(t, "the subscription ends with its context", func() bool { return nc.NumSubscriptions() <= before })
	wantErr(t, "an invalid subject", kv.ErrInvalidConfig, func() error {
		_, err := bucket.(kv.Hinter).Hints(t.Context(), "a b")
		return err
	})
}

// TestHintsForbidden is told that nothing will ever come.
func TestHintsForbidden(t *testing.T) {
	srv := startBrokerWithUsers(t, "deaf", server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"changes.>"}}})
	nc := srv.connect(nats.UserInfo("deaf", "deaf"))
	bucket, err := newClient(t, nc, quick).Bucket("CFG")
	check(t, err)
	before := nc.NumSubscriptions()
	wantErr(t, "a forbidden subject", kv.ErrPermission, func() error {
		_, err := bucket.(kv.Hinter).Hints(t.Context(), "changes.>")
		return err
	})
	if nc.NumSubscriptions() > before {
		t.Error("the subscription is left behind")
	}
	_, err = bucket.(kv.Hinter).Hints(t.Context(), "others.>")
	check(t, err)
}
