package machine_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/memkv"
	"github.com/keyturn-io/keyturn/machine"
)

// TestTraces runs the scripts in testdata. Each stands in one file with its
// manifest and the trace of what happened, in time that is not real. With -update
// the trace is written anew; commit that only if you can explain it.
//
// A script is made of lines:
//
//	start                   start the machine
//	stop                    stop it as an operator does
//	crash                   end it as SIGKILL does: what was not on disk is lost
//	crash at TEXT           the same, but as soon as the trace tells that, in the middle
//	                        of what the next lines cause
//	let WATCHER DO          its commands succeed, fail or hang from now on
//	create, remove BUCKET   a bucket
//	put BUCKET KEY VALUE    a key
//	del, purge, vanish BUCKET KEY
//	clear BUCKET            remove all entries without a marker
//	backup, restore BUCKET  what it holds; restore brings that back
//	down, up [BUCKET]       the bucket, or all of the store, is away, is back
//	hint SUBJECT            publish a message that hints at a change
//	fire EVENT              as an operator does
//	wait DURATION           let time pass
//	status                  tell what the machine says of itself
//	data                    tell what the machine's data file holds
//	full, room              the disk takes no more, takes more again
//	write FILE TEXT         write a file in the machine's folder
//	erase FILE              remove it
func TestTraces(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no traces in testdata", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var out string
			synctest.Test(t, func(t *testing.T) {
				p := &play{t: t, dir: dir, began: time.Now(), store: memkv.New(), backups: map[string]memkv.Backup{}, lets: map[string]string{}}
				p.manifest, err = machine.Parse("machine.yaml", file(archive, "machine.yaml"), testKinds)
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(string(file(archive, "script"))) {
					if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
						p.line(line)
					}
				}
				p.stop()
				out = p.trace()
			})
			golden(t, path, archive, "trace", out)
		})
	}
}

// play is a script that is being played.
type play struct {
	t        *testing.T
	dir      string
	began    time.Time
	store    *memkv.Store
	backups  map[string]memkv.Backup
	manifest *machine.Manifest

	machine *machine.Machine
	cancel  context.CancelFunc
	ended   chan error

	mu      sync.Mutex
	out     strings.Builder
	lets    map[string]string // what commands do, by watcher
	crashAt string            // what the trace tells at the next crash
	crashed *instant          // the machine at that moment
}

// instant is what a crash leaves of the machine.
type instant struct {
	files map[string][]byte
	told  int // bytes of the trace
}

func (p *play) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(&p.out, "%7s  %s\n", time.Since(p.began).Round(time.Millisecond), text)
	if p.crashAt != "" && strings.Contains(text, p.crashAt) {
		p.crashed, p.crashAt = p.now(), ""
	}
}

func (p *play) trace() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

var random = regexp.MustCompile(`tmp-[0-9]+`)

// plain is a text without what differs from one run to the next.
func (p *play) plain(text string) string {
	return random.ReplaceAllString(strings.ReplaceAll(text, p.dir, "DIR"), "tmp-…")
}

// line plays one line, and waits until all that it causes at once has happened.
func (p *play) line(line string) {
	p.mu.Lock()
	fmt.Fprintf(&p.out, "> %s\n", line)
	p.mu.Unlock()

	words := append(strings.Fields(line), "", "", "")
	ctx := p.t.Context()
	bucket, err := p.store.Bucket(words[1])
	if err != nil {
		bucket = nil
	}
	err = nil
	switch words[0] {
	case "start":
		p.start()
	case "stop":
		p.stop()
	case "crash":
		p.mu.Lock()
		if _, text, later := strings.Cut(line, " at "); later {
			p.crashAt = text
		} else {
			p.crashed = p.now()
		}
		p.mu.Unlock()
	case "let":
		p.mu.Lock()
		p.lets[words[1]] = words[2]
		p.mu.Unlock()
	case "create":
		err = p.store.Create(words[1], memkv.Config{History: 5})
	case "remove":
		err = p.store.Remove(words[1])
	case "put":
		_, value, _ := strings.Cut(line, words[2]+" ")
		_, err = bucket.Put(ctx, words[2], []byte(value))
	case "del":
		err = bucket.Delete(ctx, words[2], 0)
	case "purge":
		err = bucket.Purge(ctx, words[2], 0)
	case "vanish":
		err = p.store.Vanish(words[1], words[2])
	case "clear":
		err = p.store.PurgeAll(words[1])
	case "backup":
		p.backups[words[1]], err = p.store.Backup(words[1])
	case "restore":
		p.store.Restore(p.backups[words[1]])
	case "hint":
		p.store.Hint(words[1])
	case "down":
		p.store.Down(strings.Fields(words[1])...)
	case "up":
		p.store.Up(strings.Fields(words[1])...)
	case "fire":
		if err := p.machine.Fire(ctx, words[1]); err != nil {
			p.say("error %s", p.plain(err.Error()))
		}
	case "wait":
		d, bad := time.ParseDuration(words[1])
		if bad != nil {
			p.t.Fatal(bad)
		}
		time.Sleep(d)
	case "status":
		p.status()
	case "data":
		text, _ := os.ReadFile(filepath.Join(p.dir, "machine_data.json"))
		p.say("data %s", strings.Join(strings.Fields(string(text)), " "))
	case "full":
		err = os.Rename(p.dir, p.dir+".away") // as root no permission would be missing
	case "room":
		err = os.Rename(p.dir+".away", p.dir)
	case "erase":
		err = os.Remove(filepath.Join(p.dir, words[1]))
	case "write":
		_, text, _ := strings.Cut(line, words[1]+" ")
		err = os.WriteFile(filepath.Join(p.dir, words[1]), []byte(text), 0o600)
	default:
		p.t.Fatalf("unknown line %q", line)
	}
	if err != nil {
		p.t.Fatalf("%s: %s", line, err)
	}
	time.Sleep(10 * time.Microsecond)
	synctest.Wait()
	if p.crashed != nil {
		p.crash()
	}
}

