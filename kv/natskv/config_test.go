package natskv_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/kvtest"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// startCluster starts servers that are one cluster, and waits until it takes requests.
func startCluster(t *testing.T, name string, size int) (servers []*broker) {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range size { // each server must know all routes before any of them has begun
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		check(t, l.Close())
	}
	for i, port := range ports {
		b := &broker{t: t, opts: server.Options{
			ServerName: fmt.Sprintf("%s-%d", name, i),
			Host:       "127.0.0.1",
			Port:       server.RANDOM_PORT,
			JetStream:  true,
			StoreDir:   t.TempDir(),
			NoLog:      true,
			NoSigs:     true,
			Cluster:    server.ClusterOpts{Name: name, Host: "127.0.0.1", Port: port},
			Routes:     routes,
		}}
		b.start()
		t.Cleanup(b.stop)
		servers = append(servers, b)
	}
	eventually(t, "the cluster has a leader that knows all", func() bool {
		return slices.ContainsFunc(servers, func(b *broker) bool {
			return b.srv.JetStreamIsLeader() && len(b.srv.JetStreamClusterPeers()) == size
		})
	})
	return servers
}

func info(t *testing.T, c *natskv.Client, bucket string) natskv.Info {
	t.Helper()
	i, err := c.BucketInfo(t.Context(), bucket)
	check(t, err)
	return i
}

// TestSettings creates a bucket with all there are and reads them back.
func TestSettings(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "SRC"}))
	cfg := natskv.Config{
		Bucket: "B", Description: "d", History: 7, TTL: time.Hour, MarkerTTL: time.Minute, KeyTTL: true, MaxValueSize: 1000,
		MaxBytes: 1 << 20, Replicas: 1, Compression: true, Metadata: map[string]string{"a": "b"},
		RePublish: &natskv.RePublish{Source: ">", Destination: "hint.>", HeadersOnly: true},
		Sources: []natskv.Origin{
			{Bucket: "SRC", Filters: []string{"a.*.c", "b.>"}},
			{Bucket: "FAR", Domain: "hub"},
			{Bucket: "OTHER", APIPrefix: "acc.JS.API", DeliverPrefix: "acc.deliver"},
		},
	}
	check(t, c.CreateBucket(t.Context(), cfg))
	check(t, c.CreateBucket(t.Context(), cfg)) // it is there
	got := info(t, c, "B")
	if diff := cmp.Diff(cfg, got.Config); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got.Store != "JetStream" || got.Created.IsZero() || !got.LastPut.IsZero() || got.History != 7 || got.Cluster != nil || len(got.Sources) != 3 {
		t.Errorf("info is %+v", got)
	}

	far := natskv.Config{Bucket: "M", History: 1, Replicas: 1, NoTxn: true, KeyTTL: true, Mirror: &natskv.Origin{Bucket: "FAR", Domain: "hub", Filters: []string{"a.>"}}}
	check(t, c.CreateBucket(t.Context(), far))
	if diff := cmp.Diff(far, info(t, c, "M").Config); diff != "" {
		t.Errorf("a mirror: -want +got\n%s", diff)
	}
	placed := natskv.Config{Bucket: "P", History: 1, Replicas: 1, Memory: true, NoTxn: true}
	check(t, c.CreateBucket(t.Context(), placed))
	if diff := cmp.Diff(placed, info(t, c, "P").Config); diff != "" {
		t.Errorf("in memory: -want +got\n%s", diff)
	}
	names, err := c.Buckets(t.Context())
	check(t, err)
	if diff := cmp.Diff([]string{"B", "M", "P", "SRC"}, names); diff != "" {
		t.Errorf("buckets: -want +got\n%s", diff)
	}

	// A source puts its keys under the name of the bucket, and only those that it should.
	src, err := c.Bucket("SRC")
	check(t, err)
	b, err := c.Bucket("B")
	check(t, err)
	for _, key := range []string{"a.b.c", "a.b.d", "b.c.d"} {
		put(t, src, key, "1")
	}
	kvtest.Record(t, b, kv.WatchOptions{}).WaitState(map[string]string{"a.b.c": "1", "b.c.d": "1"})
}

