package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestPage runs Choria's page about its key-value store from top to bottom, in the store
// on this host and on a cluster, of which one server is stopped meanwhile. Besides the
// commands of TestScripts there are
//
//	printed FILE    check what was printed, times and sizes aside
//	harm            stop a server, of a cluster
//	elsewhere       go on in another store, or on another cluster
func TestPage(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		runPage(t, "1", func(*testscript.TestScript) {}, func(ts *testscript.TestScript) {
			ts.Setenv("KEYTURN_STORE", ts.MkAbs("elsewhere"))
		})
	})
	t.Run("cluster", func(t *testing.T) {
		here, elsewhere := startCluster(t, "here"), startCluster(t, "elsewhere")
		t.Setenv("NATS_URL", urls(here))
		runPage(t, "3", func(ts *testscript.TestScript) {
			stop(here[0])
			answers(ts) // an election may take longer than a command waits for an answer
		}, func(ts *testscript.TestScript) {
			ts.Setenv("NATS_URL", urls(elsewhere))
		})
	})
}

func runPage(t *testing.T, replicas string, harm, elsewhere func(*testscript.TestScript)) {
	params := scripts(t)
	params.Files = []string{"testdata/page.txtar"}
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("REPLICAS", replicas)
		env.Setenv("NATS_URL", os.Getenv("NATS_URL"))
		env.Setenv("TZ", "Australia/Sydney") // a zone of four letters, as on the page
		return setup(env)
	}
	params.Condition = func(string) (bool, error) { return replicas == "1", nil }
	params.Cmds["printed"] = samePage
	params.Cmds["harm"] = func(ts *testscript.TestScript, _ bool, _ []string) { harm(ts) }
	params.Cmds["elsewhere"] = func(ts *testscript.TestScript, _ bool, _ []string) { elsewhere(ts) }
	testscript.Run(t, params)
}

// answers waits until the cluster answers for the page's bucket again.
func answers(ts *testscript.TestScript) {
	for deadline := time.Now().Add(time.Minute); ; {
		err := ts.Exec("keyturn", "kv", "get", "CFG", "username", "--raw")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the cluster does not answer: %v", err)
		}
	}
}

// varying are the times and sizes on the page.
var varying = []struct {
	pattern *regexp.Regexp
	is      string
}{
	{regexp.MustCompile(`\d\d [A-Z][a-z][a-z] \d\d \d\d:\d\d UTC`), "UTC"},
	{regexp.MustCompile(`\d\d [A-Z][a-z][a-z] \d\d \d\d:\d\d [A-Z]{4}`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(`\d+ bytes`), "SIZE"},
}

func samePage(ts *testscript.TestScript, _ bool, args []string) {
	got, want := ts.ReadFile("stdout"), ts.ReadFile(args[0])
	for _, v := range varying {
		got, want = v.pattern.ReplaceAllString(got, v.is), v.pattern.ReplaceAllString(want, v.is)
	}
	want = strings.ReplaceAll(want, "$WORK", ts.Getenv("WORK"))
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("it printed other than %s (-want +got):\n%s", args[0], diff)
	}
}

// startCluster starts three servers that are one cluster, and waits until it takes requests.
func startCluster(t *testing.T, name string) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 { // each server must know all routes before any of them has begun
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var servers []*server.Server
	for i, port := range ports {
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("%s-%d", name, i),
			Host:       "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
			Cluster: server.ClusterOpts{Name: name, Host: "127.0.0.1", Port: port}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(func() { stop(srv) })
		servers = append(servers, srv)
	}
	leads := func(srv *server.Server) bool { return srv.JetStreamIsLeader() && len(srv.JetStreamClusterPeers()) == 3 }
	for deadline := time.Now().Add(20 * time.Second); !slices.ContainsFunc(servers, leads); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("cluster %s has no leader", name)
		}
	}
	return servers
}

func stop(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

func urls(servers []*server.Server) string {
	var all []string
	for _, srv := range servers {
		all = append(all, srv.ClientURL())
	}
	return strings.Join(all, ",")
}