func (p *play) start() {
	if p.cancel != nil {
		p.say("error it runs already")
		return
	}
	m, err := machine.New(p.manifest, machine.Options{
		Dir:    p.dir,
		Bucket: p.bucket,
		Log:    slog.New(warnings{p}),
		OnStep: func(s machine.Step) {
			if s.Watcher == "stepper" {
				return
			}
			p.say("step %s --%s--> %s (%s)", s.From, s.Event, s.To, strings.TrimSuffix(s.Watcher+": "+s.Detail, ": "))
		},
		OnWatcher: func(s machine.WatcherStatus) {
			if s.Type == "kv" {
				p.say("watcher %s is %s%s", s.Name, s.State, map[bool]string{true: " (announced)"}[s.Announced])
			}
		},
		Identity: "node1",
		Output: func(watcher string) (stdout, stderr io.Writer) {
			return printed{p, watcher}, printed{p, watcher}
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.machine, p.cancel, p.ended = m, cancel, make(chan error, 1)
	playing = p
	go func() { p.ended <- m.Run(ctx) }()
}

// bucket is a bucket that takes a moment to answer, another one for each name, so
// that watchers that begin at the same time report in the same order each time.
func (p *play) bucket(name string) (kv.Bucket, error) {
	b, err := p.store.Bucket(name)
	if err != nil {
		return nil, err
	}
	return slowBucket{b.(kv.Hinter)}, nil
}

type slowBucket struct{ kv.Hinter }

func (b slowBucket) Get(ctx context.Context, key string) (kv.Entry, error) {
	time.Sleep(time.Duration(len(b.Name())))
	return b.Hinter.Get(ctx, key)
}

func (b slowBucket) Watch(ctx context.Context, opts kv.WatchOptions) iter.Seq2[kv.Event, error] {
	time.Sleep(time.Duration(len(b.Name())))
	return b.Hinter.Watch(ctx, opts)
}

func (p *play) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	if err := <-p.ended; err != nil {
		p.say("error %s", err)
	}
	p.cancel = nil
}

// now is the machine as it is. The caller has p.mu.
func (p *play) now() *instant {
	files, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Error(err)
	}
	i := &instant{map[string][]byte{}, p.out.Len()}
	for _, f := range files {
		if !f.IsDir() {
			i.files[f.Name()], _ = os.ReadFile(filepath.Join(p.dir, f.Name()))
		}
	}

	return i
}

// crash ends the machine, and makes all as it was at the instant of the crash.
func (p *play) crash() {
	p.stop()
	said := p.out.String()[:p.crashed.told]
	p.out.Reset()
	p.out.WriteString(said)
	if err := os.RemoveAll(p.dir); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	for name, content := range p.crashed.files {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.crashed = nil
}

func (p *play) status() {
	s := p.machine.Status()
	p.say("status %s since %s, accepts %v, %d steps, %d refused, %d dropped, storm %v%s", s.State,
		s.Since.Sub(p.began).Round(time.Millisecond), s.Accepts, s.Steps, s.Refused, s.Dropped, s.Storm, s.Error)
	for _, w := range s.Watchers {
		p.say("status %s active %v, %s %s", w.Name, w.Active, w.State, w.Outcome)
	}
}

// warnings is a log that writes warnings and errors into the trace.
type warnings struct{ play *play }

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warnings) WithGroup(string) slog.Handler                { return w }

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	var attrs strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "stack", "set_aside":
			fmt.Fprintf(&attrs, " %s=…", a.Key)
		default:
			fmt.Fprintf(&attrs, " %s=%v", a.Key, w.play.plain(a.Value.String()))
		}
		return true
	})
	w.play.say("%s %s%s", strings.ToLower(r.Level.String()), r.Message, attrs.String())

	return nil
}