func TestInvalidSettings(t *testing.T) {
	srv := startBroker(t)
	c := newClient(t, srv.connect(), quick)
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "ORIGIN", KeyTTL: true}))
	check(t, c.CreateBucket(t.Context(), natskv.Config{Bucket: "MIRROR", Mirror: &natskv.Origin{Bucket: "ORIGIN"}}))
	origin := &natskv.Origin{Bucket: "ORIGIN"}
	for what, cfg := range map[string]natskv.Config{
		"history":         {History: 65},
		"value size":      {MaxValueSize: -1},
		"size":            {MaxBytes: -1},
		"replicas":        {Replicas: 6},
		"negative TTL":    {TTL: -1},
		"markers for":     {MarkerTTL: time.Millisecond},
		"max age":         {TTL: time.Millisecond}, // the server's own words
		"to publish to":   {RePublish: &natskv.RePublish{}},
		"no sources":      {Mirror: origin, Sources: []natskv.Origin{*origin}},
		"has the markers": {Mirror: origin, MarkerTTL: time.Second},
		"of some keys":    {Mirror: &natskv.Origin{Bucket: "ORIGIN", Filters: []string{"a"}}},
		"mirror itself":   {Mirror: &natskv.Origin{Bucket: "MIRROR"}},
		"its own origin":  {Sources: []natskv.Origin{{Bucket: "B"}}},
		"one is enough":   {Mirror: &natskv.Origin{Bucket: "ORIGIN", Domain: "hub", APIPrefix: "x"}},
	} {
		cfg.Bucket = "B"
		if err := c.CreateBucket(t.Context(), cfg); !errors.Is(err, kv.ErrInvalidConfig) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantErr(t, "mirror nothing", kv.ErrBucketNotFound, func() error {
		return c.CreateBucket(t.Context(), natskv.Config{Bucket: "B", Mirror: &natskv.Origin{Bucket: "NONE"}})
	})
	for what, change := range map[string]func(*natskv.Config){
		"another name": func(c *natskv.Config) { c.Bucket = "C" },
		"memory":       func(c *natskv.Config) { c.Memory = true },
		"origin":       func(c *natskv.Config) { c.Mirror = origin },
		"a history of": func(c *natskv.Config) { c.History = 65 },
		"stays so":     func(c *natskv.Config) { c.KeyTTL = false },
	} {
		if err := c.EditBucket(t.Context(), "ORIGIN", change); !errors.Is(err, kv.ErrInvalidConfig) || !strings.Contains(err.Error(), what) {
			t.Errorf("edit %s: %v", what, err)
		}
	}
	wantErr(t, "edit nothing", kv.ErrBucketNotFound, func() error { return c.EditBucket(t.Context(), "NONE", func(*natskv.Config) {}) })
	wantErr(t, "edit a bad name", kv.ErrInvalidBucket, func() error { return c.EditBucket(t.Context(), "a.b", func(*natskv.Config) {}) })
}

// rawConfig is the config of a stream in the server's own words.
func rawConfig(t *testing.T, nc *nats.Conn, stream string) map[string]any {
	t.Helper()
	reply, err := nc.Request("$JS.API.STREAM.INFO."+stream, nil, 5*time.Second)
	check(t, err)
	var info struct {
		Config map[string]any `json:"config"`
	}
	check(t, json.Unmarshal(reply.Data, &info))
	return info.Config
}

