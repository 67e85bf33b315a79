package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkGetProcess gets a value with keyturn kv get and with nats kv get, a process
// each, in turns, from one server over loopback, and reports the ratio of the medians: above
// 1 keyturn is slower.
func BenchmarkGetProcess(b *testing.B) {
	theirs, err := natsCommand()
	if err != nil {
		b.Skip("SKIPPED: there is no nats command to compare with; make nats builds it: ", err)
	}
	dir := b.TempDir()
	ours := filepath.Join(dir, "keyturn")
	if out, err := exec.Command("go", "build", "-o", ours, ".").CombinedOutput(); err != nil {
		b.Fatalf("build keyturn: %v\n%s", err, out)
	}
	url := serverWithValue(b, filepath.Join(dir, "store"), "CFG", "username", "bob")
	get := func(command ...string) time.Duration {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		took := time.Since(began)
		if err != nil || !bytes.Equal(bytes.TrimSpace(out), []byte("bob")) {
			b.Fatalf("%q: %v\n%s", command, err, out)
		}
		return took
	}
	const rounds = 21
	var a, z []time.Duration
	for b.Loop() {
		for range rounds {
			a = append(a, get(ours, "kv", "get", "CFG", "username", "--raw", "--server", url))
			z = append(z, get(theirs, "kv", "get", "CFG", "username", "--raw", "--server", url, "--no-context"))
		}
	}
	median := func(took []time.Duration) float64 {
		slices.Sort(took)
		return took[len(took)/2].Seconds() * 1e3
	}
	b.ReportMetric(median(a)/median(z), "ratio")
	b.ReportMetric(median(a), "ms/ours")
	b.ReportMetric(median(z), "ms/nats")
	b.ReportMetric(0, "ns/op")
}

// serverWithValue starts a server on loopback, stopped at the end, and puts a value.
func serverWithValue(b *testing.B, dir, bucket, key, value string) (url string) {
	b.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	srv.Start()
	b.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(20 * time.Second) {
		b.Fatal("the server does not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	store, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: bucket})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := store.PutString(b.Context(), key, value); err != nil {
		b.Fatal(err)
	}
	return srv.ClientURL()
}
