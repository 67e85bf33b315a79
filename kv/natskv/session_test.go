package natskv

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// bareStream is a stream of which nothing but its info is asked.
type bareStream struct{ jetstream.Stream }

func (bareStream) CachedInfo() *jetstream.StreamInfo { return &jetstream.StreamInfo{} }

// TestDeliver gives a session messages as a server sends them. Once one is missing
// it takes no more.
func TestDeliver(t *testing.T) {
	var told []string
	tell := func(e kv.Entry) { told = append(told, fmt.Sprintf("%s@%d %s", e.Key, e.Revision, e.Value)) }
	s := newSession(&bucket{name: "B"}, &binding{stream: bareStream{}, prefix: "$KV.B."}, func(snapshot map[string]*kv.Entry) {
		for _, e := range snapshot {
			tell(*e)
		}
	}, tell)
	deliver := func(key string, streamSeq, consumerSeq, pending int) {
		reply := fmt.Sprintf("$JS.ACK.KV_B.c.1.%d.%d.1700000000000000000.%d", streamSeq, consumerSeq, pending)
		s.deliver(&nats.Msg{Subject: "$KV.B." + key, Reply: reply, Data: []byte("x"), Sub: &nats.Subscription{}})
	}
	want := func(n int, last string) {
		t.Helper()
		if len(told) != n || n > 0 && told[n-1] != last {
			t.Fatalf("told %q, want %d with %q in the end", told, n, last)
		}
	}
	deliver("a", 3, 1, 1)
	want(0, "")
	deliver("$(id)", 4, 2, 0)
	want(1, "a@3 x")
	<-s.complete
	deliver("b", 5, 3, 0)
	want(2, "b@5 x")
	deliver("c", 7, 5, 0) // the fourth is missing
	want(2, "b@5 x")
	if err := <-s.doubt; err == nil {
		t.Error("no doubt about a gap")
	}
	deliver("d", 6, 4, 0)
	want(2, "b@5 x")
	if st := s.state(); st.high != 5 || st.strange != 1 {
		t.Errorf("state is %+v", st)
	}
}
