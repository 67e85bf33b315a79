package natskv

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// configs returns the config that the bucket is to have, and the one that it has until
// all is there: its subjects are others, so nobody puts anything into it or takes it for
// a bucket, and no limit that was lowered later refuses what is older.
func (r *restore) configs() (final, hiddenConfig map[string]json.RawMessage, err error) {
	final = maps.Clone(r.has.meta.Config)
	wanted := r.has.stream
	if r.name != r.backup.Bucket {
		wanted = renamed(wanted, r.backup.Bucket, r.name)
	}
	if r.opts.Replicas > 0 {
		wanted.Replicas = r.opts.Replicas
	}
	if p := r.opts.Placement; p != nil {
		wanted.Placement = nil
		if p.Cluster != "" || len(p.Tags) > 0 {
			wanted.Placement = &jetstream.Placement{Cluster: p.Cluster, Tags: p.Tags}
		}
	}
	if err := replace(final, r.has.stream, wanted); err != nil {
		return nil, nil, err
	}
	unfinished := wanted
	unfinished.Metadata = maps.Clone(wanted.Metadata)
	if unfinished.Metadata == nil {
		unfinished.Metadata = map[string]string{}
	}
	unfinished.Metadata[restoringKey] = r.id
	unfinished.MaxMsgSize = -1
	if wanted.Mirror == nil {
		unfinished.Subjects = []string{r.subject()}
	}
	hiddenConfig = maps.Clone(final)
	return final, hiddenConfig, replace(hiddenConfig, wanted, unfinished)
}

// renamed is the stream of a bucket that gets another name.
func renamed(sc jetstream.StreamConfig, from, to string) jetstream.StreamConfig {
	old, prefix := subjectPrefix+from+".", subjectPrefix+to+"."
	move := func(subject string) string {
		if rest, ok := strings.CutPrefix(subject, old); ok {
			return prefix + rest
		}
		return subject
	}
	sc.Name = streamPrefix + to
	var subjects []string
	for _, s := range sc.Subjects {
		subjects = append(subjects, move(s))
	}
	sc.Subjects = subjects
	if sc.RePublish != nil {
		republish := *sc.RePublish
		republish.Source = move(republish.Source)
		sc.RePublish = &republish
	}
	var sources []*jetstream.StreamSource
	for _, s := range sc.Sources {
		source := *s
		source.SubjectTransforms = nil
		for _, t := range s.SubjectTransforms {
			source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{Source: t.Source, Destination: move(t.Destination)})
		}
		sources = append(sources, &source)
	}
	sc.Sources = sources
	return sc
}
