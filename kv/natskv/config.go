package natskv

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// Config is how a bucket is set. To create one, only Bucket is required.
type Config struct {
	Bucket      string
	Description string
	History     int           // entries kept for each key, at most 64; 0 is 1
	TTL         time.Duration // entries older than this expire; 0 is never
	MarkerTTL   time.Duration // what expires leaves a marker for this long, 1 second or more; 0 is no marker

	// MaxValueSize is the most bytes of a value; 0 is no limit. The server counts
	// the headers of a message too, which Create, Update, Delete and Purge use:
	// about 50 bytes of the limit are theirs.
	MaxValueSize int

	MaxBytes    int64             // of the whole bucket in the store; 0 is no limit
	Replicas    int               // servers that keep a copy, at most 5; 0 is 1
	Memory      bool              // keep it in memory instead of on disk; for ever
	Compression bool              // on disk
	Metadata    map[string]string // anything; the server's own is not shown
	Placement   *Placement        // nil is anywhere
	RePublish   *RePublish        // nil is not

	// Mirror makes the bucket a replica that is read only: it holds what its
	// origin holds, in time. It cannot be changed.
	Mirror *Origin

	// Sources are the buckets whose keys are put into this one, too.
	Sources []Origin

	// KeyTTL lets a single key have a TTL. It can be had later, by EditBucket, and
	// not be given up again, by the server's rule; and then other clients cannot edit
	// the bucket that do not know of it. What leaves markers and what has an origin
	// has it in any case: else what expires at the origin would stay here for ever.
	KeyTTL bool

	// NoTxn refuses Client.Txn. So are buckets made that other clients make.
	NoTxn bool
}

// Placement says on which servers a bucket may be.
type Placement struct {
	Cluster string
	Tags    []string // which a server must have, all of them
}

// RePublish has the server send what was put to other subjects too, for those who
// want a hint that something has changed.
type RePublish struct {
	Source      string // a subject filter; empty is every key
	Destination string // a subject, in which > stands for what it stands for in Source
	HeadersOnly bool
}

// Origin is a bucket that another one gets its entries from.
type Origin struct {
	Bucket  string
	Filters []string // only these keys; none is all

	// Domain is the JetStream domain that has it, and APIPrefix with DeliverPrefix
	// are subjects under which another account offers it. All are empty for a bucket
	// that stands beside this one.
	Domain                   string
	APIPrefix, DeliverPrefix string
}

// Limits that the server has, checked here for an error that says what was wrong.
const (
	maxReplicas  = 5
	minMarkerTTL = time.Second
	maxDuplicate = 2 * time.Minute // the window of a stream without a shorter TTL
)

// hidden is the metadata that the server writes itself.
const hidden = "_nats."

func (c Config) check() error {
	if err := kv.CheckBucket(c.Bucket); err != nil {
		return err
	}
	complain := func(format string, args ...any) error {
		return fmt.Errorf("%w of bucket %s: "+format, append([]any{kv.ErrInvalidConfig, c.Bucket}, args...)...)
	}
	switch {
	case c.History < 0 || c.History > jetstream.KeyValueMaxHistory:
		return complain("a history of %d, 0 to %d is allowed", c.History, jetstream.KeyValueMaxHistory)
	case c.MaxValueSize < 0 || c.MaxValueSize > math.MaxInt32:
		return complain("a value size of %d, 0 to %d is allowed", c.MaxValueSize, math.MaxInt32)
	case c.MaxBytes < 0:
		return complain("a size of %d, it cannot be negative", c.MaxBytes)
	case c.Replicas < 0 || c.Replicas > maxReplicas:
		return complain("%d replicas, 1 to %d are allowed", c.Replicas, maxReplicas)
	case c.TTL < 0 || c.MarkerTTL < 0:
		return complain("a negative TTL")
	case c.MarkerTTL > 0 && c.MarkerTTL < minMarkerTTL:
		return complain("markers for %s, the least is %s", c.MarkerTTL, minMarkerTTL)
	case c.RePublish != nil && c.RePublish.Destination == "":
		return complain("no subject to publish to again")
	case c.Mirror != nil && len(c.Sources) > 0:
		return complain("a mirror has no sources")
	case c.Mirror != nil && c.MarkerTTL > 0:
		return complain("a mirror has the markers of its origin and makes none itself")
	case c.Mirror != nil && len(c.Mirror.Filters) > 0 && !c.Mirror.far():
		return complain("a mirror of some keys only, beside its origin %s: the server has it answer "+
			"the origin's gets too, so that every other get of the other keys would say that there is none; "+
			"mirror all keys, or put some into a bucket of their own with a source", c.Mirror.Bucket)
	}
	origins := c.Sources
	if c.Mirror != nil {
		origins = []Origin{*c.Mirror}
	}
	for _, o := range origins {
		if err := o.check(); err != nil {
			return complain("origin: %w", err)
		}
		if o.Bucket == c.Bucket && !o.far() {
			return complain("it cannot be its own origin")
		}
	}
	return nil
}

