package natskv

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// CreateBucket creates a bucket, or finds that it is there with the same
// settings: it may take more than is asked for, transactions and keys with a TTL, or no
// transactions. It returns kv.ErrInvalidBucket, kv.ErrBucketExists when there is one with
// other settings, kv.ErrReplicas when there are too few servers, and kv.ErrBucketNotFound
// when the origin of a mirror is not there. A mirror beside its origin gets the history
// and the TTL of that, unless it is told others.
func (c *Client) CreateBucket(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if m := cfg.Mirror; m != nil && !m.far() {
		origin, err := c.BucketInfo(ctx, m.Bucket)
		if err != nil {
			return fmt.Errorf("create bucket %s: origin: %w", cfg.Bucket, err)
		}
		if of := origin.Config.Mirror; of != nil {
			return fmt.Errorf("create bucket %s: %w: %s is a mirror itself: mirror its origin %s", cfg.Bucket, kv.ErrInvalidConfig, m.Bucket, of.Bucket)
		}
		if cfg.History == 0 {
			cfg.History = origin.Config.History
		}
		if cfg.TTL == 0 {
			cfg.TTL = origin.Config.TTL
		}
	}
	stream := cfg.streamConfig()
	err := c.manage(ctx, "create bucket "+cfg.Bucket, func(ctx context.Context) error {
		for attempt := 1; ; attempt++ {
			_, err := c.js.CreateStream(ctx, stream)
			switch code := errorCode(err); {
			case code == jetstream.JSErrCodeStreamNameInUse:
				return c.same(ctx, cfg)
			case code != codeStreamCreate || !sleep(ctx, pause(attempt)):
				return enoughServers(err, stream.Replicas)
			}
			// The server may still be removing a bucket of that name that was deleted.
		}
	}, "$JS.API.STREAM.CREATE."+stream.Name, "$JS.API.STREAM.INFO."+stream.Name)
	return err
}

// same returns kv.ErrBucketExists unless the bucket that is there is as cfg says.
func (c *Client) same(ctx context.Context, cfg Config) error {
	stream, err := c.js.Stream(ctx, streamPrefix+cfg.Bucket)
	if err != nil {
		return err
	}
	has := stream.CachedInfo().Config
	if restoring(has) {
		return fmt.Errorf("%w: it is being restored, or a restore was interrupted", kv.ErrBucketExists)
	}
	is, wanted := configOf(has), configOf(cfg.streamConfig())
	is.NoTxn, is.KeyTTL = wanted.NoTxn, is.KeyTTL && wanted.KeyTTL
	if others := differences(is, wanted); len(others) > 0 {
		return fmt.Errorf("%w with other settings: %s", kv.ErrBucketExists, strings.Join(others, ", "))
	}
	return nil
}

// differences says in which settings a bucket is other than wanted. Texts are not shown.
func differences(is, wanted Config) (all []string) {
	a, b := reflect.ValueOf(is), reflect.ValueOf(wanted)
	for i := range a.NumField() {
		has, want := a.Field(i).Interface(), b.Field(i).Interface()
		if reflect.DeepEqual(has, want) {
			continue
		}
		text := a.Type().Field(i).Name + " differs"
		switch has.(type) {
		case int, int64, bool, time.Duration:
			text = fmt.Sprintf("%s is %v, not %v", a.Type().Field(i).Name, has, want)
		}
		all = append(all, text)
	}
	return all
}

// EditBucket changes settings of a bucket: those that change makes other in the
// Config that it is given. All others stay as they are, those too that this package
// does not know. It returns kv.ErrBucketNotFound, and kv.ErrReplicas when there are
// too few servers. The name, the storage and the origin of a mirror cannot be changed.
func (c *Client) EditBucket(ctx context.Context, name string, change func(*Config)) error {
	if err := kv.CheckBucket(name); err != nil {
		return err
	}
	k := c.call(ctx, c.opts.Timeout)
	defer k.cancel()
	if err := c.edit(k, name, change); err != nil {
		return fmt.Errorf("edit bucket %s: %w", name, translate(err))
	}
	return nil
}

func (c *Client) edit(k *call, name string, change func(*Config)) error {
	stream := streamPrefix + name
	var info struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := api(k, "STREAM.INFO."+stream, nil, &info); err != nil {
		return err
	}
	sc, err := decodeConfig(info.Config)
	if err != nil {
		return err
	}
	if restoring(sc) {
		return errRestoring
	}
	before := configOf(sc)
	after := before.clone()
	change(&after)
	switch {
	case after.Bucket != before.Bucket:
		return fmt.Errorf("%w: a bucket cannot get another name", kv.ErrInvalidConfig)
	case after.Memory != before.Memory:
		return fmt.Errorf("%w: a bucket cannot move between memory and disk", kv.ErrInvalidConfig)
	case before.KeyTTL && !after.KeyTTL:
		return fmt.Errorf("%w: a bucket whose keys may have a TTL stays so, by the server's rule", kv.ErrInvalidConfig)
	case !reflect.DeepEqual(after.Mirror, before.Mirror):
		return fmt.Errorf("%w: the origin of a mirror cannot be changed: create another mirror", kv.ErrInvalidConfig)
	}
	if err := after.check(); err != nil {
		return err
	}
	if err := patch(info.Config, sc, before.streamConfig(), after.streamConfig()); err != nil {
		return err
	}
	return enoughServers(api(k, "STREAM.UPDATE."+stream, info.Config, nil), after.Replicas)
}