// TestEdit changes a bucket that somebody has set in ways that a Config does not know.
func TestEdit(t *testing.T) {
	srv := startBroker(t)
	nc := srv.connect()
	c := newClient(t, nc, quick)
	_, err := jetStream(t, nc).CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_B", Subjects: []string{"$KV.B.>", "legacy.>"}, MaxMsgsPerSubject: 3, MaxConsumers: 77, MaxMsgs: 1000,
		Discard: jetstream.DiscardOld, AllowBatchPublish: true, Metadata: map[string]string{"a": "b"},
		ConsumerLimits: jetstream.StreamConsumerLimits{InactiveThreshold: time.Hour},
	})
	check(t, err)
	steps := []struct {
		what   string
		change func(*natskv.Config)
		want   map[string]any // fields that are other afterwards; nil is gone
	}{
		{"nothing", func(*natskv.Config) {}, map[string]any{}},
		{"a TTL below the duplicate window", func(c *natskv.Config) { c.TTL = 30 * time.Second }, map[string]any{"max_age": 30e9, "duplicate_window": 30e9}},
		{"a longer TTL", func(c *natskv.Config) { c.TTL = time.Hour }, map[string]any{"max_age": 3600e9, "duplicate_window": 120e9}},
		{"no TTL", func(c *natskv.Config) { c.TTL = 0 }, map[string]any{"max_age": 0.0}},
		{"metadata", func(c *natskv.Config) { c.Metadata["c"] = "d" }, nil},
		{"limits", func(c *natskv.Config) { c.History, c.MaxBytes, c.MaxValueSize, c.Description = 5, 1e6, 1e3, "new" },
			map[string]any{"max_msgs_per_subject": 5.0, "max_bytes": 1e6, "max_msg_size": 1e3, "description": "new"}},
		{"no description", func(c *natskv.Config) { c.Description = "" }, map[string]any{"description": nil}},
		{"republish", func(c *natskv.Config) { c.RePublish = &natskv.RePublish{Destination: "hint.>"} },
			map[string]any{"republish": map[string]any{"src": ">", "dest": "hint.>"}}},
		{"transactions", func(c *natskv.Config) { c.NoTxn = false }, map[string]any{"allow_atomic": true}},
	}
	for _, step := range steps {
		want := rawConfig(t, nc, "KV_B")
		check(t, c.EditBucket(t.Context(), "B", step.change))
		got := rawConfig(t, nc, "KV_B")
		if step.want == nil {
			metadata, ok := got["metadata"].(map[string]any)
			if !ok || metadata["a"] != "b" || metadata["c"] != "d" {
				t.Errorf("metadata is %v", got["metadata"])
			}
			step.want = map[string]any{"metadata": got["metadata"]}
		}
		for field, value := range step.want {
			if want[field] = value; value == nil {
				delete(want, field)
			}
		}
		if want["metadata"] != nil { // the server notes what it needs for the settings
			want["metadata"] = got["metadata"]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", step.what, diff)
		}
	}
}

// TestReplicas needs a cluster, and says so on a single server.
func TestReplicas(t *testing.T) {
	single := newClient(t, startBroker(t).connect(), quick)
	for what, call := range map[string]func() error{
		"create": func() error { return single.CreateBucket(t.Context(), natskv.Config{Bucket: "B", Replicas: 3}) },
		"edit": func() error {
			check(t, single.CreateBucket(t.Context(), natskv.Config{Bucket: "C"}))
			return single.EditBucket(t.Context(), "C", func(c *natskv.Config) { c.Replicas = 3 })
		},
	} {
		if err := call(); !errors.Is(err, kv.ErrReplicas) || !strings.Contains(err.Error(), "3 replicas need a cluster of at least 3 servers") {
			t.Errorf("%s on a single server: %v", what, err)
		}
	}

	servers := startCluster(t, "three", 3)
	c := newClient(t, servers[0].connect(), natskv.Options{Timeout: 20 * time.Second})
	b := newBucket(t, c, natskv.Config{Bucket: "B"})
	put(t, b, "a", "1")
	check(t, c.EditBucket(t.Context(), "B", func(c *natskv.Config) { c.Replicas = 3 }))
	eventually(t, "three servers have it", func() bool {
		got := info(t, c, "B")
		return got.Replicas == 3 && got.Cluster != nil && got.Cluster.Name == "three" && got.Cluster.Leader != "" && len(got.Cluster.Followers) == 2 &&
			!slices.ContainsFunc(got.Cluster.Followers, func(f natskv.Follower) bool { return !f.Current })
	})
	e, err := b.Get(t.Context(), "a")
	check(t, err)
	if string(e.Value) != "1" || e.Revision != 1 {
		t.Errorf("got %+v", e)
	}
	if err := c.EditBucket(t.Context(), "B", func(c *natskv.Config) { c.Replicas = 5 }); !errors.Is(err, kv.ErrReplicas) || strings.Contains(err.Error(), "\n") {
		t.Errorf("5 replicas on 3 servers: %v", err)
	}
}
