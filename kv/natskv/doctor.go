package natskv

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Level says how bad a Finding is.
type Level string

// The levels.
const (
	Problem Level = "problem" // something is wrong now
	Warning Level = "warning" // something may go wrong
	Note    Level = "note"    // something to know
)

// Finding is one thing that Doctor has to say of a bucket.
type Finding struct {
	Level Level
	What  string
	Do    string // what to do about it; empty if there is nothing
}

// The numbers from which on Doctor says something.
const (
	nearlyFull    = 0.9
	manyConsumers = 900 // of 1000, which a server allows by default
	longSilence   = 30 * time.Second
)

// Doctor looks for what is or may go wrong with a bucket, as far as the server lets it
// see: the worst comes first. It returns kv.ErrBucketNotFound.
func (c *Client) Doctor(ctx context.Context, name string) ([]Finding, error) {
	if err := kv.CheckBucket(name); err != nil {
		return nil, err
	}
	var streams []*jetstream.StreamInfo
	var account *jetstream.AccountInfo
	err := c.manage(ctx, "examine bucket "+name, func(ctx context.Context) (err error) {
		list := c.js.ListStreams(ctx)
		for info := range list.Info() {
			streams = append(streams, info)
		}
		if err := list.Err(); err != nil {
			return err
		}
		account, err = c.js.AccountInfo(ctx)
		return err
	}, "$JS.API.STREAM.LIST", "$JS.API.INFO")
	if err != nil {
		return nil, err
	}
	d := &doctor{streams: streams}
	if d.stream = d.find(streamPrefix + name); d.stream == nil {
		return nil, fmt.Errorf("examine bucket %s: %w", name, kv.ErrBucketNotFound)
	}
	if restoring(d.stream.Config) {
		return nil, fmt.Errorf("examine bucket %s: %w", name, errRestoring)
	}
	d.safety()
	d.copies()
	d.space(account)
	d.settings()
	if d.stream.Config.Mirror != nil {
		d.mirror(d.stream)
	}
	for _, s := range streams {
		if m := s.Config.Mirror; m != nil && m.External == nil && m.Name == d.stream.Config.Name {
			d.mirror(s)
		}
	}
	order := []Level{Problem, Warning, Note}
	slices.SortStableFunc(d.findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Level), slices.Index(order, b.Level))
	})
	return d.findings, nil
}

// doctor examines one bucket.
type doctor struct {
	stream   *jetstream.StreamInfo
	streams  []*jetstream.StreamInfo // all
	findings []Finding
}

func (d *doctor) say(level Level, do, what string, args ...any) {
	d.findings = append(d.findings, Finding{level, fmt.Sprintf(what, args...), do})
}

func (d *doctor) find(stream string) *jetstream.StreamInfo {
	for _, s := range d.streams {
		if s.Config.Name == stream {
			return s
		}
	}
	return nil
}

// safety is about what is lost when the power is.
func (d *doctor) safety() {
	sc := d.stream.Config
	switch {
	case d.stream.State.Lost != nil:
		d.say(Problem, "restore the bucket from a backup", "the server has lost %d entries from its disk", len(d.stream.State.Lost.Msgs))
	case sc.Storage == jetstream.MemoryStorage && sc.Replicas < 2:
		d.say(Warning, "make another bucket on disk, and put all into it", "it is in the memory of one server, and gone when that stops")
	case sc.PersistMode == jetstream.AsyncPersistMode:
		d.say(Warning, "create the bucket anew without the persist mode async", "the server acknowledges what it has not written")
	case sc.Storage == jetstream.FileStorage:
		d.say(Note, "unless it is the embedded broker, which does so: set sync_interval: always in the jetstream block of each server's configuration",
			"whether the servers sync to disk before they acknowledge cannot be seen from here: by default they do every 2 minutes, and a power cut takes what was not synced")
	}
}

// copies is about the servers that have it.
func (d *doctor) copies() {
	cluster, replicas := d.stream.Cluster, d.stream.Config.Replicas
	if cluster == nil || cluster.Name == "" {
		return
	}
	if cluster.Leader == "" {
		d.say(Problem, "start the servers that are down", "it has no leader: nothing can be put")
	}
	for _, p := range cluster.Replicas {
		switch {
		case p.Offline:
			d.say(Problem, "start the server", "server %s, which has a copy, is down or cannot be reached", p.Name)
		case !p.Current:
			d.say(Warning, "wait, and look at the server if it stays so", "the copy of server %s is %d operations behind", p.Name, p.Lag)
		}
	}
	switch {
	case replicas == 1:
		d.say(Warning, "keep 3 replicas", "it has one copy in a cluster, and is away whenever server %s is", cluster.Leader)
	case replicas%2 == 0:
		d.say(Note, fmt.Sprintf("keep %d replicas", replicas+1), "%d copies bear the loss of no more servers than %d do", replicas, replicas-1)
	}
}