func (o Origin) check() error {
	if o.Domain != "" && o.APIPrefix != "" {
		return fmt.Errorf("domain %s and prefix %s, one is enough", o.Domain, o.APIPrefix)
	}
	if err := kv.CheckBucket(o.Bucket); err != nil {
		return err
	}
	return kv.CheckFilters(o.Filters)
}

// far says whether the origin is in another domain or account.
func (o Origin) far() bool { return o.Domain != "" || o.APIPrefix != "" }

// streamConfig is the stream that a checked config describes.
func (c Config) streamConfig() jetstream.StreamConfig {
	unlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	sc := jetstream.StreamConfig{
		Name:                   streamPrefix + c.Bucket,
		Description:            c.Description,
		MaxConsumers:           -1,
		MaxMsgs:                -1,
		MaxBytes:               unlimited(c.MaxBytes),
		MaxMsgsPerSubject:      int64(max(c.History, 1)),
		MaxAge:                 c.TTL,
		MaxMsgSize:             int32(unlimited(int64(c.MaxValueSize))),
		Replicas:               max(c.Replicas, 1),
		Discard:                jetstream.DiscardNew,
		DenyDelete:             true,
		AllowRollup:            true,
		AllowDirect:            true,
		Metadata:               c.Metadata,
		SubjectDeleteMarkerTTL: c.MarkerTTL,
		AllowMsgTTL:            c.KeyTTL || c.MarkerTTL > 0 || c.Mirror != nil || len(c.Sources) > 0,
	}
	if c.Memory {
		sc.Storage = jetstream.MemoryStorage
	}
	if c.Compression {
		sc.Compression = jetstream.S2Compression
	}
	if p := c.Placement; p != nil {
		sc.Placement = &jetstream.Placement{Cluster: p.Cluster, Tags: p.Tags}
	}
	if r := c.RePublish; r != nil {
		sc.RePublish = &jetstream.RePublish{Source: r.Source, Destination: r.Destination, HeadersOnly: r.HeadersOnly}
	}
	if c.Mirror != nil {
		sc.Mirror = c.Mirror.source("")
		sc.MirrorDirect = true
		return sc
	}
	sc.Subjects = []string{subjectPrefix + c.Bucket + "." + all}
	sc.AllowAtomicPublish = !c.NoTxn
	sc.Duplicates = maxDuplicate
	if c.TTL > 0 {
		sc.Duplicates = min(maxDuplicate, c.TTL)
	}
	for _, o := range c.Sources {
		sc.Sources = append(sc.Sources, o.source(c.Bucket))
	}
	return sc
}

// source is how a stream names an origin. Keys are put into the bucket, or if that
// is empty, stay where they are.
func (o Origin) source(bucket string) *jetstream.StreamSource {
	s := &jetstream.StreamSource{Name: streamPrefix + o.Bucket}
	switch {
	case o.Domain != "":
		s.External = &jetstream.ExternalStream{APIPrefix: "$JS." + o.Domain + ".API", DeliverPrefix: o.DeliverPrefix}
	case o.APIPrefix != "":
		s.External = &jetstream.ExternalStream{APIPrefix: o.APIPrefix, DeliverPrefix: o.DeliverPrefix}
	}
	filters := o.Filters
	if bucket != "" {
		filters = orAll(filters)
	}
	for _, filter := range filters {
		t := jetstream.SubjectTransformConfig{Source: subjectPrefix + o.Bucket + "." + filter}
		if bucket != "" {
			t.Destination = subjectPrefix + bucket + "." + destination(filter)
		}
		s.SubjectTransforms = append(s.SubjectTransforms, t)
	}
	return s
}

