package machine_test

import (
	"context"
	"fmt"
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
	"github.com/keyturn-io/keyturn/watchers"
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
				p := &play{t: t, dir: dir, began: time.Now(), store: memkv.New(), backups: map[string]memkv.Backup{}}
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

	mu  sync.Mutex
	out strings.Builder
}

func (p *play) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(&p.out, "%7s  ", time.Since(p.began).Round(time.Millisecond))
	fmt.Fprintf(&p.out, format+"\n", args...)
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
		p.crash()
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
}

func (p *play) start() {
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

// crash keeps the folder as it is now, ends the machine and puts the folder back.
func (p *play) crash() {
	kept := map[string][]byte{}
	files, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range files {
		if !f.IsDir() {
			kept[f.Name()], _ = os.ReadFile(filepath.Join(p.dir, f.Name()))
		}
	}
	p.mu.Lock()
	before := p.out.Len()
	p.mu.Unlock()
	p.stop()
	p.mu.Lock()
	said := p.out.String()[:before]
	p.out.Reset()
	p.out.WriteString(said)
	p.mu.Unlock()
	for name, content := range kept {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *play) status() {
	s := p.machine.Status()
	p.say("status %s since %s, accepts %v, %d steps, %d refused, %d dropped, storm %v%s", s.State,
		s.Since.Sub(p.began).Round(time.Millisecond), s.Accepts, s.Steps, s.Refused, s.Dropped, s.Storm, s.Error)
	for _, w := range s.Watchers {
		p.say("status %s active %v, %s %s", w.Name, w.Active, w.State, w.Outcome)
	}
}

// playing is what commands tell what they do.
var playing *play

// command is a kind of watcher whose commands only take time, so that a trace can
// follow them. Like exec it runs once for each visit that a step began.
type command struct {
	Takes  watchers.Duration `json:"takes"`
	Fails  bool              `json:"fails"`
	Panics bool              `json:"panics"`
	Kill   bool              `json:"kill"` // when the visit ends; else it goes on
	quiet  bool
}

func (c *command) Check(watchers.Settings) []watchers.Problem { return nil }

func (c *command) Watcher(env watchers.Env) (watchers.Watcher, error) {
	return &commandWatcher{*c, env, playing}, nil
}

type commandWatcher struct {
	command
	env  watchers.Env
	play *play
}

func (c *commandWatcher) Run(ctx context.Context, report watchers.Report) error {
	visit := c.env.Visit()
	if visit.Cause == watchers.Started {
		return nil
	}
	if c.quiet {
		return report(watchers.Observation{Outcome: watchers.Success})
	}
	time.Sleep(time.Microsecond) // so that the step is told first
	data := c.env.Data().JSON()
	var changes strings.Builder
	for _, change := range visit.Changes {
		fmt.Fprintf(&changes, ", %s %s.%s", change.Operation, change.Bucket, change.Key)
		if change.Old != nil {
			fmt.Fprintf(&changes, " was %s", change.Old)
		}
	}
	c.play.say("command %s begins: %s from %s%s, data %s", c.env.Watcher, visit.Event, visit.Previous, changes.String(), strings.Join(strings.Fields(string(data)), " "))
	if c.Panics {
		panic("as the test wants it")
	}
	killed := ctx.Done()
	if !c.Kill {
		killed = nil
	}
	select {
	case <-time.After(time.Duration(c.Takes)):
	case <-killed:
		time.Sleep(time.Microsecond)
		c.play.say("command %s is killed", c.env.Watcher)
		return nil
	case <-c.env.Stopping:
		c.play.say("command %s is killed", c.env.Watcher)
		return nil
	}
	c.play.say("command %s ends", c.env.Watcher)
	outcome := watchers.Success
	if c.Fails {
		outcome = watchers.Failure
	}
	_ = report(watchers.Observation{Outcome: outcome, State: "done"})

	return nil
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
