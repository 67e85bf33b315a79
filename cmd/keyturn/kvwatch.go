package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
)

func (a *app) kvWatchCommand() *cobra.Command {
	w := &kvWatch{app: a}
	cmd := &cobra.Command{
		Use:   "watch BUCKET [KEY]",
		Short: "Print changes as they come",
		Long: `Print what a bucket holds, with its history, or what a key is, and then each change
as it comes, until Ctrl-C. KEY may be a filter, such as 'app.>'.

It does not fall silent. Where the bucket or its server goes away it prints LOST and the
reason, and FOUND when it is back; RESET says that the bucket is not the one it was, and
MISSING that a key vanished although nobody deleted it. What differs then follows.

With --once it prints the value that the key has, or else the first one that it gets,
as it is and nothing else, and ends. With --timeout it ends after that time; that is a
failure with --once, or when there is no bucket or no server then.`,
		Example: `  keyturn kv watch CFG
  keyturn kv watch CFG 'app.>' --updates
  USERNAME=$(keyturn kv watch CFG username --once --timeout 10s)`,
		Args:              between(1, 2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			past := w.history || w.since > 0
			switch {
			case w.once && len(args) == 1:
				return w.wrong("--once needs a key")
			case w.once && (past || w.updates):
				return w.wrong("--once excludes --history, --revision and --updates")
			case past && w.updates:
				return w.wrong("--updates excludes --history and --revision")
			}
			w.past = past || len(args) == 1 && !w.updates
			w.name = args[0]
			return w.run(cmd.Context(), args[1:])
		},
	}
	f := cmd.Flags()
	f.BoolVar(&w.once, "once", false, "print one value of the key and end")
	f.BoolVar(&w.history, "history", false, "begin with all that is kept of the key, not with what it is now")
	f.Uint64Var(&w.since, "revision", 0, "begin with what is kept from this `REVISION` on")
	f.BoolVar(&w.updates, "updates", false, "print only what changes from now on")
	f.BoolVar(&w.noDeletes, "no-deletes", false, "print values only")
	f.BoolVar(&w.exitOnDelete, "exit-on-delete", false, "fail when there is no such bucket, or when it is removed")
	return cmd
}

// kvWatch is keyturn kv watch.
type kvWatch struct {
	*app
	once, history, updates, noDeletes, exitOnDelete bool
	since                                           uint64

	name  string   // of the bucket
	past  bool     // begin with the history
	epoch kv.Epoch // the life of the bucket that is watched
	lost  error    // why there is nothing to see at the moment
}

// errSeen ends a watch that has printed what it was to print.
var errSeen = errors.New("seen")

