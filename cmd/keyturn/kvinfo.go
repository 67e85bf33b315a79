package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "info BUCKET",
		Aliases: []string{"status"},
		Short:   "Describe a bucket",
		Long: `Describe a bucket: the settings that every bucket has, then those that this one has
besides. With --json there is more: the servers that keep it, and who watches it.`,
		Example:           "  keyturn kv info CFG",
		Args:              between(1, 1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBucket(cmd.Context(), args[0], func(s *store, _ kv.Bucket) error {
				return a.printInfo(cmd.Context(), s, args[0])
			})
		},
	}
}

// jsonBucket is a bucket as --json prints it.
type jsonBucket struct {
	Bucket       string             `json:"bucket"`
	Description  string             `json:"description,omitempty"`
	History      int                `json:"history"`
	TTL          string             `json:"ttl,omitempty"`
	MarkerTTL    string             `json:"marker_ttl,omitempty"`
	MaxValueSize int                `json:"max_value_size,omitempty"`
	MaxBytes     int64              `json:"max_bytes,omitempty"`
	Storage      string             `json:"storage"`
	Compression  bool               `json:"compression,omitempty"`
	Txn          bool               `json:"txn"`
	KeyTTL       bool               `json:"key_ttl"`
	Metadata     map[string]string  `json:"metadata,omitempty"`
	Placement    *jsonPlacement     `json:"placement,omitempty"`
	Republish    *jsonRepublish     `json:"republish,omitempty"`
	Mirror       *jsonUpstream      `json:"mirror,omitempty"`
	Sources      []jsonUpstream     `json:"sources,omitempty"`
	Replicas     int                `json:"replicas"`
	Servers      *jsonBucketServers `json:"servers,omitempty"`
	Values       uint64             `json:"values"`
	Keys         uint64             `json:"keys"`
	Bytes        uint64             `json:"bytes"`
	LastRevision kv.Revision        `json:"last_revision"`
	Consumers    int                `json:"consumers"`
	Created      time.Time          `json:"created"`
	LastPut      time.Time          `json:"last_put,omitzero"`
}

type jsonPlacement struct {
	Cluster string   `json:"cluster,omitempty"`
	Tags    []string `json:"tags,omitempty"`
}

type jsonRepublish struct {
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination"`
	HeadersOnly bool   `json:"headers_only,omitempty"`
}

// jsonUpstream is a bucket that this one gets entries from.
type jsonUpstream struct {
	Bucket  string   `json:"bucket"`
	Domain  string   `json:"domain,omitempty"`
	Filters []string `json:"filters,omitempty"`
	Lag     uint64   `json:"lag"`
	Error   string   `json:"error,omitempty"`
}

// jsonBucketServers are the servers that keep a bucket.
type jsonBucketServers struct {
	Cluster   string         `json:"cluster"`
	Leader    string         `json:"leader,omitempty"`
	Followers []jsonFollower `json:"followers,omitempty"`
}

type jsonFollower struct {
	Server  string `json:"server"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline,omitempty"`
	Lag     uint64 `json:"lag"`
}

func newJSONBucket(info natskv.Info) jsonBucket {
	c := info.Config
	j := jsonBucket{
		Bucket: c.Bucket, Description: c.Description, History: c.History, TTL: ifAny(c.TTL), MarkerTTL: ifAny(c.MarkerTTL),
		MaxValueSize: c.MaxValueSize, MaxBytes: c.MaxBytes, Storage: "file", Compression: c.Compression,
		Txn: !c.NoTxn, KeyTTL: c.KeyTTL, Metadata: c.Metadata, Replicas: c.Replicas,
		Values: info.Values, Keys: info.Keys, Bytes: info.Bytes, LastRevision: info.LastRevision,
		Consumers: info.Consumers, Created: info.Created, LastPut: info.LastPut,
	}
	if c.Memory {
		j.Storage = "memory"
	}
	if p := c.Placement; p != nil {
		j.Placement = &jsonPlacement{p.Cluster, p.Tags}
	}
	if r := c.RePublish; r != nil {
		j.Republish = &jsonRepublish{r.Source, r.Destination, r.HeadersOnly}
	}
	if info.Mirror != nil {
		mirror := newJSONUpstream(*info.Mirror)
		j.Mirror = &mirror
	}
	for _, s := range info.Sources {
		j.Sources = append(j.Sources, newJSONUpstream(s))
	}
	if cluster := info.Cluster; cluster != nil {
		j.Servers = &jsonBucketServers{Cluster: cluster.Name, Leader: cluster.Leader}
		for _, f := range cluster.Followers {
			j.Servers.Followers = append(j.Servers.Followers, jsonFollower{f.Server, f.Current, f.Offline, f.Lag})
		}
	}
	return j
}

func newJSONUpstream(u natskv.Upstream) jsonUpstream {
	return jsonUpstream{u.Bucket, u.Domain, u.Filters, u.Lag, u.Reason}
}

func ifAny(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// printInfo prints what a bucket is.
func (a *app) printInfo(ctx context.Context, s *store, name string) error {
	info, err := s.BucketInfo(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.print("%s", jsonLine(newJSONBucket(info)))
	}
	return a.print("%s", describe(info))
}

// describe is what a bucket is for people. Scripts read it too, so what every bucket
// has comes first and looks as it always did.
func describe(info natskv.Info) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s Key-Value Store\n\n", info.Bucket)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "%16s: %s\n", name, fmt.Sprintf(format, args...))
	}
	line("Bucket Name", "%s", info.Bucket)
	line("Values Stored", "%d", info.Values)
	line("History", "%d", info.History)
	line("TTL", "%s", info.TTL)
	line("Max Bucket Size", "%s", limit(info.MaxBytes))
	line("Max Value Size", "%s", limit(int64(info.MaxValueSize)))

	c := info.Config
	if c.Description != "" {
		line("Description", "%s", oneLine([]byte(c.Description)))
	}
	if c.MarkerTTL > 0 {
		line("Marker TTL", "%s", c.MarkerTTL)
	}
	if c.KeyTTL && c.Mirror == nil {
		line("TTL Of Keys", "yes")
	}
	if c.Memory {
		line("Storage", "memory")
	}
	if c.Compression {
		line("Compressed", "yes")
	}
	if c.Placement != nil {
		line("Placement", "%s", strings.Join(slices.DeleteFunc(append([]string{c.Placement.Cluster}, c.Placement.Tags...), empty), " "))
	}
	if c.RePublish != nil {
		line("Republished To", "%s", c.RePublish.Destination)
	}
	if info.Mirror != nil {
		line("Mirror Of", "%s", upstream(*info.Mirror))
	}
	for _, s := range info.Sources {
		line("Source", "%s", upstream(s))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Metadata)) {
		line("Metadata", "%s", oneLine([]byte(key+"="+c.Metadata[key])))
	}
	return text.String()
}

func empty(s string) bool { return s == "" }

// upstream is where a bucket gets its entries, and whether it does.
func upstream(u natskv.Upstream) string {
	text := u.Bucket
	if u.Domain != "" {
		text += "@" + u.Domain
	}
	if len(u.Filters) > 0 {
		text += ":" + strings.Join(u.Filters, ",")
	}
	switch {
	case u.Reason != "":
		text += ", cut off: " + u.Reason
	case u.Lag > 0:
		text += fmt.Sprintf(", %d behind", u.Lag)
	}
	return text
}

// limit is a limit of bytes as people read it.
func limit(bytes int64) string {
	if bytes == 0 {
		return "unlimited"
	}
	return fmt.Sprint(bytes)
}
