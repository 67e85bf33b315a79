//go:build unix

package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// serve serves a store until the test ends, which checks that nothing is left of it,
// and returns the URL.
func serve(t *testing.T, opts ServeOptions) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	urls := make(chan string, 1)
	opts.Ready = func(url string) { urls <- url }
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, opts) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve returns %v", err)
		}
	})
	select {
	case url := <-urls:
		return url
	case err := <-ended:
		ended <- err
		t.Fatal("Serve does not serve")
		return ""
	}
}

func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestServeBySocketAlone(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	if url := serve(t, ServeOptions{Options: Options{Dir: dir}}); url != "" {
		t.Errorf("it listens on %s", url)
	}
	put(t, bucket(t, connect(t, dir)), "key", "value")
}

// The store is the same one whichever way it is served and reached.
func TestServeOnPort(t *testing.T) {
	verifyNoLeak(t)
	dir := t.TempDir()
	t.Run("socket", func(t *testing.T) { bucketWith(t, connect(t, dir), "key", "value") })
	url := serve(t, ServeOptions{Options: Options{Dir: dir}, Listen: "0"})
	if !strings.HasPrefix(url, "nats://127.0.0.1:") {
		t.Errorf("it listens on %s", url)
	}
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	entry, err := bucket(t, &Store{conn: conn}).Get(t.Context(), "key")
	if err != nil || string(entry.Value()) != "value" {
		t.Errorf("on the port the key is %v, %v", entry, err)
	}
}

// Every write is synced unless the file says otherwise, every listener that the file gives
// no host is on loopback, and what cannot be reached is not in the log each second.
func TestServeConfigDefaults(t *testing.T) {
	opts, err := ServeOptions{Config: config(t, "port: 4222\ncluster { name: C, port: 6222 }\nleafnodes { port: 7422 }\n")}.server()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(opts.Host, opts.Cluster.Host, opts.LeafNode.Host, opts.SyncAlways, opts.ReconnectErrorReports)
	if want := fmt.Sprint("127.0.0.1", "127.0.0.1", "127.0.0.1", true, 3600); got != want {
		t.Errorf("the defaults are %s, want %s", got, want)
	}
	opts, err = ServeOptions{Config: config(t, "jetstream { sync_interval: 10s }\nport: 4222\nreconnect_error_reports: 1\n")}.server()
	if err != nil || opts.SyncAlways || opts.ReconnectErrorReports != 1 {
		t.Errorf("with an interval it syncs every write, or reports as it likes, or %v", err)
	}
}

func TestServeKnowsUsers(t *testing.T) {
	for text, knows := range map[string]bool{
		"":                                false,
		"authorization { token: secret }": true,
		"authorization { user: bob, password: secret }":                                                  true,
		"authorization { users: [ {user: bob, password: secret} ] }":                                     true,
		"accounts { A { users: [ {user: bob, password: secret} ] } }":                                    true,
		"accounts { A { users: [ {nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4} ] } }": true,
		"accounts { A { users: [ {user: bob, password: x} ] } }\nno_auth_user: bob":                      true,
		"max_connections: 10": false,
	} {
		_, err := ServeOptions{Config: config(t, "listen: \"0.0.0.0:4222\"\n"+text)}.server()
		if (err == nil) != knows {
			t.Errorf("with %q it listens to whoever comes: %v", text, err)
		}
	}
}