// patch changes in config, which is sc as the server has it, what differs between
// two streams.
func patch(config map[string]json.RawMessage, sc, before, after jetstream.StreamConfig) error {
	// The window must not be longer than messages live, and grows again with their life.
	before.Duplicates, after.Duplicates = sc.Duplicates, sc.Duplicates
	if after.MaxAge != before.MaxAge && after.Mirror == nil {
		if before.MaxAge > 0 && sc.Duplicates >= before.MaxAge {
			after.Duplicates = maxDuplicate
		}
		if after.MaxAge > 0 {
			after.Duplicates = min(after.Duplicates, after.MaxAge)
		}
	}
	return replace(config, before, after)
}

// replace changes in config what differs between two streams.
func replace(config map[string]json.RawMessage, before, after jetstream.StreamConfig) error {
	was, err := encodeConfig(before)
	if err != nil {
		return err
	}
	is, err := encodeConfig(after)
	if err != nil {
		return err
	}
	for field, value := range is {
		if !bytes.Equal(was[field], value) {
			config[field] = value
		}
	}
	for field := range was {
		if _, ok := is[field]; !ok {
			delete(config, field)
		}
	}
	return nil
}

// encodeConfig returns the fields of a stream's config, as the server knows them.
func encodeConfig(sc jetstream.StreamConfig) (fields map[string]json.RawMessage, err error) {
	data, err := json.Marshal(sc)
	if err == nil {
		err = json.Unmarshal(data, &fields)
	}
	return fields, err
}

func decodeConfig(fields map[string]json.RawMessage) (sc jetstream.StreamConfig, err error) {
	data, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(data, &sc)
	}
	return sc, err
}

// enoughServers makes kv.ErrReplicas of what the server says when it has no place for so
// many replicas.
func enoughServers(err error, replicas int) error {
	switch code := errorCode(err); {
	case code == codeNoCluster, code == codeRestore && strings.Contains(err.Error(), "(10074)"):
		return fmt.Errorf("%w: %d replicas need a cluster of at least %d servers, and this is a single server", kv.ErrReplicas, replicas, replicas)
	case code == codeNoPeers:
		// The server says why, for each of its servers and in several lines.
		return fmt.Errorf("%w: %d replicas need as many servers that are up and have room: %s",
			kv.ErrReplicas, replicas, strings.Join(strings.Fields(translate(err).Error()), " "))
	}
	return err
}

// DeleteBucket deletes a bucket with all it holds, or returns kv.ErrBucketNotFound.
func (c *Client) DeleteBucket(ctx context.Context, name string) error {
	if err := kv.CheckBucket(name); err != nil {
		return err
	}
	stream := streamPrefix + name
	return c.manage(ctx, "delete bucket "+name, func(ctx context.Context) error {
		return c.js.DeleteStream(ctx, stream)
	}, "$JS.API.STREAM.DELETE."+stream)
}

// Buckets returns the names of all buckets, sorted.
func (c *Client) Buckets(ctx context.Context) ([]string, error) {
	var names []string
	err := c.manage(ctx, "list buckets", func(ctx context.Context) error {
		// A mirror has no subjects to ask for, so all streams are asked for.
		list := c.js.StreamNames(ctx)
		for name := range list.Name() {
			bucket, ok := strings.CutPrefix(name, streamPrefix)
			if ok && kv.CheckBucket(bucket) == nil {
				names = append(names, bucket)
			}
		}
		if err := list.Err(); err != nil {
			return err
		}
		unfinished := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(restorePrefix+all))
		for name := range unfinished.Name() {
			names = slices.DeleteFunc(names, func(n string) bool { return streamPrefix+n == name })
		}
		return unfinished.Err()
	}, "$JS.API.STREAM.NAMES")
	slices.Sort(names)
	return names, err
}

func (c *Client) manage(ctx context.Context, what string, f func(context.Context) error, subjects ...string) error {
	k := c.call(ctx, c.opts.Timeout)
	defer k.cancel()
	if err := k.request(func() error { return f(k) }, subjects...); err != nil {
		return fmt.Errorf("%s: %w", what, translate(err))
	}
	return nil
}

// api sends a request to JetStream's API and decodes what it answers.
func api(k *call, subject string, request, answer any) error {
	msg := &nats.Msg{Subject: "$JS.API." + subject}
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return err
		}
		msg.Data = data
	}
	reply, err := ask(k, msg)
	if err != nil {
		return err
	}
	return decodeAnswer(reply.Data, answer)
}

// decodeAnswer decodes an answer of JetStream's API, or returns the error that it is.
func decodeAnswer(data []byte, answer any) error {
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	err := json.Unmarshal(data, &failed)
	if err == nil && failed.Error != nil {
		return failed.Error
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(data, answer)
	}
	if err != nil {
		return errNotJetStream
	}
	return nil
}
