package keyturn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestFaultBrokerRestarts and those after it are the table of docs/watching.md.
func TestFaultBrokerRestarts(t *testing.T) {
	t.Run("within a probe", func(t *testing.T) {
		p := settled(t, rarely)
		p.stop(0)
		p.start(0)
		p.put("a", "two")
		p.within(touch, "the put after a restart is acted on", func() { p.acts("two") })
		p.says("unchanged")
		p.rests("a restart of the broker")
		p.sawNothing("a restart within a probe")
	})
	t.Run("at first without its store", func(t *testing.T) {
		p := settled(t, rarely)
		p.stop(0)
		p.servers[0].JetStream = false
		p.start(0)
		p.until("connect", func(context.Context) error {
			if !p.conn.IsConnected() {
				return errors.New("not connected")
			}
			return nil
		})
		p.rests("a server without its store") // it says that there is no bucket
		p.stop(0)
		p.servers[0].JetStream = true
		p.start(0)
		p.put("a", "two")
		p.within(touch, "the put after a restart is acted on", func() { p.acts("two") })
		p.says("unchanged")
		p.sawNothing("a restart within a probe")
	})
	t.Run("later", func(t *testing.T) {
		p := settled(t, seldomly)
		p.stop(0)
		p.says("error")
		p.start(0)
		p.inTouch()
		p.within(touch, "unchanged", func() { p.says("unchanged") })
		p.rests("a restart of the broker")
		p.sawOneLoss("a restart")
		p.put("a", "two")
		p.within(touch, "the put after a restart is acted on", func() { p.acts("two") })
		p.says("unchanged")
		p.sawNothing("a put")
	})
}

// TestFaultBrokerAway is away for KEYTURN_AWAY, or 3 seconds, which are some tries to
// find the bucket.
func TestFaultBrokerAway(t *testing.T) {
	away, err := time.ParseDuration(os.Getenv("KEYTURN_AWAY"))
	if err != nil {
		away = 3 * time.Second
	}
	p := newPlant(t, 3)
	seldomly(p)
	p.create(3)
	p.settle(p.url(0))

	p.stop(0)
	p.says("error")
	p.put("a", "two") // through another server of the cluster
	pause(t.Context(), int(away.Milliseconds()))
	p.put("a", "three")
	p.start(0)
	p.inTouch()
	var before int
	p.within(touch, "the newest value is acted on", func() { before = p.acts("three") })
	// The server that comes back may not have caught up at first.
	if before > 1 {
		t.Errorf("%d actions before the newest value", before)
	}
	p.says("unchanged")
	p.rests("the newest value")
	p.sawOneLoss("a broker that was away")
}

func TestFaultLinkSwallows(t *testing.T) {
	const probe = 3 * time.Second // with slack it is less than another one
	p := newPlant(t, 1)
	p.probe = probe
	p.create(1)
	link := newLink(t, fmt.Sprintf("127.0.0.1:%d", p.servers[0].Port))
	p.settle("nats://" + link.listener.Addr().String())

	link.swallow(true)
	p.put("a", "two")
	p.within(2*probe, "error", func() { p.says("error") })
	link.swallow(false)
	p.within(2*probe, "the newest value is acted on", func() { p.acts("two") })
	p.says("unchanged")
	p.rests("the newest value")
	p.sawOneLoss("a link that swallows")
}

func TestFaultLinkCut(t *testing.T) {
	p := newPlant(t, 1)
	rarely(p)
	p.create(1)
	link := newLink(t, fmt.Sprintf("127.0.0.1:%d", p.servers[0].Port))
	p.settle("nats://" + link.listener.Addr().String())

	link.swallow(true)
	p.put("a", "two")
	link.swallow(false)
	link.cut()
	p.within(touch, "what was put meanwhile is acted on", func() { p.acts("two") })
	p.says("unchanged")
	p.rests("the newest value")
	p.sawNothing("a link that is cut")
}

func TestFaultConsumerDeleted(t *testing.T) {
	p := settled(t, seldomly)
	deleted := 0
	for name := range p.stream().ConsumerNames(t.Context()).Name() {
		if err := p.stream().DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		deleted++
	}
	if deleted != 1 {
		t.Errorf("%d consumers, want one for a bucket", deleted)
	}
	p.put("a", "two")
	p.within(2*seldom, "the next put is acted on", func() { p.acts("two") })
	p.says("unchanged")
	p.rests("the consumer was deleted")
	p.sawNothing("a consumer that is deleted")
}

