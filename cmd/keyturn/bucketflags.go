package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv/natskv"
	"github.com/keyturn-io/keyturn/watchers"
)

// bucketFlags are the settings of a bucket that a command line names.
type bucketFlags struct {
	description              string
	history, replicas        int
	maxValueSize, maxBytes   size
	ttl, markerTTL           duration
	compress, txn, keyTTL    bool
	metadata                 map[string]string
	cluster                  string
	tags                     []string
	republishFrom, republish string
	republishHeaders         bool
	sources                  []string
}

func (b *bucketFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.description, "description", "", "what the bucket is for")
	f.IntVar(&b.history, "history", defaultHistory, "how many entries to keep of each key, at most 64")
	f.IntVar(&b.replicas, "replicas", 1, "on how many servers of a cluster to keep it, at most 5")
	f.Var(&b.maxValueSize, "max-value-size", "the most `BYTES` of a value, such as 10KB; 0 is no limit")
	f.Var(&b.maxBytes, "max-bucket-size", "the most `BYTES` of the whole bucket, such as 1GB; 0 is no limit")
	f.Var(&b.ttl, "ttl", "forget entries after this `DURATION`, such as 12h or 7d; 0s is never")
	f.Var(&b.markerTTL, "marker-ttl", "leave a marker for this `DURATION` in place of what was forgotten; 0s is none (implies --key-ttl)")
	f.BoolVar(&b.compress, "compress", false, "compress it on disk")
	f.BoolVar(&b.txn, "txn", true, "let keyturn kv txn write several keys at once")
	f.BoolVar(&b.keyTTL, "key-ttl", false, "let a single key have a TTL, for good: no server takes that back")
	f.StringToStringVar(&b.metadata, "metadata", nil, "note `KEY=VALUE` with the bucket; KEY= removes the note")
	f.Lookup("metadata").DefValue = "" // help would show it as []
	f.StringVar(&b.cluster, "cluster", "", "keep it in the cluster of this `NAME`")
	f.StringSliceVar(&b.tags, "tags", nil, "keep it on servers that have all of these `TAGS`")
	f.StringVar(&b.republish, "republish-destination", "", "have the server send changes to this `SUBJECT` too; '' for no longer")
	f.StringVar(&b.republishFrom, "republish-source", "", "send changes of these keys only, a `SUBJECT` filter")
	f.BoolVar(&b.republishHeaders, "republish-headers", false, "send no values")
	f.StringSliceVar(&b.sources, "source", nil, "put the keys of other buckets into it too, each `BUCKET[@DOMAIN][:FILTER]`; '' for none")
}

// apply changes in a config what the command line names, or says what is wrong there. A
// bucket in the store on this host is nowhere else.
func (b *bucketFlags) apply(cmd *cobra.Command, here bool, cfg *natskv.Config) error {
	given := cmd.Flags().Changed
	switch {
	case b.history < 1 || b.history > 64:
		return errors.New("--history must be from 1 to 64")
	case b.replicas < 1 || b.replicas > 5:
		return errors.New("--replicas must be from 1 to 5")
	case b.maxValueSize > math.MaxInt32:
		return errors.New("--max-value-size must be less than 2GB")
	case here && (b.cluster != "" || slices.ContainsFunc(b.tags, func(tag string) bool { return tag != "" })):
		return errors.New("--cluster and --tags are of use with --server only, of a cluster")
	}
	if given("description") {
		cfg.Description = b.description
	}
	if given("history") {
		cfg.History = b.history
	}
	if given("replicas") {
		cfg.Replicas = b.replicas
	}
	if given("max-value-size") {
		cfg.MaxValueSize = int(b.maxValueSize)
	}
	if given("max-bucket-size") {
		cfg.MaxBytes = int64(b.maxBytes)
	}
	if given("ttl") {
		cfg.TTL = time.Duration(b.ttl)
	}
	if given("marker-ttl") {
		cfg.MarkerTTL = time.Duration(b.markerTTL)
	}
	if given("compress") {
		cfg.Compression = b.compress
	}
	if given("txn") {
		cfg.NoTxn = !b.txn
	}
	if given("key-ttl") {
		cfg.KeyTTL = b.keyTTL
	}
	for key, value := range b.metadata {
		if cfg.Metadata == nil {
			cfg.Metadata = map[string]string{}
		}
		if cfg.Metadata[key] = value; value == "" {
			delete(cfg.Metadata, key)
		}
	}
	return b.applyPlaces(given, cfg)
}

// applyPlaces is the part of apply that is about other places than the bucket.
func (b *bucketFlags) applyPlaces(given func(string) bool, cfg *natskv.Config) error {
	if given("cluster") || given("tags") {
		place := natskv.Placement{}
		if cfg.Placement != nil {
			place = *cfg.Placement
		}
		if given("cluster") {
			place.Cluster = b.cluster
		}
		if given("tags") {
			place.Tags = slices.DeleteFunc(b.tags, func(tag string) bool { return tag == "" })
		}
		if cfg.Placement = &place; place.Cluster == "" && len(place.Tags) == 0 {
			cfg.Placement = nil
		}
	}

	if given("republish-source") || given("republish-destination") || given("republish-headers") {
		again := natskv.RePublish{}
		if cfg.RePublish != nil {
			again = *cfg.RePublish
		}
		if given("republish-source") {
			again.Source = b.republishFrom
		}
		if given("republish-destination") {
			again.Destination = b.republish
		}
		if given("republish-headers") {
			again.HeadersOnly = b.republishHeaders
		}
		switch {
		case again.Destination != "":
			cfg.RePublish = &again
		case given("republish-destination"):
			cfg.RePublish = nil
		default:
			return errors.New("--republish-source and --republish-headers need a --republish-destination")
		}
	}

	if given("source") {
		cfg.Sources = nil
		for _, text := range b.sources {
			if text != "" {
				cfg.Sources = append(cfg.Sources, origin(text))
			}
		}
	}
	return nil
}

// origin reads BUCKET[@DOMAIN][:FILTER]. Whether the parts are valid is for natskv to say.
func origin(text string) (o natskv.Origin) {
	text, filter, filtered := strings.Cut(text, ":")
	if filtered {
		o.Filters = []string{filter}
	}
	o.Bucket, o.Domain, _ = strings.Cut(text, "@")
	return o
}

// duration is a flag with the durations of a manifest.
type duration watchers.Duration

func (d *duration) Set(text string) error {
	parsed, err := watchers.ParseDuration(text)
	*d = duration(parsed)
	return err
}

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Type() string { return "duration" }

// size is a flag with a number of bytes, such as 10KB. As the nats command has it, each
// unit is 1024 of the one below.
type size int64

var sizeUnits = []string{"K", "M", "G", "T"}

func (s *size) Set(text string) error {
	wrong := fmt.Errorf("%q is no size: write it like 10240, 10KB or 1.5GB", text)
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(text)), "B"), "I")
	factor := 1.0
	for i, unit := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, unit); ok {
			number, factor = rest, math.Pow(1024, float64(i+1))
		}
	}
	if strings.Trim(number, "0123456789.") != "" {
		return wrong
	}
	parsed, err := strconv.ParseFloat(number, 64)
	if err != nil || parsed*factor > 1<<62 {
		return wrong
	}
	*s = size(parsed * factor)
	return nil
}

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

func (s *size) Type() string { return "bytes" }
