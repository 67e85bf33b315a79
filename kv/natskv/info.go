package natskv

import (
	"context"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Info is all that the server says of a bucket.
type Info struct {
	kv.Status
	Config    Config
	Store     string    // what keeps it: JetStream
	Created   time.Time // when this life of it began
	LastPut   time.Time // when its last entry was put; zero if there is none
	Keys      uint64    // with an entry, which may be a marker
	Consumers int       // who watch it at the moment, roughly
	Cluster   *Cluster  // nil on a single server
	Mirror    *Upstream // nil if it is none
	Sources   []Upstream
}

// Cluster is where a bucket is kept.
type Cluster struct {
	Name      string
	Leader    string // the server that takes what is put; empty if there is none now
	Followers []Follower
}

// Follower is a server that keeps a copy of a bucket and does not lead it.
type Follower struct {
	Server  string
	Current bool          // has all that the leader has
	Offline bool          // is down, or cannot be reached
	Seen    time.Duration // since the leader heard of it
	Lag     uint64        // operations that it is behind
}

// Upstream is how far a bucket has come in getting what its origin holds.
type Upstream struct {
	Origin
	Lag    uint64        // entries that are yet to come, as far as the server knows
	Seen   time.Duration // since it heard of the origin; negative if it never did
	Reason string        // why it gets nothing; empty if all is well
}

// BucketInfo describes a bucket as it is now, or returns kv.ErrBucketNotFound.
func (c *Client) BucketInfo(ctx context.Context, name string) (Info, error) {
	if err := kv.CheckBucket(name); err != nil {
		return Info{}, err
	}
	var info Info
	err := c.manage(ctx, "get info of bucket "+name, func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, streamPrefix+name)
		if err != nil {
			return err
		}
		if restoring(stream.CachedInfo().Config) {
			return errRestoring
		}
		info = infoOf(stream.CachedInfo())
		return nil
	}, "$JS.API.STREAM.INFO."+streamPrefix+name)
	return info, err
}

func infoOf(si *jetstream.StreamInfo) Info {
	info := Info{
		Status:    statusOf(si),
		Config:    configOf(si.Config),
		Store:     "JetStream",
		Created:   si.Created,
		Keys:      si.State.NumSubjects,
		Consumers: si.State.Consumers,
	}
	if si.State.Msgs > 0 {
		info.LastPut = si.State.LastTime
	}
	if ci := si.Cluster; ci != nil && ci.Name != "" {
		cluster := &Cluster{Name: ci.Name, Leader: ci.Leader}
		for _, p := range ci.Replicas {
			cluster.Followers = append(cluster.Followers, Follower{p.Name, p.Current, p.Offline, p.Active, p.Lag})
		}
		info.Cluster = cluster
	}
	if info.Config.Mirror != nil {
		u := upstreamOf(*info.Config.Mirror, si.Mirror)
		info.Mirror = &u
	}
	for i, origin := range info.Config.Sources {
		// They come in no order.
		var state *jetstream.StreamSourceInfo
		for _, s := range si.Sources {
			if s.Name == si.Config.Sources[i].Name && reflect.DeepEqual(s.External, si.Config.Sources[i].External) {
				state = s
			}
		}
		info.Sources = append(info.Sources, upstreamOf(origin, state))
	}
	return info
}

func upstreamOf(origin Origin, state *jetstream.StreamSourceInfo) Upstream {
	u := Upstream{Origin: origin, Seen: -1}
	if state != nil {
		u.Lag, u.Seen = state.Lag, state.Active
		if state.Error != nil {
			u.Reason = state.Error.Description
		}
	}
	return u
}