// destination is what a transform makes of what a filter matches: the same.
func destination(filter string) string {
	tokens, n := strings.Split(filter, "."), 0
	for i, token := range tokens {
		if token == "*" {
			n++
			tokens[i] = "{{wildcard(" + strconv.Itoa(n) + ")}}"
		}
	}
	return strings.Join(tokens, ".")
}

// configOf is the config that a bucket's stream has.
func configOf(sc jetstream.StreamConfig) Config {
	c := Config{
		Bucket:       strings.TrimPrefix(sc.Name, streamPrefix),
		Description:  sc.Description,
		History:      int(max(sc.MaxMsgsPerSubject, 0)),
		TTL:          sc.MaxAge,
		MarkerTTL:    sc.SubjectDeleteMarkerTTL,
		MaxValueSize: int(max(sc.MaxMsgSize, 0)),
		MaxBytes:     max(sc.MaxBytes, 0),
		Replicas:     sc.Replicas,
		Memory:       sc.Storage == jetstream.MemoryStorage,
		Compression:  sc.Compression != jetstream.NoCompression,
		KeyTTL:       sc.AllowMsgTTL,
		NoTxn:        !sc.AllowAtomicPublish,
	}
	for key, value := range sc.Metadata {
		if !strings.HasPrefix(key, hidden) {
			if c.Metadata == nil {
				c.Metadata = map[string]string{}
			}
			c.Metadata[key] = value
		}
	}
	if p := sc.Placement; p != nil {
		c.Placement = &Placement{Cluster: p.Cluster, Tags: p.Tags}
	}
	if r := sc.RePublish; r != nil {
		c.RePublish = &RePublish{Source: r.Source, Destination: r.Destination, HeadersOnly: r.HeadersOnly}
	}
	if sc.Mirror != nil {
		o := originOf(sc.Mirror)
		c.Mirror = &o
	}
	for _, s := range sc.Sources {
		c.Sources = append(c.Sources, originOf(s))
	}
	return c
}

func originOf(s *jetstream.StreamSource) Origin {
	o := Origin{Bucket: strings.TrimPrefix(s.Name, streamPrefix)}
	if s.External != nil {
		o.DeliverPrefix = s.External.DeliverPrefix
		domain, isDomain := strings.CutPrefix(s.External.APIPrefix, "$JS.")
		domain, hasAPI := strings.CutSuffix(domain, ".API")
		if isDomain && hasAPI && !strings.Contains(domain, ".") {
			o.Domain = domain
		} else {
			o.APIPrefix = s.External.APIPrefix
		}
	}
	subjects := []string{s.FilterSubject}
	for _, t := range s.SubjectTransforms {
		subjects = append(subjects, t.Source)
	}
	for _, subject := range subjects {
		if filter := strings.TrimPrefix(subject, subjectPrefix+o.Bucket+"."); filter != "" && filter != all {
			o.Filters = append(o.Filters, filter)
		}
	}
	return o
}

// clone returns a config that shares nothing with c.
func (c Config) clone() Config {
	c.Metadata = maps.Clone(c.Metadata)
	if c.Placement != nil {
		c.Placement = &Placement{c.Placement.Cluster, slices.Clone(c.Placement.Tags)}
	}
	if c.RePublish != nil {
		r := *c.RePublish
		c.RePublish = &r
	}
	if c.Mirror != nil {
		o := c.Mirror.clone()
		c.Mirror = &o
	}
	c.Sources = slices.Clone(c.Sources)
	for i, o := range c.Sources {
		c.Sources[i] = o.clone()
	}
	return c
}

func (o Origin) clone() Origin {
	o.Filters = slices.Clone(o.Filters)
	return o
}