func (w *kvWatch) run(ctx context.Context, filters []string) error {
	ctx, stop := w.interruptible(ctx)
	defer stop()
	timed := ctx
	if w.given("timeout") {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	err := w.withBucket(timed, w.name, func(s *store, bucket kv.Bucket) error {
		return w.watch(timed, s, bucket, filters)
	})
	lost := w.explain(w.lost, w.name)
	if errors.Is(w.lost, kv.ErrBucketNotFound) {
		lost = w.createIt(w.name)
	}
	switch {
	case errors.Is(err, errSeen):
		return nil
	case ctx.Err() != nil && !w.once:
		return nil // Ctrl-C
	case ctx.Err() != nil:
		return errors.New("interrupted before there was a value")
	case timed.Err() != nil && lost != nil && w.once:
		return fmt.Errorf("no value within %s: %w", w.timeout, lost)
	case timed.Err() != nil && lost != nil:
		return fmt.Errorf("nothing to watch after %s: %w", w.timeout, lost)
	case timed.Err() != nil && w.once:
		return fmt.Errorf("no value of %s within %s", filters[0], w.timeout)
	case timed.Err() != nil && w.epoch == "":
		return fmt.Errorf("nothing seen of bucket %s within %s: give it more --timeout", w.name, w.timeout)
	case timed.Err() != nil:
		return nil
	}
	return err
}

// watch prints what the watch of a bucket tells.
func (w *kvWatch) watch(ctx context.Context, s *store, bucket kv.Bucket, filters []string) error {
	var first []kv.Entry // what there is at the start, if more is to be told of it
	synced := false
	fresh := false // there was no bucket at the start, so all that it holds is new
	for event, err := range bucket.Watch(ctx, kv.WatchOptions{Filters: filters}) {
		if err == nil {
			err = w.follow(event)
		}
		fresh = fresh || errors.Is(event.Err, kv.ErrBucketNotFound)
		switch {
		case err != nil:
			return err
		case event.Kind == kv.Synced && !synced:
			synced = true
			if err = w.replay(ctx, s, filters, first); err == nil {
				err = w.tell(event)
			}
		case !synced && w.past && event.Entry.Key != "":
			first = append(first, event.Entry)
		case !synced && w.updates && !fresh && event.Entry.Key != "":
		default:
			err = w.tell(event)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// follow keeps in mind which bucket is watched, and ends the watch when there is nothing
// to wait for: when the bucket is gone, if that is wanted.
func (w *kvWatch) follow(event kv.Event) error {
	w.lost = event.Err
	replaced := event.Kind == kv.Reset && w.epoch != "" && event.Epoch != w.epoch
	if event.Epoch != "" {
		w.epoch = event.Epoch
	}
	switch {
	case w.once && errors.Is(event.Err, kv.ErrPermission):
		return event.Err // waiting does not help
	case !w.exitOnDelete:
		return nil
	case replaced:
		return errors.New("the bucket was removed, and created again")
	case errors.Is(event.Err, kv.ErrBucketNotFound) && w.epoch != "":
		return errors.New("the bucket was removed")
	case errors.Is(event.Err, kv.ErrBucketNotFound):
		return w.createIt(w.name)
	}
	return nil
}

// replay prints what is kept of the keys of these entries up to them, in the order of
// revisions. What came later the watch tells.
func (w *kvWatch) replay(ctx context.Context, s *store, filters []string, newest []kv.Entry) error {
	if len(newest) == 0 {
		return nil
	}
	all, err := s.Histories(ctx, w.name, filters...)
	if err != nil {
		return err
	}
	last := map[string]kv.Revision{}
	for _, e := range newest {
		last[e.Key] = e.Revision
	}
	for _, e := range all {
		if e.Revision > last[e.Key] || uint64(e.Revision) < w.since {
			continue
		}
		if err := w.tell(kv.Event{Kind: kinds[e.Operation], Entry: e, Epoch: w.epoch}); err != nil {
			return err
		}
	}
	return nil
}

var kinds = map[kv.Operation]kv.EventKind{kv.OpPut: kv.Put, kv.OpDelete: kv.Delete, kv.OpPurge: kv.Purge}

// jsonEvent is an event as --json prints it.
type jsonEvent struct {
	Event      string `json:"event"`
	*jsonEntry        // of put, delete, purge and missing
	Epoch      string `json:"epoch,omitempty"`
	Error      string `json:"error,omitempty"` // of lost
}

// tell prints an event.
func (w *kvWatch) tell(event kv.Event) error {
	e := event.Entry
	switch {
	case w.once && event.Kind == kv.Put:
		if err := w.printOne(e); err != nil {
			return err
		}
		return errSeen
	case w.once, w.noDeletes && e.Key != "" && event.Kind != kv.Put:
		return nil
	case w.json:
		j := jsonEvent{Event: event.Kind.String(), Epoch: string(event.Epoch)}
		if e.Key != "" {
			entry := newJSONEntry(e)
			j.jsonEntry = &entry
		}
		if event.Err != nil {
			j.Error = plain(event.Err)
		}
		return w.print("%s", jsonLine(j))
	}

	now := time.Now()
	line := func(at time.Time, what, of string) error {
		return w.print("[%s] %s %s\n", at.Local().Format(time.DateTime), what, of)
	}
	switch event.Kind {
	case kv.Put:
		return line(e.Created, string(kv.OpPut), e.Bucket+"."+e.Key+": "+oneLine(e.Value))
	case kv.Delete:
		return line(e.Created, string(kv.OpDelete), e.Bucket+"."+e.Key)
	case kv.Purge:
		return line(e.Created, string(kv.OpPurge), e.Bucket+"."+e.Key)
	case kv.Missing:
		return line(now, "MISSING", e.Bucket+"."+e.Key)
	case kv.Synced:
		return nil
	case kv.Lost:
		return line(now, "LOST", plain(event.Err))
	default:
		return line(now, strings.ToUpper(event.Kind.String()), w.name)
	}
}

// printOne prints the one value that was asked for.
func (w *kvWatch) printOne(e kv.Entry) error {
	if w.json {
		return w.print("%s", jsonLine(newJSONEntry(e)))
	}
	return w.print("%s", e.Value)
}
