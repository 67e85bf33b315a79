//go:build unix

package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// plainServer is a server as anybody would start one, with the store's sync setting: the limit.
func plainServer(tb testing.TB) *server.Server {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: tb.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		tb.Fatal("the plain server is not ready")
	}
	tb.Cleanup(func() { shutdown(srv) })
	return srv
}

// BenchmarkPut compares the two ways to the store with a plain server on loopback TCP.
func BenchmarkPut(b *testing.B) {
	dir := b.TempDir()
	inside, socket := connect(b, dir), connect(b, dir)
	tcp, err := nats.Connect(plainServer(b).ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	defer tcp.Close()

	kvs := []jetstream.KeyValue{bucket(b, &Store{conn: tcp}), bucket(b, inside), bucket(b, socket)}
	took := make([][]time.Duration, len(kvs))
	value := make([]byte, 100)
	for b.Loop() {
		for i, kv := range kvs {
			begin := time.Now()
			if _, err := kv.Put(b.Context(), "key", value); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begin))
		}
	}
	limit := p50(took[0])
	b.ReportMetric(float64(limit.Microseconds()), "tcp-p50-µs")
	b.ReportMetric(float64(p50(took[1]))/float64(limit), "inside/tcp")
	b.ReportMetric(float64(p50(took[2]))/float64(limit), "socket/tcp")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOneShot connects to a store that nobody serves, puts and closes, and compares that with
// a bare server that is started, put to and stopped.
func BenchmarkOneShot(b *testing.B) {
	dir, plainDir := b.TempDir(), b.TempDir()
	for _, dir := range []string{dir, plainDir} {
		store := connect(b, dir)
		bucket(b, store)
		store.Close()
	}

	var connecting, closing, all, plain []time.Duration
	for b.Loop() {
		begin := time.Now()
		store, err := Connect(b.Context(), Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		connected := time.Now()
		put(b, openBucket(b, store.Conn()), "key", "value")
		done := time.Now()
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		connecting = append(connecting, connected.Sub(begin))
		closing = append(closing, time.Since(done))
		all = append(all, time.Since(begin))

		begin = time.Now()
		srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: plainDir, SyncAlways: true, NoSigs: true, NoLog: true})
		if err != nil {
			b.Fatal(err)
		}
		srv.Start()
		conn, err := nats.Connect("", nats.InProcessServer(srv))
		if err != nil {
			b.Fatal(err)
		}
		put(b, openBucket(b, conn), "key", "value")
		conn.Close()
		shutdown(srv)
		plain = append(plain, time.Since(begin))
	}
	b.ReportMetric(float64(p50(connecting).Microseconds()), "connect-p50-µs")
	b.ReportMetric(float64(p50(closing).Microseconds()), "close-p50-µs")
	b.ReportMetric(float64(p50(all).Microseconds()), "all-p50-µs")
	b.ReportMetric(float64(p50(all))/float64(p50(plain)), "all/plain")
	b.ReportMetric(0, "ns/op")
}

func openBucket(tb testing.TB, conn *nats.Conn) jetstream.KeyValue {
	js, err := jetstream.New(conn)
	if err != nil {
		tb.Fatal(err)
	}
	kv, err := js.KeyValue(tb.Context(), "CFG")
	if err != nil {
		tb.Fatal(err)
	}
	return kv
}

func p50(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
