package watchertest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn-io/keyturn/datalayer"
	"github.com/keyturn-io/keyturn/watchers"
	"github.com/keyturn-io/keyturn/watchers/watchertest"
)

// properties are those of a kind of which every test has its own.
type properties struct {
	Greeting string            `json:"greeting"`
	Every    watchers.Duration `json:"every"`

	kind *kind
}

// kind is a good kind but for what a test replaces.
type kind struct {
	create func() watchers.Properties
	check  func(*properties) []watchers.Problem
	make   func(watchers.Env)
	run    func(context.Context, watchers.Env, watchers.Report) error
}

func (p *properties) Check(watchers.Settings) []watchers.Problem {
	if p.kind != nil && p.kind.check != nil {
		return p.kind.check(p)
	}
	return nil
}

func (p *properties) Watcher(env watchers.Env) (watchers.Watcher, error) {
	if p.kind.make != nil {
		p.kind.make(env)
	}
	return runFunc(func(ctx context.Context, report watchers.Report) error {
		if p.kind.run != nil {
			return p.kind.run(ctx, env, report)
		}
		if ctx.Err() != nil {
			return nil
		}
		err := report(hello)
		if err != nil && !errors.Is(err, watchers.ErrVisitOver) && !errors.Is(err, watchers.ErrRefused) {
			return err
		}
		<-ctx.Done()
		return nil
	}), nil
}

type runFunc func(context.Context, watchers.Report) error

func (f runFunc) Run(ctx context.Context, report watchers.Report) error { return f(ctx, report) }

var hello = watchers.Observation{
	Outcome: watchers.Success,
	Set:     []datalayer.Item{{Name: "greeting", Value: []byte(`"hello"`)}},
}

func (k *kind) harness() watchertest.Harness {
	create := k.create
	if create == nil {
		create = func() watchers.Properties { return &properties{kind: k} }
	}
	return watchertest.Harness{
		Kind:       watchers.Kind{Name: "hello", New: create},
		Properties: `{"greeting": "hello", "every": "10s"}`,
	}
}

func TestGoodKind(t *testing.T) {
	watchertest.Run(t, new(kind).harness())
}

// broken kinds each break one promise; the text is in the failure that must come.
var broken = map[string]struct {
	kind func() *kind
	want string
}{
	"shared properties": {func() *kind {
		k := new(kind)
		shared := &properties{kind: k}
		k.create = func() watchers.Properties { return shared }
		return k
	}, "New returns the same Properties twice"},
	"panic in Check": {func() *kind {
		return &kind{check: func(p *properties) []watchers.Problem {
			if p.Greeting[0] == 'H' {
				return nil
			}
			return nil
		}}
	}, "panic"},
	"problem with no property": {func() *kind {
		return &kind{check: func(*properties) []watchers.Problem {
			return []watchers.Problem{{Property: "greting", Message: "is silly", Warning: true}}
		}}
	}, `Check speaks of a property "greting"`},
	"constructor that starts": {func() *kind {
		return &kind{make: func(env watchers.Env) { go func() { <-env.Stopping }() }}
	}, "making a watcher starts something"},
	"constructor that writes": {func() *kind {
		return &kind{make: func(env watchers.Env) { os.WriteFile(filepath.Join(env.RunDir, "x"), nil, 0o600) }}
	}, "leaves files behind"},
	"change of the machine's folder": {func() *kind {
		return &kind{run: func(ctx context.Context, env watchers.Env, report watchers.Report) error {
			os.WriteFile(filepath.Join(env.Dir, "x"), nil, 0o600)
			report(hello)
			<-ctx.Done()
			return nil
		}}
	}, "changes the machine's folder"},
	"goroutine left behind": {func() *kind {
		return &kind{run: func(ctx context.Context, _ watchers.Env, report watchers.Report) error {
			go func() { select {} }()
			report(hello)
			<-ctx.Done()
			return nil
		}}
	}, "leaves something running"},
	"deaf to the end of the visit": {func() *kind {
		return &kind{run: func(ctx context.Context, env watchers.Env, report watchers.Report) error {
			report(hello)
			<-env.Stopping
			return nil
		}}
	}, "Run has not returned"},
	"error at the end of the visit": {func() *kind {
		return &kind{run: func(ctx context.Context, _ watchers.Env, report watchers.Report) error {
			report(hello)
			<-ctx.Done()
			return ctx.Err()
		}}
	}, "Run returned an error: context canceled"},
	"report in a visit that is over": {func() *kind {
		return &kind{run: func(ctx context.Context, _ watchers.Env, report watchers.Report) error {
			report(hello)
			<-ctx.Done()
			return nil
		}}
	}, "in a visit that is over"},
	"two reports at a time": {func() *kind {
		return &kind{run: func(ctx context.Context, _ watchers.Env, report watchers.Report) error {
			if ctx.Err() != nil {
				return nil
			}
			done := make(chan error)
			for range 100 {
				go func() { done <- report(hello) }()
			}
			for range 100 {
				<-done
			}
			<-ctx.Done()
			return nil
		}}
	}, "report is called while a report is under way"},
	"forgets what came too late": {func() *kind {
		reports := 0
		return &kind{make: func(watchers.Env) { reports = 0 }, run: func(ctx context.Context, _ watchers.Env, report watchers.Report) error {
			if ctx.Err() != nil {
				return nil
			}
			o := hello
			if reports++; reports > 1 {
				o.Set = nil
			}
			report(o)
			<-ctx.Done()
			return nil
		}}
	}, "after {Outcome:success"},
}

func TestBrokenKinds(t *testing.T) {
	if name := os.Getenv("WATCHERTEST_BROKEN"); name != "" {
		watchertest.SetPatience(time.Second)
		watchertest.Run(t, broken[name].kind().harness())
		return
	}
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := exec.Command(os.Args[0], "-test.run=^TestBrokenKinds$", "-test.failfast")
			child.Env = append(os.Environ(), "WATCHERTEST_BROKEN="+name)
			out, err := child.CombinedOutput()
			if err == nil || !strings.Contains(string(out), b.want) {
				t.Errorf("got %v, want a failure that says %q:\n%s", err, b.want, out)
			}
		})
	}
}
