// Command choria runs the machine of a folder with go-choria's own machine, kv watcher and exec
// watcher, without the rest of a Choria Server around them.
//
// It prints "ready" when the kv watchers have asked for their keys for the first time.
// On SIGHUP it loads the machine anew and prints that again: a machine of go-choria is
// slowed down from its second step on, until it was quiet for a minute, and who wants
// to see how it watches needs a fresh one for each change.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/choria-io/go-choria/aagent/machine"
	"github.com/choria-io/go-choria/aagent/model"
	"github.com/choria-io/go-choria/aagent/watchers"
	"github.com/choria-io/go-choria/aagent/watchers/execwatcher"
	"github.com/choria-io/go-choria/aagent/watchers/kvwatcher"
	"github.com/choria-io/go-choria/aagent/watchers/plugin"
	"github.com/choria-io/go-choria/backoff"
	"github.com/choria-io/go-choria/inter"
	"github.com/nats-io/nats.go"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: choria URL DIR")
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(url, dir string) error {
	for _, p := range []*plugin.WatcherPlugin{kvwatcher.ChoriaPlugin(), execwatcher.ChoriaPlugin()} {
		constructor, ok := p.PluginInstance().(model.WatcherConstructor)
		if !ok {
			return fmt.Errorf("%s constructs no watcher", p.PluginName())
		}
		if err := watchers.RegisterWatcherPlugin(p.PluginName(), constructor); err != nil {
			return err
		}
	}

	// As Choria Server connects.
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(10*1024),
		nats.CustomReconnectDelay(backoff.TwentySec.Duration))
	if err != nil {
		return err
	}
	defer conn.Close()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	anew := make(chan os.Signal, 1)
	signal.Notify(anew, syscall.SIGHUP)
	for ctx.Err() == nil {
		if err := runMachine(ctx, anew, connector{conn: conn}, dir); err != nil {
			return err
		}
	}

	return nil
}

// runMachine runs the machine until ctx is done or there is a signal.
func runMachine(ctx context.Context, anew <-chan os.Signal, conn inter.Connector, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	manager := watchers.New(ctx)
	m, err := machine.FromDir(dir, manager)
	if err != nil {
		return err
	}
	m.SetIdentity("bench")
	if err := m.SetConnection(conn); err != nil {
		return err
	}
	m.RegisterNotifier(notifier{}) // without one the watchers do not hear of steps

	var wg sync.WaitGroup
	defer wg.Wait()
	defer m.Stop()
	<-m.Start(ctx, &wg)
	if !m.IsStarted() {
		return errors.New("the machine does not start")
	}
	if err := looked(ctx, m, manager); err != nil {
		return err
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
	case <-anew:
	}

	return nil
}

// looked waits until each kv watcher has asked for its key.
func looked(ctx context.Context, m *machine.Machine, manager *watchers.Manager) error {
	for _, w := range m.Watchers() {
		for w.Type == "kv" {
			state, _ := manager.WatcherState(w.Name)
			if s, ok := state.(*kvwatcher.StateNotification); !ok || s.State == "changed" || s.State == "unchanged" {
				break
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}

	return nil
}

// connector is the connection to the server; the rest of a Choria connector is not
// asked for.
type connector struct {
	inter.Connector
	conn *nats.Conn
}

func (c connector) Nats() *nats.Conn { return c.conn }

// notifier shows warnings and errors, and tells nobody else of anything.
type notifier struct{}

var _ machine.NotificationService = notifier{}

func (notifier) NotifyPostTransition(*machine.TransitionNotification) error { return nil }

func (notifier) NotifyWatcherState(string, machine.WatcherStateNotification) error { return nil }

func (notifier) Debugf(machine.InfoSource, string, string, ...any) {}

func (notifier) Infof(machine.InfoSource, string, string, ...any) {}

func (notifier) Warnf(_ machine.InfoSource, watcher, format string, args ...any) {
	log.Printf("WARN %s: "+format, append([]any{watcher}, args...)...)
}

func (notifier) Errorf(_ machine.InfoSource, watcher, format string, args ...any) {
	log.Printf("ERROR %s: "+format, append([]any{watcher}, args...)...)
}