// space is about limits that are near.
func (d *doctor) space(account *jetstream.AccountInfo) {
	sc, state := d.stream.Config, d.stream.State
	full := func(used, limit uint64, what, do string) {
		switch {
		case limit == 0 || float64(used) < nearlyFull*float64(limit):
		case used >= limit:
			d.say(Problem, do, "%s is full: %d of %d bytes", what, used, limit)
		default:
			d.say(Warning, do, "%s is nearly full: %d of %d bytes", what, used, limit)
		}
	}
	if sc.MaxBytes > 0 {
		full(state.Bytes, uint64(sc.MaxBytes), "the bucket", "raise its limit, or compact it; a full bucket refuses to delete a key, too")
	} else {
		d.say(Note, "set a limit below the space that is free", "it has no limit, so whoever may put can fill the disk, and then nothing works")
	}
	const ask = "ask for more, or remove other buckets and streams"
	limits := map[string]jetstream.Tier{"": account.Tier}
	if len(account.Tiers) > 0 {
		limits = account.Tiers
	}
	for _, tier := range limits {
		used, limit := tier.Store, tier.Limits.MaxStore
		what := "the account's room on disk"
		if sc.Storage == jetstream.MemoryStorage {
			used, limit, what = tier.Memory, tier.Limits.MaxMemory, "the account's memory"
		}
		full(used, uint64(max(limit, 0)), what, ask)
	}
	if state.Consumers >= manyConsumers {
		d.say(Warning, "have watchers share a connection, or watch a mirror", "%d watch it, and a server allows 1000 by default", state.Consumers)
	}
}

// settings is about what surprises.
func (d *doctor) settings() {
	sc := d.stream.Config
	mirror := sc.Mirror != nil
	if sc.AllowRollup && !mirror {
		d.say(Note, "let only those put into it who may erase it, and keep what others put in a bucket of its own",
			"who may put one key may erase the whole bucket with a header (Nats-Rollup: all); who may cannot be seen from here")
	}
	if !sc.AllowRollup && !mirror {
		d.say(Warning, "allow rollup headers on the stream", "a key cannot be purged")
	}
	if sc.Discard == jetstream.DiscardOld && (sc.MaxBytes > 0 || sc.MaxMsgs > 0) {
		d.say(Warning, "set the stream to discard new messages", "when it is full, the oldest keys vanish to make room")
	}
	if sc.Duplicates > maxDuplicate {
		d.say(Note, "make the stream's duplicate window 2 minutes or less", "the server remembers what was put for %s to find duplicates, which costs memory", sc.Duplicates)
	}
	if sc.MaxAge > 0 && sc.SubjectDeleteMarkerTTL == 0 && !mirror {
		d.say(Note, "set a marker TTL", "what expires leaves no marker: watches of other clients do not tell it, and ours tell it as missing")
	}
	if !sc.AllowDirect {
		d.say(Note, "allow direct gets on the stream", "only one server answers gets, and those of other accounts cannot be answered fast")
	}
}

// mirror is about a mirror, which is the bucket or is one of it.
func (d *doctor) mirror(m *jetstream.StreamInfo) {
	source, name := m.Config.Mirror, strings.TrimPrefix(m.Config.Name, streamPrefix)
	origin := strings.TrimPrefix(source.Name, streamPrefix)
	anew := "delete mirror " + name + " and create it again"
	if s := m.Mirror; s != nil {
		switch {
		case s.Error != nil:
			d.say(Problem, "see that the origin can be reached under that name", "mirror %s gets nothing: %s", name, s.Error.Description)
		case s.Active < 0 && source.External == nil:
			d.say(Note, "ask again in a moment", "mirror %s has not heard of its origin %s since its server or it began", name, origin)
		case s.Active < 0 || s.Active > longSilence:
			d.say(Warning, "see that the origin's server is up", "mirror %s has not heard of its origin %s for a while", name, origin)
		case s.Lag > 0:
			d.say(Note, "", "mirror %s is %d entries behind its origin %s", name, s.Lag, origin)
		}
	}
	if source.External != nil {
		return // its origin cannot be seen from here
	}
	if source.FilterSubject != "" || len(source.SubjectTransforms) > 0 {
		d.say(Problem, "mirror all keys, or put some into a bucket of their own with a source",
			"mirror %s has some keys only, and answers a part of the gets of its origin %s: that there are no others", name, origin)
	}
	o := d.find(source.Name)
	if o == nil {
		d.say(Problem, "create or restore "+origin+", or delete the mirror", "the origin %s of mirror %s is not there", origin, name)
		return
	}
	if o.Created.After(m.Created) && m.State.Msgs > 0 && (m.State.LastSeq > o.State.LastSeq || m.State.FirstTime.Before(o.Created)) {
		d.say(Problem, anew, "mirror %s has entries of an earlier life of its origin %s, which was created again since: it does not notice, and gets nothing or a mixture", name, origin)
	}
	if m.Config.MaxAge != o.Config.MaxAge {
		d.say(Warning, "give mirror "+name+" the TTL of its origin", "mirror %s has a TTL of %s, and its origin %s one of %s (0s is never): they do not expire together", name, m.Config.MaxAge, origin, o.Config.MaxAge)
	}
}