func TestFaultBucketPurged(t *testing.T) {
	vanished := []string{"a key vanished without being deleted: the data stays as it is", "a key vanished without being deleted: the data stays as it is"}
	keep := func(t *testing.T, p *plant, vanish func()) {
		p.put("b", "other")
		p.acts("other")
		p.says("unchanged")
		vanish()
		p.within(2*p.probe, "missing", func() { p.says("missing") })
		p.rests("the keys vanished")
		if all := saw(p.warnings); !slices.Equal(all, vanished) {
			t.Errorf("the log has %q, want one warning for each of two keys", all)
		}
		p.put("a", "one")
		p.rests("the same value")
		p.put("c", "two")
		if data := p.next(); data["CFG_a"] != "one" || data["CFG_b"] != "other" || data["CFG_c"] != "two" {
			t.Errorf("the data does not stay: %v", data)
		}
		p.rests("the next value")
		if all := saw(p.warnings); len(all) > 0 {
			t.Errorf("more warnings: %q", all)
		}
	}
	t.Run("keep", func(t *testing.T) {
		p := settled(t)
		keep(t, p, func() {
			if err := p.stream().Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("expired", func(t *testing.T) {
		p := settled(t)
		keep(t, p, func() {
			config := p.stream().CachedInfo().Config
			config.MaxAge, config.Duplicates = 100*time.Millisecond, 100*time.Millisecond
			if _, err := p.direct.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			p.until("expire", func(ctx context.Context) error {
				if n := p.stream().CachedInfo().State.Msgs; n > 0 {
					return fmt.Errorf("%d messages are left", n)
				}
				return nil
			})
			config.MaxAge = 0
			if _, err := p.direct.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("delete", func(t *testing.T) {
		p := settled(t, func(p *plant) { p.onMissing = "delete" })
		p.put("b", "other")
		p.acts("other")
		p.says("unchanged")
		if err := p.stream().Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The first key that is found missing is acted on at once, all others after that.
		if data := p.next(); len(data) > 0 {
			if data = p.next(); len(data) > 0 {
				t.Errorf("the data stays: %v", data)
			}
		}
		p.rests("the data is gone")
		if all := saw(p.warnings); len(all) > 0 {
			t.Errorf("warnings: %q", all)
		}
	})
}

// next returns the data of the next action.
func (p *plant) next() (data map[string]string) {
	p.t.Helper()
	select {
	case text := <-p.actions:
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			p.t.Fatalf("%s: %s", err, text)
		}
	case <-time.After(patience):
		p.t.Fatal("no action")
	}

	return data
}

func TestFaultBucketCreatedAgain(t *testing.T) {
	remove := func(p *plant) {
		p.until("delete the bucket", func(ctx context.Context) error { return p.direct.DeleteKeyValue(ctx, "CFG") })
	}
	t.Run("at once", func(t *testing.T) {
		p := settled(t)
		again := func() { remove(p); p.create(1) }
		again()
		p.put("a", "one")
		p.rests("the bucket came back with the same value")
		again()
		p.put("a", "two") // at the revision of the other value
		p.actsOnce("two")
		again()
		p.put("b", "three")
		p.acts("three")
		p.says("missing") // the other key
		p.rests("another key")
	})
	t.Run("later", func(t *testing.T) {
		p := settled(t)
		remove(p)
		p.says("error")
		pause(t.Context(), 1000) // in which it is looked for a few times
		p.create(1)
		p.put("a", "one")
		p.says("unchanged")
		p.rests("the bucket came back with the same value")
		if all := saw(p.failures); len(all) != 1 {
			t.Errorf("fail_transition fires %d times, want once: %q", len(all), all)
		}
	})
}

func TestFaultBucketRestoredOlder(t *testing.T) {
	p := settled(t, rarely)
	backup := filepath.Join(t.TempDir(), "backup")
	p.stop(0)
	if err := os.CopyFS(backup, os.DirFS(p.servers[0].StoreDir)); err != nil {
		t.Fatal(err)
	}
	p.start(0)
	p.put("a", "two")
	p.actsOnce("two")
	p.sawNothing("a put")

	p.stop(0)
	if err := os.RemoveAll(p.servers[0].StoreDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(p.servers[0].StoreDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	p.start(0)
	p.inTouch()
	p.within(touch, "what the bucket holds now is acted on", func() { p.acts("one") })
	p.says("unchanged")
	p.rests("what the bucket holds now")
	if all := saw(p.warnings); !slices.Equal(all, []string{"the bucket is not the one it was: what differs is a change"}) {
		t.Errorf("the log has %q, want that the bucket is another one", all)
	}
	p.put("a", "two") // with the revision that it had before
	p.actsOnce("two")
}

func TestFaultBurst(t *testing.T) {
	for _, keys := range []int{1, 1000} {
		t.Run(fmt.Sprintf("%d keys", keys), func(t *testing.T) {
			p := settled(t, rarely)
			const puts = 10_000
			began := time.Now()
			for i := range puts {
				subject := fmt.Sprintf("$KV.CFG.key%d", i%keys)
				if _, err := p.direct.PublishAsync(subject, fmt.Appendf(nil, "value %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-p.direct.PublishAsyncComplete():
			case <-time.After(patience):
				t.Fatal("the puts are not acknowledged")
			}
			var data map[string]string
			actions := 0
			// A computer that takes long for the puts may take longer for this, too.
			p.within(touch+time.Since(began)/2, "the last value is acted on", func() {
				for data[fmt.Sprintf("CFG_key%d", (puts-1)%keys)] != fmt.Sprintf("value %d", puts-1) {
					data = p.next()
					actions++
				}
			})
			t.Logf("%d actions for %d puts", actions, puts)
			if actions > puts/100 {
				t.Errorf("%d actions for %d puts are not few", actions, puts)
			}
			for i := puts - keys; i < puts; i++ {
				if key, want := fmt.Sprintf("CFG_key%d", i%keys), fmt.Sprintf("value %d", i); data[key] != want {
					t.Errorf("the last action has %q for %s, want %q", data[key], key, want)
				}
			}
			p.says("unchanged")
			p.rests("the last value")
			p.sawNothing("a burst")
		})
	}
}

// TestIdle holds what a bucket costs in which nothing happens: one request for each
// probe, and one consumer.
func TestIdle(t *testing.T) {
	p := settled(t)
	p.rests("the first value")
	consumers := p.stream().CachedInfo().State.Consumers
	began, before := time.Now(), p.conn.Stats().OutMsgs
	pause(t.Context(), int((10 * often).Milliseconds()))
	requests, probes := p.conn.Stats().OutMsgs-before, uint64(time.Since(began)/often)
	t.Logf("%d requests in the time of %d probes", requests, probes)
	if requests > probes+1 {
		t.Errorf("%d requests in the time of %d probes, want one for each", requests, probes)
	}
	if consumers != 1 {
		t.Errorf("%d consumers, want one", consumers)
	}
}
